"""What host and runner have in common: said once, said while the share hangs, and how often to look."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually
from daemonclock import Clock

from hakuriver import daemons
from hakuriver.daemons import Refused, Saying, Stop
from hakuriver.spool.files import ShareAway, ShareError
from hakuriver.spool.pace import PART, QUICK_S, Pace

log = logging.getLogger("hakuriver.test")


def error(number: int, path: str) -> ShareError:
    return ShareError("write", path, OSError(number, os.strerror(number)))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hakuriver.test")


def test_the_same_trouble_is_said_once_whatever_file_it_met(caplog: pytest.LogCaptureFixture) -> None:
    saying = Saying(log)
    for number in range(5):
        saying.say(error(28, f"nodes/n1/heartbeat/{number}.json"))
    assert len(said(caplog)) == 1
    assert "full" in said(caplog)[0]
    saying.say(error(5, "incoming"))
    saying.say(ShareAway("/mnt/share"))
    saying.say("leading, term 1")
    saying.say("leading, term 1")
    saying.say(error(28, "incoming"))
    assert len(said(caplog)) == 5


def test_what_is_forgotten_may_be_said_again(caplog: pytest.LogCaptureFixture) -> None:
    saying = Saying(log, "pages wait: ")
    saying.say(error(28, "www/index.html"))
    saying.forget()
    saying.say(error(28, "www/index.html"))
    assert len(said(caplog)) == 2
    assert all(text.startswith("pages wait: cannot write") for text in said(caplog))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stop]:
    """A stop whose working thread is looked at, in short times."""
    monkeypatch.setattr(daemons, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(daemons, "HANGING_S", 0.05)
    stop = Stop()
    events, teller = os.pipe()
    watcher = threading.Thread(target=daemons._mind, args=(events, stop, log), daemon=True)
    watcher.start()
    yield stop
    os.write(teller, b"\0")
    watcher.join(10)
    assert not watcher.is_alive(), "it ends as soon as there is something to read"


def test_it_is_said_when_the_share_hangs_and_when_it_answers_again(
    watched: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    with watched.at_work():
        eventually(lambda: any("has not answered" in text for text in said(caplog)))
    eventually(lambda: any("answers again" in text for text in said(caplog)))
    with watched.at_work():
        eventually(lambda: sum("has not answered" in text for text in said(caplog)) == 2)


def test_short_rounds_are_not_spoken_of(
    watched: Stop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    for _ in range(8):  # together they are longer than one may be
        with watched.at_work():
            clock.at += daemons.HANGING_S / 4
            clock.looked_at()
        clock.at += daemons.HANGING_S / 4
        clock.looked_at()
    assert said(caplog) == []


def test_the_pause_grows_with_the_time_for_which_nothing_happens() -> None:
    pace = Pace(1.0)
    assert pace.pause_s(1000.0) == 1.0, "nothing has happened yet"
    pace.note(True, 1000.0)
    assert pace.pause_s(1000.0) == QUICK_S
    pace.note(False, 1004.0)
    assert pace.pause_s(1004.0) == pytest.approx(4.0 * PART)
    assert pace.pause_s(1010.0) == 1.0
    assert pace.pause_s(5000.0) == 1.0
    pace.note(True, 5000.0)
    assert pace.pause_s(5000.1) == QUICK_S


def test_an_identity_that_cannot_be_kept(scratch: Path) -> None:
    (scratch / "file").touch()
    with pytest.raises(Refused, match=r"local state cannot be kept in .*: Not a directory; name a directory"):
        daemons.identity(str(scratch / "file/state"), "id", 16, "taken")
