"""A river made of prepared files, as hosts and runners would have left them; no daemon runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hakuriver.cli.making import make_river
from hakuriver.reading import exit_code_of
from hakuriver.records import (
    FINAL,
    EndingsIndex,
    Heartbeat,
    JobRow,
    JobSnapshot,
    JobSpec,
    Load,
    NodeDescription,
    NodeRow,
    NodesIndex,
    Problem,
    Receipt,
    RecentIndex,
    TaskAnswer,
    TaskRow,
)
from hakuriver.spool import layout
from hakuriver.spool.layout import Baton, NodePaths

GIB = 1 << 30


def row(k: int | None = None, state: str = "completed", **more: Any) -> TaskRow:
    """A task's row; what is not given is as of a task that completed on n1."""
    told: dict[str, Any] = {
        "k": k, "state": state, "attempt": 1, "node": "n1", "retries_spent": 0, "started_at": 1700000001.0,
        "ended_at": 1700000003.0 if state in FINAL else None, "exit_code": 0 if state == "completed" else None,
        "signal": None, "cause": "exit" if state in FINAL else "", "reason": "", "wall_s": 2.0, "cpu_s": 0.5,
        "peak_memory_bytes": 1000, "dispatch": None, "claimed": True, "kill": None, "earlier": [],
        "executor": "process",
    }  # fmt: skip
    return TaskRow(**{**told, **more})


class RiverFiles:
    """One river."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_river(str(root), "lab")
        self._seq = 0

    def put(self, path: str, text: str | bytes) -> Path:
        """A file."""
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(text.encode() if isinstance(text, str) else text)
        return full

    def snapshot(self, job: str, *rows: TaskRow, done: bool | None = None, **more: Any) -> Path:
        """A job's newest snapshot; older ones stay."""
        self._seq += 1
        count = more.pop("count", max(1, len(rows)))
        over = all(r.state in FINAL for r in rows) and len(rows) == count if done is None else done
        counts: dict[str, int] = {}
        for each in rows:
            counts[each.state] = counts.get(each.state, 0) + 1
        if len(rows) < count:
            counts["pending"] = counts.get("pending", 0) + count - len(rows)
        bad = next((r for r in rows if r.state != "completed"), None)
        told: dict[str, Any] = {
            "job": job, "state": (bad.state if bad else "completed") if over else ("running" if rows else "pending"),
            "exit_code": (exit_code_of(list(bad)) if bad else 0) if over else None, "term": 1, "seq": self._seq,
            "admission": self._seq, "name": None, "owner": "ann", "uid": 0, "accepted_at": 1700000000.0,
            "finished_at": 1700000004.0 if over else None, "count": count, "counts": counts,
            "spec": JobSpec(command=["echo", "hi"]), "waiting": "", "tasks": list(rows),
        }  # fmt: skip
        record = JobSnapshot(**{**told, **more})
        tree = layout.DONE if over else layout.ACTIVE
        name = layout.snapshot_name(job, 1, self._seq)
        return self.put(f"{tree}/{layout.bucket(job)}/{name}", record.model_dump_json())

    def receipt(self, request: str, outcome: str = "accepted", **more: Any) -> Path:
        """A receipt."""
        told: dict[str, Any] = {
            "request": request, "name": f"{request}.json", "kind": "run", "outcome": outcome, "at": 1700000000.0,
            "uid": 0, "ids": [request] if outcome == "accepted" else [], "tasks": 1 if outcome == "accepted" else 0,
        }  # fmt: skip
        return self.put(layout.receipt(request), Receipt(**{**told, **more}).model_dump_json())

    def nodes(self, *rows: NodeRow, **more: Any) -> None:
        """index/nodes.json."""
        index = NodesIndex(at=1700000000.0, host="0123456789ab", term=1, seq=self._seq, nodes=list(rows), **more)
        self.put("index/nodes.json", index.model_dump_json())

    def recent(self, *rows: JobRow) -> None:
        """index/recent.json."""
        self.put("index/recent.json", RecentIndex(at=1700000000.0, jobs=list(rows)).model_dump_json())

    def endings(self, *jobs: str) -> None:
        """index/endings/ for these jobs."""
        for last in {job[-3:] for job in jobs}:
            index = EndingsIndex(jobs=[job for job in jobs if job.endswith(last)])
            self.put(layout.ending_file(last), index.model_dump_json())

    def describe(self, node: str, tasks: list[tuple[str, int | None, int]]) -> None:
        """What a runner has told of itself."""
        paths = NodePaths(node)
        what = NodeDescription(
            node=node, epoch=1, hostname=node, boot_id="b", version="0.4.0", cores=8, memory_bytes=16 * GIB,
            executors=["process"], started_at=1700000000.0,
        )  # fmt: skip
        self.put(paths.description(1), what.model_dump_json())
        beat = Heartbeat(
            node=node, epoch=1, seq=3, term=1, inbox=None, lease_s=90, load=Load(), tasks=tasks, at=1700000000.0
        )
        self.put(paths.numbered("heartbeat", 1, 3), beat.model_dump_json())

    def beat(self) -> None:
        """A host moves: its baton gets another name."""
        found = next(b for name in (self.root / "host").iterdir() if (b := layout.parse_baton(name.name)))
        (self.root / found.path).rename(self.root / Baton(1, "0123456789ab", found.seq, found.beat + 1).path)

    def dropped(self, ending: str = "json") -> list[Path]:
        """What lies at the door."""
        return sorted((self.root / "incoming").glob(f"[!.]*.{ending}"))

    def asked(self) -> list[Any]:
        """The requests at the door."""
        return [json.loads(path.read_bytes()) for path in self.dropped()]


def node_row(node: str = "n1", **more: Any) -> NodeRow:
    """A node as the host tells it: 8 cores, 16 GiB, nothing held."""
    told: dict[str, Any] = {
        "node": node, "state": "online", "epoch": 1, "hostname": node, "cores": 8, "memory_bytes": 16 * GIB,
        "cores_held": 0, "memory_held_bytes": 0, "tasks": 0, "executors": ["process"], "load": Load(load_1m=0.5),
        "heartbeat": "000001-000000000003", "silent_s": 1.0, "version": "0.4.0",
    }  # fmt: skip
    return NodeRow(**{**told, **more})


def job_row(job: str, state: str = "completed", **more: Any) -> JobRow:
    """A job as the index tells it."""
    told: dict[str, Any] = {
        "job": job, "name": None, "owner": "ann", "state": state, "exit_code": 0 if state == "completed" else None,
        "count": 1, "counts": {state: 1}, "nodes": ["n1"], "cores": 1, "memory_bytes": None, "priority": 0,
        "accepted_at": 1700000000.0, "started_at": None, "finished_at": None, "command": "echo hi",
    }  # fmt: skip
    return JobRow(**{**told, **more})


def refusal() -> dict[str, Any]:
    """What a refused receipt holds beyond the ordinary."""
    problem = Problem(field="cores", value="99", message="no node has so many: the largest has 8", remedy="ask for 8")
    return {"outcome": "refused", "errors": [problem]}


def answered(kind: str, *answers: tuple[str, bool, str]) -> dict[str, Any]:
    """What the receipt of a control holds."""
    told = [TaskAnswer(task=task, ok=ok, outcome=outcome) for task, ok, outcome in answers]
    return {"outcome": "done", "kind": kind, "answers": told}
