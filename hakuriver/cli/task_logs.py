"""`hakuriver task logs`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from hakuriver.cli.common import config_option, json_option, note, out_json, share
from hakuriver.cli.frame import Command
from hakuriver.logs import Reading


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all commands that print an output have."""
    for option in (
        config_option,
        json_option,
        click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin N lines before the end."),
        click.option("--attempt", type=click.IntRange(1), metavar="N", help="The N-th attempt.  [the latest]"),
        click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended and all is printed."),
        click.argument("name", metavar="ID"),
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@reading_options
@click.option("--err", is_flag=True, help="stderr instead of stdout.")
def logs(name: str, follow: bool, attempt: int | None, err: bool, tail: int | None, as_json: bool) -> None:
    """Print what a task wrote to stdout, as it lies on the share.

    Output of a running task arrives within a second. When following, attempts after the one at hand are printed
    too, unless --attempt names one.

    \b
    Example:
      hakuriver task logs -f 5678-17
    """
    print_output(name, follow, attempt, err, tail, as_json)


def print_output(name: str, follow: bool, attempt: int | None, err: bool, tail: int | None, as_json: bool) -> None:
    """Print stdout, or stderr, of one task's attempts."""
    if as_json and follow:
        raise click.UsageError("--json prints one document: it does not go with --follow")
    attempts: list[int] = []

    def begin(number: int) -> None:
        if attempts:
            note(f"attempt {number}")
        attempts.append(number)

    reading = Reading.of(share(), name, err, attempt, tail, begin)
    if as_json:
        text = b"".join(reading.run(False)).decode(errors="replace")
        told = {"task": reading.task, "state": reading.state, "attempt": reading.attempt, "path": reading.path}
        out_json({**told, "text": text})
        return
    printed = 0
    for part in reading.run(follow):
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        printed += len(part)
    if not printed and tail is None:
        note(f"{name} has written nothing to {'stderr' if err else 'stdout'} so far")
