"""The runner as a process with its real keeper; the host is a few lines of this test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from daemons import MIB, PATIENCE_S, Daemon, Machine, end_keepers, toml
from runner_stage import JOB, Host, start

from hakuriver.records import River
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk

TIMING = {"heartbeat_interval": 0.5, "poll_interval": 0.1, "kill_grace": 1.0}


class River1:
    """A share, one machine, and runners on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.share = directory / "share"
        disk = LocalDisk(str(self.share))
        for path in layout.TREE:
            os.makedirs(f"{disk.root}/{path}")
        river = River(cluster="test", cluster_id="c1", created_at=0.0)
        disk.write(layout.SENTINEL, river.model_dump_json().encode())
        self.machines = [Machine(directory, "m1", self.share)]
        self.machine = self.machines[0]
        self.host = Host(str(self.share))
        self.daemons: list[Daemon] = []

    def runner(self, machine: Machine | None = None, **sections: dict[str, Any]) -> Daemon:
        """Start a runner."""
        machine = machine or self.machine
        paths = {"shared_dir": machine.mount, "state_dir": machine.state, "local_temp_dir": self.directory / "temp"}
        config = self.directory / f"{len(self.daemons)}.toml"
        config.write_text(toml({"paths": paths, "timing": TIMING, "resources": {"cores": 4}, **sections}))
        daemon = Daemon("runner", machine, config, self.directory / f"{len(self.daemons)}.log", ["--name", "n1"])
        self.daemons.append(daemon)
        return daemon.start()

    def up(self, daemon: Daemon) -> Daemon:
        """Wait until it works."""
        eventually(lambda: " is up, epoch" in daemon.log, PATIENCE_S)
        return daemon

    def heard(self, condition: Callable[[], object]) -> None:
        """Read events until they say so."""

        def look() -> object:
            self.host.hear()
            return condition()

        eventually(look, PATIENCE_S)

    def end(self, k: int | None = None) -> dict[str, Any]:
        """Wait for a task's ending."""
        self.heard(lambda: (JOB, k, 1) in self.host.endings)
        return self.host.endings[(JOB, k, 1)][0]

    def run(self, script: str, k: int | None = None, **more: Any) -> None:
        """Dispatch a script."""
        self.host.send(starts=[start(["/bin/sh", "-c", script], [k], **more)])

    def out(self, k: int | None = None, stream: str = "out") -> bytes:
        """What lies on the share; b'' if nothing does."""
        path = layout.stdout_path(JOB, k, 1) if stream == "out" else layout.stderr_path(JOB, k, 1)
        return (self.share / path).read_bytes() if (self.share / path).exists() else b""

    def close(self) -> None:
        with contextlib.ExitStack() as ends:
            for machine in self.machines:
                ends.callback(end_keepers, machine)
            for daemon in self.daemons:
                ends.callback(stop_and_show, daemon)


def stop_and_show(daemon: Daemon) -> None:
    try:
        daemon.stop()
    finally:
        print(daemon.log)


@pytest.fixture
def river(scratch: Path) -> Iterator[River1]:
    made = River1(scratch)
    yield made
    made.close()


def test_output_is_on_the_share_before_the_end_is_told(river: River1) -> None:
    river.up(river.runner())
    seen: list[bytes] = []
    river.host.on_end = lambda event: seen.append(river.out())
    river.run("echo hi; echo oops >&2; exit 3")
    end = river.end()
    assert (end["state"], end["exit_code"], end["out_bytes"], end["err_bytes"]) == ("failed", 3, 3, 5)
    assert seen == [b"hi\n"]
    assert river.out(stream="err") == b"oops\n"


def test_errors_begin_with_the_words_that_users_look_for(river: River1) -> None:
    """Whoever searches for them finds the same words in the documents."""
    nodes, aside = river.share / "nodes", river.directory / "aside"
    nodes.rmdir()
    nodes.write_text("no directory")
    runner = river.runner()
    eventually(lambda: "Failed to register with host: cannot write node file: cannot " in runner.log, PATIENCE_S)
    nodes.unlink()
    nodes.mkdir()
    river.up(runner)
    river.host.send(starts=[start(["/no/such/program"])])
    end = river.end()
    assert (end["cause"], end["exit_code"]) == ("launch", 127)
    assert end["reason"] == "Task failed to start: cannot run /no/such/program: No such file or directory"
    river.share.rename(aside)
    river.share.mkdir()
    eventually(
        lambda: f"Cannot access shared directory {river.share}: it holds no river.json" in runner.log, PATIENCE_S
    )
    river.share.rmdir()
    aside.rename(river.share)


def test_a_silent_task_makes_no_files(river: River1) -> None:
    river.up(river.runner())
    river.run("exit 0")
    river.end()
    assert not list((river.share / "task_outputs").iterdir())
    assert not list((river.share / "task_errors").iterdir())


def test_output_comes_while_the_task_runs(river: River1) -> None:
    river.up(river.runner())
    river.run("echo early; sleep 60")
    eventually(lambda: river.out() == b"early\n", PATIENCE_S)
    river.host.hear()
    assert (JOB, None, 1) not in river.host.endings


def test_a_killed_runner_neither_ends_nor_forgets_its_tasks(river: River1) -> None:
    river.up(river.runner())
    marks = [river.directory / name for name in ("one", "two")]
    script = "echo before; touch {0}.ready; until [ -e {0} ]; do sleep 0.02; done; echo after; exit {1}"
    for k, mark in enumerate(marks):
        river.run(script.format(mark, k + 5), k)
    eventually(lambda: all(Path(f"{mark}.ready").exists() for mark in marks), PATIENCE_S)
    river.heard(lambda: river.host.kinds().count("started") == 2)
    river.daemons[0].kill()
    marks[0].touch()
    time.sleep(0.3)  # the first may end while no runner is there; either way must do
    river.up(river.runner())
    assert river.end(0)["exit_code"] == 5
    assert (JOB, 1, 1) not in river.host.endings
    marks[1].touch()
    assert river.end(1)["exit_code"] == 6
    assert [river.out(k) for k in (0, 1)] == [b"before\nafter\n"] * 2
    begin = [event for event in river.host.events if event["kind"] == "begin"][1]
    assert sorted(begin["holds"]) == [[JOB, 0, 1], [JOB, 1, 1]]


def test_a_share_that_is_away_disturbs_nothing(river: River1) -> None:
    runner = river.up(river.runner())
    count = 300
    river.run(f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.01; done")
    eventually(lambda: river.out().count(b"\n") > 10, PATIENCE_S)
    away = Path(f"{river.share}.away")
    os.rename(river.share, away)
    eventually(lambda: f"{river.share}" in runner.log, PATIENCE_S)
    os.mkdir(river.share)
    eventually(lambda: "is not mounted here" in runner.log, PATIENCE_S)
    time.sleep(0.5)
    assert os.listdir(river.share) == []
    os.rmdir(river.share)
    os.rename(away, river.share)
    assert river.end()["state"] == "completed"
    assert river.out() == b"".join(b"line %d\n" % i for i in range(count))
    assert runner.running
    assert runner.log.count("is not mounted here") == 1


def test_what_is_acknowledged_is_removed_on_both_sides(river: River1) -> None:
    river.up(river.runner())
    river.run("echo hi")
    river.end()
    out = river.machine.state / "c1/nodes/n1/keeper/out"

    def settled() -> bool:
        river.host.hear()
        river.host.send()
        return not (river.host.names("events") or river.host.names("claimed") or any(out.iterdir()))

    eventually(settled, PATIENCE_S, every_s=0.2)
    assert river.out() == b"hi\n"


def test_a_second_runner_of_the_same_name_is_refused(river: River1) -> None:
    river.up(river.runner())
    second = river.runner()
    assert second.exit_status() == 1
    assert "--name" in second.log
    assert "Traceback" not in second.log
    assert river.daemons[0].running


def test_a_node_of_another_machine_is_refused(river: River1) -> None:
    first = river.up(river.runner())
    first.stop()
    river.machines.append(Machine(river.directory, "m2", river.share))
    second = river.runner(river.machines[1])
    assert second.exit_status() == 1
    assert "hakuriver node forget n1" in second.log
    assert river.up(river.runner()).running


def test_a_signal_stops_the_runner_and_leaves_its_tasks(river: River1) -> None:
    runner = river.up(river.runner())
    mark = river.directory / "go"
    river.run(f"until [ -e {mark} ]; do sleep 0.02; done; echo done")
    river.heard(lambda: "started" in river.host.kinds())
    assert runner.stop() == 0
    assert "tasks go on" in runner.log
    mark.touch()
    river.up(river.runner())
    assert river.end()["state"] == "completed"
    assert river.out() == b"done\n"


def test_a_stop_while_the_share_is_away_is_quick(river: River1) -> None:
    runner = river.up(river.runner())
    os.rename(river.share, f"{river.share}.away")
    eventually(lambda: "waiting until the share is back" in runner.log or "not mounted" in runner.log, PATIENCE_S)
    assert runner.stop() == 0, "not killed because it has not heard TERM for long"


def test_a_dead_keeper_is_replaced_and_what_it_held_is_told(river: River1) -> None:
    runner = river.up(river.runner())
    river.run("sleep 1000", 0)
    river.heard(lambda: "started" in river.host.kinds())
    [keeper] = river.machine.keepers()
    os.kill(keeper, signal.SIGKILL)
    assert river.end(0)["cause"] == "keeper_died"
    river.run("echo again", 1)
    assert river.end(1)["state"] == "completed"
    assert runner.running


def test_what_goes_over_the_local_limit_is_cut_in_the_middle(river: River1) -> None:
    runner = river.up(river.runner(limits={"output_local": "2Mi"}))
    go, end = river.directory / "go", river.directory / "end"
    river.run(f"""
        echo first; until [ -e {go} ]; do sleep 0.02; done; yes 0123456789 | head -c 8800000; : >{go}.done
        until [ -e {end} ]; do sleep 0.02; done; echo last""")
    eventually(lambda: river.out() == b"first\n", PATIENCE_S)
    away = Path(f"{river.share}.away")
    os.rename(river.share, away)
    go.touch()
    eventually(Path(f"{go}.done").exists, PATIENCE_S)
    [local] = (river.machine.state / "c1/nodes/n1/keeper/out").glob("*.out")
    eventually(lambda: local.stat().st_blocks * 512 <= MIB, PATIENCE_S)  # half of what both streams may take
    os.rename(away, river.share)
    end.touch()
    assert river.end()["state"] == "completed"
    out = river.out()
    assert out.startswith(b"first\n0123456789\n")
    assert out.endswith(b"0123456789\nlast\n")
    assert out.count(b"bytes dropped here") == 1
    assert b"\0" not in out
    assert runner.running


def test_a_runner_without_a_share_waits_for_it(river: River1) -> None:
    shutil.move(str(river.share), f"{river.share}.away")
    runner = river.runner()
    eventually(lambda: "hakuriver init share" in runner.log, PATIENCE_S)
    shutil.move(f"{river.share}.away", str(river.share))
    river.up(runner)
    assert runner.log.count("hakuriver init share") == 1
