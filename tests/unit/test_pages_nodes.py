"""The pages of nodes and GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_pages import HOSTILE, Counting, disk, nodes, page

from hakuriver.host.index import Index
from hakuriver.pages.teller import NODES_S, Teller
from hakuriver.pages.views import gpu_rows
from hakuriver.records import GpuRow

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

__all__ = ["disk"]


@pytest.fixture
def teller(disk: Counting, scratch: Path) -> Iterator[Teller]:
    index = Index(str(scratch / "index.db"), "cluster")
    yield Teller(disk, index)
    index.close()


def golden(at: float = 100.0, **changes: Any) -> dict[str, Any]:
    """A river of one node that has everything."""
    found: dict[str, Any] = json.loads((GOLDEN / "index-nodes.json").read_text())
    found["nodes"][0].update(changes)
    return {**found, "at": at}


def text(disk: Counting, name: str) -> str:
    """What stands on a page, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page(disk, name).partition("<main>")[2]))


def test_every_field_of_a_gpu_is_shown(teller: Teller, disk: Counting) -> None:
    teller.tell([], golden(), (1, 1))
    shown = text(disk, "gpus.html")
    for value in ("n1", "NVIDIA A100-SXM4-40GB", "GPU-7c3b1f0e-5a54-4d5c-9a0b-2f6d8e1a4c77", "01792345690007654321-1",
                  "1 process", "35 %", "3.2G / 42.9G", "12 %", "41 °C", "61 / 400 W", "1,410 MHz", "1,215 MHz", "–",
                  "550.54.15", "00000000:3B:00.0"):  # fmt: skip
        assert value in shown, value
    assert 'href="jobs/01792345690007654321.html"' in page(disk, "gpus.html")


def test_a_gpu_of_which_nothing_is_told(teller: Teller, disk: Counting) -> None:
    teller.tell([], golden(gpus=[GpuRow(index=3, uuid="U", name="X").model_dump()]), (1, 1))
    shown = text(disk, "gpus.html")
    assert re.search(r"n1 3 X U free – – – – – – – – – –", shown)


def test_a_gpu_that_others_use(teller: Teller, disk: Counting) -> None:
    (gpu,) = golden()["nodes"][0]["gpus"]
    teller.tell([], golden(gpus=[{**gpu, "task": None, "foreign": True}]), (1, 1))
    assert "foreign 1 process 35 %" in text(disk, "gpus.html")


def test_a_node_that_is_silent_tells_no_load() -> None:
    (row,) = gpu_rows(golden(state="offline")["nodes"])
    assert (row["state"], row["load"]["utilization_percent"], row["load"]["processes"]) == ("offline", None, 0)


def test_without_gpus_nothing_speaks_of_them(teller: Teller, disk: Counting) -> None:
    teller.tell([], nodes(), (1, 1))
    for name in ("index.html", "nodes.html"):
        assert not {"GPU", "NUMA"} & set(text(disk, name).split())
    for name in ("index.html", "nodes.html", "tasks.html"):
        assert "gpus.html" not in page(disk, name)
    assert "No node has told of a GPU" in text(disk, "gpus.html")


def test_what_a_node_has_and_what_is_away(teller: Teller, disk: Counting) -> None:
    teller.tell([], golden(), (1, 1))
    shown = text(disk, "nodes.html")
    for value in ("0: 4 CPUs, 8.0G", "1: 4 CPUs, 8.0G", "1 / 1", "docker 27.5.1 away", "systemd 252", "average 38 °C",
                  "docker: nobody answers at /var/run/docker.sock: start the Docker engine"):  # fmt: skip
        assert value in shown, value
    assert "GPUs held" in text(disk, "index.html")
    assert 'href="gpus.html"' in page(disk, "index.html")


def test_a_load_that_changes_is_not_written_at_once(teller: Teller, disk: Counting) -> None:
    teller.tell([], golden(), (1, 1))
    disk.take()
    (gpu,) = golden()["nodes"][0]["gpus"]
    busy = [{**gpu, "load": {**gpu["load"], "utilization_percent": 99}}]
    teller.tell([], golden(101.0, gpus=busy), (1, 1))
    assert disk.take() == []
    teller.tell([], golden(102.0, gpus=[{**gpu, "task": None}]), (1, 1))
    assert {"index/nodes.json", "www/gpus.html", "www/nodes.html", "www/index.html"} <= set(disk.take()), (
        "a task that gives a GPU back"
    )
    teller.tell([], golden(102.0 + NODES_S, gpus=[{**busy[0], "task": None}]), (1, 1))
    assert {"index/nodes.json", "www/gpus.html"} <= set(disk.take())


def test_what_a_driver_tells_is_escaped(teller: Teller, disk: Counting) -> None:
    (gpu,) = golden()["nodes"][0]["gpus"]
    row = {**gpu, "name": HOSTILE, "uuid": HOSTILE, "pci_bus_id": HOSTILE}
    teller.tell([], golden(gpus=[row], away={"docker": HOSTILE}, engines={"docker": HOSTILE}), (1, 1))
    for name in ("gpus.html", "nodes.html", "index.html"):
        assert "<script>alert" not in page(disk, name)
        assert "<img" not in page(disk, name)
