"""`hakuriver config`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def show() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver config show
    """
    raise HakuRiverError("not there yet")


@click.command(cls=Command)
def check() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver config check
    """
    raise HakuRiverError("not there yet")
