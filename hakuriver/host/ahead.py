"""How much short work each node gets in advance: about what it has just done in a second.

Without it a node that runs tasks of a few milliseconds would wait for a round trip after each. What was sent
ahead lies in the node's keeper, which starts it as soon as there is room.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hakuriver.host.state import State

#: Seconds looked back, and the longest task that counts as short.
WINDOW_S = 1.0
#: Seconds that the first endings are taken to have been spread over.
BEGUN_S = 0.1
#: Cores' worth sent ahead at most.
AHEAD_MOST = 4000


class Ahead:
    """Remembers which short tasks ended on which node lately."""

    def __init__(self) -> None:
        self._ended: dict[str, deque[tuple[float, str, int]]] = {}  #: when, job, its cores

    def note(self, node: str, events: list[dict[str, Any]], state: State, now: float) -> None:
        """Look at a batch of events; `now`: CLOCK_BOOTTIME, seconds."""
        cores: dict[str, int] = {}
        for event in events:
            if event["kind"] == "ended" and event["end"].get("wall_s", WINDOW_S) < WINDOW_S:
                job = state.jobs.get(event["job"])
                if job is not None:
                    cores[job.id] = cores.get(job.id, 0) + job.spec.get("cores", 1)
        self._ended.setdefault(node, deque()).extend((now, job, some) for job, some in cores.items())

    def allowance(self, node: str, now: float) -> tuple[int, frozenset[str]]:
        """Cores' worth of short tasks that the node may be sent beyond what is free, and of which jobs."""
        ended = self._ended.get(node)
        while ended and now - ended[0][0] > WINDOW_S:
            ended.popleft()
        if not ended:
            return 0, frozenset()
        seen_s = max(BEGUN_S, now - ended[0][0])  # a burst that has just begun goes on as it began
        a_second = int(sum(cores for _, _, cores in ended) * WINDOW_S / seen_s)
        return min(AHEAD_MOST, a_second), frozenset(job for _, job, _ in ended)
