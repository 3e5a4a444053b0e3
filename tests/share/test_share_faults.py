"""What befalls a share: its server, its mounts, the network between, its disk. Nothing is lost, nothing runs twice.

Each time there run, on each node, a task that must not be disturbed (no retries), and tasks that may rerun elsewhere.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import assert_whole, eventually
from lab.base import Lab, LabError
from lab.machine import MachineError

from hakuriver.reading import Job
from share.river import CLIENT, HOST, NODES, River, counting, finish, noted, ticking

pytestmark = [pytest.mark.timeout(900), pytest.mark.with_faults]

#: Seconds for everything to be well again: a server may make its clients wait for 90 s, and they one another.
WELL_S = 240.0


class Load:
    """Work under way, and the daemons that it is in the hands of."""

    def __init__(self, river: River) -> None:
        self.river = river
        self.stays = {node: river.submit(counting(), targets=[node]) for node in NODES}
        self.reruns = [river.submit(ticking(), retries=1) for _ in NODES]
        for job in (*self.stays.values(), *self.reruns):
            river.in_state(job, "running")
        self.pids = {repr(daemon): daemon.pid for daemon in river.daemons if daemon.running}
        self.logs = river.mark_logs()

    def said(self, daemon: Any, words: str) -> bool:
        """Whether a daemon has logged this since."""
        return words in daemon.log[self.logs[repr(daemon)] :]

    def where(self, job: str) -> str:
        """The node that a job's only task runs on."""
        node = self.river.job(job).tasks[0].node
        assert node is not None
        return node

    def end(self) -> dict[str, Job]:
        """After all is mended: new work is done, what stayed comes to its end undisturbed; the jobs that may rerun."""
        river = self.river
        river.all_work(WELL_S)
        after = river.submit(noted("echo after"), array="0-3")
        assert river.ended(after, WELL_S).counts == {"completed": 4}
        for job in self.stays.values():
            finish(river, job)
        for job in self.stays.values():
            # Of nodes that come back one after the other the first may witness for a moment against the rest.
            found = river.until(job, lambda now: now.over and now.state != "lost", WELL_S)
            assert (found.state, found.exit_code, found.tasks[0].attempt) == ("failed", 7, 1), found
            assert_whole(river.out(job))
            assert longest_gap(river, job) < 5.0, "it was disturbed"
        ended = {}
        for job in self.reruns:
            river.until(job, lambda found: found.counts.get("running") == 1, WELL_S)
            river.receipt(river.ask("kill", job), WELL_S)
            ended[job] = river.ended(job, WELL_S)
        river.check()
        for daemon in river.daemons:
            if repr(daemon) in self.pids:
                assert daemon.running, f"{daemon} did not go on by itself"
                assert daemon.pid == self.pids[repr(daemon)]
                assert "Traceback" not in daemon.log[self.logs[repr(daemon)] :]
        return ended

    def attempts(self, ended: dict[str, Job]) -> list[int]:
        """How many attempts each of those took that may rerun."""
        return [job.tasks[0].attempt for job in ended.values()]


def longest_gap(river: River, job: str) -> float:
    """The longest time for which a task gave no sign on its own machine, seconds."""
    name = river.machines[NODES[river.runs_of(job)[0].node]]
    text = name.do("read", path=f"{name.state}/temp/runs/{job}.1")
    stamps = [float(line.split()[1]) for line in text.splitlines()]
    return max(later - earlier for earlier, later in itertools.pairwise(stamps))


def last_for(seconds: float) -> None:
    """Let the fault last: its length is what is tested."""
    time.sleep(seconds)


class Following:
    """Somebody who follows an output."""

    def __init__(self, river: River, job: str) -> None:
        machine = river.client
        self._machine, self._log = machine, f"{machine.state}/followed-{job}"
        argv = [sys.executable, "-m", "hakuriver", "task", "logs", "--follow", job]
        machine.do("start", argv=argv, log=self._log, env={"HAKURIVER_SHARED_DIR": machine.share})

    def reads(self) -> bool:
        """Whether it has shown something."""
        return len((self._machine.do("read", path=self._log) or "").splitlines()) > 3


class Submitting(threading.Thread):
    """A user who submits while things are bad: what was told to be accepted must run; an error is an answer too."""

    def __init__(self, river: River) -> None:
        super().__init__(daemon=True)
        self._river = river
        self.answer: list[Any] = []
        self.start()

    def run(self) -> None:
        argv = self._river.submit_argv(noted("echo meanwhile"))
        try:
            self.answer = self._river.client.do("cli", argv=argv, patience=300, timeout=290)
        except MachineError as error:
            self.answer = [255, "", str(error)]

    def check(self) -> None:
        """It has come to an end, and what it printed is true."""
        self.join(300)
        assert self.answer, "submit hangs for ever"
        status, out, said = self.answer
        assert "Traceback" not in said
        if status == 0:
            job = out.split()[0][:20]
            self._river.submitted.append(job)
            assert self._river.ended(job, WELL_S).state == "completed"
            assert self._river.out(job) == "meanwhile\n"
        else:
            assert said.strip(), "it says why not"


@pytest.fixture
def mended(lab: Lab) -> Iterator[None]:
    """Whatever a test has left broken is mended."""
    yield
    for machine in ("a", "b", "c", "d"):
        try:
            lab.mend(machine)
        except LabError:
            pass  # it was not cut


@pytest.mark.with_server
@pytest.mark.parametrize("seconds", [10, 60])
def test_the_server_is_killed_and_comes_back(river: River, lab: Lab, seconds: int) -> None:
    load = Load(river)
    lab.server_kill()
    submitting = Submitting(river)
    last_for(seconds)
    lab.server_start()
    ended = load.end()
    submitting.check()
    assert all(attempt <= 2 for attempt in load.attempts(ended))
    assert all(job.tasks[0].retries_spent == 0 for job in ended.values()), "nobody's fault"


@pytest.mark.parametrize("machine", [HOST, "b", CLIENT])
def test_a_mount_is_killed_and_mounted_again(river: River, lab: Lab, mended: None, machine: str) -> None:
    load = Load(river)
    lab.mount_kill(machine)
    try:
        if machine == CLIENT:
            status, _, said = river.client.do("cli", argv=["submit", "--no-receipt", "true"])
            assert status != 0
            assert "Traceback" not in said
            assert "mount" in said
        else:
            daemon = next(d for d in river.daemons if d.machine.name == machine and d.running)
            eventually(
                lambda: daemon.log[load.logs[repr(daemon)] :].strip(), 60, f"{daemon} says that the share is away"
            )
            assert daemon.machine.do("names", path=lab.root(machine)) == [], "nothing is made where the share is not"
    except MachineError as error:
        assert "ENOTCONN" in str(error) or "not connected" in str(error), error
    finally:
        lab.remount(machine)
    ended = load.end()
    assert load.attempts(ended) == [1, 1]


def test_a_runner_is_cut_off_for_less_than_the_lease(river: River, lab: Lab, mended: None) -> None:
    load = Load(river)
    lab.cut("b")
    submitting = Submitting(river)
    last_for(river.timing["lease"] * 0.3)
    lab.mend("b")
    submitting.check()
    ended = load.end()
    assert load.attempts(ended) == [1, 1]


def test_a_runner_is_cut_off_for_longer_than_the_lease(river: River, lab: Lab, mended: None) -> None:
    load = Load(river)
    node = load.where(load.reruns[0])
    lab.cut(NODES[node])
    moved = [job for job in load.reruns if load.where(job) == node]
    for job in moved:
        river.until(job, lambda found: found.tasks[0].attempt == 2 and found.tasks[0].state == "running", WELL_S)
        first, second = river.runs_of(job)
        assert (first.node, second.node) != (node, node)
        assert first.last < second.began, "stopped there before it was started here"
    lost = load.stays[node]
    river.in_state(lost, "lost")
    lab.mend(NODES[node])
    river.all_work()
    river.until(lost, lambda found: found.counts.get("running") == 1, WELL_S)
    ended = load.end()
    assert [job.tasks[0].attempt for key, job in ended.items() if key in moved] == [2] * len(moved)
    assert [job.tasks[0].attempt for key, job in ended.items() if key not in moved] == [1] * (2 - len(moved))


def test_a_client_that_follows_outputs_is_cut_off(river: River, lab: Lab, mended: None) -> None:
    """As a laptop that is shut: what it has read is held by nobody else, and nobody waits for it."""
    load = Load(river)
    followers = [Following(river, job) for job in load.stays.values()]
    for follower in followers:
        eventually(follower.reads, 60, "it follows")
    lab.cut(CLIENT)
    river.client = river.machines[HOST]
    try:
        last_for(river.timing["lease"] * 1.5)
        assert [river.job(job).tasks[0].attempt for job in load.reruns] == [1, 1]
        assert all(river.job(job).counts == {"running": 1} for job in load.stays.values())
    finally:
        river.client = river.machines[CLIENT]
        lab.mend(CLIENT)
    ended = load.end()
    assert load.attempts(ended) == [1, 1]


def test_the_host_is_cut_off(river: River, lab: Lab, mended: None) -> None:
    """For longer than lease and margin: it must not take its own silence for the nodes'."""
    load = Load(river)
    lab.cut(HOST)
    waits = river.submit(noted("echo waited"))
    last_for(river.timing["lease"] + river.timing["lease_margin"] + river.timing["offline_after"])
    assert re.search(r"has not answered|cannot|no river\.json", river.host.log[load.logs[repr(river.host)] :])
    lab.mend(HOST)
    assert river.ended(waits, WELL_S).state == "completed"
    ended = load.end()
    assert load.attempts(ended) == [1, 1]
    assert all(not job.tasks[0].earlier for job in ended.values())


def test_all_nodes_are_cut_off_at_once(river: River, lab: Lab, mended: None) -> None:
    """No node can witness for another: the host frees nothing and says so; what may rerun was stopped in time."""
    load = Load(river)
    cut_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    for machine in NODES.values():
        lab.cut(machine)
    eventually(lambda: river.client.do("nodes")["cut_off"], WELL_S, "the host says that it may be the one cut off")
    for job in load.reruns:
        assert river.job(job).tasks[0].attempt == 1
        assert len(river.runs_of(job)) == 1
        assert river.runs_of(job)[0].last < cut_at + river.timing["lease"] + 1.0, "stopped before the lease was over"
    for machine in NODES.values():
        lab.mend(machine)
    ended = load.end()
    assert all(attempt == 2 for attempt in load.attempts(ended))
    # Whoever is back much earlier than the other is its witness: then the other's tasks are lost, which counts.
    earlier = [job.tasks[0].earlier for job in ended.values()]
    assert all(len(attempts) == 1 and attempts[0].state in ("fenced", "lost") for attempts in earlier)
    assert any(attempts[0].state == "fenced" for attempts in earlier)
    assert all(job.tasks[0].retries_spent == (job.tasks[0].earlier[0].state == "lost") for job in ended.values()), (
        "being cut off is nobody's fault"
    )


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_the_export_takes_no_more(river: River, lab: Lab, what: str) -> None:
    load = Load(river)
    began = time.monotonic()
    try:
        (lab.fill if what == "full" else lab.read_only)()
    except LabError as error:
        pytest.skip(f"not to be had on this filesystem: {error}")
    try:
        argv = ["submit", "--no-receipt", "--", "echo", "x" * 100_000]
        # MooseFS tries for two minutes by default before it says that it is full.
        status, _, said = river.client.do("cli", argv=argv, patience=200, timeout=190)
        assert status != 0
        assert "Traceback" not in said
        assert said.strip()
        last_for(river.timing["lease"] * 0.3)
    finally:
        (lab.unfill if what == "full" else lab.read_write)()
    # What may rerun is stopped a grace and a second early; daemons look again a second after a failure.
    shorter = time.monotonic() - began < river.timing["lease"] - river.timing["kill_grace"] - 3.0
    attempts = load.attempts(load.end())
    assert attempts == [1, 1] or (not shorter and max(attempts) <= 2)
