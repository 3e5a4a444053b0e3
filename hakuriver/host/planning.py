"""Which tasks start where: one pure function of queue, cluster and rules. No disk, no clock.

Order: priority, then admission. A task that fits may pass one that does not; one that has waited long gets
its best node kept free. Among nodes with room a strategy chooses, see `strategies.py`. When all room is taken,
more tasks of a job whose tasks have just ended within a second there may be sent about a second ahead: the node's
keeper admits them one by one. Tasks of other jobs never are: nobody could say how long they had to lie there.
Nor are tasks with GPUs: each GPU is held by one task, which is chosen here; nor those that are not to wait.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from hakuriver import offers
from hakuriver.host.queue import Lot, Queue, Shape
from hakuriver.host.shares import Shares
from hakuriver.host.strategies import STRATEGIES
from hakuriver.offers import Choice, Offer, River, Wishes
from hakuriver.targets import Target

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
    offer: Offer
    ahead: int = 0  #: cores' worth of short tasks that may be sent beyond what is free
    ahead_jobs: frozenset[str] = frozenset()  #: jobs of which such tasks have just ended there
    gpus: set[int] = field(default_factory=set)  #: no task holds them
    foreign: frozenset[int] = frozenset()  #: somebody else uses them: for those who name them
    kept: bool = False  #: for a task that has waited long
    gpu_uuids: Mapping[int, str] = field(default_factory=dict)  #: of GPUs that other rooms may have as well

    def fits(self, shape: Shape, job: str, ahead: bool) -> bool:
        """Whether one more task of this shape and job has room here; `ahead`: or may be sent in advance."""
        if self.kept or (shape.gpus and self.gpus_for(shape) is None):
            return False
        if shape.cores == 0 and self.tasks >= FREE_TASKS_PER_CORE * self.cores_total:
            return False
        if shape.cores <= self.cores and shape.memory_bytes <= self.memory_bytes:
            return True
        ahead = ahead and self.ahead > 0 and job in self.ahead_jobs and not (shape.gpus or shape.no_queue)
        return ahead and 0 < shape.cores <= self.cores + self.ahead and self.could(shape)

    def gpus_for(self, shape: Shape) -> tuple[int, ...] | None:
        """Which GPUs such a task would get now: those it names, or else the lowest; None: they are not to be had."""
        if shape.target and shape.target.gpus:
            return shape.target.gpus if self.gpus.issuperset(shape.target.gpus) else None
        free = sorted(self.gpus - self.foreign)[: shape.wishes.gpus]
        return tuple(free) if len(free) == shape.wishes.gpus else None

    def could(self, shape: Shape) -> bool:
        """Whether such a task would have room here if the node were empty."""
        named = shape.target.gpus if shape.target else ()
        enough = self.offer.gpus.issuperset(named) and shape.wishes.gpus <= len(self.offer.gpus - self.foreign)
        return enough and shape.cores <= self.cores_total and shape.memory_bytes <= self.memory_total

    def take(self, shape: Shape) -> tuple[int, ...]:
        """Hold room for one more; return its GPUs."""
        gpus = self.gpus_for(shape) or ()
        self.gpus.difference_update(gpus)
        self.cores -= shape.cores
        self.memory_bytes -= shape.memory_bytes
        self.tasks += 1
        return gpus


class Placement(NamedTuple):
    """One task to start now."""

    job: str
    k: int
    node: str
    executor: str
    gpus: tuple[int, ...] = ()
    package: str | None = None


@dataclass
class Rules:
    """How it is planned."""

    river: River = field(default_factory=River)
    strategy: str = "first-fit"
    last: str | None = None  #: the node that got the last task; changed by a plan
    shares: Shares | None = None  #: what users may hold; changed by a plan


@dataclass
class Plan:
    """What to start, and which shapes found no room."""

    placements: list[Placement] = field(default_factory=list)
    blocked: list[Shape] = field(default_factory=list)
    placed: set[Shape] = field(default_factory=set)
    whole: bool = True  #: whether it looked at all that waits; if not, more may be placed by another


def plan(
    queue: Queue,
    rooms: list[Room],
    active: Callable[[str], int],
    long_waiting: Callable[[Shape], bool],
    rules: Rules,
    most: int = 5000,
) -> Plan:
    """Place what fits. `rooms`, in the order of their names, and `rules` are changed; the queue is not.

    `active(job)`: how many of the job's tasks hold resources. `long_waiting(shape)`: whether its first task
    has waited so long that room is to be kept for it. `most`: placements at most.
    """
    result = Plan()
    able = _Able(rooms, rules.river)
    heap = queue.heads()
    waiting = {shape: _Cursor(queue.lots(shape)) for _, shape in heap}
    started: dict[str, int] = {}
    while heap and len(result.placements) < most and any(_open(room) for room in rooms):
        _, shape = heapq.heappop(heap)
        cursor = waiting[shape]
        if _bounded(shape, started, active) or (rules.shares and not rules.shares.allow(shape)):
            continue  # it waits for its own tasks, or its user's, and no room is kept for it
        fits_in = able.of(shape)
        room = _choose(shape, cursor.lot.job, fits_in, rules)
        if room is None and shape.no_queue:
            continue
        if room is None:
            result.blocked.append(shape)
            if long_waiting(shape):
                _keep_room(shape, fits_in)
            continue
        gpus = room.take(shape)
        _take_elsewhere(rooms, {room.gpu_uuids.get(gpu, "") for gpu in gpus})
        if rules.shares:
            rules.shares.spend(shape)
        result.placed.add(shape)
        if shape.job:
            started[shape.job] = started.get(shape.job, 0) + 1
        choice = able.choice(shape, room)
        result.placements.append(Placement(cursor.lot.job, cursor.k, room.node, choice.executor, gpus, choice.package))
        if cursor.advance():
            heapq.heappush(heap, (cursor.lot.rank, shape))
    result.whole = len(result.placements) < most
    return result


def _take_elsewhere(rooms: Iterable[Room], uuids: Collection[str]) -> None:
    """GPUs that were taken in one room are free in none: several runners of a machine may offer the same."""
    if uuids:
        for room in rooms:
            room.gpus.difference_update([gpu for gpu in room.gpus if room.gpu_uuids.get(gpu) in uuids])


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


class _Able:
    """Which nodes can run what at all, and how: found once in a plan for all shapes that wish the same."""

    def __init__(self, rooms: list[Room], river: River) -> None:
        self._rooms = rooms
        self._river = river
        self._found: dict[tuple[Wishes, Target | None], tuple[list[Room], dict[str, Choice]]] = {}

    def of(self, shape: Shape) -> list[Room]:
        """Rooms of nodes that can run such tasks, whether they have any left or not."""
        return self._look(shape)[0]

    def choice(self, shape: Shape, room: Room) -> Choice:
        """How such a task is run in one of them."""
        return self._look(shape)[1][room.node]

    def _look(self, shape: Shape) -> tuple[list[Room], dict[str, Choice]]:
        found = self._found.get((shape.wishes, shape.target))
        if found is None:
            choices = {room.node: choice for room in self._rooms if (choice := choose(shape, room, self._river))}
            found = [room for room in self._rooms if room.node in choices], choices
            self._found[shape.wishes, shape.target] = found
        return found


def choose(shape: Shape, room: Room, river: River) -> Choice | None:
    """How tasks of this shape would be run on that node; None: not at all."""
    if shape.target is not None and shape.target.node != room.node:
        return None
    return offers.choose(shape.wishes, shape.target, room.offer, river)


def _open(room: Room) -> bool:
    return not room.kept and (room.cores + room.ahead > 0 or room.tasks < FREE_TASKS_PER_CORE * room.cores_total)


def _bounded(shape: Shape, started: dict[str, int], active: Callable[[str], int]) -> bool:
    """Whether as many of its job's tasks run as the job allows."""
    if not (shape.job and shape.most_at_once):
        return False
    return active(shape.job) + started.get(shape.job, 0) >= shape.most_at_once


def _choose(shape: Shape, job: str, rooms: list[Room], rules: Rules) -> Room | None:
    for ahead in (False, True):
        found = STRATEGIES[rules.strategy]((room for room in rooms if room.fits(shape, job, ahead)), rules.last)
        if found is not None:
            rules.last = found.node
            return cast(Room, found)
    return None


def _keep_room(shape: Shape, rooms: list[Room]) -> None:
    """Keep the node where least is missing."""
    fit = [room for room in rooms if room.could(shape) and not room.kept]
    if fit:
        max(fit, key=lambda room: (min(shape.gpus, len(room.gpus - room.foreign)), room.cores)).kept = True
