"""The host as a state machine: `open` takes the baton, each `tick` hears, plans, commits and sends.

Single-threaded and without sleeps, on an injected disk and clocks, so that a test can stop it at every file
operation. The daemon around it stands in `daemon.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from hakuriver.host import answers, checking, journal, planning, sending, unplaced
from hakuriver.host.ahead import Ahead
from hakuriver.host.door import Door
from hakuriver.host.foreign import Foreign
from hakuriver.host.hearing import EventReader, Hearing
from hakuriver.host.housekeeping import SLICE_BUSY_S, SLICE_S, Housekeeping
from hakuriver.host.journal import Journal, NotYet, Superseded
from hakuriver.host.liveness import Liveness
from hakuriver.host.noderows import node_row
from hakuriver.host.nodes import Node, gpu_holders
from hakuriver.host.packages import Packages
from hakuriver.host.recovery import left_over, recover
from hakuriver.host.requests import Order
from hakuriver.host.shares import Shares, limit_of
from hakuriver.host.snapshots import Requeued, Snapshots
from hakuriver.host.state import Change
from hakuriver.ids import task_name
from hakuriver.offers import River
from hakuriver.records import FORMAT
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.pace import Pace

__all__ = ["Host", "NotYet", "Superseded"]

#: Called with finished jobs' and changed jobs' snapshots (JSON), the nodes' index, and the journal position.
Tell = Callable[[list[bytes], dict[str, Any], tuple[int, int]], None]


class Engine(Protocol):
    """Whoever carries out orders about environments, beside the ticks; see host/environments.py."""

    def lead(self, baton: layout.Baton, orders: list[Order]) -> None:
        """This host leads now; `orders` of its own were open when it began: some of each may be done already."""

    def take(self, orders: Iterable[Order], online: frozenset[str]) -> None:
        """All that are open, committed, in order; those known already are passed over. `online`: names of nodes."""

    def answered(self) -> list[dict[str, Any]]:
        """Receipts of orders that are done or cannot be, since the last call."""


#: Seconds between ticks while something taken is not whole yet.
SETTLING_S = 0.05
#: Seconds between two documents sent only because an earlier one has not been claimed.
NUDGE_S = 10.0
#: Seconds between two looks for what an earlier host has taken back, while nothing is unclaimed.
SWEEP_IDLE_S = 60.0
#: Seconds between two collections of what retention has passed.
COLLECT_S = 3600.0


class Host:
    """The leading host, or one that waits to lead."""

    def __init__(
        self,
        disk: Disk,
        settings: Settings,
        host_id: str,
        *,
        boottime: Callable[[], float],
        now: Callable[[], float],
        new_id: Callable[[], str],
        own_uid: int,
        tell: Tell | None = None,
        lock: sending.Lock = sending.no_lock,
        engine: Engine | None = None,
    ) -> None:
        self.disk = disk
        self.settings = settings
        self.timing = settings.timing
        self.host_id = host_id
        self.boottime = boottime
        self.now = now
        self.new_id = new_id
        self.own_uid = own_uid
        self.lock = lock
        self.tell = tell
        self.engine = engine
        self.leading = False
        self._pace = Pace(settings.timing.poll_interval)
        self._watched: tuple[str, float] | None = None  #: baton of another host, and since when it has not changed

    # -- taking the lead

    def open(self) -> None:
        """Take the baton and load what it stands for. Raises NotYet while another host leads or files are missing."""
        files.present(self.disk)
        baton = journal.find_baton(self.disk)
        if baton.host not in (self.host_id, layout.NOBODY) and not self._silent(baton.name):
            raise NotYet(f"host {baton.host} leads (term {baton.term}); this one waits until it is silent")
        taken = Journal.take(self.disk, baton, self.host_id)
        self._watched = None
        self._begin(taken)

    def _silent(self, name: str) -> bool:
        """Whether another's baton has not changed for the lease, on this host's clock."""
        now = self.boottime()
        if self._watched is None or self._watched[0] != name:
            self._watched = (name, now)
        return now - self._watched[1] > self.timing.lease

    def _begin(self, taken: Journal) -> None:
        """Start from the files; `open` is called again if something cannot be seen yet: the baton is ours then."""
        self.journal = taken
        limit = limit_of(self.settings.policy)
        self.state, last, answered, named = recover(self.disk, taken, limit is not None)
        self.changes: list[Change] = []
        self._uncommitted: bytes | None = None
        self.effects: list[sending.Effect] = []
        self.snapshots = Snapshots(self.disk, self.state)
        self.snapshots.adopt(left_over(self.disk, self.state), named)
        self.hearing = Hearing(self.disk, self.timing)
        self.events = EventReader(self.disk)
        self.liveness = Liveness(self.disk, self.hearing, self.timing, self.state, taken.baton.term)
        self.door = Door(self.disk, self.new_id, self.boottime)
        self.answers = answers.Answers(self)
        self.housekeeping = Housekeeping(self.disk, self.settings.retention, self._keeps, self.boottime)
        self.ahead = Ahead()
        self.foreign = Foreign()
        docker = self.settings.docker
        self.packages = Packages(self.disk, docker.container_dir)
        self._containers = sending.Containers(docker.tasks_privileged, tuple(docker.additional_mounts), docker.network)
        self._rules = planning.Rules(strategy=self.settings.scheduling.strategy)
        self._due: dict[str, float] = {}
        self._blocked: dict[Any, float] = {}
        self._told_states: dict[str, str] = {}  #: of the nodes
        self.want_reindex = False
        again = self.door.find_taken(answered)
        taken_again = sending.Removals([f"{layout.TAKEN}/{name}" for name in again])
        shown = self._shown_first(last.changes if last else [])
        self.effects = [*shown, *sending.redo(self.state, last, self._containers), taken_again]
        #: Nodes with work that they may not have claimed: they are to echo the new term.
        self._ungreeted = {node.name for node in self.state.nodes.values() if node.documents or node.unacknowledged}
        if self.engine is not None:
            self.engine.lead(taken.baton, [o for o in self.state.orders.values() if o.host == self.host_id])
        self.leading = True

    def release(self) -> None:
        """Hand the baton back, so that another host may lead at once; only if all that was decided is carried out."""
        if self.leading and self._uncommitted is None and not (self.changes or self.effects):
            self.leading = False
            self.journal.release()

    # -- one tick

    def tick(self) -> bool:
        """Do one round of everything; tell whether anything happened. ShareError: call again later."""
        try:
            happened = self._round()
        except FileNotFoundError as error:  # a directory that init made
            files.present(self.disk)
            raise ShareError("find", str(error.filename or "a directory of the share"), error) from error
        self._pace.note(happened, self.boottime())
        return happened

    def pause_s(self) -> float:
        """Seconds until the next tick though no notice comes."""
        return SETTLING_S if self.door.busy else self._pace.pause_s(self.boottime())

    def _round(self) -> bool:
        if not self.leading:
            self.open()
        self._finish_last()
        self._take_and_check()  # lists incoming/: where that is not, the share is not
        self._hear()
        self._observe()
        self._answer_orders()
        self._answer_collections()
        self._plan_and_send()
        happened = self._commit()
        self._give_orders()
        self._checkpoint(not happened)
        self._keep_house(not happened)
        self._collect(not happened)
        return happened or self.snapshots.behind or self.housekeeping.busy

    def decide(self, change: Change) -> None:
        """Decide a change: it takes effect in memory now, and outside once the tick is committed."""
        self.state.term, self.state.seq = self.journal.baton.term, self.journal.next_seq
        self.changes.append(change)
        self.state.apply(change)

    def _every(self, what: str, seconds: float) -> bool:
        """Whether `seconds` have passed since this was last true, by this host's clock."""
        now = self.boottime()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def _finish_last(self) -> None:
        """A tick that could not be committed or carried out comes before all that is new."""
        if self._uncommitted is not None:
            self._commit()
        self._perform()

    def _take_and_check(self) -> None:
        self.door.take(self.journal.baton.term, self.journal.next_seq)
        for asked in self.door.read():
            self.answers.answer(asked)

    def _answer_orders(self) -> None:
        """Answer what the engine has done, and what can be done by no engine of this host's."""
        receipts = self.engine.answered() if self.engine and self.state.orders else []
        for receipt in [*receipts, *(self._cannot(order) for order in self.state.orders.values())]:
            order = self.state.orders.get(receipt["request"]) if receipt else None
            if order is not None:
                self._note_package(order)
                self.decide(["receipt", receipt])

    def _answer_collections(self) -> None:
        for asked, text in self.housekeeping.answers():
            self.answers.collected(asked, text)

    def _note_package(self, order: Order) -> None:
        """Whoever reads that a package was made or deleted may ask for a task at once."""
        if order.kind == "delete-tar":
            self.packages.forget(order.environment)
        elif order.kind == "create-tar":
            self.packages.look(self.boottime(), at_once=True)

    def _cannot(self, order: Order) -> dict[str, Any] | None:
        if self.engine is None:
            why, remedy = "docker unavailable on host: it carries out nothing", "ask a host that runs as a daemon"
        elif order.host != self.host_id:
            why = f"host {order.host} took it and leads no longer; what it asks for would be in that host's engine"
            remedy = "see what is there with `hakuriver docker list-containers`, and ask again"
        else:
            return None
        return order.refusal([checking.problem("environment", order.environment, why, remedy)], self.now())

    def _give_orders(self) -> None:
        """Have the engine carry out what is committed, and only that."""
        if self.engine is not None and self.state.orders:
            online = (name for name in self.state.nodes if not self.hearing.offline(name))
            self.engine.take(self.state.orders.values(), frozenset(online))

    def _hear(self) -> None:
        self.hearing.listen()
        now = self.boottime()
        for node in list(self.state.nodes.values()):
            try:
                if self.hearing.rings(node.name, node.cursor, now):
                    self._hear_node(node)
                    self.hearing.listed(node.name, now)
            except ShareError:
                continue  # the others may be heard; this one is listed again next time

    def _hear_node(self, node: Node) -> None:
        for epoch, seq, events in self.events.read(node.name, node.cursor):
            if epoch != node.epoch:
                description = self.events.description(node.name, epoch)
                if description is None:
                    return
                self.decide(["node", node.name, epoch, description])
            self.decide(["events", node.name, epoch, seq, events])
            self.ahead.note(node.name, events, self.state, self.boottime())

    def _observe(self) -> None:
        """List heartbeats about once a second, judge silence, meet new nodes."""
        if not self._every("observe", min(1.0, self.timing.poll_interval)):
            return
        try:
            names = self._names()
            changed = self.hearing.observe(names, self.boottime())
        except ShareError:
            self.hearing.pause()
            raise
        for node in self.state.nodes.values():
            self.foreign.note(node, self.boottime())
        for name in changed:
            self._heard(name)
        for change in self.liveness.judge(names, self.now()):
            self.decide(change)

    def _names(self) -> list[str]:
        """Nodes to judge: a listing may miss one that is there, and shows one still that is forgotten in this tick."""
        forgotten = {change[1] for change in self.changes if change[0] == "forget"}
        return sorted({*self.hearing.nodes(self.boottime()), *self.state.nodes} - forgotten)

    def _heard(self, name: str) -> None:
        heartbeat = self.hearing.seen[name].heartbeat
        assert heartbeat is not None
        if name not in self.state.nodes:
            description = self.events.description(name, heartbeat.epoch)
            if description is None:
                self.hearing.seen[name].heartbeat = None  # it cannot be seen yet: the next heartbeat is read too
                return
            self.decide(["node", name, heartbeat.epoch, description])
        self.foreign.hear(self.state.nodes[name], heartbeat, self.boottime())
        alive = self.liveness.returned(self.state.nodes[name], heartbeat)
        if alive:
            self.decide(["alive", name, alive, self.now()])

    def _plan_and_send(self) -> None:
        placements: dict[str, list[planning.Placement]] = {}
        plan = self._plan() if self.state.queue.shapes else planning.Plan()
        for placed in plan.placements:
            placements.setdefault(placed.node, []).append(placed)
        for node in list(self.state.nodes.values()):
            self._send_to(node, placements.get(node.name, []))
        if plan.whole and self.state.queue.hurried and not self.hearing.guesses(self.state.nodes):
            for change in unplaced.endings(self.state, self.nodes_index(), self.now()):
                self.decide(change)

    def _plan(self) -> planning.Plan:
        nodes, holders = sorted(self.state.nodes.values(), key=lambda n: n.name), gpu_holders(self.state.nodes.values())
        rooms = [self._room(node, holders) for node in nodes if self._usable(node)]
        if any("docker" in node.executors for node in self.state.nodes.values()):
            self.packages.look(self.boottime())
        self._rules.river = self.river()
        self._rules.shares = self._shares()
        found = planning.plan(
            self.state.queue, rooms, lambda job: self.state.jobs[job].active, self._long_waiting, self._rules
        )
        now = self.boottime()
        for shape in found.blocked:
            self._blocked.setdefault(shape, now)
        self._blocked = {
            s: t for s, t in self._blocked.items() if s in self.state.queue.shapes and s not in found.placed
        }
        return found

    def river(self) -> River:
        """What holds for all jobs now."""
        return River(
            self.settings.scheduling.executor, self.settings.docker.default_container_name, self.packages.newest,
            not self.settings.policy.allow_null,
        )  # fmt: skip

    def _shares(self) -> Shares | None:
        limit = limit_of(self.settings.policy)
        return Shares(limit, self.state.nodes.values()) if limit else None

    def away(self, name: str) -> dict[str, str]:
        """Executors of a node that cannot be used now, and why, by its last heartbeat that was read."""
        seen = self.hearing.seen.get(name)
        return seen.heartbeat.away if seen and seen.heartbeat else {}

    def _usable(self, node: Node) -> bool:
        reads = node.description.get("reads", ())
        return not (node.draining or self.hearing.offline(node.name)) and FORMAT in reads

    def _room(self, node: Node, holders: Mapping[str, tuple[str, int]]) -> planning.Room:
        return planning.Room(
            node.name, node.cores - node.cores_held, node.memory_bytes - node.memory_held, node.cores,
            node.memory_bytes, len(node.held), node.offer._replace(away=self.away(node.name)),
            *self.ahead.allowance(node.name, self.boottime()),
            set(node.offer.gpus - node.gpus_taken(holders).keys()), self.foreign.of(node), gpu_uuids=node.gpu_uuids,
        )  # fmt: skip

    def _long_waiting(self, shape: Any) -> bool:
        since = self._blocked.get(shape)
        return since is not None and self.boottime() - since > self.settings.limits.reserve_after

    def _send_to(self, node: Node, placed: list[planning.Placement]) -> None:
        """Send one document at most: its place in the journal is its name."""
        greeting = node.name in self._ungreeted
        if self.hearing.offline(node.name) and not greeting:
            return
        drops = self.liveness.drops(node.name)
        late = node.unacknowledged and self._every(f"acknowledge {node.name}", 1.0)
        # What is not claimed may have been by a runner that died since: one more document makes it look.
        nudge = bool(node.documents) and self._every(f"nudge {node.name}", NUDGE_S)
        if placed or node.controls or drops or late or nudge or greeting:
            self._send(node, placed, drops)

    def _send(self, node: Node, placed: list[planning.Placement], drops: list[Any]) -> None:
        controls = list(node.controls)
        self._ungreeted.discard(node.name)
        images = {start.package: self.packages.image(start.package) for start in placed if start.package}
        change = ["send", node.name, [self._row(start) for start in placed], controls, drops, node.previous,
                  list(node.cursor)]  # fmt: skip
        self.decide([*change, images] if images else change)

    def _row(self, placed: planning.Placement) -> list[Any]:
        job = self.state.jobs[placed.job]
        attempt = job.live[placed.k].attempt + 1 if placed.k in job.live else 1
        row = [placed.job, job.wire_k(placed.k), attempt, placed.executor]
        return [*row, list(placed.gpus), placed.package] if placed.gpus or placed.package else row

    # -- committing

    def _commit(self) -> bool:
        """Commit what was decided and carry it out; tell whether there was anything."""
        if self._uncommitted is None:
            for waiting in self.state.answered:
                self.decide(["receipt", waiting.receipt(self.now())])
            self.state.answered.clear()
            if not self.changes:
                return self.beat()
            self._uncommitted = self._entry(None)
        self._commit_entry()
        return True

    def _commit_entry(self) -> None:
        assert self._uncommitted is not None
        self.journal.commit(self._uncommitted)
        size, self._uncommitted = len(self._uncommitted), None
        self.effects += self._shown_first(self.changes)
        self.effects += sending.effects(
            self.state, self.changes, self.journal.baton.term, self.journal.baton.seq, self._containers
        )
        self.changes = []
        self.snapshots.grown(size)
        self.snapshots.committed(self.journal.baton.seq)
        self._perform()

    def _shown_first(self, changes: list[Change]) -> list[sending.Effect]:
        """Snapshots that must be there before the receipts: who waits for a requeued task must not see its last end."""
        requeued = [change[1] for change in changes if change[0] == "requeue"]
        return [Requeued(self.snapshots, requeued, self.beat)] if requeued else []

    def _checkpoint(self, idle: bool) -> None:
        """Commit a checkpoint if one is due: an entry of its own, of a state that is committed as a whole."""
        if self.changes or self.state.answered:
            return
        document = self.snapshots.checkpoint(self.boottime(), idle)
        if document is not None:
            self._uncommitted = self._entry(document)
            self._commit_entry()

    def beat(self) -> bool:
        """Show now and then that this host leads; False. Raises Superseded. Whatever takes long calls it meanwhile."""
        if self._every("beat", self.timing.heartbeat_interval):
            self.journal.beat()
        return False

    def _entry(self, checkpoint: dict[str, Any] | None) -> bytes:
        baton = self.journal.baton
        return journal.encode(
            {
                "format": FORMAT, "term": baton.term, "seq": self.journal.next_seq, "previous": self.journal.previous,
                "host": self.host_id, "at": self.now(), "changes": self.changes,
                "checkpoint": checkpoint,
            }
        )  # fmt: skip

    def _perform(self) -> None:
        """Carry out what is committed, in order; what fails stays first for the next tick."""
        while self.effects:
            try:
                self.effects[0].perform(self.disk, self.lock)
            except (ShareError, OSError):
                self.effects[0] = sending.repeated(self.effects[0])
                raise
            self.effects.pop(0)

    # -- keeping house and telling

    def _keep_house(self, idle: bool) -> None:
        self.snapshots.clear(self.journal)
        told = self.snapshots.write(self.boottime(), idle)
        states = {node.name: self._state_of(node) for node in self.state.nodes.values()}
        if self.tell is not None and (told or states != self._told_states or self._every("tell", 2.0)):
            self._told_states = states
            self.tell(told, self.nodes_index(), (self.journal.baton.term, self.journal.baton.seq))
        for job, path in self.snapshots.evict().items():
            self.answers.finished.add(job, path)
            self.housekeeping.ended(job)
        if self._every("dismiss", 3600.0):
            self._dismiss()
        if self._every("sweep", self.timing.cleanup_check_interval):
            for entry in self.door.find_taken():
                self.forget_taken(entry)  # its removal met a share that was just going away
            self._sweep_revoked()

    def _sweep_revoked(self) -> None:
        """Seldom, as long as nothing is unclaimed or taken back: it lists a directory of every node."""
        open_ones = self.liveness.revoked or any(node.documents for node in self.state.nodes.values())
        if self._every("revoked", SWEEP_IDLE_S) or open_ones:
            for change in self.liveness.sweep_revoked(self.now()):
                self.decide(change)

    def _dismiss(self) -> None:
        """Give lost tasks up for good once they are past correction."""
        before = self.now() - self.settings.retention.lost_keep
        past = [j.id for j in self.state.jobs.values() if j.lost and j.finished and (j.finished_at or 0.0) < before]
        if past:
            self.decide(["dismiss", past])

    def _collect(self, idle: bool) -> None:
        """Delete for a moment what retention has passed, or what somebody has asked to have deleted."""
        if not self.housekeeping.busy and self._every("collect", COLLECT_S):
            self.housekeeping.ask(self.now())
        if self.housekeeping.busy:
            self.beat()  # whoever was held up in this tick for long may have been succeeded, and is to delete nothing
            self.housekeeping.go_on(SLICE_S if idle else SLICE_BUSY_S)

    def _keeps(self, job: str) -> bool:
        return job in self.state.jobs or self.snapshots.needed(job)

    def forget_taken(self, entry: str) -> None:
        """A request that was answered before: only its file is still there."""
        self.effects.append(sending.Removals([f"{layout.TAKEN}/{entry}"]))

    def nodes_index(self) -> dict[str, Any]:
        """Every node as it stands: records.NodesIndex."""
        baton, holders = self.journal.baton, gpu_holders(self.state.nodes.values())
        return {
            "format": FORMAT, "at": self.now(), "host": self.host_id, "term": baton.term, "seq": baton.seq,
            "cut_off": self.liveness.cut_off, "rules": self._rules_told(),
            "nodes": [self._node_row(node, holders) for _, node in sorted(self.state.nodes.items())],
        }  # fmt: skip

    def _rules_told(self) -> dict[str, Any]:
        """What placement goes by, so that others can tell why a task waits: records.RulesTold."""
        river, shares = self.river(), self._shares()
        return {
            "executor": river.executor, "environment": river.environment, "packages": dict(river.packages),
            "contained": river.contained, "limit": shares.limit._asdict() if shares else None,
            "users": shares.told() if shares else {},
        }  # fmt: skip

    def _state_of(self, node: Node) -> str:
        if self.hearing.offline(node.name):
            return "offline"
        return "draining" if node.draining else "online"

    def _node_row(self, node: Node, holders: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        taken = node.gpus_taken(holders)
        tasks = {gpu: task_name(job, self.state.jobs[job].wire_k(k)) for gpu, (job, k) in taken.items()}
        seen = self.hearing.seen.get(node.name)
        return node_row(node, self._state_of(node), seen, tasks, self.foreign.of(node) - taken.keys())
