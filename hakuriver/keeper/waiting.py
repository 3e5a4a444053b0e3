"""Which task starts next: priority, then arrival, strictly in order; and whether it fits.

Tasks that reserve nothing (cores 0) wait behind nobody.
"""

from __future__ import annotations

import heapq

from hakuriver.keeper.task import QUEUED, Task

Entry = tuple[int, int, Task]


class Capacity:
    """What may be reserved. Unknown until a runner has said hello: then nothing fits."""

    def __init__(self) -> None:
        self.cores: int | None = None
        self.memory: int | None = None
        self.used_cores = 0
        self.used_memory = 0
        self.holders = 0

    def fits(self, task: Task) -> bool:
        """Whether the task fits now. One that is larger than the node starts when it is alone."""
        spec = task.spec
        if self.cores is None:
            return False
        if spec.cores == 0 or self.holders == 0:
            return True
        if self.memory is not None and self.used_memory + (spec.memory_bytes or 0) > self.memory:
            return False
        return self.used_cores + spec.cores <= self.cores

    def reserve(self, task: Task, sign: int = 1) -> None:
        """Take what the task needs (sign 1) or give it back (-1)."""
        if task.spec.cores == 0:
            return
        self.used_cores += sign * task.spec.cores
        self.used_memory += sign * (task.spec.memory_bytes or 0)
        self.holders += sign


class Queue:
    """Tasks not yet started. Those that ended while queued are skipped when their turn comes."""

    def __init__(self) -> None:
        self._waiting: list[Entry] = []
        self._staged: list[Entry] = []  # the few that have an intent already: both lists are heaps
        self._free: list[Entry] = []

    def push(self, task: Task) -> None:
        """Queue a task."""
        where = self._free if task.spec.cores == 0 else self._waiting
        heapq.heappush(where, (-task.priority, task.n, task))

    def _lists(self) -> list[list[Entry]]:
        """The lists whose heads may start, after dropping what has ended meanwhile."""
        for entries in (self._free, self._staged, self._waiting):
            while entries and entries[0][2].phase != QUEUED:
                heapq.heappop(entries)
        main = min((part for part in (self._staged, self._waiting) if part), default=[], key=lambda part: part[0][:2])
        return [part for part in (self._free, main) if part]

    def pop(self, capacity: Capacity) -> Task | None:
        """Take the next task if it fits."""
        for entries in self._lists():
            if capacity.fits(entries[0][2]):
                return heapq.heappop(entries)[2]
        return None

    def stage(self, number: int) -> list[Task]:
        """The next ``number`` tasks, which stay queued: their intents go out with those of others."""
        staged: list[Task] = []
        while len(staged) < number and self._waiting:
            entry = heapq.heappop(self._waiting)
            if entry[2].phase == QUEUED:
                heapq.heappush(self._staged, entry)
                if not entry[2].intended:
                    staged.append(entry[2])
        return staged

    def restage(self, task: Task) -> None:
        """Put a task back that was taken but may not start yet."""
        self.push(task)
