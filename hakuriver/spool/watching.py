"""Notices that a directory of this machine's own mount has changed: a hint that saves waiting for the next listing.

Listing is the guarantee (law 8): on network file systems inotify tells only of this mount's own changes. Own
code rather than watchdog, whose observers hold an event back for half a second after each file that is
moved away, and the host moves every file that it takes. Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
_MASK = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE


class Watch:
    """A descriptor that becomes readable when something arrives in one of the watched directories."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: set[str] = set()

    def fileno(self) -> int:
        """The descriptor to poll; -1 where there is no inotify."""
        return self._fd

    def add(self, directory: str) -> None:
        """Watch a directory too. What cannot be watched is found by listing."""
        if self._fd < 0 or directory in self._watched:
            return
        if self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK) >= 0:
            self._watched.add(directory)

    def clear(self) -> None:
        """Forget what has been told so far."""
        try:
            while os.read(self._fd, 65536):
                pass
        except OSError:
            pass  # EAGAIN: all read

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
