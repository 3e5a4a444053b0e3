"""GPUs from the driver's library to what people see, with real daemons; two runners of one machine share them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from conftest import eventually
from daemons import MIB
from lab import nvml

from hakuriver import reading
from hakuriver.runner.gpus import HANGS
from hakuriver.spool.access import Share


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that describes the GPUs of all machines that are started from now on: four."""
    description = tmp_path / "gpus"
    nvml.describe(description, *(nvml.gpu(n) for n in range(4)))
    for name, value in nvml.environment(nvml.build(tmp_path), description).items():
        monkeypatch.setenv(name, value)
    return description


@pytest.fixture
def river(scratch: Path, gpus: Path) -> Iterator[Cluster]:
    with Cluster(scratch) as made:
        made.start_host()
        for node, mine in (("n1", [0, 3]), ("n2", [1])):
            made.start_runner(node, resources={"cores": 2, "memory": 1024 * MIB, "gpus": mine})
        yield made


def row(river: Cluster, node: str) -> dict[str, Any]:
    found = reading.nodes_index(Share(str(river.share))) or {"nodes": []}
    return next((row for row in found["nodes"] if row["node"] == node), {})


def gpu(river: Cluster, node: str, index: int) -> dict[str, Any]:
    return next((gpu for gpu in row(river, node).get("gpus", ()) if gpu["index"] == index), {})


def test_each_runner_offers_its_own(river: Cluster, gpus: Path) -> None:
    eventually(lambda: gpu(river, "n1", 3).get("load"))
    eventually(lambda: gpu(river, "n2", 1).get("load"))
    assert [g["uuid"] for g in row(river, "n1")["gpus"]] == [nvml.uuid(0), nvml.uuid(3)]
    assert [g["index"] for g in row(river, "n2")["gpus"]] == [1]
    assert row(river, "n1")["engines"]["nvidia"] == "550.54.15"
    assert gpu(river, "n1", 3)["load"]["power_mw"] == 61234
    nvml.describe(gpus, *(nvml.gpu(n, "compute 4711") for n in range(4)))
    eventually(lambda: gpu(river, "n2", 1)["foreign"], 40)
    assert gpu(river, "n2", 1)["task"] is None


def test_a_driver_that_hangs_holds_up_no_task(river: Cluster, gpus: Path) -> None:
    nvml.describe(gpus, "hang nvmlDeviceGetUtilizationRates", *(nvml.gpu(n) for n in range(4)))
    eventually(lambda: HANGS in row(river, "n1").get("problems", ()), 60)
    assert river.ended(river.submit("echo hi", targets=["n1"])).state == "completed"
    assert gpu(river, "n1", 0)["load"]["power_mw"] is None
    nvml.describe(gpus, *(nvml.gpu(n) for n in range(4)))
    eventually(lambda: HANGS not in row(river, "n1")["problems"] and gpu(river, "n1", 0)["load"]["power_mw"], 60)
