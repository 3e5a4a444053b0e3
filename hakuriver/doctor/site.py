"""The doctor's own directory on the share, `doctor/<run>`: made, emptied, and what dead doctors left removed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, LocalDisk, ShareError
from hakuriver.spool.layout import NodePaths

#: Seconds after which a directory is a dead doctor's: no run lasts longer than one minute.
LEFT_S = 3600.0
#: Seconds in which what is removed has gone: SMB keeps what another process or machine has open.
GONE_S = 1.5
#: Tries to make the directory: another doctor may remove the empty one above it meanwhile.
TRIES = 20


class BareDisk(LocalDisk):
    """A directory that is no river yet: there is no sentinel to look for."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; nothing happens if it is there."""
        self._do("make directory", path, lambda full: os.makedirs(full, exist_ok=True))


@contextmanager
def opened(disk: Disk, run: str) -> Iterator[str]:
    """Make this run's directory, and remove it with all that is in it. Yields its path. Raises ShareError."""
    path = layout.doctor(run)
    try:
        _make(disk, path)
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


def remove(disk: Disk, path: str) -> None:
    """Remove a run's directory, and the one above it if that was the last; what cannot be removed stays."""
    end = time.monotonic() + GONE_S
    shutil.rmtree(f"{disk.root}/{path}", ignore_errors=True)
    while os.path.lexists(f"{disk.root}/{path}") and time.monotonic() < end:
        time.sleep(0.05)
        shutil.rmtree(f"{disk.root}/{path}", ignore_errors=True)
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
