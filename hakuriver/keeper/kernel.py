"""System calls that the standard library does not offer in Python 3.10, through ctypes."""

from __future__ import annotations

import ctypes
import os
import signal
import time

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SFD_FLAGS = TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1
FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
BLOCK = 4096  #: holes are punched in whole blocks of this size


def boottime() -> float:
    """Seconds since boot, suspension included: the clock of every deadline."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def check(result: int) -> int:
    """Raise OSError if a C function has returned -1."""
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def become_subreaper() -> None:
    """Orphaned descendants become children of this process (prctl(2))."""
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that made it ends (prctl(2)); also after an exec."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def signalfd(signals: set[int]) -> int:
    """A descriptor that is readable while one of ``signals`` (blocked beforehand) is pending."""
    mask = ctypes.create_string_buffer(128)
    libc.sigemptyset(mask)
    for number in signals:
        libc.sigaddset(mask, number)
    return check(libc.signalfd(-1, mask, SFD_FLAGS))


class _TimerSpec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "s", "ns")]


class BootTimer:
    """A timerfd on CLOCK_BOOTTIME: unlike a timeout of epoll it is due at once after a suspension."""

    def __init__(self) -> None:
        self.fd = check(libc.timerfd_create(time.CLOCK_BOOTTIME, TFD_FLAGS))

    def arm(self, when: float) -> None:
        """Become readable at ``when`` (seconds of CLOCK_BOOTTIME)."""
        seconds = max(int(when), 0)
        spec = _TimerSpec(0, 0, seconds, max(int((when - seconds) * 1e9), 1))
        check(libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None))


def punch(fd: int, start: int, end: int) -> None:
    """Free the blocks of [start, end) of a file; it keeps its size. OSError where the filesystem cannot."""
    offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
    check(libc.fallocate64(fd, FALLOC_PUNCH_HOLE_KEEP_SIZE, offset, length))
