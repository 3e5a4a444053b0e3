"""The runner as a process: a thread that ticks, and a main thread that only minds signals.

The share may hang for a minute: whoever calls it sits on the ticking thread, so that signals are always heard. Tasks
are the keeper's: they go on when this process stops, and the next one hears what became of them.
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
from typing import Any

from hakuriver.keeper.client import KeeperClient
from hakuriver.records import River
from hakuriver.runner.agent import KeeperLost, KeeperUnavailable, NodeTaken, Runner, Superseded
from hakuriver.runner.machine import describe, sampler
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareError
from hakuriver.spool.watching import Watch

log = logging.getLogger("hakuriver.runner")

#: Seconds that a stop waits for a share that hangs.
STOP_PATIENCE_S = 5.0
#: Seconds between two batches of events when they come thick: each costs syncs, and the host reads them all.
BATCH_EVERY_S = 0.015
#: Batches closer than this are thick.
THICK_S = 0.1
#: Seconds before the next try when the share or the keeper has failed.
RETRY_S = 1.0


class Refused(Exception):
    """The runner cannot start: {why}; {remedy}."""


def run(settings: Settings) -> int:
    """Run the runner until a signal; return the exit status. Tasks go on without it."""
    set_up_logging(settings.paths.runner_log_file)
    stopping = threading.Event()
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    over, teller = os.pipe2(os.O_CLOEXEC)

    def stop(signum: int, _frame: Any) -> None:
        if stopping.is_set():
            os._exit(1)
        log.info("stopping on %s; tasks go on", signal.Signals(signum).name)
        stopping.set()
        os.write(waker, b"x")
        os.write(teller, b"x")

    outcome: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work() -> None:
        outcome.put(_guarded(settings, stopping, wake))
        os.write(teller, b"x")

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    loop = threading.Thread(target=work, name="ticks", daemon=True)
    loop.start()
    os.read(over, 1)  # not join(): a signal would not end that
    loop.join(STOP_PATIENCE_S)
    if loop.is_alive():
        log.warning("the share does not answer; leaving all the same: what happened is told at the next start")
        os._exit(0)
    return outcome.get()


def set_up_logging(path: str) -> None:
    """Plain lines to stderr, and to a file if one is named."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path:
        handlers.append(logging.FileHandler(path))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


def _guarded(settings: Settings, stopping: threading.Event, wake: int) -> int:
    try:
        return Ticking(settings, stopping, wake).run()
    except (Refused, NodeTaken, Superseded) as reason:
        log.error("%s", reason)
        return 1
    except Exception:
        log.exception("the runner has stopped because of a fault in itself; tasks go on under their keeper")
        return 1


class Ticking:
    """The thread that ticks."""

    def __init__(self, settings: Settings, stopping: threading.Event, wake: int) -> None:
        self._settings = settings
        self._stopping = stopping
        self._wake = wake
        self._disk = LocalDisk(settings.paths.shared_dir)
        self._watch = Watch()
        self._epoch = 0
        self._said = ""
        self._published = (0.0, 0)  #: when a batch was last seen to have been published, and its number

    def run(self) -> int:
        """Tick until stopped."""
        river = self._wait_for_share()
        if river is None:
            return 0
        paths = self._settings.paths
        home = os.path.join(paths.state_dir, river.cluster_id, "nodes", self._settings.node.name)
        nonce, _lock = identity(home, self._settings.node.name)
        make_scratch(paths.local_temp_dir)
        limit = self._settings.limits.output_local // 2
        keeper = KeeperClient(os.path.join(home, "keeper"), output_limit=limit)
        runner = Runner(
            self._disk, keeper, self._settings, node=self._settings.node.name, nonce=nonce, boottime=boottime,
            now=time.time, machine=describe(self._settings.resources), sample=sampler(paths.local_temp_dir),
            out_dir=os.path.join(home, "keeper", "out"), output_limit=limit,
        )  # fmt: skip
        while not self._stopping.is_set():
            self._pause(keeper, *self._tick(runner))
        keeper.close()
        return 0

    def _wait_for_share(self) -> River | None:
        while not self._stopping.is_set():
            try:
                files.present(self._disk)
                return River.model_validate_json(self._disk.read(layout.SENTINEL))
            except (ShareError, FileNotFoundError, ValueError) as error:
                self._say(f"{error}; waiting")
                self._stopping.wait(RETRY_S)
        return None

    def _tick(self, runner: Runner) -> tuple[float, bool]:
        """One tick; return how long to pause at most, and whether news of the keeper end the pause."""
        try:
            busy = runner.tick()
        except ShareError as error:
            self._say(str(error))
            return RETRY_S, False
        except (KeeperLost, KeeperUnavailable) as error:
            self._say(f"{error}; starting again")
            return RETRY_S, False
        if runner.epoch != self._epoch:
            self._epoch = runner.epoch
            self._watch.close()
            self._watch = Watch()
            self._watch.add(f"{self._disk.root}/{layout.NodePaths(runner.place.node).dir('inbox')}")
            busy = True  # what came before the watch is found by listing
        self._say(f"node {runner.place.node} is up, epoch {runner.epoch}")
        self._space(runner)
        return (0.0 if busy else runner.wait_s()), True

    def _space(self, runner: Runner) -> None:
        """When batches come thick, let the next gather for a moment."""
        seq = runner.session.outbox.seq if runner.session else 0
        at, last = self._published
        if seq == last:
            return
        now = boottime()
        if now - at < THICK_S:
            self._stopping.wait(max(0.0, at + BATCH_EVERY_S - now))
        self._published = (boottime(), seq)

    def _pause(self, keeper: KeeperClient, seconds: float, listening: bool) -> None:
        """Until something comes; `poll` rather than `select`, which is limited to small descriptors."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if listening:
            for source in (self._watch, keeper):
                try:
                    poller.register(source.fileno(), select.POLLIN)
                except (KeeperLost, OSError, ValueError):
                    return  # the next tick finds out
        poller.poll(max(0.0, seconds) * 1000)
        self._watch.clear()

    def _say(self, text: str) -> None:
        """Log what changes, once."""
        if text != self._said:
            self._said = text
            log.info("%s", text)


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_scratch(path: str) -> None:
    """The directory for what tasks put aside, as open to all as /tmp is."""
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o1777)


def identity(directory: str, node: str) -> tuple[str, int]:
    """The nonce by which this machine holds the node, and a lock held as long as the process lives.

    The lock lies on a local disk, where flock can be trusted: with it, an older runner of this node is dead.
    Raises Refused if one is alive.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Refused(
            f"a runner of node {node} is running on this machine already ({directory}/lock is held): "
            "stop it, or start this one with another --name"
        ) from None
    return _nonce(os.path.join(directory, "nonce")), lock


def _nonce(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        pass
    made = secrets.token_hex(8)
    with open(os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".tmp", path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    return made
