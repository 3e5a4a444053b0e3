"""The arithmetic of the lease. All times in seconds of CLOCK_BOOTTIME.

    ... run ...  | fence_at: SIGTERM | + grace: SIGKILL | + MARGIN_S: the lease ends

A task that the cluster may start elsewhere must be gone when the lease ends, so its stopping begins early.
"""

from __future__ import annotations

MARGIN_S = 1.0  #: between the last SIGKILL and the end of the lease


def fence_at(until: float, grace_s: float) -> float:
    """When the stopping of a rerunnable task begins."""
    return until - grace_s - MARGIN_S


def may_start(until: float | None, now: float, *, rerunnable: bool, grace_s: float) -> bool:
    """Whether a task may be started now. A lease that was never told is none."""
    if until is None:
        return False
    return now < (fence_at(until, grace_s) if rerunnable else until)
