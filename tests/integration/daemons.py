"""Machines and daemons of the tests, as processes: started, signalled, found and ended by pid."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import eventually
from processes import halted, processes

#: How long anything may take before a test gives up: the machine may be busy with other things.
PATIENCE_S = 40.0
#: What a daemon has in its environment and a task must not get.
CANARY = {"CANARY_OF_DAEMON": "leaked"}
MIB = 1 << 20


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds; tasks read the same in /proc/uptime."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def send(pid: int, number: int) -> None:
    """Send a signal to one process; it may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was quicker


class Machine:
    """A machine: where its state lies, and where it sees the share."""

    def __init__(self, directory: Path, name: str, share: Path) -> None:
        self.name = name
        self.state = directory / "machines" / name
        self.mount = share
        self.state.mkdir(parents=True)

    def keepers(self, node: str = "") -> list[int]:
        """Pids of the keepers of this machine, or of one node on it."""
        return [pid for pid in self._keepers_and_guards(node) if _has_socket(pid)]

    def guards(self, node: str = "") -> list[int]:
        """Pids of the keepers' guards."""
        return [pid for pid in self._keepers_and_guards(node) if not _has_socket(pid)]

    def _keepers_and_guards(self, node: str) -> list[int]:
        return processes("hakuriver.keeper", str(self.state), f"/{node}" if node else "")


def _has_socket(pid: int) -> bool:
    """A keeper listens; its guard has no descriptors but its log."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False  # it has just ended, which may be told as EACCES
    return any(_points_to(f"/proc/{pid}/fd/{fd}").startswith("socket:") for fd in descriptors)


def _points_to(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # it has just been closed


class Daemon:
    """A host or a runner: at most one process at a time."""

    def __init__(self, role: str, machine: Machine, config: Path, log: Path, arguments: Sequence[str]) -> None:
        self.role, self.machine, self.config, self.log_file = role, machine, config, log
        self._command = [sys.executable, "-m", "hakuriver", role, *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        """Start a process; it does not wait until it works."""
        assert self.process is None or self.process.poll() is not None
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HAKURIVER_", "PYTEST_"))}
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**inherited, **CANARY, "HAKURIVER_CONFIG": str(self.config)}, cwd="/",
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if that is not heard for long; the exit status."""
        assert self.process is not None
        if self.running:
            send(self.pid, signal.SIGTERM)
            send(self.pid, signal.SIGCONT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def exit_status(self, deadline_s: float = PATIENCE_S) -> int:
        """Wait until the process ends of its own accord."""
        assert self.process is not None
        return self.process.wait(deadline_s)

    def freeze(self) -> None:
        """SIGSTOP, and wait until no thread of it runs any more."""
        send(self.pid, signal.SIGSTOP)
        eventually(lambda: halted(self.pid), PATIENCE_S, "it stands still")

    def thaw(self) -> None:
        """SIGCONT."""
        send(self.pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


def end_keepers(machine: Machine) -> None:
    """End all keepers of a machine, and their tasks with them."""
    for pid in machine.keepers():
        send(pid, signal.SIGCONT)
        send(pid, signal.SIGTERM)
    try:
        eventually(lambda: not processes("hakuriver.keeper", str(machine.state)), 15.0)
    except AssertionError:
        for pid in machine.keepers():
            send(pid, signal.SIGKILL)  # its guard ends the tasks, and makes another that has none

        def gone() -> bool:
            for pid in machine.keepers():
                send(pid, signal.SIGTERM)
            return not processes("hakuriver.keeper", str(machine.state))

        eventually(gone, PATIENCE_S)


def toml(sections: dict[str, dict[str, Any]]) -> str:
    """A configuration file."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            lines.append(f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}")
    return "\n".join(lines) + "\n"


# -- mounts, for tests that run as root


def mount(*arguments: str) -> None:
    """mount(8). Raises CalledProcessError, with what it said."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


def unmount(path: Path, *, lazily: bool = True) -> None:
    """umount(8), of the topmost mount there; nothing happens if there is none."""
    subprocess.run(["umount", *(["-l"] if lazily else []), str(path)], check=False, capture_output=True)


def can_mount(scratch: Path) -> bool:
    """Whether this process may mount things: root in a container often may not."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    place = scratch / "may-mount"
    place.mkdir(exist_ok=True)
    try:
        mount("-t", "tmpfs", "none", str(place))
    except subprocess.CalledProcessError:
        return False
    unmount(place)
    return True
