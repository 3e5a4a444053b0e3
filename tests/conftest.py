"""Fixtures that all rings of tests share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from riverfiles import RiverFiles

#: State directories may not lie in /tmp, so tests work below the checkout.
SCRATCH = Path(__file__).resolve().parent.parent / "build" / "tmp"

#: What sets up somebody's shell or terminal, and what it starts.
OF_SHELLS = frozenset({"BASH_ENV", "CDPATH", "COLUMNS", "ENV", "LANGUAGE", "LINES", "NO_COLOR", "POSIXLY_CORRECT"})

# How long an example takes says nothing on a busy machine.
settings.register_profile("river", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("river")


@contextmanager
def _fresh_directory() -> Iterator[Path]:
    """On the local disk, outside /tmp, removed afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=SCRATCH))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A fresh directory on the local disk, outside /tmp, removed afterwards."""
    with _fresh_directory() as path:
        yield path


@pytest.fixture(scope="module")
def module_scratch() -> Iterator[Path]:
    """One for what all tests of a file share."""
    with _fresh_directory() as path:
        yield path


@pytest.fixture
def river(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    """A river of prepared files, which is the user's; a test that needs more of it makes one of this name from it."""
    made = RiverFiles(scratch / "river")
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", str(made.root))
    monkeypatch.setenv("HOME", str(scratch))
    return made


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> None:
    """A script's background job ignores SIGINT and SIGQUIT, nohup SIGHUP, and so does whatever they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> None:
    """Whatever shell and terminal the tests are run from, their programs find the same: `env -i` is enough."""
    for name in list(os.environ):
        if name.startswith("LC_") or name in OF_SHELLS:
            del os.environ[name]
    os.environ.update(LANG="C.UTF-8", TERM="xterm", PATH=os.environ.get("PATH") or os.defpath)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith("HAKURIVER_"):
            monkeypatch.delenv(name)


def eventually(
    condition: Callable[[], object], deadline_s: float = 20.0, what: str = "", every_s: float = 0.02
) -> None:
    """Wait until `condition()` is true; fail after the deadline, saying `what` did not come about."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}")
        time.sleep(every_s)


def assert_whole(output: str) -> None:
    """What a task prints that counts 0, 1, 2 ... and then prints `end`: without a gap."""
    *numbers, last = output.splitlines()
    assert last == "end"
    assert numbers == [str(n) for n in range(len(numbers))]
