"""Heartbeats: each a new numbered file. The lease is renewed by those alone that were published.

It counts from before the write was issued: whatever time the share takes shortens it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hakuriver.records import Heartbeat, Load
from hakuriver.settings import Timing
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths

#: Seconds for which heartbeats are kept, for people and for a runner that starts.
KEEP_S = 60.0
#: Heartbeats after which the host is to read one, though only small changes of the load are new.
READ_EVERY = 12
#: Steps in which the load counts as changed: per cent of CPU and of memory, degrees Celsius.
STEP_CPU, STEP_MEMORY, STEP_CELSIUS = 15.0, 5.0, 5.0


class Heart:
    """The heartbeats of one epoch."""

    def __init__(self, disk: Disk, paths: NodePaths, epoch: int, timing: Timing, boottime: Callable[[], float]) -> None:
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
        self._last: Heartbeat | None = None  #: the content of that one
        self.told_cursor: str | None = None  #: the place in the inbox that the last one told
        self.lease_until = 0.0  #: by CLOCK_BOOTTIME
        self._kept: deque[tuple[float, int]] = deque()

    def due(self) -> bool:
        """Whether it is time for one."""
        return self._boottime() >= self.next_at

    def beat(self, make: Callable[[int], Heartbeat]) -> float:
        """Publish one; return until when the lease lasts now. After a failure the next try has a new number."""
        asked = self._boottime()
        self.seq += 1
        heartbeat = make(self.seq)
        data = heartbeat.model_dump_json().encode() + b"\n"
        files.publish(self._disk, self._paths.numbered("heartbeat", self._epoch, self.seq), data)
        self._kept.append((asked, self.seq))
        self.told = self.seq
        if self._last is None or self.seq - self.since >= READ_EVERY or differ(self._last, heartbeat):
            self.since, self._last = self.seq, heartbeat
        self.told_cursor = heartbeat.inbox
        self.next_at = asked + self._timing.heartbeat_interval
        self.lease_until = asked + self._timing.lease
        return self.lease_until

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
        kept = {(self._epoch, seq) for _, seq in self._kept}
        for place in files.positions(self._disk, self._paths.dir("heartbeat")):
            if place not in kept and place[0] <= self._epoch:
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
    )
