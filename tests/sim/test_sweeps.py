"""How often the host looks for what was left behind."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hakuriver.settings import parse
from sim.world import TIMING, World


@pytest.mark.parametrize("interval", [5.0, 20.0])
def test_the_host_sweeps_as_often_as_it_is_told(scratch: Path, interval: float) -> None:
    table = {"paths": {"state_dir": "/var/lib/x"}, "timing": {**TIMING, "cleanup_check_interval": interval}}
    world = World(scratch, settings=parse(table, "sim"))
    world.start()
    world.run(None, 3.0)
    times: list[float] = []
    find = world.host.host.door.find_taken

    def noted(answered: set[str] | None = None) -> set[str]:
        if answered is None:
            times.append(world.t)
        return find(answered)

    world.host.host.door.find_taken = noted  # type: ignore[method-assign]
    world.run(None, 100.0)
    assert len(times) >= 4
    assert all(interval <= b - a < interval + 2.0 for a, b in itertools.pairwise(times))
