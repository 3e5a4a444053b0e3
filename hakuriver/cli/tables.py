"""Tables, bars and times for people: pure functions from values to text."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

from hakuriver import units

BAR_WIDTH = 30
#: What is shown for what is not known.
NOTHING = "-"


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads this."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def table(headings: list[str], rows: list[list[object]], width: int | None = None) -> list[str]:
    """Columns, aligned: numbers to the right. `width`: cut lines to so many columns (a terminal's); None: never."""
    cells = [headings, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(headings))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return [line if width is None or len(line) <= width else line[: width - 1] + "…" for line in lines]


def _cell(value: object) -> str:
    if value is None or value == "":
        return NOTHING
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def pairs(rows: list[tuple[str, object]]) -> list[str]:
    """Labels and values, one a line."""
    widest = max((len(label) for label, _ in rows), default=0)
    return [f"{label.ljust(widest)}  {_cell(value)}" for label, value in rows]


def rounded(number: float | None) -> float | None:
    """To two places."""
    return None if number is None else round(number, 2)


def terminal_width() -> int:
    """Columns of the terminal."""
    return terminal_size().columns


def terminal_size() -> os.terminal_size:
    """As shutil.get_terminal_size, which takes longer to import than all of a table to print."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            found = os.get_terminal_size(stream.fileno()) if stream else None
        except (OSError, ValueError):
            continue
        if found and found.columns:
            return found
    columns = os.environ.get("COLUMNS", "")
    return os.terminal_size((int(columns) if columns.isdigit() and int(columns) else 80, 24))


def bar(done: int, total: int, elapsed_s: float, detail: str = "") -> str:
    """`[#####.....]  50/100  3 running  12s`, cut to the terminal."""
    filled = BAR_WIDTH * done // total if total else 0
    line = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]  {done:,}/{total:,}"
    line += f"  {detail}" if detail else ""
    return f"{line}  {units.format_duration(elapsed_s)}"[: terminal_width() - 1]


def when(seconds: float | None) -> str:
    """A time in this machine's zone; it was some other machine's clock."""
    return NOTHING if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def span(start: float | None, end: float | None) -> str:
    """How long between two times of the same clock."""
    return NOTHING if start is None or end is None else units.format_duration(max(0.0, end - start))


def states(counts: dict[str, Any]) -> str:
    """Tasks by state in short: `195 completed, 5 failed`."""
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number) or NOTHING
