"""What the node answers for: documents it has claimed and attempts at tasks, from claim to acknowledged end."""

from __future__ import annotations

from typing import Any

from hakuriver.ids import parse_task, seq_of, task_name
from hakuriver.records import Control, Dispatch, Ending, Start
from hakuriver.runner.outbox import Outbox
from hakuriver.runner.output import Carrier

Key = tuple[str, int]  #: task, number of the attempt

CLAIMED, SYNCING, QUEUED, RUNNING, PAUSED, ENDED = "claimed", "syncing", "queued", "running", "paused", "ended"
_ENDING = tuple(Ending.model_fields)
NOT_STARTED = "Task failed to start: "  #: before the reason of an attempt that could not be; the keeper says the same


class Document:
    """A dispatch that this node has claimed; its file stays in claimed/ until nothing depends on it."""

    __slots__ = ("acked", "controlling", "controls", "handed", "is_told", "lease", "open", "place", "seq", "starts",
                 "unanswered")  # fmt: skip

    def __init__(self, place: str, dispatch: Dispatch | None, lease: int = 0) -> None:
        """`lease`: which one it was claimed under, see `Heart.leases`."""
        self.place = place
        self.lease = lease
        self.seq = seq_of(place)
        self.starts: list[Start] = dispatch.starts if dispatch else []
        self.controls: list[Control] = dispatch.controls if dispatch else []
        self.controlling = bool(self.controls)
        self.is_told = False
        self.acked = False
        self.handed = dispatch is None
        self.open = 0  #: attempts that neither run nor have an acknowledged ending
        self.unanswered = len(self.controls)

    def told(self) -> None:
        """See `Mark`."""
        self.is_told = True

    def acknowledged(self) -> None:
        """See `Mark`."""
        self.acked = True

    @property
    def done(self) -> bool:
        """Whether the file in claimed/ may go: the host knows, and the keeper's record is durable."""
        return self.acked and self.handed and not self.open and not self.unanswered


class Attempt:
    """One attempt at a task."""

    __slots__ = ("attempt", "document", "dropped", "end", "image", "job", "k", "local", "over", "phase", "process",
                 "safe", "slot", "started", "syncing", "task")  # fmt: skip

    def __init__(self, task: str, job: str, k: int | None, attempt: int, document: Document | None) -> None:
        self.task, self.job, self.k, self.attempt = task, job, k, attempt
        self.document = document
        self.phase = CLAIMED
        self.slot: int | None = None
        self.process: tuple[int, int | None] | None = None  #: pid and start ticks
        self.safe = document is None
        self.image: str | None = None  #: id of the image that it needs to begin
        self.syncing: str | None = None  #: the package that the host was told to be loaded for it
        self.dropped = False  #: superseded: its end is told as fenced
        self.local = False  #: it ended here: the keeper has never seen it
        self.over = False  #: its ending is acknowledged
        self.started: dict[str, Any] | None = None  #: the event, as long as it may not be told yet
        self.end: dict[str, Any] | None = None

    @property
    def key(self) -> Key:
        """As the keeper names it."""
        return (self.task, self.attempt)

    def row(self) -> tuple[str, int | None, int]:
        """As the host names it."""
        return (self.job, self.k, self.attempt)

    def secure(self) -> None:
        """Its document is not needed for it any more."""
        if not self.safe and self.document is not None:
            self.safe = True
            self.document.open -= 1

    def told(self) -> None:
        """See `Mark`: its ending, which is on the share now and need not be kept here too."""
        self.end = {}

    def acknowledged(self) -> None:
        """See `Mark`: its ending."""
        self.over = True
        self.secure()

    def event(self, kind: str, **more: Any) -> dict[str, Any]:
        """An event about it."""
        return {"kind": kind, "job": self.job, "k": self.k, "attempt": self.attempt, **more}


class Reply:
    """Documents whose control was answered by an event."""

    def __init__(self, documents: list[Document]) -> None:
        self._documents = documents

    def told(self) -> None:
        """See `Mark`."""

    def acknowledged(self) -> None:
        """See `Mark`."""
        for document in self._documents:
            document.unanswered -= 1


class Work:
    """All documents and attempts, and what the keeper's events make of them."""

    def __init__(self, outbox: Outbox, carrier: Carrier) -> None:
        self._outbox = outbox
        self._carrier = carrier
        self.attempts: dict[Key, Attempt] = {}
        self.documents: dict[str, Document] = {}
        self._asked: dict[tuple[str | None, str, str, int], list[Document]] = {}
        self._kinds = {"started": self._started, "ended": self._ended, "answer": self._answered,
                       "paused": self._changed, "resumed": self._changed}  # fmt: skip

    # -- what there is at the start of an epoch

    def adopt(self, tasks: list[Any]) -> None:
        """Take in what the keeper's hello tells."""
        for state in tasks:
            attempt = self._attempt(state["task"], state["attempt"])
            if attempt is not None:
                attempt.phase = state["phase"] if state["phase"] != "starting" else QUEUED

    def retell(self, tasks: list[Any]) -> None:
        """Tell the host about all of them again; it ignores what it knows."""
        for state in tasks:
            event = {"task": state["task"], "attempt": state["attempt"]}
            if state["phase"] in (RUNNING, PAUSED):
                told = {"at": state["started_at"], **{key: state.get(key) for key in ("slot", "pid", "ticks")}}
                self._started({**event, **told})
            if state["phase"] == PAUSED:
                self._changed({**event, "kind": "paused", "at": None})
            if state["end"] is not None:
                self._ended(state["end"])

    def _attempt(self, task: str, number: int) -> Attempt | None:
        """The attempt of that name; one that only the keeper knew is made known."""
        found = self.attempts.get((task, number))
        if found is None and (name := parse_task(task)) is not None:
            found = self.attempts[(task, number)] = Attempt(task, *name, number, None)
        return found

    def hold(self, document: Document) -> None:
        """Answer for a document's attempts and controls from now on."""
        self.documents[document.place] = document
        for start in document.starts:
            for row in start.tasks:
                held = self._hold(task_name(start.job, row.k), start.job, row.k, row.attempt, document)
                held.image = start.image
        for control in document.controls:
            self._asked.setdefault(question(control), []).append(document)

    def _hold(self, task: str, job: str, k: int | None, number: int, document: Document) -> Attempt:
        known = self.attempts.get((task, number))
        if known is None:
            known = self.attempts[(task, number)] = Attempt(task, job, k, number, document)
        elif known.document is None:  # known from the keeper
            known.document, known.safe = document, known.phase in (RUNNING, PAUSED)
        if known.document is document and not known.safe:
            document.open += 1
        return known

    def drop(self, job: str, k: int | None, number: int) -> Attempt | None:
        """Mark an attempt as superseded; return it if it is there and not over."""
        attempt = self.attempts.get((task_name(job, k), number))
        if attempt is None or attempt.phase == ENDED:
            return None
        attempt.dropped = True
        return attempt

    # -- what the keeper tells

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event of the keeper's."""
        handler = self._kinds.get(event["kind"])
        if handler is not None:
            handler(event)

    def _started(self, event: dict[str, Any]) -> None:
        attempt = self._attempt(event["task"], event["attempt"])
        if attempt is None or attempt.phase == ENDED:
            return
        attempt.phase, attempt.slot = RUNNING, event["slot"]
        attempt.process = (event["pid"], event["ticks"]) if event.get("pid") else None
        attempt.secure()
        attempt.started = attempt.event("started", at=event["at"])
        self._outbox.add(attempt.started)
        self._carrier.follow(attempt)

    def _changed(self, event: dict[str, Any]) -> None:
        attempt = self._attempt(event["task"], event["attempt"])
        if attempt is None or attempt.phase == ENDED:
            return
        attempt.phase = PAUSED if event["kind"] == "paused" else RUNNING
        self._outbox.add(attempt.event(event["kind"], at=event["at"]))

    def answer(self, control: Control, ok: bool, text: str) -> None:
        """Answer a control that the keeper is not asked to carry out."""
        request, op, task, attempt = question(control)
        self._answered({"request": request, "op": op, "task": task, "attempt": attempt, "ok": ok, "text": text})

    def _answered(self, event: dict[str, Any]) -> None:
        """Answers to what nobody but this runner asked for are not told."""
        documents = self._asked.pop((event["request"], event["op"], event["task"], event["attempt"]), None)
        name = parse_task(event["task"])
        if documents is None or name is None:
            return
        told = {"kind": "answer", "request": event["request"], "op": event["op"], "job": name[0], "k": name[1],
                "attempt": event["attempt"], "ok": event["ok"], "text": event["text"]}  # fmt: skip
        self._outbox.add(told, Reply(documents))

    def _ended(self, event: dict[str, Any]) -> None:
        attempt = self._attempt(event["task"], event["attempt"])
        if attempt is None or attempt.end is not None:
            return
        attempt.phase = ENDED
        attempt.end = {name: event.get(name) for name in _ENDING}
        if attempt.dropped and event["cause"] == "killed":
            attempt.end.update(state="fenced", cause="fenced", reason="a later attempt has taken its place")
        if event.get("slot") is None:
            self._carrier.leave(attempt)
            self.tell_end(attempt)
        else:
            attempt.slot = event["slot"]
            self._carrier.finish(attempt)

    def tell_end(self, attempt: Attempt, note: str = "") -> None:
        """Its output is safe: tell how it ended. A start that was not told yet need not be."""
        assert attempt.end is not None
        if attempt.started is not None:
            attempt.started["kind"] = None
            attempt.started = None
        attempt.end["reason"] += note
        self._outbox.add(attempt.event("ended", end=attempt.end), attempt)

    def tell_syncing(self, attempt: Attempt, package: str) -> None:
        """A package is being loaded for it; told once."""
        if attempt.syncing != package:
            attempt.syncing = package
            self._outbox.add(attempt.event("syncing", text=package))

    def end_here(self, attempt: Attempt, end: dict[str, Any]) -> None:
        """End an attempt that the keeper has never seen."""
        attempt.phase, attempt.local = ENDED, True
        attempt.end = end
        self.tell_end(attempt)

    def end_noted(self, rows: list[dict[str, Any]]) -> None:
        """These ended in a runner before this one; that is told once more."""
        for row in rows:
            attempt = self.attempts.get((row["task"], row["attempt"]))
            if attempt is not None and attempt.phase == CLAIMED:
                self.end_here(attempt, row["end"])

    # -- what there is

    def rows(self, *phases: str) -> list[tuple[str, int | None, int]]:
        """Attempts in one of these phases, or all, as the host names them."""
        return [a.row() for a in self.attempts.values() if not phases or a.phase in phases]

    def count(self, *phases: str) -> int:
        """How many attempts are in one of these phases."""
        return sum(a.phase in phases for a in self.attempts.values())

    def images(self) -> set[str]:
        """Images of attempts that are still to begin."""
        return {a.image for a in self.attempts.values() if a.image is not None and a.phase in (SYNCING, QUEUED)}

    def forgettable(self) -> list[Attempt]:
        """Attempts whose ending the host has, and whose document is gone."""
        return [a for a in self.attempts.values() if a.over and (a.document is None or self._gone(a.document))]

    def _gone(self, document: Document) -> bool:
        return document.place not in self.documents


def ending(state: str, cause: str, reason: str, at: float) -> dict[str, Any]:
    """The ending of an attempt that has never begun. `at`: seconds since 1970."""
    return Ending.model_validate({"state": state, "cause": cause, "reason": reason, "ended_at": at}).model_dump()


def question(control: Control) -> tuple[str | None, str, str, int]:
    """What an answer to this control bears."""
    return (control.request, control.op, task_name(control.job, control.k), control.attempt)
