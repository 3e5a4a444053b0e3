"""The index: SQLite on the host's own disk, derived from snapshots and rebuilt from them at any time.

No receipt, dispatch or removal rests on it. It answers what would cost a walk over all jobs: the newest ones,
and which ids end with what somebody typed. It bears two positions of the journal: up to which it knows
everything, and up to which the index files and pages on the share were told.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shlex
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import sqlite_utils

from hakuriver.offers import gpus_of
from hakuriver.records import TaskRow

log = logging.getLogger("hakuriver.host")

#: Raised whenever a table changes: an index of another version is made anew.
SCHEMA = 2
#: Characters of a command line kept for lists.
COMMAND_MOST = 200

_JOBS = {
    "job": str, "ending": str, "term": int, "seq": int, "admission": int, "name": str, "owner": str, "state": str,
    "exit_code": int, "count": int, "counts": str, "nodes": str, "cores": int, "memory_bytes": int, "priority": int,
    "accepted_at": float, "started_at": float, "finished_at": float, "command": str, "reason": str,
    "targets": str, "gpus": int, "executors": str, "environments": str, "phase": str,
}  # fmt: skip
_TASKS = {
    "job": str, "k": int, "state": str, "attempt": int, "node": str, "started_at": float, "ended_at": float,
    "exit_code": int, "signal": int, "cause": str, "reason": str, "wall_s": float, "cpu_s": float,
    "peak_memory_bytes": int,
}  # fmt: skip
_JSON = ("counts", "nodes", "targets", "executors", "environments")
_NOT_IN_ROWS = ("ending", "term", "seq", "admission")


class Index:
    """All retained jobs and their tasks."""

    def __init__(self, path: str, cluster_id: str) -> None:
        self._path = path
        self._cluster_id = cluster_id
        self.fresh = False  #: it was just made, and must be filled from the files
        self._db = self._open()

    def _open(self) -> sqlite_utils.Database:
        index = False
        try:
            db = self._connect()
            meta = self._meta(db)
            if meta == {"cluster_id": self._cluster_id, "schema": str(SCHEMA)}:
                return db
            index = bool(meta) or not db.table_names()
            db.conn.close()
        except sqlite3.DatabaseError:
            pass  # not a database, or a broken one
        if not index:
            self._set_aside()
        self._delete()  # an index is derived, so it is made anew
        return self._create()

    def _set_aside(self) -> None:
        """Keep what was not made here under another name: an earlier version's history may be nowhere else."""
        names = (f"{self._path}.old{number}" for number in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        os.rename(self._path, aside)
        log.warning("%s is no index of a river: it is kept as %s", self._path, aside)

    def _connect(self) -> sqlite_utils.Database:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = off")
        connection.execute("pragma cache_size = -500")
        return sqlite_utils.Database(connection)

    def _meta(self, db: sqlite_utils.Database) -> dict[str, str]:
        if "meta" not in db.table_names():
            return {}
        rows = db.execute("select key, value from meta where key in ('cluster_id', 'schema')")
        return dict(rows.fetchall())

    def _delete(self) -> None:
        for ending in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + ending)

    def _create(self) -> sqlite_utils.Database:
        self.fresh = True
        db = self._connect()
        db.table("meta").create({"key": str, "value": str}, pk="key")
        db.table("jobs").create(_JOBS, pk="job")
        for column in ("admission", "ending", "state"):
            db.table("jobs").create_index([column])
        db.table("tasks").create(_TASKS, pk=("job", "k"))
        db.table("meta").insert_all(
            [{"key": "cluster_id", "value": self._cluster_id}, {"key": "schema", "value": str(SCHEMA)}]
        )
        return db

    def close(self) -> None:
        """Close the file."""
        self._db.conn.close()

    # -- writing

    def position(self) -> tuple[int, int] | None:
        """Term and seq of the journal up to which everything is in it."""
        return self._place("position")

    def told(self) -> tuple[int, int] | None:
        """Term and seq up to which everything in it stands in the index files and pages too."""
        return self._place("told")

    def _place(self, key: str) -> tuple[int, int] | None:
        row = self._db.execute("select value from meta where key = ?", [key]).fetchone()
        if row is None:
            return None
        term, seq = json.loads(row[0])
        return term, seq

    def note_told(self, position: tuple[int, int]) -> None:
        """Everything up to here stands in the index files and pages."""
        self._db.execute("insert or replace into meta values ('told', ?)", [json.dumps(position)])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def apply(self, snapshots: Iterable[dict[str, Any]], position: tuple[int, int]) -> None:
        """Take in snapshots (records.JobSnapshot); one that is older than what is there changes nothing."""
        with self._transaction():
            self._put_all(snapshots, position)

    def _put_all(self, snapshots: Iterable[dict[str, Any]], position: tuple[int, int]) -> None:
        for snapshot in snapshots:
            self._put(snapshot)
        self._db.execute("insert or replace into meta values ('position', ?)", [json.dumps(position)])

    def _put(self, snapshot: dict[str, Any]) -> None:
        job = snapshot["job"]
        found = self._db.execute("select seq from jobs where job = ?", [job]).fetchone()
        if found is not None and found[0] > snapshot["seq"]:
            return
        row = job_columns(snapshot)
        marks = ",".join("?" * len(_JOBS))
        self._db.execute(f"insert or replace into jobs values ({marks})", [row[name] for name in _JOBS])
        self._db.execute("delete from tasks where job = ?", [job])
        tasks = (dict(zip(TaskRow._fields, task, strict=False)) for task in snapshot["tasks"])
        marks = ",".join("?" * len(_TASKS))
        self._db.conn.executemany(
            f"insert into tasks values ({marks})",
            ([job, task["k"] or 0, *[task[name] for name in list(_TASKS)[2:]]] for task in tasks),
        )

    def remove(self, jobs: Iterable[str]) -> None:
        """These jobs are no longer kept."""
        with self._transaction():
            for job in jobs:
                self._db.execute("delete from jobs where job = ?", [job])
                self._db.execute("delete from tasks where job = ?", [job])

    def rebuild(self, snapshots: Iterable[dict[str, Any]], position: tuple[int, int]) -> None:
        """Make it anew from all snapshots. If reading them fails it stays as it was; a broken file is replaced."""
        try:
            with self._transaction():
                for table in ("jobs", "tasks"):
                    self._db.execute(f"delete from {table}")
                self._db.execute("delete from meta where key = 'told'")
                self._put_all(snapshots, position)
        except sqlite3.DatabaseError:
            self._db.conn.close()
            self._delete()
            self._db = self._create()
            raise
        self.fresh = False

    # -- reading

    def recent(self, limit: int = 1000) -> list[dict[str, Any]]:
        """The newest jobs, newest first, as records.JobRow."""
        rows = self._db.query("select * from jobs order by admission desc limit ?", [limit])
        return [_job_row(row) for row in rows]

    def heads(self, limit: int = 1000) -> list[tuple[str, int]]:
        """Id and seq of the newest jobs, newest first: what a reader that keeps rows needs to see what changed."""
        rows = self._db.execute("select job, seq from jobs order by admission desc limit ?", [limit])
        return [(job, seq) for job, seq in rows]

    def row(self, job: str) -> dict[str, Any] | None:
        """One job, as records.JobRow."""
        found = next(self._db.query("select * from jobs where job = ?", [job]), None)
        return None if found is None else _job_row(found)

    def endings(self, ending: str) -> list[str]:
        """All retained jobs whose id has these last three digits."""
        rows = self._db.execute("select job from jobs where ending = ? order by job", [ending])
        return [job for (job,) in rows]

    def all_endings(self) -> list[str]:
        """Every ending that some retained job has."""
        return [ending for (ending,) in self._db.execute("select distinct ending from jobs")]

    def counts(self) -> dict[str, int]:
        """How many retained jobs are in which state."""
        return dict(self._db.execute("select state, count(*) from jobs group by state").fetchall())

    def dump(self) -> dict[str, list[Any]]:
        """The whole content in an order of its own: two indexes of the same jobs dump the same."""
        jobs = self._db.execute("select * from jobs order by job").fetchall()
        tasks = self._db.execute("select * from tasks order by job, k").fetchall()
        return {"jobs": jobs, "tasks": tasks}


def job_columns(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A job's row in the index, from its snapshot."""
    spec = snapshot["spec"]
    seen = survey(snapshot["tasks"])
    return {
        **{name: snapshot.get(name) for name in _JOBS if name in snapshot},
        "ending": snapshot["job"][-3:],
        "counts": json.dumps(snapshot["counts"]),
        "nodes": json.dumps(sorted(seen.nodes)),
        "cores": spec.get("cores", 1),
        "memory_bytes": spec.get("memory_bytes"),
        "priority": spec.get("priority", 0),
        "started_at": seen.started_at,
        "finished_at": snapshot.get("finished_at"),
        "exit_code": snapshot.get("exit_code"),
        "command": shortened(spec["command"]),
        "reason": seen.reason,
        "targets": json.dumps(spec.get("targets") or []),
        "gpus": gpus_of(spec),
        "executors": json.dumps(sorted(seen.executors)),
        "environments": json.dumps(sorted(seen.environments)),
        "phase": seen.phase,
    }


class Survey(NamedTuple):
    """What one pass over a job's rows tells."""

    rows: int
    nodes: set[str]
    reason: str  #: of the first task that did not complete
    started_at: float | None  #: the first start of any attempt
    executors: set[str]
    environments: set[str]
    phase: str  #: of the first task that has one


def survey(rows: Iterable[list[Any]]) -> Survey:
    """Look at all rows (records.TaskRow) once: a large job's are decoded anew in each pass."""
    count, reason, phase, first = 0, "", "", float("inf")
    nodes: set[str | None] = set()
    executors: set[str | None] = set()
    environments: set[str | None] = set()
    for task in itertools.starmap(TaskRow, rows):
        count += 1
        nodes.add(task.node)
        executors.add(task.executor)
        environments.add(task.environment)
        phase = phase or task.phase
        if not reason and task.state != "completed":
            reason = task.reason
        for time in (task.started_at, *(attempt[6] for attempt in task.earlier)):
            first = first if time is None else min(first, time)
    started_at = None if first == float("inf") else first
    return Survey(count, _known(nodes), reason, started_at, _known(executors), _known(environments), phase)


def _known(found: set[str | None]) -> set[str]:
    return {name for name in found if name}


def shortened(command: list[str]) -> str:
    """A command line for lists."""
    text = shlex.join(command[:20])
    return text if len(text) <= COMMAND_MOST else text[: COMMAND_MOST - 1] + "…"


def _job_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.loads(value) if name in _JSON else value for name, value in row.items() if name not in _NOT_IN_ROWS
    }
