"""The file server's truth, in memory: names, contents, and what of them would survive a power cut."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable

from hakuriver.spool.files import Entry


class File:
    """A file; it has one name at a time, and one durable name."""

    __slots__ = ("content", "durable", "durable_at", "durable_path", "mtime", "uid", "writer")

    def __init__(self, content: bytes, durable: bool, writer: str, mtime: int) -> None:
        self.content = content
        self.durable: bytes | None = content if durable else None  #: what was synced; None: nothing yet
        self.durable_path: str | None = None
        self.durable_at = 0  #: number of the change of names that made it so
        self.writer = writer
        self.mtime = mtime
        self.uid = 0


class Renaming:
    """A change of names that is not durable yet: the file gets a name, or none."""

    __slots__ = ("done", "file", "number", "owner", "target")

    def __init__(self, number: int, owner: str, file: File, target: str | None) -> None:
        self.number = number
        self.owner = owner
        self.file = file
        self.target = target
        self.done = False


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def leaf(path: str) -> str:
    return path.rpartition("/")[2]


class Share:
    """Directories of files. `track`: remember what is durable, for power cuts."""

    def __init__(self, *, track: bool = False) -> None:
        self.dirs: dict[str, dict[str, File | None]] = {"": {}}
        self.track = track
        self.on_name: Callable[[str, str, File], None] = lambda owner, path, file: None
        self.replaced: dict[str, tuple[float, bytes]] = {}  #: path -> (when, content before)
        self.clock: Callable[[], float] = lambda: 0.0
        self.late: list[tuple[float, int, Callable[[], None]]] = []
        self._listings: dict[str, list[Entry]] = {}
        self._number = 0
        self._pending: dict[str, list[Renaming]] = {}
        self._names: dict[str, tuple[File, int]] = {}  #: what would stand there after a power cut
        self._unsynced: dict[int, File] = {}

    # -- reading

    def entries(self, path: str) -> list[Entry]:
        found = self._listings.get(path)
        if found is None:
            names = self._directory(path)
            found = [Entry(name, file is None) for name, file in names.items() if name[0] != "."]
            self._listings[path] = found
        return list(found)

    def _directory(self, path: str) -> dict[str, File | None]:
        names = self.dirs.get(path)
        if names is None:
            raise FileNotFoundError(2, "no such directory", path)
        return names

    def find(self, path: str) -> File:
        file = self.dirs.get(parent(path), {}).get(leaf(path))
        if file is None:
            raise FileNotFoundError(2, "no such file", path)
        return file

    def has(self, path: str) -> bool:
        return leaf(path) in self.dirs.get(parent(path), {})

    def tree(self) -> list[str]:
        """Every file, also those that are not whole."""
        return sorted(
            f"{path}/{name}" if path else name
            for path, names in self.dirs.items()
            for name, file in names.items()
            if file is not None
        )

    # -- changing

    def create(self, owner: str, path: str, content: bytes, durable: bool) -> File:
        names = self._directory(parent(path))
        if leaf(path) in names:
            raise FileExistsError(17, "exists", path)
        file = File(content, durable, owner, self._next())
        names[leaf(path)] = file
        self._changed(owner, file, path, parent(path))
        self._note_content(file, durable)
        return file

    def patch(self, owner: str, path: str, offset: int, data: bytes, durable: bool) -> None:
        names = self._directory(parent(path))
        file = names.get(leaf(path))
        if file is None:
            file = self.create(owner, path, b"", False)
        old = file.content.ljust(offset, b"\0")
        file.content = old[:offset] + data + old[offset + len(data) :]
        file.mtime = self._next()
        self._note_content(file, durable)

    def rename(self, owner: str, source: str, target: str) -> None:
        file = self.find(source)
        names = self._directory(parent(target))
        old = names.get(leaf(target))
        if old is not None:
            self.replaced[target] = (self.clock(), old.content)
        del self.dirs[parent(source)][leaf(source)]
        names[leaf(target)] = file
        self._listings.pop(parent(source), None)
        self._changed(owner, file, target, parent(source), parent(target))
        self.on_name(owner, target, file)

    def link(self, owner: str, source: str, target: str) -> None:
        """A file of its own with the same content: nothing writes into a file that has been linked."""
        file = self.find(source)
        made = self.create(owner, target, file.content, file.durable == file.content)
        self.on_name(owner, target, made)

    def remove(self, owner: str, path: str) -> None:
        file = self.find(path)
        del self.dirs[parent(path)][leaf(path)]
        self._changed(owner, file, None, parent(path))

    def mkdir(self, path: str) -> None:
        if path in self.dirs:
            return
        if parent(path) != path:
            self.mkdir(parent(path))
        self.dirs[path] = {}
        self.dirs[parent(path)][leaf(path)] = None
        self._listings.pop(parent(path), None)

    def rmdir(self, path: str) -> None:
        if path in self.dirs and not self.dirs[path]:
            del self.dirs[path]
            del self.dirs[parent(path)][leaf(path)]
            self._listings.pop(parent(path), None)
            self._listings.pop(path, None)

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- what is durable

    def _changed(self, owner: str, file: File, target: str | None, *directories: str) -> None:
        for directory in directories:
            self._listings.pop(directory, None)
        if self.track:
            change = Renaming(self._next(), owner, file, target)
            for directory in dict.fromkeys(directories):
                self._pending.setdefault(directory, []).append(change)

    def _note_content(self, file: File, durable: bool) -> None:
        if durable:
            file.durable = file.content
            self._unsynced.pop(id(file), None)
        elif self.track:
            self._unsynced[id(file)] = file

    def sync(self, directory: str) -> None:
        self._directory(directory)
        for change in self._pending.pop(directory, ()):
            if not change.done:
                self._settle(change)

    def sync_all(self) -> None:
        for change in self._all_pending():
            self._settle(change)
        self._pending.clear()
        for file in self._unsynced.values():
            file.durable = file.content
        self._unsynced.clear()

    def _all_pending(self) -> list[Renaming]:
        found = {c.number: c for changes in self._pending.values() for c in changes if not c.done}
        return [found[number] for number in sorted(found)]

    def _settle(self, change: Renaming) -> None:
        change.done = True
        file, target = change.file, change.target
        if file.durable_at > change.number:
            return
        if file.durable_path is not None and self._names.get(file.durable_path, (None,))[0] is file:
            del self._names[file.durable_path]
        file.durable_path, file.durable_at = None, change.number
        if target is None:
            return
        standing = self._names.get(target)
        if standing is None or standing[1] < change.number:
            self._names[target] = (file, change.number)
            file.durable_path = target

    def power_cut(self, owners: set[str] | None, rng: random.Random) -> None:
        """Lose what these had not synced (None: everybody): all of it, the latest part, or any part."""
        mode = rng.choice(("all", "latest", "some"))
        lost = [c for c in self._all_pending() if owners is None or c.owner in owners]
        kept_first = rng.randrange(len(lost) + 1) if lost else 0
        survives = {
            c.number: {"all": False, "latest": place < kept_first, "some": rng.random() < 0.5}[mode]
            for place, c in enumerate(lost)
        }
        for change in self._all_pending():
            if survives.get(change.number, True):
                self._settle(change)
        self._tear(owners, rng)
        self._rebuild()

    def _tear(self, owners: set[str] | None, rng: random.Random) -> None:
        for file in self._unsynced.values():
            if owners is None or file.writer in owners:
                kept = file.durable or b""
                file.content = rng.choice((kept, file.content[: max(len(kept), len(file.content) // 2)], file.content))
            file.durable = file.content

    def _rebuild(self) -> None:
        for names in self.dirs.values():
            for name in [name for name, file in names.items() if file is not None]:
                del names[name]
        for path, (file, _) in self._names.items():
            self.mkdir(parent(path))
            self.dirs[parent(path)][leaf(path)] = file
        self._listings.clear()
        self._pending.clear()
        self._unsynced.clear()

    # -- what lands late

    def land(self, at: float, call: Callable[[], None]) -> None:
        """Carry an operation of the dead out at this time, if it can be done then."""
        heapq.heappush(self.late, (at, self._next(), call))

    def land_due(self, now: float) -> None:
        while self.late and self.late[0][0] <= now:
            try:
                heapq.heappop(self.late)[2]()
            except OSError:
                pass  # its source is gone: nothing lands


def make_tree(share: Share, paths: Iterable[str], files: dict[str, bytes]) -> None:
    """Set a share up, durably."""
    for path in paths:
        share.mkdir(path)
    for path, content in files.items():
        share.create("init", path, content, True)
    share.sync_all()
