"""The thread that tells of jobs and nodes for people."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hakuriver.cli.making import make_river
from hakuriver.host.jobs import Job
from hakuriver.host.telling import Telling
from hakuriver.pages.teller import Teller
from hakuriver.settings import parse
from hakuriver.spool.files import LocalDisk


def told(river: Path) -> list[str]:
    return sorted(str(path.relative_to(river)) for top in ("index", "www") for path in (river / top).rglob("*"))


def telling_of(share: Path, state: Path) -> Telling:
    """Of a new river."""
    river = make_river(str(share), None)
    settings = parse({"paths": {"shared_dir": str(share), "state_dir": str(state)}}, "it")
    return Telling(LocalDisk(str(share)), settings, river.cluster_id)


def test_a_standby_that_is_stopped_tells_nothing_of_what_another_host_leads(scratch: Path) -> None:
    share, state = scratch / "river", scratch / "state"
    telling = telling_of(share, state)
    before = told(share)
    telling.start()
    telling.stop()
    assert told(share) == before
    assert not state.exists()


def test_what_is_deleted_bit_by_bit_is_forgotten_together(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time lists are made anew, and each of the endings that are concerned is written."""
    monkeypatch.setattr("hakuriver.host.telling.ROUND_S", 600.0)
    forgotten: list[list[str]] = []
    begun = threading.Event()
    monkeypatch.setattr(Teller, "rebuild", lambda *_: begun.set())
    monkeypatch.setattr(Teller, "forget", lambda _, jobs: forgotten.append(list(jobs)))
    telling = telling_of(scratch / "river", scratch / "state")
    telling.reindex()
    telling.start()
    assert begun.wait(60.0)
    for job in "abc":
        telling.forget([job])
    telling.stop()
    assert forgotten == [["a", "b", "c"]]


def test_what_is_told_and_deleted_in_one_round_does_not_stay(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(Teller, "tell", lambda _, found, *more: told.append([each["job"] for each in found]))
    telling = telling_of(scratch / "river", scratch / "state")
    gone, back = (Job(f"{number:020d}", 0, "me", number, 1.0, {"command": ["x"]}) for number in (1, 2))
    telling.put([gone.snapshot(), back.snapshot()], {}, (1, 1))
    telling.forget([gone.id, back.id])
    telling.put([back.snapshot()], {}, (1, 2))
    telling.start()
    telling.stop()
    assert told == [[back.id]]
