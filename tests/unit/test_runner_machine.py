"""What a machine offers, from the kernel's files; and to whom a node belongs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from runner_stage import JOB, Stage, runs, start

from hakuriver.records import Gpu, GpuLoad, Heartbeat, Load, NodeDescription, NumaNode
from hakuriver.runner import baton, machine
from hakuriver.runner.baton import Gone, NodeTaken, Superseded
from hakuriver.runner.heart import differ
from hakuriver.settings import Resources, parse
from hakuriver.spool.files import Entry, LocalDisk, names

RECORDED = Path(__file__).resolve().parent.parent / "data" / "cgroup"


def test_resources_of_the_configuration_win() -> None:
    found = machine.describe(Resources(cores=3, memory=5_000_000))
    assert (found.cores, found.memory_bytes) == (3, 5_000_000)
    assert len(found.boot_id) == 36


def test_cores_and_memory_are_those_that_may_be_used() -> None:
    found = machine.describe(Resources())
    assert 1 <= found.cores <= len(os.sched_getaffinity(0))
    assert 0 < found.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_cgroups_are_followed_upwards() -> None:
    assert list(machine.own_cgroups("cpu", "0::/a/b\n", "/R")) == ["/R/a/b", "/R/a", "/R"]
    listing = "4:cpu,cpuacct:/x\n3:memory:/\n0::/\n"
    assert list(machine.own_cgroups("cpu", listing, "/R")) == ["/R/cpu,cpuacct/x", "/R/cpu,cpuacct", "/R"]
    assert list(machine.own_cgroups("memory", "3:memory:/../y\n", "/R")) == ["/R/memory/y", "/R/memory"]
    assert list(machine.own_cgroups("memory", "", "/R")) == []


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_cpu_quota_of_a_cgroup(scratch: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (scratch / name).write_text(text)
    assert machine.cpu_quota(str(scratch)) == cores


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [("memory.max", "1000\n", 1000), ("memory.max", "max\n", None), ("memory.limit_in_bytes", "77\n", 77)],
)
def test_the_memory_limit_of_a_cgroup(scratch: Path, name: str, text: str, limit: int | None) -> None:
    (scratch / name).write_text(text)
    assert machine.memory_limit(str(scratch)) == limit


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_least_limit_of_all_cgroups_above_counts(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = RECORDED / version
    listing = (root / "self").read_text()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 24}[name])
    assert (machine.usable_cores(listing, str(root)), machine.usable_memory(listing, str(root))) == (1, 4 << 30)
    above = listing.replace("/inner", "")
    assert machine.usable_cores(above, str(root)) == 3
    above = above.replace("/outer", "")
    assert (machine.usable_cores(above, str(root)), machine.usable_memory(above, str(root))) == (64, 1 << 36)


def test_the_temperature_is_the_processors_if_it_has_one() -> None:
    def sensor(*degrees: float) -> list[SimpleNamespace]:
        return [SimpleNamespace(current=value) for value in degrees]

    assert machine.temperatures({"nvme": sensor(70), "coretemp": sensor(40, 50, 0)}) == [40, 50]
    assert machine.temperatures({"nvme": sensor(70), "acpi": sensor(30)}) == [70, 30]
    assert machine.temperatures({}) == []


def test_the_hottest_and_the_average_are_told(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = {"k10temp": [SimpleNamespace(current=value) for value in (40.0, 45.0, 61.0)]}
    monkeypatch.setattr("psutil.sensors_temperatures", lambda: sensors)
    load = machine.sampler(str(scratch))()
    assert (load.temperature_c, load.temperature_average_c) == (61.0, 48.7)
    monkeypatch.setattr("psutil.sensors_temperatures", dict)
    load = machine.sampler(str(scratch))()
    assert (load.temperature_c, load.temperature_average_c) == (None, None)


def test_the_load_is_told(scratch: Path) -> None:
    load = machine.sampler(str(scratch))()
    assert load.memory_total_bytes > load.memory_used_bytes > 0
    assert load.disk_free_bytes and load.disk_free_bytes > 0
    assert machine.sampler(str(scratch / "nowhere"))().disk_free_bytes is None


# -- how it is told


GPU = Gpu(index=0, uuid="U", name="A100")


def told(stage: Stage, epoch: int) -> NodeDescription:
    return NodeDescription.model_validate_json(stage.host.disk.read(f"nodes/n1/node.{epoch}.json"))


def test_a_machine_that_turns_out_to_be_another_is_told_in_a_new_epoch(scratch: Path) -> None:
    stage = Stage(scratch)
    runner = stage.runner()
    stage.turns(runner)
    plain = runner.machine
    runner.describe_as(plain._replace(engines={}))
    stage.turns(runner)
    assert (runner.epoch, told(stage, 1).gpus) == (1, []), "equal is not another"
    numa = NumaNode(id=0, cpus=[0, 1])
    found = plain._replace(
        executors=("docker", "process"), numa=(numa,), gpus=(GPU,), can=("docker-gpus",), engines={"docker": "27.5.1"},
        cannot={"systemd": "no"},
    )  # fmt: skip
    runner.describe_as(found)
    stage.turns(runner)
    what = told(stage, 2)
    assert (runner.epoch, what.numa, what.gpus, what.can) == (2, [numa], [GPU], ["docker-gpus"])
    assert (what.engines, what.cannot) == ({"docker": "27.5.1"}, {"systemd": "no"})
    assert set(what.executors) <= {"docker", "process"}


def test_a_task_runs_on_when_the_machine_turns_out_to_be_another(scratch: Path) -> None:
    stage = Stage(scratch)
    stage.keeper.scripts[JOB] = runs
    runner = stage.runner()
    stage.turns(runner)
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    runner.describe_as(runner.machine._replace(gpus=(GPU,)))
    stage.turns(runner)
    assert stage.keeper.began == [(JOB, 1)]
    assert stage.host.heartbeats()[-1].tasks == [(JOB, None, 1)]


def test_heartbeats_tell_loads_and_what_is_away(scratch: Path) -> None:
    stage = Stage(scratch)
    runner = stage.runner()
    runner.sample = lambda: Load(gpus=[GpuLoad(index=0, processes=2)])
    runner.conditions = lambda: machine.Conditions({"docker": "gone"}, ("a GPU is lost",))
    stage.turns(runner)
    beat = stage.host.heartbeats()[-1]
    assert (beat.load.gpus[0].processes, beat.away, beat.problems) == (2, {"docker": "gone"}, ["a GPU is lost"])


@pytest.mark.parametrize(
    ("change", "news"),
    [
        ({}, False),
        ({"processes": 1}, True),
        ({"utilization_percent": 25}, True),
        ({"utilization_percent": 12}, False),
        ({"memory_used_bytes": 2 << 30}, True),
        ({"temperature_c": None}, True),
        ({"index": 1}, True),
    ],
)
def test_what_a_gpu_does_is_news_if_much_changes(change: dict[str, int | None], news: bool) -> None:
    gpu = GpuLoad(index=0, utilization_percent=5, temperature_c=40)
    before, now = (
        Heartbeat(node="n1", epoch=1, seq=1, term=1, inbox=None, lease_s=9, load=Load(gpus=[load]), tasks=[], at=1.0)
        for load in (gpu, gpu.model_copy(update=change))
    )
    assert differ(before, now) == news


# -- whose node it is


class Hiding(LocalDisk):
    """Leaves one name out of every listing but each n-th."""

    def __init__(self, root: str, hidden: str, every: int) -> None:
        super().__init__(root)
        self.hidden, self.every, self.count = hidden, every, 0

    def list(self, path: str) -> list[Entry]:
        found = super().list(path)
        if any(entry.name == self.hidden for entry in found):
            self.count += 1
        return found if self.count % self.every == 0 else [e for e in found if e.name != self.hidden]


def test_each_start_is_an_epoch(scratch: Path) -> None:
    disk = LocalDisk(Stage(scratch).root)
    assert [baton.take(disk, "n1", "aa") for _ in range(3)] == [1, 2, 3]
    assert [name for name in names(disk, "nodes/n1") if name.startswith("runner")] == ["runner.3.aa"]
    assert baton.take(disk, "n1", "aa", floor=9) == 10


def test_an_epoch_is_above_all_that_was_written_in_the_nodes_name(scratch: Path) -> None:
    disk = LocalDisk(Stage(scratch).root)
    baton.take(disk, "n1", "aa")
    disk.write("nodes/n1/heartbeat/000007-000000000001.json", b"")
    assert baton.take(disk, "n1", "aa") == 8


def test_a_baton_that_a_listing_misses_is_found_by_the_next(scratch: Path) -> None:
    root = Stage(scratch).root
    baton.take(LocalDisk(root), "n1", "aa")
    hiding = Hiding(root, "runner.1.aa", 2)
    with pytest.raises(NodeTaken):
        baton.take(hiding, "n1", "bb")
    hiding.count = 0
    baton.check(hiding, "n1", "aa", 1)


def test_who_comes_second_withdraws(scratch: Path) -> None:
    root = Stage(scratch).root
    baton.take(LocalDisk(root), "n1", "aa")
    with pytest.raises(NodeTaken):  # its first listings do not show the other's at all
        baton.take(Hiding(root, "runner.1.aa", 6), "n1", "bb")
    assert [name for name in names(LocalDisk(root), "nodes/n1") if name.startswith("runner")] == ["runner.1.aa"]


def test_a_baton_that_is_not_ours_any_more(scratch: Path) -> None:
    disk = LocalDisk(Stage(scratch).root)
    baton.take(disk, "n1", "aa")
    disk.rename("nodes/n1/runner.1.aa", "nodes/n1/runner.2.aa")
    with pytest.raises(Superseded):
        baton.check(disk, "n1", "aa", 1)
    disk.remove("nodes/n1/runner.2.aa")
    with pytest.raises(Gone):
        baton.check(disk, "n1", "aa", 1)


@pytest.mark.parametrize(("timing", "seconds"), [({}, 5.0), ({"resource_check_interval": "2s"}, 2.0)])
def test_gpus_are_read_as_often_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, timing: dict[str, str], seconds: float
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(machine, "GpuWatch", lambda _read, every_s: asked.append(every_s))
    machine.Lookout(parse({"timing": timing}, "test"))
    assert asked == [seconds]
