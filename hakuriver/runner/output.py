"""Carries the output of tasks from the node's disk to the share, and frees it locally as it goes.

    local   out/<slot>.out      [ carried: a hole ][ gap: dropped by the keeper ][ data ................ ]
    share   task_outputs/...    [ carried ........][ one line that says so      ][ data ...

Nothing remembers how far it has come: what is carried *and durable* is punched out in whole blocks, so that after
a restart SEEK_DATA finds where to go on, at most a block too early; the same bytes written to the same place again
do no harm. Where a byte goes is a function of `<file>.gaps` alone. The keeper writes that file before it frees
anything and frees nothing less than a quarter of the limit behind the first data; a piece carried at once is
smaller. So a gap never reaches back over what was carried; should one all the same, the carrying starts over.

A slot that its task has left empty serves another task at once. So what was read for a running task is its own only
if its process is still there after the reading: the keeper gives a slot away when it has reaped the process.

BUGS: a task that truncates its own output has it overwritten on the share from the start. Where the local file
system cannot punch holes, nothing is freed, and a restart carries all of it once more.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from hakuriver.keeper.proc import start_ticks
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError, directory_of

if TYPE_CHECKING:
    from hakuriver.runner.work import Attempt

Gap = tuple[int, int]  #: local bytes [start, end) that were dropped

BLOCK = 4096
PIECE = 1 << 20  #: bytes read and written at once, at most
TURN_MOST = 8 << 20  #: bytes carried in one turn for tasks that have ended, so that heartbeats stay on time
LIVE_EVERY_S = 1.0
#: Errors of one path that waiting will not mend: a link or a directory where the output should go.
HOPELESS = {errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EFBIG, errno.EEXIST}

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def punch(fd: int, start: int, end: int) -> None:
    """Free the blocks of [start, end); the file keeps its size. Nothing where that cannot be done (fallocate(2))."""
    if start < end:
        mode, offset, length = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ctypes.c_int64(start), end - start
        _libc.fallocate64(fd, mode, offset, ctypes.c_int64(length))


def marker(gap: Gap) -> bytes:
    """The line that stands on the share for what was dropped."""
    dropped = gap[1] - gap[0]
    return f"\n[hakuriver: {dropped} bytes dropped here, more than the node keeps while the share is away]\n".encode()


def read_gaps(local: str) -> list[Gap]:
    """What the keeper has dropped of a file: disjoint, in order."""
    try:
        with open(local + ".gaps", encoding="ascii") as file:
            return [(start, end) for start, end in json.load(file)]
    except FileNotFoundError:
        return []


def on_share(offset: int, gaps: list[Gap]) -> int:
    """Where the local byte `offset` goes on the share."""
    return offset + sum(len(marker(gap)) - (gap[1] - gap[0]) for gap in gaps if gap[1] <= offset)


def block_of(offset: int) -> int:
    """The beginning of the block that `offset` lies in."""
    return offset // BLOCK * BLOCK


class NotOurs(Exception):
    """The task has ended, and its file may be another's by now; the keeper's news will tell."""


class Stream:
    """One output of one attempt, on its way."""

    def __init__(self, local: str, target: str, limit: int, process: tuple[int, int | None] | None = None) -> None:
        """`process`: pid and start ticks of the task that writes."""
        self.local = local
        self.target = target
        self._process = process
        self.position = -1  #: local bytes before this were carried; -1: not known
        self._piece = max(BLOCK, min(PIECE, limit // 4 - BLOCK))
        self._durable = 0  #: local bytes before this are durable on the share
        self._passed: list[Gap] = []

    def pending(self) -> bool:
        """Whether there is more than was carried."""
        try:
            return os.stat(self.local).st_size != max(self.position, 0)
        except FileNotFoundError:
            return False

    def carry(self, disk: Disk, most: int) -> int:
        """Carry up to about `most` bytes of what there is now; return how many. Raises NotOurs."""
        return self._carry(disk, most, final=False)[0]

    def finish(self, disk: Disk, most: int, *, durable: bool) -> tuple[int, bool]:
        """The same for a file that does not grow any more; tell also whether all is on the share.

        With `durable` it is durable then; otherwise once the caller has synced the whole file system.
        """
        self._process = None  # it has ended, and the file stays
        if durable and 0 <= self._durable < self.position:
            self.position = self._durable
        return self._carry(disk, most, final=durable)

    def unsure(self) -> None:
        """A sync has failed: what was written since the last that succeeded is written again."""
        if self.position >= 0:
            self.position = self._durable

    def _carry(self, disk: Disk, most: int, *, final: bool) -> tuple[int, bool]:
        try:
            fd = os.open(self.local, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0, True  # lost with the node's disk
        try:
            done = 0
            while (size := os.fstat(fd).st_size) != self.position and done < most:
                done += self._step(disk, fd, size, final)
            return done, size == self.position
        finally:
            os.close(fd)

    def _step(self, disk: Disk, fd: int, size: int, final: bool) -> int:
        """Pass a gap or carry one piece; return how many bytes."""
        gaps = read_gaps(self.local)
        if self.position < 0 or size < self.position or self._passed != [g for g in gaps if g[0] < self.position]:
            self._find(disk, fd, size, gaps)
            return 0
        ahead = next((gap for gap in gaps if gap[0] >= self.position), None)
        if ahead is not None and ahead[0] == self.position:
            self._pass(disk, ahead, gaps)
            return 0
        end = min(size, self.position + self._piece, ahead[0] if ahead else size)
        data = os.pread(fd, end - self.position, self.position)
        if not data or read_gaps(self.local) != gaps:
            return 0  # what was read may be of a hole: look again
        self._write(disk, fd, data, gaps, final)
        return len(data)

    def _find(self, disk: Disk, fd: int, size: int, gaps: list[Gap]) -> None:
        """Find where to go on, and have the lines for all gaps before it on the share."""
        try:
            self.position = os.lseek(fd, 0, os.SEEK_DATA)
        except OSError:  # ENXIO: no data; all of it was carried or dropped
            self.position = size
        self._passed = []
        for gap in gaps:
            if gap[0] < self.position:
                self._pass(disk, gap, gaps)
        self._durable = self.position

    def _pass(self, disk: Disk, gap: Gap, gaps: list[Gap]) -> None:
        self._check()
        _write(disk, self.target, on_share(gap[0], gaps), marker(gap), durable=True)
        self._passed.append(gap)
        self.position = self._durable = max(self.position, gap[1])

    def _write(self, disk: Disk, fd: int, data: bytes, gaps: list[Gap], final: bool) -> None:
        """Durable whenever whole blocks can be freed then."""
        end = self.position + len(data)
        durable = final or block_of(end) > block_of(self._durable)
        self._check()
        _write(disk, self.target, on_share(self.position, gaps), data, durable=durable)
        if durable:
            punch(fd, block_of(self._durable), block_of(end))
            self._durable = end
        self.position = end

    def _check(self) -> None:
        """Make sure that what was read so far is our task's."""
        if self._process is None:
            return
        pid, ticks = self._process
        if ticks is None or start_ticks(pid) != ticks:
            raise NotOurs


def _write(disk: Disk, target: str, offset: int, data: bytes, *, durable: bool) -> None:
    try:
        disk.write_at(target, offset, data, durable=durable)
    except FileNotFoundError:
        disk.mkdir(directory_of(target))
        disk.write_at(target, offset, data, durable=durable)


class Finished(NamedTuple):
    """An attempt whose output is whole and durable on the share."""

    attempt: Attempt
    note: str  #: what could not be stored, for its reason


class Carrier:
    """The outputs of all attempts of this node."""

    def __init__(self, disk: Disk, out_dir: str, limit: int) -> None:
        self._disk = disk
        self._out_dir = out_dir
        self._limit = limit
        self._live: dict[tuple[str, int], Attempt] = {}
        self._ending: deque[Attempt] = deque()
        self._streams: dict[tuple[str, int], list[Stream]] = {}
        self._look_at = 0.0
        self.trouble: ShareError | None = None  #: why the last turn left something

    def follow(self, attempt: Attempt) -> None:
        """It runs: look at its output every second."""
        if attempt.slot is not None:
            self._live[attempt.key] = attempt

    def leave(self, attempt: Attempt) -> None:
        """It has ended and written nothing."""
        self._live.pop(attempt.key, None)
        self._streams.pop(attempt.key, None)

    def finish(self, attempt: Attempt) -> None:
        """It has ended: carry what there is, then say so."""
        self._live.pop(attempt.key, None)
        self._ending.append(attempt)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the end of an output."""
        return bool(self._ending)

    def due(self) -> float | None:
        """When running tasks are looked at next, by the clock that `turn` gets; None if there are none."""
        return self._look_at if self._live else None

    def turn(self, now: float) -> list[Finished]:
        """Carry for a while; return what has become whole. `trouble` tells what the share said against it."""
        self.trouble = None
        finished = self._finish_some()
        if self._live and now >= self._look_at and self.trouble is None:
            self._look_at = now + LIVE_EVERY_S
            self._carry_live()
        return finished

    def _streams_of(self, attempt: Attempt) -> list[Stream]:
        found = self._streams.get(attempt.key)
        if found is None:
            local = f"{self._out_dir}/{attempt.slot}"
            name = (attempt.job, attempt.k, attempt.attempt)
            found = self._streams[attempt.key] = [
                Stream(local + ".out", layout.stdout_path(*name), self._limit, attempt.process),
                Stream(local + ".err", layout.stderr_path(*name), self._limit, attempt.process),
            ]
        return found

    def _carry_live(self) -> None:
        for attempt in list(self._live.values()):
            for stream in [s for s in self._streams_of(attempt) if s.pending()]:
                try:
                    self._try(stream, PIECE)
                except NotOurs:
                    del self._live[attempt.key]  # the rest is carried when its end is told
                    break
                if self.trouble is not None:
                    return
                if stream.pending():
                    self._look_at = 0.0  # more than a piece has come: go on at once

    def _try(self, stream: Stream, most: int) -> None:
        try:
            stream.carry(self._disk, most)
        except (ShareError, FileNotFoundError, FileExistsError) as error:
            if self._note(stream.target, error).errno in HOPELESS:
                self.trouble = None  # its ending will say so

    def _note(self, path: str, error: Exception) -> ShareError:
        found = error if isinstance(error, ShareError) else None
        if found is None:
            assert isinstance(error, OSError)
            found = ShareError("write", path, error)
        self.trouble = found
        return found

    def _finish_some(self) -> list[Finished]:
        """Those whose turn it is, until the bytes of a turn are used up or the share objects."""
        together = len(self._ending) >= files.SYNC_ALL_FROM
        done: list[Finished] = []
        left = TURN_MOST
        for _ in range(len(self._ending)):
            if left <= 0 or self.trouble is not None:
                break
            attempt = self._ending.popleft()
            used, whole, note = self._finish_one(attempt, left, durable=not together)
            left -= used
            if whole:
                done.append(Finished(attempt, note))
            else:
                self._ending.append(attempt)  # behind the others: one that cannot be stored holds up nobody
        return self._make_durable(done, together)

    def _finish_one(self, attempt: Attempt, most: int, *, durable: bool) -> tuple[int, bool, str]:
        used, whole, note = 0, True, ""
        for stream in self._written(attempt):
            try:
                some, complete = stream.finish(self._disk, most - used, durable=durable)
                used, whole = used + some, whole and complete
            except (ShareError, FileNotFoundError, FileExistsError) as error:
                found = self._note(stream.target, error)
                if found.errno in HOPELESS:
                    note += f"; its output could not be stored: {found}"
                    self.trouble = None
                else:
                    whole = False
        return used, whole, note

    def _make_durable(self, done: list[Finished], together: bool) -> list[Finished]:
        if not done:
            return done
        try:
            if together:
                self._disk.sync_all()
            else:
                self._sync_directories(done)
        except (ShareError, FileNotFoundError) as error:
            self._note(layout.OUTPUTS, error)
            for finished in done:
                for stream in self._streams_of(finished.attempt):
                    stream.unsure()
            self._ending.extend(finished.attempt for finished in done)
            return []
        for finished in done:
            self._streams.pop(finished.attempt.key, None)
        return done

    def _sync_directories(self, done: list[Finished]) -> None:
        """The names of new files, and of a job's new directory."""
        directories: dict[str, None] = {}
        for stream in [s for f in done if not f.note for s in self._written(f.attempt)]:
            directory = directory_of(stream.target)
            directories[directory] = None
            directories[directory_of(directory) or directory] = None
        self._disk.sync(directories)

    def _written(self, attempt: Attempt) -> list[Stream]:
        """Those streams of an attempt that has ended to which it wrote anything."""
        end = attempt.end or {}
        sizes = (end.get("out_bytes"), end.get("err_bytes"))
        return [stream for stream, size in zip(self._streams_of(attempt), sizes, strict=True) if size]
