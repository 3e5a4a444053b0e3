"""What every lab can do: one export, seen by four machines through a mount each; and the faults of such a thing.

A machine is a place that commands run on: this one, for filesystems in user space, each with a mount of its own; a User
Mode Linux guest with its own kernel, page cache, clock and disk for NFS and SMB. Whatever a lab needs it installs
(apt), starts in network namespaces of its own, and ends by pid.
"""

from __future__ import annotations

import abc
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from processes import alive

#: The machines: by custom the host's, two runners', and one for clients and the standby host.
MACHINES = ("a", "b", "c", "d")
#: The machine whose clock is an hour ahead, where machines have clocks of their own.
AHEAD = "c"
AHEAD_S = 3600


class LabError(Exception):
    """The lab could not be brought up, or into the state that was asked for: {why}."""


class Lab(abc.ABC):
    """One filesystem, up between `up` and `down`."""

    name = ""
    #: Files bear the user who made them. If not, the river is for one user.
    keeps_owners = True
    #: Whether machines have clocks of their own, so that one of them can be an hour ahead.
    own_clocks = False
    #: What programs need in their environment on its machines: a task gets nothing of its runner's.
    environment: ClassVar[dict[str, str]] = {}
    #: Whether there is a server that can be killed; a local disk has none.
    has_server = True

    def __init__(self, directory: Path) -> None:
        """`directory`: an empty one on the local disk, in which everything lies; it must not be below /tmp."""
        self.directory = directory

    @abc.abstractmethod
    def up(self) -> None:
        """Install what is missing, start the server, mount everywhere. Raises LabError."""

    @abc.abstractmethod
    def down(self) -> None:
        """Unmount and end everything, by pid, in whatever state it is; may be called twice, and before `up` is done."""

    @abc.abstractmethod
    def root(self, machine: str) -> str:
        """Where a machine has the export mounted, as a path on that machine."""

    def state(self, machine: str) -> str:
        """A directory on the machine's own lasting disk, as a path on that machine."""
        path = self.directory / "state" / machine
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        """What to run here so that `argv` (no shell) runs there, with stdin, stdout and stderr; stdin's end ends it."""
        return list(argv)

    def run(self, machine: str, *argv: str, timeout: float = 60.0) -> str:
        """Run a command on a machine; what it printed. Raises LabError if it fails or takes too long."""
        return run(*self.command(machine, argv), timeout=timeout)

    # -- faults; each is mended by the one below it

    @abc.abstractmethod
    def server_kill(self) -> None:
        """Kill the server as a power cut would (SIGKILL)."""

    @abc.abstractmethod
    def server_start(self) -> None:
        """Start the server again, on the same data."""

    @abc.abstractmethod
    def cut(self, machine: str) -> None:
        """Let nothing pass between this machine's mount and the server, silently; nothing else is disturbed."""

    @abc.abstractmethod
    def mend(self, machine: str) -> None:
        """Let it pass again."""

    @abc.abstractmethod
    def mount_kill(self, machine: str) -> None:
        """Have the machine lose its mount: the client process is killed (user space), or it is unmounted by force."""

    @abc.abstractmethod
    def remount(self, machine: str) -> None:
        """Mount it again in the same place."""

    @abc.abstractmethod
    def fill(self) -> None:
        """Leave not a block free on the export's disk."""

    @abc.abstractmethod
    def unfill(self) -> None:
        """Free that space again."""

    @abc.abstractmethod
    def read_only(self) -> None:
        """Have all writes to the export refused."""

    @abc.abstractmethod
    def read_write(self) -> None:
        """Take them again."""

    # -- figures

    @abc.abstractmethod
    def requests(self, machine: str) -> int | None:
        """Operations that this machine's mount has asked of the server so far; None: they cannot be counted."""


def run(*argv: str, timeout: float = 60.0, input: str | None = None) -> str:
    """Run a command here; its stdout. Raises LabError with what it said."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=input, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise LabError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return done.stdout


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until it holds. Raises LabError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def install(packages: dict[str, str]) -> None:
    """Install Debian packages that are missing. `packages`: a program (name or path) -> the package that has it."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    with open(Path(tempfile.gettempdir(), "apt-for-tests.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # labs may come up side by side
        missing = {package for program, package in packages.items() if shutil.which(program, path=search) is None}
        if missing:
            _apt_get(sorted(missing))


def _apt_get(missing: list[str]) -> None:
    print(f"installing {' '.join(missing)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-o", "DPkg::Lock::Timeout=600", *step],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise LabError(f"apt-get install {' '.join(missing)}: {(done.stdout + done.stderr).strip()[-1000:]}")


def end(pid: int, patience_s: float = 10.0) -> None:
    """End a process that a lab has started: TERM, then KILL."""
    import signal

    for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
            wait_for(lambda: not alive(pid), seconds, f"the end of process {pid}")
            return
        except ProcessLookupError:
            return
        except LabError:
            continue
