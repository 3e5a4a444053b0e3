"""`hakuriver task wait`, and what `hakuriver submit --wait` shows meanwhile."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from hakuriver import client, resolving, waiting
from hakuriver.cli.choosing import choosing_options, chosen
from hakuriver.cli.common import (
    EXIT_UNKNOWN,
    clean,
    config_option,
    json_option,
    no_answer,
    note,
    out_json,
    share,
    timeout_option,
)
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import bar, is_terminal
from hakuriver.reading import FINAL
from hakuriver.spool.access import Share
from hakuriver.waiting import Outcome, Waiter

#: Seconds without a sign of any host after which that is said: two heartbeats of one with nothing to do, and some.
SILENT_S = 12.0
#: Seconds between two drawings of the bar.
REDRAW_S = 0.1


@click.command(cls=Command)
@choosing_options
@timeout_option(None, "Give up after so long, as 90s or 2h, with exit status 125.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing: the exit status says it.")
@config_option
def wait(
    ids: tuple[str, ...], all_jobs: bool, mine: bool, timeout: float | None, as_json: bool, quiet: bool
) -> int:  # fmt: skip
    """Wait until jobs or tasks are over, and say how each ended.

    Exit status: 0 if all completed; else, of the first (in the order named) that did not, its own exit status, or
    128+signal, 137 over its memory, 124 over its time limit, 125 lost, refused, never launched, without room and
    not to wait (--no-queue), or not heard of in time. 130 if interrupted: the tasks go on.

    \b
    Example:
      id=$(hakuriver submit --array 0-99 -- ./part.sh) && hakuriver task wait "$id" --timeout 2h
    """
    river = share()
    status, outcomes = wait_for(river, chosen(river, ids, all_jobs, mine), timeout, quiet or as_json)
    if as_json:
        out_json({"exit_code": status, "outcomes": outcomes})
    return status


def wait_for(
    river: Share,
    targets: list[resolving.Target],
    timeout: float | None,
    quiet: bool,
    to_stderr: bool = False,
    longest: float = waiting.LONGEST_POLL,
) -> tuple[int, list[dict[str, Any]]]:
    """Wait and tell; return the exit status and the outcomes as JSON shows them. `longest`: as for waiting.run."""
    waiter = Waiter(river, targets)
    telling = _Telling(river, quiet, sys.stderr if to_stderr else sys.stdout)
    try:
        outcomes = waiting.run(waiter, timeout, telling.look, longest)
        status = waiting.exit_code(outcomes)
    except waiting.TimedOut as late:
        telling.clear()
        note(f"{late.args[0]} after {timeout:g} s{telling.silence()}")
        outcomes, status = late.outcomes, waiting.exit_code(late.outcomes) or EXIT_UNKNOWN
    except KeyboardInterrupt:
        telling.clear()
        note("interrupted; what was waited for goes on")
        raise
    for outcome in outcomes:
        if outcome.exit_code == EXIT_UNKNOWN and outcome.state in ("lost", "refused", "unknown"):
            note(f"{outcome.target} {outcome.state}: {clean(outcome.reason) or 'its node fell silent'}")
    return status, [outcome_json(outcome) for outcome in outcomes]


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """As `--json` shows it."""
    return outcome._asdict()


def outcome_line(outcome: Outcome) -> str:
    """As it is told to people."""
    reason = f": {clean(outcome.reason)}" if outcome.reason else ""
    total = sum(outcome.counts.values())
    counts = f" ({counted(outcome.counts)})" if total > 1 else ""
    return f"{outcome.target} {outcome.state}{reason}{counts}"


def counted(counts: dict[str, int]) -> str:
    """Tasks by state: `3 completed, 1 failed`."""
    return ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)


class _Telling:
    """Says what happens while something is waited for."""

    def __init__(self, river: Share, quiet: bool, stream: Any) -> None:
        self._river = river
        self._quiet = quiet
        self._stream = stream
        self._bar = is_terminal(sys.stderr) and not quiet
        self._told: set[str] = set()
        self._began = self._drawn = self._moved = time.monotonic()
        self._sign = client.host_sign(river)
        self._noted = False

    def look(self, waiter: Waiter) -> None:
        """After each poll."""
        if not self._quiet:
            self._tell_endings(waiter)
        if self._bar and waiter.left and time.monotonic() - self._drawn > REDRAW_S:
            self._draw(waiter)
        if waiter.left:
            self._mind_host()

    def _tell_endings(self, waiter: Waiter) -> None:
        fresh = [outcome for outcome in waiter.outcomes if outcome.target not in self._told]
        if fresh:
            self.clear()
        for outcome in fresh:
            self._told.add(outcome.target)
            self._stream.write(outcome_line(outcome) + "\n")
        if fresh:
            self._stream.flush()

    def _draw(self, waiter: Waiter) -> None:
        self._drawn = time.monotonic()
        sys.stderr.write("\r\x1b[K" + progress(waiter, self._drawn - self._began))
        sys.stderr.flush()

    def _mind_host(self) -> None:
        now = time.monotonic()
        if now - self._moved < SILENT_S:
            return
        sign = client.host_sign(self._river)
        if sign != self._sign:
            self._sign, self._moved, self._noted = sign, now, False
        elif not self._noted:
            self._noted = True
            self.clear()
            note(no_answer(self._river, "what was submitted waits", False))

    def silence(self) -> str:
        """For the message that time is over."""
        return "; no host gives a sign of life" if self._noted else ""

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress(waiter: Waiter, elapsed_s: float) -> str:
    """A line that tells how far it is: a bar with counts."""
    counts: dict[str, int] = {}
    for job in waiter.counts.values():
        for state, number in job.items():
            counts[state] = counts.get(state, 0) + number
    total = sum(counts.values())
    done = sum(number for state, number in counts.items() if state in FINAL)
    if len(waiter.targets) > waiting.COUNTED_MOST or not total:
        total, done = len(waiter.targets), len(waiter.targets) - waiter.left
    detail = counted({s: n for s, n in counts.items() if s != "completed"})
    return bar(done, total, elapsed_s, detail)
