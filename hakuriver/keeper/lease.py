"""The lease: its arithmetic, and the file that keeps it. All times in seconds of CLOCK_BOOTTIME.

    ... run ...  | fence_at: SIGTERM | + grace: SIGKILL | + MARGIN_S: the lease ends

A task that the cluster may start elsewhere must be gone when the lease ends, so its stopping begins early.
"""

from __future__ import annotations

import os

MARGIN_S = 1.0  #: between the last SIGKILL and the end of the lease


def fence_at(until: float, grace_s: float) -> float:
    """When the stopping of a rerunnable task begins."""
    return until - grace_s - MARGIN_S


def grace_left(until: float, now: float, grace_s: float) -> float:
    """How long after SIGTERM a task may still run; less than its grace if the stopping began late."""
    return max(0.0, min(grace_s, until - MARGIN_S - now))


def start_before(until: float, *, rerunnable: bool, grace_s: float) -> float:
    """From when on a task may not be started any more."""
    return fence_at(until, grace_s) if rerunnable else until


def may_start(until: float | None, now: float, *, rerunnable: bool, grace_s: float) -> bool:
    """Whether a task may be started now. A lease that was never told is none."""
    return until is not None and now < start_before(until, rerunnable=rerunnable, grace_s=grace_s)


class Kept:
    """The lease in a file, for the next keeper: what an engine holds outlives this one, and its lease with it.

    One line that is written over, always of the same length; it need not survive the machine, so it is not synced.
    """

    def __init__(self, directory: str, boot: str) -> None:
        self._fd = os.open(f"{directory}/lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._boot = boot

    def read(self) -> float | None:
        """Until when the lease was last said to run; None: not since this boot."""
        words = os.pread(self._fd, 1024, 0).decode("ascii", "replace").split()
        try:
            return float(words[1]) if words[0] == self._boot else None
        except (IndexError, ValueError):
            return None

    def write(self, until: float) -> None:
        """Keep it."""
        try:
            os.pwrite(self._fd, f"{self._boot} {until:024.6f}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the next keeper finds an earlier lease, which is over the sooner
