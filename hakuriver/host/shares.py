"""What the tasks of each user hold, where `policy` bounds that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hakuriver.host.nodes import Node
from hakuriver.host.queue import Shape
from hakuriver.settings import Policy


class Share(NamedTuple):
    """Cores, bytes and GPUs that one user's tasks hold; of a limit: None does not bound."""

    cores: int | None = 0
    memory_bytes: int | None = 0
    gpus: int | None = 0

    def plus(self, cores: int, memory_bytes: int, gpus: int) -> Share:
        """With one task more."""
        return Share((self.cores or 0) + cores, (self.memory_bytes or 0) + memory_bytes, (self.gpus or 0) + gpus)


def limit_of(policy: Policy) -> Share | None:
    """What one user's tasks may hold at once; None: nothing is bounded."""
    limit = Share(policy.cores_per_user, policy.memory_per_user, policy.gpus_per_user)
    return None if limit == (None, None, None) else limit


def over(has: int | None, most: int | None) -> bool:
    """Whether it is more than the limit."""
    return most is not None and (has or 0) > most


class Shares:
    """The limit, and what each user's tasks hold now."""

    def __init__(self, limit: Share, nodes: Iterable[Node]) -> None:
        self.limit = limit
        self.held: dict[int, Share] = {}
        for node in nodes:
            for held in node.held.values():
                self._add(held.uid, held.cores, held.memory_bytes, len(held.gpus))

    def _add(self, uid: int, cores: int, memory_bytes: int, gpus: int) -> None:
        self.held[uid] = self.held.get(uid, Share()).plus(cores, memory_bytes, gpus)

    def allow(self, shape: Shape) -> bool:
        """Whether its user may hold one task of this shape more."""
        if shape.uid is None:
            return True
        asked = (shape.cores, shape.memory_bytes, shape.gpus)
        would = self.held.get(shape.uid, Share()).plus(*asked)
        return not any(more and over(has, most) for more, has, most in zip(asked, would, self.limit, strict=True))

    def spend(self, shape: Shape) -> None:
        """One more is held."""
        if shape.uid is not None:
            self._add(shape.uid, shape.cores, shape.memory_bytes, shape.gpus)

    def told(self) -> dict[str, Any]:
        """For index/nodes.json: records.UserShare by uid."""
        return {str(uid): share._asdict() for uid, share in self.held.items()}
