"""What follows from an attempt's ending: pure functions."""

from __future__ import annotations

from typing import Any

from hakuriver.host.jobs import Task

_COPIED = ("exit_code", "signal", "ended_at", "peak_memory_bytes")


def note(task: Task, end: dict[str, Any]) -> None:
    """Write an attempt's ending (records.Ending) into its task."""
    for name in _COPIED:
        setattr(task, name, end.get(name))
    if end.get("started_at") is not None:
        task.started_at = end["started_at"]
    task.cause, task.reason, task.phase = end.get("cause", ""), end.get("reason", ""), ""
    task.wall_s, task.cpu_s = end.get("wall_s", 0.0), end.get("cpu_s", 0.0)


def verdict(task: Task, end: dict[str, Any], retries: int) -> str:
    """The task's state after this ending: final, or pending if there is to be another attempt.

    Never again after a kill, or once a kill was asked for; a fenced attempt is run again and spends no retry.
    """
    state: str = end["state"]
    if state == "fenced":
        return "killed" if task.kill else "pending"
    if state in ("completed", "killed") or task.kill:
        return state
    return "pending" if task.retries_spent < retries else state
