"""Effects: what becomes visible outside once an entry is committed. All of them can be repeated.

They are derived from the entry's changes and the state after it, so that a restart can redo those of the
last entry; those of earlier entries were carried out before the next was committed.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from hakuriver.host.jobs import ONLY, Job
from hakuriver.host.state import Change, State
from hakuriver.ids import is_job_id, position
from hakuriver.records import FORMAT, Entry
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import NodePaths

#: How often is listed what may have been sent before.
LOOKS = 3
#: Takes a path of an inbox' lock, gives a context in which the inbox is written.
Lock = Callable[[str], AbstractContextManager[Any]]


def no_lock(path: str) -> AbstractContextManager[Any]:
    """For tests with one host."""
    return nullcontext(path)


class Receipts(NamedTuple):
    """Answers of one entry, made durable with one sync."""

    documents: list[tuple[str, bytes]]
    copies: list[tuple[str, str, bytes]]  #: under names of people's own: source, target, content

    def add(self, receipt: dict[str, Any]) -> None:
        """One more."""
        data = json.dumps(receipt).encode() + b"\n"
        name, path = receipt["name"].removesuffix(".json"), layout.receipt(receipt["request"])
        self.documents.append((path, data))
        if not is_job_id(name) and name != receipt["request"]:
            self.copies.append((path, layout.receipt(name), data))

    def perform(self, disk: Disk, _lock: Lock) -> None:
        """Publish them."""
        files.publish_batch(disk, self.documents, self.copies)


class Document(NamedTuple):
    """A document for a node's inbox."""

    node: str
    place: str
    data: bytes

    def perform(self, disk: Disk, lock: Lock) -> None:
        """Publish it under the inbox' lock."""
        paths = NodePaths(self.node)
        with lock(f"{disk.root}/{paths.root}/inbox.lock"):
            files.publish(disk, paths.named("inbox", self.place), self.data)


class Repeated(NamedTuple):
    """A document that an earlier run may have sent already: it is sent unless it is known to have arrived."""

    document: Document

    def perform(self, disk: Disk, lock: Lock) -> None:
        """Publish it unless it lies somewhere; a listing may miss it, and one that was taken back must not return."""
        paths = NodePaths(self.document.node)
        name = f"{self.document.place}.json"
        for part in ("inbox", "claimed", "revoked") * LOOKS:
            if name in files.names(disk, paths.dir(part)):
                return
        self.document.perform(disk, lock)


class Removals(NamedTuple):
    """Requests in host/taken/ that are answered."""

    paths: list[str]

    def perform(self, disk: Disk, _lock: Lock) -> None:
        """Remove them. What was gone already counts only if the share is there: else all would seem to be gone."""
        for path in self.paths:
            try:
                disk.remove(path)
            except ShareError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):
                    raise
                disk.rmdir(path)  # somebody put a directory there; it stays if it is not empty
        files.present(disk)


class Forgetting(NamedTuple):
    """The directory of a node that is gone."""

    node: str

    def perform(self, disk: Disk, _lock: Lock) -> None:
        """Remove all that lies in it."""
        root = NodePaths(self.node).root
        for part in (*layout.NODE_TREE, ""):
            directory = f"{root}/{part}" if part else root
            for name in files.names(disk, directory):
                disk.remove(f"{directory}/{name}")
            disk.rmdir(directory)
        for bell in files.bells(disk):
            if bell.node == self.node:
                disk.remove(bell.path)


class Effect(Protocol):
    """What a committed entry causes outside; done twice it is as if it were done once."""

    def perform(self, disk: Disk, lock: Lock, /) -> None:
        """Do it. Raises ShareError: it is done again, whole, and comes before all that follows."""


class Containers(NamedTuple):
    """What the river is set to for containers whose jobs do not say."""

    privileged: bool = False
    mounts: tuple[str, ...] = ()
    network: str = "bridge"


PLAIN = Containers()


def effects(state: State, changes: list[Change], term: int, seq: int, containers: Containers = PLAIN) -> list[Effect]:
    """What the changes of entry `seq` cause, dispatches first, since somebody waits for them."""
    receipts = Receipts([], [])
    taken: list[str] = []
    documents: list[Effect] = []
    for change in changes:
        kind = change[0]
        if kind == "send":
            documents.append(document(state, change, position(term, seq), containers))
        elif kind == "forget":
            documents.append(Forgetting(change[1]))
        elif kind in ("jobs", "receipt"):
            receipts.add(change[1])
        if name := taken_by(change):
            taken.append(f"{layout.TAKEN}/{name}")
    found = documents
    if receipts.documents:
        found.append(receipts)
    if taken:
        found.append(Removals(taken))
    return found


def taken_by(change: Change) -> str | None:
    """The name in host/taken/ of the request that a change answers, if it answers one."""
    named = change[0] in ("jobs", "receipt", "control", "order") and len(change) > 2
    return change[-1] if named and isinstance(change[-1], str) else None


def redo(state: State, last: Entry | None, containers: Containers = PLAIN) -> list[Effect]:
    """The effects of the last committed entry once more, and documents that nobody has claimed yet."""
    if last is None:
        return []
    return [repeated(effect) for effect in effects(state, last.changes, last.term, last.seq, containers)]


def repeated(effect: Effect) -> Effect:
    """The same effect when it may have been carried out before."""
    return Repeated(effect) if isinstance(effect, Document) else effect


def document(state: State, change: Change, place: str, containers: Containers = PLAIN) -> Document:
    """The inbox document of a `send`: records.Dispatch."""
    _, node_name, tasks, controls, drops, previous, acknowledged, *more = change
    images: dict[str, str] = more[0] if more else {}
    starts: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for job_id, wire_k, attempt, executor, *chosen in tasks:
        job = state.jobs.get(job_id)
        if job is None:
            continue  # over since, in a replay
        gpus, package = chosen or ([], None)
        start = starts.get((job_id, executor, package))
        if start is None:
            start = starts[job_id, executor, package] = _start(job, executor, package, images, containers)
        start["tasks"].append(_row(job, wire_k, attempt, gpus))
    data = {
        "format": FORMAT, "node": node_name, "term": int(place.split("-")[0]), "place": place, "previous": previous,
        "ack_epoch": acknowledged[0], "ack_seq": acknowledged[1], "starts": list(starts.values()),
        "controls": controls, "drop": drops,
    }  # fmt: skip
    return Document(node_name, place, json.dumps(data, separators=(",", ":")).encode() + b"\n")


def _start(
    job: Job, executor: str, package: str | None, images: dict[str, str], containers: Containers
) -> dict[str, Any]:
    """The common part of some tasks of a job: records.Start."""
    start = {"job": job.id, "name": job.spec.get("name"), "uid": job.uid, "spec": job.spec, "executor": executor}
    if executor == "docker":
        privileged, mounts = job.spec.get("privileged"), job.spec.get("mounts")
        start |= {
            "environment": package, "image": images.get(package or ""),
            "privileged": containers.privileged if privileged is None else privileged,
            "mounts": list(containers.mounts) if mounts is None else mounts,
            "network": "none" if job.wishes.private_network else containers.network,
        }  # fmt: skip
    return {**start, "tasks": []}


def _row(job: Job, wire_k: int | None, attempt: int, gpus: list[int]) -> list[Any]:
    """One of them, without columns at its end that say nothing: records.StartRow."""
    k = ONLY if wire_k is None else wire_k
    task, target = job.live.get(k), job.target(k)
    spent, numa = task.retries_spent if task else 0, target.numa if target else None
    row = [wire_k, attempt, job.array_index(k), spent < job.spec.get("retries", 0)]
    return row if numa is None and not gpus else [*row, numa, gpus]
