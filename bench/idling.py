"""What daemons cost that have nothing to do, and whether work makes them grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from figures import Figure, bounded
from river import River, processes_of, river
from working import SLOTS, seconds_for

MINUTE_S = 60.0
SETTLE_S = 8.0  #: after this the daemons have given back what a burst of work took
TASKS = 20_000


def idle(_rounds: int) -> list[Figure]:
    """CPU seconds in one idle minute; resident memory then, and after 20,000 tasks."""
    with river(node=SLOTS) as it:
        time.sleep(SETTLE_S)
        seconds_for(it, 20)  # whatever is loaded with the first task
        time.sleep(SETTLE_S)
        groups = daemons(it)
        before = {name: cpu_seconds(pids) for name, pids in groups.items()}
        time.sleep(MINUTE_S)
        spent = {name: cpu_seconds(pids) - before[name] for name, pids in groups.items()}
        memory = {name: resident(pids) for name, pids in groups.items()}
        for _ in range(2):
            seconds_for(it, TASKS // 2)
        time.sleep(SETTLE_S)
        later = {name: resident(pids) for name, pids in groups.items()}
    return [row for name in groups for row in _rows(name, spent[name], memory[name], later[name])]


def _rows(name: str, spent: float, memory: float, later: float) -> list[Figure]:
    promised = name != "keeper"
    growth = 100 * (later / memory - 1)
    return [
        bounded(f"idle {name}: CPU in a minute", "s", spent, 0.3 if promised else None),
        bounded(f"idle {name}: memory", "MB", memory, 60 if promised else None),
        bounded(f"  growth after 20,000 tasks, to {later:.1f} MB", "%", growth, 10 if promised else None),
    ]


def daemons(it: River) -> dict[str, list[int]]:
    """Process ids of host, runner, and keeper (with its guard)."""
    host, runner = it.daemons["host"].pid, it.daemons["node"].pid
    keeper = [pid for pid in processes_of(it.directory) if pid not in (host, runner)]
    return {"host": [host], "runner": [runner], "keeper": keeper}


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and of their children that were reaped."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: list[int]) -> float:
    """Resident memory in megabytes (10^6)."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
