"""Tests against real engines run only when they are asked for: they need root, apt and minutes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.dockerd import Dockerd

SCRATCH = Path(__file__).resolve().parents[2] / "build" / "tmp"
#: Seconds that a test may take here, with the lab that it brings up: packages and trees are fetched, machines boot, and
#: what waits inside of a test for something gives up by itself, and says for what.
MOST_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(MOST_S))
            if os.environ.get("ENGINES") != "1":
                item.add_marker(pytest.mark.skip(reason="as root: make test-engines"))


@pytest.fixture(autouse=True, scope="session")
def labs_end() -> None:
    """Labs are taken down though the tests are told to stop: one that is left lies there for good."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("told to stop", 128 + number))


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Dockerd]:
    """One Docker engine for all tests that do not break it, with all images of the lab."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with Dockerd(Path(tempfile.mkdtemp(dir=SCRATCH, prefix="dockerd"))) as engine:
        for kind in ("shell", "entrypoint", "workdir"):
            engine.add_image(kind)
        yield engine
