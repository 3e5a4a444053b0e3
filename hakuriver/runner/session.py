"""One epoch of a runner: everything that is rebuilt when it begins anew.

A round has an order that makes every crash harmless: what has been claimed is told before it is started, output is
on the share before its end is told, and nothing is removed before the host has acknowledged it.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from hakuriver import __version__
from hakuriver.ids import task_name
from hakuriver.records import Control, Dispatch, Heartbeat, NodeDescription
from hakuriver.runner import baton
from hakuriver.runner.bell import Ringer
from hakuriver.runner.executors import EXECUTORS, Refused
from hakuriver.runner.heart import Heart
from hakuriver.runner.inbox import Inbox, Taken
from hakuriver.runner.noted import Noted
from hakuriver.runner.outbox import Outbox
from hakuriver.runner.output import Carrier
from hakuriver.runner.syncing import Pair, Syncing
from hakuriver.runner.tidying import Tidying
from hakuriver.runner.work import (
    CLAIMED,
    NOT_STARTED,
    PAUSED,
    QUEUED,
    RUNNING,
    SYNCING,
    Attempt,
    Document,
    Work,
    ending,
)
from hakuriver.spool import files, layout
from hakuriver.spool.layout import Bell, NodePaths

if TYPE_CHECKING:
    from hakuriver.records import Start, StartRow
    from hakuriver.runner.agent import Runner


class Session:
    """What a runner holds in one epoch."""

    def __init__(self, runner: Runner, tasks: list[Any], lease_until: float | None, epoch: int) -> None:
        """`tasks`, `lease_until`: what the keeper's hello tells."""
        disk, self.epoch = runner.disk, epoch
        self._runner = runner
        self._disk = disk
        self._paths = NodePaths(runner.place.node)
        self._keeper = runner.keeper
        self.outbox = Outbox(disk, self._paths, epoch)
        self.carrier = Carrier(disk, runner.out_dir, runner.output_limit)
        self.work = Work(self.outbox, self.carrier)
        self.inbox = Inbox(disk, self._paths)
        self.heart = Heart(disk, self._paths, epoch, runner.settings.timing, runner.boottime, lease_until or 0.0)
        self.noted = Noted(runner.ended_dir)
        self.syncing = Syncing(runner.images, self.work, self._start, self._end_here)
        self.tidying = Tidying(disk, self._paths, self)
        self._ringer = Ringer(disk)
        self._describe()
        self._begin(tasks)

    # -- the beginning

    def _describe(self) -> None:
        runner, machine = self._runner, self._runner.machine
        described = NodeDescription(
            node=self._paths.node, epoch=self.epoch, hostname=machine.hostname, boot_id=machine.boot_id,
            version=__version__, cores=machine.cores, memory_bytes=machine.memory_bytes,
            executors=[name for name in sorted(EXECUTORS) if name in machine.executors],
            numa=list(machine.numa), gpus=list(machine.gpus), can=list(machine.can), engines=machine.engines,
            cannot=machine.cannot, started_at=runner.now(),
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
        noted = self.noted.read()
        for taken in self.inbox.restore():
            self._take(taken)
            self.work.end_noted(noted.get(taken.letter.place, []))
        self.noted.keep(self.inbox.claimed)
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
            or self.syncing.stirs()
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
        self.syncing.turn(self.heart.leased())
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
            self._runner.images.keep(self.work.images())

    def _heartbeat(self, seq: int) -> Heartbeat:
        cursor, conditions = self.inbox.settled, self._runner.conditions()
        return Heartbeat(
            node=self._paths.node, epoch=self.epoch, seq=seq, term=int(cursor.split("-")[0]) if cursor else 0,
            inbox=cursor, lease_s=self._runner.settings.timing.lease, load=self._runner.sample(),
            tasks=self.work.rows(RUNNING, PAUSED), queued=self.work.count(CLAIMED, SYNCING, QUEUED),
            problems=[*self.problems(), *conditions.problems], away=conditions.away, at=self._runner.now(),
        )  # fmt: skip

    def problems(self) -> list[str]:
        """What keeps this node from its work, for people."""
        found = [str(self.carrier.trouble)] if self.carrier.trouble else []
        if self.inbox.gap is not None:
            found.append(f"waiting for dispatch {self.inbox.gap}, which others build on and which cannot be seen")
        return found + self._runner.images.problems()

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
        document = Document(letter.place, letter.dispatch, self.heart.leases)
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
            if attempt is not None and attempt.phase not in (CLAIMED, SYNCING):
                self._keeper.kill(attempt.task, number, None, "a later attempt has taken its place")

    def _void(self, document: Document) -> None:
        """It came to light too late: begin did not name it, or the host has taken it back. No more of it starts."""
        for start in document.starts:
            for row in start.tasks:
                attempt = self.work.attempts[(task_name(start.job, row.k), row.attempt)]
                if attempt.phase == CLAIMED:
                    reason = "its dispatch came to light too late"
                    self.work.end_here(attempt, ending("fenced", "fenced", reason, self._now()))

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
            self._hand_control(control)
        document.handed = True
        document.starts, document.controls = [], []

    def _hand_start(self, start: Start) -> None:
        attempts = [(row, self.work.attempts[(task_name(start.job, row.k), row.attempt)]) for row in start.tasks]
        fresh = [(row, attempt) for row, attempt in attempts if attempt.phase == CLAIMED]
        if fresh and start.executor in EXECUTORS and start.image is not None:
            self.syncing.add(start, fresh)
        else:
            self._start(start, fresh)

    def _start(self, start: Start, pairs: list[Pair]) -> None:
        """Have the keeper start these, but for those that may run elsewhere by now."""
        void = [attempt for row, attempt in pairs if self._void_by_now(row, attempt)]
        self._end_here(void, "fenced", "fenced", "it may have been started elsewhere by now")
        fresh = [(row, attempt) for row, attempt in pairs if attempt not in void]
        if not fresh:
            return
        try:
            if start.executor not in EXECUTORS:
                raise Refused(f"this version has no executor {start.executor}: it has {', '.join(EXECUTORS)}")
            planned = EXECUTORS[start.executor](start, [row for row, _ in fresh], self._runner.place)
        except Refused as refusal:
            self._end_here([attempt for _, attempt in fresh], "failed", "refused", NOT_STARTED + str(refusal))
            return
        self._keeper.start(planned.spec, planned.tasks)
        for _, attempt in fresh:
            attempt.phase = QUEUED

    def _void_by_now(self, row: StartRow, attempt: Attempt) -> bool:
        """Whether a later attempt has taken its place, or the lease that it was claimed under has run out meanwhile."""
        assert attempt.document is not None
        return attempt.dropped or (row.rerunnable and attempt.document.lease != self.heart.leases)

    def _end_here(self, attempts: list[Attempt], state: str, cause: str, reason: str) -> None:
        """End attempts that the keeper has never seen: noted first, so that no later runner starts them."""
        end = ending(state, cause, reason, self._now())
        for place, ended in groupby(attempts, lambda attempt: attempt.document.place if attempt.document else ""):
            self.noted.write(place, [{"task": a.task, "attempt": a.attempt, "end": end} for a in ended])
        for attempt in attempts:
            self.work.end_here(attempt, dict(end))

    def _hand_control(self, control: Control) -> None:
        task = task_name(control.job, control.k)
        attempt = self.work.attempts.get((task, control.attempt))
        if attempt is not None and attempt.phase == SYNCING:
            self.syncing.control(attempt, control)
            return
        if control.op == "kill":
            self._keeper.kill(task, control.attempt, control.request, grace_s=control.grace_s)
        else:
            send = self._keeper.pause if control.op == "pause" else self._keeper.resume
            send(task, control.attempt, control.request)

    # -- output

    def _carry(self) -> None:
        for attempt, note in self.carrier.turn(self._runner.boottime()):
            self.work.tell_end(attempt, note)
