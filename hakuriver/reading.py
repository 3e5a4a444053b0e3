"""Read what the river knows of jobs and tasks: snapshots, and what comes before the first of them.

A job's way, in the order in which it is looked for: incoming/ (submitted), host/taken/, its receipt (accepted or
refused), jobs/active/ and jobs/done/ (snapshots, at most 2 s behind; of several the highest position holds).
Documents are read as plain JSON, so that a later version's keys disturb nothing.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import json
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from hakuriver.checks import task_range, task_ranges
from hakuriver.client import Receipt, open_share, read_receipt
from hakuriver.errors import NotFound
from hakuriver.ids import is_job_id, job_time, task_name
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: States that end a task.
FINAL = frozenset({"completed", "failed", "killed", "killed_oom", "lost"})
#: Exit codes for endings that have none of their own.
EXIT_TIME_LIMIT, EXIT_UNKNOWN, EXIT_KILLED_OOM, SIGTERM = 124, 125, 137, 15

#: Columns of a snapshot's row: records.TaskRow.
K, STATE, ATTEMPT, NODE, RETRIES, STARTED, ENDED, CODE, SIGNAL, CAUSE, REASON, WALL, CPU, PEAK = range(14)
EARLIER, EXECUTOR = 17, 18
#: Rows without them are shorter.
GPUS, ENVIRONMENT, PHASE = 19, 20, 21
_NOTHING: list[Any] = [[], None, ""]

#: Times that a snapshot which was replaced while it was opened is looked for again.
CHASES = 5
#: A job whose id is younger than this, by this machine's clock, may be between two places: seconds.
YOUNG_S = 60.0
#: Seconds for which it is looked for.
PATIENCE_S = 3.0


class Place(NamedTuple):
    """Where a job's newest snapshot lies."""

    seq: int  #: position in the journal; higher is newer
    path: str
    done: bool


class Attempt(NamedTuple):
    """An earlier attempt of a task."""

    attempt: int
    node: str | None
    state: str
    cause: str
    exit_code: int | None
    signal: int | None
    started_at: float | None
    ended_at: float | None


class Task(NamedTuple):
    """A task that has been dispatched at least once, or is over. Times: seconds since 1970, by its node's clock."""

    task: str  #: its name
    k: int | None  #: None for a job's only task
    state: str
    attempt: int
    node: str | None
    retries_spent: int
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: str  #: why it ended, or why the last attempt did
    reason: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None
    executor: str | None  #: of the latest attempt
    gpus: list[int]  #: indices of those that it holds, or held
    environment: str | None  #: the package that it runs in, `<env>-<timestamp>`
    phase: str  #: what is done for it before it starts
    target: str | None  #: the node that it must run on, and what of it
    earlier: list[Attempt]

    @property
    def failed_with(self) -> int:
        """What `wait` exits with for this task; 0 if it completed or is not over."""
        row = [self.k, self.state, 0, None, 0, None, None, self.exit_code, self.signal, self.cause]
        return exit_code_of(row) if self.state in FINAL else 0


class Job(NamedTuple):
    """A job. State: submitted (no host has read it), refused, pending, running, or that in which it ended."""

    job: str
    state: str
    exit_code: int | None  #: once over: what `hakuriver task wait` exits with
    name: str | None
    owner: str | None
    uid: int | None
    accepted_at: float | None  #: seconds since 1970, by the host's clock
    finished_at: float | None
    total: int  #: tasks in all
    counts: dict[str, int]  #: tasks by state
    spec: dict[str, Any]  #: what was asked for, as in a job file; from the host: memory_bytes, time_limit_s
    waiting: str  #: indices never dispatched, as 4-99,101
    tasks: list[Task]
    receipt: Receipt | None  #: where it is all that is known

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.exit_code is not None or self.state == "refused"


def exit_code_of(row: list[Any]) -> int:
    """What `hakuriver task wait` exits with for a row that is over."""
    if row[STATE] == "completed":
        return 0
    if row[STATE] == "killed_oom":
        return EXIT_KILLED_OOM
    if row[STATE] == "lost":
        return EXIT_UNKNOWN
    if row[CAUSE] == "time_limit":
        return EXIT_TIME_LIMIT
    if row[CODE]:
        return int(row[CODE])
    if row[SIGNAL]:
        return 128 + int(row[SIGNAL])
    return 128 + SIGTERM if row[STATE] == "killed" else EXIT_UNKNOWN


# -- snapshots


def find(share: Share, jobs: Collection[str]) -> dict[str, Place]:
    """Where the newest snapshots of these jobs lie: lists each bucket once. Those without one are left out."""
    found: dict[str, Place] = {}
    for bucket in sorted({layout.bucket(job) for job in jobs}):
        for tree in (layout.ACTIVE, layout.DONE):
            _find_in(share, f"{tree}/{bucket}", tree == layout.DONE, jobs, found)
    return found


def _find_in(share: Share, directory: str, done: bool, jobs: Collection[str], found: dict[str, Place]) -> None:
    for name in share.names(directory):
        if name[:20] in jobs and (parsed := layout.parse_snapshot(name)):
            job, _, seq = parsed
            if job not in found or seq > found[job].seq:
                found[job] = Place(seq, f"{directory}/{name}", done)


def read_snapshot(share: Share, job: str, place: Place | None = None) -> dict[str, Any] | None:
    """A job's newest snapshot; one that is replaced under our hands is looked for again. None: there is none."""
    for _ in range(CHASES):
        place = place or find(share, {job}).get(job)
        if place is None:
            return None
        data = share.open_listed(place.path)
        if data is not None:
            document: dict[str, Any] = json.loads(data)
            return document
        place = None
    return None


def as_job(snapshot: dict[str, Any]) -> Job:
    """A snapshot, typed."""
    job = snapshot["job"]
    return Job(
        job, snapshot["state"], snapshot.get("exit_code"), snapshot.get("name"), snapshot.get("owner"),
        snapshot.get("uid"), snapshot.get("accepted_at"), snapshot.get("finished_at"), snapshot["count"],
        snapshot["counts"], snapshot["spec"], snapshot.get("waiting", ""),
        [_as_task(job, row, snapshot["spec"]) for row in snapshot.get("tasks", ())], None,
    )  # fmt: skip


def _as_task(job: str, row: list[Any], spec: dict[str, Any]) -> Task:
    earlier = [Attempt._make(attempt[:8]) for attempt in row[EARLIER]]
    engine = [*row[GPUS : PHASE + 1], *_NOTHING[len(row) - GPUS :]]
    return Task._make(
        [task_name(job, row[K]), *row[: PEAK + 1], row[EXECUTOR], *engine, target_of(spec, row[K]), earlier]
    )


def target_of(spec: dict[str, Any], k: int | None) -> str | None:
    """The target of a task of this job; None: any node."""
    named = spec.get("targets") or ()
    if len(named) < 2 or k is None:
        return named[0] if named else None
    count = task_range("", spec.get("array"), len(named))[1]
    return named[k * len(named) // count] if 0 <= k < count else None


def task_of(job: Job, k: int | None) -> Task:
    """One task, also if it was never dispatched. Raises NotFound if the job has none of that index."""
    for task in job.tasks:
        if task.k == k:
            return task
    ranges = ranges_of(job)
    if (ranges is None) != (k is None) or not (k is None or any(low <= k <= high for low, high in ranges or ())):
        raise NotFound(f"there is no task {task_name(job.job, k)} in that job: {tasks_there(job)}")
    state = job.state if job.state in ("submitted", "refused") else "pending"
    return Task(
        task_name(job.job, k), k, state, 0, None, 0, None, None, None, None, "", "", 0.0, 0.0, None, None, [], None, "",
        target_of(job.spec, k), [],
    )  # fmt: skip


def ranges_of(job: Job) -> list[tuple[int, int]] | None:
    """Inclusive ranges of its tasks' indices; None for a job of one task, which bears the job's own id."""
    return task_ranges(job.spec.get("array"), len(job.spec.get("targets") or ()))


def tasks_there(job: Job) -> str:
    """Which tasks a job has, for an error about one that it has not."""
    short, count = task_range(job.job, job.spec.get("array"), len(job.spec.get("targets") or ()))
    return f"they are {short}" if count > 1 else f"it has one, {job.job}"


# -- one job, wherever it is


def status(job: str, *, shared_dir: str | None = None) -> Job:
    """All that is known of a job, by its whole id. Raises NotFound, ShareProblem."""
    return load(open_share(shared_dir), job)


def load(share: Share, job: str) -> Job:
    """See `status`."""
    end = time.monotonic() + PATIENCE_S
    while True:
        snapshot = read_snapshot(share, job)
        found = as_job(snapshot) if snapshot else before_snapshot(share, job)
        if found:
            return found
        if time.time() - job_time(job) > YOUNG_S or time.monotonic() > end:
            raise NotFound(
                f"there is no job {job}: it was never submitted to {share.root}, or is older than its retention"
            )
        time.sleep(0.1)


def before_snapshot(share: Share, job: str) -> Job | None:
    """A job that has no snapshot yet: at the door, taken, or just answered."""
    request = request_of(share, job)
    receipt = read_receipt(share, job)
    if receipt and receipt.kind == "run":
        return _answered(job, receipt, request or {})
    if snapshot := read_snapshot(share, job):  # it may have gone on while we looked behind it
        return as_job(snapshot)
    return _unseen(job, "submitted", 1, request, None) if request is not None else None


def _answered(job: str, receipt: Receipt, spec: dict[str, Any]) -> Job:
    if receipt.outcome == "refused":
        return _unseen(job, "refused", 0, spec, receipt)
    return _unseen(job, "pending", receipt.tasks, spec, receipt)


def _unseen(job: str, state: str, total: int, spec: dict[str, Any], receipt: Receipt | None) -> Job:
    uid = receipt.raw.get("uid") if receipt else None
    accepted = receipt.raw.get("at") if receipt and state == "pending" else None
    exit_code = EXIT_UNKNOWN if state == "refused" else None
    counts = {state: total} if total else {}
    return Job(job, state, exit_code, spec.get("name"), None, uid, accepted, None, total, counts, spec, "", [], receipt)


def request_of(share: Share, job: str) -> dict[str, Any] | None:
    """What was asked for, while the request file still lies at the door or in host/taken/."""
    for path, request in at_door(share):
        if request == job or path.endswith(".jsonl"):
            found = job_in(share.open_listed(path) or b"", job, path.endswith(".jsonl"))
            if found is not None:
                return found
    return None


def at_door(share: Share) -> Iterator[tuple[str, str]]:
    """Requests that no host has answered yet: (path, the request's id, or '' if the host is to make one)."""
    for name in share.names(layout.INCOMING):
        stem, _, ending = name.rpartition(".")
        if layout.DOOR_NAME.fullmatch(name) and ending in ("json", "jsonl"):
            yield layout.incoming(name), stem if is_job_id(stem) else ""
    for name in share.names(layout.TAKEN):
        taken = layout.parse_taken(name)
        if taken:
            yield f"{layout.TAKEN}/{name}", taken.request


def jobs_asked(share: Share, path: str, request: str) -> list[str]:
    """The jobs that a request at the door asks for; none if it is of another kind, or has no id yet."""
    data = share.open_listed(path) or b""
    if not path.endswith(".jsonl"):
        return [request] if request and job_in(data, request) is not None else []
    return [job for line in data.splitlines() if (job := _id_in(line)) is not None]


def _id_in(line: bytes) -> str | None:
    try:
        job = json.loads(line).get("id")
    except (ValueError, AttributeError):
        return None  # no job file: the host will say so
    return job if isinstance(job, str) and is_job_id(job) else None


def job_in(data: bytes, job: str, batch: bool = False) -> dict[str, Any] | None:
    """What a request file asks to run; None if it is another request, or the batch has no such job."""
    if batch:
        mark = f'"{job}"'.encode()
        data = next((line for line in data.splitlines() if mark in line), b"")
    try:
        found = json.loads(data)
    except ValueError:
        return None if batch else {}
    return found if isinstance(found, dict) and found.get("request", "run") == "run" else None


# -- many jobs


def newest(share: Share) -> Iterator[tuple[str, Place]]:
    """Every job that has a snapshot, newest id first, bucket by bucket."""
    days = _both(share, "")
    for day in days:
        for bucket in _both(share, f"/{day}"):
            places: dict[str, Place] = {}
            for tree in (layout.ACTIVE, layout.DONE):
                _find_in(share, f"{tree}/{day}/{bucket}", tree == layout.DONE, _Everything(), places)
            yield from sorted(places.items(), reverse=True)


def unfinished(share: Share) -> Iterator[tuple[str, Place]]:
    """Jobs that are not over, oldest first, as far as they have a snapshot."""
    for day in sorted(share.names(layout.ACTIVE)):
        for bucket in sorted(share.names(f"{layout.ACTIVE}/{day}")):
            places: dict[str, Place] = {}
            _find_in(share, f"{layout.ACTIVE}/{day}/{bucket}", False, _Everything(), places)
            newer = find(share, places.keys())
            yield from sorted((job, place) for job, place in newer.items() if not place.done)


def _both(share: Share, path: str) -> list[str]:
    return sorted({name for tree in (layout.ACTIVE, layout.DONE) for name in share.names(tree + path)}, reverse=True)


class _Everything(frozenset[str]):
    """Contains every id."""

    def __contains__(self, item: object) -> bool:
        return True


def newest_bucket(share: Share, tree: str) -> str:
    """The directory of a tree that the newest ids lie in; '' if there is none."""
    path = tree
    for _ in ("day", "bucket"):
        names = [name for name in share.names(path) if name.isdigit()]
        if not names:
            return ""
        path = f"{path}/{max(names)}"
    return path


def nodes_index(share: Share) -> dict[str, Any] | None:
    """index/nodes.json as its host last wrote it; None: none has."""
    return _index(share, "nodes", ("node", "state", "cores", "cores_held", "memory_bytes", "memory_held_bytes", "tasks",
                                   "executors", "load"))  # fmt: skip


def recent_index(share: Share) -> dict[str, Any] | None:
    """index/recent.json as its host last wrote it; None: none has."""
    return _index(share, "recent", ("job", "name", "owner", "state", "exit_code", "count", "counts", "nodes", "cores",
                                    "memory_bytes", "accepted_at", "command"), rows="jobs")  # fmt: skip


def _index(share: Share, name: str, keys: tuple[str, ...], rows: str = "nodes") -> dict[str, Any] | None:
    """An index is derived and may be anything: one that is not as it should be counts as none."""
    found = share.read_json(f"{layout.INDEX}/{name}.json")
    told = found.get(rows) if found else None
    if not isinstance(told, list) or not all(isinstance(row, dict) and row.keys() >= set(keys) for row in told):
        return None
    return found if found and isinstance(found.get("at"), int | float) else None


def endings(share: Share, last: str) -> Iterable[str]:
    """Retained job ids whose last digits are these (three), as a host indexed them."""
    found = share.read_json(layout.ending_file(last))
    jobs = found.get("jobs") if found else None
    return [job for job in jobs if isinstance(job, str)] if isinstance(jobs, list) else []
