"""What runner and keeper say to each other: one JSON object per line over ``keeper.sock``.

Unix times (``at``, ``started_at``, ``ended_at``) are for people. Deadlines count on CLOCK_BOOTTIME, durations on
CLOCK_MONOTONIC. This module is imported by the runner and by type checkers only, never by the keeper at work.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Phase = Literal["queued", "starting", "running", "paused", "ended"]
State = Literal["completed", "failed", "killed", "killed_oom", "fenced"]
Cause = Literal[
    "exit", "signal", "time_limit", "launch", "reboot", "keeper_died", "killed", "oom", "fenced", "shutdown",
    "lost_track",
]  # fmt: skip


class SpecMessage(TypedDict, total=False):
    """What the tasks of one ``start`` have in common. Only ``argv`` is required."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    cores: int  #: 0 reserves nothing and starts at once
    memory_bytes: int | None
    time_limit_s: float | None  #: from the start of the attempt, pauses counted
    grace_s: float  #: between SIGTERM and SIGKILL; 10 unless told
    engine: str  #: what holds them, docker or systemd; absent: they are processes of the keeper's own
    settings: dict[str, Any]  #: for the engine, see `runner.executors`


class _TaskNames(TypedDict):
    task: str
    attempt: int


class TaskMessage(_TaskNames, total=False):
    """One task of a ``start``."""

    rerunnable: bool  #: the cluster may start it elsewhere: it runs under the lease
    priority: int  #: higher first
    env: dict[str, str]  #: added to the environment of the spec
    settings: dict[str, Any]  #: added to the settings of the spec
    meta: Any  #: returned untouched in ``hello``


class Hello(TypedDict):
    """Runner: who speaks, and what may be reserved."""

    op: Literal["hello"]
    v: int
    cores: int
    memory_bytes: int | None


class Start(TypedDict):
    """Runner: queue tasks. Those known already, in any phase, are ignored."""

    op: Literal["start"]
    spec: SpecMessage
    tasks: list[TaskMessage]


class _Control(TypedDict):
    op: Literal["kill", "pause", "resume"]
    task: str
    attempt: int
    request: str | None
    reason: str


class Control(_Control, total=False):
    """Runner: kill, pause or resume; answered by an ``answer`` event."""

    grace_s: float | None  #: kill: between SIGTERM and SIGKILL, instead of the spec's; 0: SIGKILL at once


class Lease(TypedDict):
    """Runner: tasks that may be rerun elsewhere run until then (seconds on CLOCK_BOOTTIME)."""

    op: Literal["lease"]
    until: float


class Forget(TypedDict):
    """Runner: the endings of these are safe; record and output files go."""

    op: Literal["forget"]
    tasks: list[tuple[str, int]]


class Rerunnable(TypedDict):
    """Runner: whether these tasks may be rerun elsewhere has changed."""

    op: Literal["rerunnable"]
    tasks: list[tuple[str, int, bool]]


class Started(_TaskNames):
    """A process runs. ``ticks``: field 22 of /proc/PID/stat, null if it had ended before it could be read.

    Of what an engine holds both are null: its slot serves no other task.
    """

    kind: Literal["started"]
    pid: int | None
    ticks: int | None
    at: float
    slot: int


class Changed(_TaskNames):
    """The whole tree of the task has been stopped or continued."""

    kind: Literal["paused", "resumed"]
    at: float


class Answer(_TaskNames):
    """The answer to a control; not repeated after a reconnect (controls can be)."""

    kind: Literal["answer"]
    request: str | None
    op: Literal["kill", "pause", "resume"]
    ok: bool
    text: str


class Ended(_TaskNames):
    """The end of an attempt: told once, and in every ``hello`` until it is forgotten."""

    kind: Literal["ended"]
    state: State
    cause: Cause
    exit_code: int | None
    signal: int | None
    reason: str
    started_at: float | None
    ended_at: float
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None
    out_bytes: int
    err_bytes: int
    slot: int | None  #: null: it wrote nothing
    ran: bool  #: false: no process of it ever existed


Event = Started | Changed | Answer | Ended


class TaskState(_TaskNames):
    """What ``hello`` tells of each known task."""

    phase: Phase
    pid: int | None
    ticks: int | None
    started_at: float | None
    slot: int | None
    end: Ended | None
    meta: Any


class HelloReply(TypedDict):
    """Keeper: all that it knows."""

    ev: Literal["hello"]
    v: int
    pid: int
    boot_id: str
    lease_until: float | None
    tasks: list[TaskState]


class Events(TypedDict):
    """Keeper: what has happened, in order, a batch for each turn of its loop."""

    ev: Literal["events"]
    events: list[Event]
