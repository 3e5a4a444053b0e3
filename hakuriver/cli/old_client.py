"""`hakuriver old_client`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def client() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver client nodes
    """
    raise HakuRiverError("not there yet")
