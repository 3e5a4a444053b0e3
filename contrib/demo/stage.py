"""What the demo stands on: its directory, its daemons, and commands that are shown before they run."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds that a command, a daemon's first sign of life and a daemon's end may take.
COMMAND_S, READY_S, STOP_S = 60.0, 20.0, 15.0
BIN = Path(sys.executable).parent


class Unexpected(Exception):
    """Something in the demo was not as it must be."""


def say(text: str) -> None:
    """Explain what comes."""
    print(f"\n# {text}", flush=True)


def fresh_directory(below: Path) -> Path:
    """A new directory for this demo; those that earlier ones have left are removed.

    A demo holds a lock on its own as long as it runs, so that two of them do not disturb each other.
    """
    below.mkdir(parents=True, exist_ok=True)
    for old in below.glob("demo.*"):
        with open(old / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            shutil.rmtree(old, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix="demo.", dir=below))
    fcntl.flock(os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_EX)
    return directory


def processes_of(directory: Path) -> dict[int, str]:
    """Every process but this one that names the directory in its arguments or environment: {pid: arguments}."""
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
            found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace").strip() or "(ending)"
    return found


class Stage:
    """A fresh share with daemons around it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.share = directory / "share"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HAKURIVER_")}
        self._environment = {**kept, "PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}", "COLUMNS": "120"}

    def configure(self, name: str, cores: int | None = None) -> Path:
        """Write a configuration file, as each machine of a cluster has one."""
        text = f'[paths]\nshared_dir = "{self.share}"\nstate_dir = "{self.directory / "state" / name}"\n'
        text += f'[node]\nname = "{name}"\n[scheduling]\nexecutor = "process"\n'
        text += f"[resources]\ncores = {cores}\n" if cores else ""
        path = self.directory / f"{name}.toml"
        path.write_text(text)
        return path

    def use(self, config: Path) -> None:
        """Commands from now on read this configuration."""
        self._environment["HAKURIVER_CONFIG"] = str(config)

    def shell(self, line: str, expect: int = 0, contains: str = "") -> str:
        """Show a command line, run it as it is shown, and return what it printed, which is shown too.

        Raises Unexpected unless it exits with `expect` and what it printed contains the text.
        """
        print(f"$ {line}", flush=True)
        done = subprocess.run(
            ["/bin/sh", "-c", line], env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=COMMAND_S, text=True, check=False,
        )  # fmt: skip
        print(done.stdout, end="" if done.stdout.endswith("\n") else "\n" if done.stdout else "", flush=True)
        if done.returncode:
            print(f"(exit code {done.returncode})", flush=True)
        if done.returncode != expect:
            raise Unexpected(f"`{line}` exited with {done.returncode}, not {expect}")
        if contains not in done.stdout:
            raise Unexpected(f"`{line}` did not print {contains!r}")
        return done.stdout

    def start(self, name: str, line: str) -> None:
        """Show a daemon's command line and start it; its log goes to a file."""
        print(f"$ {line} &", flush=True)
        with open(self.directory / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {line}"], env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float = READY_S) -> None:
        """Wait for a condition; raises Unexpected if it does not come, or a daemon has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise Unexpected(f"{name} ended with {daemon.returncode}, before {what}")
            if time.monotonic() > deadline:
                raise Unexpected(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the daemons with TERM; raises Unexpected if one fails or a process stays."""
        codes = {name: _terminated(daemon) for name, daemon in self.daemons.items()}
        self.daemons.clear()
        wrong = {name: code for name, code in codes.items() if code != 0}
        if wrong:
            raise Unexpected(f"daemons did not end cleanly: {wrong}")
        deadline = time.monotonic() + STOP_S
        while left := processes_of(self.directory):
            if time.monotonic() > deadline:
                raise Unexpected(f"processes are left: {left}")
            time.sleep(0.05)

    def clear(self, failed: bool) -> None:
        """End whatever is left, by pid; show the logs if something went wrong; keep the share for its pages."""
        for daemon in self.daemons.values():
            _terminated(daemon)
        for pid in processes_of(self.directory):
            _kill(pid)
        if failed:
            for log in sorted(self.directory.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)
        shutil.rmtree(self.directory / "state", ignore_errors=True)


def _terminated(daemon: subprocess.Popen[bytes]) -> int:
    """Ask a daemon to end; after a while make it. Returns its exit code."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
    try:
        return daemon.wait(STOP_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was quicker
