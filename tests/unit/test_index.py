"""The index: what it answers, and that it can be lost at any time."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from hakuriver.host import jobs
from hakuriver.host.index import Index, shortened
from hakuriver.host.telling import all_snapshots
from hakuriver.records import JobRow, JobSnapshot, TaskRow
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk


def row(k: int | None = None, state: str = "completed", **changes: Any) -> list[Any]:
    values: dict[str, Any] = dict.fromkeys(TaskRow._fields[: jobs.ROW_LEAST])
    values |= {"k": k, "state": state, "attempt": 1, "node": "n1", "retries_spent": 0, "cause": "exit"}
    values |= {"reason": "exit code 0", "wall_s": 1.5, "cpu_s": 0.5, "claimed": True, "earlier": []}
    values |= {"started_at": 10.0, "ended_at": 11.5, "exit_code": 0}
    return list({**values, **changes}.values())


def snapshot(number: int = 1, *, tasks: list[list[Any]] | None = None, **changes: Any) -> dict[str, Any]:
    rows = [row()] if tasks is None else tasks
    values: dict[str, Any] = {
        "format": 1, "job": f"{1795239248860:013d}{number:07d}", "state": "completed", "exit_code": 0, "term": 1,
        "seq": number, "admission": number, "name": f"name-{number}", "owner": "ada", "uid": 7, "accepted_at": 9.0,
        "finished_at": 11.5, "count": max(1, len(rows)), "counts": {"completed": len(rows)},
        "spec": {"command": ["echo", "it's"], "cores": 2, "memory_bytes": 1000, "env": {"TOKEN": "hunter2"}},
        "waiting": "", "tasks": rows,
    }  # fmt: skip
    values |= changes
    JobSnapshot.model_validate(values)
    return values


@pytest.fixture
def index(scratch: Path) -> Index:
    return Index(str(scratch / "index.db"), "cluster")


def test_newest_first_as_job_rows(index: Index) -> None:
    index.apply([snapshot(n) for n in (1, 2, 3)], (1, 3))
    rows = index.recent(2)
    assert [r["name"] for r in rows] == ["name-3", "name-2"]
    parsed = JobRow.model_validate(rows[0])
    assert (parsed.nodes, parsed.cores, parsed.started_at, parsed.command) == (["n1"], 2, 10.0, "echo 'it'\"'\"'s'")
    assert index.position() == (1, 3)


def test_an_older_snapshot_changes_nothing(index: Index) -> None:
    new = snapshot(5, seq=9)
    index.apply([new], (1, 9))
    before = index.dump()
    index.apply([snapshot(5, seq=8, state="running", finished_at=None)], (1, 9))
    assert index.dump() == before


def test_applying_twice_is_applying_once(index: Index) -> None:
    jobs = [snapshot(n, tasks=[row(k) for k in range(3)]) for n in range(5)]
    index.apply(jobs, (1, 5))
    before = index.dump()
    index.apply(jobs, (1, 5))
    assert index.dump() == before
    assert len(before["tasks"]) == 15


def test_endings(index: Index) -> None:
    index.apply([snapshot(n) for n in (1123, 2123, 3124)], (1, 1))
    assert [job[-4:] for job in index.endings("123")] == ["1123", "2123"]
    assert sorted(index.all_endings()) == ["123", "124"]


def test_counts_and_removal(index: Index) -> None:
    index.apply([snapshot(1), snapshot(2, state="failed"), snapshot(3, state="failed")], (1, 3))
    assert index.counts() == {"completed": 1, "failed": 2}
    index.remove([snapshot(2)["job"]])
    assert index.counts() == {"completed": 1, "failed": 1}
    assert len(index.dump()["tasks"]) == 2


def test_rebuilt_equals_live(index: Index, scratch: Path) -> None:
    first = [snapshot(n, state="running", finished_at=None, exit_code=None, seq=n) for n in range(1, 20)]
    last = [snapshot(n, seq=n + 100) for n in range(1, 20)]
    index.apply(first, (1, 19))
    index.apply(last, (1, 119))
    again = Index(str(scratch / "again.db"), "cluster")
    again.rebuild(iter(last), (1, 119))
    assert again.dump() == index.dump()
    assert again.position() == index.position()


@pytest.mark.parametrize("large", [256 * 1024, 10])
def test_a_snapshot_that_cannot_be_read_is_left_out(
    scratch: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(jobs, "LARGE", large)
    good, torn, strange = snapshot(1), snapshot(2), snapshot(3)
    strange["tasks"][0] += ["a column of another version"] * len(TaskRow._fields)
    for found in (good, torn, strange):
        path = scratch / layout.snapshot_path(layout.DONE, found["job"], 1, found["seq"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found)[: 50 if found is torn else None])
    assert [found["job"] for found in all_snapshots(LocalDisk(str(scratch)))] == [good["job"]]
    assert caplog.text.count("is left out of the index") == 2


@pytest.mark.parametrize("damage", ["other cluster", "not a database", "other schema"])
def test_what_does_not_fit_is_made_anew(scratch: Path, damage: str) -> None:
    path = str(scratch / "index.db")
    index = Index(path, "other" if damage == "other cluster" else "cluster")
    assert index.fresh
    index.apply([snapshot(1)], (1, 1))
    if damage == "other schema":
        index._db.execute("update meta set value = '0' where key = 'schema'")
    index.close()
    if damage == "not a database":
        Path(path).write_bytes(b"this is no database" * 100)
    again = Index(path, "cluster")
    assert again.fresh
    assert again.recent() == []


def test_a_database_of_something_else_is_kept_under_another_name(scratch: Path) -> None:
    path = scratch / "cluster_management.db"
    for number in (1, 2):
        with contextlib.closing(sqlite3.connect(path)) as history:
            history.execute(f"create table tasks_{number} (task_id integer)")
        index = Index(str(path), "cluster")
        assert index.fresh
        index.close()
        with contextlib.closing(sqlite3.connect(f"{path}.old{number}")) as history:
            assert history.execute("select name from sqlite_master").fetchall() == [(f"tasks_{number}",)]
        path.unlink()


def test_it_is_kept_over_a_restart(scratch: Path) -> None:
    path = str(scratch / "index.db")
    index = Index(path, "cluster")
    index.apply([snapshot(1)], (1, 1))
    index.close()
    again = Index(path, "cluster")
    assert not again.fresh
    assert len(again.recent()) == 1


def test_long_commands_are_shortened() -> None:
    text = shortened(["x" * 1000])
    assert len(text) == 200
    assert text.endswith("…")


def test_heads_and_rows_tell_what_changed(index: Index) -> None:
    index.apply([snapshot(n) for n in (1, 2, 3)], (1, 3))
    index.apply([snapshot(2, seq=9, state="failed")], (1, 9))
    assert [(job[-1], seq) for job, seq in index.heads(2)] == [("3", 3), ("2", 9)]
    found = index.row(snapshot(2)["job"])
    assert found is not None
    assert found == next(r for r in index.recent() if r["job"] == snapshot(2)["job"])
    assert index.row("0" * 20) is None


def test_a_job_starts_with_its_first_attempt(index: Index) -> None:
    first = [1, "n7", "failed", "exit", 3, None, 4.0, 5.0]
    index.apply([snapshot(1, tasks=[row(0), row(1, attempt=2, earlier=[first])])], (1, 1))
    assert index.recent()[0]["started_at"] == 4.0
    index.apply([snapshot(2, tasks=[row(state="pending", started_at=None)])], (1, 2))
    assert index.recent()[0]["started_at"] is None
