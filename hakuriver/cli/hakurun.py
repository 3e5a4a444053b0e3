"""`hakuriver hakurun`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def hakurun() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver hakurun -- echo
    """
    raise HakuRiverError("not there yet")
