"""The waiting tasks, grouped by shape, so that a plan costs what it places and not what waits.

Tasks of one shape want the same: if the first of them does not fit anywhere now, none does. Within a shape
lots stand in order; a lot is what waits of one job for one target.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from hakuriver.host.jobs import Job
from hakuriver.host.ranges import Ranges
from hakuriver.offers import Wishes
from hakuriver.targets import Target


class Shape(NamedTuple):
    """What tasks that are alike want."""

    target: Target | None
    cores: int
    memory_bytes: int
    wishes: Wishes
    job: str | None = None  #: set where a job bounds how many run at once, so that it stands alone
    most_at_once: int | None = None
    uid: int | None = None  #: set where users may not hold more than so much
    no_queue: bool = False  #: what does not start at once is not to wait

    @property
    def gpus(self) -> int:
        """How many GPUs each task wants."""
        return len(self.target.gpus) if self.target and self.target.gpus else self.wishes.gpus


class Rank(NamedTuple):
    """Order among what waits: smaller first."""

    behind: int  #: minus the priority
    admission: int
    target: int  #: number of the target within the job


class Lot:
    """What waits of one job for one target."""

    __slots__ = ("again", "job", "ranges", "rank")

    def __init__(self, rank: Rank, job: str) -> None:
        self.rank = rank
        self.job = job
        self.ranges = Ranges()  #: never dispatched
        self.again = Ranges()  #: to be dispatched once more

    def __bool__(self) -> bool:
        return bool(self.again or self.ranges)

    def __len__(self) -> int:
        return len(self.again) + len(self.ranges)

    def __iter__(self) -> Iterator[int]:
        """In the order in which they are to start."""
        yield from self.again
        yield from self.ranges

    def add(self, k: int) -> None:
        """Put a task back, before those that never ran."""
        self.again.add(k)

    def discard(self, k: int) -> None:
        """Take a task out."""
        if not self.again.discard(k):
            self.ranges.discard(k)


class Queue:
    """All lots by shape."""

    def __init__(self, by_user: bool = False) -> None:
        """`by_user`: tasks of different users never have one shape."""
        self.by_user = by_user
        self.shapes: dict[Shape, dict[Rank, Lot]] = {}
        self._order: dict[Shape, list[Rank]] = {}
        self.hurried: dict[Shape, None] = {}  #: those that are not to wait; they may have no tasks any more

    def __len__(self) -> int:
        return sum(len(lot) for lots in self.shapes.values() for lot in lots.values())

    def lot(self, job: Job, k: int) -> Lot:
        """The lot that a task belongs to, made if need be."""
        shape, rank = shape_of(job, k, self.by_user), rank_of(job, k)
        lots = self.shapes.setdefault(shape, {})
        lot = lots.get(rank)
        if lot is None:
            lot = lots[rank] = Lot(rank, job.id)
            heapq.heappush(self._order.setdefault(shape, []), rank)
            if shape.no_queue:
                self.hurried[shape] = None
        return lot

    def add_job(self, job: Job) -> None:
        """Let all of a job's never dispatched tasks wait."""
        if not job.targets:
            if job.waiting:
                self.lot(job, job.waiting.first).ranges = Ranges(job.waiting.tuples())
            return
        for low, high in job.waiting.tuples():
            for k in range(low, high + 1):
                self.lot(job, k).ranges.add(k)

    def add(self, job: Job, k: int) -> None:
        """Let a task wait once more."""
        self.lot(job, k).add(k)

    def discard(self, job: Job, k: int) -> None:
        """A task waits no longer."""
        self.lot(job, k).discard(k)

    def first(self, shape: Shape) -> Lot | None:
        """The lot of this shape that comes first; empty ones are dropped on the way."""
        order, lots = self._order.get(shape, []), self.shapes.get(shape, {})
        while order:
            lot = lots[order[0]]
            if lot:
                return lot
            del lots[heapq.heappop(order)]
        self.shapes.pop(shape, None)
        self._order.pop(shape, None)
        self.hurried.pop(shape, None)
        return None

    def lots(self, shape: Shape) -> Iterator[Lot]:
        """The lots of this shape in order; only those that are asked for cost anything."""
        first = self.first(shape)
        if first is None:
            return
        yield first
        lots, rest = self.shapes[shape], list(self._order[shape])
        while rest:
            lot = lots[heapq.heappop(rest)]
            if lot and lot is not first:
                yield lot

    def heads(self) -> list[tuple[Rank, Shape]]:
        """For each shape the rank of what comes first, in order."""
        found = [(lot.rank, shape) for shape in list(self.shapes) if (lot := self.first(shape))]
        return sorted(found, key=lambda pair: pair[0])


def shape_of(job: Job, k: int, by_user: bool = False) -> Shape:
    """What this task wants."""
    spec = job.spec
    bounded = job.most_at_once is not None
    return Shape(
        job.target(k), spec.get("cores", 1), spec.get("memory_bytes") or 0, job.wishes,
        job.id if bounded else None, job.most_at_once, job.uid if by_user else None, job.spec.get("no_queue", False),
    )  # fmt: skip


def rank_of(job: Job, k: int) -> Rank:
    """Where this task stands among all."""
    number = job.place(k) // job.per_target if job.targets else 0
    return Rank(-job.spec.get("priority", 0), job.admission, number)
