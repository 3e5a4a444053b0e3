"""Run commands, one after the other or some at a time; none of them outlives this, however it ends.

Children inherit what hakurun has: output, working directory, environment; with several at a time their input is
/dev/null. Signals are not handled but waited for, so that none falls between two steps. A signal from the terminal has
reached the children already; one that some process sent to hakurun is passed on to all of their trees. Then nothing is
started any more and the children are waited for; a second SIGINT kills them. Only a SIGKILL of hakurun leaves them.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from hakuriver.hakurun.targets import Run

#: Failures that are remembered one by one.
FIRST_FAILURES = 5
#: Seconds between two looks at the time while nothing ends.
TICK_S = 0.5
CANNOT_EXECUTE, NOT_FOUND = 126, 127
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watcher(Protocol):
    """Who is told."""

    def started(self, number: int, run: Run) -> None:
        """A run begins; `number` from 1."""

    def ended(self, number: int, run: Run, status: int) -> None:
        """A run is over; `status`: 0 to 255, or less than zero: the signal that killed it."""

    def not_started(self, number: int, run: Run, error: OSError) -> None:
        """A run could not begin."""

    def waiting(self, running: int, tally: Tally) -> None:
        """So many run now; told at least every TICK_S."""


class Tally:
    """What came of all runs."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.failures: list[tuple[int, int]] = []  #: number and status of the first FIRST_FAILURES
        self.signal = 0  #: what stopped all; SIGPIPE: nobody reads the output any more
        self.last = 0  #: status of the last that ended

    def count(self, number: int, status: int) -> None:
        """A run is over."""
        self.last = status
        if status == 0:
            self.succeeded += 1
        else:
            self.failed += 1
            if len(self.failures) < FIRST_FAILURES:
                self.failures.append((number, status))

    def exit_status(self, total: int) -> int:
        """128 + the signal that stopped all; of a single run its own status; else whether any failed."""
        if self.signal:
            return 128 + self.signal
        if total == 1:
            return shell_status(self.last)
        return 1 if self.failed else 0


def shell_status(status: int) -> int:
    """As a shell tells it: 128 + signal for what a signal has killed."""
    return status if status >= 0 else 128 - status


def run_all(runs: Iterable[Run], at_once: int, watcher: Watcher) -> Tally:
    """Run all, at most so many at a time; return when the last one is over."""
    with _signals_kept() as (heard, mask):
        pool = _Pool(at_once, watcher, heard, mask)
        try:
            for number, run in enumerate(runs, 1):
                pool.start(number, run)
                pool.look(0)
                while pool.is_full():
                    pool.look(TICK_S)
                if pool.tally.signal:
                    break
            pool.wait()
        except BaseException:  # whoever is told may fail: its terminal is gone
            pool.pass_on(signal.SIGTERM)
            pool.watcher = _Nobody()
            pool.wait()
            raise
        return pool.tally


@contextmanager
def _signals_kept() -> Iterator[tuple[set[signal.Signals], set[signal.Signals | int]]]:
    """Keep what stops programs until it is waited for. What is ignored, as under nohup, stays so."""
    heard = {number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would let the kernel forget how children ended
    heard.add(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    try:
        yield heard, mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Pool:
    """The runs that go on."""

    def __init__(
        self, at_once: int, watcher: Watcher, heard: set[signal.Signals], mask: set[signal.Signals | int]
    ) -> None:
        self.tally = Tally()
        self.watcher = watcher
        self._at_once = at_once
        self._heard = heard
        self._mask = mask
        self._running: dict[int, tuple[int, Run]] = {}

    def start(self, number: int, run: Run) -> None:
        self.watcher.started(number, run)
        nothing = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)] if self._at_once > 1 else []
        try:
            pid = os.posix_spawnp(
                run.argv[0], run.argv, os.environ,
                file_actions=nothing, setsigmask=self._mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )  # fmt: skip
        except OSError as error:
            self.tally.count(number, NOT_FOUND if error.errno == errno.ENOENT else CANNOT_EXECUTE)
            self.watcher.not_started(number, run, error)
        else:
            self._running[pid] = number, run

    def is_full(self) -> bool:
        return len(self._running) >= self._at_once

    def wait(self) -> None:
        while self._running:
            self.look(TICK_S)

    def look(self, timeout: float) -> None:
        """Wait for one thing to happen."""
        info = signal.sigtimedwait(self._heard, timeout)
        if info is not None and info.si_signo == signal.SIGCHLD:
            self._reap()
        elif info is not None:
            self._interrupt(info.si_signo, from_a_process=info.si_code <= 0)
        self.watcher.waiting(len(self._running), self.tally)

    def _reap(self) -> None:
        """Children of others, as a shell that has become hakurun leaves, are reaped and forgotten."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                self._ended(*self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _ended(self, number: int, run: Run, status: int) -> None:
        self.tally.count(number, status)
        if status != 0 and not self.tally.signal and _nobody_reads():
            self.tally.signal = signal.SIGPIPE
        if self.tally.signal != signal.SIGPIPE:  # to fail was all that they could do
            self.watcher.ended(number, run, status)

    def _interrupt(self, number: int, from_a_process: bool) -> None:
        if number == self.tally.signal == signal.SIGINT:
            self.pass_on(signal.SIGKILL)
        elif from_a_process:
            self.pass_on(number)
        self.tally.signal = self.tally.signal or number

    def pass_on(self, number: int) -> None:
        """To the children and theirs."""
        import psutil  # takes longer to load than all else here

        for process in psutil.Process().children(recursive=True):
            try:
                process.send_signal(number)
            except psutil.Error:
                pass  # it is over, or has become another user's


class _Nobody:
    """Is told after whoever was told has failed."""

    def started(self, number: int, run: Run) -> None: ...
    def ended(self, number: int, run: Run, status: int) -> None: ...
    def not_started(self, number: int, run: Run, error: OSError) -> None: ...
    def waiting(self, running: int, tally: Tally) -> None: ...


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that nobody will read from: what runs would fail, one after the other."""
    looked = select.poll()
    looked.register(1, 0)
    return any(event & select.POLLERR for _, event in looked.poll(0))
