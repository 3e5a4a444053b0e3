"""The output files of tasks: ``out/<slot>.out`` and ``out/<slot>.err``, and how large they may grow.

A slot whose task wrote nothing serves the next task: a thousand silent tasks make no thousand files.
Over the limit, the middle of a file is freed; ``<file>.gaps`` (a JSON list of [start, end]) says so before it happens.
"""

from __future__ import annotations

import ctypes
import json
import os

from hakuriver.keeper import kernel

OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
KEEP_OPEN = 64  #: slots whose descriptors stay open; those of others are opened for each use
STREAMS = ("out", "err")
Gap = tuple[int, int]


def middle(first: int, size: int, limit: int) -> Gap | None:
    """What to free of a file with data from ``first`` to ``size``: all but a quarter of the limit at either end."""
    start = -(-(first + limit // 4) // kernel.BLOCK) * kernel.BLOCK
    end = (size - limit // 4) // kernel.BLOCK * kernel.BLOCK
    return (start, end) if start < end else None


def merge(gaps: list[Gap], new: Gap) -> list[Gap]:
    """The gaps with one more: sorted, none touching another."""
    merged: list[Gap] = []
    for start, end in sorted([*gaps, new]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def read_gaps(path: str) -> list[Gap]:
    """The gaps of an output file; none if it is whole."""
    try:
        with open(path + ".gaps", encoding="ascii") as file:
            return [(start, end) for start, end in json.load(file)]
    except FileNotFoundError:
        return []


def _write_gaps(path: str, gaps: list[Gap]) -> None:
    temporary = path + ".gaps.tmp"
    with open(temporary, "w", encoding="ascii") as file:
        json.dump(gaps, file)
        file.flush()
        os.fdatasync(file.fileno())
    os.rename(temporary, path + ".gaps")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # forgotten twice, or never a gap


def trim(path: str, fd: int, limit: int) -> None:
    """Free the middle of an output file that has more than ``limit`` bytes allocated."""
    status = os.fstat(fd)
    if status.st_blocks * 512 <= limit:
        return
    try:
        first = os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:
        return  # ENXIO: the runner has just freed all of it
    gap = middle(first, status.st_size, limit)
    if gap is not None:
        _write_gaps(path, merge(read_gaps(path), gap))
        kernel.punch(fd, *gap)


class Slot:
    """A pair of output files."""

    __slots__ = ("actions", "actions_cwd", "fds", "number", "paths")

    def __init__(self, directory: str, number: int) -> None:
        self.number = number
        self.paths = [f"{directory}/{number}.{stream}" for stream in STREAMS]
        self.fds: list[int] = []
        #: Made by the spawner: posix_spawn file actions for these descriptors and that working directory.
        self.actions: ctypes.Array[ctypes.c_char] | None = None
        self.actions_cwd: bytes | None = None

    def open(self) -> None:
        """Have both files open."""
        if not self.fds:
            for path in self.paths:
                self.fds.append(os.open(path, OPEN, 0o600))

    def close(self) -> None:
        """Close both files."""
        if self.actions is not None:
            kernel.libc.posix_spawn_file_actions_destroy(self.actions)
            self.actions = None
        while self.fds:
            os.close(self.fds.pop())

    def sizes(self) -> tuple[int, int]:
        """Bytes written to out and err."""
        found = [os.fstat(fd) for fd in self.fds] or [os.stat(path) for path in self.paths]
        return found[0].st_size, found[1].st_size

    def trim(self, limit: int) -> None:
        """Keep each file's allocated size near ``limit`` bytes."""
        was_open = bool(self.fds)
        self.open()
        try:
            for path, fd in zip(self.paths, self.fds, strict=True):
                trim(path, fd, limit)
        except OSError:
            pass  # a full disk, or one without holes: looked at again next time
        if not was_open:
            self.close()


class Outputs:
    """All slots of a keeper."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._free: list[Slot] = []
        self._next = 0
        self._open = 0

    def begin(self, kept: set[int]) -> None:
        """Clear the directory of what no record speaks of; new slots get numbers of their own."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for name in os.listdir(self.directory):
            number = name.partition(".")[0]
            if not number.isdigit() or int(number) not in kept:
                os.unlink(f"{self.directory}/{name}")
        self._next = max(kept, default=-1) + 1

    def take(self) -> Slot:
        """A slot with empty, open files."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = Slot(self.directory, self._next)
            self._next += 1
        if not slot.fds:
            slot.open()
            self._open += 1
        return slot

    def resume(self, number: int) -> Slot:
        """The slot of a task that goes on under this keeper; its files are there, or are made."""
        slot = Slot(self.directory, number)
        slot.open()
        slot.close()
        return slot

    def spare(self, slot: Slot) -> None:
        """After the start of a task: give descriptors back when many are open."""
        if slot.fds and self._open > KEEP_OPEN:
            slot.close()
            self._open -= 1

    def give_back(self, slot: Slot, *, again: bool = True) -> tuple[int, int]:
        """After the end of a task: its bytes. An empty slot is free again, another one stays until ``drop``.

        ``again``: whether an empty one may serve another task. It may not if the runner cannot tell by a process whose
        the files are: it would take what that one writes for this one's.
        """
        sizes = slot.sizes()
        if sizes == (0, 0) and again:
            self._free.append(slot)
        elif slot.fds:
            slot.close()
            self._open -= 1
        if sizes == (0, 0) and not again:
            self.drop(slot.number)
        return sizes

    def sizes(self, number: int) -> tuple[int, int]:
        """Bytes of a slot of an earlier keeper; 0 for a file that is gone."""
        out, err = (os.path.getsize(path) if os.path.exists(path) else 0 for path in Slot(self.directory, number).paths)
        return out, err

    def drop(self, number: int) -> None:
        """Remove the files of a slot."""
        for path in Slot(self.directory, number).paths:
            for name in (path, path + ".gaps"):
                _unlink(name)
