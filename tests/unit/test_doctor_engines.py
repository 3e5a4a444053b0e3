"""What the doctor says of engines, NUMA nodes and GPUs."""

from __future__ import annotations

import os
import threading

import pytest

from hakuriver.doctor import engines
from hakuriver.doctor.findings import NOTE, OK, WARNING, Finding
from hakuriver.records import Gpu, NumaNode
from hakuriver.runner.abilities import NO_ENGINE, NO_NUMACTL, NO_SYSTEMD, Abilities
from hakuriver.runner.gpus import HANGS, NO_LIBRARY, Nvml, Reading
from hakuriver.settings import parse


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_machine_with_nothing() -> None:
    found = by_name(engines.judge(Abilities(cannot={"docker": NO_ENGINE, "systemd": NO_SYSTEMD})))
    assert {name: (f.status, f.remedy) for name, f in found.items()} == {
        "docker": (NOTE, NO_ENGINE.partition(": ")[2]), "systemd": (NOTE, ""),
    }  # fmt: skip
    assert found["systemd"].value == NO_SYSTEMD


def test_a_machine_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    abilities = Abilities(("docker", "process", "systemd"), ("docker-gpus", "systemd-numa"), {"docker": "27.5.1"},
                          {"systemd-private-pid": "why: what"}, {}, ("a problem: so",))  # fmt: skip
    found = by_name(engines.judge(abilities))
    assert {name: f.status for name, f in found.items()} == {
        "docker": OK, "systemd": OK, "sudo": OK, "docker-gpus": OK, "systemd-numa": OK, "systemd-private-pid": NOTE,
        "settings": WARNING,
    }  # fmt: skip
    assert found["docker"].value == "27.5.1, for tasks in containers"
    assert (found["settings"].value, found["settings"].remedy) == ("a problem", "so")


def test_an_engine_that_is_away() -> None:
    abilities = Abilities(
        ("docker", "process"), cannot={"systemd-numa": NO_NUMACTL}, away={"docker": "it is away: start it"}
    )
    found = by_name(engines.judge(abilities))
    assert found["docker"] == Finding("machine.docker", NOTE, "it is away", "for tasks in containers", "start it")
    assert all(f.remedy for f in found.values() if f.status != OK)


def test_numa_nodes_are_told_if_there_are_several() -> None:
    nodes = [NumaNode(id=n, cpus=[0, 1]) for n in (0, 8)]
    assert [f.value for f in engines.judge_numa(nodes)] == ["nodes 0 (2 CPUs), 8 (2 CPUs)"]
    assert engines.judge_numa(nodes[:1]) == []


def test_gpus() -> None:
    gpu = Gpu(index=1, uuid="U", name="NVIDIA A100", driver_version="550.54.15")
    found = engines.judge_gpus(Reading((gpu,), (), ("GPU 0 is left out: see `nvidia-smi`",)))
    assert [(f.status, f.value) for f in found] == [
        (OK, "driver 550.54.15: 1 NVIDIA A100"), (WARNING, "GPU 0 is left out"),
    ]  # fmt: skip
    assert [f.status for f in engines.judge_gpus(Reading())] == [NOTE]
    (told,) = engines.judge_gpus(Reading(problems=(NO_LIBRARY,)))
    assert (told.status, told.remedy) == (WARNING, "install the library of their driver")


def test_nvml_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(engines, "GPUS_S", 0.05)
    monkeypatch.setattr(Nvml, "read", lambda self: over.wait(20) and Reading())
    assert engines.read_gpus(parse({}, "test")) == Reading(problems=(HANGS,))
    over.set()


def test_this_machine() -> None:
    found = by_name(engines.examine(parse({"docker": {"host": "unix:///nowhere/docker.sock"}}, "test")))
    assert {"docker", "systemd", "gpus"} <= found.keys()
    assert all(f.remedy for f in found.values() if f.status == WARNING)
