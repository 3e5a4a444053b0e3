"""The scenario, with host and runner killed at every operation in turn; at random; on an evil share."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hakuriver.host import snapshots
from hakuriver.spool import pace
from sim.actors import Actor, RunnerActor
from sim.disk import Point
from sim.oracle import judge
from sim.scenario import Scenario
from sim.world import World

#: Hundreds of runs each: the limit of other tests does not fit.
pytestmark = pytest.mark.timeout(900)

#: Seconds of quiet in which everything that passes through must drain.
SETTLE_S = 12.0
#: Seconds of virtual time after which a run counts as stuck.
LIMIT_S = 200.0


@pytest.fixture(autouse=True)
def checkpoint_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that checkpoints are among the operations."""
    monkeypatch.setattr(pace, "QUICK_S", 0.5)  # or looks at what has not changed would be most of the operations
    monkeypatch.setattr(snapshots, "CHECKPOINT_ENTRIES", 4)
    monkeypatch.setattr(snapshots, "BYTES_PER_JOB", 8)


def play(world: World) -> Scenario:
    """The scenario from beginning to end."""
    scenario = Scenario(world)
    world.start()
    try:
        if not world.run(scenario.done, LIMIT_S):
            world.watch.wrong.append("it does not come to an end")
        world.calm()
        world.run(lambda: world.quiet, LIMIT_S)
        world.run(None, SETTLE_S)
    except Exception:
        world.watch.wrong.append(traceback.format_exc())
    return scenario


class Tally:
    """Counts what was tried, and gathers what went wrong."""

    def __init__(self) -> None:
        self.tried = 0
        self.wrong: list[str] = []
        self.story = ""

    def add(self, what: str, world: World, broken: list[str]) -> None:
        self.tried += 1
        if broken and not self.wrong:
            self.story = world.story()
        self.wrong += [f"{what}: {text}" for text in broken]

    def check(self, name: str) -> None:
        print(f"\ncrash points tried, {name}: {self.tried}")
        if self.wrong:
            shown = "\n".join(self.wrong[:20])
            pytest.fail(f"{len(self.wrong)} breaches in {self.tried} runs:\n{shown}\n\nthe first:\n{self.story}", False)


def operations(scratch: Path, actor: str) -> int:
    """How many operations an actor does in the scenario without faults, which holds all laws."""
    world = World(scratch)
    scenario = play(world)
    assert judge(world) == []
    assert list(scenario.as_without_faults()) == []
    return next(a for a in world.actors if a.name == actor).disk.count


def sampled(count: int, every: int, offset: int = 0) -> range:
    """One of `every` numbers from 1 on; all of them with SIM_FULL=1."""
    step = 1 if os.environ.get("SIM_FULL") else every
    return range(1 + offset % step, count + 1, step)


def points(scratch: Path, actor: str, how: str, every: int) -> Iterator[Point]:
    """The operations to die at."""
    for at in sampled(operations(scratch, actor), every, len(actor + how)):
        yield Point(at, how, (0.2, 1.5, 8.0, 29.0)[at % 4] if how == "late" else 0.0)


def at_every_point(
    scratch: Path, actor: str, how: str, on_crash: Callable[[World, Actor], None], *, every: int = 1,
    track: bool = False, lossy: bool = False,
) -> None:  # fmt: skip
    tally = Tally()
    for point in points(scratch, actor, how, every):
        world = World(scratch, point.at, track=track)
        world.on_crash = lambda dead, world=world: on_crash(world, dead)  # type: ignore[misc]
        next(a for a in world.actors if a.name == actor).crash_at(point)
        scenario = play(world)
        broken = judge(world, lossy=lossy)
        if not broken and not lossy:
            broken = list(scenario.as_without_faults())
        tally.add(f"{actor} {point}", world, broken)
    tally.check(f"{actor} {how}")


def restart(world: World, actor: Actor) -> None:
    world.after(1.0, actor.start)


@pytest.mark.parametrize("how", ["before", "after", "late"])
@pytest.mark.parametrize("actor", ["host", "n1"])
def test_killed_at_every_operation_and_restarted(scratch: Path, actor: str, how: str) -> None:
    at_every_point(scratch, actor, how, restart, every={"before": 1, "after": 4, "late": 8}[how])


def elsewhere(world: World, actor: Actor) -> None:
    """The machine is gone; a host on another one stands by."""
    world.after(1.0, lambda: (world.second_host(), None)[1])


@pytest.mark.parametrize("how", ["before", "late"])
def test_host_killed_for_good_and_succeeded(scratch: Path, how: str) -> None:
    at_every_point(scratch, "host", how, elsewhere, every=9)


def lose_power(world: World, actor: Actor) -> None:
    world.power_cut(actor)
    world.after(2.0, actor.boot if isinstance(actor, RunnerActor) else actor.start)


def lose_all_power(world: World, actor: Actor) -> None:
    """Everything is on one machine."""
    world.power_cut_all()
    for one in world.actors:
        world.after(2.0, one.boot if isinstance(one, RunnerActor) else one.start)


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("actor", ["host", "n1"])
@pytest.mark.parametrize("what", [lose_power, lose_all_power])
def test_power_cut(scratch: Path, actor: str, how: str, what: Callable[[World, Actor], None]) -> None:
    at_every_point(scratch, actor, how, what, every=29, track=True, lossy=True)


def come_back_late(world: World, actor: Actor) -> None:
    """After its work was given up."""
    world.after(30.0, actor.start)


def never(world: World, actor: Actor) -> None:
    """Its keeper goes on for as long as it may."""


@pytest.mark.parametrize("what", [come_back_late, never])
def test_runner_silent_for_longer_than_the_lease(scratch: Path, what: Callable[[World, Actor], None]) -> None:
    at_every_point(scratch, "n1", "after", what, every=13, lossy=True)
