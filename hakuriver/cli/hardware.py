"""Lines for people about NUMA nodes, GPUs and what a node can do: pure functions over records.NodeRow."""

from __future__ import annotations

from typing import Any

from hakuriver import units


def executors(row: dict[str, Any]) -> str:
    """Executors of a node; those that cannot be used now say so."""
    away = row.get("away", {})
    return ",".join(f"{name} (away)" if name in away else name for name in row["executors"])


def troubles(row: dict[str, Any], briefly: bool = False) -> list[str]:
    """What is wrong with a node, and what cannot be used now; briefly: without what to do about that."""
    away = {name: (briefly and why.rpartition(": ")[0]) or why for name, why in row.get("away", {}).items()}
    return [*row.get("problems", ()), *(f"{name}: {why}" for name, why in away.items())]


def gpus_held(row: dict[str, Any]) -> str:
    """How many of how many GPUs tasks hold, and how many others use; empty: it has none."""
    gpus = row.get("gpus", ())
    foreign = sum(bool(gpu.get("foreign")) for gpu in gpus)
    held = f"{sum(gpu.get('task') is not None for gpu in gpus)}/{len(gpus)}"
    return "" if not gpus else f"{held} ({foreign} foreign)" if foreign else held


def numa_line(node: dict[str, Any]) -> str:
    """A NUMA node: `CPUs 0-7,64-71, 64G`."""
    memory = node.get("memory_bytes")
    return f"CPUs {numbers(node['cpus'])}" + (f", {units.format_size(memory)}" if memory is not None else "")


def gpu_line(gpu: dict[str, Any]) -> str:
    """A GPU: what it is, what it does, and whose it is."""
    load = gpu.get("load") or {}
    parts = [gpu["name"], *_doing(load, gpu.get("memory_bytes")), *_driving(gpu)]
    processes = load.get("processes", 0)
    if gpu.get("task") is not None:
        parts.append(f"held by {gpu['task']}")
    elif gpu.get("foreign"):
        parts.append(f"used by {processes} foreign {'process' if processes == 1 else 'processes'}")
    return ", ".join(parts)


def _doing(load: dict[str, Any], memory_bytes: int | None) -> list[str]:
    """Only what its driver tells."""
    used, limit = load.get("memory_used_bytes"), load.get("power_limit_mw")
    told = [
        ("utilization_percent", "{:.0f}% busy", 1),
        ("temperature_c", "{:.0f}C", 1),
        ("power_mw", "{:.0f}" + (f" of {limit / 1000:.0f}" if limit is not None else "") + " W", 1000),
        ("graphics_clock_mhz", "{:.0f} MHz", 1),
        ("memory_clock_mhz", "memory {:.0f} MHz", 1),
        ("fan_percent", "fan {:.0f}%", 1),
    ]
    parts = [text.format(load[key] / unit) for key, text, unit in told if load.get(key) is not None]
    return [*([f"{units.format_size(used)} of {units.format_size(memory_bytes)}"] if used is not None else []), *parts]


def _driving(gpu: dict[str, Any]) -> list[str]:
    driver, bus = gpu.get("driver_version"), gpu.get("pci_bus_id")
    return [*([f"driver {driver}"] if driver else []), *([f"PCI {bus}"] if bus else []), gpu["uuid"]]


def numbers(found: list[int]) -> str:
    """`0-7,64-71`."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(found):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return units.format_ranges(ranges)
