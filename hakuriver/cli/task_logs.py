"""`hakuriver task logs`."""

from __future__ import annotations

import sys

import click

from hakuriver.cli.common import config_option, note, share
from hakuriver.logs import read_logs


@click.command()
@click.argument("name", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended and all is printed.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="The N-th attempt.  [the latest]")
@click.option("--err", is_flag=True, help="stderr instead of stdout.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin N lines before the end.")
@config_option
def logs(name: str, follow: bool, attempt: int | None, err: bool, tail: int | None) -> None:
    """Print what a task wrote to stdout, as it lies on the share.

    Output of a running task arrives within a second. When following, attempts after the one at hand are printed
    too, unless --attempt names one.

    \b
    Example:
      hakuriver task logs -f 5678-17
    """
    river = share()
    attempts: list[int] = []

    def begin(number: int) -> None:
        if attempts:
            note(f"attempt {number}")
        attempts.append(number)

    printed = 0
    parts = read_logs(name, err=err, attempt=attempt, tail=tail, follow=follow, shared_dir=river.root, on_attempt=begin)
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        printed += len(part)
    if not printed and tail is None:
        note(f"{name} has written nothing to {'stderr' if err else 'stdout'} so far")
