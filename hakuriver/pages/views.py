"""What pages show, picked from snapshots and nodes. Values of the environment go no further than here."""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from hakuriver.host.index import survey
from hakuriver.ids import JOB_ID_DIGITS, task_name
from hakuriver.records import FINAL, GpuLoad, TaskRow
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk

#: Rows of a job's page at most.
ROWS_MOST = 1000
#: Tasks whose log tails stand on a job's page, and bytes of each tail.
LOGS_MOST, TAIL = 4, 64 * 1024
#: Tasks that get a lane of their own in the timeline; of more, each node has one.
LANES_MOST = 24


class LogFile(NamedTuple):
    """Where an attempt writes."""

    task: str
    attempt: int
    stream: str
    path: str


class Log(NamedTuple):
    """The end of what an attempt wrote."""

    file: LogFile
    data: bytes
    size: int

    @property
    def shown(self) -> bytes:
        """Without the rest of a line that begins before it."""
        return self.data if self.size == len(self.data) else self.data.partition(b"\n")[2] or self.data


class Bar(NamedTuple):
    """An attempt in the timeline; x and width in thousandths of the whole."""

    x: float
    width: float
    state: str
    title: str


class Lane(NamedTuple):
    """A line of the timeline."""

    label: str
    bars: list[Bar]


def job_view(snapshot: dict[str, Any], now: float) -> dict[str, Any]:
    """Everything that the page of a job shows but its logs. `now`: up to where running attempts are drawn."""
    tasks, seen = shown_rows(snapshot), survey(snapshot["tasks"])
    spec, controls = snapshot["spec"], controls_of(snapshot)
    kept = {name: value for name, value in snapshot.items() if name not in ("tasks", "spec")}
    return {
        "job": kept,
        "spec": {"cores": 1, "executor": "auto", **spec, "env": sorted(spec.get("env", {}))},
        "command": shlex.join(spec["command"]),
        "tasks": [{**task._asdict(), "task": _name(snapshot, task)} for task in tasks],
        "left_out": seen.rows - len(tasks),
        "started_at": seen.started_at,
        "lanes": timeline(snapshot, tasks, now),
        "live": snapshot["state"] not in FINAL,
        "commands": ["status", *(["why"] if controls[0] == "kill" else []), *controls],
        "controls": controls,
        "example": _name(snapshot, tasks[-1]) if tasks else snapshot["job"],
    }


def controls_of(snapshot: dict[str, Any]) -> list[str]:
    """What may be asked for a job as it is, the most likely first."""
    if snapshot["state"] in FINAL:
        return ["requeue"]
    counts = snapshot["counts"]
    return ["kill", *(["pause"] if counts.get("running") else []), *(["resume"] if counts.get("paused") else [])]


def shown_rows(snapshot: dict[str, Any]) -> list[TaskRow]:
    """The tasks that stand on the page, in order; of too many those that did not complete go first."""
    rows = heapq.nsmallest(ROWS_MOST, snapshot["tasks"], key=lambda row: (row[1] == "completed", row[0] or 0))
    return sorted((TaskRow(*row) for row in rows), key=lambda row: row.k or 0)


def _name(snapshot: dict[str, Any], task: TaskRow) -> str:
    return task_name(snapshot["job"], _index(snapshot, task))


def _index(snapshot: dict[str, Any], task: TaskRow) -> int | None:
    return None if snapshot["count"] == 1 else task.k


# -- logs


def log_files(snapshot: dict[str, Any]) -> list[LogFile]:
    """Outputs of a few tasks: of those that ended badly first, then of those that run."""
    found = []
    for task in _with_logs(snapshot):
        name, where = _name(snapshot, task), (snapshot["job"], _index(snapshot, task), task.attempt)
        found.append(LogFile(name, task.attempt, "stdout", layout.stdout_path(*where)))
        found.append(LogFile(name, task.attempt, "stderr", layout.stderr_path(*where)))
    return found


def tails(disk: Disk, logs: list[LogFile]) -> list[Log]:
    """The ends of those that are not empty."""
    read = (Log(file, *files.tail(disk, file.path, TAIL)) for file in logs)
    return [log for log in read if log.size]


def _with_logs(snapshot: dict[str, Any]) -> list[TaskRow]:
    rank = {"completed": 2, "running": 1, "assigning": 1, "paused": 1}
    rows = (row for row in snapshot["tasks"] if row[2])
    return [TaskRow(*r) for r in heapq.nsmallest(LOGS_MOST, rows, key=lambda row: (rank.get(row[1], 0), row[0] or 0))]


# -- timeline


class _Span(NamedTuple):
    lane: str
    start: float
    end: float | None
    state: str
    title: str


def timeline(snapshot: dict[str, Any], tasks: list[TaskRow], now: float) -> list[Lane]:
    """Attempts over time. Nodes' clocks may differ: it is for people, and of what ends before it begins a point."""
    by_task = len(tasks) <= LANES_MOST
    spans = [span for task in tasks for span in _spans(_name(snapshot, task), task, by_task)]
    if not spans:
        return []
    first = min(span.start for span in spans)
    last = max(now if span.end is None else span.end for span in spans)
    scale = 1000 / max(last - first, 0.001)
    lanes: dict[str, list[Bar]] = {}
    for span in spans:
        end = last if span.end is None else max(span.end, span.start)
        x = min(scale * (span.start - first), 998.0)
        bar = Bar(round(x, 1), round(max(scale * (end - span.start), 2.0), 1), span.state, span.title)
        lanes.setdefault(span.lane, []).append(bar)
    return [Lane(label, bars) for label, bars in (lanes.items() if by_task else sorted(lanes.items()))]


def _spans(name: str, task: TaskRow, by_task: bool) -> list[_Span]:
    tried = [(a[0], a[1], a[2], a[6], a[7]) for a in task.earlier]
    tried.append((task.attempt, task.node, task.state, task.started_at, task.ended_at))
    spans = []
    for attempt, node, state, start, end in tried:
        # Of a task that waits for another attempt the row still bears the times of its last one.
        if start is not None and state != "pending":
            title = f"{name} attempt {attempt} on {node or '?'}: {state}"
            spans.append(_Span(name if by_task else (node or "?"), start, end, state, title))
    return spans


# -- nodes

#: A GPU of whose load nothing is known.
_UNTOLD = GpuLoad(index=0).model_dump()


def without_loads(row: dict[str, Any]) -> dict[str, Any]:
    """A node (records.NodeRow) without what is another with each heartbeat."""
    gpus = [{**gpu, "load": None} for gpu in row.get("gpus", ())]
    return {**row, "load": None, "heartbeat": None, "silent_s": None, "gpus": gpus}


def gpu_rows(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every GPU of these nodes (records.GpuRow) with its node; of one that is silent no load."""
    return [_gpu_row(node, gpu) for node in nodes for gpu in node.get("gpus", ())]


def _gpu_row(node: dict[str, Any], gpu: dict[str, Any]) -> dict[str, Any]:
    told = gpu.get("load") if node["state"] != "offline" else None
    job = gpu["task"][:JOB_ID_DIGITS] if gpu["task"] else None
    return {**gpu, "load": told or _UNTOLD, "node": node["node"], "state": node["state"], "job": job}
