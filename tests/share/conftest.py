"""One lab and one river for all tests of a file: SHARE_FS names the filesystem, a local one by default."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import make_lab
from lab.base import Lab

from share.river import LOCAL_TIMING, NETWORK_TIMING, River

#: State directories may not lie in /tmp, so labs lie below the checkout.
SCRATCH = Path(__file__).resolve().parents[2] / "build" / "tmp"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=SCRATCH, prefix="lab"))
    found = make_lab(os.environ.get("SHARE_FS", "local"), directory)
    try:
        found.up()
        yield found
    finally:
        found.down()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def whole_river(lab: Lab) -> Iterator[River]:
    made = River(lab, LOCAL_TIMING if lab.name == "local" else NETWORK_TIMING)
    try:
        made.start()
        yield made
    finally:
        print(made.logs())
        made.close()


@pytest.fixture
def river(whole_river: River, request: pytest.FixtureRequest) -> Iterator[River]:
    """The river in good health: the host on a leads, both runners are online, nothing runs."""
    whole_river.heal()
    marks = whole_river.mark_logs()
    yield whole_river
    print(whole_river.logs(marks))
