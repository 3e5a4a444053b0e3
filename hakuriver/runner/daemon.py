"""The runner as a process: a thread that ticks, and a main thread that only minds signals.

The share may hang for a minute: whoever calls it sits on the ticking thread, so that signals are always heard. Tasks
are the keeper's: they go on when this process stops, and the next one hears what became of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from hakuriver import daemons, memory
from hakuriver.daemons import RETRY_S, Refused, Saying, Stop, boottime
from hakuriver.doctor.quick import refuse_broken, refuse_state
from hakuriver.keeper.client import KeeperClient
from hakuriver.runner.agent import Gone, KeeperLost, KeeperUnavailable, NodeTaken, Runner, Superseded
from hakuriver.runner.images import Images
from hakuriver.runner.machine import Lookout
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareAway, ShareError
from hakuriver.spool.watching import Watch

if TYPE_CHECKING:
    from hakuriver.runner.store import Store

log = logging.getLogger("hakuriver.runner")

#: Seconds between two batches of events when they come thick: each costs syncs, and the host reads them all. The more
#: events were in the last one the longer the next may gather, up to the second number.
BATCH_EVERY_S, BATCH_EVERY_MOST_S = 0.015, 0.06
EVENT_S = 0.0015
#: Seconds after which an unfinished file in the node's directory is a dead writer's.
UNFINISHED_S = 3600.0
#: Batches closer than this are thick.
THICK_S = 0.1


def run(settings: Settings) -> int:
    """Run the runner until a signal; return the exit status. Tasks go on without it."""

    def work(stop: Stop) -> int:
        try:
            return Ticking(settings, stop).run()
        except (NodeTaken, Superseded) as reason:
            raise Refused(str(reason)) from reason

    return daemons.serve(work, log, settings.runner_log_file, "tasks go on")


class Ticking:
    """The thread that ticks."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._saying = Saying(log, manager=stop.manager)
        self._memory = memory.GiveBack()
        self._disk = LocalDisk(settings.paths.shared_dir, stop.answered)
        self._watch = Watch()
        self._lookout = Lookout(settings)
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoch = 0
        self._published = (0.0, 0)  #: when events were last seen to have been published, and how many by then

    def run(self) -> int:
        """Tick until stopped."""
        river = daemons.wait_for_share(self._disk, self._stop, self._saying)
        if river is None:
            return 0
        with self._stop.at_work():
            refuse_broken(self._disk.root, log)
        refuse_state(self._settings.paths.state_dir)
        paths = self._settings.paths
        home = os.path.join(paths.state_dir, river.cluster_id, "nodes", self._settings.node.name)
        taken = (
            f"a runner of node {self._settings.node.name} is running on this machine already: "
            "stop it, or start this one with another --name"
        )
        nonce, _lock = daemons.identity(home, "nonce", 16, taken)
        make_scratch(paths.local_temp_dir)
        lookout = self._lookout
        lookout.start()
        limit = self._settings.limits.output_local // 2
        keeper = KeeperClient(os.path.join(home, "keeper"), output_limit=limit)
        images = self._images(river.cluster_id)
        images.open()
        runner = Runner(
            self._disk, keeper, images, self._settings, node=self._settings.node.name, nonce=nonce, boottime=boottime,
            now=time.time, machine=lookout.machine(), sample=lookout.load, conditions=lookout.conditions,
            out_dir=os.path.join(home, "keeper", "out"), ended_dir=os.path.join(home, "ended"), output_limit=limit,
        )  # fmt: skip
        threading.Thread(target=self._stand_in, args=(runner,), name="beats", daemon=True).start()
        while not self._stop.asked.is_set():
            self._pause(keeper, *self._tick(runner))
            if not self._stop.found:
                daemons.wait_for_share(self._disk, self._stop, self._saying)
        images.close()
        keeper.close()
        return 0

    def _images(self, owner: str) -> Images:
        """What brings images; its news end a pause."""
        settings = self._settings

        def wake() -> None:
            with contextlib.suppress(BlockingIOError):  # full: it will be read all the same
                os.write(self._waker, b"x")

        def store() -> Store:
            from hakuriver.runner.store import Store

            return Store(settings.docker.socket, owner)

        return Images(self._disk, settings.node.name, settings.docker.container_dir, store, wake)

    def _tick(self, runner: Runner) -> tuple[float, bool]:
        """One tick; return how long to pause at most, and whether news of the keeper end the pause."""
        try:
            runner.describe_as(self._lookout.machine())
            with self._stop.at_work():
                busy = runner.tick()
        except ShareError as error:
            away = runner.session is not None or isinstance(error, ShareAway)
            self._saying.say(error if away else f"Failed to register with host: cannot write node file: {error}")
            self._stop.bad_round(error)
            self._epoch = 0  # what comes back may be another mount: it is watched anew
            return RETRY_S, False
        except (KeeperLost, KeeperUnavailable) as error:
            self._saying.say(f"{error}; starting again")
            return RETRY_S, False
        if runner.epoch != self._epoch:
            self._epoch = runner.epoch
            self._watch.close()
            self._watch = Watch()
            self._watch.add(f"{self._disk.root}/{layout.NodePaths(runner.place.node).dir('inbox')}")
            busy = True  # what came before the watch is found by listing
            files.remove_unfinished(self._disk, layout.NodePaths(runner.place.node).root, UNFINISHED_S)
        self._saying.say(f"node {runner.place.node} is up, epoch {runner.epoch}")
        self._stop.good_round()
        self._space(runner)
        self._memory.look(busy, boottime())
        return (0.0 if busy else runner.wait_s()), True

    def _stand_in(self, runner: Runner) -> None:
        """See that a heartbeat is made also while a round hangs in some operation on the share."""
        wait = 0.0
        while not self._stop.asked.wait(max(wait, RETRY_S)):
            try:
                wait = runner.stand_in()
            except (ShareError, OSError, KeeperLost, NodeTaken, Superseded, Gone):
                wait = 0.0  # the round finds out for itself what is wrong
            except Exception:
                log.exception("a fault in the program: no heartbeat was made in place of a round that hangs")
                wait = self._settings.timing.heartbeat_interval

    def _space(self, runner: Runner) -> None:
        """When batches come thick, let the next gather for a moment."""
        told = runner.session.outbox.events_told if runner.session else 0
        at, before = self._published
        if told == before:
            return
        now = boottime()
        if now - at < THICK_S:
            gather = min(BATCH_EVERY_MOST_S, BATCH_EVERY_S + EVENT_S * (told - before))
            self._stop.asked.wait(max(0.0, at + gather - now))
        self._published = (boottime(), told)

    def _pause(self, keeper: KeeperClient, seconds: float, listening: bool) -> None:
        """Until something comes; `poll` rather than `select`, which is limited to small descriptors."""
        poller = select.poll()
        poller.register(self._stop.wake, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        if listening:
            if self._watch.fileno() >= 0:
                poller.register(self._watch.fileno(), select.POLLIN)
            try:
                poller.register(keeper.fileno(), select.POLLIN)
            except KeeperLost:
                return  # the next tick begins anew
        poller.poll(self._stop.rest_s(max(0.0, seconds)) * 1000)
        self._watch.clear()
        with contextlib.suppress(BlockingIOError):  # mostly there is nothing
            os.read(self._wake, 4096)


def make_scratch(path: str) -> None:
    """The directory for what tasks put aside, as open to all as /tmp is. Raises Refused if there can be none."""
    try:
        if not os.path.isdir(path):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o1777)
        amiss = None if os.access(path, os.W_OK | os.X_OK) else "this user may not write there"
    except OSError as error:
        amiss = error.strerror
    if amiss:
        remedy = "name a directory that this user may write in paths.local_temp_dir"
        raise Refused(f"tasks can have no scratch space in {path}: {amiss}; {remedy}")
