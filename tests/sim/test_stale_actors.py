"""An actor stops in the middle of an operation, is succeeded or given up, and goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.actors import Actor
from sim.oracle import judge
from sim.test_crash_points import Tally, checkpoint_often, operations, play, sampled
from sim.world import World

__all__ = ["checkpoint_often"]

pytestmark = pytest.mark.timeout(900)

#: Seconds that an operation hangs: longer than lease and margin together.
HANG_S = 30.0


class Hang:
    """Lets one operation of an actor take long; the others go on meanwhile."""

    def __init__(self, world: World, actor: Actor, at: int, begun: Callable[[], None]) -> None:
        self._world = world
        self._actor = actor
        self._at = at
        self._begun = begun

    def __call__(self) -> None:
        disk = self._actor.disk
        if disk.count == self._at:
            disk.meanwhile = None
            self._begun()
            self._world.hang(self._actor, HANG_S)


def hang_at_every_point(scratch: Path, name: str, every: int, begun: Callable[[World], None]) -> Tally:
    tally = Tally()
    for at in sampled(operations(scratch, name), every):
        world = World(scratch, at)
        actor = next(a for a in world.actors if a.name == name)
        actor.disk.meanwhile = Hang(world, actor, at, lambda world=world: begun(world))  # type: ignore[misc]
        play(world)
        tally.add(f"{name} hangs at operation {at}", world, judge(world, lossy=True))
    return tally


def test_a_host_that_hangs_is_succeeded_and_goes_on(scratch: Path) -> None:
    """Whatever it was about to do, nothing of it counts any more."""
    tally = hang_at_every_point(scratch, "host", 11, lambda world: (world.second_host(), None)[1])
    tally.check("host hangs and is succeeded")


def test_a_runner_that_hangs_is_given_up_and_goes_on(scratch: Path) -> None:
    hang_at_every_point(scratch, "n1", 7, lambda world: None).check("runner hangs")


def test_others_act_between_any_two_operations(scratch: Path) -> None:
    tally = Tally()
    for seed in sampled(120, 6):
        world = World(scratch, seed)
        world.interleave = 0.05
        scenario = play(world)
        tally.add(f"interleaved, seed {seed}", world, judge(world) or list(scenario.as_without_faults()))
    tally.check("interleaved")
