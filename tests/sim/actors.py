"""Who acts in a simulated river: machines with clocks of their own, and the daemons on them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from runner_stage import Images

from hakuriver.host.leader import Host, NotYet
from hakuriver.host.leader import Superseded as HostSuperseded
from hakuriver.runner.agent import KeeperLost, KeeperUnavailable, Machine, NodeTaken, Runner
from hakuriver.runner.agent import Superseded as RunnerSuperseded
from hakuriver.spool.files import ShareError
from sim.disk import Point, SimDisk
from sim.keeper import SimKeeper

if TYPE_CHECKING:
    from sim.world import World

#: Seconds that a step takes at least, so that time goes on.
STEP_S = 0.001
TINY_S = 1e-6
NEVER = float("inf")
OWN_UID = 0


class Actor:
    """A daemon on a machine: up or not, and when it acts next."""

    def __init__(self, world: World, name: str, disk: SimDisk) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.up = False
        self.busy = False  #: in the middle of an operation, while others act
        self.over = ""  #: why it has ended for good
        self.next_at = NEVER
        self.said = ""  #: the last complaint
        self.booted_at = world.t - world.rng.uniform(100.0, 5000.0)
        self.skew_s = world.rng.uniform(-5000.0, 5000.0)

    def boottime(self) -> float:
        """CLOCK_BOOTTIME of its machine."""
        return self.world.t - self.booted_at

    def now(self) -> float:
        """The clock on its wall, which is wrong."""
        return 1_700_000_000.0 + self.world.t + self.skew_s

    def start(self) -> None:
        """Start the daemon anew."""
        self.up, self.over, self.next_at = True, "", self.world.t
        self.create()

    def create(self) -> None:
        raise NotImplementedError

    def step(self) -> None:
        """Act once, and say when next."""
        wait = self.act()
        self.next_at = self.world.t + max(STEP_S, wait)

    def act(self) -> float:
        raise NotImplementedError

    def stop(self) -> None:
        """The process is gone; nothing of its memory is left."""
        self.up, self.busy, self.next_at = False, False, NEVER
        self.disk.point = None

    def power_cut(self, rng: random.Random) -> None:
        """The machine is off."""
        self.stop()

    def crash_at(self, point: Point) -> None:
        """Crash at an operation, counted from now on."""
        self.disk.point = Point(self.disk.count + point.at, point.how, point.late_s)


class HostActor(Actor):
    """A host, leading or standing by, and what the daemon around it does."""

    host: Host

    def __init__(self, world: World, name: str, disk: SimDisk, host_id: str) -> None:
        super().__init__(world, name, disk)
        self.host_id = host_id

    def create(self) -> None:
        self.host = Host(
            self.disk, self.world.settings, self.host_id, boottime=self.boottime, now=self.now,
            new_id=self.world.new_id, own_uid=OWN_UID, tell=self.world.tell,
        )  # fmt: skip

    def act(self) -> float:
        try:
            happened = self.host.tick()
        except NotYet as error:
            self.said = str(error)
            return 0.5
        except HostSuperseded as error:
            self.said = str(error)
            self.host.leading = False
            return 1.0
        except ShareError as error:
            self.said = str(error)
            return 1.0
        self.said = ""
        return 0.0 if happened else self.host.pause_s()


class RunnerActor(Actor):
    """A runner and, on the same machine, the keeper that outlives it."""

    runner: Runner

    def __init__(self, world: World, name: str, disk: SimDisk, out_dir: Path, cores: int) -> None:
        super().__init__(world, name, disk)
        self.out_dir = out_dir
        self.cores = cores
        self.boots = 1
        self.frozen_at: float | None = None  #: since when the machine is paused from outside
        self.keeper = SimKeeper(name, out_dir, self.boottime, world.log)
        self.keeper.true_clock = lambda: world.t
        self.keeper.disk = disk

    def create(self) -> None:
        machine = Machine(self.name, f"boot{self.boots}", self.cores, 1 << 30)
        self.runner = Runner(
            self.disk, self.keeper, Images(), self.world.settings, node=self.name, nonce=f"nonce-{self.name}",
            boottime=self.boottime, now=self.now, machine=machine, out_dir=str(self.out_dir),
            ended_dir=f"{self.out_dir}-ended",
        )  # fmt: skip

    def act(self) -> float:
        try:
            busy = self.runner.tick()
        except (ShareError, KeeperLost, KeeperUnavailable) as error:
            self.said = str(error)
            return 1.0
        except (NodeTaken, RunnerSuperseded) as error:
            self.over = str(error)
            self.stop()
            return NEVER
        self.said = ""
        return 0.0 if busy else self.runner.wait_s()

    def power_cut(self, rng: random.Random) -> None:
        super().power_cut(rng)
        self.keeper.power_cut(rng)

    def boot(self) -> None:
        """Switch the machine on again: its clock begins anew."""
        self.booted_at, self.boots = self.world.t - 10.0, self.boots + 1
        self.start()

    def freeze(self) -> None:
        """The machine is paused from outside: nothing on it runs, and none of its clocks."""
        self.up, self.frozen_at = False, self.world.t

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        assert self.frozen_at is not None
        self.booted_at += self.world.t - self.frozen_at
        self.up, self.frozen_at, self.next_at = True, None, self.world.t

    def keeper_due(self) -> float:
        """When something happens to its tasks, by the world's clock."""
        if self.frozen_at is not None:
            return NEVER
        due = self.keeper.due()
        if due is None:
            return NEVER
        # Two clocks of floats: what is not due yet by the machine's must not be due now by the world's, or time stands.
        soonest = self.world.t if due <= self.boottime() else self.world.t + TINY_S
        return max(soonest, due + self.booted_at)
