"""What host and runner have in common as processes: signals, logs, a lock and an identity on the local disk.

The share may hang for a minute, so whoever calls it sits on a thread of its own, and the main thread only minds
signals and feeds the watchdog of the service manager: once for each round in which the share has answered, and in a
long one while it answers, so that it starves when either hangs. A second signal, or a share that does not answer for
STOP_PATIENCE_S after the first, ends the process at once: nothing that was accepted depends on an orderly end.
"""

from __future__ import annotations

import fcntl
import logging
import math
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

from hakuriver import memory, notifying
from hakuriver.notifying import Manager
from hakuriver.records import River
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError

#: Seconds that a stop waits for a share that hangs.
STOP_PATIENCE_S = 5.0
#: Seconds before the next try when the share has failed.
RETRY_S = 1.0
#: Seconds for which a round may wait for the share before that is said, and between two looks at it.
HANGING_S, LOOK_EVERY_S = 15.0, 5.0
#: The watchdog is fed within this part of its time after a good round.
FED_IN_TIME = 4
#: Seconds that a start may take from each look on, while the share answers: much may have to be read.
STARTING_S = 60.0
#: A round is long after so many seconds, as with a hundred thousand jobs to load or to delete; and lost after so many.
LONG_S, LOST_S = 5.0, 3600.0


class Refused(Exception):
    """The daemon cannot start: {why}; {remedy}."""


class Stop:
    """Tells the working thread that it is to end; `wake` is a descriptor that becomes readable then.

    And the other way: how that thread is.
    """

    def __init__(self, manager: Manager | None = None) -> None:
        self.asked = threading.Event()
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.busy_since: float | None = None  #: of its last answer, CLOCK_BOOTTIME; None: between two rounds
        self.found = False  #: the share is there
        self.signs = 0  #: that the share answers and the rounds get on
        self.manager = manager or Manager()
        self._began = 0.0
        self._thread = 0

    def ask(self) -> None:
        """End soon."""
        self.asked.set()
        os.write(self._waker, b"x")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A round of the working thread, which may hang as long as the share does."""
        self._thread = threading.get_ident()
        self._began = self.busy_since = boottime()
        try:
            yield
        finally:
            self.busy_since = None

    def rest_s(self, seconds: float) -> float:
        """How long to rest between two rounds instead of `seconds`: a watchdog wants to hear of rounds meanwhile."""
        return min(seconds, (self.manager.watchdog_s or math.inf) / FED_IN_TIME)

    def answered(self) -> None:
        """The share has answered, in the middle of a round or on another thread, which says nothing of the round."""
        if self.busy_since is None or threading.get_ident() != self._thread:
            return
        self.busy_since = boottime()
        if LONG_S < self.busy_since - self._began < LOST_S:
            self.signs += 1

    def good_round(self) -> None:
        """A round is over, and the share has answered in it: the daemon is up."""
        self.signs += 1
        self.manager.up()

    def bad_round(self, error: ShareError) -> None:
        """A round has failed. One that is full has answered as well: a start anew would not empty it."""
        if error.full:
            self.signs += 1
        else:
            self.found = False


def serve(work: Callable[[Stop], int], log: logging.Logger, log_file: str, leaving: str) -> int:
    """Run `work` on a thread until it ends or a signal comes; return the exit status. `leaving`: said at the signal."""
    manager = notifying.manager()
    _set_up_logging(log_file)
    memory.settle()
    stop = Stop(manager)
    manager.doing("starting: looking for the share")
    outcome: queue.SimpleQueue[int] = queue.SimpleQueue()
    events, teller = catch_signals((signal.SIGTERM, signal.SIGINT), 1)

    def run() -> None:
        outcome.put(_guarded(work, stop, log))
        os.write(teller, b"\0")

    thread = threading.Thread(target=run, name="ticks", daemon=True)
    thread.start()
    _mind(events, stop, log)
    if told := os.read(events, 1)[0]:  # not join(): a signal would not end that
        log.info("stopping on %s; %s", signal.Signals(told).name, leaving)
        manager.stopping(f"stopping; {leaving}")
        stop.ask()
    thread.join(STOP_PATIENCE_S)
    if thread.is_alive():
        log.warning("the share does not answer; leaving all the same: nothing that was accepted is lost")
        os._exit(0)
    return outcome.get()


def _mind(events: int, stop: Stop, log: logging.Logger) -> None:
    """Until `events` can be read: feed the watchdog, say when the working thread waits for the share and goes on."""
    poller = select.poll()
    poller.register(events, select.POLLIN)
    manager = stop.manager
    every = min(LOOK_EVERY_S, (manager.watchdog_s or math.inf) / FED_IN_TIME)
    fed = 0
    hanging: float | None = None
    while not poller.poll(every * 1000):
        if fed != stop.signs:
            fed = stop.signs
            manager.feed()
        hanging = _say_while_it_hangs(hanging, stop, log)
        if stop.found and hanging is None:
            manager.takes_longer(STARTING_S)


def _say_while_it_hangs(hanging: float | None, stop: Stop, log: logging.Logger) -> float | None:
    """Say what is new about a round that takes long; since when it does, if it does. `hanging`: the last answer."""
    since, now = stop.busy_since, boottime()
    if hanging is not None and since != hanging:
        log.info("the share answers again, after %.0f s or less", now - hanging)
        stop.manager.goes_on()
    if since is None or now - since <= HANGING_S:
        return None
    if hanging != since:
        log.warning("the share has not answered for %.0f s: waiting for its server", now - since)
    stop.manager.hindered(f"the share has not answered for {now - since:.0f} s: waiting for its server")
    return since


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
    """Plain lines to stderr, and to a file if one is named; without the time to a journal, which has its own."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if _to_journal():
        handlers[0].setFormatter(_ForJournal())
    if path:
        handlers.append(logging.FileHandler(path))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


def _to_journal() -> bool:
    """Whether stderr goes to the journal of systemd, systemd.exec(5)."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _ForJournal(logging.Formatter):
    """Lines that begin with their priority, sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>{super().format(record)}"


class Saying:
    """Logs what a daemon is doing when that changes, once."""

    def __init__(self, log: logging.Logger, before: str = "", manager: Manager | None = None) -> None:
        """`before`: said before each text. `manager`: shows it as the state of the whole daemon."""
        self._log = log
        self._before = before
        self._manager = manager
        self._last: object = ""

    def say(self, text: object) -> None:
        """Log it unless it is what was said last; what fails in the same way is the same, whatever file it is about."""
        now = (type(text), text.errno) if isinstance(text, ShareError) else str(text)
        if now != self._last:
            self._last = now
            self._log.info("%s%s", self._before, text)
            if self._manager is not None:
                self._manager.doing(f"{self._before}{text}")

    def forget(self) -> None:
        """Whatever comes next is said, even if it is the same."""
        self._last = ""


def wait_for_share(disk: Disk, stop: Stop, saying: Saying) -> River | None:
    """Wait until the share is there; None if a signal came first."""
    while not stop.asked.is_set():
        try:
            with stop.at_work():
                files.present(disk)
                river = River.model_validate_json(disk.read(layout.SENTINEL))
                stop.found = True
                return river
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
    Raises Refused with `taken` if one is alive; and if the directory cannot be had.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        remedy = "name a directory of this machine's own disk that this user may write in paths.state_dir"
        raise Refused(f"local state cannot be kept in {directory}: {error.strerror}; {remedy}") from None
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
