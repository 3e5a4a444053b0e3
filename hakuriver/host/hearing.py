"""Hears the nodes: their event batches in order, and whether their heartbeats change.

No clock is compared across machines. Silence is counted on this host's own CLOCK_BOOTTIME, only between
completed listings, and a gap between two counts as one poll interval at most: a host that slept must not
take its own pause for theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from hakuriver.records import Event, EventBatch, Heartbeat, NodeDescription
from hakuriver.settings import Timing
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import Bell, NodePaths

#: Changes of another node's heartbeat, after a lease ran out, that make it a witness.
WITNESS_BEATS = 2
#: Heartbeats that may be missing before a node's directory is looked into though its bell is silent.
SILENT_BEATS = 1.5
#: Seconds between two listings of nodes/, of the heartbeats of a node that is offline, and of the events of one whose
#: bell tells of none.
NODES_EVERY_S, OFFLINE_EVERY_S, EVENTS_EVERY_S = 5.0, 5.0, 60.0


class Seen:
    """What this host has observed of one node; not in the journal."""

    def __init__(self) -> None:
        self.beat: tuple[int, int] | None = None  #: newest heartbeat's (epoch, seq)
        self.heartbeat: Heartbeat | None = None  #: the last that was read: it may be older, and tells what it told
        self.events_at = float("-inf")  #: when its events were last listed
        self.looked_at = float("-inf")  #: when its heartbeats were last listed
        self.silent_s = 0.0
        self.changes = 0  #: how often the heartbeat was seen to change
        self.witnessed: dict[str, int] = {}  #: other node -> its `changes` when this one's lease ran out
        self.probes = 0  #: own round trips through the node's directory since then

    def hear(self, beat: tuple[int, int]) -> None:
        """It has been heard."""
        self.beat = beat
        self.changes += 1
        self.silent_s, self.probes = 0.0, 0
        self.witnessed.clear()


class Hearing:
    """Observes all nodes."""

    def __init__(self, disk: Disk, timing: Timing) -> None:
        self._disk = disk
        self._timing = timing
        self.seen: dict[str, Seen] = {}
        self._last: float | None = None
        self._bells: dict[str, Bell] = {}
        self._nodes: list[str] = []
        self._nodes_at = float("-inf")

    def listen(self) -> None:
        """List the bells of all nodes. They are hints: where they cannot be listed, nodes are heard without."""
        try:
            self._bells = {bell.node: bell for bell in sorted(files.bells(self._disk))}
        except ShareError:
            self._bells = {}

    def rings(self, name: str, cursor: tuple[int, int], now: float) -> bool:
        """Whether to list a node's events, of which those up to `cursor` are known: always, if it has no bell."""
        bell, seen = self._bells.get(name), self.seen.setdefault(name, Seen())
        return bell is None or (bell.epoch, bell.batch) > cursor or now - seen.events_at >= EVENTS_EVERY_S

    def listed(self, name: str, now: float) -> None:
        """A node's events have been listed."""
        self.seen[name].events_at = now

    def nodes(self, now: float) -> list[str]:
        """Names below nodes/; listed anew when a bell tells of another, and now and then."""
        if now - self._nodes_at >= NODES_EVERY_S or not self._bells.keys() <= set(self._nodes):
            found = files.names(self._disk, layout.NODES)
            self._nodes = sorted(name for name in found if layout.NODE_NAME.fullmatch(name))
            self._nodes_at = now
        return self._nodes

    def observe(self, nodes: list[str], now: float) -> list[str]:
        """List every node's heartbeats; return those whose heartbeat has changed. `now`: CLOCK_BOOTTIME, seconds."""
        step = 0.0 if self._last is None else min(now - self._last, self._timing.poll_interval)
        changed = [name for name in nodes if self._look(name, self.seen.setdefault(name, Seen()), step, now)]
        self._last = now
        self._witness(nodes)
        return changed

    def pause(self) -> None:
        """A listing failed: what has passed until the next is not counted."""
        self._last = None

    def _look(self, name: str, seen: Seen, step: float, now: float) -> bool:
        """Whether a node has told something; its bell is believed when it tells of life, not when it is silent."""
        bell = self._bells.get(name)
        rung = bell is not None and (seen.beat is None or (bell.epoch, bell.beat) > seen.beat)
        if not rung and self.offline(name) and now - seen.looked_at < OFFLINE_EVERY_S:
            seen.silent_s += step
            return False
        if self._tells_of_life(bell, seen, step):
            return False
        seen.looked_at = now
        return self._look_inside(name, seen, step)

    def _tells_of_life(self, bell: Bell | None, seen: Seen, step: float) -> bool:
        """Whether the bell alone says enough: it lives, or has not been silent for long; there is nothing to read."""
        if bell is None or seen.heartbeat is None or seen.beat is None or bell.epoch != seen.beat[0]:
            return False
        lately = seen.silent_s + step < SILENT_BEATS * self._timing.heartbeat_interval
        if not lately or bell.since > seen.heartbeat.seq:
            return False
        if bell.beat > seen.beat[1]:
            seen.hear((bell.epoch, bell.beat))
        else:
            seen.silent_s += step
        return True

    def _look_inside(self, name: str, seen: Seen, step: float) -> bool:
        beats = files.positions(self._disk, NodePaths(name).dir("heartbeat"))
        newest = beats[-1] if beats else None
        if newest is None or newest == seen.beat or (seen.beat and newest < seen.beat):
            seen.silent_s += step
            return False
        try:
            heartbeat = Heartbeat.model_validate_json(self._disk.read(NodePaths(name).numbered("heartbeat", *newest)))
        except (FileNotFoundError, ValidationError):
            return False  # gone or unreadable just now: the next listing tells more
        seen.heartbeat = heartbeat
        seen.hear(newest)
        return True

    def _witness(self, nodes: list[str]) -> None:
        """From the end of a silent node's lease on, count what the others show."""
        for name in nodes:
            seen = self.seen[name]
            if seen.silent_s > self._timing.lease and not seen.witnessed:
                seen.witnessed = {other: self.seen[other].changes for other in nodes if other != name}

    def offline(self, name: str) -> bool:
        """Whether the node has been silent for offline_after, or was never heard."""
        seen = self.seen.get(name)
        return seen is None or seen.beat is None or seen.silent_s > self._timing.offline_after

    def guesses(self, nodes: Iterable[str]) -> bool:
        """Whether one of these nodes was never heard, and not been waited for long enough to call it offline.

        So it is with a host that has just begun to lead, if the share does not show it all at once.
        """
        found = (self.seen.get(name) for name in nodes)
        return any(s is None or (s.beat is None and s.silent_s <= self._timing.offline_after) for s in found)

    def expired(self, name: str) -> bool:
        """Whether its lease and the margin are over."""
        seen = self.seen.get(name)
        return seen is not None and seen.silent_s > self._timing.lease + self._timing.lease_margin

    def has_witness(self, name: str, nodes: list[str]) -> bool:
        """Whether something else than this silent node shows that this host is not the one cut off."""
        seen = self.seen[name]
        if len(nodes) == 1:
            return seen.probes >= WITNESS_BEATS
        return any(
            self.seen[other].changes - seen.witnessed.get(other, 0) >= WITNESS_BEATS for other in nodes if other != name
        )

    def probe(self, name: str, term: int) -> None:
        """Write, read back and remove a file in the only node's directory: the share works for this host."""
        seen = self.seen[name]
        path = f"{NodePaths(name).root}/probe.{term}.{seen.probes}"
        token = f"{term} {seen.probes} {seen.silent_s}\n".encode()
        self._disk.remove(path)
        files.publish(self._disk, path, token)
        if self._disk.read(path) == token:
            seen.probes += 1
        self._disk.remove(path)


class EventReader:
    """Reads a node's event batches, strictly in order; a gap is waited for."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read(self, node: str, cursor: tuple[int, int], most: int = 64) -> list[tuple[int, int, list[dict[str, Any]]]]:
        """Batches after `cursor`, as (epoch, seq, events)."""
        found = []
        for epoch, seq in files.positions(self._disk, NodePaths(node).dir("events")):
            if (epoch, seq) <= cursor:
                continue
            batch = self._batch(node, epoch, seq)
            if batch is None or not _follows(cursor, epoch, seq, batch):
                break
            found.append((epoch, seq, batch))
            cursor = (epoch, seq)
            if len(found) >= most:
                break
        return found

    def _batch(self, node: str, epoch: int, seq: int) -> list[dict[str, Any]] | None:
        try:
            raw = json.loads(self._disk.read(NodePaths(node).numbered("events", epoch, seq)))
        except (FileNotFoundError, ValueError):
            return None
        try:
            EventBatch.model_validate(raw)
            return raw["events"]  # type: ignore[no-any-return]
        except ValidationError:
            return _readable(raw)

    def description(self, node: str, epoch: int) -> dict[str, Any] | None:
        """What the node is, as of this epoch; None if it cannot be seen yet."""
        try:
            data = self._disk.read(NodePaths(node).description(epoch))
            return NodeDescription.model_validate_json(data).model_dump()
        except (FileNotFoundError, ValidationError):
            return None


def _readable(raw: Any) -> list[dict[str, Any]]:
    """What can be understood of a batch that does not fit the model: a later version's, say."""
    clean = json.loads(json.dumps(raw, ensure_ascii=False).encode("utf-8", "replace"))
    events = clean.get("events") if isinstance(clean, dict) else None
    return [event for event in events if _fits(event)] if isinstance(events, list) else []


def _fits(event: object) -> bool:
    try:
        Event.model_validate(event)
    except ValidationError:
        return False
    return True


def _follows(cursor: tuple[int, int], epoch: int, seq: int, events: list[dict[str, Any]]) -> bool:
    """Whether this batch is the next one after `cursor`."""
    if epoch == cursor[0]:
        return seq == cursor[1] + 1
    if seq != 1 or not events or events[0]["kind"] != "begin":
        return False
    before = (events[0].get("previous_epoch", 0), events[0].get("previous_seq", 0))
    return before[1] == 0 or cursor >= before or cursor == (0, 0)
