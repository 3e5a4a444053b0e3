"""From requests that were read at the door to changes: who may ask what, and what the answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hakuriver import offers
from hakuriver.host import checking, door, policy
from hakuriver.host.checking import VALUE_MOST, problem
from hakuriver.host.door import Asked
from hakuriver.host.finished import Finished
from hakuriver.host.fitting import Fitting
from hakuriver.host.jobs import ONLY, Job
from hakuriver.host.state import refusal
from hakuriver.ids import JOB_ID_DIGITS, parse_task
from hakuriver.records import (
    FINAL,
    ControlRequest,
    EnvironmentRequest,
    HostRequest,
    NodeRequest,
    RunRequest,
    task_count,
)
from hakuriver.targets import parse

if TYPE_CHECKING:
    from hakuriver.host.leader import Host


#: What a receipt says of a node.
NODE_DONE = {
    "drain": "gets nothing new; what runs there finishes",
    "undrain": "is in service",
    "forget": "is forgotten",
}


class _Requeued(NamedTuple):
    """A job that a requeue names."""

    job: Job
    snapshot: dict[str, Any] | None  #: if it is over, and to come to life again
    again: dict[int, None]  #: indices of the tasks that are to be run once more


class Answers:
    """Answers each request with exactly one change that bears or leads to its receipt."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._state = host.state
        self.finished = Finished(host.disk)

    def answer(self, asked: Asked) -> None:
        """Accept or refuse one request, or leave it for later."""
        problems = asked.refusal or self._not_allowed(asked)
        if not problems and isinstance(asked.body, ControlRequest) and self._too_early(asked, asked.body):
            return None
        if problems:
            self._refuse(asked, problems)
        elif asked.kind == "run":
            self._run(asked, [asked.body])
        elif asked.kind == "batch":
            self._run(asked, asked.body)
        elif isinstance(asked.body, ControlRequest):
            self._control(asked, asked.body)
        elif isinstance(asked.body, NodeRequest):
            self._node(asked, asked.body)
        elif isinstance(asked.body, EnvironmentRequest):
            self._order(asked, asked.body)
        elif asked.kind == "gc":
            return self._collect(asked, asked.body)
        else:
            self._reindex(asked)
        self._host.door.answered(asked.entry)
        return None

    def _not_allowed(self, asked: Asked) -> list[dict[str, Any]] | None:
        """Whether who asked may. A river of this version is its user's own."""
        if asked.uid != self._host.own_uid and not self._is_admin(asked.uid):
            who, own = door.user_name(asked.uid), door.user_name(self._host.own_uid)
            message = f"not owner: the file belongs to {who}, and this river takes requests of {own} alone"
            return [problem("file", asked.taken.name, message, f"ask as {own}, or be one of its cluster.admins")]
        if isinstance(asked.body, NodeRequest | HostRequest | EnvironmentRequest) and not self._is_admin(asked.uid):
            return [problem("request", asked.kind, "only admins may ask for this", "see cluster.admins on the host")]
        return None

    def _is_admin(self, uid: int) -> bool:
        return uid == self._host.own_uid or door.user_name(uid) in self._host.settings.cluster.admins

    def _refuse(self, asked: Asked, problems: list[dict[str, Any]]) -> None:
        self._host.decide(["receipt", self._receipt(asked, "refused", errors=problems), asked.entry])

    def _receipt(self, asked: Asked, outcome: str, **more: Any) -> dict[str, Any]:
        return {
            "format": 1, "request": asked.taken.request, "name": asked.taken.name, "kind": asked.kind,
            "outcome": outcome, "at": self._host.now(), "uid": asked.uid, **more,
        }  # fmt: skip

    # -- jobs

    def _run(self, asked: Asked, bodies: list[RunRequest]) -> None:
        jobs: list[list[Any]] = []
        ids: dict[str, None] = {}
        warnings: list[dict[str, Any]] = []
        tasks = 0
        for number, body in enumerate(bodies, 1):
            where = f"line {number}: " if asked.kind == "batch" else ""
            problems, failed = self._check_job(body, asked.uid, tasks)
            if problems:
                return self._refuse(asked, [{**p, "field": where + p["field"]} for p in problems])
            warnings += [{**p, "field": where + p["field"]} for p in failed]
            job = self._id_for(asked, body)
            ids[job] = None
            tasks += task_count(body.array, len(body.targets))
            if self.finished.known(job) or job in self._state.jobs:
                if job == asked.taken.request:
                    return self._host.forget_taken(asked.entry)  # its receipt stands
                continue
            jobs.append([job, checking.spec_of(body)])
        receipt = self._receipt(asked, "accepted", ids=list(ids), tasks=tasks, errors=warnings)
        self._host.decide(["jobs", receipt, door.user_name(asked.uid), jobs, asked.entry])
        return None

    def _id_for(self, asked: Asked, body: RunRequest) -> str:
        if asked.kind == "batch":
            return body.id or self._host.new_id()
        return body.id or asked.taken.request

    def _check_job(self, body: RunRequest, uid: int, tasks: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What forbids the job, and which of its targets cannot be had; those are taken out of it.

        `tasks`: of jobs before it in the same request.
        """
        admin = self._is_admin(uid)
        if body.priority > 0 and not admin:
            return [problem("priority", body.priority, "above 0 is for admins", "use 0 or less")], []
        settings = self._host.settings
        who = policy.Who(door.user_name(uid), admin, self._state.open_tasks[uid] + tasks)
        problems = policy.forbidden(body, who, settings.policy, settings.docker) or self._check_environment(body)
        if problems:
            return problems, []
        fitting = Fitting(self._state.nodes, {name: self._host.away(name) for name in self._state.nodes},
                          self._host.river())  # fmt: skip
        failed = fitting.on_targets(body)
        bad = {p["value"] for p in failed}
        good = [target for target in body.targets if target[:VALUE_MOST] not in bad]
        if failed and not good:
            return failed, []
        body.targets = good
        return fitting.anywhere(body), failed

    def _check_environment(self, body: RunRequest) -> list[dict[str, Any]]:
        """Whether there is a package for what can only run in a container."""
        wishes = offers.wishes_of(body.__dict__)
        contained = offers.needs_container(wishes, None) or any(parse(target).gpus for target in body.targets)
        if not contained and body.executor != "docker":
            return []
        name = offers.environment(wishes, self._host.river())
        packages = self._host.packages
        if name not in packages.newest:
            packages.look(self._host.boottime(), at_once=True)
        coming = body.container is None and self._host.settings.docker.initial_base_image
        if name in packages.newest or coming:
            return []
        known = ", ".join(sorted(packages.newest)) or "none"
        remedy = f"`hakuriver docker create-tar {name}` makes one; environments that have one: {known}"
        return [problem("container", name, f"{offers.NO_PACKAGE} {name}", remedy)]

    # -- controls

    def _control(self, asked: Asked, body: ControlRequest) -> None:
        if body.request == "requeue":
            return self._requeue(asked)
        tasks, answers = self._resolve(body.targets, body.request)
        grace = [] if body.grace is None else [body.grace]
        self._host.decide(
            ["control", asked.taken.request, asked.taken.name, body.request, asked.uid, self._host.now(),
             tasks, answers, *grace, asked.entry]
        )  # fmt: skip
        return None

    def _too_early(self, asked: Asked, body: ControlRequest) -> bool:
        """Whether it names a job that may be about to come."""
        jobs = {target[:JOB_ID_DIGITS] for target in body.targets}
        unknown = {job for job in jobs if job not in self._state.jobs and not self.finished.known(job)}
        return bool(unknown) and self._host.door.postpone(asked, unknown)

    def _resolve(self, targets: list[str], op: str) -> tuple[list[list[Any]], list[list[Any]]]:
        """Every task meant, as [job, k]; and answers for what is not there any more or never was."""
        tasks: list[list[Any]] = []
        answers: list[list[Any]] = []
        for target in dict.fromkeys(targets):
            job_id, k = parse_task(target) or (target, None)
            job = self._state.jobs.get(job_id)
            if job is None:
                answers.append([target, False, self._why_not(op, job_id, k)])
            elif k is None:
                concerned = _not_over(job)
                tasks += [[job.id, job.wire_k(index)] for index in concerned]
                if not concerned:
                    answers.append([target, False, refusal(op, job.ending()[0])])
            elif self._has(job, k):
                tasks.append([job.id, k])
            else:
                answers.append([target, False, "there is no such task"])
        return _once(tasks), answers

    def _why_not(self, op: str, job_id: str, k: int | None) -> str:
        """What to answer to a control of a job that is not active, or of a task of it."""
        self._host.beat()  # see `_look_up`
        job = self.finished.load(job_id)
        if job is None:
            return "there is no such job"
        if k is not None and not self._has(job, k):
            return "there is no such task"
        return refusal(op, job.ending()[0] if k is None else job.state_of(k))

    def _has(self, job: Job, k: int) -> bool:
        try:
            job.state_of(k)
        except KeyError:
            return False
        return not job.single

    def _requeue(self, asked: Asked) -> None:
        """Decided when all is read, by one change for each job, which goes through all that is over of it."""
        found: dict[str, _Requeued] = {}
        done: list[list[Any]] = []
        for target in dict.fromkeys(asked.body.targets):
            job_id, k = parse_task(target) or (target, None)
            done += self._requeue_one(target, job_id, k, found)
        for job, snapshot, again in found.values():
            if again and snapshot is not None:
                self._host.decide(["revive", snapshot])
            if again:
                self._host.decide(["requeue", job.id, [job.wire_k(i) for i in again]])
        rows = [{"task": task, "ok": ok, "outcome": outcome} for task, ok, outcome in done]
        self._host.decide(["receipt", self._receipt(asked, "done", answers=rows), asked.entry])

    def _requeue_one(self, target: str, job_id: str, k: int | None, found: dict[str, _Requeued]) -> list[list[Any]]:
        """`found`: jobs that this request has named before; added to."""
        if job_id not in found and (looked_up := self._look_up(job_id)) is not None:
            found[job_id] = looked_up
        if job_id not in found:
            return [[target, False, "there is no such job"]]
        job, _, again = found[job_id]
        if k is not None and not self._has(job, k):
            return [[target, False, "there is no such task"]]
        wanted = [ONLY if k is None else k] if k is not None or job.single else _unsuccessful(job)
        over = [i for i in wanted if job.state_of(i) in FINAL and i not in again]
        if not over:
            return [[target, False, "nothing to requeue: no task of it has ended" if k is None else "it is not over"]]
        again.update(dict.fromkeys(over))
        return [[job.name_of(i), True, "requeued"] for i in over]

    def _look_up(self, job_id: str) -> _Requeued | None:
        if job_id in self._state.jobs:
            return _Requeued(self._state.jobs[job_id], None, {})
        self._host.beat()  # thousands may take longer than the lease
        found = self.finished.read(job_id)
        return None if found is None else _Requeued(*found, {})

    # -- nodes and housekeeping

    def _node(self, asked: Asked, body: NodeRequest) -> None:
        node = self._state.nodes.get(body.node)
        if node is None:
            known = ", ".join(sorted(self._state.nodes)) or "none"
            return self._refuse(asked, [problem("node", body.node, "there is no such node", f"nodes known: {known}")])
        if body.request == "forget":
            if not self._host.hearing.offline(body.node) or node.held:
                return self._refuse(
                    asked, [problem("node", body.node, "it is online or has tasks", "stop its runner; wait or kill")]
                )
            self._host.decide(["forget", body.node])
            self._host.hearing.seen.pop(body.node, None)
        else:
            self._host.decide(["drain", body.node, body.request == "drain"])
        self._host.decide(
            ["receipt", self._receipt(asked, "done", text=f"{body.node} {NODE_DONE[body.request]}"), asked.entry]
        )
        return None

    def _order(self, asked: Asked, body: EnvironmentRequest) -> None:
        """It is carried out once this is committed, and answered when it is done."""
        self._host.decide(
            ["order", asked.taken.request, asked.taken.name, body.request, asked.uid, self._host.host_id,
             body.environment, body.image, asked.entry]
        )  # fmt: skip

    def _reindex(self, asked: Asked) -> None:
        self._host.want_reindex = True
        self._host.decide(["receipt", self._receipt(asked, "done", text="the index is being rebuilt"), asked.entry])

    def _collect(self, asked: Asked, body: HostRequest) -> None:
        """It is answered by `collected`. Until then the request lies where it is, for the next host if need be."""
        self._host.housekeeping.ask(self._host.now(), body.older_than, asked)
        self._host.door.set_aside(asked.entry)

    def collected(self, asked: Asked, text: str) -> None:
        """What this request asked for is deleted."""
        self._host.decide(["receipt", self._receipt(asked, "done", text=text), asked.entry])
        self._host.door.answered(asked.entry)


def _once(tasks: list[list[Any]]) -> list[list[Any]]:
    """The same without repeats: a job and one of its tasks may both have been named."""
    return [list(pair) for pair in dict.fromkeys((job, k) for job, k in tasks)]


def _not_over(job: Job) -> list[int]:
    """Indices of the job's tasks that a control may concern."""
    live = [k for k, task in job.live.items() if task.state not in FINAL or task.state == "lost"]
    return sorted({*live, *job.waiting})


def _unsuccessful(job: Job) -> list[int]:
    """Indices of the job's tasks that are over and did not complete."""
    return [k for k in job.all_indices() if job.state_of(k) in FINAL - {"completed"}]
