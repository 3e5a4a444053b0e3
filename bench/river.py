"""A river to measure: real daemons of the installed package on a fresh share on the local disk."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakuriver.spool import layout

if TYPE_CHECKING:
    from lab.dockerd import Dockerd

RIVERS = Path(__file__).resolve().parent.parent / "build" / "bench"
BIN = Path(sys.executable).parent
HAKURIVER = str(BIN / "hakuriver")
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  #: linux/fs.h
#: Seconds that anything may take before the benchmark gives up.
PATIENCE_S = 120.0


def until(what: str, condition: Callable[[], Any], every_s: float = 0.01, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition; raises TimeoutError if it never comes."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience_s:g} s: {what}")
        time.sleep(every_s)


def environment(**more: str) -> dict[str, str]:
    """The environment of a plain shell: no settings of whoever measures, and bytecode as it is usually."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HAKURIVER_", "PYTHON"))}
    return {**kept, **more}


class River:
    """A share with the daemons that were started on it."""

    def __init__(self, directory: Path, engines: Sequence[Dockerd] = ()) -> None:
        """`engines`: Docker engines of the host and of each runner, in order; none: plain processes."""
        self.directory = directory
        self._engines = iter(engines)
        self.share = directory / "share"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.config = self._configure("host", 1)
        self.environment = environment(HAKURIVER_CONFIG=str(self.config))
        self.command("init", "share", "--shared-dir", str(self.share), "--name", "bench")

    def _configure(self, name: str, cores: int) -> Path:
        path = self.directory / f"{name}.toml"
        path.write_text(
            f'[paths]\nshared_dir = "{self.share}"\nstate_dir = "{self.directory / "state" / name}"\n'
            f'[node]\nname = "{name}"\n[resources]\ncores = {cores}\n' + self._executor()
        )
        return path

    def _executor(self) -> str:
        engine = next(self._engines, None)
        return f'[docker]\nhost = "unix://{engine.socket}"\n' if engine else '[scheduling]\nexecutor = "process"\n'

    def command(self, *arguments: str, text: str | None = None) -> str:
        """Run `hakuriver ARGUMENTS`; return what it printed."""
        done = subprocess.run(
            [HAKURIVER, *arguments], env=self.environment, input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"hakuriver {' '.join(arguments)} exited with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def start_host(self) -> None:
        """Start the host and wait until it leads."""
        self._start("host", self.config, "host")
        until("the host leads", lambda: not list((self.share / "host").glob("leader.*.none.*")))

    def start_runner(self, name: str, cores: int) -> None:
        """Start a runner and wait until the host has told about it."""
        self._start(name, self._configure(name, cores), "runner")
        index = self.share / layout.INDEX / "nodes.json"
        until(f"{name} is online", lambda: index.exists() and f'"{name}"' in index.read_text())

    def _start(self, name: str, config: Path, *arguments: str) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [HAKURIVER, *arguments], env={**self.environment, "HAKURIVER_CONFIG": str(config)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop(self, name: str) -> None:
        """End a daemon with TERM."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def close(self) -> None:
        """End everything that was started here, and remove it all."""
        for name in list(self.daemons):
            self.stop(name)
        for pid in processes_of(self.directory):
            kill(pid)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- work

    def submit(self, *arguments: str) -> str:
        """`hakuriver submit --no-receipt ARGUMENTS`; returns the job's id."""
        return self.command("submit", "--no-receipt", *arguments)[:20]

    def drop(self, name: str, document: bytes) -> float:
        """Drop a job file by rename, as a careful client does; return when (seconds since 1970, just before)."""
        hidden, place = self.share / "incoming" / f".{name}.tmp", self.share / "incoming" / name
        hidden.write_bytes(document)
        now = time.time()
        hidden.rename(place)
        return now

    def receipt(self, name: str) -> dict[str, Any]:
        """Wait for a receipt and return it."""
        path = self.share / layout.receipt(name)
        until(f"receipt {name}", path.exists, 0.002)
        found: dict[str, Any] = json.loads(path.read_bytes())
        assert found["outcome"] == "accepted", found
        return found

    def finished(self, job: str) -> bool:
        """Whether the job's last snapshot is there, and nothing of it failed."""
        bucket = self.share / layout.done_bucket(job)
        try:
            names = [name for name in os.listdir(bucket) if name.startswith(job)]
        except FileNotFoundError:
            return False
        if names:
            assert json.loads((bucket / names[-1]).read_bytes())["state"] == "completed", names
        return bool(names)

    def wait(self, job: str) -> None:
        """Wait until a job is recorded as completed."""
        until(f"{job} has completed", lambda: self.finished(job))

    def occupy(self, node: str, cores: int) -> str:
        """Hold all cores of a node with one long task; returns its job."""
        job = self.submit("--target", node, "--cores", str(cores), "--", "sleep", "3600")
        until(f"{node} is busy", lambda: self._running(job), 0.1)
        return job

    def _running(self, job: str) -> bool:
        bucket = self.share / layout.ACTIVE / layout.bucket(job)
        return any(json.loads(path.read_bytes())["counts"].get("running") for path in bucket.glob(f"{job}.*"))


@contextmanager
def river(engines: Sequence[Dockerd] = (), **runners: int) -> Iterator[River]:
    """A river with a host and runners of so many cores, for a `with`; `engines`: Docker's, the host's first."""
    RIVERS.mkdir(parents=True, exist_ok=True)
    scatter(RIVERS)
    made = River(Path(tempfile.mkdtemp(prefix="river.", dir=RIVERS)), engines)
    try:
        made.start_host()
        for name, cores in runners.items():
            made.start_runner(name, cores)
        yield made
    finally:
        made.close()


def scatter(directory: Path) -> None:
    """Have ext4 put each directory in it elsewhere on the disk, away from what was there before.

    For minutes ext4 does not use the inode of a deleted file again, and making a file looks past each of them: the
    rounds would measure how many files the one before has left. Source: recently_deleted() in Linux, fs/ext4/ialloc.c;
    chattr(1), T. Other file systems refuse, and need it not.
    """
    fd = os.open(directory, os.O_RDONLY)
    try:
        flags = array("l", [0])
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_TOPDIR_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
    except OSError:
        pass
    finally:
        os.close(fd)


def processes_of(directory: Path) -> dict[int, str]:
    """Every other process that names the directory in its arguments or environment: {pid: arguments}."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            said = arguments + (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        if os.fsencode(directory) in said:
            found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill(pid: int) -> None:
    """KILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was quicker
