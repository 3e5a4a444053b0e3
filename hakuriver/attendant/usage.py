"""CPU time and peak memory of what runs in a cgroup, read from time to time.

BUGS: what is used after the last look is not seen. One look is at the end of the first process, which its cgroup
survives by some milliseconds; Linux before 5.3 does not tell that end, and up to a second of CPU time per core is
missing. Of a container that lives for milliseconds nothing is known. Memory's peak is the kernel's own; with cgroup v2,
kernels before 5.19 keep none: the largest use seen stands for it.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from typing import NamedTuple

CGROUPS = "/sys/fs/cgroup"
#: Seconds from a start at which it is looked at; after the last of them, each EVERY_S.
FIRST_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
EVERY_S = 1.0


class Used(NamedTuple):
    """What was used so far."""

    cpu_s: float = 0.0
    peak_memory_bytes: int | None = None


class Group:
    """The cgroup of one container, found by a process in it."""

    def __init__(self, listing: str, root: str = CGROUPS) -> None:
        """`listing`: the content of /proc/<pid>/cgroup; see cgroups(7)."""
        self._cpu = ""
        self._memory = ""
        unified = ""
        for line in listing.splitlines():
            number, controllers, path = line.split(":", 2)
            names = controllers.split(",")
            if "cpuacct" in names:
                self._cpu = f"{root}/{controllers}{path}"
            elif "memory" in names:
                self._memory = f"{root}/{controllers}{path}"
            elif number == "0":
                unified = f"{root}{path}"
        self._unified = "" if self._cpu or self._memory else unified

    def look(self, before: Used) -> Used:
        """What has been used by now. Raises OSError: the cgroup is gone."""
        if self._unified:
            return self._look_unified(before)
        cpu_s = int(_read(f"{self._cpu}/cpuacct.usage")) / 1e9 if self._cpu else 0.0
        return Used(cpu_s, int(_read(f"{self._memory}/memory.max_usage_in_bytes")) if self._memory else None)

    def _look_unified(self, before: Used) -> Used:
        words = dict(line.split() for line in _read(f"{self._unified}/cpu.stat").splitlines())
        try:
            peak = int(_read(f"{self._unified}/memory.peak"))
        except FileNotFoundError:
            peak = max(before.peak_memory_bytes or 0, int(_read(f"{self._unified}/memory.current")))
        return Used(int(words["usage_usec"]) / 1e6, peak)


class _Meter:
    """One that is looked at."""

    def __init__(self, pid: int) -> None:
        """Raises OSError: there is no such process."""
        self.group = Group(_read(f"/proc/{pid}/cgroup"))
        self.used = Used()
        self.since = time.monotonic()
        self.looks = 0
        self.end = _watch(pid)  #: a descriptor that is ready when the process has ended; None: the kernel has none

    def due(self) -> float:
        """When to look at it next, by the monotonic clock."""
        late = self.looks - len(FIRST_S) + 1
        return self.since + (FIRST_S[self.looks] if late <= 0 else FIRST_S[-1] + late * EVERY_S)

    def look(self, now: float) -> None:
        while self.due() <= now:
            self.looks += 1
        try:
            self.used = self.group.look(self.used)
        except (OSError, ValueError, KeyError):
            pass  # it has ended, and is taken out soon


class Usage:
    """Looks at all that run, on one thread."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self._lock = threading.Lock()  #: of the meters
        self._ready = select.epoll()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ready.register(self._wake_read, select.EPOLLIN)

    def add(self, name: str, pid: int) -> None:
        """From now on look at the cgroup of this process; nothing happens if it has ended."""
        with self._lock:
            if name in self._meters:
                return
            try:
                meter = self._meters[name] = _Meter(pid)
            except (OSError, ValueError):
                return
            if meter.end is not None:
                self._ready.register(meter.end, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
                self._thread.start()
        os.write(self._wake_write, b"!")

    def take(self, name: str) -> Used:
        """What was seen of one that has ended; it is not looked at any more."""
        with self._lock:
            meter = self._meters.pop(name, None)
            if meter is None:
                return Used()
            if meter.end is not None:
                os.close(meter.end)
            return meter.used

    def _run(self) -> None:
        while True:
            with self._lock:
                due = min((meter.due() for meter in self._meters.values()), default=None)
            ready = {fd for fd, _ in self._ready.poll(None if due is None else max(0.0, due - time.monotonic()))}
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            with self._lock:
                now = time.monotonic()
                for meter in self._meters.values():
                    if meter.end in ready or meter.due() <= now:
                        self._look(meter, now, meter.end in ready)

    def _look(self, meter: _Meter, now: float, last: bool) -> None:
        meter.look(now)
        if last and meter.end is not None:
            os.close(meter.end)
            meter.end = None


def _watch(pid: int) -> int | None:
    """A descriptor that is ready when a process has ended. Raises OSError: it has."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, PermissionError):
        return None  # a sandbox
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return None  # Linux before 5.3
        raise


def _read(path: str) -> str:
    # Not open(): this is done once a second for each container, and needs no decoder or buffer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)
