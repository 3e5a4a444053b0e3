"""Whatever happens to tasks: no GPU has two of them, no node more than it has, and a replay comes to the same."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.host import unplaced
from hakuriver.host.jobs import ONLY, PENDING, Job, Task
from hakuriver.host.nodes import Node
from hakuriver.host.planning import Placement, Room, Rules, plan
from hakuriver.host.shares import Share, Shares
from hakuriver.host.state import Change, State
from hakuriver.offers import River
from hakuriver.records import HOLDING

GIB = 1 << 30
NODES: dict[str, dict[str, Any]] = {
    "a": {"cores": 4, "memory_bytes": 8 * GIB, "executors": ["docker", "systemd", "process"],
          "can": ["docker-gpus", "systemd-numa"], "numa": [{"id": 0}, {"id": 1}],
          "gpus": [{"index": n} for n in range(3)]},
    "b": {"cores": 2, "memory_bytes": 4 * GIB, "executors": ["docker", "process"], "can": ["docker-gpus"],
          "gpus": [{"index": n} for n in (0, 2)]},
    "c": {"cores": 3, "memory_bytes": 2 * GIB, "executors": ["process"]},
}  # fmt: skip
RIVER = River(environment="base", packages={"base": "base-1", "torch": "torch-2"})
LIMIT = Share(5, 9 * GIB, 3)

_jobs = st.lists(
    st.fixed_dictionaries(
        {"cores": st.integers(0, 3), "retries": st.integers(0, 2)},
        optional={
            "memory_bytes": st.integers(1, 4).map(lambda n: n * GIB),
            "gpus": st.integers(0, 3),
            "array": st.sampled_from(["0-3", "1,5", "0-5%2"]),
            "container": st.sampled_from(["NULL", "torch"]),
            "no_queue": st.just(True),
        },
    )
    | st.fixed_dictionaries(
        {
            "targets": st.lists(
                st.sampled_from(["a", "a:1", "a::0", "a::1,2", "a:0::2", "b::2", "b::0,2", "c"]), min_size=1
            )
        },
        optional={"cores": st.integers(0, 2), "retries": st.integers(0, 1), "array": st.just("0-1")},
    ),
    min_size=1,
    max_size=8,
)
STEPS = (
    "plan", "plan", "claim", "start", "pause", "resume", "end", "fail", "fence", "silence", "return", "revoke", "kill",
    "requeue", "begin",
)  # fmt: skip
#: What happens: a step, and which of what it may concern.
_steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30)), max_size=60)


class Run:
    """A host without disk and clock: changes, and what must hold after each."""

    def __init__(self, specs: list[dict[str, Any]], by_user: bool, strategy: str) -> None:
        self.state = State(by_user)
        self.state.term = 1
        self.changes: list[Change] = []
        self.silent: set[str] = set()
        self.claimed: dict[str, str] = {}
        self.rules = Rules(RIVER, strategy)
        self.limited = by_user  #: until what was given up returns beside what took its place
        for name, description in NODES.items():
            self.change("node", name, 1, description)
        for number, spec in enumerate(specs, 1):
            receipt = {"request": f"{number:020d}", "name": "x.json", "kind": "run", "uid": number % 2, "at": 1.0}
            self.change("jobs", receipt, "me", [[f"{number:020d}", {"command": ["x"], **spec}]], "taken")

    def change(self, *change: Any) -> None:
        self.state.seq += 1
        self.changes.append(json.loads(json.dumps(change)))
        self.state.apply(list(change))

    def tell(self, node: str, *events: dict[str, Any]) -> None:
        epoch, seq = self.state.nodes[node].cursor
        self.change("events", node, epoch or 1, seq + 1, list(events))

    def tasks(self, *states: str) -> list[tuple[Job, Task]]:
        found = [(job, task) for job in self.state.jobs.values() for task in job.live.values() if task.state in states]
        return sorted(found, key=lambda pair: (pair[0].id, pair[1].k))

    def happens(self, step: str, which: int) -> None:
        getattr(self, f"_{step}")(which)
        self.state.answered.clear()

    # -- steps

    def _plan(self, _which: int) -> None:
        nodes = sorted(self.state.nodes.values(), key=lambda node: node.name)
        self.rules.shares = Shares(LIMIT, nodes) if self.state.queue.by_user else None
        rooms = [room_of(node) for node in nodes if node.name not in self.silent]
        found = plan(self.state.queue, rooms, lambda job: self.state.jobs[job].active, lambda shape: False, self.rules)
        for name in NODES:
            here = [placed for placed in found.placements if placed.node == name]
            if here:
                self._send(self.state.nodes[name], here)
        for change in unplaced.endings(self.state, {"nodes": []}, 5.0):
            self.change(*change)
        hurried = [job for job in self.state.jobs.values() if job.spec.get("no_queue")]
        assert not any(job.counts[PENDING] for job in hurried), "what is not to wait never outlasts a plan"
        assert not any(job.waiting for job in hurried)

    def _send(self, node: Node, placed: list[Placement]) -> None:
        rows = []
        for start in placed:
            job = self.state.jobs[start.job]
            attempt = job.live[start.k].attempt + 1 if start.k in job.live else 1
            more = [list(start.gpus), start.package] if start.gpus or start.package else []
            rows.append([start.job, job.wire_k(start.k), attempt, start.executor, *more])
        self.change("send", node.name, rows, list(node.controls), [], node.previous, list(node.cursor))

    def _of(self, which: int, *states: str, silent: bool = False) -> tuple[Job, Task] | None:
        found = [(job, task) for job, task in self.tasks(*states) if (task.node in self.silent) == silent]
        return found[which % len(found)] if found else None

    def _event(self, which: int, kind: str, *states: str, **more: Any) -> None:
        found = self._of(which, *states)
        if found and found[1].claimed:
            job, task = found
            what = {"kind": kind, "job": job.id, "k": job.wire_k(task.k), "attempt": task.attempt, **more}
            self.tell(task.node or "", what)

    def _claim(self, which: int) -> None:
        waiting = [node for node in self.state.nodes.values() if node.documents and node.name not in self.silent]
        if waiting:
            node = waiting[which % len(waiting)]
            self.tell(node.name, {"kind": "claimed", "dispatch": next(iter(node.documents))})

    def _start(self, which: int) -> None:
        self._event(which, "started", "assigning", at=2.0)

    def _pause(self, which: int) -> None:
        self._event(which, "paused", "running")

    def _resume(self, which: int) -> None:
        self._event(which, "resumed", "paused")

    def _end(self, which: int) -> None:
        self._event(which, "ended", *HOLDING, end={"state": "completed", "cause": "exit", "exit_code": 0})

    def _fail(self, which: int) -> None:
        self._event(which, "ended", *HOLDING, end={"state": "failed", "cause": "exit", "exit_code": 1})

    def _fence(self, which: int) -> None:
        self._event(which, "ended", *HOLDING, end={"state": "fenced", "cause": "fenced"})

    def _silence(self, which: int) -> None:
        """A node is cut off, and all that it has claimed is given up."""
        name = sorted(NODES)[which % len(NODES)]
        self.silent.add(name)
        node = self.state.nodes[name]
        for place in list(node.documents):
            self.change("revoked", name, place, 3.0)
        lost = [[job, self.state.jobs[job].wire_k(k), self.state.jobs[job].live[k].attempt] for job, k in node.held]
        self.change("lost", name, lost, 3.0)

    def _return(self, which: int) -> None:
        """It comes back, with what has no later attempt still running."""
        if not self.silent:
            return
        name = sorted(self.silent)[which % len(self.silent)]
        self.silent.discard(name)
        alive = [[job.id, job.wire_k(task.k), task.attempt] for job, task in self.tasks("pending", "lost")
                 if task.may_be_corrected and task.holder == name]  # fmt: skip
        self.limited = self.limited and not alive
        self.change("alive", name, alive, 4.0)

    def _revoke(self, which: int) -> None:
        waiting = [node for node in self.state.nodes.values() if node.documents]
        if waiting:
            node = waiting[which % len(waiting)]
            self.change("revoked", node.name, next(iter(node.documents)), 3.0)

    def _kill(self, which: int) -> None:
        found = self._of(which, "pending", *HOLDING)
        if found:
            job, task = found
            name = f"{900 + len(self.changes):020d}"
            self.change("control", name, "x", "kill", 0, 2.0, [[job.id, job.wire_k(task.k)]], [], "taken")

    def _requeue(self, which: int) -> None:
        jobs = [job for job in self.state.jobs.values() if job.over_count]
        if jobs:
            job = jobs[which % len(jobs)]
            over = [k for k in job.all_indices() if k not in job.live and job.state_of(k) != "pending"]
            self.change("requeue", job.id, [job.wire_k(k) for k in over[:1]])

    def _begin(self, which: int) -> None:
        """A runner starts anew and knows nothing of what it had."""
        online = sorted(NODES.keys() - self.silent)
        if online:
            name = online[which % len(online)]
            self.tell(name, {"kind": "begin", "holds": []})


def room_of(node: Node) -> Room:
    return Room(
        node.name, node.cores - node.cores_held, node.memory_bytes - node.memory_held, node.cores, node.memory_bytes,
        len(node.held), node.offer, gpus=set(node.offer.gpus - node.gpus_held.keys()),
    )  # fmt: skip


def holdings(state: State) -> dict[str, Any]:
    """What each node holds, found from the tasks themselves."""
    found: dict[str, Any] = {name: {"cores": 0, "memory": 0, "gpus": Counter[int]()} for name in state.nodes}
    for job in state.jobs.values():
        for task in job.live.values():
            if task.state in HOLDING:
                here = found[task.node or ""]
                here["cores"] += job.spec.get("cores", 1)
                here["memory"] += job.spec.get("memory_bytes") or 0
                here["gpus"].update(task.gpus)
    return found


def check(run: Run) -> None:
    for name, held in holdings(run.state).items():
        node = run.state.nodes[name]
        assert held["cores"] <= node.cores
        assert held["memory"] <= node.memory_bytes
        assert all(count == 1 for count in held["gpus"].values()), f"{name}: {held['gpus']}"
        assert held["gpus"].keys() <= node.offer.gpus
        assert (node.cores_held, node.memory_held) == (held["cores"], held["memory"])
        assert node.gpus_held.keys() == held["gpus"].keys()
    if run.limited:
        for share in Shares(LIMIT, run.state.nodes.values()).held.values():
            assert all((has or 0) <= (most or 0) for has, most in zip(share, LIMIT, strict=True))
    for uid in (0, 1):
        jobs = [job for job in run.state.jobs.values() if job.uid == uid]
        waiting = sum(job.count - job.over_count - job.lost for job in jobs)
        assert run.state.open_tasks[uid] == waiting
    for job, task in run.tasks(*HOLDING):
        target = job.target(task.k)
        assert target is None or target.node == task.node
        assert not (target and target.gpus) or tuple(task.gpus) == target.gpus
        assert not job.wishes.gpus or len(task.gpus) == job.wishes.gpus
        assert (task.executor == "docker") == (task.environment is not None)


def sorted_tasks(job: Job) -> Any:
    """Its snapshot; rows stand in no particular order."""
    found = json.loads(job.snapshot())
    return {**found, "tasks": sorted(found["tasks"], key=str)}


def seen(state: State) -> Any:
    """All that must be the same after a replay."""
    return {
        "jobs": {job.id: json.loads(job.snapshot()) for job in state.jobs.values()},
        "held": {name: (node.held, node.gpus_held, node.cores_held) for name, node in state.nodes.items()},
        "open": +state.open_tasks,
        "queue": sorted((str(shape), sorted(k for lot in lots.values() for k in dict.fromkeys(lot)))
                        for shape, lots in state.queue.shapes.items() if any(lots.values())),
    }  # fmt: skip


@settings(max_examples=150)
@given(_jobs, _steps, st.booleans(), st.sampled_from(["first-fit", "best-fit", "least-loaded", "round-robin"]))
def test_nothing_is_given_twice_and_a_replay_comes_to_the_same(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]], by_user: bool, strategy: str
) -> None:
    run = Run(specs, by_user, strategy)
    run.happens("plan", 0)
    for step, which in steps:
        run.happens(step, which)
        check(run)
    again = State(by_user)
    again.term = 1
    for change in run.changes:
        again.seq += 1
        again.apply(change)
    assert seen(again) == seen(run.state)
    again.rebuild()
    assert seen(again) == seen(run.state)
    restored = State(by_user)
    restored.nodes = {name: Node.restore(name, json.loads(json.dumps(node.checkpoint())))
                      for name, node in run.state.nodes.items()}  # fmt: skip
    for job in run.state.jobs.values():
        loaded = Job.load(job.snapshot())
        assert sorted_tasks(loaded) == sorted_tasks(job)
        restored.add_loaded(loaded)
    restored.rebuild()
    for name, node in restored.nodes.items():
        assert (node.held, node.gpus_held) == (run.state.nodes[name].held, run.state.nodes[name].gpus_held)
    assert +restored.open_tasks == +run.state.open_tasks


def test_a_gpu_that_two_hold_is_free_when_both_are_over() -> None:
    state = State()
    state.apply(["node", "a", 1, NODES["a"]])
    jobs = [f"{number:020d}" for number in (1, 2)]
    for job in jobs:
        receipt = {"request": job, "name": "x", "kind": "run", "uid": 1, "at": 1.0}
        state.apply(["jobs", receipt, "me", [[job, {"command": ["x"], "gpus": 1}]], "taken"])
    node = state.nodes["a"]
    end = {"state": "completed", "cause": "exit", "exit_code": 0}
    for seq, job in enumerate(jobs):
        state.seq = seq
        state.apply(["send", "a", [[job, None, 1, "docker", [0], "base-1"]], [], [], None, [0, 0], {"base-1": "x"}])
    assert node.gpus_held == {0: (jobs[1], ONLY)}
    for seq, (job, left) in enumerate(((jobs[1], {0: (jobs[0], ONLY)}), (jobs[0], {})), 1):
        state.apply(["events", "a", 1, seq, [{"kind": "ended", "job": job, "k": None, "attempt": 1, "end": end}]])
        assert node.gpus_held == left


def test_an_attempt_that_returns_holds_the_gpus_it_had() -> None:
    state = State()
    job = f"{1:020d}"
    receipt = {"request": job, "name": "x", "kind": "run", "uid": 1, "at": 1.0}
    for change in (
        ["node", "a", 1, NODES["a"]],
        ["node", "b", 1, NODES["b"]],
        ["jobs", receipt, "me", [[job, {"command": ["x"], "gpus": 1, "retries": 1}]], "taken"],
        ["send", "a", [[job, None, 1, "docker", [1], "base-1"]], [], [], None, [0, 0], {"base-1": "x"}],
        ["lost", "a", [[job, None, 1]], 1.0],
        ["send", "b", [[job, None, 2, "docker", [2], "base-2"]], [], [], None, [0, 0], {"base-2": "y"}],
    ):
        state.seq += 1
        state.apply(change)
    (place,) = state.nodes["b"].documents
    state.apply(["revoked", "b", place, 2.0])
    state.jobs[job] = Job.load(state.jobs[job].snapshot())
    state.apply(["alive", "a", [[job, None, 1]], 3.0])
    assert state.nodes["a"].gpus_held == {1: (job, ONLY)}
    assert state.nodes["b"].gpus_held == {}


def test_what_earlier_versions_wrote_is_read() -> None:
    state = State()
    state.apply(["node", "a", 1, {"cores": 4, "memory_bytes": GIB, "executors": ["process"]}])
    job = f"{1:020d}"
    receipt = {"request": job, "name": "x", "kind": "run", "uid": 1, "at": 1.0}
    state.apply(["jobs", receipt, "me", [[job, {"command": ["x"]}]], "taken"])
    state.apply(["send", "a", [[job, None, 1, "process"]], [], [], None, [0, 0]])
    (task,) = state.jobs[job].live.values()
    assert (task.executor, task.gpus, task.environment, task.phase) == ("process", [], None, "")
    row = json.loads(state.jobs[job].snapshot())["tasks"][0]
    assert len(row) == 19
    assert Task.from_row(row).gpus == []
