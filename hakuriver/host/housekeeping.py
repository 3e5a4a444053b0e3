"""Deletes what retention has passed: finished jobs with their outputs, receipts; a slice of it in each tick.

Where a deletion is a round trip a hundred thousand of them take minutes, in which the host has to go on leading. So a
collection stops after any operation on the share, and goes on in the next tick. All of it may be repeated: one that was
broken off, by a share that went away or by the host's end, begins anew and finds what is left.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from hakuriver.host.door import Asked
from hakuriver.ids import JOB_ID_DIGITS, is_job_id, job_time
from hakuriver.settings import Retention
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, Entry, ShareError

#: Seconds of a tick that go to a collection: if nothing else happens in it, and if something does.
SLICE_S, SLICE_BUSY_S = 0.1, 0.02
#: What is deleted.
KINDS = JOBS, OUTPUTS, RECEIPTS = "jobs", "outputs", "receipts"


class Collection:
    """One look through all that is kept: what is to go, and what has gone so far."""

    def __init__(self, keep: Retention, now: float, older_than: float | None, asked: Asked | None) -> None:
        """`asked`: the request to be answered at its end, if there was one."""
        self.asked = asked
        #: Seconds since 1970: what is older goes.
        self.jobs_before = now - (keep.jobs if older_than is None else older_than)
        self.outputs_before = now - (keep.outputs if older_than is None else older_than)
        self.receipts_before = now - (keep.receipts if older_than is None else older_than)
        self.deleted = Counter(dict.fromkeys(KINDS, 0))
        self.failed = 0
        self.why = ""  #: of the first that could not be deleted

    def may_concern(self, job: str) -> bool:
        """Whether it deletes anything of jobs as old as this one."""
        return job_time(job) < max(self.jobs_before, self.outputs_before, self.receipts_before)

    def text(self) -> str:
        """For people."""
        text = "deleted " + ", ".join(f"{self.deleted[kind]} {kind}" for kind in KINDS)
        return f"{text}; {self.failed} could not be deleted, the first: {self.why}" if self.failed else text


class Housekeeping:
    """Goes by the time in a job's id: its bucket's name is all that is looked at until it is old enough.

    Whether a job is active is asked right before each deletion, since it may come to life again between two slices. One
    that has come to life and is over again stays until the next collection, which lists its newer files too.
    """

    def __init__(
        self, disk: Disk, retention: Retention, active: Callable[[str], bool], clock: Callable[[], float]
    ) -> None:
        """`active`: whether a job is to be kept, at this moment; `clock`: seconds that never go back."""
        self._disk = disk
        self._retention = retention
        self._active = active
        self._clock = clock
        self._open: deque[Collection] = deque()  #: the first is under way
        self._steps: Iterator[None] | None = None
        self._over: list[Collection] = []
        self._removed: list[str] = []  #: kinds of what is gone since the share was last seen to be there
        self._ended: set[str] = set()  #: jobs that it may concern, and that were active when it was under way
        self._gone: list[str] = []

    def ask(self, now: float, older_than: float | None = None, asked: Asked | None = None) -> None:
        """Have all deleted that is older than the settings say, or than `older_than` seconds, at `now`."""
        self._open.append(Collection(self._retention, now, older_than, asked))

    @property
    def busy(self) -> bool:
        """Whether there is something to delete, or to answer."""
        return bool(self._open or self._over)

    def ended(self, job: str) -> None:
        """A job is not active any more."""
        if self._open and self._open[0].may_concern(job):
            self._ended.add(job)

    def go_on(self, seconds: float) -> None:
        """Delete for so long, and do one operation at least. Raises ShareError while the share is away."""
        end = self._clock() + seconds
        try:
            while self._open:
                first = self._open[0]
                self._step(first)
                if self._clock() >= end:
                    return self._settle(first)
        except BaseException:
            # What raises is over, as generators are: the next step begins anew, and finds what only seemed to be gone.
            self._steps = None
            self._removed.clear()
            raise
        return None

    def answers(self) -> list[tuple[Asked, str]]:
        """Requests that are done since the last call, and what to say."""
        over, self._over = self._over, []
        return [(each.asked, each.text()) for each in over if each.asked is not None]

    def gone(self) -> list[str]:
        """Jobs deleted since the last call; some of them only now, if the share went away meanwhile."""
        gone, self._gone = self._gone, []
        return gone

    def _step(self, first: Collection) -> None:
        self._steps = self._steps or self._collect(first)
        for _ in self._steps:
            return
        self._settle(first)
        self._steps = None
        self._open.popleft()
        self._ended.clear()
        if first.asked is not None:
            self._over.append(first)

    def _settle(self, first: Collection) -> None:
        """Count what was removed. Where the share is not, all seems to be gone, and nothing was listed."""
        files.present(self._disk)
        first.deleted.update(self._removed)
        self._removed.clear()

    # -- one collection; it stops after each operation

    def _collect(self, first: Collection) -> Iterator[None]:
        yield from self._jobs(first)
        for tree in (layout.OUTPUTS, layout.ERRORS):
            yield from self._outputs(first, tree)
        for name, _, job in (yield from self._older(first, layout.RECEIPTS, first.receipts_before)):
            yield from self._remove(first, RECEIPTS, job, f"{layout.RECEIPTS}/{name}")

    def _jobs(self, first: Collection) -> Iterator[None]:
        for day in (yield from self._list(first, layout.DONE)):
            if _bucket_time(day.name, "") > first.jobs_before:
                continue
            for bucket in (yield from self._list(first, f"{layout.DONE}/{day.name}")):
                if _bucket_time(day.name, bucket.name) <= first.jobs_before:
                    yield from self._bucket(first, f"{layout.DONE}/{day.name}/{bucket.name}")
            self._disk.rmdir(f"{layout.DONE}/{day.name}")
            yield

    def _bucket(self, first: Collection, directory: str) -> Iterator[None]:
        for name, _, job in (yield from self._older(first, directory, first.jobs_before)):
            if layout.parse_snapshot(name):
                yield from self._remove(first, JOBS, job, f"{directory}/{name}")
        self._disk.rmdir(directory)
        yield

    def _outputs(self, first: Collection, tree: str) -> Iterator[None]:
        for name, is_dir, job in (yield from self._older(first, tree, first.outputs_before)):
            if not is_dir:
                yield from self._remove(first, OUTPUTS, job, f"{tree}/{name}")
            elif not self._kept(job):
                yield from self._empty(first, job, f"{tree}/{name}")

    def _empty(self, first: Collection, job: str, directory: str) -> Iterator[None]:
        for entry in (yield from self._list(first, directory)):
            yield from self._remove(first, OUTPUTS, job, f"{directory}/{entry.name}")
        self._disk.rmdir(directory)
        yield

    def _older(
        self, first: Collection, directory: str, before: float
    ) -> Generator[None, None, list[tuple[str, bool, str]]]:
        """What in a directory begins with the id of an older job or request: name, whether a directory, that id."""
        entries = yield from self._list(first, directory)
        named = ((entry.name, entry.is_dir, entry.name[:JOB_ID_DIGITS]) for entry in entries)
        return [each for each in named if is_job_id(each[2]) and job_time(each[2]) < before]

    def _list(self, first: Collection, directory: str) -> Generator[None, None, list[Entry]]:
        entries: list[Entry] = []
        with self._noting(first):
            try:
                entries = self._disk.list(directory)
            except FileNotFoundError:
                pass
        yield
        return entries

    def _remove(self, first: Collection, kind: str, job: str, path: str) -> Iterator[None]:
        """Remove a file of a job, unless that is kept."""
        if self._kept(job):
            return
        with self._noting(first):
            self._disk.remove(path)
            self._removed.append(kind)
            if kind == JOBS:
                self._gone.append(job)
        yield

    def _kept(self, job: str) -> bool:
        return job in self._ended or self._active(job)

    @contextmanager
    def _noting(self, first: Collection) -> Iterator[None]:
        """What fails though the share is there would fail again: it is left, and told. Raises ShareAway."""
        try:
            yield
        except ShareError as error:
            files.present(self._disk)
            first.failed += 1
            first.why = first.why or str(error)


def _bucket_time(day: str, bucket: str) -> float:
    """The earliest time of ids in a bucket, seconds since 1970."""
    return int((day + bucket).ljust(13, "0")) / 1000 if (day + bucket).isdigit() else float("inf")
