"""All that the host knows, changed by journal changes alone.

Whatever the host hears or decides becomes a *change*: a list whose first item is its kind. `State.apply` is
the only place that alters jobs and nodes; the running host and a replay of the journal after a crash both go
through it, so that both come to the same state. Changes hold no objects and depend on no clock.

Kinds of change, with their arguments (k is an index, or null for a job's only task):

    jobs     receipt, owner, [[job, spec]...], taken             accepted; `taken`: its name in host/taken/
    receipt  receipt, taken                                     an answer that needs no waiting, or ends an order's
    order    request, name, op, uid, host, environment, image, taken    asked of the engine of that host
    control  request, name, op, uid, at, [[job, k]...], [[task, ok, outcome]...], taken    asked of tasks; a kill that
             names its grace has that, in seconds, before `taken`
    events   node, epoch, seq, [event...]                       a batch heard, records.Event
    alive    node, [[job, k, attempt]...], at                   lost or retried, yet found running there
    send     node, [[job, k, attempt, executor, gpus, package]...], [control...], [drop...], previous, [epoch, seq],
             images    a document for its inbox; previous: place of the one before; [epoch, seq]: events acknowledged;
             images: {package: image id}; what has neither GPUs nor a package ends with its executor, and a document
             without packages with [epoch, seq]
    revoked  node, place, at                                    a document taken back unclaimed
    lost     node, [[job, k, attempt]...], at                   claimed there, and the lease and margin are over
    end      job, k, state, cause, reason, at                   ended by the host: never started
    node     node, epoch, description                           a runner has started there
    drain    node, on                                           nothing new there
    forget   node
    revive   snapshot                                           a finished job, to be requeued
    requeue  job, [k...]
    dismiss  [job...]                                           finished and its lost tasks past correction
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from hakuriver.host import endings
from hakuriver.host.jobs import ONLY, Job, Task
from hakuriver.host.nodes import Held, Node
from hakuriver.host.queue import Queue
from hakuriver.host.requests import OpenRequest, Order
from hakuriver.ids import position, task_name
from hakuriver.records import FINAL, HOLDING
from hakuriver.spool import layout

Change = list[Any]


class State:
    """Jobs that are not over, nodes, requests that wait for their answer."""

    def __init__(self, by_user: bool = False) -> None:
        """`by_user`: some resource is limited for each user, see `Queue`."""
        self.jobs: dict[str, Job] = {}
        self.nodes: dict[str, Node] = {}
        self.requests: dict[str, OpenRequest] = {}
        self.orders: dict[str, Order] = {}  #: about environments, by request, in the order in which they came
        self.queue = Queue(by_user)
        self.open_tasks: Counter[int] = Counter()  #: of each user: those that are not over
        self.admission = 0
        self.term = 0
        self.seq = 0  #: of the entry whose changes are being applied
        self.touched: dict[str, None] = {}  #: jobs changed since their last snapshot, the longest changed first
        self.answered: list[OpenRequest] = []  #: complete, their receipts are due
        self._kinds: dict[str, Callable[..., None]] = {
            "jobs": self._jobs, "receipt": self._receipt, "control": self._control, "order": self._order,
            "events": self._events,
            "alive": self._alive, "send": self._send, "revoked": self._revoked, "lost": self._lost, "end": self._end,
            "node": self._node, "drain": self._drain, "forget": self._forget, "revive": self._revive,
            "requeue": self._requeue, "dismiss": self._dismiss,
        }  # fmt: skip

    def apply(self, change: Change) -> None:
        """Carry out one change of the entry `self.term`, `self.seq`."""
        self._kinds[change[0]](*change[1:])

    # -- helpers

    def _touch(self, job: Job) -> None:
        job.term, job.seq = self.term, self.seq
        self.touched[job.id] = None

    def _set(self, job: Job, task: Task, state: str) -> None:
        """Change a task's state, and what its node holds with it."""
        held, holds = task.state in HOLDING, state in HOLDING
        node = self.nodes.get(task.node or "")
        if held and not holds and node is not None:
            node.release((job.id, task.k))
        self.open_tasks[job.uid] += (task.state in FINAL) - (state in FINAL)
        task.state = state
        job.set_state(task.k, state)
        if holds and not held:
            self._hold(job, task)
        self._touch(job)

    def _hold(self, job: Job, task: Task) -> None:
        node = self.nodes.get(task.node or "")
        if node is not None:
            cores, memory = job.spec.get("cores", 1), job.spec.get("memory_bytes") or 0
            node.hold((job.id, task.k), Held(job.uid, cores, memory, tuple(task.gpus)))

    def _finish(self, job: Job, task: Task, at: float | None) -> None:
        """A task has got its final state."""
        if task.state == "lost":
            job.lost += 1
        job.settle(task)
        if job.finished:
            job.finished_at = at
        if task.kill:
            self._answer_kills(job, task, task.state == "killed", told(task.state))
        self._close(job, task, task.state)

    def _answer_kills(self, job: Job, task: Task, ok: bool, outcome: str) -> None:
        """All who have asked for its end hear what came of that."""
        name = job.name_of(task.k)
        for request in [r.request for r in self.requests.values() if r.op == "kill" and name in r.open]:
            self._answer(request, name, ok, outcome)
        task.kill = None

    def _close(self, job: Job, task: Task, outcome: str) -> None:
        """Nothing of this attempt can be paused or resumed any more; what was asked is answered."""
        name = job.name_of(task.k)
        for request in [r for r in self.requests.values() if r.op != "kill" and name in r.open]:
            self._answer(request.request, name, False, f"cannot {request.op}: {outcome}")
        node = self.nodes.get(task.node or "")
        if node is not None and node.controls:
            key = (job.id, job.wire_k(task.k), task.attempt)
            node.controls = [c for c in node.controls if (c["job"], c["k"], c["attempt"]) != key]

    def _answer(self, request: str, task: str, ok: bool, outcome: str) -> None:
        waiting = self.requests.get(request)
        if waiting is not None and waiting.answer(task, ok, outcome):
            del self.requests[request]
            self.answered.append(waiting)

    # -- changes: requests

    def _jobs(self, receipt: dict[str, Any], owner: str, jobs: list[Any], _taken: str) -> None:
        for job_id, spec in jobs:
            self.admission += 1
            if job_id in self.jobs:
                continue
            job = self.jobs[job_id] = Job(job_id, receipt["uid"], owner, self.admission, receipt["at"], spec)
            self.queue.add_job(job)
            self.open_tasks[job.uid] += job.count
            self._touch(job)

    def _receipt(self, receipt: dict[str, Any], _taken: str | None = None) -> None:
        """Little to remember: the effect is the receipt itself."""
        self.orders.pop(receipt["request"], None)

    def _order(
        self, request: str, name: str, op: str, uid: int, host: str, environment: str, image: str | None, _taken: str
    ) -> None:
        self.orders.setdefault(request, Order(request, name, op, uid, host, environment, image))

    def _control(
        self, request: str, name: str, op: str, uid: int, at: float, tasks: list[Any], answers: list[Any], *more: Any
    ) -> None:
        waiting = OpenRequest(request, name, op, uid, answers, more[0] if len(more) > 1 else None)
        self.requests[request] = waiting
        for job_id, k in tasks:
            self._ask(waiting, job_id, k, at)
        if not waiting.open:
            del self.requests[request]
            self.answered.append(waiting)

    def _ask(self, waiting: OpenRequest, job_id: str, k: int | None, at: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            waiting.done.append([job_id if k is None else f"{job_id}-{k}", False, "is over"])
            return
        index = ONLY if k is None else k
        name, state = job.name_of(index), job.state_of(index)
        waiting.open.add(name)
        if waiting.op == "kill":
            self._ask_kill(waiting, job, index, at)
        elif state not in HOLDING:
            self._answer_now(waiting, name, False, refusal(waiting.op, state))
        else:
            self._control_for(job, index, waiting)

    def _answer_now(self, waiting: OpenRequest, task: str, ok: bool, outcome: str) -> None:
        waiting.open.discard(task)
        waiting.done.append([task, ok, outcome])

    def _ask_kill(self, waiting: OpenRequest, job: Job, k: int, at: float) -> None:
        state, name = job.state_of(k), job.name_of(k)
        if state in FINAL and state != "lost":
            self._answer_now(waiting, name, False, refusal("kill", state))
        elif state == "pending":
            self._end(job.id, job.wire_k(k), "killed", "killed", "killed before it started", at)
            self._answer_now(waiting, name, True, "killed")
        else:
            task = job.task(k)
            before = self.requests.get(task.kill or "")
            if before is None or waiting.sooner(before):
                task.kill = waiting.request
                self._touch(job)
                self._control_for(job, k, waiting)

    def _control_for(self, job: Job, k: int, waiting: OpenRequest) -> None:
        task = job.task(k)
        node = self.nodes.get(task.node or "")
        if node is not None:
            grace = {} if waiting.grace_s is None else {"grace_s": waiting.grace_s}
            node.controls.append(
                {
                    "request": waiting.request,
                    "op": waiting.op,
                    "job": job.id,
                    "k": job.wire_k(k),
                    "attempt": task.attempt,
                    **grace,
                }
            )

    # -- changes: what nodes tell

    def _events(self, node: str, epoch: int, seq: int, events: list[dict[str, Any]]) -> None:
        at = self.nodes[node]
        at.cursor = (epoch, seq)
        at.unacknowledged = True
        for event in events:
            kind = event["kind"]
            if kind == "begin":
                self._begin(at, event)
            elif kind in ("claimed", "unreadable"):
                self._claimed(at, event.get("dispatch", ""), None if kind == "claimed" else event)
            elif kind == "answer":
                self._answer_event(event)
            else:
                self._happened(at, event)

    def _begin(self, node: Node, event: dict[str, Any]) -> None:
        """The runner has started anew: what it does not answer for any more has been lost track of."""
        holds = {(job, ONLY if k is None else k, attempt) for job, k, attempt in event.get("holds", ())}
        for job_id, k in list(node.held):
            job = self.jobs.get(job_id)
            task = job.live.get(k) if job else None
            if job and task and task.claimed and (job_id, k, task.attempt) not in holds:
                end = {"state": "failed", "cause": "lost_track", "ended_at": event.get("at"),
                       "reason": f"the runner of {node.name} lost track of it"}  # fmt: skip
                self._ended(job, task, end)

    def _claimed(self, node: Node, place: str, refusal: dict[str, Any] | None) -> None:
        document = node.documents.pop(place, None)
        for job_id, wire_k, attempt in document["tasks"] if document else ():
            job = self.jobs.get(job_id)
            task = job.live.get(ONLY if wire_k is None else wire_k) if job else None
            if job is None or task is None or task.attempt != attempt or task.state not in HOLDING:
                continue
            task.claimed = True
            self._touch(job)
            if refusal:
                self._ended(job, task, {"state": "failed", "cause": "refused", "reason": refusal.get("text", "")})

    def _answer_event(self, event: dict[str, Any]) -> None:
        """A pause or resume is answered by this; a kill by the ending, unless the attempt is unknown there."""
        op, ok, text = event.get("op"), event.get("ok", True), event.get("text", "")
        if op != "kill":
            shown = text if ok or text.startswith("cannot") else f"cannot {op}: {text}"
            self._answer(event["request"], task_name(event["job"], event.get("k")), ok, shown)

    def _happened(self, node: Node, event: dict[str, Any]) -> None:
        job = self.jobs.get(event["job"])
        k = ONLY if event.get("k") is None else event["k"]
        task = job.live.get(k) if job else None
        if job is None or task is None or (task.attempt, task.holder) != (event["attempt"], node.name):
            return
        kind = event["kind"]
        if kind == "ended":
            self._ended(job, task, event["end"])
        elif kind == "syncing":
            self._syncing(job, task, event)
        elif kind == "started":
            self._found_running(job, task, node, event.get("at"), "running")
        else:
            self._found_running(job, task, node, None, "paused" if kind == "paused" else "running")
            self._answer_seen("pause" if kind == "paused" else "resume", job.name_of(k), kind)

    def _syncing(self, job: Job, task: Task, event: dict[str, Any]) -> None:
        """Its image is being brought into the node's engine."""
        if task.state == "assigning":
            task.phase = f"syncing {event.get('text', '')}"
            self._touch(job)

    def _answer_seen(self, op: str, task: str, kind: str) -> None:
        """What was asked for has come about: a runner that died in between may have lost the answer itself."""
        for request in [r.request for r in self.requests.values() if r.op == op and task in r.open]:
            self._answer(request, task, True, kind)

    def _found_running(self, job: Job, task: Task, node: Node, at: float | None, state: str) -> None:
        """It runs: also if it was thought lost, as long as no later attempt was sent out."""
        if task.state not in HOLDING:
            if not task.may_be_corrected:
                return
            self._uncount_loss(job, task)
            task.node = node.name
        task.claimed, task.phase = True, ""
        if at is not None:
            task.started_at = at
        self._set(job, task, state)

    def _uncount_loss(self, job: Job, task: Task) -> None:
        """Take back that an attempt was lost."""
        if task.state == "lost":
            job.lost -= 1
            job.finished_at = None
        else:
            self.queue.discard(job, task.k)
            task.recall()
            task.retries_spent -= 1
        task.ended_at, task.cause, task.reason = None, "", ""

    def _alive(self, node: str, tasks: list[Any], _at: float) -> None:
        for job_id, wire_k, attempt in tasks:
            job = self.jobs.get(job_id)
            task = job.live.get(ONLY if wire_k is None else wire_k) if job else None
            if job and task and task.attempt == attempt and task.may_be_corrected:
                self._found_running(job, task, self.nodes[node], None, "running")

    def _ended(self, job: Job, task: Task, end: dict[str, Any]) -> None:
        """An attempt is over: for good, or to be followed by another."""
        if task.state not in HOLDING:
            if not task.may_be_corrected:
                return  # told before
            self._uncount_loss(job, task)
        endings.note(task, end)
        verdict = endings.verdict(task, end, job.spec.get("retries", 0))
        self._set(job, task, verdict)
        if verdict == "pending":
            self._again(job, task, end["state"])
        else:
            self._finish(job, task, end.get("ended_at"))

    def _again(self, job: Job, task: Task, state: str) -> None:
        """Let the task wait for its next attempt."""
        self._close(job, task, "this attempt is over, and another is to come")
        task.state = state
        task.note_attempt()
        task.state = "pending"
        if state != "fenced":
            task.retries_spent += 1
            task.reason = f"retry {task.retries_spent} of {job.spec.get('retries', 0)}: {task.reason}"
        task.reset()
        self.queue.add(job, task.k)

    # -- changes: what the host decides

    def _send(
        self,
        node: str,
        tasks: list[Any],
        controls: list[Any],
        _drops: list[Any],
        _previous: str | None,
        _ack: list[int],
        _images: dict[str, str] | None = None,
    ) -> None:
        at, place = self.nodes[node], position(self.term, self.seq)
        at.previous = place
        at.unacknowledged = False
        at.controls = []
        if tasks or controls:
            at.documents[place] = {"tasks": [row[:3] for row in tasks], "controls": controls}
        for job_id, wire_k, attempt, executor, *more in tasks:
            job = self.jobs.get(job_id)
            if job is None:
                continue
            k = ONLY if wire_k is None else wire_k
            self.queue.discard(job, k)
            job.waiting.discard(k)
            task = job.task(k)
            task.reset()
            task.attempt, task.node, task.dispatch = attempt, node, place
            task.executor = executor
            task.gpus, task.environment = more or ([], None)  # what earlier versions sent had neither
            task.cause = task.reason = ""
            self._set(job, task, "assigning")

    def _revoked(self, node: str, place: str, at: float) -> None:
        document = self.nodes[node].documents.pop(place, None)
        if document is None:
            return
        self.nodes[node].controls += document["controls"]
        self.nodes[node].unacknowledged = True  # the acknowledgement in it was taken back with it
        for job_id, wire_k, attempt in document["tasks"]:
            job = self.jobs.get(job_id)
            task = job.live.get(ONLY if wire_k is None else wire_k) if job else None
            if job and task and task.attempt == attempt and task.state == "assigning":
                self._take_back(job, task, at)

    def _take_back(self, job: Job, task: Task, at: float) -> None:
        """Never claimed: it waits again, as if it had not been sent; or it is killed, if that was asked."""
        self._close(job, task, "pending")
        self._set(job, task, "pending")
        task.reset()
        task.attempt -= 1
        task.gpus, task.environment = [], None
        if task.kill:
            self._end(job.id, job.wire_k(task.k), "killed", "killed", "killed before it started", at)
        else:
            self.queue.add(job, task.k)

    def _lost(self, node: str, tasks: list[Any], at: float) -> None:
        for job_id, wire_k, attempt in tasks:
            job = self.jobs.get(job_id)
            task = job.live.get(ONLY if wire_k is None else wire_k) if job else None
            if job and task and task.attempt == attempt and task.state in HOLDING:
                self._lose(job, task, node, at)

    def _lose(self, job: Job, task: Task, node: str, at: float) -> None:
        end = {"state": "lost", "cause": "lost", "ended_at": at, "reason": f"{node} fell silent"}
        endings.note(task, end)
        if task.retries_spent < job.spec.get("retries", 0) and not task.kill:
            self._set(job, task, "pending")
            self._again(job, task, "lost")
        else:
            self._set(job, task, "lost")
            kill, task.kill = task.kill, None
            self._finish(job, task, at)
            task.kill = kill  # kept, and carried out if the node comes back

    def _end(self, job_id: str, wire_k: int | None, state: str, cause: str, reason: str, at: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            return
        k = ONLY if wire_k is None else wire_k
        self.queue.discard(job, k)
        job.waiting.discard(k)
        task = job.task(k)
        task.ended_at, task.cause, task.reason = at, cause, reason
        self._set(job, task, state)
        self._finish(job, task, at)

    # -- changes: nodes and housekeeping

    def _node(self, node: str, epoch: int, description: dict[str, Any]) -> None:
        known = self.nodes.setdefault(node, Node(node))
        known.describe(epoch, description)

    def _drain(self, node: str, on: bool) -> None:
        if node in self.nodes:
            self.nodes[node].draining = on

    def _forget(self, node: str) -> None:
        self.nodes.pop(node, None)

    def _revive(self, snapshot: dict[str, Any]) -> None:
        if snapshot["job"] in self.jobs:
            return
        job = Job.load(json.dumps(snapshot).encode())
        job.saved_path = layout.snapshot_path(layout.DONE, job.id, job.term, job.seq)
        self.add_loaded(job)

    def rebuild(self) -> None:
        """After a replay: derive the queue and what nodes hold from the jobs as they are now."""
        self.queue = Queue(self.queue.by_user)
        self.open_tasks.clear()
        for node in self.nodes.values():
            node.release_all()
        for job in list(self.jobs.values()):
            self.add_loaded(job)

    def add_loaded(self, job: Job) -> None:
        """Take in a job from its snapshot."""
        self.jobs[job.id] = job
        self.admission = max(self.admission, job.admission)
        self.queue.add_job(job)
        self.open_tasks[job.uid] += job.count - job.over_count - job.lost
        for task in job.live.values():
            if task.state == "pending":
                self.queue.add(job, task.k)
            elif task.state in HOLDING:
                self._hold(job, task)

    def _requeue(self, job_id: str, ks: list[int]) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            return
        wanted = {ONLY if k is None else k for k in ks}
        job.unsettle({k for k in wanted if k not in job.live})
        for k in wanted:
            task = job.live[k]
            if task.state == "lost":
                job.lost -= 1
            if task.attempt:
                task.note_attempt()
            if task.kill:
                self._answer_kills(job, task, False, "lost, and requeued since")
            task.retries_spent, task.cause, task.reason = 0, "", "requeued"
            task.reset()
            self._set(job, task, "pending")
            self.queue.add(job, k)
        job.finished_at = None

    def _dismiss(self, jobs: list[str]) -> None:
        for job_id in jobs:
            job = self.jobs.pop(job_id, None)
            for task in job.live.values() if job else ():
                if job and task.kill:
                    self._answer_kills(job, task, False, "lost")


def refusal(op: str, state: str) -> str:
    """Why nothing is done to a task that is in this state, or to a job that is over."""
    return f"already {state}" if op == "kill" else f"cannot {op}: {state}"


def told(state: str) -> str:
    """How a receipt says that a task is over."""
    return "killed" if state == "killed" else f"already {state}"
