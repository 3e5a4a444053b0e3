"""Heartbeats: each a new numbered file. The lease is renewed by those alone that were published.

It counts from before the write was issued: whatever time the share takes shortens it. Where a round hangs in some other
operation, the last heartbeat may be repeated from another thread: an NFS server makes whoever writes a file wait, for
as long as its own lease, when a machine that has read the file does not answer any more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from hakuriver.records import GpuLoad, Heartbeat, Load
from hakuriver.settings import Timing
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths

#: Seconds for which heartbeats are kept, for people and for a runner that starts.
KEEP_S = 60.0
#: A heartbeat that is late by this part of the interval is made by another thread, for so many seconds at most: then
#: the node is to count as silent, since it does nothing.
LATE, REPEAT_S = 0.5, 300.0
#: What is told of it.
HANGS = "an operation on the share does not come back"
#: Heartbeats after which the host is to read one, though only small changes of the load are new.
READ_EVERY = 12
#: Steps in which the load counts as changed: per cent of CPU and of memory, degrees Celsius.
STEP_CPU, STEP_MEMORY, STEP_CELSIUS = 15.0, 5.0, 5.0
#: And of a GPU's memory: bytes.
STEP_GPU_MEMORY = 1 << 30


class Heart:
    """The heartbeats of one epoch."""

    def __init__(
        self,
        disk: Disk,
        paths: NodePaths,
        epoch: int,
        timing: Timing,
        boottime: Callable[[], float],
        lease_until: float = 0.0,
    ) -> None:
        """`lease_until`: of the lease that the keeper was given by the runner before this one, by CLOCK_BOOTTIME."""
        self._disk = disk
        self._paths = paths
        self._epoch = epoch
        self._timing = timing
        self._boottime = boottime
        self.born = boottime()
        self.next_at = self.born
        self.seq = 0
        self.told = 0  #: the last one that was published
        self.since = 0  #: the heartbeat since which nothing has changed in them that need be read
        self._read: Heartbeat | None = None  #: the content of that one
        self._last: Heartbeat | None = None  #: the last that was published
        self._made: Heartbeat | None = None  #: the last that was no repetition
        self._made_at = self.born
        self._beating = threading.Lock()
        self.told_cursor: str | None = None  #: the place in the inbox that the last one told
        self.lease_until = lease_until  #: by CLOCK_BOOTTIME
        self.leases = 0  #: grows with each heartbeat before which the lease had run out
        self._kept: deque[tuple[float, int]] = deque()

    def due(self) -> bool:
        """Whether it is time for one."""
        return self._boottime() >= self.next_at

    def overdue_at(self) -> float:
        """When the last one is to be repeated, by CLOCK_BOOTTIME."""
        return self.next_at + self._timing.heartbeat_interval * LATE

    def overdue(self) -> bool:
        """Whether to repeat it now."""
        return self.overdue_at() <= self._boottime() < self._made_at + REPEAT_S

    def repeat(self, now: float) -> bool:
        """Publish what the last one told, again, if it is still overdue; see `beat`. `now`: seconds since 1970."""
        with self._beating:
            made = self._made
            if made is None or not self.overdue():
                return False
            problems = [*made.problems, HANGS]
            self._beat(lambda seq: made.model_copy(update={"seq": seq, "at": now, "problems": problems}))
            return True

    def beat(self, make: Callable[[int], Heartbeat]) -> None:
        """Publish one, and extend the lease. After a failure the next try has a new number."""
        with self._beating:
            self._beat(make)
            self._made, self._made_at = self._last, self._boottime()

    def _beat(self, make: Callable[[int], Heartbeat]) -> None:
        asked = self._boottime()
        self.seq += 1
        heartbeat = make(self.seq)
        data = heartbeat.model_dump_json().encode() + b"\n"
        files.publish(self._disk, self._paths.numbered("heartbeat", self._epoch, self.seq), data)
        self._kept.append((asked, self.seq))
        self.told = self.seq
        self._last = heartbeat
        if self._read is None or self.seq - self.since >= READ_EVERY or differ(self._read, heartbeat):
            self.since, self._read = self.seq, heartbeat
        self.told_cursor = heartbeat.inbox
        self.leases += asked >= self.lease_until
        self.next_at = asked + self._timing.heartbeat_interval
        self.lease_until = asked + self._timing.lease

    def leased(self) -> bool:
        """Whether the lease is long enough for a task to be started now."""
        return self._boottime() < self.lease_until - self._timing.kill_grace - 1.0

    def tidy(self) -> None:
        """Remove own heartbeats that are old; the newest stays."""
        now = self._boottime()
        while len(self._kept) > 1 and now - self._kept[0][0] > KEEP_S:
            self._disk.remove(self._paths.numbered("heartbeat", self._epoch, self._kept[0][1]))
            self._kept.popleft()

    def sweep(self) -> None:
        """Remove those of earlier epochs, and own ones whose publishing was reported as failed, once they are old."""
        if self._boottime() - self.born <= KEEP_S:
            return
        lying = files.positions(self._disk, self._paths.dir("heartbeat"))
        # Looked at after the listing: another thread may have made one meanwhile.
        kept = {(self._epoch, seq) for _, seq in tuple(self._kept)}
        for place in lying:
            if place not in kept and place < (self._epoch, self.told):
                self._disk.remove(self._paths.numbered("heartbeat", *place))


def differ(before: Heartbeat, now: Heartbeat) -> bool:
    """Whether one heartbeat tells what the other does not: anything but its number, its time and a little load."""
    aside = {"seq", "at", "load"}
    return before.model_dump(exclude=aside) != now.model_dump(exclude=aside) or _loads_differ(before.load, now.load)


def _loads_differ(before: Load, now: Load) -> bool:
    total = now.memory_total_bytes or 1
    return (
        abs(before.cpu_percent - now.cpu_percent) > STEP_CPU
        or abs(before.memory_used_bytes - now.memory_used_bytes) * 100 / total > STEP_MEMORY
        or abs((before.temperature_c or 0.0) - (now.temperature_c or 0.0)) > STEP_CELSIUS
        or [gpu.index for gpu in before.gpus] != [gpu.index for gpu in now.gpus]
        or any(_gpus_differ(old, new) for old, new in zip(before.gpus, now.gpus, strict=True))
    )


def _gpus_differ(before: GpuLoad, now: GpuLoad) -> bool:
    """Whether processes came or went, or it works much more or less."""
    return (
        before.processes != now.processes
        or abs((before.utilization_percent or 0) - (now.utilization_percent or 0)) > STEP_CPU
        or abs((before.memory_used_bytes or 0) - (now.memory_used_bytes or 0)) > STEP_GPU_MEMORY
        or abs((before.temperature_c or 0) - (now.temperature_c or 0)) > STEP_CELSIUS
    )
