"""What keeper and attendant say to each other: one JSON object a line, orders on stdin, news on stdout.

Every order may be repeated: names tell what there is. Times: `at` seconds since 1970; `start_before` seconds of
CLOCK_BOOTTIME; durations seconds. Imported by attendants and type checkers only, never by the keeper at work.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Begin(TypedDict):
    """Keeper: make it, and start it unless `start_before` has passed by then. One that is there already is attended."""

    op: Literal["begin"]
    name: str  #: of container or unit: hakuriver-task-<task>, with .<attempt> from the second attempt on
    task: str
    attempt: int
    owner: str  #: of the keeper: nothing that bears another's is touched
    spec: dict[str, Any]  #: the job's part and the task's, merged; see executors/docker.py and executors/systemd.py
    out: str  #: absolute paths of the files on this node's disk that output is appended to
    err: str
    start_before: float


class Attend(TypedDict):
    """Keeper: it may be there from before; attend it if so, but start nothing. Else the same as Begin."""

    op: Literal["attend"]
    name: str
    task: str
    attempt: int
    owner: str
    spec: dict[str, Any]
    out: str
    err: str


class Control(TypedDict):
    """Keeper: send TERM or KILL, freeze or thaw. `term` to what is frozen thaws it."""

    op: Literal["term", "kill", "pause", "resume"]
    name: str


class Remove(TypedDict):
    """Keeper: its ending is safe; remove what the engine keeps of it, running or not. Else the same as Attend."""

    op: Literal["remove"]
    name: str
    task: str
    attempt: int
    owner: str
    spec: dict[str, Any]
    out: str
    err: str


class Sweep(TypedDict):
    """Keeper: remove all of this owner but these, and but those that other orders name. No answer."""

    op: Literal["sweep"]
    owner: str
    keep: list[str]


class Ready(TypedDict):
    """Attendant: it listens. Nothing is ordered before."""

    ev: Literal["ready"]


class Started(TypedDict):
    """Attendant: it runs. Told once after Begin, and after Attend if it runs."""

    ev: Literal["started"]
    name: str
    pid: int | None
    at: float


class NotStarted(TypedDict):
    """Attendant: it was not started, and nothing of it is left. `late`: start_before had passed, or it was stopped.

    `away`: the engine cannot be reached, so trying again later may help; something that was made may be left there.
    Neither: it cannot be started. `code`: 125 the engine refused, 126 cannot be run, 127 there is no such program.
    """

    ev: Literal["not_started"]
    name: str
    late: bool
    away: bool
    code: int
    text: str


class Absent(TypedDict):
    """Attendant, after Attend: there is no such container or unit, and no ending of it either."""

    ev: Literal["absent"]
    name: str


class Changed(TypedDict):
    """Attendant: pause or resume was carried out, or not."""

    ev: Literal["changed"]
    name: str
    op: Literal["pause", "resume"]
    ok: bool
    text: str


class Ended(TypedDict):
    """Attendant: it has ended, and all of its output lies in the files. Until Remove comes the engine keeps it.

    `exit_code` null: it was ended by `signal`, or nobody knows. `oom`: the engine says that it was killed for memory.
    """

    ev: Literal["ended"]
    name: str
    exit_code: int | None
    signal: int | None
    oom: bool
    text: str  #: what the engine says was wrong; mostly empty
    started_at: float | None
    ended_at: float
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None


class Removed(TypedDict):
    """Attendant, after Remove: nothing of it is left in the engine."""

    ev: Literal["removed"]
    name: str


Order = Begin | Attend | Control | Remove | Sweep
News = Ready | Started | NotStarted | Absent | Changed | Ended | Removed
