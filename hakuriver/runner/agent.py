"""The runner as a state machine: each `tick` does one round of all work on the share, without sleeping.

Single-threaded, on an injected disk, keeper and clocks, so that a test can stop it at every operation. A new
one, opened on the same node, goes on from the files and from what the keeper knows. The process around it stands in
`daemon.py`.
"""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Callable

from hakuriver.keeper.client import KeeperLost, KeeperUnavailable
from hakuriver.records import Load
from hakuriver.runner import baton, installed
from hakuriver.runner.baton import Gone, NodeTaken, Superseded
from hakuriver.runner.executors import Place
from hakuriver.runner.heart import LATE
from hakuriver.runner.machine import Conditions, Machine
from hakuriver.runner.port import ImagePort, KeeperPort
from hakuriver.runner.session import Session
from hakuriver.settings import Settings
from hakuriver.spool import files
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.pace import Pace

__all__ = ["Gone", "KeeperLost", "KeeperUnavailable", "Machine", "NodeTaken", "Runner", "Superseded"]


class Runner:
    """The runner of one node."""

    def __init__(
        self,
        disk: Disk,
        keeper: KeeperPort,
        images: ImagePort,
        settings: Settings,
        *,
        node: str,
        nonce: str,
        boottime: Callable[[], float],
        now: Callable[[], float],
        machine: Machine,
        sample: Callable[[], Load] = Load,
        conditions: Callable[[], Conditions] = Conditions,
        out_dir: str,
        ended_dir: str,
        output_limit: int | None = None,
    ) -> None:
        """`out_dir`: where the keeper has tasks write; `output_limit`: bytes it keeps of each file there.

        `ended_dir`: where attempts are noted that end before the keeper sees them.
        """
        self.disk = disk
        self.keeper = keeper
        self.images = images
        self.settings = settings
        self.nonce = nonce
        self.boottime = boottime
        self.now = now
        self.machine = machine
        self.sample = sample
        self.conditions = conditions
        self.out_dir = out_dir
        self.ended_dir = ended_dir
        self.output_limit = output_limit or settings.limits.output_local // 2
        self.place = place(node, settings, machine)
        self.session: Session | None = None
        # An idle runner lists its inbox alone, so it may look more often than a host, which is waited for as well.
        self._pace = Pace(settings.timing.poll_interval / 2)
        self._renewing = threading.Lock()  #: a lease is not renewed while the keeper is being connected
        self._round_since: float | None = None  #: CLOCK_BOOTTIME; None: between two rounds
        self._epoch = 0
        self._unused = False  #: the epoch was taken, and has no session yet

    @property
    def epoch(self) -> int:
        """The epoch that this runner works in, or was the last to; 0: none yet."""
        return self._epoch

    def open(self) -> None:
        """Take the node's baton and begin an epoch. Raises NodeTaken, ShareError, KeeperUnavailable."""
        with self._renewing:
            self.session = None
        files.present(self.disk)
        hello = self.keeper.connect(self.machine.cores, self.machine.memory_bytes)
        self._take_epoch()
        self.session = Session(self, list(hello["tasks"]), hello["lease_until"], self._epoch)
        self._unused = False

    def _take_epoch(self) -> None:
        """Take the next epoch, unless one was taken in which nothing could be told yet."""
        if self._unused:
            try:
                baton.check(self.disk, self.place.node, self.nonce, self._epoch)
                return
            except Gone:
                self._unused = False
        self._epoch = baton.take(self.disk, self.place.node, self.nonce, self._epoch)
        self._unused = True

    def describe_as(self, machine: Machine) -> None:
        """The machine is as given; if that is not what was told, tell it: in a new epoch, since it holds for one."""
        if machine != self.machine:
            self.machine = machine
            self.place = place(self.place.node, self.settings, machine)
            self.session = None

    def tick(self) -> bool:
        """Do one round; tell whether anything happened, so that another should follow soon.

        Raises ShareError (call again later), KeeperLost or KeeperUnavailable (call again, it begins a new epoch),
        NodeTaken or Superseded (this runner is over).
        """
        self._round_since = self.boottime()
        try:
            if self.session is None:
                self.open()
            happened = self._round()
            self._pace.note(happened, self.boottime())
            return happened
        except (FileNotFoundError, FileExistsError) as error:
            raise ShareError("use", str(error.filename or "the share"), error) from error
        except Gone:
            self.session = None
            return True
        except (KeeperLost, Superseded):
            self.session = None
            raise
        finally:
            self._round_since = None

    def _round(self) -> bool:
        assert self.session is not None
        heard = self.session.listen()
        if not heard and not self.session.stirs():
            return False
        files.present(self.disk)
        return self.session.round() or heard

    def stand_in(self) -> float:
        """Make the heartbeat if a round hangs and cannot; seconds until it is to be called again. On another thread.

        Raises what `tick` does, and Gone: then the next round finds out for itself.
        """
        session = self.session
        if session is None:
            return self.settings.timing.heartbeat_interval
        since = self._round_since
        if since is not None and self.boottime() - since > self.settings.timing.heartbeat_interval * LATE:
            session.repeat_beat()
        return session.heart.overdue_at() - self.boottime()

    def renew(self, session: Session) -> None:
        """Tell the keeper how long the lease lasts by now, as long as this is the session."""
        with self._renewing:
            if session is self.session:
                self.keeper.lease(session.heart.lease_until)

    def wait_s(self) -> float:
        """Seconds until the next round though no notice comes."""
        now = self.boottime()
        if self.session is None:
            return self.settings.timing.poll_interval
        return max(0.0, min(self._pace.pause_s(now), self.session.due_at() - now))


def place(node: str, settings: Settings, machine: Machine) -> Place:
    """Where this process runs attempts."""
    try:
        user = pwd.getpwuid(os.getuid())
        home, name = user.pw_dir, user.pw_name
    except KeyError:  # a uid without a name, as in containers
        home, name = "/", str(os.getuid())
    paths = settings.paths
    return Place(
        node, paths.shared_dir, paths.local_temp_dir, home, name, settings.timing.kill_grace,
        numa={found.id: tuple(found.cpus) for found in machine.numa},
        gpus={gpu.index: gpu.uuid for gpu in machine.gpus},
        docker_socket=settings.docker.socket, docker_user=settings.docker.user,
        runner_user=settings.environment.runner_user, runner_home=_home(settings.environment.runner_user),
        numactl=machine.engines.get("numactl", ""), programs=installed.programs(),
    )  # fmt: skip


def _home(user: str) -> str:
    """Of a user; / if there is none of that name: what runs as that one is refused later."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/"
