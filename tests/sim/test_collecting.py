"""Collecting what retention has passed: beside the host's other work, and whatever becomes of the host meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hakuriver.host import leader, snapshots
from hakuriver.spool import layout, pace
from sim.actors import Actor
from sim.disk import Point
from sim.oracle import judge
from sim.test_crash_points import Tally, restart
from sim.world import TIMING, World

pytestmark = pytest.mark.timeout(900)

DAY_S = 86400
#: Ids of about so many days before the clocks of the world: some due by themselves, some when a day is asked for.
PAST, RECENT = 60, 2
ASKED = {"request": "gc", "older_than": "1d"}
#: The job that lives on, though its id is as old as what goes.
LIVES = f"{1_700_000_000_000 - PAST * DAY_S * 1000:013d}9999999"


#: One that has ended.
ENDS = f"{1_700_000_000_000 - RECENT * DAY_S * 1000:013d}8888888"


def old_id(days: int, number: int) -> str:
    """An id of so many days ago, each in a bucket of its own."""
    return f"{1_700_000_000_000 - days * DAY_S * 1000 - number * 100_000:013d}{number:07d}"


def leave(world: World, days: int, count: int) -> set[str]:
    """Have finished jobs on the share, each with output, error output and receipt; the files."""
    made = set()
    for job in (old_id(days, n) for n in range(1, count + 1)):
        for path in (
            layout.snapshot_path(layout.DONE, job, 1, 1), layout.stdout_path(job, 0, 1),
            layout.stderr_path(job, None, 1), layout.receipt(job),
        ):  # fmt: skip
            world.share.mkdir(path.rpartition("/")[0])
            world.share.create("init", path, b"", True)
            made.add(path)
    world.share.sync_all()
    return made


def left(world: World, made: set[str]) -> set[str]:
    return made & set(world.share.tree())


def over(world: World, job: str) -> bool:
    return world.watch.jobs.get(job, {}).get("finished_at") is not None


def text_of(world: World) -> str:
    """What the receipt of the only `gc` says."""
    return next(str(receipt["text"]) for receipt in world.watch.receipts.values() if receipt["kind"] == "gc")


class Slow:
    """Lets each removal of one actor take long; the others go on meanwhile."""

    def __init__(self, world: World, actor: Actor, seconds: float) -> None:
        self._world, self._actor, self._seconds = world, actor, seconds
        self._remove = actor.disk.remove

    def __call__(self, path: str) -> None:
        self._world.hang(self._actor, self._seconds)
        self._remove(path)


@pytest.mark.parametrize(("days", "asked"), [(PAST, False), (RECENT, True)])
def test_a_long_collection_holds_nobody_up(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, days: int, asked: bool
) -> None:
    """It takes several leases: the standby stays one, jobs are run, and who has asked is told of all of it once."""
    count, each_s = 200, 0.1
    world = World(scratch, 7, nodes=1)
    made = leave(world, days, count)
    monkeypatch.setattr(world.host.disk, "remove", Slow(world, world.host, each_s))
    world.start()
    other = world.second_host()
    if asked:
        world.run(None, 3.0)
        world.drop("gc.json", ASKED)
    begun, waits = world.t, []
    while left(world, made):
        before = world.t
        job = world.submit("0.1", "0", "", name="meanwhile")
        assert world.run(lambda job=job: over(world, job), 60.0), world.story()  # type: ignore[misc]
        waits.append(world.t - before)
    assert world.t - begun > count * 4 * each_s > 4 * TIMING["lease"]
    assert max(waits) < TIMING["lease"] / 2, "nobody waits for all of it"
    assert world.run(world.done, 30.0), world.story()
    assert (world.host.host.leading, other.host.leading, world.host.host.journal.baton.term) == (True, False, 1)
    if asked:
        assert text_of(world) == f"deleted {count} jobs, {2 * count} outputs, {count} receipts"
    world.run(None, 12.0)
    assert judge(world) == []


def test_a_host_that_was_held_up_and_succeeded_deletes_nothing_more(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still in the middle of a tick that it began as the leader, right before it would go on deleting."""
    world = World(scratch, 7, nodes=1)
    made = leave(world, PAST, 20)
    world.start()
    other, host = world.second_host(), world.host
    remove, tell, late = Slow(world, host, 0.04), world.tell, []

    def noted(path: str) -> None:
        late.extend([path] if other.host.leading else [])
        remove(path)

    def held_up(*what: Any) -> None:
        tell(*what)
        if len(left(world, made)) < len(made) - 5:
            monkeypatch.setattr(host.host, "tell", tell)
            world.hang(host, 3 * TIMING["lease"])

    monkeypatch.setattr(host.disk, "remove", noted)
    monkeypatch.setattr(other.disk, "remove", lambda path: None)  # so that there is something to delete
    monkeypatch.setattr(host.host, "tell", held_up)
    assert world.run(lambda: "has taken over" in host.said, 120.0), world.story()
    assert left(world, made)
    assert late == []


class Collecting:
    """A job with an old id that runs, and a `gc` of all that is older than a day."""

    def __init__(self, scratch: Path, seed: int = 0) -> None:
        self.world = World(scratch, seed, nodes=1)
        self.made = leave(self.world, RECENT, 3) | leave(self.world, PAST, 2)
        drop = self.world.drop
        self.world.at(0.2, lambda: drop(f"{LIVES}.json", {"command": ["sim", "inf", "0", "it lives\n"]}))
        self.world.at(2.0, lambda: drop("gc.json", ASKED))
        self.operations = range(0)  #: of the host, from the request to its answer
        self.world.start()

    def play(self) -> list[str]:
        """To the end; what is wrong then."""
        world = self.world
        world.run(None, 2.0)
        before = world.host.disk.count
        ended = world.run(lambda: world.t > 3.0 and len(world.watch.receipts) == 2 and world.quiet, 120.0)
        self.operations = range(before, world.host.disk.count)
        wrong = [] if ended else ["it does not come to an end"]
        wrong += [f"{path} is still there" for path in left(world, self.made)]
        wrong += [f"the receipt says {text_of(world)}" for _ in range(ended) if "could not" in text_of(world)]
        world.drop(f"{LIVES}.kill", b"")
        if not world.run(world.done, 60.0):
            wrong.append("the job that lives does not end")
        world.run(None, 12.0)
        return wrong + judge(world)


@pytest.fixture
def in_small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One operation in each tick."""
    monkeypatch.setattr(leader, "SLICE_S", 0.0)
    monkeypatch.setattr(leader, "SLICE_BUSY_S", 0.0)
    monkeypatch.setattr(pace, "QUICK_S", 0.5)


def elsewhere(world: World, actor: Actor) -> None:
    """The machine is gone; another host stands by."""
    world.after(1.0, lambda: (world.second_host(), None)[1])


@pytest.mark.parametrize("how", ["before", "after", "late"])
@pytest.mark.parametrize("then", [restart, elsewhere])
@pytest.mark.usefixtures("in_small_slices")
def test_a_host_killed_in_a_collection(scratch: Path, how: str, then: Any) -> None:
    whole = Collecting(scratch)
    assert whole.play() == []
    tally = Tally()
    for at in whole.operations[:: 1 if os.environ.get("SIM_FULL") else 2]:
        point = Point(at, how, (0.2, 1.5, 8.0, 29.0)[at % 4] if how == "late" else 0.0)
        run = Collecting(scratch, point.at)
        run.world.on_crash = lambda dead, run=run: then(run.world, dead)  # type: ignore[misc]
        run.world.host.crash_at(point)
        tally.add(f"host {point}", run.world, run.play())
    tally.check(f"host {how}, collecting")


def checkpointed(world: World) -> list[str] | None:
    """The snapshots that the newest checkpoint names; None: there is none yet."""
    entries = (json.loads(world.share.find(p).content) for p in world.share.tree() if p.startswith(layout.JOURNAL))
    found: list[list[str]] = [entry["checkpoint"]["jobs"] for entry in entries if entry["checkpoint"]]
    return found[-1] if found else None


def with_one_over(scratch: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> World:
    """A world in which a job has ended that the newest checkpoint names, as one does that is written at that moment."""
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "CHECKPOINT_ENTRIES", 1)
        patch.setattr(snapshots, "BUSY_FACTOR", 1)
        patch.setattr(snapshots, "BYTES_PER_JOB", -snapshots.SMALL)
        world = World(scratch, seed, nodes=1).start()
        world.drop(f"{ENDS}.json", {"command": ["sim", "0.2", "0", ""]})
        assert world.run(world.done, 20.0), world.story()
    assert len(checkpointed(world) or []) == 1
    assert world.share.has(layout.receipt(ENDS)), "as a host collects when it begins, and in an hour"
    return world


def read_anew(world: World) -> None:
    """The host dies, and the next one begins."""
    world.host.stop()
    world.host.start()
    assert world.run(lambda: world.host.host.leading, 20.0), world.host.said


@pytest.mark.usefixtures("in_small_slices")
def test_what_the_newest_checkpoint_names_is_not_collected(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next host reads it as it begins."""
    world = with_one_over(scratch, monkeypatch)
    (named,) = checkpointed(world) or []
    world.drop("gc.json", ASKED)
    assert world.run(world.done, 20.0), world.story()
    assert checkpointed(world) == [named]
    assert text_of(world) == "deleted 0 jobs, 0 outputs, 0 receipts"
    read_anew(world)
    world.drop("again.json", ASKED)
    assert world.run(world.done, 20.0), world.story()
    assert checkpointed(world) == [named]
    read_anew(world)


def test_what_a_checkpoint_has_named_goes_after_the_next(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a host that reads it hold on to a job that is over."""
    world = with_one_over(scratch, monkeypatch)
    read_anew(world)
    assert list(world.host.host.state.jobs) == []
    world.drop("reindex.json", {"request": "reindex"})
    assert world.run(lambda: checkpointed(world) == [], 3 * snapshots.CHECKPOINT_IDLE_S), world.story()
    world.drop("gc.json", ASKED)
    assert world.run(lambda: not any(ENDS in path for path in world.share.tree()), 20.0), world.story()
    read_anew(world)


def test_what_is_over_since_the_newest_checkpoint_is_not_deleted_to_come_back(scratch: Path) -> None:
    """The journal would make it anew; and until the next checkpoint a snapshot of when it was not over lies there."""
    world = World(scratch, 0, nodes=1).start()
    world.drop(f"{ENDS}.json", {"command": ["sim", "0.2", "0", ""]})
    assert world.run(world.done, 20.0), world.story()
    world.drop("gc.json", ASKED)
    assert world.run(world.done, 20.0), world.story()
    assert text_of(world) == "deleted 0 jobs, 0 outputs, 0 receipts"
    assert world.run(lambda: checkpointed(world) == [], 2 * snapshots.CHECKPOINT_IDLE_S), world.story()
    world.drop("again.json", ASKED)
    assert world.run(lambda: not any(ENDS in path for path in world.share.tree()), 20.0), world.story()
    read_anew(world)
    world.run(None, 12.0)
    assert not any(ENDS in path for path in world.share.tree())
