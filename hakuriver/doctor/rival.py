"""A second process on this machine, for what one alone cannot show: `python -m hakuriver.doctor.rival ROOT`.

It reads one JSON array a line, [operation, arguments...], and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from hakuriver.doctor import rivalry
from hakuriver.spool import files
from hakuriver.spool.files import Disk, LocalDisk, ShareError

#: Seconds until it answers anything at all; a share may hang for longer.
PATIENCE_S = 10.0
#: Seconds that its end is waited for: a process in a dead mount does not end.
END_S = 0.5


class NoRival(Exception):
    """The second process does not answer: {why}."""


class Rival:
    """The second process, as the first sees it."""

    def __init__(self, root: str) -> None:
        """Start it. Raises NoRival."""
        command = [sys.executable, "-m", "hakuriver.doctor.rival", root]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, cwd="/",
                env=environment(), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise NoRival(f"it cannot be started: {error.strerror}") from error

    def __enter__(self) -> Rival:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            pass  # it hangs in the share; it ends when that answers

    def send(self, *operation: Any) -> None:
        """Have it do something. Raises NoRival."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(operation).encode() + b"\n")
        except OSError as error:
            raise NoRival(f"it has ended: {error.strerror}") from error

    def answer(self) -> Any:
        """What came of it. Raises NoRival."""
        assert self._process.stdout is not None
        line, end = b"", time.monotonic() + PATIENCE_S
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise NoRival(f"no answer within {PATIENCE_S:.0f} s")
            part = self._process.stdout.read(65536)
            if not part:
                raise NoRival("it has ended")
            line += part
        told = json.loads(line)
        if "error" in told:
            raise NoRival(told["error"])
        return told["ok"]

    def ask(self, *operation: Any) -> Any:
        """Have it do something, and wait for what came of it. Raises NoRival."""
        self.send(*operation)
        return self.answer()


def environment() -> dict[str, str]:
    """Ours, for a child that works elsewhere: relative places of modules would be none there."""
    places = os.environ.get("PYTHONPATH")
    if not places:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))}


def serve(disk: Disk, lines: IO[str], answers: IO[str]) -> None:
    """Do what is asked until nobody asks any more."""
    for line in lines:
        operation, *arguments = json.loads(line)
        try:
            told = {"ok": _OPERATIONS[operation](disk, *arguments)}
        except (OSError, ShareError) as error:
            told = {"error": str(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def _hello(_disk: Disk) -> str:
    return "ready"


def _race(disk: Disk, at: str, count: int, start: float) -> list[int]:
    return rivalry.race(disk, at, "rival", rivalry.at_once(count, start))


def _create(disk: Disk, path: str) -> str:
    files.publish(disk, path, b"rival")
    return path


def _exclusive(disk: Disk, path: str) -> bool:
    """Whether a file that is there can be made as a new one."""
    try:
        disk.write(path, b"", durable=False)
    except FileExistsError:
        return False
    return True


def _lock(disk: Disk, path: str) -> str:
    return rivalry.try_lock(f"{disk.root}/{path}")


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "hello": _hello,
    "race": _race,
    "create": _create,
    "exclusive": _exclusive,
    "lock": _lock,
}


if __name__ == "__main__":
    serve(LocalDisk(sys.argv[1]), sys.stdin, sys.stdout)
