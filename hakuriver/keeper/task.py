"""A task as the keeper knows it: one attempt, from the queue to the end."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from typing import Any

    from hakuriver.keeper.messages import Ended, SpecMessage, TaskMessage, TaskState
    from hakuriver.keeper.outputs import Slot
    from hakuriver.keeper.timers import Timer

QUEUED, STARTING, RUNNING, PAUSED, ENDED = "queued", "starting", "running", "paused", "ended"
MARKER = "HAKURIVER_KEEPER"  #: the variable by which any process of a task is known
Key = tuple[str, int]  #: task id, number of the attempt


def environment(env: dict[str, str]) -> list[bytes]:
    """``NAME=value`` as execve(2) wants it."""
    return [os.fsencode(f"{name}={value}") for name, value in env.items()]


class Spec:
    """What the tasks of one ``start`` have in common. Raises if the message makes no sense."""

    __slots__ = ("argv", "c_argv", "cores", "cwd", "engine", "env", "env_bytes", "grace_s", "memory_bytes",
                 "programs", "raw", "settings", "time_limit_s")  # fmt: skip

    def __init__(self, raw: SpecMessage) -> None:
        self.raw = raw
        self.argv = [os.fsencode(word) for word in raw["argv"]]
        if not self.argv:
            raise ValueError("argv is empty")
        self.env: dict[str, str] = dict(raw.get("env") or {})
        self.env_bytes = environment(self.env)
        cwd = raw.get("cwd")
        self.cwd = None if cwd is None else os.fsencode(cwd)
        self.cores = int(raw.get("cores") or 0)
        self.memory_bytes = raw.get("memory_bytes")
        self.time_limit_s = raw.get("time_limit_s")
        self.engine = str(raw.get("engine") or "")  #: empty: a process of our own
        self.settings: dict[str, Any] = dict(raw.get("settings") or {})
        grace = raw.get("grace_s")
        self.grace_s = 10.0 if grace is None else float(grace)
        #: Filled by the spawner: the argument vector for C, and where programs were found, by PATH.
        self.c_argv: Any = None
        self.programs: dict[str, bytes] = {}


class Task:
    """One attempt of a task. Changed on the main thread only."""

    __slots__ = (
        "answers", "attempt", "attempt_env", "deadline", "end", "exit", "group", "intended", "key", "kill_by", "marker",
        "meta", "metered", "n", "oom", "peak", "phase", "pid", "priority", "rerunnable", "settings", "since", "slot",
        "slot_number", "spec", "started_at", "started_mono", "stop", "stop_reason", "task", "ticks", "waited_since",
    )  # fmt: skip

    def __init__(self, spec: Spec, raw: TaskMessage, n: int, owner: str) -> None:
        self.spec = spec
        self.task, self.attempt = str(raw["task"]), int(raw["attempt"])
        self.key: Key = (self.task, self.attempt)
        self.n = n  #: order of arrival, and its name in the record
        self.rerunnable = bool(raw.get("rerunnable", False))
        self.priority = int(raw.get("priority") or 0)
        self.attempt_env: dict[str, str] = dict(raw.get("env") or {})
        self.settings: dict[str, Any] = dict(raw.get("settings") or {})  #: of its engine, beside the spec's
        self.meta = raw.get("meta")
        self.marker = os.fsencode(f"{MARKER}={owner}/{self.task}/{self.attempt}")
        self.phase = QUEUED
        self.intended = False  #: the record says durably that it may be started
        self.pid: int | None = None
        self.ticks: int | None = None
        self.started_at: float | None = None
        self.started_mono: float | None = None
        self.since: float | None = None  #: start of one that an engine holds, CLOCK_BOOTTIME
        self.slot: Slot | None = None
        self.slot_number: int | None = None
        self.stop: str | None = None  #: why it is being stopped: a Cause
        self.stop_reason = ""
        self.kill_by: float | None = None  #: of one that an engine holds: when SIGKILL is due, CLOCK_BOOTTIME
        self.deadline: Timer | None = None  #: its time limit, or the SIGKILL after the grace
        self.answers: list[str | None] = []  #: requests to kill that wait for the end
        self.exit: tuple[int, float, int, float] | None = None  #: wait status, cpu s, maxrss bytes, monotonic
        self.waited_since = 0.0
        self.group: str | None = None  #: its memory cgroup
        self.peak: int | None = None  #: bytes, as sampled
        self.metered = False  #: the peak is the cgroup's: nothing is to be added to it
        self.oom = False
        self.end: Ended | None = None

    @property
    def alive(self) -> bool:
        """Whether a process of it exists and the main one has not been reaped, or its engine holds it."""
        known = self.pid is not None or bool(self.spec.engine)
        return known and self.exit is None and self.phase in (RUNNING, PAUSED)

    def message(self) -> TaskMessage:
        """The task as the runner told it, for the record."""
        message: TaskMessage = {
            "task": self.task, "attempt": self.attempt, "rerunnable": self.rerunnable,
            "priority": self.priority, "env": self.attempt_env, "meta": self.meta,
        }  # fmt: skip
        if self.settings:
            message["settings"] = self.settings
        return message

    @property
    def own_pid(self) -> int | None:
        """Of the keeper's own child; an engine's process may not even be seen here."""
        return None if self.spec.engine else self.pid

    def state(self) -> TaskState:
        """What ``hello`` tells."""
        phase: Any = self.phase
        return {
            "task": self.task, "attempt": self.attempt, "phase": phase, "pid": self.own_pid, "ticks": self.ticks,
            "started_at": self.started_at, "slot": self.slot_number, "end": self.end, "meta": self.meta,
        }  # fmt: skip

    def environ(self) -> list[bytes]:
        """The whole environment: what the runner gave, and the marker. Marker first."""
        extra = self.attempt_env
        base = self.spec.env_bytes
        if extra:
            if not extra.keys().isdisjoint(self.spec.env):
                base = environment({k: v for k, v in self.spec.env.items() if k not in extra})
            return [self.marker, *base, *environment(extra)]
        return [self.marker, *base]

    def path(self) -> str:
        """The task's own PATH."""
        return self.attempt_env.get("PATH") or self.spec.env.get("PATH") or os.defpath
