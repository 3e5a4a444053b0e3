"""Finished jobs are found though a listing misses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from riverfiles import RiverFiles, row

from hakuriver.host import finished
from hakuriver.host.finished import Finished
from hakuriver.ids import new_job_id
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk


class Forgetful(LocalDisk):
    """Lists nothing of jobs/done/, as a network filesystem may for a while."""

    def list(self, path: str) -> list[Entry]:
        return [] if path.startswith(layout.DONE) else super().list(path)


class Misses(LocalDisk):
    """Leaves every entry of jobs/done/ out of some listings."""

    def __init__(self, root: str, *missing: int) -> None:
        """`missing`: which listings, from 0 on."""
        super().__init__(root)
        self._missing = missing
        self._listings = 0

    def list(self, path: str) -> list[Entry]:
        number, self._listings = self._listings, self._listings + 1
        return [] if number in self._missing else super().list(path)


@pytest.fixture
def river(scratch: Path) -> RiverFiles:
    return RiverFiles(scratch / "river")


def placed(river: RiverFiles, job: str) -> str:
    return str(river.snapshot(job, row(), done=True).relative_to(river.root))


def test_what_this_host_has_just_finished_is_known_by_its_name(river: RiverFiles) -> None:
    mine, others = new_job_id(), new_job_id()
    known = Finished(Forgetful(str(river.root)))
    known.add(mine, placed(river, mine))
    placed(river, others)
    found = known.load(mine)
    assert found is not None
    assert found.ending()[0] == "completed"
    assert known.load(others) is None


def test_what_was_collected_meanwhile_is_gone(river: RiverFiles) -> None:
    job = new_job_id()
    known = Finished(LocalDisk(str(river.root)))
    known.add(job, placed(river, job))
    river.root.joinpath(placed(river, job)).unlink()
    for path in river.root.joinpath(layout.DONE).rglob("*.json"):
        path.unlink()
    assert known.load(job) is None


def test_only_so_many_are_remembered(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "RECENT_MOST", 2)
    jobs = [new_job_id() for _ in range(3)]
    known = Finished(Forgetful(str(river.root)))
    for job in jobs:
        known.add(job, placed(river, job))
    assert [known.load(job) is not None for job in jobs] == [False, True, True]


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 2), (1, 3)])
def test_what_a_listing_misses_is_looked_for_again(river: RiverFiles, missing: tuple[int, ...]) -> None:
    job = new_job_id()
    placed(river, job)
    known = Finished(Misses(str(river.root), *missing))
    assert known.known(job)
    assert known.load(job) is not None
