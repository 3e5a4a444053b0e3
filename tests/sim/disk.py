"""The seam over the share in memory: one view for each actor, that counts, crashes and is traced."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from hakuriver.spool.files import DoorFile, Entry, ShareAway
from hakuriver.spool.layout import SENTINEL
from sim.share import Share

T = TypeVar("T")

#: Operations that change something, and so may land after their doer's death.
CHANGING = frozenset({"write", "write_at", "rename", "link", "remove", "mkdir"})
#: Seconds after which an operation of a dead actor has landed, at most.
LATE_S = 30.0


class Crash(BaseException):
    """The process dies here. No code under test may catch it."""


class Point:
    """Where to crash: before operation `at`, after it, or before it with the operation landing late."""

    def __init__(self, at: int, how: str = "before", late_s: float = 0.0) -> None:
        assert how in ("before", "after", "late")
        self.at = at
        self.how = how
        self.late_s = late_s

    def __repr__(self) -> str:
        return f"{self.how} operation {self.at}" + (f", landing {self.late_s:.1f} s later" if self.late_s else "")


class SimDisk:
    """One actor's mount of the share."""

    def __init__(self, share: Share, owner: str, trace: Callable[[str, str, str], None]) -> None:
        self.root = f"/mnt/{owner}"
        self.share = share
        self.owner = owner
        self.count = 0
        self.point: Point | None = None
        self.meanwhile: Callable[[], None] | None = None  #: what others do during an operation
        self._trace = trace

    # -- crashing

    def operate(self, kind: str, path: str, effect: Callable[[], T]) -> T:
        """Count an operation, and crash if this is the point. Calls to the keeper come through here too."""
        self.count += 1
        self._trace(self.owner, kind, path)
        if self.meanwhile is not None:
            self.meanwhile()
        point = self.point
        if point is None or self.count != point.at:
            return effect()
        self.point = None
        if point.how == "late" and kind in CHANGING:
            self.share.land(self.share.clock() + point.late_s, lambda: (effect(), None)[1])
        elif point.how == "after":
            try:
                effect()
            except Exception:
                pass  # its error dies with the process
        elif kind == "write":
            self._tear(path)
        self._trace(self.owner, "CRASH", repr(point))
        raise Crash(repr(point))

    def _tear(self, path: str) -> None:
        """Writing is no single step: a crash within leaves the beginning of a file."""
        try:
            self.share.create(self.owner, path, b"{", False)
        except OSError:
            pass

    # -- the seam

    @property
    def mounted(self) -> Share:
        """What an operation reaches."""
        return self.share

    def list(self, path: str) -> list[Entry]:
        return self.operate("list", path, lambda: self.mounted.entries(path))

    def read(self, path: str) -> bytes:
        return self.operate("read", path, lambda: self.mounted.find(path).content)

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self.operate("write", path, lambda: self.mounted.create(self.owner, path, data, durable))

    def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
        self.operate("write_at", path, lambda: self.mounted.patch(self.owner, path, offset, data, durable))

    def rename(self, source: str, target: str) -> None:
        self.operate("rename", f"{source} -> {target}", lambda: self.mounted.rename(self.owner, source, target))

    def link(self, source: str, target: str) -> None:
        self.operate("link", f"{source} -> {target}", lambda: self.mounted.link(self.owner, source, target))

    def remove(self, path: str) -> None:
        def unlink() -> None:
            if self.mounted.has(path):
                self.mounted.remove(self.owner, path)

        self.operate("remove", path, unlink)

    def mkdir(self, path: str) -> None:
        def make() -> None:
            if not self.mounted.has(SENTINEL):
                raise ShareAway(self.root)
            self.mounted.mkdir(path)

        self.operate("mkdir", path, make)

    def rmdir(self, path: str) -> None:
        self.operate("rmdir", path, lambda: self.mounted.rmdir(path))

    def sync(self, directories: Iterable[str]) -> None:
        for path in directories:
            self._sync(path)

    def _sync(self, path: str) -> None:
        self.operate("sync", path, lambda: self.mounted.sync(path))

    def sync_all(self) -> None:
        self.operate("sync_all", "", lambda: self.mounted.sync_all())

    def inspect(self, path: str, limit: int) -> DoorFile:
        def look() -> DoorFile:
            file = self.mounted.find(path)
            size = len(file.content)
            return DoorFile(file.content[: limit + 1], size, file.uid, (size, file.mtime), None)

        return self.operate("inspect", path, look)


def random_point(rng: random.Random, operations: int) -> Point:
    """Any operation among the next ones, in any way."""
    how = rng.choice(("before", "after", "late"))
    return Point(rng.randrange(operations) + 1, how, rng.uniform(0.0, LATE_S) if how == "late" else 0.0)
