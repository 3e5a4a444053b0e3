"""What users do, on whatever filesystem: dropped by hand and by command, arrays, kill, pause, retry, restarts, logs."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import assert_whole, eventually
from lab.base import AHEAD_S, Lab

from hakuriver.ids import task_name
from share.river import NODES, STANDBY, River, counting, finish, noted, ticking

pytestmark = pytest.mark.timeout(600)


def test_a_file_dropped_by_hand_and_a_command(river: River) -> None:
    """The file is copied onto the share in place, as `cp` does; the answer comes under its own name."""
    job = {"command": ["/bin/sh", "-c", noted("echo by hand")], "workdir": "/", "env": river.lab.environment}
    text, path = shlex.quote(json.dumps(job)), river.client.path("incoming/mine.json")
    status, _, said = river.client.do("shell", script=f"umask 022; printf %s {text} >{path}")
    assert status == 0, said
    receipt = river.receipt("mine")
    assert receipt["outcome"] == "accepted", receipt
    by_hand = receipt["ids"][0]
    river.submitted.append(by_hand)
    status, out, said = river.client.do("cli", argv=river.submit_argv(noted("echo by command")))
    assert status == 0, said
    by_command = out.split()[0][:20]
    river.submitted.append(by_command)
    for one, what in ((by_hand, "by hand"), (by_command, "by command")):
        assert river.ended(one).state == "completed"
        assert river.out(one) == f"{what}\n"
    river.check()


def test_an_array_over_both_nodes(river: River) -> None:
    job = river.submit(noted("echo $HAKURIVER_TASK_INDEX; exit $((HAKURIVER_TASK_INDEX % 3))"), array="0-29")
    ended = river.ended(job)
    assert (ended.counts, ended.exit_code) == ({"completed": 10, "failed": 20}, 1)
    assert {task.node for task in ended.tasks} == set(NODES)
    assert [river.out(job, k) for k in range(30)] == [f"{k}\n" for k in range(30)]
    river.check()


def test_kill_what_runs_and_what_waits(river: River) -> None:
    runs = river.submit(ticking(), cores=4, targets=["n1"])
    river.in_state(runs, "running")
    waits = river.submit(noted(""), cores=4, targets=["n1"])
    river.until(waits, lambda job: job.state == "pending")
    touched = river.client.path(f"incoming/{waits}.kill")
    status, _, said = river.client.do("shell", script=f"umask 022; : >{touched}")
    assert status == 0, said
    assert river.receipt(f"{waits}.kill")["answers"][0]["ok"]
    request = river.ask("kill", runs)
    assert river.receipt(request)["answers"][0]["ok"]
    assert [river.ended(job).exit_code for job in (runs, waits)] == [143, 143]
    assert [len(river.runs_of(job)) for job in (runs, waits)] == [1, 0]
    last = river.runs_of(runs)[0].last
    river.beats(2)
    assert river.runs_of(runs)[0].last == last, "it does not run on"
    river.check()


def test_pause_and_resume(river: River) -> None:
    job = river.submit(ticking())
    river.in_state(job, "running")
    assert river.receipt(river.ask("pause", job))["answers"][0]["ok"]
    river.in_state(job, "paused")
    stood = river.runs_of(job)[0].last
    river.beats(2)
    assert river.runs_of(job)[0].last == stood
    assert river.receipt(river.ask("resume", job))["answers"][0]["ok"]
    eventually(lambda: river.runs_of(job)[0].last > stood, 60, "it runs on")
    river.receipt(river.ask("kill", job))
    river.ended(job)
    river.check()


def test_a_task_that_fails_is_tried_again(river: River) -> None:
    job = river.submit(noted("echo $HAKURIVER_ATTEMPT; [ $HAKURIVER_ATTEMPT = 3 ]"), retries=5)
    ended = river.ended(job)
    assert (ended.state, ended.tasks[0].attempt, ended.tasks[0].retries_spent) == ("completed", 3, 2)
    assert [river.out(job, None, attempt) for attempt in (1, 2, 3)] == ["1\n", "2\n", "3\n"]
    river.check()


def test_the_output_of_a_running_task_is_followed_live(river: River, lab: Lab) -> None:
    job = river.submit(counting())
    river.in_state(job, "running")
    argv = [sys.executable, "-m", "hakuriver", "task", "logs", "--follow", job]
    environment = ["env", f"HAKURIVER_SHARED_DIR={river.client.share}"]
    command = lab.command(STANDBY, [*environment, *argv])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as follower:
        assert follower.stdout is not None
        first = [follower.stdout.readline() for _ in range(5)]
        assert first == [f"{n}\n" for n in range(5)]
        assert not river.job(job).over, "it was read while the task ran"
        finish(river, job)
        rest = follower.stdout.read()
        assert follower.wait(60) in (0, 7)
    assert_whole("".join(first) + rest)
    assert river.ended(job).exit_code == 7
    assert_whole(river.out(job))
    river.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_each_daemon_starts_again_under_running_tasks(river: River, number: int) -> None:
    stays = [river.submit(counting(), targets=[node]) for node in NODES]
    rerun = [river.submit(ticking(), targets=[node], retries=1) for node in NODES]
    for job in (*stays, *rerun):
        river.in_state(job, "running")
    for daemon in (river.host, *river.runners.values()):
        daemon.send(number)
        daemon.wait(60)
        during = river.submit(noted("echo during"))
        daemon.start()
        river.online(*river.runners)
        assert river.ended(during).state == "completed"
    for job in stays:
        finish(river, job)
        assert river.ended(job).exit_code == 7
        assert_whole(river.out(job))
    for job in rerun:
        river.receipt(river.ask("kill", job))
        assert river.ended(job).tasks[0].attempt == 1
    assert [len(river.runs_of(job)) for job in (*stays, *rerun)] == [1] * 4
    river.check()


def test_who_asked_is_told_by_the_owner_where_owners_are_kept(river: River, lab: Lab) -> None:
    """Elsewhere (SMB, sshfs) all is one user's, and the river is for one user: the doctor says so."""
    if not lab.keeps_owners:
        _, out, said = river.client.do("cli", argv=["doctor", "--json"], patience=120, timeout=110)
        findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
        assert "one user" in findings["mount.owners"]["meaning"] or "ssh user" in findings["mount.owners"]["meaning"], (
            said
        )
        return
    job = shlex.quote(json.dumps({"command": ["true"], "workdir": "/"}))
    made, dropped = river.client.path("shared_data/theirs.json"), river.client.path("incoming/theirs.json")
    script = f"umask 022; printf %s {job} >{made} && chown 65534 {made} && mv {made} {dropped}"
    status, _, said = river.client.do("shell", script=script)
    assert status == 0, said
    receipt = river.receipt("theirs")
    assert receipt["outcome"] == "refused"
    assert "belongs to" in receipt["errors"][0]["message"]


@pytest.mark.with_own_clocks
def test_a_machine_whose_clock_is_an_hour_ahead(river: River) -> None:
    apart = river.machines["c"].do("wall") - river.machines["b"].do("wall")
    assert abs(apart - AHEAD_S) < 60
    jobs = [river.submit(noted("sleep 1; echo there"), targets=[node]) for node in NODES]
    for job in jobs:
        ended = river.ended(job)
        assert ended.state == "completed"
        assert 0.9 < ended.tasks[0].wall_s < AHEAD_S / 2, "as long as it took, on no clock but its own"
        assert river.out(job) == "there\n"
    river.check()


def test_many_small_jobs(river: River) -> None:
    """As from a shell loop; each runs once, each has a receipt."""
    jobs = [river.submit(noted(f"echo {n}")) for n in range(40)]
    for n, job in enumerate(jobs):
        assert river.ended(job, 180).state == "completed"
        assert river.out(job) == f"{n}\n"
        assert river.client.do("receipt", request=job)["outcome"] == "accepted"
    assert sorted(run.task for run in river.runs() if run.task in jobs) == sorted(task_name(job, None) for job in jobs)
    river.check()


def test_the_doctor_finds_it_sound_and_another_node_answers(river: River) -> None:
    began = time.monotonic()
    status, out, said = river.client.do("cli", argv=["doctor", "--with", "n1", "--json"], patience=120, timeout=110)
    assert time.monotonic() - began < 60
    assert status == 0, said
    findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert not [finding for finding in findings.values() if finding["status"] == "broken"]
    assert any(check.startswith("pair.") for check in findings), sorted(findings)
    assert river.names("doctor") == [], "nothing is left"
