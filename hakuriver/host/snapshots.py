"""Snapshots of jobs, and checkpoints of all the rest.

A snapshot serves readers: a finished job's at once, a requeued job's before the answer to who asked for it, small
changed ones every 2 s, a large one when its journal has grown by its size. A checkpoint serves recovery: it is written
into the next journal entry once the snapshots that it names are durable, and stands for everything before that entry.
What it makes needless, older entries and older snapshots, is removed when that entry is committed, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hakuriver.host.jobs import Job
from hakuriver.host.journal import Journal
from hakuriver.host.sending import Lock
from hakuriver.host.state import State
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk

FLUSH_S = 2.0  #: between two snapshots of small jobs
SMALL = 64 * 1024  #: bytes up to which a job is small
CHECKPOINT_ENTRIES = 256  #: journal entries after which a checkpoint is due
BUSY_FACTOR = 8  #: times as many while there is no idle moment
CHECKPOINT_IDLE_S = 60.0  #: seconds after which one is due if there are any entries
WRITE_MOST, WRITE_MOST_BUSY = 500, 100  #: snapshots of jobs that are not over, in an idle tick and in another
WRITE_PART = 20  #: of a backlog at least one in so many, so that it ends however busy the host is
BYTES_PER_JOB = 80  #: that a job adds to a checkpoint


class Requeued(NamedTuple):
    """An effect of a committed entry: whoever reads that a job is requeued finds it no longer over."""

    snapshots: Snapshots
    jobs: list[str]
    beat: Callable[[], object]  #: called between them: thousands may take longer than the lease

    def perform(self, _disk: Disk, _lock: Lock) -> None:
        """Write the snapshots, where they are not written yet."""
        for job in self.jobs:
            self.snapshots.write_now(job)
            self.beat()


class Snapshots:
    """Writes them; remembers what is written and what may go."""

    def __init__(self, disk: Disk, state: State) -> None:
        self._disk = disk
        self._state = state
        self._flushed = float("-inf")
        self.behind = False  #: whether more are due than were written
        self._checkpointed = 0.0
        self._entries = 0
        self._bytes = 0
        self._obsolete: list[str] = []  #: not needed once a later checkpoint is committed
        self._removable: list[str] = []  #: not needed once the one under way is committed
        self._carried = False  #: whether the entry under way is a checkpoint
        self._before: int | None = None  #: seq of a committed checkpoint: what it made needless is being removed
        self._finished: dict[str, str] = {}  #: jobs whose last snapshot is written: its path
        self._named: set[str] = set()  #: finished jobs that the last checkpoint names, and the one under way
        self._naming: set[str] = set()  #: those of the one under way
        self._evicted: set[str] = set()  #: jobs that were over and dropped since the last checkpoint

    def grown(self, size: int) -> None:
        """An entry of `size` bytes has been committed."""
        self._entries += 1
        self._bytes += size
        for job in self._state.touched:
            if job in self._state.jobs:
                self._state.jobs[job].journal_bytes += size

    def write(self, now: float, idle: bool) -> list[bytes]:
        """Write the snapshots that are due; return them. `now`: CLOCK_BOOTTIME, seconds.

        Of many those of jobs that are not over come a part at a time, the longest changed first: whoever waits for
        a receipt or a start does not wait for them.
        """
        due = self._due(now, WRITE_MOST if idle else WRITE_MOST_BUSY)
        written = [self._write_one(job) for job in due]
        for job in due:
            del self._state.touched[job.id]
        return written

    def write_now(self, job: str) -> None:
        """Write that of a job; the state must be committed as it is."""
        if job in self._state.jobs:
            self._write_one(self._state.jobs[job])

    def _due(self, now: float, most: int) -> list[Job]:
        finished: list[Job] = []
        running: list[Job] = []
        for name in self._state.touched:
            if job := self._state.jobs.get(name):
                (finished if job.finished else running).append(job)
        self.behind = False
        if now - self._flushed < FLUSH_S:
            return finished
        others = [job for job in running if job.size <= SMALL or job.journal_bytes >= job.size]
        most = max(most, len(others) // WRITE_PART)
        self.behind = len(others) > most
        if (finished or running) and not self.behind:
            self._flushed = now
        return finished + others[:most]

    def _write_one(self, job: Job) -> bytes:
        data = job.snapshot()
        tree = layout.DONE if job.finished else layout.ACTIVE
        path = layout.snapshot_path(tree, job.id, job.term, job.seq)
        if path != job.saved_path:
            files.publish(self._disk, path, data, replace=True)
            if job.saved_path:
                self._obsolete.append(job.saved_path)
            job.saved_path = path
        job.journal_bytes = 0
        if job.finished:
            self._finished[job.id] = path
        return data

    def checkpoint(self, now: float, idle: bool) -> dict[str, Any] | None:
        """What a checkpoint holds, if one is due; the state must be committed as it is.

        It syncs the file system, which may take a while, so that it waits for an idle moment as long as it can.
        """
        if not self._checkpoint_due(now, idle):
            return None
        for job in [self._state.jobs[j] for j in self._state.touched if j in self._state.jobs]:
            self._write_one(job)
        self._disk.sync_all()
        self._removable, self._obsolete = self._removable + self._obsolete, []
        self._entries = self._bytes = 0
        self._checkpointed = now
        self._carried = True
        document = self._document()
        self._naming = _jobs_done(document["jobs"])
        self._named = self._named | self._naming
        return document

    def _checkpoint_due(self, now: float, idle: bool) -> bool:
        if not self._entries:
            self._checkpointed = now
        if not self._entries or self._before is not None:
            return False
        due = self._entries >= CHECKPOINT_ENTRIES or now - self._checkpointed >= CHECKPOINT_IDLE_S
        if not (due if idle else self._entries >= BUSY_FACTOR * CHECKPOINT_ENTRIES):
            return False
        touched = sum(self._state.jobs[j].size for j in self._state.touched if j in self._state.jobs)
        return (
            self._bytes >= touched + BYTES_PER_JOB * len(self._state.jobs) or self._entries >= 64 * CHECKPOINT_ENTRIES
        )

    def _document(self) -> dict[str, Any]:
        state = self._state
        return {
            "admission": state.admission,
            "nodes": {name: node.checkpoint() for name, node in state.nodes.items()},
            "requests": {name: waiting.checkpoint() for name, waiting in state.requests.items()},
            "orders": {name: list(order) for name, order in state.orders.items()},
            "jobs": [job.saved_path for job in state.jobs.values()],
        }

    def committed(self, seq: int) -> None:
        """Entry `seq` has been committed."""
        if self._carried:
            self._carried, self._before = False, seq
            self._named = self._naming
            self._evicted.clear()

    def clear(self, journal: Journal) -> None:
        """Remove what the last checkpoint has made needless; if that fails it goes on the next time."""
        if self._before is None:
            return
        journal.prune(self._before)
        emptied = {files.directory_of(path) for path in self._removable if path.startswith(layout.ACTIVE)}
        while self._removable:
            path = self._removable[-1]
            if not self._in_use(path):
                self._disk.remove(path)
            self._removable.pop()
        for directory in sorted(emptied):
            self._disk.rmdir(directory)
            self._disk.rmdir(files.directory_of(directory))
        self._before = None

    def _in_use(self, path: str) -> bool:
        found = layout.parse_snapshot(path.rpartition("/")[2])
        job = self._state.jobs.get(found[0]) if found else None
        return job is not None and job.saved_path == path

    def adopt(self, left: list[str], named: Iterable[str]) -> None:
        """Snapshots that an earlier run has left, and those that its checkpoint names."""
        self._obsolete += left
        self._named = _jobs_done(named)
        for job in self._named & self._state.jobs.keys():
            self._finished[job] = self._state.jobs[job].saved_path or ""

    def needed(self, job: str) -> bool:
        """Whether a recovery would read a snapshot in jobs/done/ of this job, or make it anew from the journal.

        However long it has been over: what is deleted does not come back. Nor is an older snapshot in jobs/active/ to
        outlive the newest: those are removed after the next checkpoint.
        """
        return job in self._named or job in self._evicted

    def evict(self) -> dict[str, str]:
        """Drop finished jobs from memory; those with lost tasks stay, to be corrected. Returns who went, and where."""
        gone = {job: path for job, path in self._finished.items() if self._over(job)}
        self._finished.clear()
        for job in gone:
            del self._state.jobs[job]
        self._evicted |= gone.keys()
        return gone

    def _over(self, job_id: str) -> bool:
        job = self._state.jobs.get(job_id)
        return job is not None and job.finished and not job.lost and job_id not in self._state.touched


def _jobs_done(paths: Iterable[str]) -> set[str]:
    """The jobs of those snapshots that lie in jobs/done/."""
    places = (layout.parse_snapshot(path.rpartition("/")[2]) for path in paths if path.startswith(f"{layout.DONE}/"))
    return {place[0] for place in places if place}
