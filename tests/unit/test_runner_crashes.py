"""A scenario of starts, outputs, controls and refusals, with the runner killed at every operation, or lied to."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runner_stage import JOB, CrashDisk, LyingDisk, Stage, name, play, play_dying, runs, says, start

from hakuriver.runner.agent import Runner

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


#: Rounds until all of the scenario has been asked for.
ROUNDS = 25


def operations(scratch: Path) -> int:
    """How many operations the scenario takes undisturbed."""
    (scratch / "counting").mkdir()
    return play(Scenario(scratch / "counting"), ROUNDS, CrashDisk(".")).count


@pytest.mark.parametrize("after", [False, True])
def test_the_runner_may_die_at_every_operation(scratch: Path, after: bool) -> None:
    most = operations(scratch)
    assert most > 200
    for at in range(1, most + 1):
        directory = scratch / str(at)
        directory.mkdir()
        play(Scenario(directory), ROUNDS, CrashDisk(".", at, after=after))
        shutil.rmtree(directory)


@pytest.mark.parametrize("seed", range(40))
def test_the_share_may_lie(scratch: Path, seed: int) -> None:
    play(Scenario(scratch), ROUNDS, LyingDisk(".", seed))


@pytest.mark.parametrize("seed", range(20))
def test_the_runner_may_die_on_a_share_that_lies(scratch: Path, seed: int) -> None:
    play_dying(Scenario(scratch), ROUNDS, seed)
