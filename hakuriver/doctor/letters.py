"""How two doctors talk through a directory of the share: numbered documents under new names, found by listing.

`ask-<n>.json` goes one way, `answer-<n>.json` the other. No clock of one side is compared with the other's.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from hakuriver.doctor.rivalry import read_soon
from hakuriver.spool import files
from hakuriver.spool.files import Disk, ShareError

ASK, ANSWER = "ask", "answer"
#: Seconds between two listings.
POLL_S = 0.025
#: Seconds after which a name that no listing shows is tried by itself: on sshfs that is the quicker way. Less when it
#: has been so once.
LISTED_S, UNLISTED_S = 1.5, 0.2


class NoLetter(Exception):
    """The other side has not written within its time."""


class Cancelled(Exception):
    """Whoever runs the doctor does not want it any more."""


class Letter(NamedTuple):
    """What has come."""

    body: dict[str, Any]
    listed: bool  #: a listing showed it; False: only its name did


class Letters:
    """One side's end."""

    def __init__(self, disk: Disk, at: str, out: str, into: str, cancelled: Callable[[], bool] = lambda: False) -> None:
        """`out`, `into`: ASK and ANSWER, or the other way round."""
        self._disk, self._at, self._out, self._into = disk, at, out, into
        self._cancelled = cancelled
        self._sent = self._received = 0
        self._patience = LISTED_S

    def send(self, **body: Any) -> None:
        """Write the next letter. Raises ShareError, FileNotFoundError when the other side has removed the directory."""
        path = f"{self._at}/{self._out}-{self._sent}.json"
        temporary = f"{self._at}/.{self._out}.tmp"
        self._disk.write(temporary, json.dumps(body).encode())
        if not files.move(self._disk, temporary, path):
            raise FileNotFoundError(errno.ENOENT, "the doctor's directory is gone", path)
        self._disk.sync([self._at])
        self._sent += 1

    def receive(self, within_s: float) -> Letter:
        """Wait for the next letter. Raises NoLetter, Cancelled."""
        begin = time.monotonic()
        while True:
            if letter := self._look(time.monotonic() - begin):
                self._received += 1
                if not letter.listed:
                    self._patience = min(LISTED_S, UNLISTED_S)
                return letter
            if self._cancelled():
                raise Cancelled
            if time.monotonic() - begin > within_s:
                raise NoLetter
            time.sleep(POLL_S)

    def _look(self, waited: float) -> Letter | None:
        name = f"{self._into}-{self._received}.json"
        listed = name in self._names()
        if not listed and waited < self._patience:
            return None
        data = read_soon(self._disk, f"{self._at}/{name}")
        try:
            body = json.loads(data) if data else None
        except ValueError:
            return None  # not whole yet, as this side sees it
        return Letter(body, listed) if isinstance(body, dict) else None

    def _names(self) -> list[str]:
        try:
            return files.names(self._disk, self._at)
        except ShareError:
            return []  # away for a moment: the deadline tells how long a moment is
