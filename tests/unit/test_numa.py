"""NUMA nodes, from what numactl wrote and from the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hakuriver.records import NumaNode
from hakuriver.runner import numa

RECORDED = Path(__file__).resolve().parent.parent / "data" / "numactl"
#: Recorded output -> for each node its number, CPUs as the kernel lists them, and MiB.
EXPECTED: dict[str, list[tuple[int, str, int]]] = {
    "one": [(0, "0-1", 11354)],
    "two": [(0, "0-17,36-53", 94603), (1, "18-35,54-71", 94721)],
    "eight": [(n, f"{8 * n}-{8 * n + 7},{64 + 8 * n}-{71 + 8 * n}", 64000 + 37 * n) for n in range(8)],
    "memoryless": [(0, "0-3,8-11", 0), (1, "4-7,12-15", 32112)],
    "cpuless": [(0, "0-7", 15890), (1, "8-15", 16118), (2, "", 65536)],
    "gaps": [(0, "0-63", 260783), (8, "64-127", 261747), (252, "", 16128), (255, "", 16128)],
}


def nodes(name: str) -> list[NumaNode]:
    return [NumaNode(id=n, cpus=numa.parse_list(cpus), memory_bytes=mib << 20) for n, cpus, mib in EXPECTED[name]]


def test_every_recorded_output_is_expected() -> None:
    assert {path.stem for path in RECORDED.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_numactl_wrote(name: str) -> None:
    assert numa.parse_numactl((RECORDED / f"{name}.txt").read_text()) == nodes(name)


@pytest.mark.parametrize("text", ["", "No NUMA available on this system\n", "node x cpus: 1\nnode 0 free: 3 MB\n"])
def test_what_tells_of_no_node(text: str) -> None:
    assert numa.parse_numactl(text) == []


def test_a_size_that_is_not_told_is_not_known() -> None:
    assert numa.parse_numactl("node 0 cpus: 0\nnode 0 size: <not available>\n")[0].memory_bytes is None


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_kernel_tells(scratch: Path, name: str) -> None:
    (scratch / "online").write_text(",".join(str(number) for number, _, _ in EXPECTED[name]) + "\n")
    for number, cpus, mib in EXPECTED[name]:
        (scratch / f"node{number}").mkdir()
        (scratch / f"node{number}" / "cpulist").write_text(f"{cpus}\n")
        meminfo = f"Node {number} MemTotal:       {mib * 1024} kB\nNode {number} MemFree:        7 kB\n"
        (scratch / f"node{number}" / "meminfo").write_text(meminfo)
    assert list(numa.read_sys(str(scratch))) == nodes(name)


def test_a_kernel_without_numa(scratch: Path) -> None:
    assert list(numa.read_sys(str(scratch))) == []
    (scratch / "online").write_text("0-1\n")
    (scratch / "node1").mkdir()
    (scratch / "node1" / "cpulist").write_text("0\n")
    assert list(numa.read_sys(str(scratch))) == [NumaNode(id=1, cpus=[0], memory_bytes=None)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0\n", [0]), ("0-2,5", [0, 1, 2, 5]), ("\n", []), ("x", []), ("3-", []), ("-3", []), ("1,,2", [])],
)
def test_lists_of_the_kernel(text: str, numbers: list[int]) -> None:
    assert numa.parse_list(text) == numbers


def test_nodes_are_cut_down_to_what_may_be_used() -> None:
    cut = numa.usable(nodes("two"), {0, 1, 36, 18}, [0])
    assert [(node.cpus, node.memory_bytes) for node in cut] == [([0, 1, 36], 94603 << 20), ([18], 0)]
    cut = numa.usable(nodes("two"), {0}, [])
    assert [(node.cpus, node.memory_bytes) for node in cut] == [([0], 94603 << 20), ([], 94721 << 20)]


def test_the_memory_that_may_be_used() -> None:
    assert numa.allowed_memory("Cpus_allowed_list:\t0-1\nMems_allowed:\t00000001\nMems_allowed_list:\t0,8\n") == [0, 8]
    assert numa.allowed_memory("Name:\tx\n") == []


@pytest.mark.parametrize(("name", "numbers"), [("memoryless", [1]), ("cpuless", [0, 1]), ("gaps", [0, 8])])
def test_no_task_is_bound_to_a_node_without_cpus_or_memory(name: str, numbers: list[int]) -> None:
    assert [node.id for node in nodes(name) if numa.bindable(node)] == numbers
    assert numa.bindable(NumaNode(id=0, cpus=[1], memory_bytes=None))


def program(directory: Path, text: str) -> str:
    path = directory / "numactl"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_numactl_is_asked_and_what_it_tells_is_cut_down(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 70})
    monkeypatch.setattr(numa, "allowed_memory", lambda: [])
    numactl = program(scratch, f'#!/bin/sh\n[ "$1" = --hardware ] && cat {RECORDED / "two.txt"}\n')
    assert [node.cpus for node in numa.discover(numactl)] == [[2], [70]]


@pytest.mark.parametrize("numactl", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho nonsense\n", None])
def test_the_kernel_is_asked_where_numactl_does_not_tell(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, numactl: str | None
) -> None:
    monkeypatch.setattr(numa, "read_sys", lambda: iter(nodes("two")))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(72)))
    monkeypatch.setattr(numa, "allowed_memory", lambda: [0, 1])
    assert numa.discover(program(scratch, numactl) if numactl else None) == nodes("two")
