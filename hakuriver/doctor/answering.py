"""The other side of `hakuriver doctor --with NODE`: a process that the node's runner starts, and that ends by itself.

`start` is what the runner calls. The process writes in the doctor's directory alone, and lives for LIFE_S at most.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hakuriver.doctor import letters, mounts, rivalry
from hakuriver.doctor.letters import ANSWER, ASK, Letters, NoLetter
from hakuriver.doctor.rival import environment
from hakuriver.ids import is_job_id
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, LocalDisk, ShareError

log = logging.getLogger("hakuriver.doctor")

#: Seconds after which it ends, whatever the other side does.
LIFE_S = 60.0
#: As many at once; further ones are answered when one of these has ended.
MOST = 4
#: Seconds for which a name, or a replaced file, is looked for; and between two looks.
LATE_S, LOOK_S = 8.0, 0.05
#: The pause between two readings of a replaced file grows so, up to so many seconds: an SMB client keeps the old one
#: open as long as it is read again and again.
GROWTH, REREAD_S = 3.0, 2.5
#: Seconds without a letter after which it looks whether the doctor is still there.
LOOK_UP_S = 2.0
#: Seconds until all files of a race can be seen.
LAID_OUT_S = 5.0

_started: dict[str, subprocess.Popen[bytes]] = {}


def start(shared_dir: str, node: str, ask: str) -> None:
    """Have `nodes/<node>/doctor.<id>` answered by a process of its own; returns at once, and raises nothing.

    `ask`: that id, or the file's name. One that was called with before is passed over.
    """
    run = layout.parse_doctor_ask(ask) or ask
    if not is_job_id(run) or run in _started or sum(p.poll() is None for p in _started.values()) >= MOST:
        return
    command = [sys.executable, "-m", "hakuriver.doctor.answering", shared_dir, run]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            env=environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        log.warning("node %s cannot answer the doctor: %s", node, error)
        return
    _started[run] = process
    threading.Thread(target=process.wait, name="doctor", daemon=True).start()  # so that no zombie is left


def answer(disk: Disk, run: str) -> None:
    """Answer until the other side says that it is over, or is gone. Raises ShareError, FileExistsError."""
    at = layout.doctor(run)
    disk.write(f"{at}/answering", b"", durable=False)  # only one answers: another finds it there
    Answerer(disk, at).run()


class Answerer:
    """Answers one doctor."""

    def __init__(self, disk: Disk, at: str) -> None:
        self._disk, self._at = disk, at
        self._letters = Letters(disk, at, ANSWER, ASK)
        self._end = time.monotonic() + LIFE_S

    def run(self) -> None:
        """Say who we are, then do what is asked."""
        self._letters.send(**self._hello())
        while True:
            try:
                asked = self._letters.receive(LOOK_UP_S).body
            except NoLetter:
                if time.monotonic() > self._end or self._gone():
                    return
                continue
            if asked.get("do") == "over":
                self._letters.send(over=True)
                return
            self._do(asked)

    def _gone(self) -> bool:
        """Whether the doctor has ended and removed its directory."""
        try:
            return self._at.rpartition("/")[2] not in files.names(self._disk, layout.DOCTOR)
        except ShareError:
            return False  # the share is away for a moment

    def _hello(self) -> dict[str, Any]:
        import platform
        import socket

        from hakuriver import __version__

        return {
            "hostname": socket.gethostname(), "version": __version__, "python": platform.python_version(),
            "uid": os.geteuid(), "mount": [list(f) for f in mounts.judge(mounts.of(self._disk.root), "other")],
        }  # fmt: skip

    def _do(self, asked: dict[str, Any]) -> None:
        operations: dict[str, Callable[..., None]] = {
            "ping": self._ping, "await": self._await, "reread": self._reread, "race": self._race, "lock": self._lock,
            "owner": self._owner, "rate": self._rate,
        }  # fmt: skip
        operation = operations.get(asked["do"])
        if operation is None:
            self._letters.send(error=f"this version cannot {asked['do']}")
            return
        try:
            operation(**{key: value for key, value in asked.items() if key != "do"})
        except (OSError, ShareError) as error:
            self._letters.send(error=str(error))

    def _path(self, name: str) -> str:
        return f"{self._disk.root}/{self._at}/{name}"

    def _ping(self) -> None:
        self._letters.send(time=time.time())

    def _await(self, name: str) -> None:
        """Ask for a name before it is there, and go on asking for it; its directory is not listed."""
        os.path.lexists(self._path(name))
        self._letters.send(looks=True)
        self._letters.send(seen=self._soon(lambda: os.path.lexists(self._path(name))))

    def _reread(self, name: str, until: str) -> None:
        """Read a file, and go on reading it until it says something else."""
        path = f"{self._at}/{name}"
        rivalry.read_soon(self._disk, path)
        self._letters.send(looks=True)
        self._letters.send(seen=self._soon(lambda: rivalry.read_soon(self._disk, path) == until.encode(), GROWTH))

    def _soon(self, condition: Callable[[], bool], growth: float = 1.0) -> bool:
        end, pause = time.monotonic() + LATE_S, LOOK_S
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * growth, REREAD_S)
        return True

    def _race(self, name: str, count: int) -> None:
        """Wait until all files can be seen, say so, and race when the other side does."""
        at = f"{self._at}/{name}"
        seen = rivalry.count(self._disk, at, count, LAID_OUT_S)
        self._letters.send(seen=seen)
        self._letters.receive(LAID_OUT_S)
        self._letters.send(won=rivalry.race(self._disk, at, "answer", rivalry.at_random(count)))

    def _lock(self, name: str) -> None:
        self._letters.send(lock=rivalry.try_lock(self._path(name)))

    def _owner(self, name: str) -> None:
        """Whose a file is as seen from here."""
        found = os.stat(self._path(name))
        self._letters.send(uid=found.st_uid, mode=found.st_mode & 0o7777)

    def _rate(self, name: str, seconds: float, most: int) -> None:
        self._letters.send(rate=rivalry.rate(self._disk, f"{self._at}/{name}", seconds, most))


def main(shared_dir: str, run: str) -> int:
    """Answer one doctor; return the exit status."""
    try:
        answer(LocalDisk(shared_dir), run)
    except (ShareError, OSError, NoLetter, letters.Cancelled):
        return 1  # the doctor has gone, or its directory cannot be used: it says so itself
    return 0


if __name__ == "__main__":
    # A share that hangs holds the thread that uses it; another one ends the process all the same.
    threading.Timer(LIFE_S + 5, os._exit, (1,)).start()
    status = main(*sys.argv[1:])
    os._exit(status)
