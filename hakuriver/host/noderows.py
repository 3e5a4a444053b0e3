"""What is told of a node: its description, what it holds, and its last heartbeat, as records.NodeRow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hakuriver.host.hearing import Seen
from hakuriver.host.nodes import Node
from hakuriver.records import GpuLoad, Heartbeat

#: Of a node's description, as it stands there.
_DESCRIBED: dict[str, Any] = {"hostname": "", "version": "", "numa": [], "can": [], "engines": {}, "cannot": {}}


def node_row(
    node: Node, state: str, seen: Seen | None, tasks: Mapping[int, str], foreign: Collection[int]
) -> dict[str, Any]:
    """One node. `state`: online, offline, draining; `tasks`: GPU -> name of the task that holds it; `foreign`: GPUs."""
    beat = seen.heartbeat if seen else None
    return {
        "node": node.name, "state": state, "epoch": node.epoch, "cores": node.cores,
        "memory_bytes": node.memory_bytes, "cores_held": node.cores_held, "memory_held_bytes": node.memory_held,
        "tasks": len(node.held), "executors": sorted(node.executors),
        **{name: node.description.get(name, default) for name, default in _DESCRIBED.items()},
        "gpus": gpu_rows(node.description.get("gpus", ()), beat, tasks, foreign),
        "load": beat.load.model_dump() if beat else {}, "problems": beat.problems if beat else [],
        "away": beat.away if beat else {},
        "heartbeat": f"{seen.beat[0]}-{seen.beat[1]}" if seen and seen.beat else "",
        "silent_s": round(seen.silent_s if seen else 0, 1),
    }  # fmt: skip


def gpu_rows(
    described: Collection[dict[str, Any]], beat: Heartbeat | None, tasks: Mapping[int, str], foreign: Collection[int]
) -> list[dict[str, Any]]:
    """GPUs as records.GpuRow, in the order of their indices."""
    loads: dict[int, GpuLoad] = {load.index: load for load in beat.load.gpus} if beat else {}
    return [
        {
            **gpu,
            "load": loads[gpu["index"]].model_dump() if gpu["index"] in loads else None,
            "task": tasks.get(gpu["index"]),
            "foreign": gpu["index"] in foreign,
        }
        for gpu in described
    ]
