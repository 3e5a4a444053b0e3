"""Which of the nodes that have room gets a task: pure functions, named by `scheduling.strategy`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol


class Place(Protocol):
    """A node with room for the task."""

    node: str
    cores: int  #: free
    cores_total: int
    memory_bytes: int  #: free
    memory_total: int
    tasks: int


Strategy = Callable[[Iterable[Place], "str | None"], "Place | None"]


def first_fit(places: Iterable[Place], _last: str | None) -> Place | None:
    """The first by name; the others are not even looked at. `places` are in the order of their names."""
    return next(iter(places), None)


def best_fit(places: Iterable[Place], _last: str | None) -> Place | None:
    """The fullest, so that large rooms stay whole."""
    return min(places, key=_free, default=None)


def least_loaded(places: Iterable[Place], _last: str | None) -> Place | None:
    """That of which most is free."""
    return max(places, key=_free, default=None)


def round_robin(places: Iterable[Place], last: str | None) -> Place | None:
    """The next by name after the one that got the last task."""
    found = list(places)
    return next((place for place in found if last is None or place.node > last), found[0] if found else None)


def _free(place: Place) -> tuple[float, float, int]:
    """Free shares of cores and memory; among equals more tasks count as less free."""
    cores, memory = place.cores / max(1, place.cores_total), place.memory_bytes / max(1, place.memory_total)
    return cores, memory, -place.tasks


STRATEGIES: dict[str, Strategy] = {
    "first-fit": first_fit, "best-fit": best_fit, "least-loaded": least_loaded, "round-robin": round_robin,
}  # fmt: skip
