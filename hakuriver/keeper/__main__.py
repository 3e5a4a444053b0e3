"""``python -m hakuriver.keeper --dir DIR [--output-limit BYTES] [--memory-mode auto|cgroup|watch]``

Starts the keeper of DIR (a local directory, mode 0700) in the background; returns when it can be spoken to. If DIR has
one already: exits 0 and says nothing.

    launcher -> guard -> keeper -> tasks

The guard waits for the keeper. Should the keeper die, its tasks become the guard's children, and it kills them all.
Then it starts another: what Docker or systemd holds goes on, and must be under the lease though no runner comes.
Both hold the lock on DIR/lock: no other keeper begins before the last process is gone.

Limits: a process that cannot be killed (in a dead mount) keeps the lock until it can be.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time

from hakuriver.keeper import kernel, proc

SOCKET = "keeper.sock"
OUTPUT_LIMIT = 1 << 30  #: bytes, for each of a task's two files
AGAIN_S, AGAIN_MOST_S = 0.05, 5.0  #: before a keeper that has died is replaced; doubled each time
STEADY_S = 60.0  #: one that lived that long did not die of its beginnings
MEMORY_MODES = ("auto", "cgroup", "watch")


def options(arguments: list[str]) -> dict[str, str]:
    """``--name value`` pairs. (argparse would double the keeper's imports.)"""
    known = {"--dir": "", "--output-limit": str(OUTPUT_LIMIT), "--memory-mode": "auto"}
    names, values = arguments[::2], arguments[1::2]
    given = dict(zip(names, values, strict=False))
    if len(names) != len(values) or not given.keys() <= known.keys():
        raise SystemExit(f"usage: {__doc__.splitlines()[0] if __doc__ else ''}")
    known.update(given)
    if not known["--dir"] or known["--memory-mode"] not in MEMORY_MODES or not known["--output-limit"].isdigit():
        raise SystemExit("--dir DIR is required; --output-limit takes bytes; --memory-mode is auto, cgroup or watch")
    return known


def take_lock(directory: str) -> int | None:
    """Lock DIR for as long as the descriptor is open anywhere; None if somebody else has it."""
    fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def listen(directory: str) -> socket.socket:
    """The socket in DIR, however long its path: bound through a descriptor of DIR."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{fd}/{SOCKET}"
    try:
        if os.path.lexists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(16)
        return listener
    finally:
        os.close(fd)


def detach(directory: str) -> None:
    """Become a daemon, but for a last fork: nothing of the launcher's terminal or directory is held."""
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(f"{directory}/keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, fd in ((0, null), (1, null), (2, log)):
        os.dup2(fd, target)
    for fd in {null, log} - {0, 1, 2}:
        os.close(fd)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def clear() -> None:
    """Kill whatever a keeper has left."""
    pause = 0.001
    while below := _living_below():
        for pid in below:
            proc.send(pid, signal.SIGKILL)
        _reap()
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


def _living_below() -> set[int]:
    table = proc.everything()
    below = proc.descendants(table, {os.getpid()}) - {os.getpid()}
    return {pid for pid in below if pid in table and not table[pid].dead}


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # all gone


def work(directory: str, lock: int, chosen: dict[str, str], ready: int) -> None:
    """Be the keeper. ``ready``: a pipe that hears of it when a runner may connect."""
    from hakuriver.keeper.loop import SIGNALS, Loop

    kernel.become_subreaper()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the guard ignores it
    sys.setswitchinterval(0.0005)  # the main thread and the spawner take turns often
    status = os.fstat(lock)
    owner = f"{status.st_dev:x}-{status.st_ino:x}"
    loop = Loop(directory, listen(directory), owner, int(chosen["--output-limit"]), chosen["--memory-mode"])
    os.write(ready, b"+")
    os.close(ready)
    loop.run()


def _run(call: object, *arguments: object) -> None:
    """Call, then leave without the launcher's clean-up; 1 if it raised."""
    code = 1
    try:
        code = int(call(*arguments) or 0)  # type: ignore[operator]
    except BaseException as problem:
        sys.excepthook(type(problem), problem, problem.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)


def make(directory: str, lock: int, chosen: dict[str, str]) -> tuple[int, bool]:
    """Make a keeper: its pid, and whether it came so far that a runner may connect."""
    heard, ready = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(heard)
        _run(work, directory, lock, chosen, ready)
    os.close(ready)
    up = bool(os.read(heard, 1))
    os.close(heard)
    return keeper, up


def background(directory: str, lock: int, chosen: dict[str, str], ready: int) -> int:
    """Be the guard: have a keeper, until one ends of its own accord. The launcher hears of the first."""
    detach(directory)
    kernel.become_subreaper()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keeper, up = make(directory, lock, chosen)
    if up:
        os.write(ready, b"+")
    os.close(ready)
    born, pause = time.monotonic(), AGAIN_S
    while os.waitpid(keeper, 0)[1] != 0:
        clear()
        if not up:
            return 1
        pause = AGAIN_S if time.monotonic() - born > STEADY_S else min(pause * 2, AGAIN_MOST_S)
        time.sleep(pause)
        born = time.monotonic()
        keeper, _ = make(directory, lock, chosen)
    return 0


def main() -> int:
    """Start the keeper unless there is one."""
    chosen = options(sys.argv[1:])
    directory = os.path.abspath(chosen["--dir"])
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = take_lock(directory)
    if lock is None:
        return 0
    heard, ready = os.pipe()
    if os.fork() == 0:
        os.close(heard)
        _run(background, directory, lock, chosen, ready)
    os.close(ready)
    if os.read(heard, 1):
        return 0
    print(f"the keeper did not start; see {directory}/keeper.log", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
