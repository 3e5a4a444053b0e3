"""`hakuriver old_task`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def command() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver task command ID pause
    """
    raise HakuRiverError("not there yet")


@click.command(cls=Command)
def stdout() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver task stdout ID
    """
    raise HakuRiverError("not there yet")


@click.command(cls=Command)
def stderr() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver task stderr ID
    """
    raise HakuRiverError("not there yet")
