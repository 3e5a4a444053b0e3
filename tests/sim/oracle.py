"""What must hold at the end of every run, whatever went wrong on the way. Each breach is told in words."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from hakuriver.host import unplaced
from hakuriver.host.journal import Journal, NotYet, find_baton
from hakuriver.host.recovery import recover
from hakuriver.host.state import State
from hakuriver.ids import is_job_id, task_name
from hakuriver.records import FINAL, JobSnapshot, TaskRow
from hakuriver.spool import layout
from hakuriver.spool.layout import NodePaths
from sim.disk import SimDisk
from sim.keeper import Run
from sim.share import Share, leaf
from sim.world import World

#: Causes of a failure that come from outside the task, by the faults that a run had.
FROM_OUTSIDE = {"reboot", "keeper_died"}


def judge(world: World, *, lossy: bool = False, reruns: bool = False) -> list[str]:
    """Every law that is broken.

    `lossy`: machines were off, or away for longer than the lease, so that tasks may be lost, rebooted or fenced.
    `reruns`: somebody asked for a requeue, so that a task may complete twice.
    """
    final = Final(world)
    return [
        *world.watch.wrong,
        *([] if lossy else world.watch.waited),
        *receipts(world),
        *jobs(final),
        *endings(final, lossy),
        *attempts(final),
        *executions(final, reruns),
        *room(world),
        *kills(world, final),
        *outputs(world, final),
        *drained(world),
        *recovered(world),
    ]


class Final:
    """The newest snapshot of each accepted job, as it lies on the share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
        for run in world.log:
            self.runs[(run.task, run.attempt)].append(run)
        newest: dict[str, tuple[int, str]] = {}
        for path in world.share.tree():
            found = layout.parse_snapshot(leaf(path)) if path.startswith("jobs/") else None
            if found and (found[0] not in newest or newest[found[0]][0] < found[2]):
                newest[found[0]] = (found[2], path)
        # Older ones may be torn by a power cut until the next checkpoint removes them: nobody reads those.
        self.snapshots = {
            job: JobSnapshot.model_validate_json(world.share.find(path).content) for job, (_, path) in newest.items()
        }

    def rows(self) -> Iterator[tuple[str, JobSnapshot, TaskRow]]:
        """Every task that has a row: its name, its job, the row."""
        for job, snapshot in self.snapshots.items():
            for row in snapshot.tasks:
                yield task_name(job, row.k), snapshot, row


def receipts(world: World) -> Iterator[str]:
    """Each request that was durably at the door has exactly one receipt."""
    answered = Counter(receipt["name"] for receipt in world.watch.receipts.values())
    asked = Counter(world.watch.asked)
    for name in asked.keys() | answered.keys():
        own = is_job_id(name.partition(".")[0]) and name.endswith((".json", ".jsonl"))
        if answered[name] != (min(1, asked[name]) if own else asked[name]):
            yield f"{name} was asked {asked[name]} times and answered {answered[name]} times"
        copy = layout.receipt(name.removesuffix(".json"))
        if not world.share.has(copy):
            yield f"there is no {copy}"


def jobs(final: Final) -> Iterator[str]:
    """Each accepted job is over, and each of its tasks has one final state."""
    for job in final.world.watch.accepted():
        snapshot = final.snapshots.get(job)
        if snapshot is None:
            yield f"job {job} has no snapshot"
        elif snapshot.finished_at is None:
            yield f"job {job} is not over: {snapshot.state} {snapshot.counts} waiting {snapshot.waiting!r}"
        elif len({row.k for row in snapshot.tasks}) != snapshot.count or len(snapshot.tasks) != snapshot.count:
            yield f"job {job} has {len(snapshot.tasks)} rows for {snapshot.count} tasks"
        elif any(row.state not in FINAL for row in snapshot.tasks):
            yield f"job {job} has tasks that are not over: {snapshot.counts}"


def endings(final: Final, lossy: bool) -> Iterator[str]:
    """What is told of a task's last attempt is what happened."""
    for name, snapshot, row in final.rows():
        problem = _ending(final.runs[(name, row.attempt)], row, lossy)
        if row.cause == unplaced.CAUSE:
            problem = None if snapshot.spec.no_queue and _not_sent(final, name, row) else "it was to wait, or ran"
        if problem:
            yield f"{name}: {problem}; told: {row.state} {row.cause} {row.exit_code}, attempt {row.attempt}"
        if row.state == "killed" and not _was_killed(final.world, snapshot.job):
            yield f"{name} is killed, and nobody asked for it"


def _ending(runs: list[Run], row: TaskRow, lossy: bool) -> str | None:
    how = [(run.how, run.code) for run in runs]
    if row.cause == "exit":
        return None if how == [("exit", row.exit_code)] else f"it ran {how}"
    if row.state == "killed":
        return None if all(end in ("killed", "fenced", "reboot", "keeper_died") for end, _ in how) else f"it ran {how}"
    if row.state == "lost" or row.cause in FROM_OUTSIDE:
        return None if lossy else "nothing was away long enough for that"
    if row.cause == "time_limit":
        return None if how == [("time_limit", None)] else f"it ran {how}"
    return "no attempt may end like this"


def _not_sent(final: Final, name: str, row: TaskRow) -> bool:
    """Whether what could not be placed never ran, or only in attempts that are noted as over."""
    attempts = {attempt for (task, attempt), runs in final.runs.items() if task == name and runs}
    return row.exit_code is None and attempts <= {earlier.attempt for earlier in row.earlier}


def _was_killed(world: World, job: str) -> bool:
    return any(
        receipt["kind"] == "kill" and any(a["task"].startswith(job) for a in receipt.get("answers", ()))
        for receipt in world.watch.receipts.values()
    )


def attempts(final: Final) -> Iterator[str]:
    """Each attempt but the first follows from a retry spent or from a fenced one."""
    for name, snapshot, row in final.rows():
        earlier = [attempt.attempt for attempt in row.earlier]
        latest = row.attempt + (row.cause == unplaced.CAUSE)  # one more was to come, and could not be placed
        if row.attempt and earlier != list(range(1, latest)):
            yield f"{name}: attempt {row.attempt} follows {earlier}"
        spent = sum(attempt.state != "fenced" for attempt in row.earlier)
        requeued = any(r["kind"] == "requeue" for r in final.world.watch.receipts.values())
        if not requeued and spent != row.retries_spent:
            yield f"{name}: {row.retries_spent} retries spent, but {row.earlier}"
        if row.retries_spent > snapshot.spec.retries:
            yield f"{name}: {row.retries_spent} retries spent of {snapshot.spec.retries}"


def executions(final: Final, reruns: bool) -> Iterator[str]:
    """No two executions of a task at once, none of one attempt twice, and one that completes."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in final.world.log:
        by_task[run.task].append(run)
    known, given_up = set(final.world.watch.accepted()), _given_up(final)
    for task, runs in by_task.items():
        if task[:20] not in known:
            yield f"{task} ran, and was never accepted"
        for first, second in pairwise(runs):
            if first.end is None or second.start < first.end:
                yield f"two executions at once: {first} and {second}"
        twice = [attempt for attempt, n in Counter(run.attempt for run in runs).items() if n > 1]
        if twice:
            yield f"attempts {twice} of {task} ran twice: {runs}"
        completed = [r for r in runs if r.how == "exit" and r.code == 0 and (task, r.attempt) not in given_up]
        if not reruns and len(completed) > 1:
            yield f"{task} completed more than once: {runs}"


def _given_up(final: Final) -> set[tuple[str, int]]:
    """Attempts of which nobody could tell that they had completed: the node was silent, or forgot it in a reboot."""
    return {
        (name, attempt.attempt)
        for name, _, row in final.rows()
        for attempt in row.earlier
        if attempt.state == "lost" or attempt.cause in FROM_OUTSIDE
    }


def room(world: World) -> Iterator[str]:
    """No node ever ran more than it has cores for."""
    for name, runner in world.runners.items():
        changes = []
        for run in world.log:
            if run.node == name:
                cores = world.watch.jobs.get(run.task[:20], {}).get("spec", {}).get("cores", 1)
                changes += [(run.start, 1, cores), (run.end if run.end is not None else world.t, 0, -cores)]
        used = 0
        for _, _, cores in sorted(changes):
            used += cores
            if used > runner.cores:
                yield f"{name} ran {used} cores' worth at once, and has {runner.cores}"
                break


def kills(world: World, final: Final) -> Iterator[str]:
    """What was killed is killed, or had been told to be over."""
    states = {name: row.state for name, _, row in final.rows()}
    for receipt in world.watch.receipts.values():
        for answer in receipt.get("answers", ()) if receipt["kind"] == "kill" else ():
            state = states.get(answer["task"], "")
            told = (answer["ok"], answer["outcome"]) == (False, "already killed")  # by an earlier kill
            if answer["ok"] != (state == "killed") and state != "lost" and not told:
                yield f"the kill of {answer['task']} was answered by {answer}, and it is {state}"


def outputs(world: World, final: Final) -> Iterator[str]:
    """The output of what completed is whole on the share."""
    for name, snapshot, row in final.rows():
        expected = snapshot.spec.command[3].encode()
        if row.state != "completed" or not expected:
            continue
        path = layout.stdout_path(snapshot.job, row.k, row.attempt)
        found = world.share.find(path).content if world.share.has(path) else None
        if found != expected:
            yield f"{path} is {found!r} instead of {expected!r} ({name})"


def drained(world: World) -> Iterator[str]:
    """Nothing is left over where things only pass through."""
    share = world.share
    for directory in (layout.TAKEN, layout.INCOMING):
        yield from _left(share, directory, 0)
    for name, runner in world.runners.items():
        if not runner.up:
            continue
        paths = NodePaths(name)
        for part, most in (("inbox", 0), ("claimed", 0), ("events", 0), ("revoked", 1)):
            yield from _left(share, paths.dir(part), most)
        if runner.keeper.tasks:
            yield f"the keeper of {name} still knows {sorted(runner.keeper.tasks)}"


def _left(share: Share, directory: str, most: int) -> Iterator[str]:
    names = [entry.name for entry in share.entries(directory)] if directory in share.dirs else []
    if len(names) > most:
        yield f"{directory} still holds {names}"


def leader(world: World) -> State | None:
    """The state of the host that leads."""
    found = [a.host.state for a in world.hosts.values() if a.up and a.host.leading]
    return found[-1] if found else None


def recovered(world: World) -> Iterator[str]:
    """The journal is dense up to the baton, and what it gives is what the host holds in memory."""
    live = leader(world)
    if live is None:
        yield f"no host leads: {[a.said for a in world.hosts.values()]}"
        return
    disk = SimDisk(world.share, "oracle", lambda *_: None)
    try:
        found = recover(disk, Journal(disk, find_baton(disk))).state
    except NotYet as error:
        yield f"the journal cannot be read: {error}"
        return
    yield from _compare_jobs(live, found)
    for name in live.nodes.keys() | found.nodes.keys():
        yield from _compare(f"node {name}", _node(live, name), _node(found, name))
    yield from _compare("open requests", sorted(live.requests), sorted(found.requests))
    if live.requests:
        yield f"requests are still open: {[r.checkpoint() for r in live.requests.values()]}"


def _compare_jobs(live: State, found: State) -> Iterator[str]:
    for job in live.jobs.keys() | found.jobs.keys():
        ours, theirs = live.jobs.get(job), found.jobs.get(job)
        if ours is not None and theirs is not None:
            yield from _compare(f"job {job}", json.loads(ours.snapshot()), json.loads(theirs.snapshot()))
        elif ours is not None:
            yield f"job {job} is in the host's memory and not in its journal"
        elif theirs is not None and not theirs.finished:
            yield f"job {job} is in the journal, not over, and the host has forgotten it"


def _node(state: State, name: str) -> dict[str, Any]:
    node = state.nodes.get(name)
    return {**node.checkpoint(), "held": sorted(node.held), "cores_held": node.cores_held} if node else {}


def _compare(what: str, live: object, found: object) -> Iterator[str]:
    if live != found:
        yield f"{what}: the host holds {live}, its journal gives {found}"
