"""How the command line shows NUMA nodes, GPUs and engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hakuriver.cli import hardware
from hakuriver.cli.node import _columns, _temperature

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture
def row() -> dict[str, Any]:
    (told,) = json.loads((GOLDEN / "index-nodes.json").read_text())["nodes"]
    return told  # type: ignore[no-any-return]


def bare(row: dict[str, Any]) -> dict[str, Any]:
    """The same node, without anything that not every one has."""
    return {**row, "gpus": [], "numa": [], "away": {}, "executors": ["process"]}


def test_a_list_of_plain_nodes_has_no_columns_for_what_none_has(row: dict[str, Any]) -> None:
    headings, cells = _columns([bare(row)])
    assert headings == ["NODE", "STATE", "CORES", "MEMORY", "TASKS", "LOAD", "CPU", "TEMP", "EXECUTORS", "SILENT",
                        "PROBLEMS"]  # fmt: skip
    assert cells[0][-3:] == ["process", "400ms", ""]
    assert _columns([]) == ([], [])


def test_a_list_with_gpus(row: dict[str, Any]) -> None:
    headings, cells = _columns([bare(row), row])
    assert headings[4:6] == ["GPUS", "NUMA"]
    assert [line[4:6] for line in cells] == [["", None], ["1/1", 2]]
    assert cells[1][10] == "docker (away),process,systemd"
    assert cells[1][-1] == "docker: nobody answers at /var/run/docker.sock"
    assert hardware.troubles(row)[-1].endswith(": start the Docker engine")


def test_nodes_of_an_earlier_version(row: dict[str, Any]) -> None:
    for key in ("gpus", "numa", "away", "can", "engines", "cannot"):
        del row[key]
    assert "GPUS" not in _columns([row])[0]


def test_gpus_that_others_use(row: dict[str, Any]) -> None:
    gpu = row["gpus"][0]
    row["gpus"] = [gpu, {**gpu, "index": 1, "task": None, "foreign": True}]
    assert hardware.gpus_held(row) == "1/2 (1 foreign)"
    assert hardware.gpu_line(row["gpus"][1]).endswith("used by 1 foreign process")


def test_a_gpu_with_everything_and_with_nothing(row: dict[str, Any]) -> None:
    gpu = row["gpus"][0]
    assert hardware.gpu_line(gpu) == (
        "NVIDIA A100-SXM4-40GB, 3.2G of 42.9G, 35% busy, 41C, 61 of 400 W, 1410 MHz, memory 1215 MHz, "
        f"driver 550.54.15, PCI 00000000:3B:00.0, {gpu['uuid']}, held by 01792345690007654321-1"
    )
    assert hardware.gpu_line({"index": 0, "name": "X", "uuid": "U", "load": None}) == "X, U"
    assert "fan 0%, " in hardware.gpu_line({**gpu, "load": {**gpu["load"], "fan_percent": 0}})


def test_numa_nodes() -> None:
    node = {"id": 0, "cpus": [0, 1, 2, 8, 10, 11], "memory_bytes": 64 * 10**9}
    assert hardware.numa_line(node) == "CPUs 0-2,8,10-11, 64.0G"
    assert hardware.numa_line({**node, "memory_bytes": None}) == "CPUs 0-2,8,10-11"


@pytest.mark.parametrize(
    ("load", "text"),
    [
        ({"temperature_c": 61.2, "temperature_average_c": 48.7}, "61C, 49C on average"),
        ({"temperature_c": 61.2}, "61C"),
        ({}, None),
    ],
)
def test_temperatures(load: dict[str, float], text: str | None) -> None:
    assert _temperature(load) == text
