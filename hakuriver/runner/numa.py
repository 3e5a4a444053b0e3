"""NUMA nodes of this machine, from `numactl --hardware` or from the kernel's own files.

Sources: numactl(8); Documentation/ABI/stable/sysfs-devices-node of the Linux kernel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from hakuriver.records import NumaNode
from hakuriver.runner.tools import answer, read_text

SYS_NODES = "/sys/devices/system/node"
#: numactl says MB and means 2^20 bytes; the kernel says kB and means 2^10.
MB, KB = 1 << 20, 1 << 10

_LINE = re.compile(r"node (\d+) (cpus|size):(.*)")
_TOTAL = re.compile(r"MemTotal:\s+(\d+) kB")


def discover(numactl: str | None) -> list[NumaNode]:
    """The nodes that tasks may be bound to, with the CPUs that this process may use; `numactl`: path of the program."""
    told = answer([numactl, "--hardware"]) if numactl else None
    nodes = parse_numactl(told.text) if told and told.ok else []
    return [n for n in usable(nodes or list(read_sys()), os.sched_getaffinity(0), allowed_memory()) if bindable(n)]


def parse_numactl(text: str) -> list[NumaNode]:
    """What `numactl --hardware` wrote."""
    found: dict[int, NumaNode] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            node = found.setdefault(int(match[1]), NumaNode(id=int(match[1]), cpus=[]))
            _take(node, match[2], match[3].split())
    return [found[number] for number in sorted(found)]


def _take(node: NumaNode, key: str, words: list[str]) -> None:
    if key == "cpus":
        node.cpus = sorted(int(word) for word in words if word.isdigit())
    elif words and words[0].isdigit():
        node.memory_bytes = int(words[0]) * MB


def read_sys(root: str = SYS_NODES) -> Iterator[NumaNode]:
    """What the kernel tells below `root`, in the order of their numbers."""
    for number in parse_list(read_text(f"{root}/online") or ""):
        cpus = read_text(f"{root}/node{number}/cpulist")
        total = _TOTAL.search(read_text(f"{root}/node{number}/meminfo") or "")
        if cpus is not None:
            yield NumaNode(id=number, cpus=parse_list(cpus), memory_bytes=int(total[1]) * KB if total else None)


def parse_list(text: str) -> list[int]:
    """A list of the kernel's, as 0-3,8; what is none is empty."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text.strip()):
        return []
    ranges = [part.partition("-") for part in text.strip().split(",")]
    return [number for low, _, high in ranges for number in range(int(low), int(high or low) + 1)]


def allowed_memory(status: str | None = None) -> list[int]:
    """Nodes whose memory this process may use; empty: all. `status`: content of /proc/self/status."""
    status = read_text("/proc/self/status") if status is None else status
    match = re.search(r"^Mems_allowed_list:\s*(\S+)$", status or "", re.MULTILINE)
    return parse_list(match[1]) if match else []


def usable(nodes: list[NumaNode], cpus: Collection[int], memory: Collection[int]) -> list[NumaNode]:
    """The same nodes without the CPUs that may not be used, and with 0 bytes where the memory may not be."""
    return [
        NumaNode(
            id=node.id,
            cpus=[cpu for cpu in node.cpus if cpu in cpus],
            memory_bytes=node.memory_bytes if not memory or node.id in memory else 0,
        )
        for node in nodes
    ]


def bindable(node: NumaNode) -> bool:
    """Whether a task may have this node alone: numactl and the kernel refuse one without CPUs or without memory."""
    return bool(node.cpus) and node.memory_bytes != 0
