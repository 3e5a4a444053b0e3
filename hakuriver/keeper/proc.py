"""What /proc tells about processes (proc(5))."""

from __future__ import annotations

import os

PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A line of /proc/PID/stat. ``ticks``: raw start time since boot; ``rss``: bytes."""

    __slots__ = ("group", "parent", "pid", "rss", "session", "state", "ticks")

    def __init__(self, pid: int, line: bytes) -> None:
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0]
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.ticks = int(fields[19])
        self.rss = int(fields[21]) * PAGE

    @property
    def dead(self) -> bool:
        """A zombie runs no more."""
        return self.state in (b"Z", b"X")


def _read(path: str) -> bytes:
    """A whole file of /proc; empty if the process is gone or not ours to look into."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError:
        pass  # ESRCH: it ended under our hands
    finally:
        os.close(fd)
    return b"".join(parts)


def link(path: str) -> str:
    """Where a link points; empty if it is gone or not ours to look into."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def process(pid: int) -> Process | None:
    """The process, or None if there is none."""
    line = _read(f"/proc/{pid}/stat")
    return Process(pid, line) if line else None


def start_ticks(pid: int) -> int | None:
    """Raw start ticks of a process just made: one read suffices."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        line = os.read(fd, 1024)
        return int(line[line.rindex(b")") + 2 :].split(None, 20)[19])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(fd)


def everything() -> dict[int, Process]:
    """All processes now."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := process(int(name))):
            table[found.pid] = found
    return table


def marker(pid: int, prefix: bytes) -> bytes | None:
    """The variable in the environment of a process that begins with ``prefix``."""
    for variable in _read(f"/proc/{pid}/environ").split(b"\0"):
        if variable.startswith(prefix):
            return variable
    return None


def children(pid: int, tid: int) -> list[int]:
    """The children of one thread. Falls back to a scan where the kernel does not tell (CONFIG_PROC_CHILDREN)."""
    if os.path.exists(f"/proc/{pid}/task/{tid}/children"):
        return [int(word) for word in _read(f"/proc/{pid}/task/{tid}/children").split()]
    return [found.pid for found in everything().values() if found.parent == pid]


def descendants(table: dict[int, Process], roots: set[int]) -> set[int]:
    """``roots`` and all below them."""
    below: dict[int, list[int]] = {}
    for found in table.values():
        below.setdefault(found.parent, []).append(found.pid)
    seen, todo = set(roots), list(roots)
    while todo:
        new = [pid for pid in below.get(todo.pop(), ()) if pid not in seen]
        seen.update(new)
        todo.extend(new)
    return seen


def send(pid: int, number: int) -> None:
    """kill(2); a process that is gone already is no error."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # a set-uid program may refuse us: the group's or the tree's other members still get theirs
