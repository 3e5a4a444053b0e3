"""The systemd engine with a real systemd, on cgroup v1 and on v2. What is asked of it stands in inside_systemd.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SCRATCH
from lab.systemd import PROJECT, Container, Machine, Virtual

from engines import inside_systemd

#: Inside of a machine, whose Python has no HakuRiver.
PYTHON = ("env", f"PYTHONPATH={PROJECT}", "PYTHONDONTWRITEBYTECODE=1", "python3", inside_systemd.__file__)
SCENARIOS = [name for name in vars(inside_systemd) if name.startswith("check_")]
#: One scenario; processes start slowly in a virtual machine.
PATIENCE_S = 300.0


@pytest.fixture(scope="module", params=[Container, Virtual], ids=["cgroup-v1", "cgroup-v2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory, request.param("engine", Path(directory)) as made:
        yield made


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_engine(machine: Machine, scenario: str) -> None:
    print(machine.run(*PYTHON, scenario, timeout=PATIENCE_S))


def test_reboot(scratch: Path) -> None:
    """What a machine that is shut down, or that loses its power, leaves of a task."""
    with Container("reboot", scratch) as machine:
        machine.run(*PYTHON, "before_the_end", str(scratch))
        machine.shut_down()
        machine.up()
        machine.run(*PYTHON, "after_shutdown", str(scratch))
        machine.run(*PYTHON, "before_the_end", str(scratch))
        machine.down()
        machine.up()
        machine.run(*PYTHON, "after_power_cut", str(scratch))
