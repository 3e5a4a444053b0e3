"""A live cluster as its users have it: installed commands, a configuration at home, a host and two nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from conftest import SCRATCH, eventually
from processes import processes

from hakuriver import reading
from hakuriver.errors import HakuRiverError
from hakuriver.spool.access import Share

BIN = Path(sys.executable).parent
PATIENCE_S = 60.0
#: A machine without Docker and systemd, in a hurry. The other share has no host.
CONFIG = """
[paths]
shared_dir = "{share}"
state_dir = "{directory}/{state}"
local_temp_dir = "{directory}/temp"
[timing]
heartbeat_interval = 0.5
offline_after = 60.0
lease = 120.0
lease_margin = 60.0
poll_interval = 0.1
kill_grace = 0.3
[scheduling]
executor = "process"
[resources]
cores = 4
[docker]
host = "unix://{directory}/none.sock"
initial_base_image = ""
"""


class Ran(NamedTuple):
    """What a line of the shell did."""

    status: int
    out: str
    err: str


class River:
    """Made by `start`, and ended by `stop`."""

    def __init__(self) -> None:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(dir=SCRATCH))
        self.home = self.directory / "home"
        self.share = self.directory / "share"
        self.config = self.home / ".hakuriver" / "config.toml"
        self.config.parent.mkdir(parents=True)
        self.configure(self.config, self.share, "state")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HAKURIVER_")}
        self.environment = {**clean, "HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def configure(self, path: Path, share: Path, state: str) -> None:
        """Write a configuration of a machine whose state lies there."""
        path.write_text(CONFIG.format(share=share, directory=self.directory, state=state))

    def start(self) -> None:
        """Make the share, and start a host and two runners: each by another of its names."""
        self.shell(f"hakuriver init share --shared-dir {self.share}")
        self.daemon(f"hakuriver.host -c {self.config}")
        self.daemon(f"hakuriver.runner --config {self.config} --name n1")
        self.daemon(f"hakuriver runner -c {self.config} --name n2")
        eventually(lambda: self.online() == ["n1", "n2"], PATIENCE_S)

    def online(self) -> list[str]:
        """The nodes that are."""
        try:
            index = reading.nodes_index(Share(str(self.share))) or {"nodes": []}
        except HakuRiverError:
            return []  # it is being made
        return [row["node"] for row in index["nodes"] if row["state"] == "online"]

    def daemon(self, line: str) -> Path:
        """Start a daemon by a line of the shell; its log."""
        log = self.directory / f"daemon-{len(self.daemons)}.log"
        with log.open("wb") as stream:
            self.daemons.append(
                subprocess.Popen(["bash", "-c", f"exec env {line}"], env=self.environment, stderr=stream)
            )
        return log

    def shell(self, line: str) -> Ran:
        """Run a line as somebody types it."""
        return self.ended(self.begin(line))

    def begin(self, line: str) -> subprocess.Popen[str]:
        """Begin a line."""
        return subprocess.Popen(
            ["bash", "-c", line], env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for its end."""
        out, err = process.communicate(timeout=PATIENCE_S)
        return Ran(process.returncode, out, err)

    def stop(self) -> None:
        """End all that was started, by pid; print what daemons said."""
        try:
            self.shell("hakuriver task kill --all")
            for daemon in reversed(self.daemons):
                daemon.terminate()
            for daemon in self.daemons:
                daemon.wait(PATIENCE_S)
        finally:
            for pid in processes(str(self.directory)):
                with suppress(ProcessLookupError):  # it was quicker
                    os.kill(pid, signal.SIGKILL)
            for log in sorted(self.directory.glob("*.log")):
                print(f"--- {log.name} ---\n{log.read_text()[-5000:]}")
            shutil.rmtree(self.directory, ignore_errors=True)
