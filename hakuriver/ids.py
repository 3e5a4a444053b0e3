"""Names of jobs, tasks, journal positions: made, parsed and compared in one place.

A job id is 20 decimal digits: 13 of milliseconds since 1970 and 7 random ones, so that ids made by
many clients without talking to each other sort by time and do not meet. Those of one process also sort
in the order in which they were made, so that what it submits in one go is admitted in that order.
"""

from __future__ import annotations

import os
import re
import time
from _thread import allocate_lock  # `threading` would cost each start of a command a millisecond

JOB_ID_DIGITS = 20
TIME_DIGITS = 13
#: Shortest ending of a job id that a person may type instead of the whole.
ENDING_MIN = 4

#: The next id in the same millisecond is at most so much higher.
_STEP = 10_000
_newest = 0
_lock = allocate_lock()

_JOB = re.compile(r"[0-9]{20}")
_TASK = re.compile(r"([0-9]{20})(?:-(0|[1-9][0-9]*))?")
_POSITION = re.compile(r"([0-9]+)-([0-9]+)")


def new_job_id(now: float | None = None) -> str:
    """Make a job id of this moment, higher than all before it; or one of another time, `now` in seconds since 1970."""
    global _newest
    random = int.from_bytes(os.urandom(8), "big")
    number = int((time.time() if now is None else now) * 1000) * 10**7 + random % 10**7
    if now is None:
        with _lock:
            number = _newest = max(number, _newest + 1 + random % _STEP)
    return f"{number:0{JOB_ID_DIGITS}d}"


def is_job_id(text: str) -> bool:
    """Tell whether `text` is a whole job id."""
    return _JOB.fullmatch(text) is not None


def job_time(job: str) -> float:
    """Seconds since 1970 at which the id was made, by its maker's clock: for people and for buckets only."""
    return int(job[:TIME_DIGITS]) / 1000


def task_name(job: str, index: int | None) -> str:
    """Name a task: the job's id if it is the only one, else `<job>-<index>`."""
    return job if index is None else f"{job}-{index}"


def parse_task(text: str) -> tuple[str, int | None] | None:
    """Split a task name into (job, index or None); None if it is no task name."""
    match = _TASK.fullmatch(text)
    return (match[1], None if match[2] is None else int(match[2])) if match else None


def position(term: int, seq: int) -> str:
    """Write a place in the journal, `<term>-<seq>`; both zero-padded so that names sort."""
    return f"{term:06d}-{seq:012d}"


def parse_position(text: str) -> tuple[int, int] | None:
    """Read `<term>-<seq>`; None if `text` is none."""
    match = _POSITION.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def seq_of(text: str) -> int:
    """Return the seq of a journal position; 0 if there is none. Terms never go back, so seq alone orders."""
    parsed = parse_position(text)
    return parsed[1] if parsed else 0
