"""When snapshots of jobs are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hakuriver.host import snapshots
from hakuriver.host.snapshots import FLUSH_S, Snapshots
from hakuriver.host.state import State
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk

RECEIPT = {"request": "x", "name": "x.jsonl", "kind": "run", "uid": 7, "at": 1.0}


class Stage:
    """A state with jobs, over a disk; `time` goes on from call to call."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / layout.SENTINEL).write_text("{}")
        self.state = State()
        self.state.term = 1
        self.snapshots = Snapshots(LocalDisk(str(root)), self.state)

    def accept(self, first: int, count: int) -> None:
        jobs = [[f"{number:020d}", {"command": ["true"]}] for number in range(first, first + count)]
        self.state.seq += 1
        self.state.apply(["jobs", RECEIPT, "me", jobs, "taken"])

    def write(self, at: float, *, idle: bool) -> int:
        return len(self.snapshots.write(at, idle))

    def on_disk(self) -> set[int]:
        return {int(path.name.split(".")[0]) for path in (self.root / layout.ACTIVE).rglob("*.json")}


@pytest.fixture
def stage(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(snapshots, "WRITE_MOST", 4)
    monkeypatch.setattr(snapshots, "WRITE_MOST_BUSY", 2)
    return Stage(scratch)


def test_few_are_written_together_and_then_not_for_two_seconds(stage: Stage) -> None:
    stage.accept(0, 3)
    assert stage.write(10.0, idle=True) == 3
    stage.accept(3, 1)
    assert stage.write(10.0 + FLUSH_S - 0.1, idle=True) == 0
    assert stage.write(10.0 + FLUSH_S, idle=True) == 1
    assert stage.on_disk() == {0, 1, 2, 3}


def test_many_take_their_turns_in_the_order_of_their_change(stage: Stage) -> None:
    stage.accept(0, 9)
    assert stage.write(10.0, idle=False) == 2
    assert stage.on_disk() == {0, 1}
    assert stage.snapshots.behind
    stage.accept(9, 1)
    assert stage.write(10.0, idle=True) == 4
    assert stage.on_disk() == {0, 1, 2, 3, 4, 5}
    assert stage.write(10.0, idle=True) == 4
    assert stage.on_disk() == set(range(10))
    assert not stage.snapshots.behind


def test_a_backlog_ends_while_the_host_is_never_idle(stage: Stage) -> None:
    stage.accept(0, 2000)
    first = stage.write(10.0, idle=False)
    assert first == 2000 // snapshots.WRITE_PART
    turns = 1
    while stage.snapshots.behind:
        stage.accept(10_000 + turns, 1)
        stage.write(10.0, idle=False)
        turns += 1
    assert turns < 1200
    assert stage.on_disk() >= set(range(2000))
    assert not stage.state.touched
