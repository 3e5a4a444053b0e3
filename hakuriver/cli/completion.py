"""`hakuriver completion`: to come."""

from __future__ import annotations

import click

from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError


@click.command(cls=Command)
def completion() -> None:
    """Not there yet.

    \b
    Example:
      hakuriver completion bash
    """
    raise HakuRiverError("not there yet")
