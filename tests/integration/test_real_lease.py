"""Silence, leases and take-over with real processes and short times: never two at once, nothing freed by mistake."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cluster import LOST_AFTER, SHORT, Cluster, ticking, ticks
from conftest import eventually
from daemons import PATIENCE_S, boottime, can_mount, mount, unmount

from hakuriver import client
from hakuriver.spool.access import Share


def until_file(path: Path) -> str:
    """`ticking` that ends with exit code 7 once a file is there, printing a line now and then."""
    return ticking(path.with_suffix(".ticks")).replace("while :;", f"while [ ! -e {path} ] || exit 7;") + "; exit 7"


def never_both(stamps: Path) -> tuple[float, float]:
    """The first attempt's last sign and the second's first; the second must be later."""
    first = [at for _, attempt, at in ticks(stamps) if attempt == 1]
    second = [at for _, attempt, at in ticks(stamps) if attempt == 2]
    assert max(first) < min(second), "both ran at once"
    return max(first), min(second)


def test_a_runner_that_never_comes_back_and_one_that_does(scratch: Path) -> None:
    with Cluster(scratch, timing=SHORT) as river:
        river.start_host()
        runner = river.start_runner("n1", "m1")
        river.start_runner("n2", "m2")
        stamps, end = river.work / "rerun", river.work / "end"
        rerun = river.submit(ticking(stamps), retries=1)
        stays = river.submit(until_file(end), targets=["n1"])
        for job in (rerun, stays):
            river.in_state(job, "running")
        assert river.job(rerun).tasks[0].node == "n1"
        keeper = runner.machine.keepers()
        runner.kill()
        killed_at = boottime()
        moved = river.until(rerun, lambda job: job.tasks and job.tasks[0].attempt == 2 and job.counts.get("running"))
        assert moved.tasks[0].node == "n2"
        assert [(a.attempt, a.node, a.state) for a in moved.tasks[0].earlier] == [(1, "n1", "lost")]
        last, first = never_both(stamps)
        assert last < killed_at + SHORT["lease"], "stopped before the lease was over"
        assert first >= last
        lost = river.in_state(stays, "lost")
        assert (lost.state, lost.exit_code) == ("lost", 125)
        assert "n1" in lost.tasks[0].reason
        assert river.node("n1")["state"] == "offline"
        before = len(ticks(end.with_suffix(".ticks")))
        eventually(lambda: len(ticks(end.with_suffix(".ticks"))) > before + 2)  # what may not be rerun goes on
        runner.start()
        river.in_state(stays, "running")
        assert runner.machine.keepers() == keeper
        end.touch()
        ended = river.ended(stays)
        assert (ended.state, ended.exit_code, ended.tasks[0].attempt) == ("failed", 7, 1)
        assert {attempt for _, attempt, _ in ticks(end.with_suffix(".ticks"))} == {1}
        river.ask("kill", rerun)
        assert river.ended(rerun).tasks[0].attempt == 2
        eventually(lambda: river.node("n1")["state"] == "online")


def test_a_lost_task_that_ended_meanwhile_gets_its_true_ending(scratch: Path) -> None:
    with Cluster(scratch, timing=SHORT) as river:
        river.start_host()
        runner = river.start_runner("n1", "m1")
        end = river.work / "end"
        job = river.submit(f"echo out; while [ ! -e {end} ]; do sleep 0.05; done; exit 5")
        killed = river.submit("sleep 1000")
        for one in (job, killed):
            river.in_state(one, "running")
        runner.kill()
        # It is the only node, so that the host has to prove to itself that the share works.
        for one in (job, killed):
            river.in_state(one, "lost")
        request = river.begin("kill", killed)
        end.touch()
        runner.start()
        ended = river.until(job, lambda found: found.state == "failed")
        assert (ended.exit_code, ended.tasks[0].attempt) == (5, 1)
        assert river.out(job) == "out\n"
        assert river.receipt(request).answers[0].ok, "a kill of a lost task is kept and carried out"
        assert river.until(killed, lambda found: found.state == "killed").tasks[0].attempt == 1


def test_work_that_is_not_claimed_moves_at_once(scratch: Path) -> None:
    with Cluster(scratch, timing={**SHORT, "lease": 60.0}) as river:
        river.start_host()
        frozen = river.start_runner("n1", "m1")
        river.start_runner("n2", "m2")
        frozen.freeze()
        jobs = [river.submit('echo "$HAKURIVER_NODE $HAKURIVER_ATTEMPT"') for _ in range(3)]
        began = time.monotonic()
        for job in jobs:
            assert river.ended(job).state == "completed"
            assert river.out(job) == "n2 1\n"
        assert time.monotonic() - began < 30, "long before the lease"
        assert not list(river.path("nodes/n1/inbox").glob("*.json"))
        frozen.thaw()
        job = river.submit('echo "$HAKURIVER_NODE"', targets=["n1"])
        assert river.ended(job).state == "completed"
        assert not (river.work / jobs[0]).exists()


def test_a_frozen_runner_is_fenced_and_its_attempt_counts_no_more(scratch: Path) -> None:
    """The runner sleeps, the keeper does not: what may be rerun is stopped in time although nobody tells it to."""
    with Cluster(scratch, timing=SHORT) as river:
        river.start_host()
        runner = river.start_runner("n1", "m1")
        river.start_runner("n2", "m2")
        stamps = river.work / "stamps"
        job = river.submit(ticking(stamps), retries=1)
        river.in_state(job, "running")
        runner.freeze()
        river.until(job, lambda found: found.tasks and found.tasks[0].attempt == 2 and found.counts.get("running"))
        never_both(stamps)
        runner.thaw()
        river.online("n1")
        river.beats(3)
        found = river.job(job)
        assert (found.counts, found.tasks[0].attempt, found.tasks[0].node) == ({"running": 1}, 2, "n2")
        river.ask("kill", job)
        assert river.ended(job).state == "killed"


def test_a_host_that_slept_frees_nothing(scratch: Path) -> None:
    with Cluster(scratch, timing=SHORT) as river:
        host = river.start_host()
        runner = river.start_runner("n1", "m1")
        river.start_runner("n2", "m2")
        stamps, end = river.work / "stamps", river.work / "end"
        rerunnable = river.submit(ticking(stamps), retries=1, targets=["n1"])
        silent = river.submit(until_file(end), targets=["n1"])
        for job in (rerunnable, silent):
            river.in_state(job, "running")
        host.freeze()
        frozen_at = boottime()
        eventually(lambda: boottime() > frozen_at + LOST_AFTER + SHORT["offline_after"] + 1)
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


@pytest.mark.parametrize("how", ["unmounted", "renamed"])
def test_a_node_that_is_cut_off_stops_what_may_be_rerun_and_nothing_else(scratch: Path, how: str) -> None:
    """n1's machine loses the share for longer than the lease; host and n2 do not."""
    if how == "unmounted" and not can_mount(scratch):
        pytest.skip("mounts: run the tests as root where mount(8) is allowed")
    with Cluster(scratch, timing=SHORT) as river:
        place = river.directory / "mount-of-m1"
        cut, mend = cutting(river, place, how)
        river.machine("m1", mount=place)
        river.start_host("m0")
        runner = river.start_runner("n1", "m1")
        river.start_runner("n2", "m2")
        stamps, end = river.work / "rerun", river.work / "end"
        rerun = river.submit(ticking(stamps), retries=1, workdir="/")
        stays = river.submit(f"n=0; {counting(end)}; echo end; exit 7", targets=["n1"], workdir="/")
        eventually(lambda: river.out(stays))
        river.in_state(rerun, "running")
        before = runner.pid
        cut()
        cut_at = boottime()
        moved = river.until(rerun, lambda job: job.tasks and job.tasks[0].attempt == 2 and job.counts.get("running"))
        last, _ = never_both(stamps)
        assert last < cut_at + SHORT["lease"]
        assert moved.tasks[0].node == "n2"
        river.in_state(stays, "lost")
        if how == "unmounted":
            assert not list(place.iterdir()), "nothing is made in the empty directory"
        mend()
        river.in_state(stays, "running")
        end.touch()
        ended = river.ended(stays)
        assert (ended.state, ended.exit_code, ended.tasks[0].attempt) == ("failed", 7, 1)
        *numbers, last_line = river.out(stays).splitlines()
        assert last_line == "end"
        assert numbers == [str(n) for n in range(len(numbers))], "output is whole"
        assert (runner.running, runner.pid) == (True, before)
        found = river.job(rerun)
        assert (found.counts, found.tasks[0].attempt) == ({"running": 1}, 2)
        eventually(lambda: river.node("n1").get("state") == "online" and not river.node("n1")["problems"])
        river.ask("kill", rerun)


def counting(end: Path) -> str:
    """Prints 0, 1, 2 ... until a file is there."""
    return f"while [ ! -e {end} ]; do echo $n; n=$((n + 1)); sleep 0.02; done"


def cutting(river: Cluster, place: Path, how: str):  # type: ignore[no-untyped-def]
    """Make a mount path of its own; return what takes it away and what brings it back."""
    if how == "unmounted":
        place.mkdir()
        mount("--bind", str(river.share), str(place))
        river.undo(lambda: unmount(place))
        return lambda: unmount(place), lambda: mount("--bind", str(river.share), str(place))
    place.symlink_to(river.share)
    away = place.with_suffix(".away")
    return lambda: place.rename(away), lambda: away.rename(place)


def test_everybody_cut_off_for_longer_than_the_lease(scratch: Path) -> None:
    """The share itself is away: tasks that may be rerun are fenced, nothing is lost, no retry is spent."""
    with Cluster(scratch, timing=SHORT) as river:
        host = river.start_host()
        runners = [river.start_runner("n1", "m1"), river.start_runner("n2", "m2")]
        stamps, end = river.work / "rerun", river.work / "end"
        rerun = river.submit(ticking(stamps), retries=1, workdir="/")
        stays = river.submit(f"n=0; {counting(end)}; echo end", workdir="/")
        eventually(lambda: river.out(stays))
        river.in_state(rerun, "running")
        pids = [daemon.pid for daemon in (host, *runners)]
        away = river.share.with_suffix(".away")
        river.share.rename(away)
        cut_at = boottime()
        eventually(lambda: boottime() > cut_at + LOST_AFTER + 1)
        first = [at for _, _, at in ticks(stamps)]
        assert first[-1] < cut_at + SHORT["lease"], "fenced before the lease was over"
        with pytest.raises(Exception, match="share"):
            Share(str(river.share)).check()
        assert not river.share.exists(), "nobody makes the root but `init share`"
        away.rename(river.share)
        again = river.until(rerun, lambda job: job.tasks and job.tasks[0].attempt == 2 and job.counts.get("running"))
        never_both(stamps)
        assert [(a.attempt, a.state) for a in again.tasks[0].earlier] == [(1, "fenced")]
        assert again.tasks[0].retries_spent == 0
        end.touch()
        ended = river.ended(stays)
        assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
        *numbers, last_line = river.out(stays).splitlines()
        assert (numbers, last_line) == ([str(n) for n in range(len(numbers))], "end")
        assert [daemon.pid for daemon in (host, *runners) if daemon.running] == pids
        assert client.submit(["true"], shared_dir=str(river.share), receipt_timeout=PATIENCE_S).receipt
        river.ask("kill", rerun)
