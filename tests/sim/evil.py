"""A share that lies, fails, lags, hangs and goes away: each view on its own, by its own dice."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hakuriver.spool.files import Entry, ShareError
from sim.disk import SimDisk
from sim.share import Share, leaf, parent

T = TypeVar("T")

ERRORS = (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.ENOTCONN)


@dataclass
class Evil:
    """How often what goes wrong, for each operation; and for how long."""

    fails: float = 0.0  #: an operation is not done, and says so
    lies: float = 0.0  #: it is done, and reported as failed
    misses: float = 0.0  #: an entry is left out of a listing ...
    misses_most: int = 2  #: ... but not more often than this
    hides: float = 0.0  #: a new name of another's cannot be seen yet
    hides_s: float = 2.0
    stale: float = 0.0  #: a listing, or a replaced file, is as it was a while ago
    stale_s: float = 2.0
    hangs: float = 0.0  #: an operation takes long
    hangs_s: float = 3.0
    goes: float = 0.0  #: the share goes away: an empty directory, or errors
    gone_s: float = 3.0


class EvilDisk(SimDisk):
    """A view that makes trouble as long as `evil` is set."""

    def __init__(self, share: Share, owner: str, trace: Callable[[str, str, str], None], evil: Evil, seed: int) -> None:
        super().__init__(share, owner, trace)
        self.evil: Evil | None = evil
        self.rng = random.Random(f"{seed} {owner}")
        self.hang: Callable[[float], None] = lambda seconds: None
        self._missed: dict[str, int] = {}
        self._hidden_until: dict[str, float] = {}
        self._known: dict[str, set[str]] = {}  #: names that this view has seen or made
        self._remembered: dict[str, tuple[float, list[Entry]]] = {}
        self._away_until = -1.0
        self._away_empty = False
        self._empty = Share()  #: what lies below the mount point

    # -- trouble

    def operate(self, kind: str, path: str, effect: Callable[[], T]) -> T:
        evil = self.evil
        if evil is None or kind.startswith("keeper"):
            return super().operate(kind, path, effect)
        if self.rng.random() < evil.hangs:
            self.hang(self.rng.uniform(0.0, evil.hangs_s))
        self._maybe_go(evil)
        if self.share.clock() < self._away_until and not self._away_empty:
            raise self._error(kind, path, errno.ENOTCONN)
        if self.rng.random() < evil.fails:
            raise self._error(kind, path, self.rng.choice(ERRORS))
        result = super().operate(kind, path, effect)
        if self.rng.random() < evil.lies:
            self._trace(self.owner, "LIES", path)
            if kind in ("rename", "link") and self.rng.random() < 0.5:
                raise FileNotFoundError(errno.ENOENT, "a request that was sent twice", path)
            raise self._error(kind, path, errno.EIO)
        return result

    def _error(self, kind: str, path: str, number: int) -> ShareError:
        self._trace(self.owner, f"FAILS {errno.errorcode[number]} {kind}", path)
        return ShareError(kind, path, OSError(number, "evil"))

    def _maybe_go(self, evil: Evil) -> None:
        now = self.share.clock()
        if now >= self._away_until and self.rng.random() < evil.goes:
            self._away_until = now + self.rng.uniform(0.5, evil.gone_s)
            self._away_empty = self.rng.random() < 0.5
            self._empty = Share()
            self._trace(
                self.owner, "AWAY", f"until {self._away_until:.2f}, {'empty' if self._away_empty else 'errors'}"
            )

    @property
    def mounted(self) -> Share:
        """What an operation reaches now."""
        away = self.evil is not None and self.share.clock() < self._away_until and self._away_empty
        return self._empty if away else self.share

    # -- lies

    def _see(self, path: str, evil: Evil) -> list[Entry]:
        share = self.mounted
        if share is self._empty:
            return share.entries(path)
        now = self.share.clock()
        remembered = self._remembered.get(path)
        if remembered and now - remembered[0] < evil.stale_s and self.rng.random() < evil.stale:
            return list(remembered[1])
        found = [entry for entry in share.entries(path) if self._visible(f"{path}/{entry.name}", now, evil)]
        self._remembered[path] = (now, found)
        return [entry for entry in found if not self._miss(f"{path}/{entry.name}", evil)]

    def _visible(self, full: str, now: float, evil: Evil) -> bool:
        """A name made by another appears after a while."""
        known = self._known.setdefault(parent(full), set())
        if leaf(full) in known:
            return True
        until = self._hidden_until.get(full)
        if until is None:
            hidden = self.rng.random() < evil.hides
            until = self._hidden_until[full] = now + (self.rng.uniform(0.0, evil.hides_s) if hidden else 0.0)
        if now >= until:
            known.add(leaf(full))
        return now >= until

    def _miss(self, full: str, evil: Evil) -> bool:
        if self._missed.get(full, 0) >= evil.misses_most or self.rng.random() >= evil.misses:
            return False
        self._missed[full] = self._missed.get(full, 0) + 1
        return True

    def _made(self, path: str) -> None:
        self._known.setdefault(parent(path), set()).add(leaf(path))
        self._remembered.pop(parent(path), None)

    # -- the seam

    def list(self, path: str) -> list[Entry]:
        evil = self.evil
        if evil is None:
            return super().list(path)
        return self.operate("list", path, lambda: self._see(path, evil))

    def read(self, path: str) -> bytes:
        def content() -> bytes:
            evil, share = self.evil, self.mounted
            found = share.find(path).content
            if evil is None or share is self._empty:
                return found
            replaced = share.replaced.get(path)
            old = replaced is not None and share.clock() - replaced[0] < evil.stale_s
            if replaced is not None and old and self.rng.random() < evil.stale:
                return replaced[1]
            if not self._visible(path, share.clock(), evil):
                raise FileNotFoundError(errno.ENOENT, "not to be seen yet", path)
            return found

        return self.operate("read", path, content)

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        try:
            super().write(path, data, durable=durable)
        finally:
            self._made(path)

    def rename(self, source: str, target: str) -> None:
        try:
            super().rename(source, target)
        finally:  # one sees what one has done oneself, whatever was reported
            self._made(target)
            self._remembered.pop(parent(source), None)

    def link(self, source: str, target: str) -> None:
        try:
            super().link(source, target)
        finally:
            self._made(target)

    def remove(self, path: str) -> None:
        try:
            super().remove(path)
        finally:
            self._remembered.pop(parent(path), None)

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self._made(path)

    def rmdir(self, path: str) -> None:
        try:
            super().rmdir(path)
        except ShareError:
            pass  # as the real one: it stays
