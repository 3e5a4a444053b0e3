"""What follows from silence, and from a return: revoking, losing, stopping superseded attempts."""

from __future__ import annotations

from typing import Any

from hakuriver.host.hearing import Hearing
from hakuriver.host.jobs import ONLY
from hakuriver.host.nodes import Node
from hakuriver.host.state import Change, State
from hakuriver.ids import position, seq_of
from hakuriver.records import Heartbeat
from hakuriver.settings import Timing
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths


class Liveness:
    """Judges nodes by what `Hearing` has observed."""

    def __init__(self, disk: Disk, hearing: Hearing, timing: Timing, state: State, term: int) -> None:
        self._disk = disk
        self._hearing = hearing
        self._timing = timing
        self._state = state
        self._term = term
        self._lead_s = 0.0  #: how long this host has observed
        self._drops: dict[str, list[list[Any]]] = {}
        self.revoked = True  #: documents that were taken back may lie there
        self.cut_off = False  #: some lease is over, and nothing shows that it is not this host that is cut off

    def judge(self, names: list[str], now: float) -> list[Change]:
        """Changes that silence calls for; `now` in seconds since 1970."""
        self._lead_s += min(1.0, self._timing.poll_interval)
        changes: list[Change] = []
        self.cut_off = False
        for name in names:
            node = self._state.nodes.get(name)
            if node is None or not self._hearing.offline(name):
                if node is not None and node.draining and node.documents:
                    changes += self._revoke(node, now)
                continue
            if self._may_revoke(node):
                changes += self._revoke(node, now)
            if self._hearing.expired(name) and node.held:
                changes += self._lose(node, names, now)
        return changes

    def _may_revoke(self, node: Node) -> bool:
        """A new leader moves nothing until the node has echoed its term, or a lease has passed."""
        seen = self._hearing.seen[node.name].heartbeat if node.name in self._hearing.seen else None
        return (seen is not None and seen.term >= self._term) or self._lead_s > self._timing.lease

    def _revoke(self, node: Node, now: float) -> list[Change]:
        changes: list[Change] = []
        paths = NodePaths(node.name)
        for place in list(node.documents):
            if files.move(self._disk, paths.named("inbox", place), paths.named("revoked", place)):
                self._disk.sync([paths.dir("inbox"), paths.dir("revoked")])
                changes.append(["revoked", node.name, place, now])
                self.revoked = True
        return changes

    def _lose(self, node: Node, names: list[str], now: float) -> list[Change]:
        if not self._hearing.has_witness(node.name, names):
            self.cut_off = True
            if len(names) == 1:
                self._hearing.probe(node.name, self._term)
            return []
        lost = []
        for job_id, k in node.held:
            job = self._state.jobs[job_id]
            task = job.live[k]
            if task.claimed or not self._unclaimed(node, task.dispatch):
                lost.append([job_id, job.wire_k(k), task.attempt])
        return [["lost", node.name, lost, now]] if lost else []

    def _unclaimed(self, node: Node, place: str | None) -> bool:
        """Whether the task's document may still be revoked: it lies in the inbox, as far as can be seen."""
        listing = files.names(self._disk, NodePaths(node.name).dir("inbox"))
        return place in node.documents and f"{place}.json" in listing

    def returned(self, node: Node, heartbeat: Heartbeat) -> list[list[Any]]:
        """Compare what a node runs with what it should; superseded attempts are noted to be dropped."""
        alive, drops = [], []
        for job_id, wire_k, attempt in heartbeat.tasks:
            job = self._state.jobs.get(job_id)
            k = ONLY if wire_k is None else wire_k
            task = job.live.get(k) if job else None
            if task is not None and task.attempt == attempt and task.may_be_corrected:
                alive.append([job_id, wire_k, attempt])
            elif task is None or task.attempt != attempt:
                drops.append([job_id, wire_k, attempt])
        self._drops[node.name] = drops
        return alive

    def drops(self, node: str) -> list[list[Any]]:
        """Attempts that this node is to stop, told once for each heartbeat that shows them."""
        return self._drops.pop(node, [])

    def sweep_revoked(self, now: float) -> list[Change]:
        """Remove revoked documents that the node has gone past; find those that a host revoked before it died."""
        changes: list[Change] = []
        self.revoked = False
        for node in self._state.nodes.values():
            paths = NodePaths(node.name)
            cursor = self._cursor(node.name)
            for term, seq in files.positions(self._disk, paths.dir("revoked")):
                place = position(term, seq)
                if place in node.documents:
                    changes.append(["revoked", node.name, place, now])
                elif seq < cursor:
                    self._disk.remove(paths.named("revoked", place))
                    continue
                self.revoked = True
        return changes

    def _cursor(self, node: str) -> int:
        """Seq of the last document that the node has dealt with, as far as its heartbeat tells."""
        seen = self._hearing.seen.get(node)
        return seq_of(seen.heartbeat.inbox) if seen and seen.heartbeat and seen.heartbeat.inbox else 0
