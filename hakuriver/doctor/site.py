"""The share as a doctor comes to it, and its own directory there, `doctor/<run>`: made, emptied, what is left swept.

A river has `doctor/` from its beginning, its user's: what root makes there would shut that user's daemons out.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hakuriver.spool import files, layout
from hakuriver.spool.access import Share
from hakuriver.spool.files import Disk, LocalDisk, ShareError
from hakuriver.spool.layout import NodePaths

#: Seconds after which a directory is a dead doctor's: no run lasts longer than one minute.
LEFT_S = 3600.0
#: Seconds in which what is removed has gone: SMB keeps what another process or machine has open.
GONE_S = 1.5
#: Tries to make the directory: where there is no river another doctor may remove the empty one above it meanwhile.
TRIES = 20


class BareDisk(LocalDisk):
    """A directory that is no river yet: there is no sentinel to look for."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; nothing happens if it is there."""
        self._do("make directory", path, lambda full: os.makedirs(full, exist_ok=True))


def river(root: str) -> Disk:
    """The river there. Raises ShareProblem."""
    return LocalDisk(Share(root).check().root)


def directory(root: str) -> Disk:
    """A directory, whether it is a river yet or not. Raises ShareProblem, and OSError where there is none."""
    if layout.SENTINEL in Share(root).names(""):
        return LocalDisk(root)
    os.listdir(root)  # raises OSError where there is no such directory
    return BareDisk(root)


@contextmanager
def opened(disk: Disk, run: str) -> Iterator[str]:
    """Make this run's directory, and remove it with all that is in it. Yields its path. Raises ShareError."""
    path = layout.doctor(run)
    try:
        _make(disk, path)
        if os.geteuid() == 0:
            _hand_over(disk)
        yield path
    finally:
        remove(disk, path)


def _make(disk: Disk, path: str) -> None:
    for _ in range(TRIES - 1):
        try:
            disk.mkdir(path)
            return
        except FileNotFoundError:
            pass  # the one above was empty, and has just been removed
    try:
        disk.mkdir(path)
    except FileNotFoundError as error:
        raise ShareError("make directory", path, error) from error


def _hand_over(disk: Disk) -> None:
    """Let `doctor/` be whose the river is: root may be the first to come to a river that was made without it."""
    try:
        owner = os.lstat(f"{disk.root}/{layout.SENTINEL}")
        fd = os.open(f"{disk.root}/{layout.DOCTOR}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # no river yet
    try:
        if os.fstat(fd).st_uid != owner.st_uid:
            os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:
        pass  # root is nobody there, or owners are the mount's: told as such
    finally:
        os.close(fd)


def remove(disk: Disk, path: str) -> None:
    """Remove a run's directory; what cannot be removed stays. Where there is no river, the one above it if it is empty.

    A river keeps `doctor/`: who made it anew would be its owner.
    """
    end = time.monotonic() + GONE_S
    shutil.rmtree(f"{disk.root}/{path}", ignore_errors=True)
    while os.path.lexists(f"{disk.root}/{path}") and time.monotonic() < end:
        time.sleep(0.05)
        shutil.rmtree(f"{disk.root}/{path}", ignore_errors=True)
    if isinstance(disk, BareDisk):
        disk.rmdir(layout.DOCTOR)


def sweep(disk: Disk, at: str) -> None:
    """Remove what doctors left that died more than an hour ago, by the file server's clock. Raises ShareError.

    `at`: this run's directory; a file that is made in it now tells the time.
    """
    clock = f"{at}/now"
    disk.write(clock, b"", durable=False)
    before = os.stat(f"{disk.root}/{clock}").st_mtime - LEFT_S
    disk.remove(clock)
    for run in files.names(disk, layout.DOCTOR):
        path = layout.doctor(run)
        if path != at and _older(disk, path, before):
            remove(disk, path)
    for node in files.names(disk, layout.NODES):
        for name in files.names(disk, NodePaths(node).root):
            path = f"{NodePaths(node).root}/{name}"
            if layout.parse_doctor_ask(name) and _older(disk, path, before):
                disk.remove(path)


def _older(disk: Disk, path: str, before: float) -> bool:
    try:
        return os.lstat(f"{disk.root}/{path}").st_mtime < before
    except OSError:
        return False  # gone meanwhile
