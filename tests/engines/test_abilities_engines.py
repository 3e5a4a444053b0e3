"""What a runner finds on machines with real engines: systemd with both versions of cgroups, Docker."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.dockerd import HOOK, Dockerd
from lab.systemd import PROJECT, Container, Machine, Virtual

from hakuriver.runner import abilities
from hakuriver.runner.abilities import Looker
from hakuriver.settings import parse

LOOK = """
import json, sys
from hakuriver.runner import machine, numa
from hakuriver.runner.abilities import Looker
from hakuriver.settings import parse
looker = Looker(parse({"environment": {"runner_user": sys.argv[1]}}, "test"))
told = looker.look(gpus=False)._asdict()
told["numa"] = [node.model_dump() for node in numa.discover(looker.numactl)]
told["cores"], told["memory"] = machine.usable_cores(), machine.usable_memory()
print(json.dumps(told))
"""
#: Moves itself into a cgroup two levels down, with limits on both, and looks from there.
NESTED = {
    1: """
set -e
cd /sys/fs/cgroup
for name in cpu memory; do mkdir -p $name/outer/inner; done
echo 150000 >cpu/outer/cpu.cfs_quota_us
echo 100000 >cpu/outer/inner/cpu.cfs_quota_us
echo 256M >memory/outer/memory.limit_in_bytes
for name in cpu memory; do echo $$ >$name/outer/inner/cgroup.procs; done
exec "$@"
""",
    2: """
set -e
cd /sys/fs/cgroup
mkdir -p outer/inner
echo "+cpu +memory" >cgroup.subtree_control
echo "+cpu +memory" >outer/cgroup.subtree_control
echo "150000 100000" >outer/cpu.max
echo 256M >outer/memory.max
echo 512M >outer/inner/memory.max
echo $$ >outer/inner/cgroup.procs
exec "$@"
""",
}


@pytest.fixture(scope="module", params=[Container, Virtual], ids=["cgroup1", "cgroup2"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with request.param("abilities", tmp_path_factory.mktemp("abilities")) as made:
        yield made


def look(machine: Machine, *before: str, runner_user: str = "") -> Any:
    """What a runner there finds; `before`: a command that runs it, as sudo."""
    settings = [f"{name}={value}" for name, value in machine.environment.items()]
    python = ["env", *settings, f"PYTHONPATH={PROJECT}", sys.executable, "-c", LOOK, runner_user]
    return json.loads(machine.run(*before, *python))


def test_as_root(machine: Machine) -> None:
    found = look(machine)
    assert found["executors"] == ["process", "systemd"]
    assert found["can"] == ["systemd-numa", "systemd-private-network", "systemd-private-pid"]
    assert found["engines"] == {"systemd": "252", "numactl": "/usr/bin/numactl", "cgroup": str(machine.cgroup)}
    assert (found["away"], found["problems"], list(found["cannot"])) == ({}, [], ["docker"])
    assert found["numa"] == [] or found["numa"][0]["cpus"], "a kernel without NUMA tells of none"


def test_as_one_who_may_use_sudo(machine: Machine) -> None:
    if machine.environment:
        pytest.skip("a set-uid program is not given what programs need there")
    found = look(machine, "setpriv", "--reuid=river", "--clear-groups")
    assert found["executors"] == ["process", "systemd"], found["cannot"]


def test_as_one_whom_sudo_refuses(machine: Machine) -> None:
    found = look(machine, "setpriv", "--reuid=nobody", "--clear-groups")
    assert found["executors"] == ["process"]
    assert found["cannot"]["systemd"].startswith(
        "Permission denied when executing systemd-run: sudo refuses it (sudo: "
    )


def test_a_user_for_tasks_who_does_not_exist(machine: Machine) -> None:
    assert "there is no such user" in look(machine, runner_user="ghost")["away"]["systemd"]
    assert look(machine, runner_user="nobody")["away"] == {}


def test_limits_of_cgroups_above(machine: Machine) -> None:
    found = look(machine, "sh", "-c", NESTED[machine.cgroup], "sh")
    assert (found["cores"], found["memory"]) == (1, 256 << 20)


def test_a_real_docker_engine(docker_engine: Dockerd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = parse({"docker": {"host": f"unix://{docker_engine.socket}"}}, "test")
    looker = Looker(settings)
    found = looker.look(gpus=True)
    assert ("docker" in found.executors, found.away) == (True, {})
    assert found.engines["docker"][0].isdigit()
    assert found.cannot["docker-gpus"] == abilities.NO_TOOLKIT
    monkeypatch.setenv("PATH", str(docker_engine.directory / "bin"))
    assert (docker_engine.directory / "bin" / HOOK).exists()
    assert Looker(settings).look(gpus=True).can == ("docker-gpus",)


def test_an_engine_that_hangs_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dockerd(tmp_path / "engine", gpus=False) as engine:
        looker = Looker(parse({"docker": {"host": f"unix://{engine.socket}"}}, "test"))
        assert looker.look(gpus=False).away == {}
        engine.hang(True)
        with monkeypatch.context() as patched:
            patched.setattr(abilities.ask, "__defaults__", (1.0,))
            assert "does not answer" in looker.look(gpus=False).away["docker"]
        engine.hang(False)
        assert looker.look(gpus=False).away == {}
        engine.kill()
        assert "start the Docker engine" in looker.look(gpus=False).away["docker"]
        engine.start()
        assert looker.look(gpus=False).away == {}
