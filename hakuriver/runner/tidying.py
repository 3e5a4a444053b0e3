"""Removes what the host has acknowledged, in the order that a crash in between can bear.

events/X       once the host has it in its journal
inbox/X        once a heartbeat has told a place at or behind it: that place is where a restart goes on
claimed/X      once its claim is acknowledged, the keeper's record is durable, every control answered
keeper record  of an attempt whose ending is acknowledged, once claimed/X is durably gone
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.ids import seq_of
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths

if TYPE_CHECKING:
    from hakuriver.runner.session import Session
    from hakuriver.runner.work import Document

#: Seconds between two rounds of removals: nobody waits for them.
EVERY_S = 0.5
#: Seconds between two listings for what was missed or left by others.
SWEEP_EVERY_S = 5.0


class Tidying:
    """The removals of one session."""

    def __init__(self, disk: Disk, paths: NodePaths, session: Session) -> None:
        self._disk = disk
        self._paths = paths
        self._session = session
        self._batches: list[int] = []
        self._acknowledged = (0, 0)
        self._at = 0.0
        self._sweep_at = 0.0

    def list_events(self) -> list[tuple[int, int]]:
        """Batches of any epoch that lie on the share."""
        return files.positions(self._disk, self._paths.dir("events"))

    def acknowledged(self, epoch: int, seq: int) -> None:
        """The host has all events up to here."""
        if (epoch, seq) > self._acknowledged:
            if epoch == self._session.epoch > self._acknowledged[0]:
                self._sweep_at = 0.0  # everything of earlier epochs may go now
            self._acknowledged = (epoch, seq)
        self._batches += self._session.outbox.acknowledge(epoch, seq)

    def tidy(self) -> None:
        """Remove what may go, now and then."""
        now = self._session.clock()
        if now < self._at:
            return
        self._at = now + EVERY_S
        # A batch whose publishing was reported as failed may be acknowledged before it counts as told.
        self._batches += self._session.outbox.acknowledge(*self._acknowledged)
        self._remove_batches()
        self._clear_inbox()
        self._clear_claimed()
        self._forget()
        self._session.heart.tidy()
        if now >= self._sweep_at:
            self._sweep()
            self._sweep_at = now + SWEEP_EVERY_S

    def _remove_batches(self) -> None:
        while self._batches:
            self._disk.remove(self._paths.numbered("events", self._session.epoch, self._batches[-1]))
            self._batches.pop()

    def _told(self) -> int:
        """Number of the inbox document up to which a heartbeat has told that it was dealt with."""
        place = self._session.heart.told_cursor
        return seq_of(place) if place else 0

    def _clear_inbox(self) -> None:
        told, inbox = self._told(), self._session.inbox
        for place in [place for place in inbox.listing if seq_of(place) <= told]:
            self._disk.remove(self._paths.named("inbox", place))
            inbox.listing.remove(place)

    def _clear_claimed(self) -> None:
        gone = self._removable()
        for document in gone:
            self._disk.remove(self._paths.named("claimed", document.place))
        if gone:
            self._disk.sync([self._paths.dir("claimed")])
        self._session.noted.drop(document.place for document in gone)
        for document in gone:
            del self._session.work.documents[document.place]
            self._session.inbox.claimed.discard(document.place)

    def _removable(self) -> list[Document]:
        """Those done; of those with controls only as far as no earlier one must stay: they are repeated in order."""
        told, found, kept_control = self._told(), [], False
        for document in self._session.work.documents.values():
            if document.done and document.seq <= told and not (document.controlling and kept_control):
                found.append(document)
            else:
                kept_control = kept_control or document.controlling
        return found

    def _forget(self) -> None:
        work = self._session.work
        over = work.forgettable()
        known = [attempt.key for attempt in over if not attempt.local]
        if known:
            self._session.forget(known)
        for attempt in over:
            del work.attempts[attempt.key]

    def _sweep(self) -> None:
        """What earlier runners left, and what a listing had missed."""
        epoch = self._session.epoch
        if self._acknowledged[0] == epoch:
            for place in self.list_events():
                if place <= self._acknowledged:
                    self._disk.remove(self._paths.numbered("events", *place))
            for name in files.names(self._disk, self._paths.root):
                part = name.split(".")
                if part[0] == "node" and len(part) == 3 and part[1].isdigit() and int(part[1]) < epoch:
                    self._disk.remove(f"{self._paths.root}/{name}")
        self._session.heart.sweep()
