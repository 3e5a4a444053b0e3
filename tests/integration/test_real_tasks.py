"""What a task gets and how it ends, on a river of two nodes that see the share at different places."""

from __future__ import annotations

import contextlib
import random
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, status_of, ticking, ticks
from conftest import eventually
from daemons import CANARY, MIB
from processes import alive

from hakuriver.errors import HakuRiverError
from hakuriver.spool import layout

CORES = 4  #: of each node


@pytest.fixture(scope="module")
def shared(module_scratch: Path) -> Iterator[Cluster]:
    """One river for all tests of this file; n2 sees the share through a link."""
    with Cluster(module_scratch) as made:
        elsewhere = module_scratch / "mounted elsewhere"
        elsewhere.symlink_to(made.share)
        made.machine("m2", mount=elsewhere)
        made.start_host()
        made.start_runner("n1", "m1", CORES)
        made.start_runner("n2", "m2", CORES)
        yield made


@pytest.fixture
def river(shared: Cluster) -> Iterator[Cluster]:
    """The river, empty, with its logs since the test began."""
    yield shared
    for daemon in shared.daemons:
        daemon.thaw()
    shared.show_logs()


def settle(river: Cluster, *jobs: str) -> None:
    """End jobs that would go on for ever."""
    river.ask("kill", *jobs)


def wait_for(path: Path) -> str:
    """A script that waits until a file is there."""
    return f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.02; done"


# -- what a task gets


def test_environment_is_what_was_asked_for_and_a_small_default(river: Cluster) -> None:
    job = river.submit(
        ["env"], targets=["n2"], cores=2, memory="100M", env={"GIVEN": "a b=c", "LANG": "C"}, array="5-6"
    )
    assert river.ended(job).state == "completed"
    found = dict(line.split("=", 1) for line in river.out(job, 6).splitlines())
    mount = str(river.machine("m2").mount)
    assert found.items() >= {
        "GIVEN": "a b=c", "LANG": "C", "OMP_NUM_THREADS": "2", "HAKURIVER_TASK_ID": f"{job}-6", "HAKURIVER_JOB_ID": job,
        "HAKURIVER_TASK_INDEX": "6", "HAKURIVER_ATTEMPT": "1", "HAKURIVER_NODE": "n2", "HAKURIVER_CORES": "2",
        "HAKURIVER_MEMORY_BYTES": "100000000", "HAKURIVER_SHARED_DIR": mount,
    }.items()  # fmt: skip
    assert Path(found["HOME"]).is_dir()
    assert found["USER"]
    assert "/usr/bin" in found["PATH"].split(":")
    assert set(found) - {
        "GIVEN", "LANG", "OMP_NUM_THREADS", "PATH", "HOME", "USER", "TMPDIR", "HAKURIVER_TASK_ID", "HAKURIVER_JOB_ID",
        "HAKURIVER_TASK_INDEX", "HAKURIVER_ATTEMPT", "HAKURIVER_NODE", "HAKURIVER_CORES", "HAKURIVER_MEMORY_BYTES",
        "HAKURIVER_SHARED_DIR", "HAKURIVER_LOCAL_TEMP_DIR", "HAKURIVER_KEEPER",
    } == set()  # fmt: skip
    assert not CANARY.keys() & found.keys()


def test_threads_of_openmp_may_be_chosen(river: Cluster) -> None:
    job = river.submit('echo "$OMP_NUM_THREADS"', cores=2, env={"OMP_NUM_THREADS": "7"})
    assert river.ended(job).state == "completed"
    assert river.out(job) == "7\n"


def test_scratch_space_is_there_and_not_on_the_share(river: Cluster) -> None:
    job = river.submit('cd "$TMPDIR" && : >probe.$$ && rm probe.$$ && cd "$HAKURIVER_LOCAL_TEMP_DIR" && pwd -P')
    assert river.ended(job).state == "completed", river.out(job, stream="err")
    assert not river.out(job).startswith(str(river.share))


def test_no_descriptor_but_three_and_stdin_is_empty(river: Cluster) -> None:
    job = river.submit("cat; echo end of stdin; ls -l /proc/self/fd")
    assert river.ended(job).state == "completed"
    end, *listing = river.out(job).splitlines()
    assert end == "end of stdin"
    assert {line.split()[8]: line.split()[10] for line in listing if " -> " in line}["0"] == "/dev/null"
    links = [line.split(" -> ")[1] for line in listing if " -> " in line]
    assert not [link for link in links if link.startswith((str(river.share), "socket:", "anon_inode"))], listing


def test_working_directory_is_shared_data_of_the_node_s_own_mount(river: Cluster) -> None:
    (river.share / "shared_data" / "input").write_text("what users keep there\n")
    job = river.submit('cat input; readlink /proc/$$/cwd; cd "$HAKURIVER_SHARED_DIR" && cat river.json', targets=["n2"])
    assert river.ended(job).state == "completed", river.out(job, stream="err")
    lines = river.out(job).splitlines()
    assert lines[0] == "what users keep there"
    assert Path(lines[1]) == (river.share / "shared_data").resolve()
    assert "cluster_id" in lines[2]


def test_working_directory_may_be_named(river: Cluster) -> None:
    place = river.work / "with a space"
    place.mkdir(exist_ok=True)
    job = river.submit(["/bin/pwd"], workdir=str(place))
    assert river.ended(job).state == "completed"
    assert river.out(job) == f"{place}\n"


def test_streams_are_kept_apart_and_byte_for_byte(river: Cluster) -> None:
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096); sys.stderr.write('err\\n')"
    job = river.submit([sys.executable, "-S", "-c", script])
    assert river.ended(job).state == "completed"
    assert river.path(f"task_outputs/{job}.out").read_bytes() == bytes(range(256)) * 4096
    assert river.out(job, stream="err") == "err\n"


def test_output_comes_while_the_task_runs(river: Cluster) -> None:
    go = river.work / "go-on-and-end"
    job = river.submit(f"echo first; echo oops >&2; {wait_for(go)}; echo second")
    eventually(lambda: river.out(job) == "first\n" and river.out(job, stream="err") == "oops\n")
    assert not river.job(job).over
    go.touch()
    assert river.ended(job).state == "completed"
    assert river.out(job) == "first\nsecond\n"


# -- how it ends


@pytest.mark.parametrize(
    ("command", "state", "code", "cause", "exit_code"),
    [
        (["/bin/sh", "-c", "exit 7"], "failed", 7, "exit", 7),
        (["/bin/sh", "-c", "kill -9 $$"], "failed", None, "signal", 137),
        (["/bin/sh", "-c", "kill -11 $$"], "failed", None, "signal", 139),
        (["no-such-program"], "failed", 127, "launch", 127),
        (["/etc/passwd"], "failed", 126, "launch", 126),
    ],
)
def test_endings_of_its_own(
    river: Cluster, command: list[str], state: str, code: int | None, cause: str, exit_code: int
) -> None:
    ended = river.ended(river.submit(command))
    task = ended.tasks[0]
    assert (ended.state, ended.exit_code) == (state, exit_code), task.reason
    assert (task.state, task.exit_code, task.cause, task.attempt) == (state, code, cause, 1)


def test_working_directory_that_is_not_there(river: Cluster) -> None:
    ended = river.ended(river.submit(["true"], workdir="/no/such/place"))
    assert (ended.state, ended.exit_code, ended.tasks[0].cause) == ("failed", 126, "launch")
    assert "/no/such/place" in ended.tasks[0].reason


def test_what_it_used_is_recorded(river: Cluster) -> None:
    script = "import time; x = b'x' * (50 << 20)\nwhile time.process_time() < 0.3: pass"
    task = river.ended(river.submit([sys.executable, "-S", "-c", script], memory="500M")).tasks[0]
    assert task.state == "completed"
    assert 0.3 <= task.cpu_s < 5
    assert task.wall_s >= 0.3
    assert task.peak_memory_bytes is not None
    assert 50 * MIB < task.peak_memory_bytes < 500 * MIB
    assert task.started_at is not None
    assert task.ended_at is not None
    assert 0.2 < task.ended_at - task.started_at < 60


def test_time_limit(river: Cluster) -> None:
    ended = river.ended(river.submit("sleep 1000", time_limit=0.6))
    assert (ended.state, ended.exit_code) == ("failed", 124)
    assert ended.tasks[0].cause == "time_limit"
    assert ended.tasks[0].wall_s >= 0.6


HUNGRY = """
import subprocess, sys, time
eater = [sys.executable, "-S", "-c", "import time; x = b'x' * (60 << 20); time.sleep(1000)"]
children = [subprocess.Popen(eater) for _ in range(2)]
while all(child.poll() is None for child in children):
    time.sleep(0.05)
sys.exit(1)
"""


def test_memory_limit_is_that_of_the_whole_tree(river: Cluster) -> None:
    """Neither child alone is over the limit."""
    job = river.submit([sys.executable, "-c", HUNGRY], memory="100M")
    ended = river.ended(job)
    assert (ended.state, ended.exit_code) == ("killed_oom", 137)
    assert ended.tasks[0].cause == "oom"


def test_retries_after_failures_until_one_succeeds(river: Cluster) -> None:
    job = river.submit('echo "attempt $HAKURIVER_ATTEMPT"; [ "$HAKURIVER_ATTEMPT" = 3 ]', retries=3)
    ended = river.ended(job)
    task = ended.tasks[0]
    assert (ended.state, task.attempt, task.retries_spent) == ("completed", 3, 2)
    assert [(a.attempt, a.state, a.exit_code) for a in task.earlier] == [(1, "failed", 1), (2, "failed", 1)]
    assert [river.out(job, None, n) for n in (1, 2, 3)] == ["attempt 1\n", "attempt 2\n", "attempt 3\n"]
    assert river.path(f"task_outputs/{job}.2.out").exists()


def test_retries_of_an_array_are_each_task_s_own(river: Cluster) -> None:
    script = 'echo "$HAKURIVER_TASK_INDEX/$HAKURIVER_ATTEMPT"; [ "$HAKURIVER_TASK_INDEX" = 1 ]'
    job = river.submit(script, retries=1, array="0-1")
    ended = river.ended(job)
    assert (ended.state, ended.exit_code, ended.counts) == ("failed", 1, {"completed": 1, "failed": 1})
    assert {task.k: task.attempt for task in ended.tasks} == {0: 2, 1: 1}
    assert river.path(f"task_outputs/{job}/0.2.out").read_text() == "0/2\n"


def test_between_two_attempts_it_is_pending_and_says_which_retry(river: Cluster) -> None:
    go = river.work / "fail-now"
    job = river.submit(f'[ "$HAKURIVER_ATTEMPT" = 1 ] && exit 5; {wait_for(go)}; exit 6', retries=2, targets=["n2"])
    river.until(job, lambda found: found.counts.get("running") and found.tasks[0].attempt == 2)
    river.ask("drain", node="n2")
    try:
        go.touch()
        waiting = river.until(job, lambda found: found.counts.get("pending"))
        assert not waiting.over
        assert "retry 2 of 2" in waiting.tasks[0].reason
    finally:
        river.ask("undrain", node="n2")
    ended = river.ended(job)
    assert (ended.state, ended.exit_code, ended.tasks[0].attempt) == ("failed", 6, 3)


def test_requeue_runs_what_has_ended_once_more(river: Cluster) -> None:
    flag = river.work / "succeed"
    job = river.submit(f"echo run; [ -e {flag} ] || exit 4")
    assert river.ended(job).exit_code == 4
    flag.touch()
    receipt = river.ask("requeue", job)
    assert [(a.task, a.ok) for a in receipt.answers] == [(job, True)]
    ended = river.until(job, lambda found: found.state == "completed")
    assert ended.tasks[0].attempt == 2
    assert [(a.attempt, a.exit_code) for a in ended.tasks[0].earlier] == [(1, 4)]
    assert river.out(job, None, 2) == "run\n"
    assert not river.ask("requeue", "00000000000000000001").answers[0].ok


# -- kill, pause, resume


def test_kill_of_a_tree_that_ignores_term(river: Cluster) -> None:
    pids = river.work / "stubborn"
    job = river.submit(f"trap '' TERM; sleep 1000 & echo $! $$ >{pids}; while :; do sleep 0.1; done")
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    began = time.monotonic()
    receipt = river.ask("kill", job)
    assert [(a.task, a.ok, a.outcome) for a in receipt.answers] == [(job, True, "killed")]
    assert time.monotonic() - began >= 1.0, "the grace is given"
    ended = river.ended(job)
    assert (ended.state, ended.exit_code, ended.tasks[0].signal) == ("killed", 128 + signal.SIGKILL, signal.SIGKILL)
    assert not [pid for pid in pids.read_text().split() if alive(int(pid))]


def stubborn(river: Cluster, on_term: str = "") -> str:
    """A job that does not end by TERM, and knows so by now."""
    job = river.submit(f"trap '{on_term}' TERM; echo ready; while :; do sleep 0.05; done")
    eventually(lambda: river.out(job) == "ready\n")
    return job


def test_kill_with_a_grace_of_its_own(river: Cluster) -> None:
    quick, slow, hastened = stubborn(river, "echo asked"), stubborn(river), stubborn(river)
    first = river.begin("kill", hastened, grace=600)
    receipt = river.ask("kill", quick, grace=0)
    assert [(a.ok, a.outcome) for a in receipt.answers] == [(True, "killed")]
    began = time.monotonic()
    assert river.ask("kill", slow, grace="2s").answers[0].ok
    assert time.monotonic() - began >= 2.0
    assert not river.job(hastened).over
    assert river.ask("kill", hastened, grace=0).answers[0].outcome == "killed"
    assert river.receipt(first).answers[0].outcome == "killed", "who asked first hears of it too"
    assert {river.ended(job).state for job in (quick, slow, hastened)} == {"killed"}
    assert river.out(quick) == "ready\n", "nobody asked it with TERM first"


def test_kill_leaves_time_to_clean_up(river: Cluster) -> None:
    job = river.submit("trap 'echo cleaned; exit 9' TERM; echo ready; while :; do sleep 0.05; done", retries=3)
    eventually(lambda: river.out(job) == "ready\n")
    river.ask("kill", job)
    ended = river.ended(job)
    assert (ended.state, ended.tasks[0].attempt, ended.tasks[0].exit_code) == ("killed", 1, 9), "no retry after a kill"
    assert river.out(job) == "ready\ncleaned\n"


def test_kill_of_a_pending_task(river: Cluster) -> None:
    blocker = river.submit("sleep 1000", targets=["n1"], cores=CORES)
    river.in_state(blocker, "running")
    job = river.submit("echo never", targets=["n1"], array="0-2")
    river.in_state(job, "pending")
    receipt = river.ask("kill", f"{job}-1")
    assert [(a.task, a.ok, a.outcome) for a in receipt.answers] == [(f"{job}-1", True, "killed")]
    assert river.until(job, lambda found: found.counts.get("killed") == 1).counts == {"pending": 2, "killed": 1}
    settle(river, blocker, job)
    ended = river.ended(job)
    assert ended.counts == {"killed": 3}
    assert not river.path(f"task_outputs/{job}").exists()


def test_kill_of_an_assigned_task_whose_runner_does_not_answer(river: Cluster) -> None:
    runner = river.daemons[2]
    runner.freeze()
    job = river.submit("sleep 1000", targets=["n2"])
    river.in_state(job, "assigning")
    request = river.begin("kill", job)
    river.beats(3)
    assert not river.job(job).over
    runner.thaw()
    receipt = river.receipt(request)
    assert [(a.ok, a.outcome) for a in receipt.answers] == [(True, "killed")]
    assert river.ended(job).state == "killed"


def test_pause_stops_the_tree_and_resume_lets_it_go_on(river: Cluster) -> None:
    stamps = river.work / "paused"
    job = river.submit(ticking(stamps))
    eventually(lambda: len(ticks(stamps)) > 2)
    assert river.ask("pause", job).answers[0].ok
    river.in_state(job, "paused")
    before = len(ticks(stamps))
    river.beats(2)
    assert len(ticks(stamps)) == before
    assert not river.ask("pause", "00000000000000000001").answers[0].ok
    assert river.ask("resume", job).answers[0].ok
    eventually(lambda: len(ticks(stamps)) > before + 2)
    river.in_state(job, "running")
    assert river.ask("pause", job).answers[0].ok
    assert river.ask("kill", job).answers[0].ok
    assert river.ended(job).state == "killed"


def test_pause_of_what_does_not_run_says_so(river: Cluster) -> None:
    job = river.submit(["true"])
    river.ended(job)
    answer = river.ask("pause", job).answers[0]
    assert not answer.ok
    assert answer.outcome


def test_a_kill_that_races_with_the_end_tells_the_ending_that_stands(river: Cluster) -> None:
    chance = random.Random(11)
    jobs = [river.submit(f"sleep {chance.uniform(0.0, 1.2):.3f}; exit {n % 2}") for n in range(24)]
    kills = {}
    for job in chance.sample(jobs, len(jobs)):
        kills[job] = river.begin("kill", job)
        time.sleep(0.03)  # kills that are spread over the time in which the tasks end
    for n, job in enumerate(jobs):
        ended = river.ended(job)
        [answer] = river.receipt(kills[job]).answers
        assert answer.ok == (ended.state == "killed"), (answer, ended)
        if ended.state != "killed":
            assert ended.exit_code == n % 2
            assert ended.state in answer.outcome
        assert ended.tasks[0].attempt <= 1


def test_kill_of_what_is_over_or_unknown_changes_nothing(river: Cluster) -> None:
    job = river.submit("exit 3")
    river.ended(job)
    receipt = river.ask("kill", job, "00000000000000000001")
    assert {answer.task: answer.ok for answer in receipt.answers} == {job: False, "00000000000000000001": False}
    assert "failed" in next(answer.outcome for answer in receipt.answers if answer.task == job)
    assert river.job(job).exit_code == 3


def test_touched_file_kills(river: Cluster) -> None:
    job = river.submit("sleep 1000", array="0-1")
    river.in_state(job, "running")
    river.path(f"incoming/{job}-1.kill").touch()
    river.until(job, lambda found: found.counts.get("killed") == 1)
    eventually(lambda: river.path(f"receipts/{job}-1.kill.json").exists())
    assert river.task(f"{job}-0").state == "running"
    river.path(f"incoming/{job}.kill").touch()
    assert river.ended(job).counts == {"killed": 2}


# -- where and when it runs


def test_targets_get_a_task_each_and_multiply_with_an_array(river: Cluster) -> None:
    script = 'echo "$HAKURIVER_NODE $HAKURIVER_TASK_INDEX"'
    plain, both = river.submit(script, targets=["n2", "n1"]), river.submit(script, targets=["n2", "n1"], array="5-6")
    assert river.ended(plain).counts == {"completed": 2}
    assert [river.out(plain, k) for k in (0, 1)] == ["n2 0\n", "n1 1\n"]
    assert river.ended(both).counts == {"completed": 4}
    assert [river.out(both, k) for k in range(4)] == ["n2 5\n", "n2 6\n", "n1 5\n", "n1 6\n"]


def test_unknown_target_is_refused_with_those_known(river: Cluster) -> None:
    with pytest.raises(HakuRiverError, match="n1, n2"):
        river.submit(["true"], targets=["n9"], receipt_timeout=30)


def test_array_with_a_bound_never_runs_more_at_once(river: Cluster) -> None:
    log = river.work / "bounded"
    # Tasks wait for their neighbour, so that two must be there at once.
    script = f"""
        here={log}.$HAKURIVER_TASK_INDEX other={log}.$((HAKURIVER_TASK_INDEX ^ 1))
        echo "+ $HAKURIVER_TASK_INDEX" >>{log}; : >"$here"
        while [ ! -e "$other" ]; do sleep 0.02; done
        sleep 0.1; echo "- $HAKURIVER_TASK_INDEX" >>{log}"""
    job = river.submit(script, array="0-9%2")
    assert river.ended(job).counts == {"completed": 10}
    now = most = 0
    for line in log.read_text().splitlines():
        now += 1 if line[0] == "+" else -1
        most = max(most, now)
    assert (now, most) == (0, 2)


def test_order_is_priority_then_admission(river: Cluster) -> None:
    log, go = river.work / "order", river.work / "start-the-others"
    blocker = river.submit(wait_for(go), targets=["n1"], cores=CORES)
    river.in_state(blocker, "running")
    wanted = [("low", -10), ("first", 0), ("second", 0), ("high", 10)]
    jobs = []
    for name, priority in wanted:
        jobs.append(river.submit(f"echo {name} >>{log}", targets=["n1"], cores=CORES, priority=priority))
        river.in_state(jobs[-1], "pending")
    go.touch()
    river.all_ended(jobs)
    assert log.read_text().split() == ["high", "first", "second", "low"]


def test_a_task_that_fits_passes_one_that_does_not(river: Cluster) -> None:
    blocker = river.submit("sleep 1000", targets=["n1"], cores=CORES - 1)
    river.in_state(blocker, "running")
    large = river.submit(["true"], targets=["n1"], cores=CORES)
    river.in_state(large, "pending")
    small = river.submit(["true"], targets=["n1"])
    assert river.ended(small).state == "completed"
    assert river.job(large).counts == {"pending": 1}
    settle(river, blocker)
    assert river.ended(large).state == "completed"


def test_cores_and_memory_are_not_given_twice(river: Cluster) -> None:
    stamps = river.work / "exclusive"
    stamps.mkdir()
    script = f"[ $(ls {stamps} | wc -l) -lt 2 ] && : >{stamps}/$$ && sleep 0.1 && rm {stamps}/$$"
    by_cores = river.submit(script, targets=["n1"], cores=2, array="0-5")
    assert river.ended(by_cores).counts == {"completed": 6}
    by_memory = river.submit(script, targets=["n1"], cores=1, memory="2G", array="0-5")
    assert river.ended(by_memory).counts == {"completed": 6}


def test_drain_lets_tasks_finish_and_takes_back_what_is_not_claimed(river: Cluster) -> None:
    go = river.work / "finish"
    runner = river.daemons[2]
    blocker = river.submit("sleep 1000", targets=["n1"], cores=CORES)
    running = river.submit(wait_for(go), targets=["n2"])
    for job in (blocker, running):
        river.in_state(job, "running")
    runner.freeze()
    free = river.submit('echo "$HAKURIVER_NODE $HAKURIVER_ATTEMPT"')
    river.in_state(free, "assigning")
    river.ask("drain", node="n2")
    river.in_state(free, "pending")
    runner.thaw()
    new = river.submit(["true"], targets=["n2"])
    river.in_state(new, "pending")
    eventually(lambda: river.node("n2").get("state") == "draining")
    assert river.job(running).counts == {"running": 1}
    go.touch()
    assert river.ended(running).state == "completed"
    settle(river, blocker)
    assert river.ended(free).state == "completed"
    assert river.out(free) == "n1 1\n", "the attempt that was never claimed does not count"
    assert river.job(new).counts == {"pending": 1}
    river.ask("undrain", node="n2")
    assert river.ended(new).state == "completed"


def test_reindex_makes_index_and_pages_anew(river: Cluster) -> None:
    job = river.submit(["true"])
    river.ended(job)
    told = [river.path(path) for path in (layout.RECENT_INDEX, layout.ending_file(job), layout.page("tasks.html"))]

    def all_tell() -> bool:
        return all(path.exists() and job in path.read_text() for path in told)

    eventually(all_tell)
    (database,) = river.directory.rglob("index.db")
    with contextlib.closing(sqlite3.connect(database)) as index, index:
        assert index.execute("delete from jobs where job = ?", [job]).rowcount == 1
    for path in told:
        path.unlink()
    assert river.ask("reindex").outcome == "done"
    eventually(all_tell)
    with contextlib.closing(sqlite3.connect(database)) as index:
        assert index.execute("select count(*) from jobs where job = ?", [job]).fetchone() == (1,)


def test_nothing_is_left_lying(river: Cluster) -> None:
    """After all tests of this file: no request, no dispatch, no event and no local output remains."""

    def left() -> list[Path]:
        parts = ("inbox", "claimed", "revoked", "events")
        places = [river.path("incoming"), river.path("host/taken")]
        places += [river.path(f"nodes/{node}/{part}") for node in ("n1", "n2") for part in parts]
        local = [path for machine in river.machines.values() for path in machine.state.rglob("out/*")]
        written = [path for path in local if (status := status_of(path)) and status.st_size]
        return [path for place in places for path in place.iterdir()] + written

    try:
        eventually(lambda: not left(), 30.0, every_s=0.5)
    except AssertionError:
        raise AssertionError(f"left over: {left()}") from None
