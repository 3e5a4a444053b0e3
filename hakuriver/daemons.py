"""What host and runner have in common as processes: signals, logs, a lock and an identity on the local disk.

The share may hang for a minute, so whoever calls it sits on a thread of its own, and the main thread only minds
signals. A second signal, or a share that does not answer for STOP_PATIENCE_S after the first, ends the process at
once: nothing that was accepted depends on an orderly end.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import secrets
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hakuriver import memory
from hakuriver.records import River
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError

#: Seconds that a stop waits for a share that hangs.
STOP_PATIENCE_S = 5.0
#: Seconds before the next try when the share has failed.
RETRY_S = 1.0
#: Seconds for which a round may wait for the share before that is said, and between two looks at it.
HANGING_S, LOOK_EVERY_S = 15.0, 5.0


class Refused(Exception):
    """The daemon cannot start: {why}; {remedy}."""


class Stop:
    """Tells the working thread that it is to end; `wake` is a descriptor that becomes readable then."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.busy_since: float | None = None  #: CLOCK_BOOTTIME; None: between two rounds

    def ask(self) -> None:
        """End soon."""
        self.asked.set()
        os.write(self._waker, b"x")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A round of the working thread, which may hang as long as the share does."""
        self.busy_since = boottime()
        try:
            yield
        finally:
            self.busy_since = None


def serve(work: Callable[[Stop], int], log: logging.Logger, log_file: str, leaving: str) -> int:
    """Run `work` on a thread until it ends or a signal comes; return the exit status. `leaving`: said at the signal."""
    _set_up_logging(log_file)
    memory.settle()
    stop = Stop()
    outcome: queue.SimpleQueue[int] = queue.SimpleQueue()
    events, teller = catch_signals((signal.SIGTERM, signal.SIGINT), 1)

    def run() -> None:
        outcome.put(_guarded(work, stop, log))
        os.write(teller, b"\0")

    thread = threading.Thread(target=run, name="ticks", daemon=True)
    thread.start()
    _say_while_it_hangs(events, stop, log)
    if told := os.read(events, 1)[0]:  # not join(): a signal would not end that
        log.info("stopping on %s; %s", signal.Signals(told).name, leaving)
        stop.ask()
    thread.join(STOP_PATIENCE_S)
    if thread.is_alive():
        log.warning("the share does not answer; leaving all the same: nothing that was accepted is lost")
        os._exit(0)
    return outcome.get()


def _say_while_it_hangs(events: int, stop: Stop, log: logging.Logger) -> None:
    """Until `events` can be read: say when the working thread waits for the share, and when it goes on."""
    poller = select.poll()
    poller.register(events, select.POLLIN)
    hanging: float | None = None
    while not poller.poll(LOOK_EVERY_S * 1000):
        since = stop.busy_since
        if hanging is not None and since != hanging:
            log.info("the share answers again, after %.0f s or less", boottime() - hanging)
            hanging = None
        if hanging is None and since is not None and boottime() - since > HANGING_S:
            log.warning("the share has not answered for %.0f s: waiting for its server", boottime() - since)
            hanging = since


def catch_signals(signals: Iterable[signal.Signals], status: int) -> tuple[int, int]:
    """Catch these: a pipe, its end to read and its end to write, out of which the number of the first comes as a byte.

    A second one ends the process at once with exit status `status`.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    caught = False

    def note(signum: int, _frame: Any) -> None:
        # Takes no lock, as setting an Event does: the thread that is interrupted may hold that very lock.
        nonlocal caught
        if caught:
            os._exit(status)
        caught = True
        os.write(writer, bytes([signum]))

    for signum in signals:
        signal.signal(signum, note)
    return reader, writer


def _guarded(work: Callable[[Stop], int], stop: Stop, log: logging.Logger) -> int:
    try:
        return work(stop)
    except Refused as refusal:
        log.error("%s", refusal)
        return 1
    except Exception:
        log.exception("stopped because of a fault in the program itself; nothing that was accepted is lost")
        return 1


def _set_up_logging(path: str) -> None:
    """Plain lines to stderr, and to a file if one is named."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        handlers.append(logging.FileHandler(path))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


class Saying:
    """Logs what a daemon is doing when that changes, once."""

    def __init__(self, log: logging.Logger, before: str = "") -> None:
        """`before`: said before each text."""
        self._log = log
        self._before = before
        self._last: object = ""

    def say(self, text: object) -> None:
        """Log it unless it is what was said last; what fails in the same way is the same, whatever file it is about."""
        now = (type(text), text.errno) if isinstance(text, ShareError) else str(text)
        if now != self._last:
            self._last = now
            self._log.info("%s%s", self._before, text)

    def forget(self) -> None:
        """Whatever comes next is said, even if it is the same."""
        self._last = ""


def wait_for_share(disk: Disk, stop: Stop, saying: Saying) -> River | None:
    """Wait until the share is there; None if a signal came first."""
    while not stop.asked.is_set():
        try:
            with stop.at_work():
                files.present(disk)
                return River.model_validate_json(disk.read(layout.SENTINEL))
        except (ShareError, FileNotFoundError, ValueError) as error:
            saying.say(error if isinstance(error, ShareError) else f"{error}; waiting")
            stop.asked.wait(RETRY_S)
    return None


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identity(directory: str, name: str, digits: int, taken: str) -> tuple[str, int]:
    """A random id kept in `directory`/`name`, and a lock held as long as the process lives.

    The lock lies on a local disk, where flock can be trusted: with it, an older process of the same id is dead.
    Raises Refused with `taken` if one is alive.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Refused(f"{taken} ({directory}/lock is held)") from None
    return _kept(os.path.join(directory, name), digits), lock


def _kept(path: str, digits: int) -> str:
    """Read the id, or make it: durable before anybody else hears of it."""
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        pass
    made = secrets.token_hex(digits // 2)
    with open(os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".tmp", path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    return made
