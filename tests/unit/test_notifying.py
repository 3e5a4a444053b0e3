"""What a service manager is told, over real sockets; and when the watchdog is fed."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import eventually
from daemonclock import Clock

from hakuriver import daemons, notifying
from hakuriver.daemons import Saying, Stop
from hakuriver.host import daemon as host_daemon
from hakuriver.host.environments import Environments
from hakuriver.ids import new_job_id
from hakuriver.keeper.client import KeeperClient
from hakuriver.notifying import Manager
from hakuriver.runner import daemon as runner_daemon
from hakuriver.settings import Settings
from hakuriver.spool.files import LocalDisk, ShareAway, ShareError

log = logging.getLogger("hakuriver.test")


class Listener:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def told(self) -> list[str]:
        """All that it was told so far."""
        while True:
            try:
                self.heard.append(self._socket.recv(8192).decode())
            except BlockingIOError:
                return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Listener]:
    made = Listener(str(scratch / "notify") if request.param == "file" else f"@hakuriver-test-{os.getpid()}")
    yield made
    made.close()


def test_it_is_told_what_the_protocol_knows(listener: Listener) -> None:
    manager = Manager(listener.address)
    manager.doing("leading,\n term 3")
    manager.takes_longer(1.5)
    manager.up()
    manager.up()
    manager.takes_longer(1.5)
    manager.feed()
    manager.hindered("the share has not answered")
    manager.goes_on()
    manager.stopping("tasks go on")
    assert listener.told() == [
        "STATUS=leading, term 3", "EXTEND_TIMEOUT_USEC=1500000", "READY=1", "WATCHDOG=1",
        "STATUS=the share has not answered", "STATUS=leading, term 3", "STOPPING=1", "STATUS=tasks go on",
    ]  # fmt: skip


def test_readiness_that_could_not_be_told_is_told_later(scratch: Path) -> None:
    manager = Manager(str(scratch / "later"))
    manager.up()
    listener = Listener(str(scratch / "later"))
    manager.up()
    manager.doing("ü" * 5000)
    ready, status = listener.told()
    assert ready == "READY=1"
    assert len(status.encode()) < 4096
    listener.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nobody/listens"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    manager = Manager(address)
    manager.up()
    manager.doing("x")
    manager.feed()


def test_the_environment_forgets_the_manager(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", listener.address)
    monkeypatch.setenv("WATCHDOG_USEC", "180000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    manager = notifying.manager()
    assert manager.watchdog_s == 180.0
    manager.up()
    assert listener.told() == ["READY=1"]
    names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
    assert not os.environ.keys() & set(names)
    there = f"import os; print(len(os.environ.keys() & set({names})))"
    assert subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.mark.parametrize(("every", "pid"), [("", ""), ("0", ""), ("x", ""), ("-5", ""), ("3000000", "1")])
def test_a_watchdog_that_is_none_or_anothers_is_none(every: str, pid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", every)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notifying.manager().watchdog_s is None


# -- the daemon's part


@pytest.fixture
def watched(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stop, Listener]]:
    """The main thread's part of a daemon under a manager that wants to hear from it every 40 ms."""
    monkeypatch.setattr(daemons, "HANGING_S", 0.05)
    listener = Listener(str(scratch / "notify"))
    stop = Stop(Manager(listener.address, watchdog_s=0.04))
    events, teller = os.pipe()
    minding = threading.Thread(target=daemons._mind, args=(events, stop, log), daemon=True)
    minding.start()
    yield stop, listener
    os.write(teller, b"\0")
    minding.join(10)
    listener.close()


def test_the_watchdog_is_fed_for_good_rounds_alone(watched: tuple[Stop, Listener]) -> None:
    stop, listener = watched
    stop.good_round()
    eventually(lambda: "WATCHDOG=1" in listener.told())
    assert listener.heard == ["READY=1", "WATCHDOG=1"]
    time.sleep(0.2)  # nothing may come, however long
    assert listener.told().count("WATCHDOG=1") == 1
    with pytest.raises(OSError), stop.at_work():
        raise OSError(5, "the share")
    time.sleep(0.1)
    assert listener.told().count("WATCHDOG=1") == 1
    stop.good_round()
    eventually(lambda: listener.told().count("WATCHDOG=1") == 2)
    assert listener.heard.count("READY=1") == 1


def test_idleness_does_not_starve_the_watchdog(scratch: Path) -> None:
    settings = Settings.model_validate({"paths": {"shared_dir": str(scratch)}, "node": {"name": "n1"}})
    stop = Stop(Manager(watchdog_s=0.04))
    leading = host_daemon.Ticking(settings, stop)
    leading._environments = Environments(
        LocalDisk(str(scratch)), settings, "c", now=time.time, new_id=new_job_id, tell=lambda index: None
    )
    working = runner_daemon.Ticking(settings, stop)
    keeper = KeeperClient(str(scratch / "keeper"), output_limit=1000)
    before = time.monotonic()
    leading._pause(30.0)
    working._pause(keeper, 30.0, listening=False)
    assert time.monotonic() - before < 15
    assert Stop().rest_s(300.0) == 300.0, "nobody watches"


def test_a_round_that_hangs_shows_and_feeds_nothing(watched: tuple[Stop, Listener]) -> None:
    stop, listener = watched
    Saying(log, manager=stop.manager).say("leading, term 3")
    with stop.at_work():
        eventually(lambda: any("has not answered" in line for line in listener.told()))
    eventually(lambda: listener.told()[-1] == "STATUS=leading, term 3")
    assert "WATCHDOG=1" not in listener.heard


def test_a_start_waits_for_the_share_and_then_takes_its_time(watched: tuple[Stop, Listener], scratch: Path) -> None:
    stop, listener = watched
    share = scratch / "share"
    share.mkdir()
    disk = LocalDisk(str(share))
    waiting = threading.Thread(
        target=daemons.wait_for_share, args=(disk, stop, Saying(log, manager=stop.manager)), daemon=True
    )
    waiting.start()
    eventually(lambda: any("not mounted here" in line for line in listener.told()))
    assert not any(line.startswith("EXTEND") for line in listener.heard), "then systemd tries to mount it again"
    (share / "river.json").write_text(
        '{"format": 1, "cluster": "c", "cluster_id": "0123456789abcdef", "created_at": 1}'
    )
    waiting.join(20)
    eventually(lambda: any(line == "EXTEND_TIMEOUT_USEC=60000000" for line in listener.told()))
    assert not {"READY=1", "WATCHDOG=1"} & set(listener.heard)


FULL = ShareError("write", "x", OSError(errno.ENOSPC, "full"))


def extensions(listener: Listener) -> int:
    return sum(line.startswith("EXTEND") for line in listener.told())


def test_a_start_that_hangs_or_loses_the_share_gets_no_more_time(watched: tuple[Stop, Listener]) -> None:
    stop, listener = watched
    stop.found = True
    with stop.at_work():
        eventually(lambda: any("has not answered" in line for line in listener.told()))
        before = extensions(listener)
        time.sleep(0.2)  # nothing may come, however long
        assert extensions(listener) == before > 0
        stop.answered()
        eventually(lambda: extensions(listener) > before)
    stop.bad_round(ShareAway("/mnt/share"))
    fed = listener.told().count("WATCHDOG=1")
    stop.bad_round(FULL)  # what it feeds tells that a look has begun since then: none from before is under way
    eventually(lambda: listener.told().count("WATCHDOG=1") > fed)
    before = extensions(listener)
    time.sleep(0.2)  # nothing may come, however long
    assert extensions(listener) == before


def test_a_long_round_in_which_the_share_answers_is_a_good_one(
    watched: tuple[Stop, Listener], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    stop, listener = watched
    monkeypatch.setattr(daemons, "LONG_S", 0.02)
    clock = Clock(monkeypatch)
    disk = LocalDisk(str(scratch), stop.answered)

    def look() -> bool:
        disk.list("")
        clock.at += daemons.HANGING_S / 4
        clock.looked_at()
        return listener.told().count("WATCHDOG=1") > 10 and clock.at - 1000 > 2 * daemons.HANGING_S

    def fed_by(call: Callable[[], object]) -> int:
        before = listener.told().count("WATCHDOG=1")
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            call()
            time.sleep(0.001)
        return listener.told().count("WATCHDOG=1") - before

    with stop.at_work():
        eventually(look, every_s=0.001)
        assert not any("has not answered" in line for line in listener.heard)
        telling = threading.Thread(target=lambda: told.append(fed_by(lambda: disk.list(""))))
        told: list[int] = []
        telling.start()
        telling.join()
        assert told[0] <= 1, "another thread's calls say nothing of this round; one sign may have been left"
        monkeypatch.setattr(daemons, "LOST_S", 0.1)
        assert fed_by(lambda: disk.list("")) == 0, "it does not end"
    assert fed_by(lambda: disk.list("")) == 0, "no round"


def test_a_share_that_is_full_has_answered(watched: tuple[Stop, Listener]) -> None:
    stop, listener = watched
    stop.found = True
    stop.bad_round(FULL)
    eventually(lambda: "WATCHDOG=1" in listener.told())
    assert stop.found and "READY=1" not in listener.heard


@pytest.mark.parametrize("journal", [True, False])
def test_the_journal_gets_priorities_instead_of_times(journal: bool, scratch: Path) -> None:
    code = (
        "import logging, os, sys; from hakuriver import daemons; s = os.fstat(2)\n"
        f"os.environ['JOURNAL_STREAM'] = f'{{s.st_dev}}:{{s.st_ino}}' if {journal} else '1:2'\n"
        "daemons._set_up_logging(sys.argv[1])\n"
        "[logging.log(level, 'said') for level in (20, 30, 40)]"
    )
    ran = subprocess.run([sys.executable, "-c", code, scratch / "log"], stderr=subprocess.PIPE, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert len(lines) == 3
    if journal:
        assert lines == ["<6>said", "<4>said", "<3>said"]
    else:
        assert lines[1].endswith(" WARNING said")
    assert "ERROR said" in (scratch / "log").read_text()
