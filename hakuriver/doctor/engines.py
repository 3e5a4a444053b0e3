"""What this machine has to run tasks with: engines, NUMA nodes, GPUs; as its runner sees it."""

from __future__ import annotations

import os

from hakuriver.doctor.findings import NOTE, OK, WARNING, Finding
from hakuriver.records import NumaNode
from hakuriver.runner import numa
from hakuriver.runner.abilities import Abilities, Looker
from hakuriver.runner.gpus import HANGS, GpuWatch, Nvml, Reading
from hakuriver.settings import Settings

#: Seconds that NVML may take to tell of the GPUs.
GPUS_S = 5.0
#: Executors and abilities -> what they are for.
USES = {
    "docker": "tasks in containers",
    "systemd": "tasks in systemd units",
    "systemd-numa": "systemd tasks on chosen NUMA nodes",
    "systemd-private-network": "systemd tasks with a network of their own",
    "systemd-private-pid": "systemd tasks that see their own processes alone",
    "docker-gpus": "GPUs in containers",
    "gpus": "tasks on NVIDIA GPUs",
}


def examine(settings: Settings) -> list[Finding]:
    """All of it; within some seconds, whatever hangs."""
    reading = read_gpus(settings)
    looker = Looker(settings)
    found = looker.look(bool(reading.gpus))
    return [*judge(found), *judge_numa(numa.discover(looker.numactl)), *judge_gpus(reading)]


def read_gpus(settings: Settings) -> Reading:
    """What NVML tells, unless it hangs."""
    watch = GpuWatch(Nvml(settings.resources.gpus).read, settings.timing.heartbeat_interval)
    told = watch.start(GPUS_S)
    watch.stop()
    return watch.newest() if told else Reading(problems=(HANGS,))


def judge(found: Abilities) -> list[Finding]:
    """Executors and what they can do. What a machine has not is a note: nobody needs all of it."""
    findings = [_executor(name, found) for name in ("docker", "systemd")]
    if "systemd" in found.executors and os.geteuid() != 0:
        findings.append(Finding("machine.sudo", OK, "systemd-run and systemctl without a password"))
    findings += [Finding(f"machine.{name}", OK, f"yes, for {USES[name]}") for name in found.can]
    findings += [_said(name, NOTE, why) for name, why in found.cannot.items() if name not in ("docker", "systemd")]
    return findings + [_said("settings", WARNING, text) for text in found.problems]


def _executor(name: str, found: Abilities) -> Finding:
    if name in found.cannot:
        return _said(name, NOTE, found.cannot[name])
    if name in found.away:
        return _said(name, NOTE if name == "docker" else WARNING, found.away[name])
    return Finding(f"machine.{name}", OK, f"{found.engines.get(name, 'found')}, for {USES[name]}")


def _said(name: str, status: str, text: str) -> Finding:
    """A sentence of a runner's: what is the matter, a colon, what to do."""
    value, _, remedy = text.rpartition(": ")
    return Finding(f"machine.{name}", status, value or remedy, f"for {USES[name]}" if name in USES else "",
                   remedy if value else "")  # fmt: skip


def judge_numa(nodes: list[NumaNode]) -> list[Finding]:
    """NUMA nodes that tasks can be bound to."""
    told = ", ".join(f"{node.id} ({len(node.cpus)} CPUs)" for node in nodes)
    return [Finding("machine.numa", OK, f"nodes {told}")] if len(nodes) > 1 else []


def judge_gpus(reading: Reading) -> list[Finding]:
    """GPUs, and what is wrong with them."""
    driver = next((f"driver {gpu.driver_version}: " for gpu in reading.gpus if gpu.driver_version), "")
    told = ", ".join(f"{gpu.index} {gpu.name}" for gpu in reading.gpus)
    findings = [Finding("machine.gpus", OK, driver + told)] if told else []
    if not told and not reading.problems:
        findings = [Finding("machine.gpus", NOTE, "none", f"for {USES['gpus']}")]
    return findings + [_said("gpus", WARNING, problem) for problem in reading.problems]
