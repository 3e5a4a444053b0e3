"""What the runner tells the host: dense, numbered batches of events that never change.

A batch whose publishing has failed may have landed: exactly the same is published again before anything else.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Protocol

from hakuriver.records import FORMAT
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths

#: Events in one batch at most.
BATCH_MOST = 4000

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Mark(Protocol):
    """Whoever waits until an event is on the share, and until the host has it."""

    def told(self) -> None:
        """The event is durable on the share."""

    def acknowledged(self) -> None:
        """The host has it in its journal."""


class Outbox:
    """The events of one epoch."""

    def __init__(self, disk: Disk, paths: NodePaths, epoch: int) -> None:
        self._disk = disk
        self._paths = paths
        self.epoch = epoch
        self.seq = 0  #: last batch published
        self.acknowledged_seq = 0
        self.events_told = 0  #: events in all batches published
        self._queue: deque[tuple[dict[str, Any], Mark | None]] = deque()
        self._sealed: tuple[bytes, list[Mark], int] | None = None  #: a batch, who waits for it, how many events
        self._told: deque[tuple[int, list[Mark]]] = deque()

    def add(self, event: dict[str, Any], mark: Mark | None = None) -> None:
        """Tell this with the next batch. An event whose kind is set to None before that is left out."""
        self._queue.append((event, mark))

    @property
    def waiting(self) -> bool:
        """Whether something is to be published."""
        return bool(self._queue or self._sealed)

    def publish(self) -> bool:
        """Publish all that waits; tell whether there was anything."""
        published = False
        while self._sealed or self._queue:
            self._sealed = self._sealed or self._seal()
            if self._sealed is None:
                break
            data, marks, count = self._sealed
            files.publish(self._disk, self._paths.numbered("events", self.epoch, self.seq + 1), data)
            self._sealed = None
            self.seq += 1
            self.events_told += count
            self._told.append((self.seq, marks))
            published = True
            for mark in marks:
                mark.told()
        return published

    def _seal(self) -> tuple[bytes, list[Mark], int] | None:
        events: list[dict[str, Any]] = []
        marks: list[Mark] = []
        while self._queue and len(events) < BATCH_MOST:
            event, mark = self._queue.popleft()
            if event["kind"] is None:
                continue
            events.append(event)
            if mark is not None:
                marks.append(mark)
        if not events:
            return None
        batch = {
            "format": FORMAT, "node": self._paths.node, "epoch": self.epoch, "seq": self.seq + 1, "events": events,
        }  # fmt: skip
        return _encode(batch).encode() + b"\n", marks, len(events)

    def acknowledge(self, epoch: int, seq: int) -> list[int]:
        """The host has everything up to here; return the batches of this epoch that it had not before."""
        if epoch != self.epoch:
            return []
        done = []
        while self._told and self._told[0][0] <= seq:
            number, marks = self._told.popleft()
            done.append(number)
            for mark in marks:
                mark.acknowledged()
        self.acknowledged_seq = max(self.acknowledged_seq, *done) if done else self.acknowledged_seq
        return done
