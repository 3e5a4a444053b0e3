"""More than one host: one leads, the others wait and say so; a leader that is gone is succeeded, without any effect."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import eventually
from lab.base import Lab

from share.halting import VERBS
from share.river import HOST, Daemon, River, noted, ticking

pytestmark = pytest.mark.timeout(600)

HALTING = Path(__file__).with_name("halting.py")
#: Verbs tried everywhere: those at which something becomes true for others. All of them: make test-share FS=local.
FEW = ("take", "commit", "dispatch")


@pytest.fixture
def mended(lab: Lab) -> Iterator[None]:
    """The host's machine is not cut off when a test is over."""
    yield
    lab.mend(HOST)


def index_of(river: River) -> dict[str, str]:
    """What the leading host tells of recent jobs: id and state."""
    import json

    text = river.client.do("read", path=river.client.path("index/recent.json"))
    return {row["job"]: row["state"] for row in json.loads(text)["jobs"]} if text else {}


def take_over(river: River, term: int) -> None:
    """Wait until the standby leads."""
    eventually(lambda: river.baton().term == term + 1, 120, "the standby takes over", 0.1)
    eventually(lambda: f"leading, term {term + 1}" in river.standby.log, 120, "it says so", 0.1)


def test_a_standby_waits_and_takes_over_from_a_host_that_died(river: River) -> None:
    before = river.submit(noted("echo before"))
    runs = river.submit(ticking(), retries=1)
    river.ended(before)
    river.in_state(runs, "running")
    term = river.baton().term
    marks = river.mark_logs()
    river.standby.start()
    eventually(lambda: "leads" in river.standby.log[marks[repr(river.standby)] :], 60, "the standby says who leads")
    river.beats(3)
    assert river.baton().term == term, "a standby takes nothing from a host that lives"
    river.host.kill()
    meanwhile = [river.submit(noted("echo meanwhile")) for _ in range(3)]
    take_over(river, term)
    for job in meanwhile:
        assert river.ended(job).state == "completed"
    eventually(lambda: index_of(river).get(meanwhile[0]) == "completed", 60, "the index tells of new jobs")
    assert index_of(river)[before] == "completed", "the index was brought up to date from the files"
    river.host.start()
    eventually(
        lambda: "leads" in river.host.log[marks[repr(river.host)] :].rpartition("up")[2], 60, "the old one waits"
    )
    assert river.baton().term == term + 1
    assert (river.job(runs).counts, river.job(runs).tasks[0].attempt) == ({"running": 1}, 1)
    river.check()


def test_of_two_standbys_one_takes_over(river: River) -> None:
    term = river.baton().term
    others = [river.standby, river.third]
    marks = river.mark_logs()
    for other in others:
        other.start()
        eventually(partial(said, other, marks, "this one waits"), 60, f"{other} waits")
    river.host.kill()
    meanwhile = river.submit(noted("echo meanwhile"))
    assert river.ended(meanwhile).state == "completed"
    leading = f"leading, term {term + 1}"
    assert sorted(said(other, marks, leading) for other in others) == [False, True]
    river.beats(2)
    assert river.baton().term == term + 1
    river.check()


def said(daemon: Daemon, marks: dict[str, int], words: str) -> bool:
    """Whether a daemon has logged this since its log was marked."""
    return words in daemon.log[marks[repr(daemon)] :]


def test_a_host_that_is_stopped_lets_another_lead_at_once(river: River) -> None:
    """It hands the baton back: nobody has to wait for a lease."""
    term = river.baton().term
    marks = river.mark_logs()
    river.standby.start()
    eventually(partial(said, river.standby, marks, "this one waits"), 60, "the standby is up")
    river.host.stop()
    stopped_at = time.monotonic()
    take_over(river, term)
    assert time.monotonic() - stopped_at < river.timing["lease"]
    assert river.ended(river.submit(noted("echo on"))).state == "completed"
    river.check()


class Fallen:
    """A host that stops itself before one of its verbs while work comes in, and what befalls it then."""

    def __init__(self, river: River, lab: Lab, verb: str, fate: str) -> None:
        self._river, self._lab, self._fate = river, lab, fate
        machine = river.machines[HOST]
        trigger = f"{machine.state}/halt"
        machine.do("shell", script=f"rm -f {trigger}")
        self.term = river.baton().term + 1
        self.host = Daemon(machine, "host", river.host.config, f"{machine.state}/halting.log", [])
        self.host.argv = [*self.host.argv[:1], str(HALTING), verb, trigger]
        self._marked = len(self.host.log)
        self.host.start()
        eventually(lambda: f"leading, term {self.term}" in self.log, 60, "it leads")
        self.first = [river.submit(noted("echo first")) for _ in range(3)]
        for job in self.first:
            river.ended(job)
        machine.do("write", path=trigger, text="")
        self.meanwhile = [river.submit(noted(f"echo {n}"), array="0-1") for n in range(3)]
        eventually(lambda: stopped(self.host), 60, f"it stops before it can {verb}")

    @property
    def log(self) -> str:
        """What it has said since it was started."""
        return self.host.log[self._marked :]

    @property
    def dies(self) -> bool:
        return self._fate.endswith("killed")

    def befall(self) -> None:
        """Let its fate take its course."""
        if self._fate == "stopped" and self._lab.own_clocks:
            self.host.machine.do("shell", script="date -s '+1 hour'")
        if self._fate.startswith("cut off"):
            self._lab.cut(HOST)
            self.host.send(signal.SIGCONT)
            # What it has asked of the server by then may be done when the network is back, though nobody waits for it.
            eventually(lambda: not stopped(self.host), 30, "it goes on, and waits for the share")
        if self.dies:
            self.host.send(signal.SIGKILL)  # where an operation hangs in the kernel it dies when that comes back

    def come_back(self) -> None:
        """What was stopped or cut off goes on, and is to find that it was succeeded."""
        if self._fate == "stopped":
            self.host.send(signal.SIGCONT)
            if self._lab.own_clocks:
                self.host.machine.do("shell", script="date -s '-1 hour'")
        if self._fate.startswith("cut off"):
            self._lab.mend(HOST)
        if not self.dies:
            eventually(lambda: "stands by" in self.log or "; this one waits" in self.log, 180, "it steps down")

    def end(self) -> None:
        """It is as sound as it may be."""
        if not self.dies:
            assert self.host.running
            assert "Traceback" not in self.log
            self.host.stop()


@pytest.mark.with_faults
@pytest.mark.parametrize(
    "fate", ["stopped", "killed", "cut off", pytest.param("cut off and killed", marks=pytest.mark.with_server)]
)
@pytest.mark.parametrize(
    "verb", [v if v in FEW else pytest.param(v, marks=pytest.mark.with_short_lease) for v in VERBS]
)
def test_a_leader_is_gone_in_the_middle_of(river: River, lab: Lab, mended: None, verb: str, fate: str) -> None:
    river.host.stop()
    fallen = Fallen(river, lab, verb, fate)
    fallen.befall()
    river.standby.start()
    take_over(river, fallen.term)
    for job in fallen.meanwhile:
        assert river.ended(job).counts == {"completed": 2}
    fallen.come_back()
    after = [river.submit(noted("echo after")) for _ in range(3)]
    for job in after:
        assert river.ended(job).state == "completed"
    assert river.baton().term == fallen.term + 1
    fallen.end()
    for job in (*fallen.first, *fallen.meanwhile, *after):
        assert river.client.do("receipt", request=job)["outcome"] == "accepted"
    river.check()


def stopped(daemon: Daemon) -> bool:
    """Whether a process has been stopped by SIGSTOP."""
    status, state, _ = daemon.machine.do("shell", script=f"cut -d' ' -f3 /proc/{daemon.pid}/stat")
    return bool(status == 0 and state.strip() == "T")
