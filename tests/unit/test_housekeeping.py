"""Housekeeping deletes what is old enough, a slice at a time, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hakuriver.host.door import Asked
from hakuriver.host.housekeeping import Housekeeping
from hakuriver.settings import Retention
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk, ShareAway, ShareError
from hakuriver.spool.layout import Taken

NOW = 1_800_000_000.0
DAY_S = 86400.0
#: What an operation costs.
EACH_S = 0.01


def job_of(days: float, number: int = 0) -> str:
    """The id of a job of so many days ago."""
    return f"{int((NOW - days * DAY_S) * 1000):013d}{number:07d}"


def asked(name: str = "gc.json") -> Asked:
    return Asked("entry", Taken(job_of(0), name), 0, "gc", None, None)


class SlowDisk(LocalDisk):
    """Every operation takes its time on a clock of its own; some removals fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.clock = 1000.0
        self.removed: list[str] = []
        self.broken: set[str] = set()

    def list(self, path: str) -> list[Entry]:
        self.clock += EACH_S
        return sorted(super().list(path))

    def remove(self, path: str) -> None:
        self.clock += EACH_S
        if path in self.broken:
            raise ShareError("remove", path, OSError(errno.EIO, "Input/output error"))
        self.removed.append(path)
        super().remove(path)


class House:
    """A share with old and new things, and its housekeeping."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in layout.TREE:
            (root / path).mkdir(parents=True)
        self.put(layout.SENTINEL)
        self.disk = SlowDisk(root)
        self.active: set[str] = set()
        self.keeping = Housekeeping(
            self.disk, Retention(), self.active.__contains__, lambda: self.disk.clock
        )  # fmt: skip

    def put(self, path: str) -> str:
        """An empty file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).touch()
        return path

    @contextmanager
    def away(self) -> Iterator[None]:
        """The share is not mounted: what is left is an empty directory."""
        elsewhere = self.root.with_name("away")
        self.root.rename(elsewhere)
        self.root.mkdir()
        yield
        self.root.rmdir()
        elsewhere.rename(self.root)

    def job(self, job: str, tasks: int = 0) -> list[str]:
        """A finished job with its outputs and its receipt; their paths."""
        outputs = [layout.stdout_path(job, k, 1) for k in range(tasks)] or [layout.stdout_path(job, None, 1)]
        paths = [layout.snapshot_path(layout.DONE, job, 1, 1), *outputs, layout.receipt(job)]
        return [self.put(path) for path in paths]

    def there(self, paths: list[str]) -> list[str]:
        return [path for path in paths if (self.root / path).exists()]

    def until_removed(self, path: str) -> None:
        """Go on by single operations until this is gone."""
        while path not in self.disk.removed:
            self.keeping.go_on(0.0)

    def finish(self) -> list[str]:
        """Go on to the end; what is answered."""
        while self.keeping.busy:
            self.keeping.go_on(1.0)
            if answers := self.keeping.answers():
                return [text for _, text in answers]
        return []


@pytest.fixture
def house(scratch: Path) -> House:
    return House(scratch / "share")


def test_each_kind_goes_after_its_own_retention(house: House) -> None:
    old, month, week, new = job_of(31), job_of(29.9, 1), job_of(8, 2), job_of(6, 3)
    paths = {job: house.job(job) for job in (old, month, week, new)}
    house.keeping.ask(NOW)
    assert house.finish() == [], "nobody has asked"
    assert house.there(paths[old]) == []
    assert house.there(paths[month]) == paths[month][:2]
    assert house.there(paths[week]) == paths[week][:2]
    assert house.there(paths[new]) == paths[new]
    assert house.keeping.gone() == [old]
    assert house.keeping.gone() == []
    assert not (house.root / layout.done_bucket(old)).exists()


def test_a_slice_takes_no_longer_than_it_may(house: House) -> None:
    jobs = [job_of(40, number) for number in range(100)]
    for job in jobs:
        house.job(job)
    house.keeping.ask(NOW, None, asked())
    slices, texts = 0, []
    while house.keeping.busy:
        before = house.disk.clock
        house.keeping.go_on(5.5 * EACH_S)
        assert house.disk.clock - before < 7.5 * EACH_S, "one operation more, of two calls at most"
        texts += [text for _, text in house.keeping.answers()]
        slices += 1
    assert texts == ["deleted 100 jobs, 100 outputs, 100 receipts"]
    assert 300 / 7 < slices < 320 / 5


def test_a_slice_of_no_time_gets_on_all_the_same(house: House) -> None:
    gone = house.job(job_of(40))
    house.keeping.ask(NOW)
    for _ in range(20):
        house.keeping.go_on(0.0)
    assert house.there(gone) == []
    assert not house.keeping.busy


def test_what_comes_to_life_meanwhile_keeps_the_rest(house: House) -> None:
    """Its directory was listed before: each file is looked at once more."""
    job = job_of(40)
    paths = house.job(job, tasks=3)
    house.keeping.ask(NOW)
    house.until_removed(paths[1])
    house.active.add(job)
    house.finish()
    assert house.there(paths) == paths[2:]


def test_what_is_over_again_meanwhile_stays_until_the_next_time(house: House) -> None:
    first, job = job_of(41), job_of(40)
    begun, paths = house.job(first), house.job(job)
    house.keeping.ask(NOW)
    house.until_removed(begun[0])
    house.active.add(job)
    newer = house.put(layout.snapshot_path(layout.DONE, job, 1, 7))
    house.active.remove(job)
    house.keeping.ended(job)
    house.finish()
    assert house.keeping.gone() == [first], "the index is to show it still"
    assert house.there([*paths, newer]) == [*paths, newer]
    house.keeping.ask(NOW)
    house.finish()
    assert house.there([*paths, newer]) == []


def test_what_cannot_be_deleted_is_told_and_holds_nothing_up(house: House) -> None:
    stuck, other = house.job(job_of(41)), house.job(job_of(40, 1))
    house.disk.broken.add(stuck[1])
    house.put(f"{layout.RECEIPTS}/{job_of(42)}/somebody's own")
    house.keeping.ask(NOW, None, asked())
    (text,) = house.finish()
    assert text.startswith("deleted 2 jobs, 1 outputs, 2 receipts; 2 could not be deleted, the first: ")
    assert f"cannot remove {stuck[1]}: Input/output error" in text
    assert house.there([*stuck, *other]) == [stuck[1]]


def test_a_share_that_goes_away_is_waited_for(house: House) -> None:
    """Its empty mount point holds nothing to delete; that is not the answer."""
    paths = [path for number in range(5) for path in house.job(job_of(40, number))]
    house.keeping.ask(NOW, None, asked())
    house.until_removed(paths[0])
    with house.away():
        with pytest.raises(ShareAway):
            while house.keeping.busy:
                house.keeping.go_on(1.0)
        assert house.keeping.answers() == []
    assert len(house.finish()) == 1
    assert house.there(paths) == []


def test_what_seems_gone_while_the_share_is_away_is_not_told_as_deleted(house: House) -> None:
    """Between two ticks it is back, and no operation has failed: what a slice has not deleted is done once more."""
    jobs = [job_of(40, number) for number in range(5)]
    paths = [path for job in jobs for path in house.job(job)]
    house.keeping.ask(NOW, None, asked())
    house.until_removed(paths[0])
    with house.away(), pytest.raises(ShareAway):
        house.keeping.go_on(3.5 * EACH_S)
    assert house.finish() == ["deleted 5 jobs, 5 outputs, 5 receipts"]
    assert house.there(paths) == []
    assert set(house.keeping.gone()) == set(jobs)


def test_each_request_is_answered_for_itself(house: House) -> None:
    house.job(job_of(40))
    house.job(job_of(3, 1))
    house.keeping.ask(NOW)
    house.keeping.ask(NOW, 2 * DAY_S, asked("one.json"))
    house.keeping.ask(NOW, 2 * DAY_S, asked("two.json"))
    house.keeping.go_on(1e9)
    told = [(each.taken.name, text) for each, text in house.keeping.answers()]
    assert told == [
        ("one.json", "deleted 1 jobs, 1 outputs, 1 receipts"), ("two.json", "deleted 0 jobs, 0 outputs, 0 receipts")
    ]  # fmt: skip
    assert not house.keeping.busy
