"""Every operation on the share, in one small seam.

`Disk` is the seam: about ten operations on paths below one root. `LocalDisk` does them for real; the tests
put other disks in its place, that crash, lie, delay and hang. What daemons call stands below it: `publish`,
`publish_batch`, `move`, `newest`: they are written in terms of the seam alone.

Whatever fails in a way that says nothing about the file (a share that is away, full, read-only, stale)
becomes `ShareError`; callers go on later, by path. "Not there" and "there already" stay FileNotFoundError
and FileExistsError. BUGS: an operation may hang as long as the mount does; run it on a thread of its own.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

from hakuriver.spool import layout

#: Leading dot: listings never show unfinished files.
TEMP_SUFFIX = ".tmp"
#: From so many files on one sync of the whole file system costs less than one for each.
SYNC_ALL_FROM = 8
#: Tries by path before a stale handle is believed (NFS and Gluster give ESTALE on good paths).
STALE_TRIES = 4

_REMEDY = {
    errno.ENOSPC: "the file system is full: free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.EROFS: "the share is mounted read-only: mount it read-write",
    errno.EACCES: "permission denied: check who owns the share and as whom this runs",
    errno.EPERM: "not permitted: check who owns the share and as whom this runs",
}


class ShareError(Exception):
    """{operation} {path}: {error}; {remedy}."""

    def __init__(self, operation: str, path: str, error: OSError) -> None:
        self.errno = error.errno or 0
        self.path = path
        remedy = _REMEDY.get(self.errno, "waiting until the share is back")
        what = f"cannot {operation} {path}" if path else "Cannot access shared directory"
        super().__init__(f"{what}: {error.strerror or error}; {remedy}")

    @property
    def full(self) -> bool:
        """Whether the share has answered that it has no room."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT)


class ShareAway(ShareError):
    """No sentinel at the root: the share is not mounted, or was never initialised."""

    def __init__(self, root: str) -> None:
        Exception.__init__(
            self,
            f"Cannot access shared directory {root}: it holds no {layout.SENTINEL}: the share is not mounted here, "
            f"or `hakuriver init share --shared-dir {root}` was never run",
        )
        self.errno = errno.ENOENT
        self.path = layout.SENTINEL


class DoorFile(NamedTuple):
    """What one descriptor said of a file at the door, and its content."""

    data: bytes  #: at most one byte more than the limit asked for
    size: int
    uid: int
    stamp: tuple[int, int]  #: (size, mtime in ns): equal twice means nobody was writing
    refusal: str | None  #: why it can be no request at all


class Entry(NamedTuple):
    """A name in a directory."""

    name: str
    is_dir: bool


class Disk(Protocol):
    """The seam. Paths are relative to the root; '' is the root itself."""

    root: str

    def list(self, path: str) -> list[Entry]:
        """All names in a directory but those with a leading dot. FileNotFoundError if it is not there."""

    def read(self, path: str) -> bytes:
        """The whole of a file, by path."""

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Make a new file (it must not exist) and close it; `durable`: fsync first."""

    def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
        """Write into a file at an offset, making it if need be: outputs of tasks only."""

    def rename(self, source: str, target: str) -> None:
        """Rename. Errors are no verdict: see `move`."""

    def link(self, source: str, target: str) -> None:
        """Give a file a second, new name. FileExistsError if it stands; ShareError where there are no hard links."""

    def remove(self, path: str) -> None:
        """Unlink; nothing happens if it is gone."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; nothing happens if it is there. ShareAway without the sentinel at the root.

        Nothing may be made in the empty directory that an unmounted share leaves.
        """

    def rmdir(self, path: str) -> None:
        """Remove a directory if it is empty; nothing happens otherwise."""

    def sync(self, directories: Iterable[str]) -> None:
        """Make the names in these directories durable."""

    def sync_all(self) -> None:
        """Make all that was written durable: one call for a batch."""

    def inspect(self, path: str, limit: int) -> DoorFile:
        """Open once without following links, look, read up to `limit` bytes and one more, look again."""


T = TypeVar("T")


class LocalDisk:
    """The seam over a mounted directory."""

    def __init__(self, root: str, answered: Callable[[], None] = lambda: None) -> None:
        """`answered`: called after each operation that has succeeded, on the thread of that."""
        self.root = os.path.abspath(root)
        self._answered = answered
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _do(self, operation: str, path: str, call: Callable[[str], T]) -> T:
        for attempt in itertools.count(1):
            try:
                done = call(self._path(path))
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError as error:
                if error.errno != errno.ESTALE or attempt == STALE_TRIES:
                    raise ShareError(operation, path or self.root, error) from error
            else:
                self._answered()
                return done
        raise AssertionError("unreachable")

    def list(self, path: str) -> list[Entry]:
        """See `Disk`."""

        def scan(full: str) -> list[Entry]:
            with os.scandir(full) as entries:
                return [Entry(e.name, e.is_dir(follow_symlinks=False)) for e in entries if e.name[0] != "."]

        return self._do("list", path, scan)

    def read(self, path: str) -> bytes:
        """See `Disk`."""

        def whole(full: str) -> bytes:
            with open(full, "rb") as file:
                return file.read()

        return self._do("read", path, whole)

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """See `Disk`."""

        def create(full: str) -> None:
            fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                _fill(fd, data, durable)
            except BaseException:
                _abandon(full)
                raise

        self._do("write", path, create)

    def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
        """See `Disk`."""

        def patch(full: str) -> None:
            fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            _fill(fd, data, durable, offset)

        self._do("write", path, patch)

    def rename(self, source: str, target: str) -> None:
        """See `Disk`."""
        self._do("rename", source, lambda full: os.rename(full, self._path(target)))

    def link(self, source: str, target: str) -> None:
        """See `Disk`."""
        self._do("link", source, lambda full: os.link(full, self._path(target)))

    def remove(self, path: str) -> None:
        """See `Disk`."""
        try:
            self._do("remove", path, os.unlink)
        except FileNotFoundError:
            pass  # gone already: what was asked for

    def mkdir(self, path: str) -> None:
        """See `Disk`."""
        self._do("make directory", path, lambda _: _make_directories(self.root, path.split("/")))

    def rmdir(self, path: str) -> None:
        """See `Disk`."""
        try:
            os.rmdir(self._path(path))
        except OSError:
            pass  # not empty, or gone: both are fine

    def sync(self, directories: Iterable[str]) -> None:
        """See `Disk`."""
        for path in directories:
            self._do("sync", path, _sync_directory)

    def sync_all(self) -> None:
        """See `Disk`. Source: syncfs(2)."""

        def flush(full: str) -> None:
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if self._libc.syncfs(fd) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(fd)

        self._do("sync", "", flush)

    def inspect(self, path: str, limit: int) -> DoorFile:
        """See `Disk`."""
        return self._do("read", path, lambda full: _inspect(full, limit))


def _fill(fd: int, data: bytes, durable: bool, offset: int | None = None) -> None:
    """Write all, sync if asked, close; an error of close counts."""
    try:
        view, position = memoryview(data), offset or 0
        while view:
            written = os.write(fd, view) if offset is None else os.pwrite(fd, view, position)
            view, position = view[written:], position + written
        if durable:
            os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)


def _make_directories(root: str, parts: list[str]) -> None:
    """All below one descriptor: what it says of the sentinel still holds when another file system comes there."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _exists(fd, layout.SENTINEL):
            raise ShareAway(root)
        for count in range(1, len(parts) + 1):
            try:
                os.mkdir("/".join(parts[:count]), dir_fd=fd)
            except FileExistsError:
                pass  # nearly always, or by another just now
    finally:
        os.close(fd)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _abandon(full: str) -> None:
    """Remove a file that could not be written: on a full disk every try would leave one."""
    try:
        os.unlink(full)
    except OSError:
        pass  # the share has gone altogether: `remove_unfinished` finds it later


def _sync_directory(full: str) -> None:
    fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _inspect(full: str, limit: int) -> DoorFile:
    try:
        # O_NONBLOCK: a fifo without a writer must not hold the host.
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            link = os.lstat(full)
            return DoorFile(b"", 0, link.st_uid, (0, 0), _OPEN_REFUSED[error.errno])
        raise
    try:
        before = os.fstat(fd)
        refusal = _not_a_request(before)
        data = b"" if refusal else _read_up_to(fd, limit + 1, before.st_size + 1)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return DoorFile(data, after.st_size, after.st_uid, (after.st_size, after.st_mtime_ns if unchanged else -1), refusal)


_OPEN_REFUSED = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is no regular file",
    errno.EACCES: "the host may not read it",
}


def _not_a_request(status: os.stat_result) -> str | None:
    """Law 12: the owner is who asked only if nobody else could have written the file."""
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_nlink != 1:
        return "it has more than one hard link, so that others may write it"
    if status.st_mode & stat.S_IWOTH:
        return "everybody may write it: chmod o-w it first"
    if status.st_mode & stat.S_IWGRP and not _private_group(status.st_uid, status.st_gid):
        return "a group that others are in may write it: chmod g-w it first"
    return None


def _private_group(uid: int, gid: int) -> bool:
    """Tell whether the group is the user's own, with nobody else in it (umask 002 of many distributions)."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name} and group.gr_name == user.pw_name


def _read_up_to(fd: int, limit: int, expected: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := os.read(fd, min(limit, max(expected, 4096), 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


# --- on top of the seam ---

_counter = itertools.count()
_nonce = os.urandom(4).hex()


def _temporary(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name[-80:]}.{_nonce}{next(_counter)}{TEMP_SUFFIX}"


def directory_of(path: str) -> str:
    """The directory that a path lies in; '' for the root."""
    return path.rpartition("/")[0]


def names(disk: Disk, path: str) -> list[str]:
    """The names in a directory, unsorted; none if the directory is not there."""
    try:
        return [entry.name for entry in disk.list(path)]
    except FileNotFoundError:
        return []


def publish(disk: Disk, path: str, data: bytes, *, replace: bool = False) -> None:
    """Make a document appear whole and durable under its final, new name.

    `replace` is for what `spool_layout.md` lists as replaced (indexes, pages, copies of receipts); it is not
    made durable. Otherwise a name that stands already counts as done: names are never given twice.
    """
    temporary = _prepare(disk, path, data, durable=not replace)
    if replace:
        disk.rename(temporary, path)
    else:
        arrive(disk, temporary, path)
        disk.sync([directory_of(path)])


def publish_batch(
    disk: Disk, documents: Sequence[tuple[str, bytes]], copies: Sequence[tuple[str, str, bytes]] = ()
) -> None:
    """Publish documents, of which there may be many, durably. New names, or copies that may be replaced.

    `copies`: of some of them under further names, as `copy` makes them. One sync of the file system serves many; for
    a few it would be dear, as it waits for all that others write there.
    """
    few = len(documents) < SYNC_ALL_FROM
    for path, data in documents:
        disk.rename(_prepare(disk, path, data, durable=few), path)
    for source, target, data in copies:
        copy(disk, source, target, data)
    if few:
        disk.sync(dict.fromkeys(directory_of(path) for path, _ in documents))
    else:
        disk.sync_all()


def copy(disk: Disk, source: str, target: str, data: bytes) -> None:
    """Have `data`, which was published as `source`, stand under another name too, in place of what stands there.

    A second name of the same file is cheaper than a file, but not every share has them, and it may not replace.
    """
    try:
        disk.link(source, target)
    except (FileExistsError, FileNotFoundError, ShareError):
        publish(disk, target, data, replace=True)


def _prepare(disk: Disk, path: str, data: bytes, *, durable: bool) -> str:
    """Write a document under a temporary name beside its own; return that."""
    temporary = _temporary(path)
    try:
        disk.write(temporary, data, durable=durable)
    except FileNotFoundError:
        present(disk)  # nothing is made in the empty directory that an unmounted share leaves
        disk.mkdir(directory_of(path))
        disk.write(temporary, data, durable=durable)
    return temporary


def arrive(disk: Disk, temporary: str, path: str) -> None:
    """Give what was written under a temporary name its own; that it has it already counts as done."""
    try:
        disk.rename(temporary, path)
    except (OSError, ShareError):
        # An error is no verdict: a retried request of NFS may report ENOENT for what it has done.
        if path.rpartition("/")[2] not in names(disk, directory_of(path)):
            raise


def move(disk: Disk, source: str, target: str) -> bool | None:
    """Rename `source` to a unique name; tell who won: True we did, False another, None nobody yet.

    Neither directory is synced here. Only presence at the target or absence of the source decides.
    """
    try:
        disk.rename(source, target)
        return True
    except (OSError, ShareError):
        if target.rpartition("/")[2] in names(disk, directory_of(target)):
            return True
        return None if source.rpartition("/")[2] in names(disk, directory_of(source)) else False


def positions(disk: Disk, path: str) -> list[tuple[int, int]]:
    """The numbered documents in a directory, in order."""
    return sorted(place for name in names(disk, path) if (place := layout.parse_entry(name)))


def bells(disk: Disk) -> list[layout.Bell]:
    """The bells of all nodes; of one that is just being given its bell there may be two."""
    return [bell for name in names(disk, layout.BELLS) if (bell := layout.parse_bell(name))]


def present(disk: Disk) -> None:
    """Raise ShareAway unless the sentinel stands at the root."""
    if layout.SENTINEL not in names(disk, ""):
        raise ShareAway(disk.root)


def tail(disk: Disk, path: str, most: int) -> tuple[bytes, int]:
    """The last `most` bytes of a regular file and its size; nothing if it cannot be read. For pages alone.

    A link is not followed, and a fifo holds nobody up: what pages publish is an output, or nothing.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with open(os.open(f"{disk.root}/{path}", flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return b"", 0
            file.seek(max(0, status.st_size - most))
            return file.read(most), status.st_size
    except OSError:
        return b"", 0


class Streamed(NamedTuple):
    """What was written."""

    size: int  #: bytes
    sha256: str  #: hexadecimal


def stream(disk: Disk, path: str, parts: Iterable[bytes]) -> Streamed:
    """Write a large file in parts, and make it durable; on any error nothing is left of it. For tarballs alone.

    Raises ShareError, and whatever `parts` raises. The path is a temporary one: what an earlier try left is replaced.
    """
    full = f"{disk.root}/{path}"
    digest, size = hashlib.sha256(), 0
    with _writing(path):
        fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for part in parts:
            digest.update(part)
            size += len(part)
            with _writing(path):
                _write_whole(fd, part)
        with _writing(path):
            os.fsync(fd)
    except BaseException:
        os.close(fd)
        _abandon(full)
        raise
    with _writing(path):
        os.close(fd)
    return Streamed(size, digest.hexdigest())


def parts(disk: Disk, path: str, size: int = 1 << 20) -> Iterator[bytes]:
    """A large file in parts of so many bytes. Raises ShareError; FileNotFoundError. For tarballs alone."""
    try:
        with open(f"{disk.root}/{path}", "rb", buffering=0) as file:
            while part := file.read(size):
                yield part
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ShareError("read", path, error) from error


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShareError("write", path, error) from error


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def unfinished(disk: Disk, directory: str) -> list[str]:
    """Names of temporary files in a directory; none if it is not there."""
    try:
        return [name for name in os.listdir(f"{disk.root}/{directory}") if name.endswith(TEMP_SUFFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ShareError("list", directory, error) from error


def size_of(disk: Disk, path: str) -> int | None:
    """Bytes of a file; None if it is not there. For what a listing has shown."""
    try:
        return os.stat(f"{disk.root}/{path}").st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ShareError("look at", path, error) from error


def remove_unfinished(disk: Disk, directory: str, age_s: float) -> int:
    """Remove files that a writer began and never finished, in a directory and below; tell how many.

    They are old by the file server's own clock: a file made now in the same place is what they are compared with.
    """
    top = f"{disk.root}/{directory}"
    probe = _temporary(f"{directory}/age")
    try:
        disk.write(probe, b"", durable=False)
        now = os.stat(f"{disk.root}/{probe}").st_mtime
    except (OSError, ShareError):
        return 0
    finally:
        disk.remove(probe)
    gone = 0
    for where, _, found in os.walk(top):
        for name in found:
            if name.startswith(".") and name.endswith(TEMP_SUFFIX):
                gone += _remove_older(f"{where}/{name}", now - age_s)
    return gone


def _remove_older(full: str, before: float) -> bool:
    try:
        if os.lstat(full).st_mtime > before:
            return False
        os.unlink(full)
    except OSError:
        return False  # finished or removed meanwhile
    return True
