"""A node as the host holds it: what it is and holds, and what was sent to it."""

from __future__ import annotations

from typing import Any


class Node:
    """One node; altered by journal changes alone, except `seen`, which is the observer's own."""

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
        self.held: dict[tuple[str, int], tuple[int, int]] = {}  #: (job, k) -> cores, memory
        self.cores_held = 0
        self.memory_held = 0

    def hold(self, key: tuple[str, int], cores: int, memory_bytes: int, sign: int) -> None:
        """Begin (1) or end (-1) to hold resources for a task."""
        if sign > 0:
            self.held[key] = (cores, memory_bytes)
        elif self.held.pop(key, None) is None:
            return
        self.cores_held += sign * cores
        self.memory_held += sign * memory_bytes

    def release_all(self) -> None:
        """Hold nothing."""
        self.held.clear()
        self.cores_held = self.memory_held = 0

    @property
    def cores(self) -> int:
        """Cores that it offers."""
        return int(self.description.get("cores", 0))

    @property
    def memory_bytes(self) -> int:
        """Memory that it offers."""
        return int(self.description.get("memory_bytes", 0))

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
