"""`hakuriver doctor`: whether this machine and this share can do the work."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import click

from hakuriver import config
from hakuriver.cli.common import (
    EXIT_REFUSED,
    chosen_config,
    clean,
    config_option,
    directory,
    json_option,
    note,
    out,
    out_json,
)
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import is_terminal, terminal_width
from hakuriver.doctor.findings import BROKEN, NOTE, OK, STATUSES, WARNING, Finding, of_status
from hakuriver.errors import Invalid
from hakuriver.spool import layout

if TYPE_CHECKING:
    from hakuriver.doctor.examining import Examination
    from hakuriver.settings import Settings

MARKS = {OK: "ok", NOTE: "note", WARNING: "WARNING", BROKEN: "BROKEN"}
_TITLES = {
    "machine": "this machine", "mount": "the mount", "share": "the share, from here", "other": "the other node",
    "pair": "between the two",
}  # fmt: skip
#: Columns of a line that is not on a terminal.
WIDTH = 100


@click.command(cls=Command)
@click.option(
    "--with", "--peer", "other", metavar="NODE", help="Measure between this machine and NODE, whose runner is up."
)
@click.option("--shared-dir", metavar="DIR", help="This directory, whether it is a river yet or not.  [the river's]")
@json_option
@config_option
def doctor(other: str | None, shared_dir: str | None, as_json: bool) -> int:
    """Tell in under a minute whether this machine and this share can do the work, and what to change.

    Looks at engines and GPUs, at the filesystem and its mount options, and tries out in a directory of its own what
    the river rests on: whether files are seen, renames exclusive, owners and names kept; speed, room. With --with the
    same between two machines. Exits with 1 if something is broken: daemons refuse such a share.

    \b
    Example:
      hakuriver doctor --with n2
    """
    settings = config.load(chosen_config())
    root = config.shared_dir(chosen_config()) if shared_dir is None else directory(shared_dir)
    if other is not None and not layout.NODE_NAME.fullmatch(other):
        raise Invalid("with", other, "no node can have that name; `hakuriver node list` shows them")
    try:
        with _signals_end():
            found = examine(root, shared_dir is not None, settings, other)
    except _Ended as ended:
        return 128 + ended.number
    if as_json:
        out_json(document(root, settings.node.name, other, found))
    else:
        for line in render(found.findings, terminal_width() if is_terminal(sys.stdout) else WIDTH):
            out(line)
    if found.problem:
        note(found.problem)
    note(summary(found.findings))
    return EXIT_REFUSED if found.problem or of_status(found.findings, BROKEN) else 0


class _Ended(BaseException):
    """A signal asks to end. What handles it may come at any instruction, so that it takes no lock: it raises this."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _signals_end() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end what is done here as Ctrl-C does. What is ignored, as under nohup, stays so."""
    told = False

    def end(number: int, _frame: object) -> None:
        nonlocal told
        if not told:  # `timeout` sends two: the second must not keep the first from tidying up
            told = True
            raise _Ended(number)

    wanted = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    try:
        for number in wanted:
            signal.signal(number, end)
        yield
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)


def examine(root: str, bare: bool, settings: Settings, other: str | None) -> Examination:
    """Examine, and say on a terminal what is being done. `bare`: it need not be a river yet."""
    from hakuriver.doctor import engines, site
    from hakuriver.doctor.examining import Examination

    def say(text: str) -> None:
        if is_terminal(sys.stderr):
            sys.stderr.write(f"\r\x1b[Klooking at {text} ...")
            sys.stderr.flush()

    find = site.directory if bare else site.river
    made = Examination(
        root, find, settings.node.name, settings.paths.state_dir, other, say, lambda: engines.examine(settings)
    )
    try:
        made.run()
    finally:
        if is_terminal(sys.stderr):
            sys.stderr.write("\r\x1b[K")
    return made


def document(root: str, node: str, other: str | None, found: Examination) -> dict[str, object]:
    """As `--json` shows it: `hakuriver schema doctor`."""
    return {
        "format": 1,
        "shared_dir": root,
        "node": node,
        "with": other,
        "broken": bool(of_status(found.findings, BROKEN)),
        "problem": found.problem,
        "findings": [finding._asdict() for finding in found.findings],
    }


def render(findings: list[Finding], width: int) -> list[str]:
    """One line a finding, by groups; what it means and what to change below it, wrapped."""
    widest = max((len(finding.name) for finding in findings), default=0)
    order = list(_TITLES)
    lines: list[str] = []
    for group, members in groupby(sorted(findings, key=lambda f: order.index(f.group)), key=lambda f: f.group):
        lines += ["", _TITLES[group]] if lines else [_TITLES[group]]
        for finding in members:
            lines += _lines(finding, widest, width)
    return lines


def _lines(finding: Finding, widest: int, width: int) -> list[str]:
    head = f"  {MARKS[finding.status].ljust(7)}  {finding.name.ljust(widest)}  "
    lines = _wrapped(head, finding.value, width)
    if finding.status != OK:
        lines += _wrapped(" " * 11, finding.meaning, width) if finding.meaning else []
        lines += _wrapped(" " * 11 + "change: ", finding.remedy, width) if finding.remedy else []
    return lines


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Text after a head; further lines begin where it does. Commands and paths stay in one piece."""
    return textwrap.wrap(
        clean(text), max(60, width - 1), initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def summary(findings: list[Finding]) -> str:
    """How many of which status."""
    counts = {status: len(of_status(findings, status)) for status in STATUSES}
    many = {status: f"{n} {status}{'s' if n > 1 and status in (NOTE, WARNING) else ''}" for status, n in counts.items()}
    told = ", ".join(many[status] for status in reversed(STATUSES) if counts[status])
    return f"{told}: " + ("this cannot work" if counts[BROKEN] else "nothing is broken")
