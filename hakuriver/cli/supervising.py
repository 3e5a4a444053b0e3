"""Keeps child processes running: starts them, starts them again when they die, stops them in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

#: Seconds before a child that died is started again: the first time, and at most.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
#: A child that lived so long has recovered.
RECOVERED_S = 60.0
#: Seconds that children get to stop before they are killed.
STOP_S = 15.0
#: A log longer than this is begun anew when its child starts.
LOG_MOST = 16 * 1024 * 1024
PR_SET_PDEATHSIG = 1


class Child:
    """One daemon: `python -m hakuriver ARGUMENTS`, its output in a log file."""

    def __init__(self, name: str, arguments: list[str], directory: str, environment: dict[str, str]) -> None:
        self.name = name
        self.log = os.path.join(directory, f"{name}.log")
        self._command = [sys.executable, "-m", "hakuriver", *arguments]
        self._directory = directory
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE_S
        self._next = 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def mind(self, now: float, say: Callable[[str], None]) -> None:
        """Start it if it is time to; notice its death. `now`: time.monotonic()."""
        if self._process is not None and self._process.poll() is not None:
            self._died(now, say)
        if self._process is None and now >= self._next:
            self._start(now)

    def _died(self, now: float, say: Callable[[str], None]) -> None:
        assert self._process is not None
        code = self._process.returncode
        if now - self._started > RECOVERED_S:
            self._pause = FIRST_PAUSE_S
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        say(f"{self.name} {how} ({last_line(self.log)}); starting it again in {self._pause:.0f} s, see {self.log}")
        self._process, self._next = None, now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)

    def _start(self, now: float) -> None:
        self._started = now
        mode = "ab" if not os.path.exists(self.log) or os.path.getsize(self.log) < LOG_MOST else "wb"
        parent = os.getpid()
        with open(self.log, mode) as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # -m looks in the working directory first; this one holds nothing that could be imported by mistake.
                cwd=self._directory, env=self._environment,
                start_new_session=True, preexec_fn=lambda: _die_with(parent),
            )  # fmt: skip

    def ask_to_stop(self) -> None:
        """TERM."""
        if self._process is not None and self.alive:
            self._process.terminate()

    def wait(self, until: float) -> bool:
        """Wait for its end; past `until` (time.monotonic()) it is killed. Tell whether it ended by itself."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True


_libc = ctypes.CDLL(None)


def _die_with(parent: int) -> None:
    """The child gets TERM when its parent dies, however that happens (prctl(2)); its keeper does not."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def stop_all(children: list[Child]) -> list[str]:
    """Stop them together; return the names of those that had to be killed."""
    for child in children:
        child.ask_to_stop()
    until = time.monotonic() + STOP_S
    return [child.name for child in children if not child.wait(until)]


def last_line(path: str) -> str:
    """The last line of a log that says something."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1].strip() if lines else "it said nothing"
