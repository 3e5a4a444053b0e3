"""Silence, leases and take-over with real processes and short times: never two at once, nothing freed by mistake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import LOST_AFTER, SHORT, Cluster, ticking, ticks
from conftest import assert_whole, eventually
from daemons import PATIENCE_S, Daemon, boottime, can_mount, mount, unmount

from hakuriver import client, reading
from hakuriver.errors import ShareProblem
from hakuriver.spool import layout
from hakuriver.spool.access import Share


def until_file(path: Path) -> str:
    """`ticking` that ends with exit code 7 once a file is there."""
    return ticking(path.with_suffix(".ticks")).replace("while :;", f"while [ ! -e {path} ] || exit 7;")


def counting(end: Path) -> str:
    """Prints 0, 1, 2 ... until a file is there, then `end`."""
    return f"n=0; while [ ! -e {end} ]; do echo $n; n=$((n + 1)); sleep 0.02; done; echo end; exit 7"


def runs_again(job: reading.Job) -> bool:
    return bool(job.tasks and job.tasks[0].attempt == 2 and job.counts.get("running"))


def last_of_first(stamps: Path) -> float:
    """The last sign of the first attempt; the second's first must be later."""
    first = [at for _, attempt, at in ticks(stamps) if attempt == 1]
    second = [at for _, attempt, at in ticks(stamps) if attempt == 2]
    assert max(first) < min(second), "both ran at once"
    return max(first)


# -- three nodes fall silent at once, each in its own way; the host and n4 go on


class Node:
    """A node with one task that may be rerun elsewhere, and one that may not."""

    def __init__(self, river: Cluster, name: str, runner: Daemon) -> None:
        self.river, self.name, self.runner = river, name, runner
        self.stamps, self.end = river.work / f"{name}.rerun", river.work / f"{name}.end"
        # Two cores each: one is left, and the nodes are filled in the order of their names.
        self.rerun = river.submit(ticking(self.stamps), retries=1, cores=2, workdir="/")
        self.stays = river.submit(counting(self.end), targets=[name], cores=2, workdir="/")
        for job in (self.rerun, self.stays):
            river.in_state(job, "running")
        assert river.job(self.rerun).tasks[0].node == name
        self.keepers = runner.machine.keepers()
        self.pid = runner.pid

    def check_moved(self, silent_at: float) -> None:
        """What may be rerun was stopped in time and runs elsewhere; the rest goes on here, and is told lost."""
        job = self.river.until(self.rerun, runs_again)
        assert job.tasks[0].node == "n4"
        assert [(a.attempt, a.node, a.state) for a in job.tasks[0].earlier] == [(1, self.name, "lost")]
        assert last_of_first(self.stamps) < silent_at + SHORT["lease"], "stopped before the lease was over"
        lost = self.river.in_state(self.stays, "lost")
        assert (lost.state, lost.exit_code) == ("lost", 125)
        assert self.name in lost.tasks[0].reason
        eventually(lambda: self.river.node(self.name)["state"] == "offline")

    def check_back(self) -> None:
        """Back again: the lost task is corrected, and its output is whole; the other attempt counts."""
        self.river.in_state(self.stays, "running")
        self.end.touch()
        ended = self.river.until(self.stays, lambda job: job.state == "failed")
        assert (ended.exit_code, ended.tasks[0].attempt) == (7, 1)
        assert_whole(self.river.out(self.stays))
        assert self.runner.machine.keepers() == self.keepers
        eventually(
            lambda: self.river.node(self.name)["state"] == "online" and not self.river.node(self.name)["problems"]
        )
        again = self.river.job(self.rerun)
        assert (again.counts, again.tasks[0].attempt, again.tasks[0].node) == ({"running": 1}, 2, "n4")
        assert {(node, attempt) for node, attempt, _ in ticks(self.stamps)} == {(self.name, 1), ("n4", 2)}
        assert self.runner.running


class Silence:
    """The river in which they fell silent."""

    def __init__(self, river: Cluster) -> None:
        self.river = river
        place = river.directory / "mount-of-m3"
        cut, self.mend = cutting(river, place)
        river.machine("m3", mount=place)
        self.place = place
        river.start_host("m0")
        runners = river.start_runners({"n1": "m1", "n2": "m2", "n3": "m3"}, cores=5)
        self.killed, self.frozen, self.cut = (Node(river, name, runners[name]) for name in ("n1", "n2", "n3"))
        river.start_runner("n4", "m4", cores=8)
        self.killed.runner.kill()
        self.frozen.runner.freeze()
        cut()
        self.began_at = boottime()
        #: These go to nodes that do not claim them any more.
        self.unclaimed = [river.submit('echo "$HAKURIVER_NODE $HAKURIVER_ATTEMPT"', targets=[]) for _ in range(3)]
        for node in (self.killed, self.frozen, self.cut):
            node.check_moved(self.began_at)


def cutting(river: Cluster, place: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Make a mount path of its own; return what takes it away and what brings it back."""
    if not can_mount(river.directory):
        place.symlink_to(river.share)
        away = place.with_suffix(".away")
        return lambda: place.rename(away), lambda: away.rename(place)
    place.mkdir()
    mount("--bind", str(river.share), str(place))
    river.undo(lambda: unmount(place))
    return lambda: unmount(place), lambda: mount("--bind", str(river.share), str(place))


@pytest.fixture(scope="module")
def shared(module_scratch: Path) -> Iterator[Silence]:
    with Cluster(module_scratch, timing=SHORT) as river:
        yield Silence(river)


@pytest.fixture
def silence(shared: Silence) -> Iterator[Silence]:
    yield shared
    shared.river.show_logs()


def test_unclaimed_work_of_a_silent_node_moves(silence: Silence) -> None:
    for job in silence.unclaimed:
        assert silence.river.ended(job).state == "completed"
        assert silence.river.out(job) == "n4 1\n", "an attempt that was never claimed does not count"


def test_a_runner_that_was_killed_and_started_late(silence: Silence) -> None:
    silence.killed.runner.start()
    silence.killed.check_back()


def test_a_runner_that_slept(silence: Silence) -> None:
    """The keeper does not sleep: what may be rerun was stopped in time although nobody told it to."""
    silence.frozen.runner.thaw()
    silence.frozen.check_back()
    assert silence.frozen.runner.pid == silence.frozen.pid


def test_a_machine_that_lost_its_mount(silence: Silence) -> None:
    assert not silence.place.exists() or not list(silence.place.iterdir()), "nothing is made where the share is not"
    silence.mend()
    silence.cut.check_back()
    assert silence.cut.runner.pid == silence.cut.pid, "it goes on by itself"


# -- one at a time


def test_a_lost_task_that_ended_meanwhile_gets_its_true_ending(scratch: Path) -> None:
    """It is the only node, so that the host has to prove to itself that the share works."""
    with Cluster(scratch, timing=SHORT) as river:
        river.start_host()
        runner = river.start_runner("n1")
        end = river.work / "end"
        job = river.submit(f"echo out; while [ ! -e {end} ]; do sleep 0.05; done; exit 5")
        killed = river.submit("sleep 1000")
        for one in (job, killed):
            river.in_state(one, "running")
        runner.kill()
        for one in (job, killed):
            river.in_state(one, "lost")
        request = river.begin("kill", killed)
        end.touch()
        runner.start()
        ended = river.until(job, lambda found: found.state == "failed")
        assert (ended.exit_code, ended.tasks[0].attempt) == (5, 1)
        assert river.out(job) == "out\n"
        answers = [(a.task, a.ok) for a in river.receipt(request).answers]
        assert answers == [(killed, True)], "a kill of a lost task is kept and carried out"
        assert river.until(killed, lambda found: found.state == "killed").tasks[0].attempt == 1


def test_a_host_that_slept_frees_nothing(scratch: Path) -> None:
    timing = {**SHORT, "lease": 10.0}  # for the time without a runner
    with Cluster(scratch, timing=timing) as river:
        host = river.start_host()
        runner = river.start_runners({"n1": "m1", "n2": "m2"})["n1"]
        stamps, end = river.work / "stamps", river.work / "end"
        rerunnable = river.submit(ticking(stamps), retries=1, targets=["n1"])
        silent = river.submit(until_file(end), targets=["n1"])
        for job in (rerunnable, silent):
            river.in_state(job, "running")
        host.freeze()
        frozen_at = boottime()
        asleep = timing["lease"] + timing["lease_margin"] + timing["offline_after"]
        eventually(lambda: boottime() > frozen_at + asleep)
        runner.kill()  # silent from now on: the host's sleep must not be added to this
        host.thaw()
        river.beats(2)
        assert [river.job(job).counts for job in (rerunnable, silent)] == [{"running": 1}] * 2
        runner.start()
        river.online("n1")
        river.beats(2)
        for job in (rerunnable, silent):
            assert (river.job(job).counts, river.job(job).tasks[0].attempt) == ({"running": 1}, 1)
        assert {(node, attempt) for node, attempt, _ in ticks(stamps)} == {("n1", 1)}
        end.touch()
        assert river.ended(silent).exit_code == 7
        river.ask("kill", rerunnable)


def test_a_host_that_was_succeeded_steps_down_and_has_no_effect(scratch: Path) -> None:
    with Cluster(scratch, timing=SHORT) as river:
        first = river.start_host("m1")
        river.start_runner("n1", "m2")
        running = river.submit("sleep 1000", retries=1)
        river.in_state(running, "running")
        second = river.host("m3").start()
        eventually(lambda: "leads" in second.log, PATIENCE_S)
        river.beats(2)
        assert river.baton().term == 1, "a standby takes nothing from a host that lives"
        first.freeze()
        eventually(lambda: river.baton().term == 2, PATIENCE_S)
        during = river.submit("echo during")
        assert river.ended(during).state == "completed"
        first.thaw()
        eventually(lambda: "stands by" in first.log, PATIENCE_S)
        after = [river.submit(f"echo {n}") for n in range(10)]
        river.all_ended(after)
        assert [river.out(job) for job in after] == [f"{n}\n" for n in range(10)]
        assert river.baton().term == 2
        assert first.running
        assert "Traceback" not in first.log
        assert (river.job(running).counts, river.job(running).tasks[0].attempt) == ({"running": 1}, 1)
        second.kill()
        eventually(lambda: river.baton().term == 3, PATIENCE_S)
        again = river.submit("echo again")
        assert river.ended(again).state == "completed"
        river.ask("kill", running)
        named = [job for receipt in river.receipts() for job in receipt["ids"]]
        assert sorted(named) == sorted([running, during, *after, again])


#: What Python runs as it starts: removing an output takes as long as on a slow share.
SLOW_REMOVALS = """
import time
from hakuriver.spool import files

remove = files.LocalDisk.remove

def slow(disk, path):
    if path.startswith("task_outputs/"):
        time.sleep(0.02)
    remove(disk, path)

files.LocalDisk.remove = slow
"""


def test_a_collection_longer_than_the_lease_costs_no_lead(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, count = scratch / "slow", int(2.5 * SHORT["lease"] / 0.02)
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW_REMOVALS)
    with Cluster(scratch, timing=SHORT) as river:
        for number in range(count):
            river.path(layout.stdout_path(f"{int((time.time() - 7200) * 1000):013d}{number:07d}", None, 1)).touch()
        monkeypatch.setenv("PYTHONPATH", str(slow))
        first = river.start_host("m1")
        second = river.host("m2").start()
        monkeypatch.undo()
        river.start_runner("n1", "m3")
        eventually(lambda: "leads" in second.log, PATIENCE_S)
        request, begun, jobs = river.begin("gc", older_than="1h"), boottime(), []
        while client.read_receipt(Share(str(river.share)), request) is None:
            jobs.append(river.submit("echo meanwhile"))
            assert river.ended(jobs[-1]).state == "completed"
        assert boottime() - begun > 2 * SHORT["lease"]
        assert river.receipt(request).text == f"deleted 0 jobs, {count} outputs, 0 receipts"
        assert [river.out(job) for job in jobs] == ["meanwhile\n"] * len(jobs)
        assert len(jobs) > 5, "jobs do not wait for it"
        assert (river.baton().term, first.running, second.running) == (1, True, True)


def test_everybody_cut_off_for_longer_than_the_lease(scratch: Path) -> None:
    """The share itself is away: tasks that may be rerun are fenced, nothing is lost, no retry is spent."""
    with Cluster(scratch, timing=SHORT) as river:
        host = river.start_host()
        runners = river.start_runners({"n1": "m1", "n2": "m2"})
        stamps, end = river.work / "rerun", river.work / "end"
        rerun = river.submit(ticking(stamps), retries=1, workdir="/")
        stays = river.submit(counting(end), workdir="/")
        eventually(lambda: river.out(stays))
        river.in_state(rerun, "running")
        pids = [daemon.pid for daemon in (host, *runners.values())]
        away = river.share.with_suffix(".away")
        river.share.rename(away)
        cut_at = boottime()
        eventually(lambda: boottime() > cut_at + LOST_AFTER + 1)
        assert ticks(stamps)[-1][2] < cut_at + SHORT["lease"], "fenced before the lease was over"
        with pytest.raises(ShareProblem, match="mount the share"):
            Share(str(river.share)).check()
        assert not river.share.exists(), "nobody makes the root but `init share`"
        away.rename(river.share)
        again = river.until(rerun, runs_again)
        last_of_first(stamps)
        assert [(a.attempt, a.state) for a in again.tasks[0].earlier] == [(1, "fenced")]
        assert again.tasks[0].retries_spent == 0
        end.touch()
        ended = river.ended(stays)
        assert (ended.exit_code, ended.tasks[0].attempt) == (7, 1)
        assert_whole(river.out(stays))
        assert [daemon.pid for daemon in (host, *runners.values()) if daemon.running] == pids
        assert client.submit(["true"], shared_dir=str(river.share), receipt_timeout=PATIENCE_S).receipt
        river.ask("kill", rerun)
