"""The thread that tells: index and pages. It gets finished documents and touches no live state.

Nothing waits for it and nothing rests on it: what it misses in a crash is rebuilt from the files.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hakuriver.daemons import Saying
from hakuriver.host.jobs import read_snapshot
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import Baton

if TYPE_CHECKING:
    from hakuriver.pages.teller import Teller

log = logging.getLogger("hakuriver.host")

#: Seconds between two rounds of telling; what comes in between is told together.
ROUND_S = 2.0

#: Seconds after which this thread lets go of the interpreter when the host's own thread wants it.
SWITCH_S = 0.0005

#: What may come with every tick, for minutes: it is told together.
_MANY = ("tell", "forget")

Position = tuple[int, int]


class Telling:
    """A queue with a thread behind it."""

    def __init__(self, disk: Disk, settings: Settings, cluster_id: str) -> None:
        self._disk = disk
        self._settings = settings
        self._cluster_id = cluster_id
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tells", daemon=True)
        self._teller: Teller | None = None
        self._stale = False  #: the index must be made anew
        self._saying = Saying(log, "pages and index wait: ")

    def start(self) -> None:
        """Begin to tell."""
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def stop(self) -> None:
        """Tell what is waiting, for some seconds at most."""
        self._stopping.set()
        self._queue.put(("wake",))
        self._thread.join(3.0)

    def put(self, snapshots: list[bytes], nodes: dict[str, Any], position: Position) -> None:
        """Tell these; returns at once."""
        self._queue.put(("tell", snapshots, nodes, position))

    def environments(self, index: dict[str, Any]) -> None:
        """Tell of the environments (records.EnvironmentsIndex); the index itself is written already."""
        self._queue.put(("environments", index))

    def forget(self, jobs: list[str]) -> None:
        """These jobs were deleted."""
        self._queue.put(("forget", jobs))

    def reindex(self) -> None:
        """Make the index anew from the files."""
        self._queue.put(("reindex",))

    def rebuild_if_needed(self, baton: Baton) -> None:
        """After taking the lead: make the index anew unless it stands at a position of this chain."""
        self._queue.put(("check", (baton.term, baton.seq)))

    def _run(self) -> None:
        pending: list[Any] = []
        while True:
            pending.append(self._queue.get())
            self._stopping.wait(ROUND_S if pending[0][0] in _MANY and self._teller else 0.0)
            while not self._queue.empty():
                pending.append(self._queue.get())
            try:
                self._round(pending)
                self._saying.forget()
            except (ShareError, FileNotFoundError) as error:
                self._saying.say(error)
            except Exception:
                log.exception("pages and index could not be written; they are made anew")
                self._stale = True
            pending = []
            if self._stopping.is_set():
                return

    def _round(self, pending: list[Any]) -> None:
        if self._teller is None and all(item == ("wake",) for item in pending):
            return  # it never led: index and pages are another host's
        teller = self._open()
        checks = [item[1] for item in pending if item[0] == "check"]
        if checks and self._behind(checks[-1]):
            self._stale = True
        if self._stale or any(item[0] == "reindex" for item in pending):
            self._rebuild(teller, checks[-1] if checks else None)
        if gone := [job for item in pending if item[0] == "forget" for job in item[1]]:
            teller.forget(gone)
        for item in pending:
            if item[0] == "environments":
                teller.environments(item[1])
        told = [item for item in pending if item[0] == "tell"]
        if told:
            teller.tell(_newest(pending), told[-1][2], told[-1][3])

    def _open(self) -> Teller:
        if self._teller is None:
            from hakuriver.host.index import Index
            from hakuriver.pages.teller import Teller

            path = self._settings.db_file
            os.makedirs(os.path.dirname(path), exist_ok=True)
            index = Index(path, self._cluster_id)
            self._stale = index.fresh
            self._teller = Teller(self._disk, index)
        return self._teller

    def _behind(self, position: Position) -> bool:
        assert self._teller is not None
        found = self._teller.index.position()
        return found is None or found[1] != position[1]

    def _rebuild(self, teller: Teller, position: Position | None) -> None:
        log.info("making the index anew from the files")
        self._stale = True  # also if the share goes away in the middle of it
        teller.rebuild(all_snapshots(self._disk), position or teller.index.position() or (0, 0))
        self._stale = False


def _newest(pending: list[Any]) -> list[dict[str, Any]]:
    """Of each job the snapshot that was told last, unless the job was deleted since."""
    newest: dict[str, dict[str, Any]] = {}
    for kind, what, *_ in (item for item in pending if item[0] in _MANY):
        for each in what:
            if kind == "forget":
                newest.pop(each, None)
            else:
                found = read_snapshot(each)
                newest[found["job"]] = found
    return list(newest.values())


def all_snapshots(disk: Disk) -> Iterator[dict[str, Any]]:
    """Every retained job's newest snapshot, over both trees."""
    for day in _both(disk, ""):
        for bucket in _both(disk, f"/{day}"):
            yield from _bucket(disk, f"{day}/{bucket}")


def _both(disk: Disk, below: str) -> list[str]:
    return sorted({name for tree in (layout.DONE, layout.ACTIVE) for name in files.names(disk, tree + below)})


def _bucket(disk: Disk, bucket: str) -> Iterator[dict[str, Any]]:
    newest: dict[str, tuple[int, str]] = {}
    for tree in (layout.ACTIVE, layout.DONE):
        for name in files.names(disk, f"{tree}/{bucket}"):
            found = layout.parse_snapshot(name)
            if found and (found[0] not in newest or newest[found[0]][0] <= found[2]):
                newest[found[0]] = (found[2], f"{tree}/{bucket}/{name}")
    for _, path in newest.values():
        try:
            yield read_snapshot(disk.read(path))
        except FileNotFoundError:
            continue  # replaced by a newer one just now
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is left out of the index: %s", path, error)
