"""Why a task waits, node by node; and how one ended: pure functions over what the river tells."""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hakuriver import offers, units
from hakuriver.offers import Offer, River
from hakuriver.reading import FINAL, Job, Task
from hakuriver.targets import Target, parse

PLAIN = River()


class NodeReasons(NamedTuple):
    """What keeps a task from one node; nothing: it has room."""

    node: str
    reasons: list[str]


def nodes(
    spec: dict[str, Any], rows: list[dict[str, Any]], river: River = PLAIN, named: Sequence[str] | None = None
) -> list[NodeReasons]:
    """For each node (rows as records.NodeRow) why a task of this job does not start there now.

    `named`: the targets that are meant, if not all of the job's; a target that says more than a node stands for itself.
    """
    targets = [parse(text) for text in dict.fromkeys(spec.get("targets") or [] if named is None else named)]
    found = [reasons for row in rows for reasons in _of_node(spec, row, river, targets)]
    known = {row["node"] for row in rows}
    return found + [NodeReasons(str(t), ["no host has heard of it"]) for t in targets if t.node not in known]


def _of_node(
    spec: dict[str, Any], row: dict[str, Any], river: River, targets: Sequence[Target]
) -> Iterator[NodeReasons]:
    if not targets:
        yield NodeReasons(row["node"], node_reasons(spec, row, river))
        return
    here = [target for target in targets if target.node == row["node"]]
    for target in here:
        yield NodeReasons(str(target), node_reasons(spec, row, river, target))
    if not here:
        yield NodeReasons(row["node"], ["not among the job's targets"])


def node_reasons(
    spec: dict[str, Any], row: dict[str, Any], river: River = PLAIN, target: Target | None = None
) -> list[str]:
    """See `nodes`."""
    return [
        *_out_of_service(row), *offers.reasons(offers.wishes_of(spec), target, offer_of(row), river),
        *_cores(spec, row), *_memory(spec, row), *_gpus(spec, row, target),
    ]  # fmt: skip


def river_of(index: dict[str, Any] | None) -> River:
    """What holds for all jobs, as index/nodes.json tells."""
    rules = (index or {}).get("rules") or {}
    return River(
        rules.get("executor", "auto"), rules.get("environment", ""), rules.get("packages", {}),
        rules.get("contained", False),
    )  # fmt: skip


def offer_of(row: dict[str, Any]) -> Offer:
    """What a node has, as index/nodes.json tells."""
    numa, gpus = row.get("numa", ()), row.get("gpus", ())
    return Offer(
        frozenset(row["executors"]), frozenset(row.get("can", ())), frozenset(node["id"] for node in numa),
        frozenset(gpu["index"] for gpu in gpus), row.get("away", {}), row.get("cannot", {}),
    )  # fmt: skip


def _out_of_service(row: dict[str, Any]) -> list[str]:
    if row["state"] == "offline":
        return [f"offline, silent for {units.format_duration(row.get('silent_s', 0.0))}"]
    if row["state"] == "draining":
        return ["draining: `hakuriver node resume` takes it back"]
    return []


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


def _gpus(spec: dict[str, Any], row: dict[str, Any], target: Target | None) -> list[str]:
    gpus = {gpu["index"]: gpu for gpu in row.get("gpus", ())}
    if target and target.gpus:
        return [why for index in target.gpus if (why := _gpu(index, gpus, named=True))]
    wanted = spec.get("gpus") or 0
    if wanted > len(gpus):
        return [f"it has {len(gpus)} GPUs, {wanted} are asked for"]
    taken = [why for index in sorted(gpus) if (why := _gpu(index, gpus, named=False))]
    if wanted <= len(gpus) - len(taken):
        return []
    short = f"{len(gpus) - len(taken)} of {len(gpus)} GPUs free, {wanted} are asked for"
    return [*([short] if len(gpus) > 1 else []), *taken]


def _gpu(index: int, gpus: dict[int, dict[str, Any]], named: bool) -> str | None:
    """Why a GPU cannot be had; one that others use can, if it is named."""
    gpu = gpus.get(index)
    if gpu is None:
        return f"it has no GPU {index}"
    if gpu.get("task"):
        return f"GPU {index} is held by task {gpu['task']}"
    return f"GPU {index} is used by processes that are no task's" if gpu.get("foreign") and not named else None


def share(spec: dict[str, Any], uid: int | None, owner: str | None, index: dict[str, Any] | None) -> str | None:
    """Whether the user's tasks hold as much as they may, for one of this job."""
    rules = (index or {}).get("rules") or {}
    limit = rules.get("limit")
    if not limit:
        return None
    held = rules.get("users", {}).get(str(uid), {})
    kinds = (
        ("cores", "cores", spec.get("cores", 1), str),
        ("memory", "memory_bytes", spec.get("memory_bytes") or 0, units.format_size),
        ("gpus", "gpus", offers.gpus_of(spec), str),
    )
    for name, key, asked, shown in kinds:
        most, has = limit.get(key), held.get(key) or 0
        if most is not None and asked and has + asked > most:
            return (
                f"policy.{name}_per_user: tasks of {owner} hold {shown(has)}, {shown(asked)} are asked for,"
                f" and {shown(most)} are the most"
            )
    return None


def at_once(job: Job) -> str | None:
    """Whether the array's own bound holds its tasks back."""
    array = job.spec.get("array")
    most = units.parse_array(array)[1] if array else None
    active = sum(job.counts.get(state, 0) for state in ("assigning", "running", "paused"))
    return f"the array runs {most} at once at most, and {active} are" if most and active >= most else None


def pending(job: Job, found: list[NodeReasons], index: dict[str, Any] | None = None) -> str:
    """In one sentence why it waits; `index`: index/nodes.json."""
    bound = at_once(job) or share(job.spec, job.uid, job.owner, index)
    if bound:
        return bound
    if any(not node.reasons for node in found):
        return "a node has room: it starts in a moment, or jobs before it take that room first"
    return nowhere(job.spec, found, index)


def nowhere(spec: dict[str, Any], found: list[NodeReasons], index: dict[str, Any] | None) -> str:
    """In one sentence why no node takes a task of this job now."""
    if not found:
        return "no host has told of any node yet: see whether `hakuriver runner` runs on one"
    if any(why.startswith(offers.NO_PACKAGE) for node in found for why in node.reasons):
        name = offers.environment(offers.wishes_of(spec), river_of(index))
        return f"{offers.NO_PACKAGE} {name}: `hakuriver docker create-tar {name}` makes one"
    return "no node has room for it now"


def task(job: Job, told: Task, rows: Sequence[dict[str, Any]] = ()) -> str:
    """How a task that has been sent out stands, or how it ended, in one sentence. `rows`: as records.NodeRow."""
    where = f" on {told.node}" if told.node else ""
    tries = job.spec.get("retries", 0) + 1
    attempt = f", attempt {told.attempt} of at most {tries}" if tries > 1 and told.attempt else ""
    if told.state == "completed":
        return f"completed{where} after {units.format_duration(told.wall_s)}{attempt}"
    if told.state in FINAL:
        how = told.reason or _how(told)
        after = f" after {units.format_duration(told.wall_s)}" if told.wall_s else ""
        return f"{told.state}{where}{after}{attempt}: {how}"
    if told.state == "assigning" and told.phase:
        return f"{told.phase} on {told.node}, then it starts{attempt}"
    if told.state == "assigning":
        return f"sent to {told.node}; {_awaited(told, rows) or 'its runner starts it as soon as it can'}{attempt}"
    if told.state == "pending" and told.reason:
        return f"pending: {told.reason}"
    return f"{told.state}{where}{attempt}"


def _awaited(told: Task, rows: Sequence[dict[str, Any]]) -> str:
    """What its node waits for to start it; empty: nothing is known of that."""
    away = next((row["away"].get(told.executor) for row in rows if row["node"] == told.node and row.get("away")), None)
    return f"{told.executor} cannot be reached there, and is waited for: {away}" if away else ""


def _how(told: Task) -> str:
    if told.signal:
        return f"ended by signal {told.signal}"
    if told.exit_code is not None:
        return f"it exited with {told.exit_code}"
    return told.cause or "nobody knows"
