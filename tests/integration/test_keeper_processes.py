"""The keeper with real processes, each test in a directory of its own."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import send
from engine_server import Server
from processes import alive, processes

from hakuriver.keeper.client import KeeperClient, KeeperLost, KeeperUnavailable

Make = Callable[..., "Bench"]
DEADLINE_S = 20.0


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"in vain: {what}")


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Bench:
    """A client with its keeper, and all events in order."""

    def __init__(self, directory: Path, cores: int = 4, memory: int | None = None, **options: Any) -> None:
        self.directory = directory
        self.client = KeeperClient(str(directory), **options)
        self.events: list[Any] = []
        self.asked = 0
        self.cores, self.memory = cores, memory
        self.hello = self.connect()
        self.pid = self.hello["pid"]

    def connect(self) -> Any:
        self.hello = self.client.connect(self.cores, self.memory)
        self.pid = self.hello["pid"]
        return self.hello

    def lease(self, seconds: float = 3600) -> float:
        """Tell a lease; when it ends, by the clock of endings."""
        ends = time.time() + seconds
        self.client.lease(boottime() + seconds)
        return ends

    def heard(self) -> None:
        """Wait until the keeper has heard all that it was told."""
        self.asked += 1
        self.client.kill("nobody", 1, f"heard {self.asked}")
        self.wait("answer", "nobody", request=f"heard {self.asked}")

    def start(self, argv: list[str], task: str = "a", count: int | None = None, *, attempt: int = 1,
              rerunnable: bool = False, priority: int = 0, task_env: dict[str, str] | None = None,
              meta: Any = None, **spec: Any) -> None:  # fmt: skip
        spec.setdefault("env", {"PATH": "/usr/bin:/bin"})
        spec.setdefault("cores", 1)
        names = [task] if count is None else [f"{task}{n}" for n in range(count)]
        self.client.start({"argv": argv, **spec}, [  # type: ignore[typeddict-item]
            {"task": name, "attempt": attempt, "rerunnable": rerunnable, "priority": priority,
             "env": task_env or {}, "meta": meta} for name in names
        ])  # fmt: skip

    def wait(self, kind: str, task: str = "a", **more: Any) -> Any:
        def found() -> Any:
            return next((e for e in self.events if e["kind"] == kind and e["task"] == task
                         and all(e.get(k) == v for k, v in more.items())), None)  # fmt: skip

        deadline = time.monotonic() + DEADLINE_S
        while not found():
            left = deadline - time.monotonic()
            assert left > 0, f"no {kind} of {task}: {self.events}"
            if select.select([self.client], [], [], left)[0]:
                self.events += self.client.events()
        return found()

    def run(self, argv: list[str], task: str = "a", **more: Any) -> Any:
        self.start(argv, task, **more)
        return self.wait("ended", task)

    def ended(self) -> int:
        self.events += self.client.events()
        return sum(event["kind"] == "ended" for event in self.events)

    def output(self, end: Any, stream: str = "out") -> str:
        if end["slot"] is None:
            return ""
        return (self.directory / "out" / f"{end['slot']}.{stream}").read_text()

    def stop(self) -> None:
        self.client.close()
        if alive(self.pid):
            send(self.pid, signal.SIGTERM)  # one without work leaves by itself
        until(lambda: not alive(self.pid), "the keeper's end")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def bench(directory: Path = tmp_path / "keeper", *, leased: bool = True, **options: Any) -> Bench:
        made.append(Bench(directory, **options))
        if leased:
            made[-1].lease()
        return made[-1]

    yield bench
    with contextlib.ExitStack() as ends:
        for one in made:
            ends.callback(one.stop)


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


# -- starting and ending


def test_exit_codes(make: Make) -> None:
    bench = make()
    good = bench.run(["true"], "good")
    assert (good["state"], good["cause"], good["exit_code"], good["ran"]) == ("completed", "exit", 0, True)
    assert good["slot"] is None
    bad = bench.run(sh("exit 3"), "bad")
    assert (bad["state"], bad["cause"], bad["exit_code"], bad["reason"]) == ("failed", "exit", 3, "exit code 3")


def test_signal(make: Make) -> None:
    end = make().run(sh("kill -SEGV $$"))
    assert (end["state"], end["cause"], end["signal"], end["exit_code"]) == ("failed", "signal", 11, None)
    assert "SIGSEGV" in end["reason"]


def test_output_goes_to_the_slot(make: Make) -> None:
    bench = make()
    end = bench.run(sh("echo out; echo err >&2; cat"))
    assert (bench.output(end), bench.output(end, "err")) == ("out\n", "err\n")
    assert (end["out_bytes"], end["err_bytes"]) == (4, 4)
    assert (bench.directory / "out" / f"{end['slot']}.out").stat().st_mode & 0o777 == 0o600


def test_forget_drops_record_and_output(make: Make) -> None:
    bench = make()
    end = bench.run(sh("echo x"))
    bench.client.forget([("a", 1)])
    until(lambda: not (bench.directory / "out" / f"{end['slot']}.out").exists(), "the removal of the output")
    assert bench.connect()["tasks"] == []


def test_environment_is_exactly_what_was_given(make: Make) -> None:
    bench = make()
    end = bench.run(["env"], env={"PATH": "/bin", "A": "1", "B": "2"}, task_env={"B": "3", "C": "ü"})
    lines = sorted(bench.output(end).splitlines())
    assert [line for line in lines if not line.startswith("HAKURIVER_KEEPER=")] == ["A=1", "B=3", "C=ü", "PATH=/bin"]
    assert len(lines) == 5


@pytest.mark.parametrize("mode", ["cgroup", "watch"])
def test_environment_with_a_memory_limit(make: Make, mode: str) -> None:
    bench = make(memory_mode=mode) if mode == "watch" else cgroup_bench(make)
    end = bench.run(["env"], env={"PATH": "/bin", "A": "1"}, memory_bytes=1 << 28)
    lines = [line for line in bench.output(end).splitlines() if not line.startswith("HAKURIVER_KEEPER=")]
    assert sorted(lines) == ["A=1", "PATH=/bin"]


def test_signals_are_as_by_default_and_a_session_is_its_own(make: Make) -> None:
    bench = make()
    # No pipe: the shell would hold it, too, until it has made both sides. And `ls` must not be its last command.
    script = "grep -E 'Sig(Ign|Blk)' /proc/self/status; ps -o sid= -p $$; echo $$; ls /proc/$$/fd; :"
    first, second, sid, pid, *descriptors = bench.output(bench.run(sh(script))).splitlines()
    ignored = [line.split()[1] for line in (first, second)]
    glibc = 3 << 31  # posix_spawn(3) ignores the two that glibc keeps for itself, which no program can use
    assert [int(mask, 16) & ~glibc for mask in ignored] == [0, 0]
    assert sid.strip() == pid
    assert descriptors == ["0", "1", "2"]


def test_working_directory(make: Make, tmp_path: Path) -> None:
    bench = make()
    assert bench.output(bench.run(["pwd"], cwd=str(tmp_path))).strip() == str(tmp_path)
    script = tmp_path / "here.sh"
    script.write_text("#!/bin/sh\necho relative\n")
    script.chmod(0o755)
    assert bench.output(bench.run(["./here.sh"], "b", cwd=str(tmp_path))) == "relative\n"


@pytest.mark.parametrize(
    ("argv", "more", "code", "text"),
    [
        (["no-such-program"], {}, 127, "no-such-program: No such file"),
        (["/no/such/program"], {}, 127, "/no/such/program: No such file"),
        (["/etc/passwd"], {}, 126, "/etc/passwd: Permission denied"),
        (["/"], {}, 126, "/: Permission denied"),
        (["true"], {"cwd": "/no/such/dir"}, 126, "/no/such/dir: No such file"),
        (["true"], {"cwd": "/etc/passwd"}, 126, "/etc/passwd: Not a directory"),
        (["true", "a\0b"], {}, 126, "NUL"),
    ],
)
@pytest.mark.parametrize("memory", [None, 1 << 28])
def test_launch_errors(make: Make, argv: list[str], more: dict[str, Any], code: int, text: str, memory: Any) -> None:
    end = make().run(argv, memory_bytes=memory, **more)
    assert (end["state"], end["cause"], end["exit_code"], end["ran"]) == ("failed", "launch", code, False)
    assert text in end["reason"]


def test_the_same_attempt_again_is_ignored(make: Make, tmp_path: Path) -> None:
    bench = make()
    for _ in range(2):
        bench.start(sh(f"echo x >> {tmp_path}/count"))
        bench.wait("ended")
    bench.run(["true"], "after")
    assert (tmp_path / "count").read_text() == "x\n"


def test_order_and_admission(make: Make, tmp_path: Path) -> None:
    bench = make(cores=1, leased=False)
    log = tmp_path / "log"
    for name, priority in (("low", 0), ("high", 5), ("mid", 1), ("mid2", 1)):
        bench.start(sh(f"echo {name} >> {log}"), name, priority=priority)
    bench.lease()
    bench.wait("ended", "low")
    assert log.read_text().split() == ["high", "mid", "mid2", "low"]


def test_a_backlog_runs_exactly_once(make: Make) -> None:
    bench = make(cores=8)
    bench.start(["/bin/true"], "t", 2000)
    bench.start(["/bin/true"], "t", 2000)
    bench.wait("ended", "t1999")
    bench.run(["/bin/true"], "last")
    until(lambda: bench.ended() >= 2001, "all endings")
    for kind in ("started", "ended"):
        names = [event["task"] for event in bench.events if event["kind"] == kind]
        assert len(names) == len(set(names)) == 2001
    assert all(e["state"] == "completed" for e in bench.events if e["kind"] == "ended")
    assert len(os.listdir(bench.directory / "out")) <= 2 * 9


# -- trees


def test_a_daemon_is_killed_at_the_end(make: Make, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    daemon = f"setsid sh -c '(exec sh -c \"echo \\$\\$ > {pidfile}; exec sleep 1000\") &'"
    end = make().run(sh(f"{daemon}; while ! [ -s {pidfile} ]; do :; done"))
    assert end["state"] == "completed"
    assert not alive(int(pidfile.read_text()))


def test_a_daemon_without_environment_is_killed_at_the_end(make: Make, tmp_path: Path) -> None:
    bench = make()
    pidfile = tmp_path / "pid"
    bench.start(["sleep", "1000"], "other")
    bench.wait("started", "other")
    inner = f"setsid sh -c \"(exec sh -c 'echo \\$\\$ > {pidfile}; exec sleep 1000') &\""
    bench.run(sh(f"env -i PATH=/bin:/usr/bin {inner}; while ! [ -s {pidfile} ]; do :; done"))
    assert not alive(int(pidfile.read_text()))
    assert alive(bench.wait("started", "other")["pid"])


def test_another_tasks_daemon_lives_on(make: Make, tmp_path: Path) -> None:
    bench = make()
    pidfile = tmp_path / "pid"
    bench.start(sh(f"setsid sh -c '(exec sh -c \"echo \\$\\$ > {pidfile}; exec sleep 1000\") &'; sleep 1000"), "keeps")
    until(lambda: pidfile.exists() and pidfile.read_text(), "the daemon")
    for n in range(5):
        bench.run(["true"], f"t{n}")
    assert alive(int(pidfile.read_text()))
    bench.client.kill("keeps", 1)
    bench.wait("ended", "keeps")
    assert not alive(int(pidfile.read_text()))


def test_kill_of_a_tree_that_ignores_term(make: Make, tmp_path: Path) -> None:
    bench = make()
    bench.start(sh(f"trap '' TERM; (trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait) & "
                   "while :; do sleep 0.01; done"), grace_s=0.3)  # fmt: skip
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the tree")
    bench.client.kill("a", 1, "r1", "not wanted")
    end = bench.wait("ended")
    assert (end["state"], end["cause"], end["signal"], end["reason"]) == ("killed", "killed", 9, "not wanted")
    assert end["wall_s"] >= 0.3
    answer = bench.wait("answer", request="r1")
    assert (answer["ok"], answer["op"]) == (True, "kill")
    assert not alive(int((tmp_path / "pid").read_text()))


def stubborn(bench: Bench, task: str, **spec: Any) -> None:
    """A task that ignores TERM, which it says when it does."""
    bench.start(sh("trap '' TERM; echo; while :; do sleep 0.01; done"), task, **spec)
    slot = bench.wait("started", task)["slot"]
    until(lambda: (bench.directory / "out" / f"{slot}.out").read_text(), "the trap")


def test_a_kill_brings_its_own_grace_and_a_sooner_one_counts(make: Make) -> None:
    bench = make()
    stubborn(bench, "now", grace_s=1000)
    bench.client.kill("now", 1, "r1", grace_s=0.0)
    assert bench.wait("ended", "now")["signal"] == 9
    stubborn(bench, "later", grace_s=1000)
    bench.client.kill("later", 1, "r2")
    bench.client.kill("later", 1, "r3", grace_s=0.2)
    end = bench.wait("ended", "later")
    assert (end["cause"], end["signal"]) == ("killed", 9)
    assert all(bench.wait("answer", "later", request=request)["ok"] for request in ("r2", "r3"))


def test_a_paused_task_is_killed_without_grace_too(make: Make) -> None:
    bench = make()
    stubborn(bench, "a", grace_s=1000)
    bench.client.pause("a", 1)
    bench.wait("paused")
    bench.client.kill("a", 1, grace_s=0.0)
    assert bench.wait("ended")["signal"] == 9


def test_the_lease_ends_a_longer_grace(make: Make) -> None:
    bench = make()
    stubborn(bench, "moves", rerunnable=True, grace_s=0.5)
    stubborn(bench, "stays", grace_s=0.5)
    ends = bench.lease(4.0)
    bench.client.kill("moves", 1, grace_s=1000.0)
    bench.client.kill("stays", 1, grace_s=1000.0)
    end = bench.wait("ended", "moves")
    assert end["cause"] == "killed"
    assert end["ended_at"] < ends
    assert alive(bench.wait("started", "stays")["pid"])
    bench.client.kill("stays", 1, grace_s=0.0)
    bench.wait("ended", "stays")


def test_a_keeper_that_is_told_to_stop_waits_for_no_longer_grace(make: Make) -> None:
    bench = make()
    stubborn(bench, "a", grace_s=0.2)
    bench.client.kill("a", 1, grace_s=1000.0)
    os.kill(bench.pid, signal.SIGTERM)
    until(lambda: not alive(bench.pid), "the keeper's end")


def test_kill_is_polite_first(make: Make) -> None:
    bench = make()
    bench.start(sh("trap 'echo bye; exit 7' TERM; echo hi; while :; do sleep 0.01; done"))
    slot = bench.wait("started")["slot"]
    until(lambda: (bench.directory / "out" / f"{slot}.out").read_text(), "the trap")
    bench.client.kill("a", 1)
    end = bench.wait("ended")
    assert (end["state"], end["exit_code"]) == ("killed", 7)
    assert bench.output(end) == "hi\nbye\n"


def test_kill_of_what_has_ended_is_queued_or_unknown(make: Make) -> None:
    bench = make(cores=1)
    bench.run(["true"])
    bench.client.kill("a", 1, "r1")
    assert bench.wait("answer", request="r1")["text"] == "already completed"
    bench.client.kill("zzz", 1, "r2")
    assert (bench.wait("answer", "zzz")["ok"], bench.wait("answer", "zzz")["text"]) == (False, "unknown")
    bench.start(["sleep", "1000"], "runs")
    bench.start(["sleep", "1000"], "waits")
    bench.client.kill("waits", 1, "r3")
    end = bench.wait("ended", "waits")
    assert (end["state"], end["ran"], bench.wait("answer", "waits")["ok"]) == ("killed", False, True)


def test_time_limit(make: Make) -> None:
    end = make().run(["sleep", "1000"], time_limit_s=0.2)
    assert (end["state"], end["cause"], end["signal"]) == ("failed", "time_limit", 15)
    assert 0.2 <= end["wall_s"] < DEADLINE_S


def test_pause_resume_and_kill_of_a_paused_task(make: Make) -> None:
    bench = make()
    bench.start(sh("sleep 1000 & echo $!; wait"))
    started = bench.wait("started")
    out = bench.directory / "out" / f"{started['slot']}.out"
    child = int(until(out.read_text, "the child"))
    pids = [started["pid"], child]

    def states() -> set[str]:
        return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}

    bench.client.pause("a", 1, "p")
    assert bench.wait("answer", request="p")["ok"]
    bench.wait("paused")
    until(lambda: states() == {"T"}, "a stopped tree")
    bench.client.resume("a", 1, "r")
    bench.wait("resumed")
    until(lambda: states() == {"S"}, "a running tree")
    bench.client.pause("a", 1, "p2")
    bench.wait("answer", request="p2")
    bench.client.kill("a", 1, "k")
    assert (bench.wait("ended")["state"], bench.wait("ended")["signal"]) == ("killed", 15)
    assert not alive(child)


# -- limits


def cgroup_bench(make: Make) -> Bench:
    try:
        return make(memory_mode="cgroup")
    except KeeperUnavailable:
        pytest.skip("no memory cgroup can be made here")


EATER = [sys.executable, "-c", "x=[]\nwhile True: x.append(b'x' * (1 << 20))"]


def test_memory_limit_by_cgroup(make: Make) -> None:
    bench = cgroup_bench(make)
    end = bench.run(EATER, memory_bytes=64 << 20)
    assert (end["state"], end["cause"]) == ("killed_oom", "oom")
    assert 60 << 20 <= end["peak_memory_bytes"] <= 64 << 20
    fine = bench.run(["true"], "b", memory_bytes=64 << 20)
    assert fine["state"] == "completed"
    assert fine["peak_memory_bytes"] < 64 << 20


def test_memory_limit_by_watching(make: Make) -> None:
    script = "x=[]\nimport time\nwhile True: x.append(b'x' * (1 << 20)); time.sleep(0.002)"
    end = make(memory_mode="watch").run([sys.executable, "-c", script], memory_bytes=64 << 20)
    assert (end["state"], end["cause"], end["signal"]) == ("killed_oom", "oom", 9)
    assert end["peak_memory_bytes"] > 64 << 20


def test_peak_memory(make: Make) -> None:
    bench = make()
    big = bench.run([sys.executable, "-c", "x = b'x' * (80 << 20)"], "big")
    assert 80 << 20 <= big["peak_memory_bytes"] < 160 << 20
    assert bench.run(["true"], "small")["peak_memory_bytes"] is None
    assert big["cpu_s"] > 0


def test_output_is_bounded(make: Make) -> None:
    bench = make(output_limit=1 << 20)
    bench.start(sh("i=0; while [ $i -lt 64 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done; sleep 1000"))
    slot = bench.wait("started")["slot"]
    out = bench.directory / "out" / f"{slot}.out"
    gaps = Path(f"{out}.gaps")
    until(lambda: out.stat().st_size == 4 << 20, "the output")
    until(lambda: gaps.exists() and out.stat().st_blocks * 512 <= 1 << 20, "the bound")
    ((start, end),) = json.loads(gaps.read_text())
    data = out.read_bytes()
    assert data[:start] == b"x" * start
    assert data[end:] == b"x" * (len(data) - end)
    assert start >= (1 << 18)
    assert len(data) - end >= 1 << 18


# -- the lease


def test_nothing_starts_without_a_lease(make: Make) -> None:
    bench = make(leased=False)
    bench.start(["true"])
    assert bench.connect()["tasks"][0]["phase"] == "queued"
    bench.lease()
    assert bench.wait("ended")["state"] == "completed"


def test_fencing(make: Make) -> None:
    bench = make(cores=2)
    stubborn(bench, "moves", rerunnable=True, grace_s=0.5)
    bench.start(["sleep", "1000"], "stays", grace_s=0.5)
    bench.start(["true"], "queued", rerunnable=True, grace_s=0.5)
    bench.wait("started", "stays")
    ends = bench.lease(3.0)
    moved = bench.wait("ended", "moves")
    assert moved["ended_at"] < ends
    assert (moved["state"], moved["cause"], moved["signal"], moved["ran"]) == ("fenced", "fenced", 9, True)
    queued = bench.wait("ended", "queued")
    assert (queued["state"], queued["ran"]) == ("fenced", False)
    assert alive(bench.wait("started", "stays")["pid"])


def test_fencing_without_a_runner(make: Make) -> None:
    bench = make()
    bench.start(["sleep", "1000"], rerunnable=True, grace_s=0.5)
    pid = bench.wait("started")["pid"]
    bench.lease(2.5)
    bench.heard()
    bench.client.close()
    until(lambda: not alive(pid), "the fence")
    assert bench.connect()["tasks"][0]["end"]["state"] == "fenced"


def test_renewal_and_flag(make: Make) -> None:
    bench = make(leased=False)
    bench.lease(DEADLINE_S)
    bench.start(["sleep", "1000"], "renewed", rerunnable=True, grace_s=0.5)
    bench.wait("started", "renewed")
    bench.lease()
    bench.start(["sleep", "1000"], "free", rerunnable=True, grace_s=0.5)
    bench.wait("started", "free")
    bench.client.rerunnable([("free", 1, False)])
    bench.client.lease(boottime())
    assert bench.wait("ended", "renewed")["state"] == "fenced"
    assert alive(bench.wait("started", "free")["pid"])


# -- life and death of keeper and runner


def test_reconnect_gets_the_endings(make: Make, tmp_path: Path) -> None:
    bench = make()
    bench.start(sh(f"while ! [ -e {tmp_path}/go ]; do sleep 0.01; done; echo $$ > {tmp_path}/went"), meta={"x": [1]})
    bench.wait("started")
    bench.client.close()
    (tmp_path / "go").touch()
    until(lambda: (tmp_path / "went").exists(), "the task's end")
    pid = bench.pid
    until(lambda: bench.connect()["tasks"][0]["phase"] == "ended", "its ending")
    assert bench.pid == pid
    (task,) = bench.hello["tasks"]
    assert (task["meta"], task["end"]["state"]) == ({"x": [1]}, "completed")


def test_a_new_connection_replaces_the_old(make: Make) -> None:
    bench = make()
    other = KeeperClient(str(bench.directory))
    other.connect(cores=4)
    with pytest.raises(KeeperLost):
        until(lambda: bench.client.receive() and False, "the loss")
    other.close()


def test_a_message_without_sense_costs_the_connection_only(make: Make) -> None:
    bench = make()
    bench.start(["sleep", "1000"])
    bench.wait("started")
    bench.client.send({"op": "start", "spec": {"argv": []}, "tasks": []})
    with pytest.raises(KeeperLost):
        until(lambda: bench.client.receive() and False, "the loss")
    pid = bench.pid
    assert bench.connect()["tasks"][0]["phase"] == "running"
    assert bench.pid == pid


def test_death_of_the_keeper(make: Make) -> None:
    bench = make(cores=2)
    bench.start(sh("setsid sleep 1000 & trap '' TERM; while :; do sleep 0.01; done"), "a", meta=7)
    bench.start(sh("echo out; sleep 1000"), "b")
    bench.start(["true"], "queued")
    bench.start(["true"], "moves", rerunnable=True)
    pids = [bench.wait("started", name)["pid"] for name in "ab"]
    out = bench.directory / "out" / f"{bench.wait('started', 'b')['slot']}.out"
    until(out.read_text, "output")
    os.kill(bench.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the tasks' end")
    with pytest.raises(KeeperLost):
        until(lambda: bench.client.receive() and False, "the loss")
    tasks = {task["task"]: task for task in bench.connect()["tasks"]}
    for name in "ab":
        assert (tasks[name]["end"]["state"], tasks[name]["end"]["cause"]) == ("failed", "keeper_died")
    assert bench.output(tasks["b"]["end"]) == "out\n"
    assert tasks["a"]["meta"] == 7
    assert (tasks["moves"]["end"]["state"], tasks["moves"]["end"]["ran"]) == ("fenced", False)
    assert tasks["queued"]["phase"] == "queued"
    bench.lease()
    assert bench.wait("ended", "queued")["state"] == "completed"


def test_death_of_guard_and_keeper(make: Make) -> None:
    bench = make()
    bench.start(sh("setsid sleep 1000 & sleep 1000"))
    pid = bench.wait("started")["pid"]
    guard = int(Path(f"/proc/{bench.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    until(lambda: not alive(guard), "the guard's end")
    assert bench.run(["true"], "b")["state"] == "completed"
    os.kill(bench.pid, signal.SIGKILL)
    bench.client.close()
    tasks = {task["task"]: task for task in bench.connect()["tasks"]}
    assert tasks["a"]["end"]["cause"] == "keeper_died"
    assert not alive(pid)


def test_term_kills_tasks_and_records_it(make: Make) -> None:
    bench = make()
    bench.start(["sleep", "1000"])
    bench.wait("started")
    pid = bench.pid
    os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid), "the keeper's end")
    bench.client.close()
    (task,) = bench.connect()["tasks"]
    assert (task["end"]["state"], task["end"]["cause"]) == ("failed", "shutdown")


def test_an_idle_keeper_leaves(make: Make) -> None:
    bench = make()
    bench.run(["true"])
    pid = bench.pid
    bench.client.close()
    until(lambda: not alive(pid), "the keeper's end")
    assert bench.connect()["tasks"][0]["end"]["state"] == "completed"


def test_a_second_keeper_leaves_quietly(make: Make) -> None:
    bench = make()
    command = [sys.executable, "-m", "hakuriver.keeper", "--dir", str(bench.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert bench.run(["true"])["state"] == "completed"


def test_long_path(make: Make, tmp_path: Path) -> None:
    bench = make(tmp_path / ("d" * 120) / ("e" * 120))
    assert bench.run(["true"])["state"] == "completed"


def test_no_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(KeeperUnavailable, match="no-such-python"):
        KeeperClient(str(tmp_path / "keeper"), python="no-such-python").connect(cores=1)
    (tmp_path / "keeper" / "out").mkdir(parents=True)
    (tmp_path / "keeper" / "record.1.jsonl").mkdir()
    with pytest.raises(KeeperUnavailable, match=r"keeper\.log.*IsADirectoryError"):
        KeeperClient(str(tmp_path / "keeper")).connect(cores=1)


def test_an_idle_keeper_sleeps_and_is_small(make: Make) -> None:
    bench = make()
    status = Path(f"/proc/{bench.pid}/status")

    def switches() -> int:
        return sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)

    resident = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    assert resident * 1024 < 15_000_000

    def rests() -> bool:
        before = switches()
        time.sleep(1.5)  # longer than any tick
        return switches() == before

    until(rests, "rest")


# -- tasks that an engine holds, with an attendant of its own; the engine is the test's


STANDIN = Path(__file__).parents[1] / "standin_keeper.py"


class EngineBench(Bench):
    """Tasks go to the engine."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.server = server
        super().__init__(directory)

    def connect(self) -> Any:
        command = self.client._command
        if "-m" in command:
            command[2:4] = [str(STANDIN)]
        return super().connect()

    def start(self, argv: list[str], task: str = "a", count: int | None = None, **more: Any) -> None:
        super().start(argv, task, count, engine="docker", settings={"socket": self.server.path}, **more)

    def attendant(self) -> int:
        (pid,) = until(lambda: processes("engine_server", str(self.directory)), "the attendant")
        return int(pid)

    def empty(self) -> None:
        until(lambda: not self.server.boxes, "an empty engine")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[EngineBench]:
    server = Server(tmp_path / "engine")
    bench = EngineBench(tmp_path / "keeper", server)
    bench.lease()
    yield bench
    bench.client.close()
    for pid in [pid for pid in processes("standin_keeper", str(bench.directory)) if pid != bench.pid]:
        send(pid, signal.SIGKILL)  # the guard: no keeper comes after this one
    try:
        bench.stop()
    finally:
        server.close()


def counting(go: Path) -> list[str]:
    return sh(f"echo first; until [ -e {go} ]; do sleep 0.02; done; echo last; exit 3")


def test_an_engine_holds_a_task(held: EngineBench) -> None:
    end = held.run(sh("echo out; exit 3"))
    assert (end["state"], end["cause"], end["exit_code"], held.output(end)) == ("failed", "exit", 3, "out\n")
    assert held.wait("started")["pid"] is None  # it is no child of the keeper's
    held.empty()
    bad = held.run(["/no/such/program"], "b")
    assert (bad["state"], bad["cause"], bad["exit_code"], bad["ran"]) == ("failed", "launch", 127, False)
    held.client.forget([("a", 1), ("b", 1)])
    until(lambda: not held.connect()["tasks"], "nothing known")


def test_an_attendant_is_ended_with_its_keeper(held: EngineBench) -> None:
    held.start(["sleep", "1000"])
    held.wait("started")
    attendant = held.attendant()
    guard = int(Path(f"/proc/{held.pid}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (guard, held.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(attendant), "the attendant's end")
    assert held.server.look("hakuriver-task-a") == "running"
    assert held.connect()["tasks"][0]["phase"] == "running"


def test_a_held_task_outlives_its_keeper(held: EngineBench, tmp_path: Path) -> None:
    held.start(counting(tmp_path / "go"))
    held.run(["true"], "before")
    held.wait("started")
    pid, attendant = held.pid, held.attendant()
    os.kill(pid, signal.SIGKILL)
    held.client.close()
    until(lambda: processes("engine_server", str(held.directory)) not in ([], [attendant]), "another attendant")
    (tmp_path / "go").touch()
    until(lambda: "hakuriver-task-a" not in held.server.boxes, "its removal, though no runner is there")
    tasks = {task["task"]: task for task in held.connect()["tasks"]}
    assert held.pid != pid
    end = tasks["a"]["end"]
    assert (end["state"], end["exit_code"], held.output(end)) == ("failed", 3, "first\nlast\n")
    assert tasks["before"]["end"]["state"] == "completed"
    assert held.server.begun.count("hakuriver-task-a") == 1


def test_a_held_task_outlives_its_attendant(held: EngineBench, tmp_path: Path) -> None:
    held.start(counting(tmp_path / "go"))
    held.wait("started")
    first = held.attendant()
    os.kill(first, signal.SIGKILL)
    until(lambda: processes("engine_server", str(held.directory)) not in ([], [first]), "another attendant")
    (tmp_path / "go").touch()
    end = held.wait("ended")
    assert (end["exit_code"], held.output(end)) == (3, "first\nlast\n")
    assert len(held.server.begun) == 1


def test_held_tasks_are_fenced_though_keeper_and_runner_died(held: EngineBench) -> None:
    held.start(["sleep", "1000"], "moves", rerunnable=True, grace_s=0.5)
    held.start(["sleep", "1000"], "stays", grace_s=0.5)
    for name in ("moves", "stays"):
        held.wait("started", name)
    ends = held.lease(6.0)
    held.heard()
    held.client.close()
    os.kill(held.pid, signal.SIGKILL)
    until(lambda: held.server.look("hakuriver-task-moves") != "running", "the fence")
    assert time.time() < ends
    until(lambda: "hakuriver-task-moves" not in held.server.boxes, "its removal")
    tasks = {task["task"]: task for task in held.connect()["tasks"]}
    assert (tasks["moves"]["end"]["state"], tasks["stays"]["phase"]) == ("fenced", "running")


def test_controls_of_a_held_task(held: EngineBench) -> None:
    # No fork: a parent whose child is stopped before its exec shows as D.
    held.start(sh("trap 'echo bye; exit 7' TERM; echo hi; while :; do :; done"))
    started = held.wait("started")
    out = held.directory / "out" / f"{started['slot']}.out"
    until(out.read_text, "the trap")
    held.client.pause("a", 1, "p")
    assert held.wait("answer", request="p")["ok"]
    held.wait("paused")
    process = held.server.boxes["hakuriver-task-a"].process
    assert process is not None
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stops")
    os.kill(held.pid, signal.SIGKILL)
    assert held.connect()["tasks"][0]["phase"] == "paused"
    held.client.resume("a", 1, "r")
    assert held.wait("answer", request="r")["ok"]
    held.client.kill("a", 1, "k")
    end = held.wait("ended")
    assert (end["state"], end["exit_code"], held.output(end)) == ("killed", 7, "hi\nbye\n")
    assert held.wait("answer", request="k")["ok"]
    held.empty()


def test_a_held_task_that_ignores_term_and_one_over_its_time(held: EngineBench) -> None:
    held.start(sh("trap '' TERM; echo hi; while :; do sleep 0.01; done"), "stubborn", grace_s=0.2)
    held.start(["sleep", "1000"], "slow", time_limit_s=0.3)
    slot = held.wait("started", "stubborn")["slot"]
    until((held.directory / "out" / f"{slot}.out").read_text, "the trap")
    held.client.kill("stubborn", 1)
    assert (held.wait("ended", "stubborn")["state"], held.wait("ended", "stubborn")["signal"]) == ("killed", 9)
    assert held.wait("ended", "slow")["cause"] == "time_limit"


def test_what_somebody_removed_is_told(held: EngineBench) -> None:
    held.start(["sleep", "1000"])
    held.wait("started")
    held.server.remove("hakuriver-task-a")
    end = held.wait("ended")
    assert (end["state"], end["cause"], end["ran"]) == ("failed", "lost_track", True)
    assert "removed by hand" in end["reason"]


def test_an_engine_that_is_away_is_waited_for(held: EngineBench, tmp_path: Path) -> None:
    away = tmp_path / "engine" / "away"
    os.rename(held.server.path, away)
    held.start(["true"], "waits")
    held.start(["true"], "not-wanted")
    until(lambda: processes("engine_server", str(held.directory)), "the attendant")
    held.client.kill("not-wanted", 1, "k")
    assert held.wait("ended", "not-wanted")["ran"] is False
    assert held.wait("answer", "not-wanted")["ok"]
    os.rename(away, held.server.path)
    assert held.wait("ended", "waits")["state"] == "completed"
    held.empty()


def test_processes_are_spared_the_attendant(held: EngineBench) -> None:
    """An attendant is no child that a task has left behind."""
    held.run(["true"])
    attendant = held.attendant()
    Bench.start(held, sh("setsid sleep 1000 & sleep 0.1"), "plain")
    assert held.wait("ended", "plain")["state"] == "completed"
    assert held.attendant() == attendant


def test_a_keeper_that_died_is_replaced_without_a_runner(make: Make) -> None:
    bench = make()
    bench.start(["sleep", "1000"])
    bench.wait("started")
    bench.client.close()
    guard = int(Path(f"/proc/{bench.pid}/stat").read_text().rpartition(")")[2].split()[1])
    dead = bench.pid
    os.kill(dead, signal.SIGKILL)
    (keeper,) = until(lambda: set(processes("hakuriver.keeper", str(bench.directory))) - {guard, dead}, "another")
    assert bench.connect()["pid"] == keeper
    assert alive(guard)
    assert bench.hello["tasks"][0]["end"]["cause"] == "keeper_died"
