"""Keeps daemons small: what a burst of work took goes back to the system afterwards.

Python's own allocator gives back only arenas of 1 MiB in which nothing lives any more; the C library's, every free
page. Source: Python's documentation of PYTHONMALLOC and of its memory management; mallopt(3), malloc_trim(3).
Where the C library has neither of the latter (musl), nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
#: Bytes from which an allocation is a mapping of its own, which goes back when it is freed.
_MAPPED = 128 * 1024
#: What `gc.set_threshold` takes. What a daemon makes many of, tasks and jobs, has no cycles and lives long: to look
#: through all of it after every 700 of them, as is usual, is a tenth of the work of a burst.
_COLLECT = (20_000, 20, 20)
#: Seconds of quiet after a burst before memory is given back.
QUIET_S = 5.0

_libc = ctypes.CDLL(None)


def begin() -> None:
    """Have this process use the C library's allocator, unless the environment names one: it starts once more."""
    if "PYTHONMALLOC" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONMALLOC": "malloc"})


def settle() -> None:
    """Set up at the start of a daemon: one arena for all threads, large blocks mapped, garbage looked for seldom."""
    gc.set_threshold(*_COLLECT)
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)
        _libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)


class GiveBack:
    """Gives memory back once after each burst of work."""

    def __init__(self) -> None:
        self._worked_at: float | None = None

    def look(self, worked: bool, now: float) -> None:
        """Call after each turn of a loop; `now`: seconds of any clock that does not go back."""
        if worked:
            self._worked_at = now
        elif self._worked_at is not None and now - self._worked_at > QUIET_S:
            self._worked_at = None
            gc.collect()
            if hasattr(_libc, "malloc_trim"):
                _libc.malloc_trim(0)
