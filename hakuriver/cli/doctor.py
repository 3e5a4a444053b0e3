"""`hakuriver doctor`: whether this machine and this share can do the work."""

from __future__ import annotations

import os
import sys
import textwrap
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
    share,
)
from hakuriver.cli.tables import is_terminal, terminal_width
from hakuriver.doctor.findings import BROKEN, NOTE, OK, STATUSES, WARNING, Finding, of_status
from hakuriver.errors import Invalid, NotFound
from hakuriver.spool import layout
from hakuriver.spool.access import Share

if TYPE_CHECKING:
    from hakuriver.doctor.examining import Examination
    from hakuriver.settings import Settings
    from hakuriver.spool.files import Disk

MARKS = {OK: "ok", NOTE: "note", WARNING: "WARNING", BROKEN: "BROKEN"}
_TITLES = {
    "machine": "this machine", "mount": "the mount", "share": "the share, from here", "other": "the other node",
    "pair": "between the two",
}  # fmt: skip
#: Columns of a line that is not on a terminal.
WIDTH = 100


@click.command()
@click.option("--with", "other", metavar="NODE", help="Measure between this machine and NODE, whose runner is up.")
@click.option("--shared-dir", metavar="DIR", help="This directory, whether it is a river yet or not.  [the river's]")
@json_option
@config_option
def doctor(other: str | None, shared_dir: str | None, as_json: bool) -> int:
    """Tell in under a minute whether this machine and this share can do the work, and what to change.

    Looks at the filesystem and its mount options, and tries out in a directory of its own what the river rests on:
    whether files are seen, renames exclusive, owners and names kept; speed, room, tools. With --with the same between
    two machines. Exits with 1 if something is broken: daemons refuse such a share.

    \b
    Example:
      hakuriver doctor --with n2
    """
    settings = config.load(chosen_config())
    disk = _disk(shared_dir)
    _check_node(disk, other)
    found = examine(disk, settings, other)
    if as_json:
        out_json(document(disk.root, settings.node.name, other, found))
    else:
        for line in render(found.findings, terminal_width() if is_terminal(sys.stdout) else WIDTH):
            out(line)
    if found.problem:
        note(found.problem)
    note(summary(found.findings))
    return EXIT_REFUSED if found.problem or of_status(found.findings, BROKEN) else 0


def _disk(shared_dir: str | None) -> Disk:
    from hakuriver.doctor.site import BareDisk
    from hakuriver.spool.files import LocalDisk

    if shared_dir is None:
        return LocalDisk(share().root)
    root = directory(shared_dir)
    if layout.SENTINEL in Share(root).names(""):
        return LocalDisk(root)
    os.listdir(root)  # raises OSError where there is no such directory
    return BareDisk(root)


def _check_node(disk: Disk, other: str | None) -> None:
    if other is None:
        return
    if not layout.NODE_NAME.fullmatch(other):
        raise Invalid("with", other, "no node can have that name; `hakuriver node list` shows them")
    known = Share(disk.root).names(layout.NODES)
    if other not in known:
        raise NotFound(f"there is no node {other!r} on {disk.root}; nodes known: {', '.join(sorted(known)) or 'none'}")


def examine(disk: Disk, settings: Settings, other: str | None) -> Examination:
    """Examine, and say on a terminal what is being done."""
    from hakuriver.doctor.examining import Examination

    def say(text: str) -> None:
        if is_terminal(sys.stderr):
            sys.stderr.write(f"\r\x1b[Klooking at {text} ...")
            sys.stderr.flush()

    made = Examination(disk, settings.node.name, settings.paths.state_dir, other, say)
    if layout.SENTINEL not in Share(disk.root).names(""):
        made.findings.append(_no_river(disk.root))
    try:
        made.run()
    finally:
        if is_terminal(sys.stderr):
            sys.stderr.write("\r\x1b[K")
    return made


def _no_river(root: str) -> Finding:
    return Finding(
        "mount.river", WARNING, f"{root} holds no {layout.SENTINEL}",
        "it is no river yet, or what should be mounted there is not: then all below is about another filesystem",
        f"mount it; for a new river: hakuriver init share --shared-dir {root}",
    )  # fmt: skip


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
