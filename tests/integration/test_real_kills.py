"""Host, runners, keepers and guards are killed while tasks run: every task runs exactly once and ends truly."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from cluster import Cluster
from conftest import eventually
from daemons import Daemon, send
from processes import alive

from hakuriver import client, reading

TASKS = 300
KILLS = 16


def work(files: Path) -> str:
    """Appends a line to the task's own file, takes up to 0.5 s; some print, some fail. N tells which."""
    return f"""
        n=${{N:-$HAKURIVER_TASK_INDEX}}
        echo "$HAKURIVER_ATTEMPT $$" >>{files}/$HAKURIVER_TASK_ID
        [ $((n % 3)) != 0 ] || echo "out $n"
        [ $((n % 5)) != 0 ] || echo "err $n" >&2
        sleep 0.$((n % 6))
        [ $((n % 3)) != 0 ] || echo "end $n"
        [ $((n % 7)) != 0 ] || exit $((n % 3 + 1))"""


def wait_for(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


def submit_all(river: Cluster, script: str) -> dict[str, int]:
    """300 tasks in all the ways there are: task name and number."""
    array = river.submit(script, array="0-199", receipt_timeout=0)
    tasks = {f"{array}-{n}": n for n in range(200)}
    lines = [{"command": ["/bin/sh", "-c", script], "env": {"N": str(n)}} for n in range(200, 250)]
    batch = client.submit_many(lines, shared_dir=str(river.share), receipt_timeout=0)
    tasks.update(zip(batch.jobs, range(200, 250), strict=True))
    tasks.update({river.submit(script, env={"N": str(n)}): n for n in range(250, TASKS)})
    return tasks


def expected(n: int) -> tuple[str, int, str, str]:
    """State, exit code, output and errors of a task."""
    code = n % 3 + 1 if n % 7 == 0 else 0
    out = f"out {n}\nend {n}\n" if n % 3 == 0 else ""
    return "failed" if code else "completed", code, out, f"err {n}\n" if n % 5 == 0 else ""


def kill_at_random(river: Cluster, daemons: list[Daemon], jobs: set[str], chance: random.Random) -> int:
    """Kill one, two or all of them again and again while jobs are not over; how often it was done."""
    for count in range(KILLS):
        pause = chance.uniform(0.2, 1.6)
        try:
            river.all_ended(jobs, pause)
            return count
        except AssertionError:
            victims = chance.sample(daemons, chance.choice([1, 1, 1, 2, 3]))
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.start()
    return KILLS


def test_three_hundred_tasks_while_everything_is_killed(scratch: Path) -> None:
    with Cluster(scratch) as river:
        daemons = [river.start_host(), river.start_runner("n1", cores=4), river.start_runner("n2", "m2", cores=3)]
        tasks = submit_all(river, work(river.work))
        jobs = {task[:20] for task in tasks}
        assert kill_at_random(river, daemons, jobs, random.Random(3)) >= 3
        river.all_ended(jobs, 90.0)
        found = {task.task: task for job in jobs for task in river.job(job).tasks}
        assert found.keys() == tasks.keys()
        for name, n in tasks.items():
            check_task(river, found[name], n)
        check_receipts(river, jobs)


def check_task(river: Cluster, task: reading.Task, n: int) -> None:
    """It ran exactly once, and all that is told of it is true."""
    state, code, out, err = expected(n)
    assert (river.work / task.task).read_text().split()[0] == "1"
    assert len((river.work / task.task).read_text().splitlines()) == 1, "it ran more than once"
    assert (task.state, task.exit_code, task.attempt) == (state, code, 1), task
    assert task.wall_s >= n % 6 / 10
    assert river.out(task.task[:20], task.k) == out
    assert river.out(task.task[:20], task.k, stream="err") == err


def check_receipts(river: Cluster, jobs: set[str]) -> None:
    """One for each request, and they name every job once."""
    receipts = river.receipts("run") + river.receipts("batch")
    named = [job for receipt in receipts for job in receipt["ids"]]
    assert sorted(named) == sorted(jobs)
    assert sum(receipt["tasks"] for receipt in receipts) == TASKS
    assert {receipt["outcome"] for receipt in receipts} == {"accepted"}
    assert not list(river.path("incoming").iterdir())


def test_a_runner_that_is_restarted_neither_kills_nor_forgets(scratch: Path) -> None:
    """n1's is killed, n2's is stopped and started as for an upgrade; tasks end meanwhile."""
    with Cluster(scratch) as river:
        river.start_host()
        runners = list(river.start_runners({"n1": "m1", "n2": "m2"}).values())
        begun = [begin(river, node) for node in ("n1", "n2")]
        keepers = [runner.machine.keepers() for runner in runners]
        runners[0].kill()
        assert runners[1].stop() == 0
        for one in begun:
            one.go.touch()
        eventually(lambda: not any(with_environment(f"HAKURIVER_TASK_ID={one.failing}") for one in begun))
        assert all(alive(one.pid) for one in begun)
        assert [river.job(one.failing).counts for one in begun] == [{"running": 1}] * 2, "nobody can have told"
        for runner in runners:
            runner.start()
        for one in begun:
            check_begun(river, one)
        assert [runner.machine.keepers() for runner in runners] == keepers


class Begun(NamedTuple):
    """Tasks that run on one node."""

    failing: str
    fine: str
    longer: str
    pid: int  #: of the longer one
    go: Path
    later: Path


def begin(river: Cluster, node: str) -> Begun:
    go, later = river.work / f"{node}.go", river.work / f"{node}.later"
    failing = river.submit(f"echo before; {wait_for(go)}; echo after; exit 3", targets=[node])
    fine = river.submit(wait_for(go), retries=2, targets=[node])
    longer = river.submit(f"echo $$; {wait_for(later)}; echo end", targets=[node])
    for job in (failing, fine, longer):
        river.in_state(job, "running")
    eventually(lambda: river.out(longer))
    return Begun(failing, fine, longer, int(river.out(longer)), go, later)


def check_begun(river: Cluster, begun: Begun) -> None:
    """What ended while the runner was away is told truly; what did not goes on under the same process."""
    ended = river.ended(begun.failing)
    assert (ended.state, ended.exit_code, ended.tasks[0].attempt) == ("failed", 3, 1)
    assert river.out(begun.failing) == "before\nafter\n"
    ended = river.ended(begun.fine)
    assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
    assert alive(begun.pid)
    begun.later.touch()
    ended = river.ended(begun.longer)
    assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
    assert river.out(begun.longer) == f"{begun.pid}\nend\n"


def with_environment(text: str) -> list[int]:
    """Living processes that have this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended, or is not ours
    return found


def test_a_host_that_is_killed_while_tasks_run_and_end(scratch: Path) -> None:
    with Cluster(scratch) as river:
        host = river.start_host()
        river.start_runner("n1")
        go = river.work / "go"
        running = river.submit(f"{wait_for(go)}; exit 4", retries=1)
        river.in_state(running, "running")
        host.kill()
        waiting = river.submit("echo accepted later")
        assert river.job(waiting).state == "submitted"
        go.touch()
        eventually(lambda: not with_environment(f"HAKURIVER_TASK_ID={running}"))
        host.start()
        ended = river.ended(running)
        assert (ended.state, ended.exit_code) == ("failed", 4)
        assert [(a.attempt, a.exit_code) for a in ended.tasks[0].earlier] == [(1, 4)]
        assert river.ended(waiting).state == "completed"


def test_a_host_that_is_killed_before_and_as_it_looks_at_what_is_not_to_wait(scratch: Path) -> None:
    with Cluster(scratch) as river:
        host = river.start_host()
        river.start_runner("n1", cores=2)
        mark, chance = f"echo $$ >>{river.work}/$HAKURIVER_TASK_ID", random.Random(7)
        jobs = []
        for pause in (None, 0.0, chance.uniform(0.0, 0.3), chance.uniform(0.0, 0.3)):
            if pause is None:
                host.kill()
            jobs.append(river.submit(mark, array="0-999", no_queue=True, receipt_timeout=0))
            if pause is not None:
                time.sleep(pause)
                host.kill()
            host.start()
            river.ended(jobs[-1])
        for job in jobs:
            told = river.job(job)
            ran = {path.name: path.read_text().splitlines() for path in river.work.glob(f"{job}-*")}
            assert told.counts == {"completed": 2, "failed": 998}
            assert {task.task for task in told.tasks if task.state == "completed"} == ran.keys()
            assert all(len(lines) == 1 for lines in ran.values()), "it ran more than once"
            assert {task.cause for task in told.tasks} == {"exit", "no_queue"}


def test_tasks_die_with_their_keeper(scratch: Path) -> None:
    """n1's keeper is killed, n2's guard and keeper, n3's keeper and runner; of n4 the guard alone."""
    with Cluster(scratch) as river:
        river.start_host()
        runners = river.start_runners({node: node for node in ("n1", "n2", "n3", "n4")})
        doomed = [Doomed(river, node, runners[node]) for node in ("n1", "n2", "n3")]
        go = river.work / "go"
        safe = river.submit(wait_for(go), targets=["n4"])
        river.in_state(safe, "running")
        keeper, guard = runners["n4"].machine.keepers(), runners["n4"].machine.guards()
        for one in doomed:
            one.wait_until_running()
        runners["n3"].kill()
        for pid in [*guard, *runners["n2"].machine.guards(), *(one.keeper for one in doomed)]:
            send(pid, signal.SIGKILL)
        eventually(lambda: not any(map(alive, doomed[2].pids)))  # nobody but the guard is left to do it
        runners["n3"].start()
        for one in doomed:
            one.check()
        go.touch()
        ended = river.ended(safe)
        assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
        assert runners["n4"].machine.keepers() == keeper
        assert all(runner.running for runner in runners.values())


class Doomed:
    """Two tasks on one node, of which the second may be run again."""

    def __init__(self, river: Cluster, node: str, runner: Daemon) -> None:
        self._river, self._machine = river, runner.machine
        self.once = river.submit("echo $$; sleep 1000 & wait", targets=[node])
        script = 'echo $$; [ "$HAKURIVER_ATTEMPT" = 2 ] || sleep 1000'
        self.again = river.submit(script, targets=[node], retries=1)
        self.pids: list[int] = []
        self.keeper = 0

    def wait_until_running(self) -> None:
        for job in (self.once, self.again):
            self._river.in_state(job, "running")
        eventually(lambda: self._river.out(self.once) and self._river.out(self.again))
        self.pids = [int(self._river.out(job)) for job in (self.once, self.again)]
        [self.keeper] = self._machine.keepers()

    def check(self) -> None:
        ended = self._river.ended(self.once)
        assert (ended.state, ended.tasks[0].cause, ended.tasks[0].attempt) == ("failed", "keeper_died", 1)
        assert not any(map(alive, self.pids))
        assert not with_environment(f"HAKURIVER_TASK_ID={self.once}")
        ended = self._river.ended(self.again)
        assert (ended.state, ended.tasks[0].attempt, ended.tasks[0].retries_spent) == ("completed", 2, 1)
        assert [(a.attempt, a.state, a.cause) for a in ended.tasks[0].earlier] == [(1, "failed", "keeper_died")]
        assert self._machine.keepers() != [self.keeper]


def test_a_second_daemon_of_the_same_name_is_refused_with_the_remedy(scratch: Path) -> None:
    with Cluster(scratch) as river:
        host, first = river.start_host("m1"), river.start_runner("n1", "m1")
        job = river.submit("sleep 1000")
        river.in_state(job, "running")
        another_host, same = river.host("m1").start(), river.runner("n1", "m1").start()
        stranger = river.runner("n1", "m2").start()
        assert [daemon.exit_status() for daemon in (another_host, same, stranger)] == [1, 1, 1]
        assert "runs on this machine already" in another_host.log
        assert "n1" in same.log
        assert "--name" in same.log
        assert "--name" in stranger.log
        assert "node forget n1" in stranger.log
        assert not [d for d in (another_host, same, stranger) if "Traceback" in d.log]
        assert host.running
        assert first.running
        assert river.job(job).counts == {"running": 1}
        assert river.ended(river.submit(["true"])).state == "completed"
        first.stop()
        assert stranger.start().exit_status() == 1, "also while the first does not run"
