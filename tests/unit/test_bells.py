"""Bells: what the host hears by one listing, and what it still looks into when a bell is missing, silent or lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from runner_stage import CrashDisk

from hakuriver.host.hearing import EVENTS_EVERY_S, Hearing
from hakuriver.records import Heartbeat, Load
from hakuriver.runner.bell import Ringer
from hakuriver.runner.heart import READ_EVERY, Heart, differ
from hakuriver.settings import Timing
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk
from hakuriver.spool.layout import Bell, NodePaths, parse_bell

TIMING = Timing(heartbeat_interval=5.0, offline_after=30.0, lease=90.0, poll_interval=1.0)


class Listed(LocalDisk):
    """Notes what is listed and read."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.done: list[str] = []

    def list(self, path: str) -> list[Entry]:
        self.done.append(path)
        return super().list(path)

    def read(self, path: str) -> bytes:
        self.done.append(path)
        return super().read(path)

    def taken(self) -> Iterable[str]:
        done, self.done = self.done, []
        return done


@pytest.fixture
def disk(scratch: Path) -> Listed:
    for path in layout.TREE:
        (scratch / path).mkdir(parents=True)
    (scratch / layout.SENTINEL).touch()
    return Listed(str(scratch))


def beat(disk: Listed, node: str, seq: int, *, epoch: int = 1, ring: bool = True, since: int = 1) -> None:
    """A heartbeat, and the bell that tells of it."""
    directory = Path(disk.root, NodePaths(node).dir("heartbeat"))
    directory.mkdir(parents=True, exist_ok=True)
    document = Heartbeat(node=node, epoch=epoch, seq=seq, term=1, inbox=None, lease_s=90.0, load=Load(), at=1.0)
    Path(disk.root, NodePaths(node).numbered("heartbeat", epoch, seq)).write_text(document.model_dump_json())
    if ring:
        for old in Path(disk.root, layout.BELLS).glob(f"{node}.*"):
            old.unlink()
        Path(disk.root, Bell(node, epoch, seq, 0, since).path).touch()


class Ear:
    """A host's hearing, a second apart."""

    def __init__(self, disk: Listed) -> None:
        self.disk, self.now = disk, 1000.0
        self.hearing = Hearing(disk, TIMING)

    def round(self, seconds: float = 1.0) -> list[str]:
        self.now += seconds
        self.hearing.listen()
        return self.hearing.observe(self.hearing.nodes(self.now), self.now)


def test_names_are_taken_apart() -> None:
    for bell in (Bell("n1", 1, 2, 3, 4), Bell("a.b-c_d.1.2", 10, 0, 0, 0)):
        assert parse_bell(bell.path.rpartition("/")[2]) == bell
    for name in ("n1", "n1.1.2.3", "n1.1.2.3.x", ".1.2.3.4", "N1.1.2.3.4", "a..b.1.2.3.4", "n1.1.2.3.-4"):
        assert parse_bell(name) is None


def test_an_idle_node_costs_nothing_but_the_listing_of_all_bells(disk: Listed) -> None:
    ear = Ear(disk)
    beat(disk, "n1", 1)
    assert ear.round() == ["n1"]
    disk.taken()
    for seq in range(2, 8):
        beat(disk, "n1", seq)
        assert ear.round() == [], "nothing new need be read"
    assert [path for path in disk.taken() if path not in (layout.BELLS, layout.NODES)] == []
    assert ear.hearing.seen["n1"].beat == (1, 7)
    assert ear.hearing.seen["n1"].changes == 7
    assert ear.hearing.seen["n1"].silent_s == 0.0


def test_a_heartbeat_that_tells_something_new_is_read(disk: Listed) -> None:
    ear = Ear(disk)
    beat(disk, "n1", 1)
    ear.round()
    beat(disk, "n1", 2, since=2)
    assert ear.round() == ["n1"]


def test_a_new_epoch_is_read(disk: Listed) -> None:
    ear = Ear(disk)
    beat(disk, "n1", 9)
    ear.round()
    beat(disk, "n1", 1, epoch=2)
    assert ear.round() == ["n1"]
    assert ear.hearing.seen["n1"].beat == (2, 1)


def test_a_node_without_a_bell_is_heard_all_the_same(disk: Listed) -> None:
    ear = Ear(disk)
    for seq in range(1, 5):
        beat(disk, "n1", seq, ring=False)
        assert ear.round() == ["n1"]


def test_bells_that_cannot_be_listed_are_done_without(disk: Listed) -> None:
    ear = Ear(disk)
    beat(disk, "n1", 1)
    os.rename(f"{disk.root}/bells", f"{disk.root}/bells.away")
    Path(disk.root, "bells").touch()  # ENOTDIR, as a stand-in for any error
    for seq in range(2, 5):
        beat(disk, "n1", seq, ring=False)
        assert ear.round() == ["n1"]


def test_a_bell_that_has_stuck_makes_no_node_silent(disk: Listed) -> None:
    """Its heartbeats are looked at when the bell is silent: they are what counts."""
    ear = Ear(disk)
    beat(disk, "n1", 1)
    ear.round()
    for second in range(1, 121):
        if second % 5 == 0:
            beat(disk, "n1", 1 + second // 5, ring=False)
        ear.round()
        assert not ear.hearing.offline("n1")


def test_silence_is_counted_from_the_last_sign(disk: Listed) -> None:
    ear = Ear(disk)
    beat(disk, "n1", 1)
    ear.round()
    for _ in range(31):
        ear.round()
    assert ear.hearing.offline("n1")
    beat(disk, "n1", 2)
    assert ear.round() == ["n1"], "one that comes back is read, whatever its bell says"
    assert not ear.hearing.offline("n1")


def test_events_are_listed_when_the_bell_tells_of_more_and_now_and_then(disk: Listed) -> None:
    ear = Ear(disk)
    assert ear.hearing.rings("n1", (1, 3), 0.0), "it has no bell"
    Path(disk.root, Bell("n1", 1, 5, 3, 1).path).touch()
    ear.hearing.listen()
    assert ear.hearing.rings("n1", (1, 3), 0.5), "it was never listed, or the listing failed"
    ear.hearing.listed("n1", 1.0)
    assert not ear.hearing.rings("n1", (1, 3), 1.5)
    assert ear.hearing.rings("n1", (1, 2), 2.0)
    assert ear.hearing.rings("n1", (1, 3), 1.0 + EVENTS_EVERY_S)


def test_nodes_that_are_off_cost_little(disk: Listed) -> None:
    ear = Ear(disk)
    nodes = [f"n{number}" for number in range(20)]
    for node in nodes:
        beat(disk, node, 1)
    for _ in range(200):
        ear.round()
    disk.taken()
    for _ in range(60):
        ear.round()
    assert len(list(disk.taken())) <= 60 * 6
    beat(disk, "n7", 2)
    assert ear.round() == ["n7"], "one that comes back is heard at once"


# -- the runner's side


def bells(root: str) -> list[str]:
    return sorted(os.listdir(f"{root}/{layout.BELLS}"))


def test_a_node_has_one_bell(disk: Listed) -> None:
    ringer = Ringer(disk)
    for bell in (Bell("n1", 1, 1, 0, 1), Bell("n1", 1, 1, 1, 1), Bell("n1", 1, 2, 1, 1)):
        ringer.ring(partial(Bell._replace, bell))
        assert bells(disk.root) == [bell.path.rpartition("/")[2]]
    Path(disk.root, Bell("n1.x", 1, 1, 1, 1).path).touch()
    Path(disk.root, Bell("n1", 1, 1, 1, 1).path).touch()  # left by a rename that landed late
    Ringer(disk).ring(lambda: Bell("n1", 2, 0, 0, 0))
    assert bells(disk.root) == ["n1.2.0.0.0", "n1.x.1.1.1.1"]


def test_a_bell_that_was_taken_away_comes_back(disk: Listed) -> None:
    ringer = Ringer(disk)
    ringer.ring(lambda: Bell("n1", 1, 1, 0, 1))
    os.unlink(f"{disk.root}/bells/n1.1.1.0.1")
    ringer.ring(lambda: Bell("n1", 1, 2, 0, 1))
    assert bells(disk.root) == ["n1.1.2.0.1"]
    os.unlink(f"{disk.root}/bells/n1.1.2.0.1")
    os.rmdir(f"{disk.root}/bells")  # a river made by an earlier version has none
    ringer.ring(lambda: Bell("n1", 1, 3, 0, 1))
    assert bells(disk.root) == ["n1.1.3.0.1"]


def test_no_bell_is_made_where_the_share_is_not(disk: Listed) -> None:
    os.unlink(f"{disk.root}/{layout.SENTINEL}")
    os.rmdir(f"{disk.root}/bells")
    Ringer(disk).ring(lambda: Bell("n1", 1, 3, 0, 1))
    assert not os.path.exists(f"{disk.root}/bells")


def heart(root: str) -> Heart:
    os.makedirs(f"{root}/nodes/n1/heartbeat")
    return Heart(CrashDisk(root), NodePaths("n1"), 1, TIMING, lambda: 5.0)


def test_since_tells_when_something_worth_reading_came(disk: Listed) -> None:
    one = heart(disk.root)

    def beat(**more: object) -> int:
        base: dict[str, object] = {"node": "n1", "epoch": 1, "term": 1, "inbox": None, "lease_s": 90.0, "load": Load()}
        one.beat(lambda seq: Heartbeat.model_validate({**base, "seq": seq, "at": float(seq), **more}))
        return one.since

    assert beat() == 1
    assert beat(load=Load(cpu_percent=5.0)) == 1
    assert beat(tasks=[("01792345678901234567", None, 1)]) == 3
    assert beat() == 4
    assert beat(load=Load(cpu_percent=50.0)) == 5
    quiet = [beat(load=Load(cpu_percent=50.0)) for _ in range(READ_EVERY)]
    assert quiet == [5] * (READ_EVERY - 1) + [5 + READ_EVERY]


def test_small_changes_of_the_load_do_not_count() -> None:
    def told(**load: float) -> Heartbeat:
        return Heartbeat(
            node="n1", epoch=1, seq=1, term=1, inbox=None, lease_s=90.0, at=1.0,
            load=Load.model_validate({"memory_total_bytes": 100, **load}),
        )  # fmt: skip

    assert not differ(told(), told(cpu_percent=10.0, memory_used_bytes=4, temperature_c=3.0))
    assert differ(told(), told(cpu_percent=20.0))
    assert differ(told(), told(memory_used_bytes=6))
    assert differ(told(), told(temperature_c=40.0))


# -- a heartbeat made by another thread


def content(seq: int) -> Heartbeat:
    return Heartbeat(node="n1", epoch=1, seq=seq, term=1, inbox=None, lease_s=90.0, load=Load(), at=1.0)


def test_a_sweep_leaves_the_heartbeat_that_was_made_during_its_listing(disk: Listed) -> None:
    at = [0.0]

    class Slow(CrashDisk):
        meanwhile: Callable[[], None] | None = None

        def list(self, path: str) -> list[Entry]:
            call, self.meanwhile = self.meanwhile, None
            if call is not None:
                call()
            return super().list(path)

    slow = Slow(disk.root)
    os.makedirs(f"{disk.root}/nodes/n1/heartbeat")
    one = Heart(slow, NodePaths("n1"), 1, TIMING, lambda: at[0])
    for at[0] in (0.0, 61.0):
        one.beat(content)
    one.tidy()

    def repeat() -> None:
        at[0] += 8.0
        assert one.repeat(1.0)

    slow.meanwhile = repeat
    one.sweep()
    assert f"{1:06d}-{one.told:012d}.json" in os.listdir(f"{disk.root}/nodes/n1/heartbeat")


def test_nothing_is_repeated_that_is_not_overdue(disk: Listed) -> None:
    one = heart(disk.root)
    assert not one.repeat(1.0), "there was none"
    one.beat(content)
    assert not one.repeat(1.0), "the round's own came meanwhile"
    assert one.told == 1
