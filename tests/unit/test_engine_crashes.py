"""Tasks that an engine holds, with the keeper and its attendant, or the attendant alone, killed at every operation."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_stage import ATTENDANT, KEEPER, Runner, Script, Stage, World, install

Install = Callable[[World], None]
LONG = b"0123456789" * 200
SCRIPTS = {
    "good": Script(1.0, 0, LONG),
    "bad": Script(0.5, 3, b"oh no"),
    "eats": Script(0.4, 137, oom=True),
    "refused": Script(refused=True),
    "killed": Script(1000.0, 0, LONG),
    "stubborn": Script(1000.0, dies_s=None),
    "paused": Script(1.5, 0, LONG),
    "fenced": Script(1000.0, 0, b"", dies_s=None),
    "limited": Script(1000.0, 0, b""),
    "unheard": Script(0.3, 0, b"hello", unheard=True),
    "late": Script(slow_s=7.5),
}
TASKS: dict[str, dict[str, Any]] = {name: {} for name in SCRIPTS}
TASKS["fenced"]["rerunnable"] = True
TASKS["good"]["rerunnable"] = True
TASKS["late"] = {"rerunnable": True, "at": 1011.0}
TASKS["limited"]["spec"] = {"time_limit_s": 2.0, "cores": 0}
EXPECTED = {
    "good": ("completed", "exit"), "bad": ("failed", "exit"), "eats": ("killed_oom", "oom"),
    "refused": ("failed", "launch"), "killed": ("killed", "killed"), "stubborn": ("killed", "killed"),
    "paused": ("completed", "exit"), "fenced": ("fenced", "fenced"), "limited": ("failed", "time_limit"),
    "unheard": ("completed", "exit"), "late": ("fenced", "fenced"),
}  # fmt: skip
CONTROLS = [
    ("killed", "started", "kill"), ("stubborn", "started", "kill"), ("paused", "started", "pause"),
    ("paused", "paused", "resume"),
]  # fmt: skip
#: Seconds of the scenario in which the share is away, so that no lease is renewed; and in which the engine is.
SILENT, AWAY = (1012.0, 1024.0), (1003.0, 1004.0)
MOST_STEPS = 20_000
FULL = bool(os.environ.get("SIM_FULL"))


def some(most: int, first: int, step: int = 4) -> range:
    """Operations to die at: all of them, or those from the first on that are so far apart."""
    return range(1, most + 1) if FULL else range(first, most + 1, step)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Install:
    return install(monkeypatch)


def play(directory: Path, begin: Install, *at: int, who: str = KEEPER, after: bool = False) -> World:
    """Play the scenario to its end and judge it."""
    world = World(SCRIPTS, at, who, after)
    begin(world)
    directory.mkdir()
    runner = Runner(world, TASKS, directory / "out", CONTROLS, lambda now: not SILENT[0] <= now < SILENT[1])
    stage = Stage(directory, world, runner)
    try:
        for _ in range(MOST_STEPS):
            world.away = AWAY[0] <= world.now < AWAY[1]
            stage.step()
            check_lease(world, runner)
            if over(stage):
                break
        check(stage)
    except Exception as problem:
        raise AssertionError(f"{who} killed {'after' if after else 'before'} operation {at}") from problem
    finally:
        stage.close()
    shutil.rmtree(directory)
    return world


def over(stage: Stage) -> bool:
    done = len(stage.runner.ends) == len(EXPECTED) and not stage.runner.known
    return done and stage.keeper is not None and not stage.keeper.known.tasks


def check_lease(world: World, runner: Runner) -> None:
    box = world.boxes.get("hakuriver-task-fenced")
    assert box is None or box.state != "running" or world.now <= runner.lease_until


def check(stage: Stage) -> None:
    world, runner = stage.world, stage.runner
    assert over(stage), (runner.ends, runner.known, world.boxes)
    assert set(world.starts.values()) <= {1}, "started twice"
    assert not world.boxes, "left in the engine"
    for task, ends in runner.ends.items():
        check_end(world, runner, task, ends)
    assert runner.answers["kill killed"]
    assert runner.answers["pause paused"]
    assert len(runner.answers) == len(CONTROLS)


def check_end(world: World, runner: Runner, task: str, ends: list[Any]) -> None:
    assert all(end == ends[0] for end in ends), "two endings"
    end, name = ends[0], f"hakuriver-task-{task}"
    ran = [run for run in world.runs if run[0] == name]
    assert end["ran"] is bool(ran)
    assert runner.output[task] == world.logs.get(name, b"")
    allowed = [EXPECTED[task]]
    if task in ("good", "fenced") and not ran:
        allowed = [("fenced", "fenced")]  # given up before its start: tried again elsewhere
    assert (end["state"], end["cause"]) in allowed, end
    if ran and end["state"] == "completed":
        assert runner.output[task] == SCRIPTS[task].output


def operations(tmp_path: Path, begin: Install) -> int:
    """How many operations the scenario takes undisturbed."""
    return play(tmp_path / "counting", begin).count


def test_undisturbed(tmp_path: Path, begin: Install) -> None:
    world = play(tmp_path / "k", begin)
    assert world.count > 150
    assert world.count == play(tmp_path / "again", begin).count
    assert len(world.runs) == len(EXPECTED) - 2  # all but the one that was refused and the one that came too late


@pytest.mark.parametrize(("who", "after"), list(itertools.product((KEEPER, ATTENDANT), (False, True))))
def test_death_at_every_operation(tmp_path: Path, begin: Install, who: str, after: bool) -> None:
    most = operations(tmp_path, begin)
    for at in some(most, 1 + (who == KEEPER) + 2 * after):
        play(tmp_path / str(at), begin, at, who=who, after=after)


@pytest.mark.parametrize("who", [KEEPER, ATTENDANT])
def test_death_once_more_soon_afterwards(tmp_path: Path, begin: Install, who: str) -> None:
    most = operations(tmp_path, begin)
    for at in some(most, 1 + (who == KEEPER), 6):
        play(tmp_path / str(at), begin, at, at + 1 + at * 7 % 23, who=who, after=bool(at % 2))
