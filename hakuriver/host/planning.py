"""Which tasks start where: one pure function of queue, cluster and policy. No disk, no clock.

Order: priority, then admission. A task that fits may pass one that does not; one that has waited long gets
its best node kept free. Nodes are tried in the order of their names (first fit). When all room is taken,
more tasks of a job whose tasks have just ended within a second there may be sent about a second ahead: the node's
keeper admits them one by one. Tasks of other jobs never are: nobody could say how long they had to lie there.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from hakuriver.host.queue import Lot, Queue, Shape

#: Tasks without cores hold nothing; so many of them at most are on a node at once, for each of its cores.
FREE_TASKS_PER_CORE = 16


@dataclass
class Room:
    """What a node has left."""

    node: str
    cores: int  #: free now
    memory_bytes: int  #: free now
    cores_total: int
    memory_total: int
    tasks: int  #: attempts there
    executors: frozenset[str]
    ahead: int = 0  #: cores' worth of short tasks that may be sent beyond what is free
    ahead_jobs: frozenset[str] = frozenset()  #: jobs of which such tasks have just ended there
    kept: bool = False  #: for a task that has waited long

    def fits(self, shape: Shape, job: str, ahead: bool) -> bool:
        """Whether one more task of this shape and job has room here; `ahead`: or may be sent in advance."""
        if self.kept:
            return False
        if shape.cores == 0 and self.tasks >= FREE_TASKS_PER_CORE * self.cores_total:
            return False
        if shape.cores <= self.cores and shape.memory_bytes <= self.memory_bytes:
            return True
        ahead = ahead and self.ahead > 0 and job in self.ahead_jobs
        return ahead and 0 < shape.cores <= self.cores + self.ahead and self.could(shape)

    def could(self, shape: Shape) -> bool:
        """Whether such a task would have room here if the node were empty."""
        return shape.cores <= self.cores_total and shape.memory_bytes <= self.memory_total

    def take(self, shape: Shape) -> None:
        """Hold room for one more."""
        self.cores -= shape.cores
        self.memory_bytes -= shape.memory_bytes
        self.tasks += 1


class Placement(NamedTuple):
    """One task to start now."""

    job: str
    k: int
    node: str
    executor: str


@dataclass
class Plan:
    """What to start, and which shapes found no room."""

    placements: list[Placement] = field(default_factory=list)
    blocked: list[Shape] = field(default_factory=list)
    placed: set[Shape] = field(default_factory=set)


def plan(
    queue: Queue,
    rooms: list[Room],
    active: Callable[[str], int],
    long_waiting: Callable[[Shape], bool],
    most: int = 5000,
    auto: str = "auto",
) -> Plan:
    """Place what fits. `rooms` are changed; the queue is not.

    `active(job)`: how many of the job's tasks hold resources. `long_waiting(shape)`: whether its first task
    has waited so long that room is to be kept for it. `most`: placements at most. `auto`: the executor of tasks that
    leave it open; `auto`: the best that the node has.
    """
    result = Plan()
    heap = queue.heads()
    waiting = {shape: _Cursor(queue.lots(shape)) for _, shape in heap}
    started: dict[str, int] = {}
    while heap and len(result.placements) < most and any(_open(room) for room in rooms):
        _, shape = heapq.heappop(heap)
        cursor = waiting[shape]
        if _bounded(shape, started, active):
            continue  # it waits for its own tasks, and no room is kept for it
        room = _choose(shape, cursor.lot.job, rooms)
        if room is None:
            result.blocked.append(shape)
            if long_waiting(shape):
                _keep_room(shape, rooms)
            continue
        room.take(shape)
        result.placed.add(shape)
        if shape.job:
            started[shape.job] = started.get(shape.job, 0) + 1
        result.placements.append(Placement(cursor.lot.job, cursor.k, room.node, choose_executor(shape, room, auto)))
        if cursor.advance():
            heapq.heappush(heap, (cursor.lot.rank, shape))
    return result


class _Cursor:
    """Walks a shape's tasks in order without touching the queue."""

    def __init__(self, lots: Iterator[Lot]) -> None:
        self._lots = lots
        self._next_lot()

    def _next_lot(self) -> bool:
        lot = next(self._lots, None)
        if lot is None:
            return False
        self.lot = lot
        self._tasks = iter(lot)
        return self.advance()

    def advance(self) -> bool:
        """Go to the next task; tell whether there is one."""
        k = next(self._tasks, None)
        if k is None:
            return self._next_lot()
        self.k = k
        return True


def _open(room: Room) -> bool:
    return not room.kept and (room.cores + room.ahead > 0 or room.tasks < FREE_TASKS_PER_CORE * room.cores_total)


def _bounded(shape: Shape, started: dict[str, int], active: Callable[[str], int]) -> bool:
    """Whether as many of its job's tasks run as the job allows."""
    if not (shape.job and shape.most_at_once):
        return False
    return active(shape.job) + started.get(shape.job, 0) >= shape.most_at_once


def _choose(shape: Shape, job: str, rooms: list[Room]) -> Room | None:
    able = [room for room in rooms if eligible(shape, room.node, room.executors)]
    for ahead in (False, True):
        for room in able:
            if room.fits(shape, job, ahead):
                return room
    return None


def eligible(shape: Shape, node: str, executors: frozenset[str]) -> bool:
    """Whether tasks of this shape may run on that node at all."""
    return shape.target in (None, node) and (shape.executor in executors or shape.executor == "auto")


def choose_executor(shape: Shape, room: Room, auto: str) -> str:
    """The one asked for, else the one that the river is set to, else docker, systemd, plain processes."""
    for asked in (shape.executor, auto):
        if asked != "auto":
            return asked
    return next((name for name in ("docker", "systemd", "process") if name in room.executors), "process")


def _keep_room(shape: Shape, rooms: list[Room]) -> None:
    able = [r for r in rooms if eligible(shape, r.node, r.executors) and r.could(shape) and not r.kept]
    if able:
        max(able, key=lambda room: room.cores).kept = True
