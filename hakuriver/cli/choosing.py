"""Which jobs a command means: IDs, or all of somebody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hakuriver.resolving import Target, resolve, unfinished
from hakuriver.spool.access import Share


def choosing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """IDs, --all, --mine."""
    for option in (
        click.option("--mine", is_flag=True, help="All of your own jobs that are not over."),
        click.option("--all", "all_jobs", is_flag=True, help="All jobs that are not over; with --mine your own."),
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = option(command)
    return command


def chosen(river: Share, ids: tuple[str, ...], all_jobs: bool, mine: bool) -> list[Target]:
    """What is meant. Raises UsageError for nothing or both."""
    if ids and (all_jobs or mine):
        raise click.UsageError("give IDs, or --all or --mine, not both")
    if ids:
        return resolve(river, ids)
    if all_jobs or mine:
        return unfinished(river, mine)
    raise click.UsageError("ID is missing: give a job's or task's, an ending of one, or --all --mine")
