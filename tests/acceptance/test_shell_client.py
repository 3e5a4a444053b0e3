"""spool_layout.md is enough to write a client: one in sh and coreutils submits, waits and reads."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import eventually
from processes import processes

CLIENT = Path(__file__).with_name("shell_client.sh")
#: All programs that the client may call; each is one of coreutils.
COREUTILS = ("cat", "cut", "date", "head", "ls", "mv", "od", "sleep", "sort", "sync", "tail", "tr")


class River:
    """A share with a host and a runner as real processes."""

    def __init__(self, directory: Path) -> None:
        self.share = directory / "share"
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in COREUTILS:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        config = directory / "config.toml"
        config.write_text(
            f'[paths]\nshared_dir = "{self.share}"\nstate_dir = "{directory}/state"\n'
            f'local_temp_dir = "{directory}/temp"\n'
            '[scheduling]\nexecutor = "process"\n[timing]\nheartbeat_interval = 1\n'
            "offline_after = 30\npoll_interval = 0.2\n"
        )
        self.environment = {**os.environ, "HAKURIVER_CONFIG": str(config)}
        self.processes: list[subprocess.Popen[bytes]] = []
        subprocess.run(
            self.hakuriver("init", "share", "--shared-dir", str(self.share)), check=True, env=self.environment
        )
        self.log = open(directory / "log", "wb")  # noqa: SIM115 - closed with the river

    def hakuriver(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hakuriver", *arguments]

    def start(self, *arguments: str) -> None:
        self.processes.append(subprocess.Popen(self.hakuriver(*arguments), env=self.environment, stderr=self.log))

    def stop(self) -> None:
        try:
            for process in reversed(self.processes):
                process.terminate()
            for process in self.processes:
                process.wait(60)
        finally:
            for pid in processes(str(self.share.parent)):
                with suppress(ProcessLookupError):  # it was quicker
                    os.kill(pid, signal.SIGKILL)
            self.log.close()

    def client(self, *command: str) -> subprocess.Popen[bytes]:
        """The shell client, in a world without anything but coreutils."""
        return subprocess.Popen(
            ["/bin/sh", str(CLIENT), str(self.share), *command],
            env={"PATH": str(self.bin)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command: str) -> tuple[int, bytes, bytes]:
        """Run it to its end: exit status, stdout, stderr without the id."""
        process = self.client(*command)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err.partition(b"\n")[2]


@pytest.fixture
def river(scratch: Path) -> Iterator[River]:
    river = River(scratch)
    try:
        yield river
    finally:
        river.stop()


def test_a_shell_script_submits_waits_and_reads(river: River) -> None:
    early = river.client("echo", "submitted before any host ran")
    eventually(lambda: [n for n in os.listdir(river.share / "incoming") if n.endswith(".json")])
    river.start("host")
    river.start("runner", "--name", "n1")
    out, _ = early.communicate(timeout=60)
    assert (early.returncode, out) == (0, b"submitted before any host ran\n")

    odd = ["-n", 'quotes " and \\', "two\nlines\tand a tab", "ünï ☃", "$HOME *", ""]
    assert river.run("printf", "%s|", *odd) == (0, "|".join([*odd, ""]).encode(), b"")
    assert river.run("sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert river.run("sh", "-c", "kill -9 $$")[0] == 137
    code, out, err = river.run("bad\x01argument")
    assert (code, out) == (125, b"")
    assert b"refused" in err


def test_without_a_river_it_says_so(river: River) -> None:
    (river.share / "river.json").unlink()
    code, out, _ = river.run("true")
    assert (code, out) == (2, b"")
    assert not [n for n in os.listdir(river.share / "incoming") if n.endswith(".json")]
