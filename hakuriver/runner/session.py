"""One epoch of a runner: everything that is rebuilt when it begins anew.

A round has an order that makes every crash harmless: what has been claimed is told before it is started, output is
on the share before its end is told, and nothing is removed before the host has acknowledged it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hakuriver import __version__
from hakuriver.ids import task_name
from hakuriver.records import Dispatch, Heartbeat, NodeDescription
from hakuriver.runner import baton
from hakuriver.runner.bell import Ringer
from hakuriver.runner.executors import EXECUTORS, Refused
from hakuriver.runner.heart import Heart
from hakuriver.runner.inbox import Inbox, Taken
from hakuriver.runner.outbox import Outbox
from hakuriver.runner.output import Carrier
from hakuriver.runner.tidying import Tidying
from hakuriver.runner.work import CLAIMED, PAUSED, QUEUED, RUNNING, Attempt, Document, Work
from hakuriver.spool import files, layout
from hakuriver.spool.layout import Bell, NodePaths

if TYPE_CHECKING:
    from hakuriver.records import Start
    from hakuriver.runner.agent import Runner


class Session:
    """What a runner holds in one epoch."""

    def __init__(self, runner: Runner, tasks: list[Any], epoch: int) -> None:
        disk, self.epoch = runner.disk, epoch
        self._runner = runner
        self._disk = disk
        self._paths = NodePaths(runner.place.node)
        self._keeper = runner.keeper
        self.outbox = Outbox(disk, self._paths, epoch)
        self.carrier = Carrier(disk, runner.out_dir, runner.output_limit)
        self.work = Work(self.outbox, self.carrier)
        self.inbox = Inbox(disk, self._paths)
        self.heart = Heart(disk, self._paths, epoch, runner.settings.timing, runner.boottime)
        self.tidying = Tidying(disk, self._paths, self)
        self._ringer = Ringer(disk)
        self._describe()
        self._begin(tasks)

    # -- the beginning

    def _describe(self) -> None:
        runner, machine = self._runner, self._runner.machine
        described = NodeDescription(
            node=self._paths.node, epoch=self.epoch, hostname=machine.hostname, boot_id=machine.boot_id,
            version=__version__, cores=machine.cores, memory_bytes=machine.memory_bytes, executors=sorted(EXECUTORS),
            started_at=runner.now(),
        )  # fmt: skip
        data = described.model_dump_json().encode() + b"\n"
        files.publish(self._disk, self._paths.description(self.epoch), data)

    def _begin(self, tasks: list[Any]) -> None:
        """Tell what this node answers for, and then everything that the host may not know yet."""
        last = max(self.tidying.list_events(), default=(0, 0))
        self.work.adopt(tasks)
        begin: dict[str, Any] = {
            "kind": "begin", "at": self._runner.now(), "previous_epoch": last[0], "previous_seq": last[1],
        }  # fmt: skip
        self.outbox.add(begin)
        for taken in self.inbox.restore():
            self._take(taken)
        begin["holds"] = self.work.rows()
        self.work.retell(tasks)

    # -- a round

    def listen(self) -> bool:
        """Hear the keeper; touches no share."""
        heard = False
        for message in self._keeper.receive():
            for event in message.get("events", ()):
                self.work.hear(event)
                heard = True
        return heard

    def stirs(self) -> bool:
        """Whether there is anything to do on the share: one listing of the inbox, if nothing else tells."""
        return (
            self.due_at() <= self.clock()
            or self.outbox.waiting
            or self.carrier.busy
            or not all(document.handed for document in self.work.documents.values())
            or self.inbox.stirs(self.clock())
        )

    def round(self) -> bool:
        """All that touches the share; tell whether anything was done."""
        self._answer_doctors(baton.check(self._disk, self._paths.node, self._runner.nonce, self.epoch))
        self._beat()
        taken = self.inbox.take(self._runner.boottime())
        for document in taken:
            self._take(document)
        self._carry()
        told = self.outbox.publish()
        self._hand_over()
        self._ring()
        self.tidying.tidy()
        if self.carrier.trouble is not None:
            raise self.carrier.trouble
        return bool(taken) or told or self.carrier.busy

    def repeat_beat(self) -> None:
        """Make a heartbeat that is overdue since the round hangs, and renew the lease. On another thread."""
        if not self.heart.overdue():
            return
        baton.check(self._disk, self._paths.node, self._runner.nonce, self.epoch)
        if self.heart.repeat(self._runner.now()):
            self._runner.renew(self)  # before the bell, which may be what hangs
            self._ring()

    def _ring(self) -> None:
        self._ringer.ring(
            lambda: Bell(self._paths.node, self.epoch, self.heart.told, self.outbox.seq, self.heart.since)
        )

    def _answer_doctors(self, names: list[str]) -> None:
        """Somebody runs `hakuriver doctor --with` this node."""
        for ask in filter(layout.parse_doctor_ask, names):
            from hakuriver.doctor import answering

            answering.start(self._disk.root, self._paths.node, ask)

    def _beat(self) -> None:
        if self.heart.due():
            self.heart.beat(self._heartbeat)
            self._runner.renew(self)

    def _heartbeat(self, seq: int) -> Heartbeat:
        cursor = self.inbox.settled
        return Heartbeat(
            node=self._paths.node, epoch=self.epoch, seq=seq, term=int(cursor.split("-")[0]) if cursor else 0,
            inbox=cursor, lease_s=self._runner.settings.timing.lease, load=self._runner.sample(),
            tasks=self.work.rows(RUNNING, PAUSED), queued=self.work.count(CLAIMED, QUEUED),
            problems=self.problems(), at=self._runner.now(),
        )  # fmt: skip

    def problems(self) -> list[str]:
        """What keeps this node from its work, for people."""
        found = [str(self.carrier.trouble)] if self.carrier.trouble else []
        if self.inbox.gap is not None:
            found.append(f"waiting for dispatch {self.inbox.gap}, which others build on and which cannot be seen")
        return found

    # -- documents

    def _take(self, taken: Taken) -> None:
        """Answer for a document from now on, and tell the host so."""
        letter = taken.letter
        if letter.dispatch is None:
            self._refuse(taken)
            return
        self._obey(letter.dispatch)
        if letter.light:
            return
        document = Document(letter.place, letter.dispatch)
        self.work.hold(document)
        self.outbox.add({"kind": "claimed", "dispatch": document.place}, document)
        if taken.void:
            self._void(document)

    def _refuse(self, taken: Taken) -> None:
        document = Document(taken.letter.place, None)
        self.work.hold(document)
        event = {"kind": "unreadable", "dispatch": document.place, "text": taken.letter.refusal}
        self.outbox.add(event, document)

    def _obey(self, dispatch: Dispatch) -> None:
        """What needs no claim: acknowledgements, and attempts to stop since later ones have taken their place."""
        self.tidying.acknowledged(dispatch.ack_epoch, dispatch.ack_seq)
        for job, k, number in dispatch.drop:
            attempt = self.work.drop(job, k, number)
            if attempt is not None:
                self._keeper.kill(attempt.task, number, None, "a later attempt has taken its place")

    def _void(self, document: Document) -> None:
        """It came to light too late: begin did not name it, or the host has taken it back. No more of it starts."""
        for start in document.starts:
            for row in start.tasks:
                attempt = self.work.attempts[(task_name(start.job, row.k), row.attempt)]
                if attempt.phase == CLAIMED:
                    self.work.end_here(attempt, "fenced", "fenced", "its dispatch came to light too late", self._now())

    def _now(self) -> float:
        return self._runner.now()

    def clock(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return self._runner.boottime()

    def forget(self, attempts: list[tuple[str, int]]) -> None:
        """Have the keeper drop these."""
        self._keeper.forget(attempts)

    def due_at(self) -> float:
        """When something is due by the clock, CLOCK_BOOTTIME."""
        looks = self.carrier.due()
        return self.heart.next_at if looks is None else min(self.heart.next_at, looks)

    # -- starting

    def _hand_over(self) -> None:
        """Have the keeper start what the host knows to be here, in order, under a lease that lasts."""
        for document in list(self.work.documents.values()):
            if not document.handed and not (document.is_told and self.heart.leased()):
                break
            if not document.handed:
                self._hand_document(document)

    def _hand_document(self, document: Document) -> None:
        for start in document.starts:
            self._hand_start(start)
        for control in document.controls:
            send = {"kill": self._keeper.kill, "pause": self._keeper.pause, "resume": self._keeper.resume}[control.op]
            send(task_name(control.job, control.k), control.attempt, control.request)
        document.handed = True
        document.starts, document.controls = [], []

    def _hand_start(self, start: Start) -> None:
        attempts = [(row, self.work.attempts[(task_name(start.job, row.k), row.attempt)]) for row in start.tasks]
        fresh = [(row, attempt) for row, attempt in attempts if attempt.phase == CLAIMED]
        if not fresh:
            return
        try:
            if start.executor not in EXECUTORS:
                raise Refused(f"this version has no executor {start.executor}: it has {', '.join(EXECUTORS)}")
            planned = EXECUTORS[start.executor](start, [row for row, _ in fresh], self._runner.place)
        except Refused as refusal:
            self._refuse_start([attempt for _, attempt in fresh], str(refusal))
            return
        self._keeper.start(planned.spec, planned.tasks)
        for _, attempt in fresh:
            attempt.phase = QUEUED

    def _refuse_start(self, attempts: list[Attempt], reason: str) -> None:
        for attempt in attempts:
            self.work.end_here(attempt, "failed", "refused", reason, self._now())

    # -- output

    def _carry(self) -> None:
        for attempt, note in self.carrier.turn(self._runner.boottime()):
            self.work.tell_end(attempt, note)
