"""Brings the output of one container into two files, complete and live.

It is read from an `attach` that was opened before the container was started. If that is lost, by an engine or an
attendant that is started anew, the rest is taken from the log that the engine keeps, past as many bytes of each stream
as the file has already.

BUGS: taken from the log, a line is seen when it is complete (or 16 KiB of it). If the log has become so long that the
engine may have dropped its beginning (LOG_BYTES), nobody can tell where to go on: then it goes on from the time that
the files were last changed, and says so in the .err file. What an engine had read and not yet written to its log when
it was killed is lost. So is what a container writes while there is no engine, if it ends before there is one again;
that is said in the .err file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from hakuriver.attendant.engine import Away

#: The engine's log of one container is at most two files of this size. It drops the older one when both are full.
LOG_BYTES = 64 * 1024 * 1024
LOG_CONFIG = {
    "Type": "local",
    "Config": {"max-size": f"{LOG_BYTES // 1024 // 1024}m", "max-file": "2", "compress": "false"},
}
#: Bytes that the log has besides an entry's own: those of a whole line, and of a piece of one (moby, logger/local).
ENTRY, PIECE = 32, 112
PIECE_BYTES = 16 * 1024
#: Seconds without a byte, after the container's end, until a stream that has no end is given up.
SILENCE_S = 10.0
#: Seconds that a container may live on after its stream's end, until the stream counts as lost.
END_S = 1.0
#: How long a full disk is waited for once the container has ended; while it runs, it waits too.
FULL_S, FULL_RETRY_S = 60.0, 0.5

MISSING = (
    b"\n[hakuriver: the log of this container grew too long while nobody read it: "
    b"some of the output may be missing from here on, or be there twice]\n"
)
LOST = (
    b"\n[hakuriver: this container ended while the node's Docker engine was away: "
    b"what it wrote meanwhile may be missing]\n"
)
#: Both streams, in the order of their files.
STREAMS = ("stdout", "stderr")

Demuxed = Iterator[tuple[bytes | None, bytes | None]]


class Log(Protocol):
    """Where to read the engine's log of one container."""

    def __call__(self, stream: str, follow: bool, since: float | None) -> Iterator[bytes]:
        """One stream's entries, until now or (`follow`) until its end. Raises Away."""


class Output:
    """The output of one container. `live` or `resume` begins it, `finish` waits until all of it is there."""

    def __init__(self, log: Log, paths: tuple[str, str], runs: Callable[[], bool]) -> None:
        """`paths`: of the files for stdout and stderr; `runs`: whether the container does (raises Away)."""
        self._log = log
        self._paths = paths
        self._runs = runs
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._close: Callable[[], None] = lambda: None
        self._last = time.monotonic()
        self._round = 0  #: what an abandoned thread still brings is not written
        self._writing = threading.Lock()
        self._whole = False  #: the attached stream has all
        self._noted = False
        self.problem = ""  #: why output could not be written; empty: it could

    def live(self, stream: Demuxed, close: Callable[[], None]) -> None:
        """Take output from an attached stream, of a container that has not been started before it was opened."""
        self._close = close
        self._whole = True
        self._begin(lambda mine: self._copy_live(stream, mine))

    def doubt(self) -> None:
        """The engine was away: what has been read of the stream may not be all."""
        self._whole = False

    def resume(self) -> None:
        """See that output is collected; from the log, unless it is already."""
        if not self.busy():
            self._follow()

    def busy(self) -> bool:
        """Whether output is being collected."""
        return any(thread.is_alive() for thread in self._threads)

    def finish(self) -> None:
        """The container has ended: wait until all of its output lies in the files. Raises Away."""
        self._ended.set()
        self._last = time.monotonic()
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() - self._last < SILENCE_S:
                thread.join(0.5)
            if thread.is_alive():
                self._whole = False
        self._abandon()
        if not self._whole:
            self._catch_up(self._round, follow=False)

    def note_lost(self) -> None:
        """Say that the engine was not there to keep what was written last."""
        self._write(1, LOST, self._round)

    def _abandon(self) -> None:
        with self._writing:
            self._round += 1
        self._close()
        self._threads = []

    def _begin(self, *works: Callable[[int], None]) -> None:
        mine = self._round
        self._threads = [threading.Thread(target=work, args=(mine,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    # -- from the attached stream

    def _copy_live(self, stream: Demuxed, mine: int) -> None:
        try:
            for pieces in stream:
                for index, piece in enumerate(pieces):
                    if piece:
                        self._write(index, piece, mine)
        except (OSError, ValueError):
            self._whole = False  # lost, or closed by finish
        self._keep_up(mine)

    # -- from the log

    def _follow(self) -> None:
        self._abandon()
        self._begin(self._follow_here)

    def _follow_here(self, mine: int) -> None:
        self._whole = False
        try:
            self._catch_up(mine, follow=True)
        except Away:
            pass  # the rest is brought as soon as the engine is back
        self._keep_up(mine)

    def _keep_up(self, mine: int) -> None:
        """Follow the log for as long as the container lives on, however often the engine comes and goes."""
        while not self._ended.wait(END_S) and self._round == mine:
            try:
                if not self._runs():
                    return
                self._whole = False
                self._catch_up(mine, follow=True)
            except Away:
                continue

    def _catch_up(self, mine: int, follow: bool) -> None:
        """Bring what the log has and the files have not. Raises Away."""
        since = self._since(mine)
        if not follow:
            self._bring(0, mine, follow, since)
            self._bring(1, mine, follow, since)
            return
        other = threading.Thread(target=self._bring_quietly, args=(1, mine, follow, since), daemon=True)
        other.start()
        self._bring(0, mine, follow, since)
        other.join()

    def _since(self, mine: int) -> float | None:
        """None: the log has all from the beginning. Else the time from which on it is to be read. Raises Away."""
        if sum(_logged(entry) for stream in STREAMS for entry in self._log(stream, False, None)) < LOG_BYTES * 0.95:
            return None
        last = max(os.stat(path).st_mtime for path in self._paths if os.path.exists(path))
        if not self._noted:
            self._noted = True
            self._write(1, MISSING, mine)
        return last

    def _bring_quietly(self, index: int, mine: int, follow: bool, since: float | None) -> None:
        try:
            self._bring(index, mine, follow, since)
        except Away:
            pass  # as in _follow_here

    def _bring(self, index: int, mine: int, follow: bool, since: float | None) -> None:
        skip = 0 if since is not None else _size(self._paths[index])
        for entry in self._log(STREAMS[index], follow, since):
            rest = entry[skip:]
            skip = max(0, skip - len(entry))
            if rest and not self._write(index, rest, mine):
                return

    # -- into the files

    def _write(self, index: int, data: bytes, mine: int) -> bool:
        """Append it, unless this round is over."""
        with self._writing:
            return self._round == mine and self._append(self._paths[index], data)

    def _append(self, path: str, data: bytes) -> bool:
        """Append it all; a full disk is waited for, which also stops the container from writing more."""
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while data:
                try:
                    data = data[os.write(fd, data) :]
                    self._last = time.monotonic()
                except OSError as error:
                    if self._ended.is_set() and time.monotonic() - self._last > FULL_S:
                        self.problem = f"output could not be written to {path}: {error.strerror}"
                        return False
                    time.sleep(FULL_RETRY_S)
            return True
        finally:
            os.close(fd)


def _logged(entry: bytes) -> int:
    """How many bytes the engine's log has for an entry, at most."""
    whole = entry.endswith(b"\n") and len(entry) < PIECE_BYTES
    return len(entry) + (ENTRY if whole else PIECE)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
