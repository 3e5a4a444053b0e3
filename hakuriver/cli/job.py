"""`hakuriver job`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def validate() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver job validate job.json
    """
    raise HakuRiverError("not there yet")
