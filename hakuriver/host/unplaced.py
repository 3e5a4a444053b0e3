"""Tasks that are not to wait (`no_queue`), and that a plan could not place: they end, and say why. Pure functions.

It concerns each time that a task becomes ready: first, for a retry, when its document was taken back, when it is
requeued. All of it is decided in the round that plans, so that no other round and no other host finds such a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from hakuriver import explaining
from hakuriver.explaining import NodeReasons
from hakuriver.host.jobs import Job
from hakuriver.host.queue import Queue, Shape
from hakuriver.host.state import Change, State
from hakuriver.targets import Target

CAUSE = "no_queue"
#: Tasks that are ended in one round; more are looked at again in the next.
ROUND_MOST = 5000
#: Nodes that are told one by one: the reason is written for each task.
NODES_TOLD = 5


def endings(state: State, index: dict[str, Any], at: float) -> list[Change]:
    """Changes that end what waits and is not to, once all that could be placed was sent.

    `index`: the nodes as they are after that (records.NodesIndex); `at`: seconds since 1970.
    """
    found: list[Change] = []
    whys: dict[Shape, str] = {}
    for shape, name, k in islice(_left(state.queue), ROUND_MOST):
        job = state.jobs[name]
        if shape not in whys:
            whys[shape] = reason(job, shape.target, index)
        found.append(["end", name, job.wire_k(k), "failed", CAUSE, whys[shape], at])
    return found


def _left(queue: Queue) -> Iterator[tuple[Shape, str, int]]:
    """Each task that waits and is not to: its shape, job and index."""
    for shape in list(queue.hurried):
        for lot in queue.lots(shape):
            for k in lot:
                yield shape, lot.job, k


def reason(job: Job, target: Target | None, index: dict[str, Any]) -> str:
    """Why a task of this job found no place, as `hakuriver task why` tells it of one that waits."""
    river, named = explaining.river_of(index), None if target is None else [str(target)]
    found = explaining.nodes(job.spec, index["nodes"], river, named)
    if target is not None:
        found = [node for node in found if node.node == str(target)]
    return f"the job asked not to wait (no_queue), and {_why(job, found, index)}"


def _why(job: Job, found: list[NodeReasons], index: dict[str, Any]) -> str:
    if bound := explaining.share(job.spec, job.uid, job.owner, index):
        return bound
    if any(not node.reasons for node in found):
        return "a node has room, but keeps it for what has waited long, or has as many tasks as it takes"
    told = [f"{node.node}: {', '.join(node.reasons)}" for node in found]
    more = [f"{len(told) - NODES_TOLD} nodes more"] if len(told) > NODES_TOLD else []
    nodes = f" ({'; '.join(told[:NODES_TOLD] + more)})" if told else ""
    return f"{explaining.nowhere(job.spec, found, index)}{nodes}"
