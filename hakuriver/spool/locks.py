"""Locks on the share: they only spare effort; nothing is decided by them (law 10)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds to try for: a lock may outlive its owner on some file systems.
PATIENCE_S = 1.0


@contextmanager
def inbox_lock(path: str) -> Iterator[bool]:
    """Hold a node's inbox while the host assigns; goes on without it after PATIENCE_S. Yields whether it is held."""
    from filelock import FileLock, Timeout

    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    # By its descriptor: FileLock makes the directories of a path, and a share that has just gone must stay gone.
    lock = FileLock(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    try:
        lock.acquire(timeout=PATIENCE_S, poll_interval=0.05)
        held = True
    except (Timeout, OSError, NotImplementedError):
        held = False
    try:
        yield held
    finally:
        if held:
            lock.release()
        os.close(directory)
