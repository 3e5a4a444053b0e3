"""The systemd engine with a real systemd, on cgroup v1 and on v2. What is asked of it stands in inside_systemd.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.systemd import PROJECT, Container, Machine, Virtual

from engines import inside_systemd

SCRATCH = PROJECT / "build" / "tmp"
SCENARIOS = [name for name in vars(inside_systemd) if name.startswith("check_")]
#: One scenario; processes start slowly in a virtual machine.
PATIENCE_S = 100.0


@pytest.fixture(scope="module", params=[Container, Virtual], ids=["cgroup-v1", "cgroup-v2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with request.param("engine", Path(tempfile.mkdtemp(dir=SCRATCH, prefix="systemd"))) as made:
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_engine(machine: Machine, scenario: str) -> None:
    environment = ["env", f"PYTHONPATH={PROJECT}", "PYTHONDONTWRITEBYTECODE=1"]
    print(machine.run(*environment, "python3", str(inside_systemd.__file__), scenario, timeout=PATIENCE_S))
