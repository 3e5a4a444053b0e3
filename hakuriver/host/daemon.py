"""The host as a process: a thread that ticks, a thread that tells, and a main thread that only minds signals.

The share may hang for a minute: whoever calls it sits on the ticking thread, so that signals are always
heard. Notices of inotify and an adaptive pause set the pace; listing is what finds things.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import secrets
import select
import signal
import sys
import threading
import time
from typing import Any

from hakuriver.host.leader import Host, NotYet, Superseded
from hakuriver.host.telling import Telling
from hakuriver.ids import new_job_id
from hakuriver.records import River
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareError
from hakuriver.spool.locks import inbox_lock
from hakuriver.spool.watching import Watch

log = logging.getLogger("hakuriver.host")

#: Pauses between ticks: while things happen, and while something is waited for.
BUSY_S, SETTLING_S = 0.0, 0.05
#: Seconds that a stop waits for a share that hangs.
STOP_PATIENCE_S = 5.0
#: The interpreter gives the ticking thread its turn after so many seconds of another's.
SWITCH_S = 0.0005


def run(settings: Settings) -> int:
    """Run the host until a signal; return the exit status."""
    set_up_logging(settings.paths.host_log_file)
    sys.setswitchinterval(SWITCH_S)
    disk = LocalDisk(settings.paths.shared_dir)
    stopping = threading.Event()
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(signum: int, _frame: Any) -> None:
        if stopping.is_set():
            os._exit(1)
        log.info("stopping on %s", signal.Signals(signum).name)
        stopping.set()
        os.write(waker, b"x")

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    outcome: queue.SimpleQueue[int] = queue.SimpleQueue()
    loop = threading.Thread(
        target=lambda: outcome.put(_guarded(settings, disk, stopping, wake)), name="ticks", daemon=True
    )
    loop.start()
    while loop.is_alive():
        loop.join(0.2 if stopping.is_set() else 3600)
        if stopping.is_set():
            loop.join(STOP_PATIENCE_S)
            if loop.is_alive():
                log.warning("the share does not answer; leaving all the same: what was accepted is safe")
                os._exit(0)
    return outcome.get() if not outcome.empty() else 1


def set_up_logging(path: str) -> None:
    """Plain lines to stderr, and to a file if one is named."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        handlers.append(logging.FileHandler(path))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


def _guarded(settings: Settings, disk: LocalDisk, stopping: threading.Event, wake: int) -> int:
    try:
        return Ticking(settings, disk, stopping, wake).run()
    except Refused as refusal:
        log.error("%s", refusal)
        return 1
    except Exception:
        log.exception("the host has stopped because of a fault in itself; nothing accepted is lost")
        return 1


class Refused(Exception):
    """The host cannot start: {why}; {remedy}."""


class Ticking:
    """The thread that ticks."""

    def __init__(self, settings: Settings, disk: LocalDisk, stopping: threading.Event, wake: int) -> None:
        self._settings = settings
        self._disk = disk
        self._stopping = stopping
        self._wake = wake
        self._said = ""
        self._watch = Watch()

    def run(self) -> int:
        """Tick until stopped."""
        river = self._wait_for_share()
        if river is None:
            return 0
        state_dir = os.path.join(self._settings.paths.state_dir, river.cluster_id)
        host_id, _lock = identity(state_dir)
        telling = Telling(self._disk, self._settings, river.cluster_id)
        host = Host(
            self._disk, self._settings, host_id, boottime=boottime, now=time.time, new_id=new_job_id,
            own_uid=os.getuid(), tell=telling.put, lock=inbox_lock,
        )  # fmt: skip
        telling.start()
        while not self._stopping.is_set():
            self._pause(self._tick(host, telling))
        telling.stop()
        return 0

    def _wait_for_share(self) -> River | None:
        while not self._stopping.is_set():
            try:
                files.present(self._disk)
                return River.model_validate_json(self._disk.read(layout.SENTINEL))
            except (ShareError, FileNotFoundError) as error:
                self._say(f"{error}; waiting")
                self._stopping.wait(1.0)
        return None

    def _tick(self, host: Host, telling: Telling) -> float:
        """One tick; return how long to pause at most."""
        leading = host.leading
        try:
            happened = host.tick()
        except NotYet as reason:
            self._say(f"waiting: {reason}")
            return 0.5
        except Superseded as reason:
            self._say(f"{reason}; this host stands by")
            host.leading = False
            return 1.0
        except ShareError as error:
            self._say(str(error))
            return 1.0
        if not leading:
            self._say(f"leading, term {host.journal.baton.term}")
            telling.rebuild_if_needed(host.journal.baton)
        elif self._said and not self._said.startswith("leading"):
            self._say(f"leading again, term {host.journal.baton.term}")
        self._pass_on(host, telling)
        self._watch_directories(host)
        if happened:
            return BUSY_S
        return SETTLING_S if host.door.busy else self._settings.timing.poll_interval

    def _pass_on(self, host: Host, telling: Telling) -> None:
        """Hand the teller what does not come with a tick."""
        if host.want_reindex:
            host.want_reindex = False
            telling.reindex()
        if host.collected:
            telling.forget(host.collected)
            host.collected = []

    def _watch_directories(self, host: Host) -> None:
        self._watch.add(f"{self._disk.root}/{layout.INCOMING}")
        for node in host.state.nodes:
            self._watch.add(f"{self._disk.root}/{layout.NodePaths(node).dir('events')}")

    def _pause(self, seconds: float) -> None:
        ready, _, _ = select.select([self._wake, self._watch.fileno()], [], [], seconds)
        if ready:
            self._watch.clear()

    def _say(self, text: str) -> None:
        """Log what changes, once."""
        if text != self._said:
            self._said = text
            log.info("%s", text)


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identity(state_dir: str) -> tuple[str, int]:
    """This machine's id as a host of this cluster, and a lock held as long as the process lives.

    The lock lies on a local disk, where flock can be trusted: with it, an older process of the same id is dead.
    """
    directory = os.path.join(state_dir, "host")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Refused(f"a host of this cluster runs on this machine already ({directory}/lock is held)") from None
    path = os.path.join(directory, "id")
    try:
        with open(path) as file:
            found = file.read().strip()
    except FileNotFoundError:
        found = secrets.token_hex(6)
        with open(path, "w") as file:
            file.write(found)
            file.flush()
            os.fsync(file.fileno())
    return found, lock
