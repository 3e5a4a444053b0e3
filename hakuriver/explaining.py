"""Why a task waits, node by node; and how one ended: pure functions over what the river tells."""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

from typing import Any, NamedTuple

from hakuriver import units
from hakuriver.reading import FINAL, Job, Task


class NodeReasons(NamedTuple):
    """What keeps a task from one node; nothing: it has room."""

    node: str
    reasons: list[str]


def nodes(spec: dict[str, Any], rows: list[dict[str, Any]]) -> list[NodeReasons]:
    """For each node (rows as records.NodeRow) why a task of this job does not start there now."""
    targets = spec.get("targets") or []
    found = [NodeReasons(row["node"], node_reasons(spec, row)) for row in rows]
    known = {row["node"] for row in rows}
    return found + [NodeReasons(name, ["no host has heard of it"]) for name in targets if name not in known]


def node_reasons(spec: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """See `nodes`."""
    targets = spec.get("targets") or []
    if targets and row["node"] not in targets:
        return ["not among the job's targets"]
    return [*_out_of_service(row), *_executor(spec, row), *_cores(spec, row), *_memory(spec, row)]


def _out_of_service(row: dict[str, Any]) -> list[str]:
    if row["state"] == "offline":
        return [f"offline, silent for {units.format_duration(row.get('silent_s', 0.0))}"]
    if row["state"] == "draining":
        return ["draining: `hakuriver node resume` takes it back"]
    return []


def _executor(spec: dict[str, Any], row: dict[str, Any]) -> list[str]:
    wanted = spec.get("executor", "auto")
    return [] if wanted in ("auto", *row["executors"]) else [f"it has no {wanted}"]


def _cores(spec: dict[str, Any], row: dict[str, Any]) -> list[str]:
    wanted, all_cores = spec.get("cores", 1), row["cores"]
    free = max(0, all_cores - row["cores_held"])
    if wanted > all_cores:
        return [f"it has {all_cores} cores, {wanted} are asked for"]
    return [f"{free} of {all_cores} cores free, {wanted} are asked for"] if wanted > free else []


def _memory(spec: dict[str, Any], row: dict[str, Any]) -> list[str]:
    wanted, total = spec.get("memory_bytes") or 0, row["memory_bytes"]
    free = max(0, total - row["memory_held_bytes"])
    if wanted > total:
        return [f"it has {units.format_size(total)} of memory, {units.format_size(wanted)} are asked for"]
    if wanted > free:
        shown = units.format_size(wanted)
        return [f"{units.format_size(free)} of {units.format_size(total)} of memory free, {shown} are asked for"]
    return []


def at_once(job: Job) -> str | None:
    """Whether the array's own bound holds its tasks back."""
    array = job.spec.get("array")
    most = units.parse_array(array)[1] if array else None
    active = sum(job.counts.get(state, 0) for state in ("assigning", "running", "paused"))
    return f"the array runs {most} at once at most, and {active} are" if most and active >= most else None


def pending(job: Job, found: list[NodeReasons]) -> str:
    """In one sentence why it waits."""
    bound = at_once(job)
    if bound:
        return bound
    if not found:
        return "no host has told of any node yet: see whether `hakuriver runner` runs on one"
    if any(not node.reasons for node in found):
        return "a node has room: it starts in a moment, or jobs before it take that room first"
    return "no node has room for it now"


def task(job: Job, told: Task) -> str:
    """How a task that has been sent out stands, or how it ended, in one sentence."""
    where = f" on {told.node}" if told.node else ""
    tries = job.spec.get("retries", 0) + 1
    attempt = f", attempt {told.attempt} of at most {tries}" if tries > 1 and told.attempt else ""
    if told.state == "completed":
        return f"completed{where} after {units.format_duration(told.wall_s)}{attempt}"
    if told.state in FINAL:
        how = told.reason or _how(told)
        after = f" after {units.format_duration(told.wall_s)}" if told.wall_s else ""
        return f"{told.state}{where}{after}{attempt}: {how}"
    if told.state == "assigning":
        return f"sent to {told.node}; its runner starts it as soon as it can{attempt}"
    if told.state == "pending" and told.reason:
        return f"pending: {told.reason}"
    return f"{told.state}{where}{attempt}"


def _how(told: Task) -> str:
    if told.signal:
        return f"ended by signal {told.signal}"
    if told.exit_code is not None:
        return f"it exited with {told.exit_code}"
    return told.cause or "nobody knows"
