"""What the machine itself can do, measured the same way and in the same rounds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from river import environment


def process(arguments: list[str], env: dict[str, str]) -> float:
    """Seconds from starting a program to having reaped it."""
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    begun = time.perf_counter()
    pid = os.posix_spawn(arguments[0], arguments, env, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter() - begun
    os.close(null)
    if status:
        raise RuntimeError(f"{arguments} ended with status {status}")
    return taken


def python_pass() -> float:
    """Seconds of `python -c pass` of this environment."""
    return process([sys.executable, "-c", "pass"], environment())


def date_start() -> float:
    """Seconds from just before a program is spawned to the time that it tells itself."""
    begun = time.time()
    return float(subprocess.run(["/bin/date", "+%s.%N"], capture_output=True, check=True).stdout) - begun


def xargs_true(count: int, slots: int) -> float:
    """Processes a second that xargs runs."""
    begun = time.perf_counter()
    subprocess.run(f"seq {count} | xargs -P{slots} -n1 /bin/true", shell=True, check=True, env=environment())
    return count / (time.perf_counter() - begun)


def durable_files(directory: Path, count: int, document: bytes) -> float:
    """Files a second by create, write, fsync, close, rename."""
    directory.mkdir()
    begun = time.perf_counter()
    for number in range(count):
        hidden = f"{directory}/.{number}.tmp"
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, document)
        os.fsync(fd)
        os.close(fd)
        os.rename(hidden, f"{directory}/{number}.json")
    return count / (time.perf_counter() - begun)


def durable_file(directory: Path, document: bytes) -> float:
    """Seconds of one file by create, write, fsync, rename, fsync of its directory."""
    directory /= "floor"
    directory.mkdir(exist_ok=True)
    begun = time.perf_counter()
    fd = os.open(directory / ".tmp", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, document)
    os.fsync(fd)
    os.close(fd)
    os.rename(directory / ".tmp", directory / "one")
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - begun
