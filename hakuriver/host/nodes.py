"""A node as the host holds it: what it is and holds, and what was sent to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from hakuriver.offers import Offer


class Held(NamedTuple):
    """What a task holds of its node, or several do."""

    uid: int  #: whose it is
    cores: int = 0
    memory_bytes: int = 0
    gpus: tuple[int, ...] = ()  #: indices


def gpu_holders(nodes: Iterable[Node]) -> dict[str, tuple[str, int]]:
    """GPUs that tasks hold, by their UUIDs -> (job, k)."""
    return {node.gpu_uuids[gpu]: key for node in nodes for gpu, key in node.gpus_held.items() if gpu in node.gpu_uuids}


class Node:
    """One node; altered by journal changes alone, except `gpus_lately`, which is the observer's own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = 0
        self.description: dict[str, Any] = {}
        self.draining = False
        self.cursor = (0, 0)  #: epoch and seq of the last event batch folded
        self.unacknowledged = False  #: whether the node has not been told of the cursor yet
        self.previous: str | None = None  #: place of the last document sent
        self.documents: dict[str, dict[str, Any]] = {}  #: sent and not claimed yet: {"tasks", "controls"}
        self.controls: list[dict[str, Any]] = []  #: to be sent with the next document
        self.held: dict[tuple[str, int], Held] = {}  #: by (job, k)
        self.gpus_held: dict[int, tuple[str, int]] = {}  #: GPU -> (job, k)
        self.gpus_lately: set[int] = set()  #: held since the observer looked last; not in the journal
        self.cores_held = 0
        self.memory_held = 0

    def hold(self, key: tuple[str, int], what: Held) -> None:
        """Begin to hold resources for a task."""
        self.release(key)
        self.held[key] = what
        self.cores_held += what.cores
        self.memory_held += what.memory_bytes
        self.gpus_held.update(dict.fromkeys(what.gpus, key))
        self.gpus_lately.update(what.gpus)

    def release(self, key: tuple[str, int]) -> None:
        """A task holds nothing any more."""
        what = self.held.pop(key, None)
        if what is None:
            return
        self.cores_held -= what.cores
        self.memory_held -= what.memory_bytes
        if what.gpus:
            # Two may hold one GPU: a task that was given up as lost, and returned when another had got it.
            self.gpus_held = {gpu: other for other, held in self.held.items() for gpu in held.gpus}

    def gpus_taken(self, holders: Mapping[str, tuple[str, int]]) -> dict[int, tuple[str, int]]:
        """Its GPUs that tasks hold -> (job, k): its own tasks, or by `gpu_holders` those of another node."""
        elsewhere = {gpu: holders[uuid] for gpu, uuid in self.gpu_uuids.items() if uuid in holders}
        return {**elsewhere, **self.gpus_held}

    def release_all(self) -> None:
        """Hold nothing."""
        self.held.clear()
        self.gpus_held.clear()
        self.cores_held = self.memory_held = 0

    def describe(self, epoch: int, description: dict[str, Any]) -> None:
        """Its runner has started: records.NodeDescription."""
        self.epoch, self.description = epoch, description
        self.__dict__.pop("offer", None)
        self.__dict__.pop("gpu_uuids", None)

    @property
    def cores(self) -> int:
        """Cores that it offers."""
        return int(self.description.get("cores", 0))

    @property
    def memory_bytes(self) -> int:
        """Memory that it offers."""
        return int(self.description.get("memory_bytes", 0))

    @cached_property
    def offer(self) -> Offer:
        """What it has for those that ask for more than cores and memory."""
        told = self.description
        return Offer(
            self.executors,
            frozenset(told.get("can", ())),
            frozenset(numa["id"] for numa in told.get("numa", ())),
            frozenset(gpu["index"] for gpu in told.get("gpus", ())),
            cannot=told.get("cannot", {}),
        )

    @cached_property
    def gpu_uuids(self) -> dict[int, str]:
        """Its GPUs as everybody knows them: several runners of one machine may tell of the same."""
        return {gpu["index"]: gpu["uuid"] for gpu in self.description.get("gpus", ())}

    @property
    def executors(self) -> frozenset[str]:
        """Executors that its runner has."""
        return frozenset(self.description.get("executors", ()))

    def checkpoint(self) -> dict[str, Any]:
        """All that is not derived from jobs, for the journal."""
        names = ("epoch", "description", "draining", "cursor", "unacknowledged", "previous", "documents", "controls")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restore(cls, name: str, saved: dict[str, Any]) -> Node:
        """Read what `checkpoint` wrote."""
        node = cls(name)
        for key, value in saved.items():
            setattr(node, key, value)
        node.cursor = (saved["cursor"][0], saved["cursor"][1])
        return node
