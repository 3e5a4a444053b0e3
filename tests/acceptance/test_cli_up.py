"""`hakuriver up` as its user meets it: a real host and real runners on one machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import eventually

COMMAND = str(Path(sys.executable).parent / "hakuriver")
PATIENCE_S = 60.0


class Up:
    """One `hakuriver up` after the other, on the same river."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "river"
        self.log = directory / "up.log"
        self.home = directory / "home"
        self.home.mkdir()
        self.environment = {**os.environ, "HOME": str(self.home)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "up", "--shared-dir", str(self.root), *options], env=self.environment, stdout=log, stderr=log
            )
        eventually(self._serves, PATIENCE_S)

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said
        return self.hakuriver("submit", "--", "true").stderr == ""

    def stop(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def hakuriver(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "HAKURIVER_SHARED_DIR": str(self.root)}
        return subprocess.run(
            [COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def out(self, task: str) -> str:
        """What a task wrote to its standard output."""
        return (self.root / "task_outputs" / f"{task}.out").read_text()

    def cores(self) -> list[str]:
        """Cores held of those there are, node by node, as the index tells some seconds later."""
        return [line.split()[2] for line in self.hakuriver("node", "list").stdout.splitlines()[1:]]

    def processes(self, word: str) -> list[int]:
        """Our processes whose command line has this word."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
            except (OSError, UnicodeDecodeError):
                continue
            if entry.name.isdigit() and str(self.home.parent) in line and word in line:
                found.append(int(entry.name))
        return found

    def one(self, word: str) -> int:
        """The only one of them; what it starts looks like it for a moment."""
        found: list[int] = []

        def alone() -> bool:
            found[:] = self.processes(word)
            return len(found) == 1

        eventually(alone, PATIENCE_S)
        return found[0]


@pytest.fixture
def up(scratch: Path) -> Iterator[Up]:
    yield from up_of(scratch)


def up_of(directory: Path) -> Iterator[Up]:
    """One that leaves no process behind."""
    made = Up(directory)
    yield made
    try:
        if made.process and made.process.poll() is None:
            made.hakuriver("task", "kill", "--all")
            made.stop()
    finally:
        for pid in made.processes("hakuriver"):
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)


def test_work_is_done_and_goes_on_where_it_was(up: Up) -> None:
    up.start("--nodes", "2", "--cores", "3")
    ran = up.hakuriver("submit", "--wait", "--array", "0-9", "--", "sh", "-c", "exit $((HAKURIVER_TASK_INDEX == 3))")
    assert ran.returncode == 1
    assert "9 completed" in ran.stderr
    assert "pages: file://" in up.said
    eventually(lambda: len(set(re.findall(r"node (\S+): online", up.said))) == 2, PATIENCE_S)
    eventually(lambda: up.cores() == ["0/3", "0/3"], PATIENCE_S)

    flag = up.home / "flag"
    long = up.hakuriver(
        "submit", "--", "sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.05; done; exit 5"
    ).stdout.strip()
    eventually(lambda: "running" in up.hakuriver("task", "why", long).stdout, PATIENCE_S)
    assert up.stop() == 0
    assert re.search(rf"takes up again what goes on under its keeper: {long}", up.said)
    assert up.processes("--config") == []
    flag.touch()

    up.start()
    assert up.hakuriver("task", "wait", long).returncode == 5
    eventually(lambda: up.cores() == ["0/3", "0/3"], PATIENCE_S)
    assert up.stop(signal.SIGTERM) == 0
    assert "stopped; `hakuriver up" in up.said


def test_a_daemon_that_dies_is_started_again(up: Up) -> None:
    up.start()
    for daemon in (" host", " runner"):
        os.kill(up.one(daemon), signal.SIGKILL)
    eventually(lambda: up.said.count("was killed by signal 9") == 2, PATIENCE_S)
    assert up.hakuriver("submit", "--wait", "--", "true").returncode == 0


def test_children_go_when_it_is_killed(up: Up) -> None:
    up.start()
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    eventually(lambda: up.processes(" host") + up.processes(" runner") == [], PATIENCE_S)
    up.start()
    assert up.hakuriver("submit", "--wait", "--", "true").returncode == 0


def test_one_at_a_time(up: Up) -> None:
    up.start()
    ran = up.hakuriver("up", "--shared-dir", str(up.root))
    assert ran.returncode == 1
    assert "runs for this river on this machine already" in ran.stderr


def test_a_directory_that_is_no_river_is_left_alone(up: Up) -> None:
    up.root.mkdir()
    (up.root / "mine").write_text("x")
    ran = up.hakuriver("up", "--shared-dir", str(up.root))
    assert ran.returncode == 1
    assert "is there and is no river" in ran.stderr
    assert os.listdir(up.root) == ["mine"]


def test_a_wrong_configuration_is_told_before_anything_is_made(up: Up) -> None:
    file = up.home / "wrong.toml"
    file.write_text("[paths]\nstate_dri = 3\n")
    ran = up.hakuriver("up", "--shared-dir", str(up.root), "--config", str(file))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"hakuriver: {file}: paths.state_dri: there is no such key")
    assert not up.root.exists()


def test_a_river_of_its_own_stays_what_it_is(up: Up) -> None:
    assert up.hakuriver("init", "share", "--shared-dir", str(up.root), "--name", "lab").returncode == 0
    before = (up.root / "river.json").read_bytes()
    up.start()
    assert "river lab at" in up.said
    assert (up.root / "river.json").read_bytes() == before


def test_the_view_is_redrawn_in_place(up: Up) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(COMMAND, [COMMAND, "up", "--shared-dir", str(up.root)], {**up.environment, "TERM": "xterm"})
    os.set_blocking(terminal, False)
    out = b""

    def shows() -> bool:
        nonlocal out
        with suppress(OSError):  # there is nothing yet, or its end of the terminal is closed
            out += os.read(terminal, 65536)
        return b"online" in out and b"\x1b[J" in out and b"A\r\x1b[J" in out

    eventually(shows, PATIENCE_S)
    os.write(terminal, b"\x03")
    end = time.monotonic() + PATIENCE_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        shows()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.close(terminal)


def test_a_signal_at_any_moment_stops_it(scratch: Path) -> None:
    """Also one that comes while the loop holds a lock: a handler that wants it would wait for itself."""
    ran = subprocess.run(
        [sys.executable, "-c", OFTEN, str(scratch / "river")], capture_output=True, text=True, timeout=110
    )
    assert ran.stdout.count("stopped") == STOPS, ran.stderr


STOPS = 300
#: Stops `hakuriver up`, without children and without pauses, again and again a little after its start.
OFTEN = f"""
import os, signal, sys, threading, time
from hakuriver.cli import making, up
from hakuriver.spool.access import Share
root = sys.argv[1]
making.make_river(root, None)
up.MIND_S = 0.0
for number in range({STOPS}):
    def send():
        while signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            time.sleep(1e-4)
        time.sleep(0.001 + number * 1e-5)
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the last that it catches
    threading.Thread(target=send).start()
    up._run(Share(root), "test", [])
"""
