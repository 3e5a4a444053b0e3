"""`hakuriver init_service`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def service() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver init service --host
    """
    raise HakuRiverError("not there yet")
