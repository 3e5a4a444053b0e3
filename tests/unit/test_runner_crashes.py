"""A scenario of starts, outputs, controls and refusals, with the runner killed at every operation, or lied to."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runner_stage import JOB, CrashDisk, Killed, LyingDisk, Stage, name, runs, says, start

from hakuriver.runner.agent import Runner
from hakuriver.spool.files import ShareError

KILLED = {"job": JOB, "k": 3, "attempt": 1}
TEXT = {1: b"one\n" * 3000, 2: b"two", 4: b"", 6: b"six"}
EXPECTED = {1: "completed", 2: "completed", 3: "killed", 4: "completed", 5: "failed", 6: "completed"}


class Scenario:
    """What the host sends, when; and what must have come of it in the end."""

    def __init__(self, scratch: Path) -> None:
        self.stage = stage = Stage(scratch)
        for k, text in TEXT.items():
            stage.keeper.scripts[name(k)] = says(text)
        stage.keeper.scripts[name(3)] = runs
        stage.keeper.on_start = self._check_start
        stage.host.on_end = self._check_end
        host = stage.host
        self.script: dict[int, Any] = {
            0: lambda: host.send(starts=[start(["x"], [1, 2, 3])]),
            2: lambda: host.send(starts=[start(["x"], [4]), start(["x"], [5], executor="docker")]),
            4: lambda: host.send(controls=[{"request": "r1", "op": "pause", **KILLED}]),
            5: lambda: host.send(format=77),
            6: lambda: host.send(controls=[{"request": "r2", "op": "kill", **KILLED}]),
            8: lambda: host.send(starts=[start(["x"], [6])], drop=[[JOB, 99, 1]]),
        }

    def _check_start(self, key: Any) -> None:
        assert key not in self.stage.keeper.began
        self.stage.host.hear()
        assert self.stage.host.claimed, "started before its claim was told"

    def _check_end(self, event: dict[str, Any]) -> None:
        k, text = event["k"], TEXT.get(event["k"])
        if text:
            assert self.stage.output(k) == text, "told before its output was whole"

    def round(self, number: int, runner: Runner) -> None:
        if number in self.script:
            self.script.pop(number)()
        elif number > 8 and number % 4 == 0:
            self.stage.host.send()
        runner.tick()
        self.stage.keeper.step()
        self.stage.host.hear()

    def settled(self) -> bool:
        host = self.stage.host
        left = [name for part in ("inbox", "claimed", "events") for name in host.names(part)]
        return not (self.script or self.stage.keeper.tasks) and len(host.endings) == len(EXPECTED) and len(left) < 4

    def check(self) -> None:
        host, keeper = self.stage.host, self.stage.keeper
        ended = {k: ends for (_, k, _), ends in host.endings.items()}
        assert {k: {end["state"] for end in ends} for k, ends in ended.items()} == {
            k: {state} for k, state in EXPECTED.items()
        }
        began = Counter(keeper.began)
        began[(name(3), 1)] = 1  # or it was killed while it was queued
        assert began == {(name(k), 1): 1 for k in EXPECTED if k != 5}
        assert {(e["request"], e["ok"]) for e in host.events if e["kind"] == "answer"} >= {("r2", True)}
        assert "r1" in {e["request"] for e in host.events if e["kind"] == "answer"}
        assert {e["dispatch"] for e in host.events if e["kind"] == "unreadable"} == {"000001-000000000004"}
        assert sorted(keeper.forgotten) == sorted((name(k), 1) for k in EXPECTED if k != 5)
        for begin in [e for e in host.events if e["kind"] == "begin"]:
            self._check_holds(begin)

    def _check_holds(self, begin: dict[str, Any]) -> None:
        """What was claimed before and had not ended before is held."""
        before = self.stage.host.events[: self.stage.host.events.index(begin)]
        claimed = {e["dispatch"] for e in before if e["kind"] == "claimed"}
        places = {"000001-000000000001": [1, 2, 3], "000001-000000000002": [4, 5], "000001-000000000006": [6]}
        ended = {e["k"] for e in before if e["kind"] == "ended"}
        expected = {k for place in claimed for k in places.get(place, ())} - ended
        assert expected <= {k for _, k, _ in begin["holds"]}


#: Rounds after which nothing bad happens any more: from any state the end must be reached.
TROUBLED = 120


def play(scratch: Path, disk: CrashDisk, again: Any = CrashDisk) -> tuple[Scenario, CrashDisk]:
    """Play to the end; after a kill another runner on another disk goes on."""
    scenario = Scenario(scratch)
    disk.root = scenario.stage.root
    runner = scenario.stage.runner(disk)
    for number in range(TROUBLED + 80):
        try:
            scenario.round(number, runner)
        except Killed:
            runner = scenario.stage.runner(again(scenario.stage.root))
        except ShareError:
            assert number <= TROUBLED
        if number == TROUBLED:
            runner = scenario.stage.runner(CrashDisk(scenario.stage.root))
        scenario.stage.clock.at += 0.6
        if number > 24 and scenario.settled():
            break
    scenario.check()
    return scenario, disk


def operations(scratch: Path) -> int:
    """How many operations the scenario takes undisturbed."""
    (scratch / "counting").mkdir()
    return play(scratch / "counting", CrashDisk("."))[1].count


@pytest.mark.parametrize("after", [False, True])
def test_the_runner_may_die_at_every_operation(scratch: Path, after: bool) -> None:
    most = operations(scratch)
    assert most > 200
    for at in range(1, most + 1):
        directory = scratch / str(at)
        directory.mkdir()
        play(directory, CrashDisk(".", at, after=after))
        shutil.rmtree(directory)


@pytest.mark.parametrize("seed", range(40))
def test_the_share_may_lie(scratch: Path, seed: int) -> None:
    play(scratch, LyingDisk(".", seed))


@pytest.mark.parametrize("seed", range(20))
def test_the_runner_may_die_on_a_share_that_lies(scratch: Path, seed: int) -> None:
    class Dying(LyingDisk):
        def _wrap(self, call: Any, *arguments: Any, **more: Any) -> Any:
            result = super()._wrap(call, *arguments, **more)
            if self.random.random() < 0.01:
                raise Killed
            return result

    seeds = iter(range(seed * 1000, seed * 1000 + 999))
    play(scratch, Dying(".", next(seeds)), lambda root: Dying(root, next(seeds)))
