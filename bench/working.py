"""How fast short tasks go through."""

from __future__ import annotations

import time

from figures import Figure, against_floor
from floors import xargs_true
from river import River, river

TASKS, SLOTS = 10_000, 8


def work(rounds: int) -> list[Figure]:
    """10,000 `/bin/true` in one array on one node of 8 cores, taking turns with xargs."""
    values, floors = [], []
    with river(node=SLOTS) as it:
        for _ in range(rounds):
            floors.append(xargs_true(TASKS, SLOTS))
            values.append(TASKS / seconds_for(it, TASKS))
    return [against_floor("10,000 /bin/true, submit to all recorded", "/s", values, "xargs -P8 -n1", floors, 0.8)]


def seconds_for(it: River, tasks: int) -> float:
    """Seconds from before `submit` until the job is recorded as completed."""
    begun = time.perf_counter()
    it.wait(it.submit("--array", f"0-{tasks - 1}", "--", "/bin/true"))
    return time.perf_counter() - begun
