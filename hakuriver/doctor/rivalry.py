"""What two processes do at the same time, to see whether a share keeps them apart; on one machine or on two."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time

from hakuriver.doctor.findings import BROKEN, NOTE, OK, Finding
from hakuriver.spool import files
from hakuriver.spool.files import Disk, ShareError

#: Seconds from one file to the next: of two processes of one machine, which reach for each at the same instant; and of
#: two machines, which have no clock in common, and so are early or late at random.
SLOT_S, PAIR_SLOT_S = 0.002, 0.02

_UNSURE = "who wins is told by what stands there afterwards; it could not be seen"


def lay_out(disk: Disk, at: str, count: int) -> None:
    """Make the files that are raced for. Raises ShareError."""
    disk.mkdir(at)
    for number in range(count):
        disk.write(f"{at}/{number}", b"%d" % number, durable=False)


def count(disk: Disk, at: str, wanted: int, within_s: float) -> int:
    """How many names a directory shows; waits until there are as many as wanted, or so long."""
    end = time.monotonic() + within_s
    while (found := len(files.names(disk, at))) < wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def at_once(count: int, start: float) -> list[float]:
    """When each of so many files is reached for, by all processes of one machine; `start`: time.monotonic()."""
    return [start + number * SLOT_S for number in range(count)]


def at_random(count: int) -> list[float]:
    """When each of so many files is reached for, beginning now."""
    begin = time.monotonic()
    return [begin + (number + random.random()) * PAIR_SLOT_S for number in range(count)]


def race(disk: Disk, at: str, side: str, times: list[float]) -> list[int]:
    """Rename each file to one's own name for it, as the river claims work; return those that this side has won.

    `times`: when each is reached for, time.monotonic(). Whoever comes too late for one leaves it for the end, so as to
    be in time for the next: losing takes longer than winning.
    """
    won, late = [], []
    for number, due in enumerate(times):
        if time.monotonic() > due + SLOT_S / 2:
            late.append(number)
            continue
        time.sleep(max(0.0, due - time.monotonic() - SLOT_S / 2))
        while time.monotonic() < due:
            pass  # sleeping would come too late
        if _take(disk, f"{at}/{number}", f"{at}/{number}.{side}"):
            won.append(number)
    return won + [number for number in late if _take(disk, f"{at}/{number}", f"{at}/{number}.{side}")]


def _take(disk: Disk, source: str, target: str) -> bool:
    """As `files.move`, which tells None as long as nobody has won."""
    return any(files.move(disk, source, target) for _ in range(3))


def standing(disk: Disk, at: str, sides: tuple[str, str], count: int, within_s: float) -> dict[str, set[int]]:
    """Which files stand there under whose name; waits until a listing shows as many as there are, or so long."""
    end = time.monotonic() + within_s
    while True:
        names = files.names(disk, at)
        found = {side: {int(n.split(".")[0]) for n in names if n.endswith(f".{side}")} for side in sides}
        if sum(map(len, found.values())) >= count or time.monotonic() > end:
            return found
        time.sleep(0.02)


def judge(check: str, claims: dict[str, set[int]], stand: dict[str, set[int]], count: int) -> Finding:
    """Of two who rename one file exactly one may win. `claims`: what each side takes for its own; `stand`: what is."""
    first, second = claims
    twice = claims[first] & claims[second] | stand[first] & stand[second]
    if twice:
        return Finding(
            check, BROKEN, f"{len(twice)} of {count} files were won by both",
            "two runners would take the same work, and two hosts lead at once: tasks would run twice",
            "use a filesystem whose rename is atomic on its server: NFS, GlusterFS, MooseFS, CephFS, SMB, sshfs, or "
            "a local disk; no folder that a program copies between machines, no object store",
        )  # fmt: skip
    nobody = count - len(claims[first] | claims[second] | stand[first] | stand[second])
    if nobody:
        return Finding(check, NOTE, f"nobody is seen to have won {nobody} of {count} files", _UNSURE)
    return Finding(check, OK, f"{count} files, one winner each ({len(claims[first])} and {len(claims[second])})")


def hold(path: str) -> int | None:
    """Take a lock with flock(2) without waiting: a descriptor that holds it, None if another does. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return fd


def try_lock(path: str) -> str:
    """Try a lock that another holds: `kept`, `given`, or what is wrong with it."""
    try:
        fd = hold(path)
    except OSError as error:
        return error.strerror or str(error)
    if fd is None:
        return "kept"
    os.close(fd)
    return "given"


def judge_lock(check: str, seen: str, whom: str) -> Finding:
    """What became of a lock that was tried while another held it."""
    if seen == "kept":
        return Finding(check, OK, f"flock keeps {whom} apart")
    what = f"flock was given to both of {whom}" if seen == "given" else f"flock fails: {seen}"
    return Finding(
        check,
        NOTE,
        what,
        "nothing is decided by locks here, but other programs that use this directory may count on them",
    )


def rate(disk: Disk, at: str, seconds: float, most: int) -> float:
    """Documents published per second, each synced; for so many seconds, and no more than so many. Raises ShareError."""
    disk.mkdir(at)
    begin = time.monotonic()
    done = 0
    while done < most and time.monotonic() - begin < seconds:
        files.publish(disk, f"{at}/{done}.json", b"x" * 1000)
        done += 1
    return done / max(time.monotonic() - begin, 1e-9)


def read_soon(disk: Disk, path: str) -> bytes | None:
    """A file; None if it is not there (yet), or cannot be read just now."""
    try:
        return disk.read(path)
    except (FileNotFoundError, ShareError):
        return None
