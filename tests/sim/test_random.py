"""The scenario with host and runners killed at random, at once; and on a share that lies, fails, lags and goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.disk import Point
from sim.evil import Evil
from sim.oracle import judge
from sim.test_crash_points import Tally, checkpoint_often, operations, play, restart, sampled
from sim.world import World

__all__ = ["checkpoint_often"]

pytestmark = pytest.mark.timeout(900)

HOW = st.sampled_from(["before", "after"])
#: Seconds until what was missed has been looked for again by everybody.
SWEEPS_S = 90.0
#: Trouble of every kind at once, each of it a few times in a run.
TROUBLE = Evil(fails=0.01, lies=0.01, misses=0.02, hides=0.05, stale=0.02, hangs=0.002, goes=0.001)


@settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.tuples(st.integers(1, 600), HOW), st.tuples(st.integers(1, 380), HOW), st.tuples(st.integers(1, 380), HOW),
    st.integers(0, 10**6),
)  # fmt: skip
def test_all_killed_at_random(
    scratch: Path, host: tuple[int, str], first: tuple[int, str], second: tuple[int, str], seed: int
) -> None:
    world = World(scratch, seed)
    world.on_crash = lambda dead: restart(world, dead)
    for actor in world.actors:
        where = {"host": host, "n1": first, "n2": second}.get(actor.name)
        if where is not None:
            actor.crash_at(Point(*where, 0.0))
    play(world)
    assert judge(world, lossy=True) == [], world.story()


@pytest.mark.parametrize("seed", range(25))
def test_on_an_evil_share(scratch: Path, seed: int) -> None:
    world = World(scratch, seed, evil=TROUBLE)
    play(world)
    world.run(None, SWEEPS_S)
    assert judge(world, lossy=True) == [], world.story()


@pytest.mark.parametrize(("name", "how", "every"), [("host", "before", 7), ("n1", "before", 7), ("host", "after", 29),
                                                    ("n1", "after", 29)])  # fmt: skip
def test_killed_at_every_operation_on_an_evil_share(scratch: Path, name: str, how: str, every: int) -> None:
    tally = Tally()
    for at in sampled(operations(scratch, name), every, len(how)):
        world = World(scratch, at, evil=TROUBLE)
        world.on_crash = lambda dead, world=world: restart(world, dead)  # type: ignore[misc]
        next(actor for actor in world.actors if actor.name == name).crash_at(Point(at, how))
        play(world)
        world.run(None, SWEEPS_S)
        tally.add(f"{name} {how} operation {at}", world, judge(world, lossy=True))
    tally.check(f"{name} {how} on an evil share")
