"""GPUs that somebody uses who is no task of this river's, as far as heartbeats tell."""

from __future__ import annotations

from hakuriver.host.nodes import Node
from hakuriver.records import Heartbeat

#: Seconds for which what uses a GPU may still be what is left of a task that held it.
LINGER_S = 15.0


class Foreign:
    """Remembers which GPUs were held lately. A heartbeat is judged when it is read, and holds until the next."""

    def __init__(self) -> None:
        self._held_at: dict[str, float] = {}  #: by UUID
        self._found: dict[str, frozenset[int]] = {}

    def note(self, node: Node, now: float) -> None:
        """Look which GPUs are held, or were since the last look. `now`: CLOCK_BOOTTIME, seconds."""
        for gpu in node.gpus_lately | node.gpus_held.keys():
            if gpu in node.gpu_uuids:
                self._held_at[node.gpu_uuids[gpu]] = now
        node.gpus_lately.clear()

    def hear(self, node: Node, heartbeat: Heartbeat, now: float) -> None:
        """Judge what a node tells; after `note`."""
        used = (load.index for load in heartbeat.load.gpus if load.processes)
        never = float("-inf")
        self._found[node.name] = frozenset(
            gpu for gpu in used if now - self._held_at.get(node.gpu_uuids.get(gpu, ""), never) > LINGER_S
        )

    def of(self, node: Node) -> frozenset[int]:
        """Indices of its GPUs that others use."""
        return self._found.get(node.name, frozenset()) - node.gpus_held.keys()
