"""What a client does to the share: list, then open; drop a file at the door.

Imports next to nothing, because `hakuriver submit` is run in shell loops; daemons use `files.py`.
A name is never asked for before its directory has been listed (law 8): on a network file system a directory
that was just opened and read shows what others have put there, a lone open() may answer from memory.
Its first entries are enough for that, so that a directory of 100,000 receipts costs no more than one of ten.
BUGS: any call may hang as long as the mount does.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, TypeVar

from hakuriver.errors import ShareProblem
from hakuriver.spool import layout

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Tries by path before a stale handle is believed (NFS and Gluster give ESTALE on good paths).
STALE_TRIES = 4

_REMEDY = {
    errno.ENOSPC: "the file system is full: free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.EROFS: "the share is mounted read-only: mount it read-write",
    errno.EACCES: "ask the owner of the river for access, or work as that user",
    errno.EPERM: "ask the owner of the river for access, or work as that user",
}
_OTHERWISE = "see whether the share is mounted and its server answers, then try again"


class Share:
    """The shared directory as a client sees it. Paths are relative to its root."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def path(self, path: str) -> str:
        """The path on this machine."""
        return f"{self.root}/{path}" if path else self.root

    def check(self) -> Share:
        """Raise ShareProblem unless the sentinel stands at the root: an unmounted share is an empty directory."""
        if layout.SENTINEL not in self.names(""):
            raise ShareProblem(
                f"Cannot access shared directory {self.root}: it holds no {layout.SENTINEL}: mount the share there, "
                f"name another directory in HAKURIVER_SHARED_DIR; or, if this is the place of a new river and no mount "
                f"is missing, make it with `hakuriver init share --shared-dir {self.root}`"
            )
        return self

    def names(self, path: str) -> list[str]:
        """All names in a directory but those with a leading dot, unsorted; none if it is not there."""
        self._approach(path)
        found = self._do("list", path, os.listdir)
        return [name for name in found or () if name[0] != "."]

    def first_names(self, path: str, most: int) -> list[str] | None:
        """The names in a directory, if there are no more than so many; None if there are."""

        def some(full: str) -> list[str]:
            with os.scandir(full) as entries:
                return [entry.name for entry, _ in zip(entries, range(most + 1), strict=False)]

        self._approach(path)
        found = self._do("list", path, some) or []
        return found if len(found) <= most else None

    def look(self, path: str) -> None:
        """Open and begin to read a directory, so that a name in it can be asked for."""

        def first(full: str) -> None:
            with os.scandir(full) as entries:
                next(entries, None)

        self._approach(path)
        self._do("list", path, first)

    def _approach(self, path: str) -> None:
        """Look at the directories above: that one of them is there may be remembered wrongly too."""
        if "/" in path:
            self.look(path.rpartition("/")[0])

    def read(self, path: str) -> bytes | None:
        """The whole of a file; None if it is not there. Looks at its directory first."""
        self.look(path.rpartition("/")[0])
        return self.open_listed(path)

    def open_listed(self, path: str) -> bytes | None:
        """The whole of a file that a listing has just shown; None if it is gone meanwhile."""

        def whole(full: str) -> bytes:
            with open(full, "rb") as file:
                return file.read()

        return self._do("read", path, whole)

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A document; None if it is not there or is none (an index is derived: it may be anything)."""
        data = self.read(path)
        try:
            found = json.loads(data) if data else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def drop(self, name: str, data: bytes) -> None:
        """Put a request into incoming/, whole and durable when this returns. Raises ShareProblem."""
        path = layout.incoming(name)
        temporary = layout.incoming(f".{name[-80:]}.{os.urandom(4).hex()}.tmp")
        if self._do("write", path, lambda _: self._deliver(temporary, path, data)) is None:
            raise ShareProblem(
                f"{self.path(layout.INCOMING)} is not there: this river was not made whole; see its host's log"
            )

    def _deliver(self, temporary: str, path: str, data: bytes) -> bool:
        full = self.path(temporary)
        try:
            _write(full, data)
            self._rename(full, self.path(path))
        except BaseException:
            _remove(full)
            raise
        _sync_directory(self.path(layout.INCOMING))
        return True

    def _rename(self, source: str, target: str) -> None:
        try:
            os.rename(source, target)
        except OSError:
            # An error is no verdict (law 10): NFS may report one for what it has done, and the host may have it by now.
            if os.path.basename(source) in os.listdir(os.path.dirname(source)):
                raise

    def _do(self, operation: str, path: str, call: Callable[[str], T]) -> T | None:
        for attempt in range(1, STALE_TRIES + 1):
            try:
                return call(self.path(path))
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ESTALE or attempt == STALE_TRIES:
                    raise ShareProblem(self._explain(operation, path, error)) from error
        raise AssertionError("unreachable")

    def _explain(self, operation: str, path: str, error: OSError) -> str:
        remedy = _REMEDY.get(error.errno or 0, _OTHERWISE)
        what = f"cannot {operation} {self.path(path)}" if path else f"Cannot access shared directory {self.root}"
        return f"{what}: {error.strerror or error}; {remedy}"


def _write(full: str, data: bytes) -> None:
    fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)


def _remove(full: str) -> None:
    try:
        os.unlink(full)
    except OSError:
        pass  # never made, or the share is away: nobody reads such names


def _sync_directory(full: str) -> None:
    fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
