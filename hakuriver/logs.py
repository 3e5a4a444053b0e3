"""Read what a task has written, as its runner carries it to the share: whole there before the ending is told.

Files are opened anew for each look: on a network file system only an open() asks the server.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator

from hakuriver import reading
from hakuriver.checks import task_ranges
from hakuriver.client import open_share
from hakuriver.errors import Invalid, NotFound, ShareProblem
from hakuriver.ids import task_name
from hakuriver.reading import FINAL, Job
from hakuriver.resolving import Target, resolve_one
from hakuriver.spool import layout
from hakuriver.spool.access import Share

CHUNK = 1 << 20  #: bytes read at once
#: Seconds between two looks at a file that may grow.
FIRST_LOOK, LONGEST_LOOK = 0.1, 1.0


class Log:
    """One attempt's stdout or stderr on the share, read from an offset on."""

    def __init__(self, share: Share, job: str, k: int | None, attempt: int, err: bool) -> None:
        self._share = share
        self.path = (layout.stderr_path if err else layout.stdout_path)(job, k, attempt)
        self.offset = 0  #: bytes read so far

    def read(self) -> Iterator[bytes]:
        """What lies beyond the offset now; nothing if there is no file (it appears with its first byte)."""
        self._share.look(self.path.rpartition("/")[0])
        try:
            with open(self._share.path(self.path), "rb") as file:
                file.seek(self.offset)
                while part := file.read(CHUNK):
                    self.offset += len(part)
                    yield part
        except FileNotFoundError:
            return
        except OSError as error:
            raise ShareProblem(f"cannot read {self._share.path(self.path)}: {error.strerror}; try again") from error

    def skip_to_tail(self, lines: int) -> None:
        """Go on from where the last so many lines begin."""
        self._share.look(self.path.rpartition("/")[0])
        try:
            with open(self._share.path(self.path), "rb") as file:
                self.offset = tail_offset(file, lines)
        except OSError:
            self.offset = 0  # not there yet: all that comes is the tail


def tail_offset(file: io.BufferedReader, lines: int) -> int:
    """Where the last `lines` lines of a file begin, in bytes."""
    position = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return position
    at_end = True
    while position > 0:
        start = max(0, position - CHUNK)
        file.seek(start)
        block = file.read(position - start)
        at = len(block) - 1 if at_end and block.endswith(b"\n") else len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            lines -= 1
            if lines == 0:
                return start + at + 1
        position, at_end = start, False
    return 0


def one_task(job: Job, target: Target) -> int | None:
    """Which task of the job is meant; None for its only one. Raises Invalid, NotFound."""
    if target.ranges is None:
        if job.total > 1:
            raise Invalid("ID", target.name, f"it has {job.total} tasks: name one, as {_first(job)}")
        return None
    if target.total != 1:
        raise Invalid("ID", target.name, f"name one task, as {task_name(job.job, target.ranges[0][0])}")
    return reading.task_of(job, target.ranges[0][0]).k


def _first(job: Job) -> str:
    ranges = task_ranges(job.spec.get("array"), len(job.spec.get("targets") or ()))
    return task_name(job.job, ranges[0][0] if ranges else None)


def read_logs(
    task: str,
    *,
    err: bool = False,
    attempt: int | None = None,
    tail: int | None = None,
    follow: bool = False,
    shared_dir: str | None = None,
    on_attempt: Callable[[int], None] | None = None,
) -> Iterator[bytes]:
    """What a task wrote to stdout (`err`: to stderr), as bytes.

    `attempt`: default the latest; when following, those that come after it too. `tail`: the last so many lines.
    `follow`: go on until the task has ended and all of it is read. `on_attempt` is told each attempt that is begun.
    Raises NotFound, Invalid, Ambiguous, ShareProblem.
    """
    return Reading.of(open_share(shared_dir), task, err, attempt, tail, on_attempt).run(follow)


class Reading:
    """Goes from attempt to attempt."""

    @classmethod
    def of(
        cls, share: Share, task: str, err: bool, attempt: int | None, tail: int | None,
        on_attempt: Callable[[int], None] | None = None,
    ) -> Reading:  # fmt: skip
        """What somebody typed. Raises as `read_logs` does."""
        target = resolve_one(share, task)
        job = reading.load(share, target.job)
        return cls(share, job, one_task(job, target), err, attempt, tail, on_attempt)

    def __init__(
        self, share: Share, job: Job, k: int | None, err: bool, attempt: int | None, tail: int | None,
        on_attempt: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        self._share = share
        self._job = job
        self._k = k
        self._err = err
        self._pinned = attempt
        self._on_attempt = on_attempt or (lambda _: None)
        self._seq = -1
        self._know(job)
        if attempt and attempt > self._latest and self.state in FINAL:
            raise NotFound(f"there was no attempt {attempt} of {task_name(job.job, k)}: the last was {self._latest}")
        self._begin(attempt or self._latest)
        if tail is not None:
            self._log.skip_to_tail(tail)

    def _know(self, job: Job) -> None:
        task = reading.task_of(job, self._k)
        self.state, self._latest = task.state, max(1, task.attempt)

    def _begin(self, attempt: int) -> None:
        self.attempt = attempt
        self._log = Log(self._share, self._job.job, self._k, attempt, self._err)
        self._on_attempt(attempt)

    @property
    def task(self) -> str:
        """The task's name."""
        return task_name(self._job.job, self._k)

    @property
    def path(self) -> str:
        """The file at hand, on this machine."""
        return self._share.path(self._log.path)

    def run(self, follow: bool) -> Iterator[bytes]:
        """Yield what there is, and what comes."""
        pause = FIRST_LOOK
        while True:
            over = not follow or self._over()  # asked before reading: what is told as over lies there whole
            offset = self._log.offset
            yield from self._log.read()
            if over and not self._next_attempt():
                return
            if not over:
                pause = FIRST_LOOK if self._log.offset > offset else min(pause * 1.5, LONGEST_LOOK)
                time.sleep(pause)

    def _over(self) -> bool:
        """Whether nothing more comes into the file at hand."""
        place = reading.find(self._share, {self._job.job}).get(self._job.job)
        if place is None or place.seq != self._seq:
            self._look(place.seq if place else 0)
        return self.state in FINAL or self.state == "refused" or self._latest > self.attempt

    def _look(self, seq: int) -> None:
        self._job = reading.load(self._share, self._job.job)
        self._seq = seq
        self._know(self._job)

    def _next_attempt(self) -> bool:
        if self._pinned or self._latest <= self.attempt:
            return False
        self._begin(self.attempt + 1)
        return True
