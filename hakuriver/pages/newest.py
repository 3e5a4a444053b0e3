"""The newest jobs, as the lists show them: each is rendered when it changes, and not again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from markupsafe import Markup

from hakuriver.host.index import Index


class Line(NamedTuple):
    """A job in lists."""

    seq: int
    text: str  #: records.JobRow as JSON
    html: Markup
    nodes: list[str]
    owner: str
    runs: bool  #: so that its logs may grow


class Newest:
    """Keeps up with the index; its cost is one query of ids, and what changed."""

    def __init__(self, index: Index, limit: int, render: Callable[[dict[str, Any]], Markup]) -> None:
        self._index = index
        self._limit = limit
        self._render = render
        self.lines: dict[str, Line] = {}  #: by job, newest first

    def refresh(self) -> None:
        """Take in what the index knows now."""
        fresh: dict[str, Line] = {}
        for job, seq in self._index.heads(self._limit):
            line = self.lines.get(job)
            fresh[job] = line if line is not None and line.seq == seq else self._line(job, seq)
        self.lines = fresh

    def _line(self, job: str, seq: int) -> Line:
        row = self._index.row(job)
        assert row is not None  # one thread owns the index, and its heads named the job
        return Line(seq, json.dumps(row), self._render(row), row["nodes"], row["owner"], row["state"] == "running")

    def choices(self) -> dict[str, list[str]]:
        """What there is to filter by."""
        lines = self.lines.values()
        return {
            "node": sorted({node for line in lines for node in line.nodes}),
            "user": sorted({line.owner for line in lines}),
        }

    def as_json(self) -> str:
        """The list of records.RecentIndex."""
        return f"[{', '.join(line.text for line in self.lines.values())}]"
