"""How a task ended, in the words of the protocol. Pure functions."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from typing import Any

    from hakuriver.attendant.messages import Ended as Told
    from hakuriver.keeper.messages import Ended
    from hakuriver.keeper.task import Task

#: The state of a task that was stopped, by the cause of the stopping.
STOPPED = {
    "killed": "killed",
    "shutdown": "failed",
    "fenced": "fenced",
    "time_limit": "failed",
    "oom": "killed_oom",
    "launch": "failed",
    "reboot": "failed",
    "keeper_died": "failed",
    "lost_track": "failed",
}
GONE = {
    "docker": "its container is gone, and how it ended: was it removed by hand, or did Docker die in its start?",
    "systemd": "its unit is gone, and how it ended with it: was it reset by hand, or systemd's state lost?",
}


def signal_name(number: int) -> str:
    """``SIGSEGV``; a real-time signal has no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def verdict(stop: str | None, stop_reason: str, status: int, oom: bool) -> tuple[str, str, str]:
    """State, cause and reason for a wait status. What stopped it goes before how it then ended."""
    if stop is not None:
        return STOPPED[stop], stop, stop_reason
    return _by_itself(os.waitstatus_to_exitcode(status), oom)


def _by_itself(code: int, oom: bool) -> tuple[str, str, str]:
    """State, cause and reason for an exit code; negative: a signal."""
    if oom and code != 0:
        return "killed_oom", "oom", "the memory limit was reached"
    if code < 0:
        return "failed", "signal", f"ended by {signal_name(-code)}"
    if code == 0:
        return "completed", "exit", "exit code 0"
    return "failed", "exit", f"exit code {code}"


def peak(sampled: int | None, maxrss: int, own: int) -> int | None:
    """Most memory used, bytes. The kernel counts the keeper's own size as the child's: up to that it says nothing."""
    return max(sampled or 0, maxrss) if maxrss > own else sampled


def unborn(task: Task, cause: str, reason: str, now: float, /, **more: Any) -> Ended:
    """The end of a task of which no process is known."""
    end: Any = {
        "kind": "ended", "task": task.task, "attempt": task.attempt, "state": STOPPED[cause], "cause": cause,
        "exit_code": None, "signal": None, "reason": reason, "started_at": task.started_at, "ended_at": now,
        "wall_s": 0.0, "cpu_s": 0.0, "peak_memory_bytes": None, "out_bytes": 0, "err_bytes": 0,
        "slot": None, "ran": False, **more,
    }  # fmt: skip
    return end  # type: ignore[no-any-return]


def ended(task: Task, now: float, sizes: tuple[int, int], own_peak: int) -> Ended:
    """The end of a task whose main process has been reaped and whose tree is gone. ``own_peak``: bytes."""
    assert task.exit is not None
    status, cpu, maxrss, mono = task.exit
    state, cause, reason = verdict(task.stop, task.stop_reason, status, task.oom)
    code = os.waitstatus_to_exitcode(status)
    return unborn(
        task, "killed", reason, now,
        state=state, cause=cause, ran=True, exit_code=code if code >= 0 else None, signal=-code if code < 0 else None,
        wall_s=round(mono - (task.started_mono or mono), 6), cpu_s=round(cpu, 6),
        peak_memory_bytes=task.peak if task.metered else peak(task.peak, maxrss, own_peak),
        **_output(task, sizes),
    )  # fmt: skip


def held(task: Task, told: Told, sizes: tuple[int, int]) -> Ended:
    """The end of a task that an engine held, as its attendant tells it."""
    code, number = told["exit_code"], told["signal"]
    if task.stop is not None:
        state, cause, reason = STOPPED[task.stop], task.stop, task.stop_reason
    elif code is None and not number:
        state, cause, reason = "failed", "lost_track", "nobody knows how it ended"
    else:
        state, cause, reason = _by_itself(-(number or 0) if code is None else code, told["oom"])
    if told["text"] and state != "completed":
        reason = f"{reason}: {told['text']}"
    return unborn(
        task, "killed", reason, told["ended_at"],
        state=state, cause=cause, ran=True, exit_code=code, signal=number if code is None else None,
        wall_s=round(told["wall_s"], 6), cpu_s=round(told["cpu_s"], 6), peak_memory_bytes=told["peak_memory_bytes"],
        **_output(task, sizes),
    )  # fmt: skip


def gone(task: Task, now: float, sizes: tuple[int, int]) -> Ended:
    """The end of a task that ran, and of which its engine knows nothing any more."""
    cause, reason = "lost_track", GONE.get(task.spec.engine, "it is gone")
    if task.stop is not None:
        cause, reason = task.stop, task.stop_reason
    return unborn(task, cause, reason, now, ran=True, **_output(task, sizes))


def _output(task: Task, sizes: tuple[int, int]) -> dict[str, Any]:
    return {"out_bytes": sizes[0], "err_bytes": sizes[1], "slot": task.slot_number if sizes != (0, 0) else None}
