"""What `hakuriver up` shows: a view redrawn in place on a terminal, a line for each change otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from hakuriver import reading, units
from hakuriver.cli.common import clean
from hakuriver.cli.tables import is_terminal, rounded, states, table, terminal_size, when
from hakuriver.spool.access import Share

#: Seconds between two looks at the index.
LOOK_S = 1.0
JOBS_SHOWN, MESSAGES_KEPT = 12, 5
#: States of jobs, in the order in which they are counted.
_ORDER = ("pending", "running", "completed", "failed", "killed", "killed_oom", "lost")


class View:
    """Shows the cluster."""

    def __init__(self, river: Share, title: str) -> None:
        self._river = river
        self._title = title
        self._terminal = is_terminal(sys.stdout)
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        self._drawn = 0
        self._looked = float("-inf")
        self._said: dict[str, str] = {}
        if not self._terminal:
            _print(title)

    def say(self, text: str) -> None:
        """Something happened."""
        line = f"{time.strftime('%H:%M:%S')} {clean(text)}"
        self._messages.append(line)
        if self._terminal:
            self._looked = float("-inf")
        else:
            _print(line)

    def look(self, now: float) -> None:
        """Show what is new; `now`: time.monotonic()."""
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        nodes = (reading.nodes_index(self._river) or {}).get("nodes", [])
        jobs = (reading.recent_index(self._river) or {}).get("jobs", [])
        if self._terminal:
            self._draw([self._title, "", *render(nodes, jobs), "", *self._messages])
        else:
            self._tell_changes(nodes, jobs)

    def _tell_changes(self, nodes: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> None:
        news = {f"node {node['node']}": str(node["state"]) for node in nodes}
        news["jobs"] = summary(jobs)
        for what, text in news.items():
            if self._said.get(what) != text:
                self.say(f"{what}: {text}")
        self._said = news

    def _draw(self, lines: list[str]) -> None:
        size = terminal_size()
        shown = [line[: size.columns - 1] for line in lines[: size.lines - 1]]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        sys.stdout.write(up + "\r\x1b[J" + "\n".join(shown) + "\n")
        sys.stdout.flush()
        self._drawn = len(shown)

    def leave(self) -> None:
        """What comes next is written below the view."""
        self._terminal = False


def render(nodes: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> list[str]:
    """Nodes, counts and the newest jobs; rows as records.NodeRow and records.JobRow."""
    node_rows: list[list[object]] = [
        [
            row["node"], row["state"], f"{row['cores_held']}/{row['cores']}",
            f"{units.format_size(row['memory_held_bytes'])}/{units.format_size(row['memory_bytes'])}", row["tasks"],
            rounded(row["load"].get("load_1m")),
        ]
        for row in nodes
    ]  # fmt: skip
    job_rows: list[list[object]] = [
        [
            row["job"], row["name"], row["state"], states(row["counts"]) if row["count"] > 1 else 1,
            ",".join(row["nodes"][:3]), when(row["accepted_at"]), row["command"],
        ]
        for row in jobs[:JOBS_SHOWN]
    ]  # fmt: skip
    lines = table(["NODE", "STATE", "CORES", "MEMORY", "TASKS", "LOAD"], node_rows)
    lines += ["", f"jobs: {summary(jobs)}"]
    if job_rows:
        lines += ["", *table(["JOB", "NAME", "STATE", "TASKS", "NODE", "SUBMITTED", "COMMAND"], job_rows)]
    return lines


def summary(jobs: list[dict[str, Any]]) -> str:
    """How many of the newest jobs are in which state."""
    counts = {state: sum(1 for job in jobs if job["state"] == state) for state in _ORDER}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return told or "none yet"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
