"""One lab and one river for all tests of a file: SHARE_FS names the filesystem, a local one by default."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import lab_of
from lab.base import Lab

from share.river import LOCAL_TIMING, NETWORK_TIMING, River

#: State directories may not lie in /tmp, so labs lie below the checkout.
SCRATCH = Path(__file__).resolve().parents[2] / "build" / "tmp"

#: The filesystem to test on.
FS = os.environ.get("SHARE_FS", "local")
#: The lease in make test, which has the machine do many tests at once: daemons that are started again must be in time.
BUSY_LEASE_S = 20.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what makes no sense on this filesystem, as its mark says."""
    kind = lab_of(FS)
    named = "SHARE_FS" in os.environ  # by make test-share; make test itself has no time for leases that run out
    fits = {
        "with_server": kind.has_server, "with_own_clocks": kind.own_clocks,
        "with_short_lease": named and FS == "local", "with_faults": named and (FS != "local" or os.geteuid() == 0),
    }  # fmt: skip
    unfit = [item for item in items if not all(fits.get(mark.name, True) for mark in item.iter_markers())]
    if unfit:
        config.hook.pytest_deselected(items=unfit)
        items[:] = [item for item in items if item not in unfit]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=SCRATCH, prefix="lab"))
    found = lab_of(FS)(directory)
    # A lab that is left lies there for good. (A mere SystemExit would fail the test at hand, and the next would go on.)
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("told to stop", 128 + number))
    try:
        found.up()
        yield found
    finally:
        found.down()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def whole_river(lab: Lab) -> Iterator[River]:
    timing = LOCAL_TIMING if FS == "local" else NETWORK_TIMING
    made = River(lab, timing if "SHARE_FS" in os.environ else {**timing, "lease": BUSY_LEASE_S})
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
