"""Lists of jobs, newest first: from the host's index, and from snapshots for what the index has not.

The index holds the newest 1,000 jobs and is some seconds behind; jobs newer than it are read from the newest
buckets, older ones bucket by bucket, only as far as the limit asks.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import fnmatch
import shlex
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from hakuriver import reading
from hakuriver.checks import task_range
from hakuriver.ids import is_job_id, job_time
from hakuriver.offers import gpus_of
from hakuriver.reading import ENVIRONMENT, EXECUTOR, NODE, PHASE, REASON, STARTED, STATE
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: Files that the newest buckets may hold for jobs to be looked for there; a crowded one is left to the index.
CROWDED = 5000
#: Jobs that index/recent.json holds at most: if it holds so many, there may be older ones.
RECENT_MOST = 1000
COMMAND_MOST = 200  #: characters of a command line that are shown


class Wanted(NamedTuple):
    """Which jobs are listed; empty means any."""

    states: tuple[str, ...] = ()  #: the job's, or one that any of its tasks is in
    nodes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  #: patterns as of the shell
    since_s: float | None = None  #: submitted not longer ago than so many seconds, by the id
    jobs: tuple[str, ...] = ()  #: their ids

    def matches(self, row: dict[str, Any]) -> bool:
        """Whether a row is listed."""
        return (
            (not self.states or bool(set(self.states) & {row["state"], *row["counts"]}))
            and (not self.nodes or bool(set(self.nodes) & set(row["nodes"])))
            and (not self.users or row["owner"] in self.users)
            and (not self.names or any(fnmatch.fnmatchcase(row["name"] or "", name) for name in self.names))
            and self.reaches(row["job"])
        )

    def reaches(self, job: str) -> bool:
        """Whether a job is young enough."""
        return self.since_s is None or job_time(job) >= time.time() - self.since_s


def rows(share: Share, wanted: Wanted, limit: int | None) -> list[dict[str, Any]]:
    """Rows as records.JobRow, newest first, at most `limit`. A job that no host has read has the state submitted.

    Raises NotFound if a job that is named lies nowhere.
    """
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in _named(share, wanted.jobs) if wanted.jobs else _all(share, wanted):
        if limit is not None and len(found) >= limit:
            break
        if row["job"] not in seen and wanted.matches(row):
            found.append(row)
        seen.add(row["job"])
    return sorted(found, key=lambda row: str(row["job"]), reverse=True)


def _all(share: Share, wanted: Wanted) -> Iterator[dict[str, Any]]:
    yield from submitted(share)
    index = reading.recent_index(share)
    recent: list[dict[str, Any]] = index["jobs"] if index else []
    known = {row["job"] for row in recent}
    yield from _fresher(share, max(known, default=""), known)
    yield from recent
    if index is None or len(recent) >= RECENT_MOST:
        yield from _older(share, wanted, known)


def _named(share: Share, jobs: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Jobs that are named, newest first: found by their ids, however old they are."""
    for job in sorted(set(jobs), reverse=True):
        snapshot = reading.read_snapshot(share, job)
        yield row_of(snapshot) if snapshot else _unseen_row(reading.load(share, job))


def _unseen_row(job: reading.Job) -> dict[str, Any]:
    """A job that has no snapshot: at the door, just accepted, or refused."""
    row = _submitted_row(job.job, job.spec)
    if job.receipt is None:
        return row
    told = {"state": job.state, "exit_code": job.exit_code, "accepted_at": job.accepted_at}
    return {**row, **told, "count": job.total, "counts": job.counts, "reason": job.receipt.outcome}


def submitted(share: Share) -> Iterator[dict[str, Any]]:
    """Jobs that wait for a host to read them, newest first. Files without an id of their own are not among them."""
    waiting = [(job, path) for path, job in reading.at_door(share) if job and path.endswith(".json")]
    for job, path in sorted(waiting, reverse=True):
        body = reading.job_in(share.open_listed(path) or b'{"request": ""}', job)
        if body is not None:
            yield _submitted_row(job, body)


def _submitted_row(job: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        count = task_range(job, body.get("array"), len(body.get("targets") or ()))[1]
    except (ValueError, TypeError, AttributeError):
        count = 1  # the host will refuse it
    return {
        "job": job, "name": body.get("name"), "owner": None, "state": "submitted", "exit_code": None,
        "count": count, "counts": {"submitted": count}, "nodes": [], "cores": body.get("cores", 1),
        "memory_bytes": None, "priority": body.get("priority", 0), "accepted_at": None, "started_at": None,
        "finished_at": None, "command": _command(body.get("command")), "reason": "no host has read it yet",
        "targets": [], "gpus": 0, "executors": [], "environments": [], "phase": "",
    }  # fmt: skip


def _fresher(share: Share, newest: str, known: set[str]) -> Iterator[dict[str, Any]]:
    """Jobs of the newest buckets that are newer than all of the index."""
    jobs: set[str] = set()
    for tree in (layout.ACTIVE, layout.DONE):
        bucket = reading.newest_bucket(share, tree)
        names = share.first_names(bucket, CROWDED) if bucket else ()
        jobs.update(name[:20] for name in names or () if is_job_id(name[:20]))
    yield from _read(share, sorted((job for job in jobs if job > newest and job not in known), reverse=True))


def _older(share: Share, wanted: Wanted, known: set[str]) -> Iterator[dict[str, Any]]:
    for job, place in reading.newest(share):
        if not wanted.reaches(job):
            return
        if job not in known:
            snapshot = reading.read_snapshot(share, job, place)
            if snapshot:
                yield row_of(snapshot)


def _read(share: Share, jobs: list[str]) -> Iterator[dict[str, Any]]:
    for job in jobs:
        snapshot = reading.read_snapshot(share, job)
        if snapshot:
            yield row_of(snapshot)


def row_of(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot's row: records.JobRow."""
    spec, tasks = snapshot["spec"], snapshot["tasks"]
    first = next((task for task in tasks if task[STATE] not in ("completed", "running")), None)
    return {
        **{key: snapshot.get(key) for key in ("job", "name", "owner", "state", "exit_code", "count", "counts")},
        "nodes": sorted({task[NODE] for task in tasks if task[NODE]}),
        "cores": spec.get("cores", 1),
        "memory_bytes": spec.get("memory_bytes"),
        "priority": spec.get("priority", 0),
        "accepted_at": snapshot.get("accepted_at"),
        "started_at": min((task[STARTED] for task in tasks if task[STARTED] is not None), default=None),
        "finished_at": snapshot.get("finished_at"),
        "command": _command(spec.get("command")),
        "reason": first[REASON] if first else "",
        "targets": spec.get("targets") or [],
        "gpus": gpus_of(spec),
        "executors": sorted({task[EXECUTOR] for task in tasks if task[EXECUTOR]}),
        "environments": sorted({task[ENVIRONMENT] for task in tasks if len(task) > ENVIRONMENT and task[ENVIRONMENT]}),
        "phase": next((task[PHASE] for task in tasks if len(task) > PHASE and task[PHASE]), ""),
    }


def _command(words: object) -> str:
    text = shlex.join(str(word) for word in words) if isinstance(words, list) else ""
    return text if len(text) <= COMMAND_MOST else text[: COMMAND_MOST - 1] + "…"
