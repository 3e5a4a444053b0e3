"""A river on a machine that systemd runs: tasks are units, and outlive the daemons that started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import SCRATCH, eventually
from lab.systemd import PROJECT, Container, Machine

HAKURIVER = (sys.executable, "-m", "hakuriver")
LONG_S = 120.0


class River:
    """`hakuriver up` there, with its share on a directory that both machines see."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.share = machine.directory / "share"
        self.configuration = machine.directory / "river.toml"
        self.configuration.write_text(f'[paths]\nshared_dir = "{self.share}"\n[environment]\nrunner_user = "nobody"\n')
        up = [*HAKURIVER, "up", "--shared-dir", str(self.share), "--nodes", "1", "--cores", "4"]
        self.process = subprocess.Popen(
            self._command([*up, "--config", str(self.configuration)]), stdin=subprocess.DEVNULL, start_new_session=True
        )
        offers = (
            sys.executable,
            "-c",
            "import json, sys; print(json.load(open(sys.argv[1]))['nodes'][0]['executors'])",
        )
        index = str(self.share / "index" / "nodes.json")
        eventually(lambda: "systemd" in subprocess.run([*offers, index], capture_output=True, text=True).stdout, LONG_S)

    def _command(self, argv: list[str]) -> list[str]:
        # The installed package, or the sources that PYTHONPATH names.
        source = [f"PYTHONPATH={PROJECT}"] if os.environ.get("PYTHONPATH") else []
        return self.machine.command(["env", *source, f"HAKURIVER_CONFIG={self.configuration}", *argv])

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the command line there."""
        return subprocess.run(self._command([*HAKURIVER, *argv]), capture_output=True, text=True, timeout=LONG_S)

    def submit(self, *options: str) -> str:
        done = self.call("submit", "-q", "--executor", "systemd", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str) -> tuple[int, str]:
        """Wait for a job: what that exits with, and what it says."""
        done = self.call("task", "wait", job)
        return done.returncode, done.stdout + done.stderr

    def output(self, job: str) -> str:
        path = self.share / "task_outputs" / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def units(self) -> str:
        return self.machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "hakuriver-task-*")

    def kill(self, *words: str) -> None:
        """Kill what has these words on its command line, there."""
        listed = self.machine.run("ps", "-e", "-o", "pid=,args=").splitlines()
        found = [line.split()[0] for line in listed if all(word in line for word in words) and "ps -e" not in line]
        assert found, words
        # One after the other: with the first, others may have gone by themselves.
        self.machine.run("sh", "-c", "for pid; do kill -9 $pid || true; done", "sh", *found)


@pytest.fixture(scope="module")
def river() -> Iterator[River]:
    directory = SCRATCH / f"river-systemd-{os.getpid()}"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    with Container("river", directory) as machine:
        yield River(machine)
    subprocess.run(["rm", "-rf", directory], check=True)


def test_tasks_end_as_they_are_told_to(river: River) -> None:
    script = "id -un; pwd; cat /proc/self/cgroup; exit 4"
    job = river.submit("--memory", "200M", "--", "sh", "-c", script)
    assert river.wait(job)[0] == 4
    lines = river.output(job).splitlines()
    assert lines[:2] == ["nobody", str(river.share / "shared_data")]
    assert any(f"hakuriver-task-{job}.service" in line for line in lines)
    status, said = river.wait(river.submit("--memory", "50M", "--", "tail", "/dev/zero"))
    assert (status, "killed_oom" in said) == (137, True), said
    status, said = river.wait(river.submit("--", "no-such-program"))
    assert (status, "cannot run no-such-program: No such file or directory" in said) == (127, True), said
    status, said = river.wait(river.submit("--time-limit", "1", "--", "sleep", "1000"))
    assert (status, "time limit" in said) == (124, True), said
    script = "ps -e -o comm=; tail -n +3 /proc/net/dev | cut -d: -f1"
    job = river.submit("--private-network", "--private-pid", "--", "sh", "-c", script)
    assert river.wait(job)[0] == 0
    seen = river.output(job).split()
    assert "systemd" not in seen and seen[-1] == "lo", seen
    eventually(lambda: river.units() == "", LONG_S)


@pytest.mark.parametrize("words", [("hakuriver.attendant", "systemd"), ("hakuriver.keeper",), ("hakuriver", "runner")])
def test_tasks_outlive_the_daemons(river: River, words: tuple[str, ...]) -> None:
    go = river.share / "shared_data" / "go"
    go.unlink(missing_ok=True)
    job = river.submit("--", "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 6")
    eventually(lambda: "running" in river.units(), LONG_S)
    river.kill(*words)
    assert "running" in river.units()
    go.touch()
    status, said = river.wait(job)
    assert status == 6, said
    assert river.output(job) == "one\ntwo\n"
    eventually(lambda: river.units() == "", LONG_S)
