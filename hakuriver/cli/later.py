"""`hakuriver later`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def vps() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver vps submit
    """
    raise HakuRiverError("not there yet")


@click.command(cls=Command)
def ssh() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver ssh ID
    """
    raise HakuRiverError("not there yet")
