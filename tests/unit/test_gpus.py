"""GPUs, through the real module pynvml and a library in the place of the driver's; each machine is a process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from lab import nvml

from hakuriver.records import Gpu, GpuLoad
from hakuriver.runner import gpus
from hakuriver.runner.gpus import GpuWatch, Nvml, Reading, Unavailable

#: Reads when it is told to: a line of JSON with seconds that have passed in the meantime, and a reading for each.
MACHINE = """
import json, sys
from hakuriver.runner.gpus import Nvml
clock = [0.0]
made = Nvml(*json.loads(sys.argv[1]), devices=sys.argv[2], clock=lambda: clock[0])
for line in sys.stdin:
    clock[0] += float(line)
    told = made.read()
    print(json.dumps([[g.model_dump() for g in told.gpus], [g.model_dump() for g in told.loads], told.problems]),
          flush=True)
"""


class Machine:
    """A process that sees the GPUs of a file."""

    def __init__(self, library: Path, description: Path, wanted: list[int] | None, evident: bool) -> None:
        devices = str(description) if evident else str(description / "none")
        self.description = description
        self._process = subprocess.Popen(
            [sys.executable, "-c", MACHINE, json.dumps([wanted]), devices], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=nvml.environment(library, description),
        )  # fmt: skip

    def read(self, after_s: float = 0.0) -> Reading:
        self.ask(after_s)
        return self.answer()

    def ask(self, after_s: float = 0.0) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{after_s}\n")
        self._process.stdin.flush()

    def answer(self) -> Reading:
        assert self._process.stdout
        found, loads, problems = json.loads(self._process.stdout.readline())
        return Reading(
            tuple(Gpu(**gpu) for gpu in found), tuple(GpuLoad(**load) for load in loads), tuple(problems)
        )  # fmt: skip

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


Boot = Callable[..., Machine]


@pytest.fixture
def boot(library: Path, scratch: Path) -> Iterator[Boot]:
    """Starts a machine with such parts of a file; without any it has no driver."""
    running: list[Machine] = []

    def start(*parts: str, wanted: list[int] | None = None, evident: bool = True) -> Machine:
        description = scratch / "gpus"
        if parts:
            nvml.describe(description, *parts)
        running.append(Machine(library, description, wanted, evident))
        return running[-1]

    yield start
    for machine in running:
        machine.close()


def test_everything_that_a_driver_tells(boot: Boot) -> None:
    told = boot(nvml.gpu(0, "compute 11", "compute 12", "graphics 12", "graphics 13")).read()
    assert told.gpus == (
        Gpu(index=0, uuid=nvml.uuid(0), name="NVIDIA A100-SXM4-40GB", memory_bytes=40 << 30,
            driver_version="550.54.15", pci_bus_id="00000000:10:00.0"),
    )  # fmt: skip
    assert told.loads == (
        GpuLoad(index=0, utilization_percent=35, memory_utilization_percent=12, memory_used_bytes=3 << 30,
                graphics_clock_mhz=1410, memory_clock_mhz=1215, temperature_c=41, fan_percent=30, power_mw=61234,
                power_limit_mw=400000, processes=3),
    )  # fmt: skip
    assert told.problems == ()


def test_what_a_driver_does_not_tell_is_null(boot: Boot) -> None:
    told = boot(nvml.gpu(0, without=[name for name in nvml.A100 if name != "name"])).read()
    assert told.gpus[0].memory_bytes is None
    assert told.loads == (GpuLoad(index=0),)
    assert told.problems == ()


@pytest.mark.parametrize("code", [3, 4, 13])  # not supported, no permission, no such function
def test_a_function_that_fails_harmlessly(boot: Boot, code: int) -> None:
    lines = [f"error nvmlDeviceGet{name} {code}" for name in ("FanSpeed", "ComputeRunningProcesses_v3")]
    load = boot(nvml.gpu(0, *lines, "graphics 7")).read().loads[0]
    assert (load.fan_percent, load.power_mw, load.processes) == (None, 61234, 1)


def test_an_older_driver_has_the_first_version_of_the_memory(boot: Boot) -> None:
    told = boot("error nvmlDeviceGetMemoryInfo_v2 13", nvml.gpu(0)).read()
    assert (told.gpus[0].memory_bytes, told.loads[0].memory_used_bytes) == (40 << 30, 3 << 30)


def test_a_machine_with_four(boot: Boot) -> None:
    machine = boot(*(nvml.gpu(n, utilization=n) for n in range(4)))
    told = machine.read()
    assert [(gpu.index, gpu.uuid) for gpu in told.gpus] == [(n, nvml.uuid(n)) for n in range(4)]
    assert [load.utilization_percent for load in told.loads] == [0, 1, 2, 3]
    nvml.describe(machine.description, *(nvml.gpu(n, utilization=10 * n) for n in range(4)))
    assert [load.utilization_percent for load in machine.read().loads] == [0, 10, 20, 30]


def test_the_configuration_restricts_them(boot: Boot) -> None:
    told = boot(*(nvml.gpu(n) for n in range(4)), wanted=[3, 1, 7]).read()
    assert [gpu.index for gpu in told.gpus] == [load.index for load in told.loads] == [1, 3]
    assert told.problems == ("resources.gpus names 7, but there are 4 GPUs: correct it, or see `nvidia-smi`",)


def test_a_driver_without_gpus(boot: Boot) -> None:
    assert boot("# none").read() == Reading()


def test_a_driver_that_is_not_loaded_is_a_problem_where_gpus_are(boot: Boot, scratch: Path) -> None:
    assert boot(evident=False).read() == Reading()
    machine = boot("error nvmlInitWithFlags 18", nvml.gpu(0))
    assert machine.read().problems == (
        f"NVML says: RM has detected an NVML/RM version mismatch.; {gpus.SEE}",
    )  # fmt: skip
    nvml.describe(scratch / "gpus", nvml.gpu(0))
    assert not machine.read(gpus.RETRY_S - 1).gpus
    found = machine.read(1)
    assert [gpu.index for gpu in found.gpus] == [0], "a driver that is loaded later is found"
    assert found.problems == ()


@pytest.mark.parametrize("code", [15, 16, 999])  # lost, reset required, unknown
def test_a_gpu_that_is_lost_has_no_load_and_comes_back(boot: Boot, code: int) -> None:
    machine = boot(nvml.gpu(0), nvml.gpu(1))
    machine.read()
    nvml.describe(machine.description, nvml.gpu(0), nvml.gpu(1, f"error nvmlDeviceGetUtilizationRates {code}"))
    for _ in range(2):
        told = machine.read()
        assert [gpu.index for gpu in told.gpus] == [0, 1], "what the node has does not change with what it does"
        assert [load.utilization_percent for load in told.loads] == [35, None]
        assert told.loads[1] == GpuLoad(index=1)
        assert len(told.problems) == 1
        assert f"GPU 1 ({nvml.uuid(1)}) does not answer: " in told.problems[0]
    nvml.describe(machine.description, nvml.gpu(1, utilization=77))  # the other is gone, and NVML counts anew
    told = machine.read(gpus.RETRY_S)
    assert [load.utilization_percent for load in told.loads] == [None, 77], "they are known by their UUIDs"
    assert told.problems == (f"GPU 0 ({nvml.uuid(0)}) is lost: Not Found; {gpus.SEE}",)


def test_a_driver_that_is_reset(boot: Boot) -> None:
    machine = boot(nvml.gpu(0))
    machine.read()
    nvml.describe(machine.description, "error nvmlInitWithFlags 9", "error nvmlDeviceGetHandleByUUID 1",
                  nvml.gpu(0, "error nvmlDeviceGetMemoryInfo_v2 1"))  # fmt: skip
    assert "does not answer: Uninitialized" in machine.read(gpus.RETRY_S).problems[0]
    assert "is lost" in machine.read(gpus.RETRY_S).problems[0]
    nvml.describe(machine.description, nvml.gpu(0))
    assert machine.read(gpus.RETRY_S).loads[0].utilization_percent == 35


def test_a_gpu_that_is_lost_from_the_beginning_is_left_out(boot: Boot) -> None:
    told = boot(nvml.gpu(0, "error nvmlDeviceGetHandleByIndex_v2 15"), nvml.gpu(1)).read()
    assert [gpu.index for gpu in told.gpus] == [1]
    assert told.problems == (f"GPU 0 is left out: GPU is lost; {gpus.SEE}, then start the runner again",)


# -- the module


def test_without_the_library_nothing_is_imported(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    monkeypatch.setattr(gpus, "LIBRARY", "libnvidia-ml-not-there.so.1")
    assert Nvml(devices=str(scratch / "none*")).read() == Reading()
    (scratch / "nvidia0").write_text("")
    assert Nvml(devices=str(scratch / "nvidia[0-9]*")).read() == Reading(problems=(gpus.NO_LIBRARY,))


@pytest.mark.parametrize(("there", "text"), [(True, gpus.OLD_MODULE), (False, gpus.NO_MODULE)])
def test_the_module_of_another_distribution_and_none(monkeypatch: pytest.MonkeyPatch, there: bool, text: str) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpus, "LIBRARY", "libc.so.6")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    with pytest.raises(Unavailable) as caught:
        gpus.load_module()
    assert str(caught.value) == text


# -- the thread


class Reader:
    """Reads when it is let, and tells how often it has."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.told: Any = Reading((Gpu(index=2, uuid="u", name="n"),), (GpuLoad(index=2, processes=1),))

    def __call__(self) -> Reading:
        self.done.release()
        self.go.acquire()
        if isinstance(self.told, Exception):
            raise self.told
        return self.told  # type: ignore[no-any-return]


def test_a_call_that_hangs_holds_up_nobody() -> None:
    reader, now = Reader(), [0.0]
    watch = GpuWatch(reader, 0.001, lambda: now[0])
    watch.start(patience_s=0.01)
    assert watch.newest() == Reading()
    now[0] += gpus.HANGS_S
    assert watch.newest() == Reading(problems=(gpus.HANGS,)), "the very first call hangs"
    reader.go.release()
    assert reader.done.acquire(timeout=20) and reader.done.acquire(timeout=20)
    assert watch.newest() == reader.told
    now[0] += gpus.HANGS_S
    assert watch.newest() == Reading(reader.told.gpus, (GpuLoad(index=2),), (gpus.HANGS,))
    watch.stop()
    reader.go.release()


def test_a_fault_of_ours_is_no_end_of_it(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()
    watch = GpuWatch(reader, 0.001)
    reader.go.release()
    watch.start(patience_s=20)
    assert reader.done.acquire(timeout=20) and reader.done.acquire(timeout=20)
    reader.told = RuntimeError("a fault")
    reader.go.release()
    assert reader.done.acquire(timeout=20)
    assert watch.newest().problems == (gpus.FAULT,)
    assert watch.newest().loads == (GpuLoad(index=2),)
    watch.stop()
    reader.go.release()
    assert "a fault" in caplog.text


def test_a_real_call_that_hangs(boot: Boot) -> None:
    machine = boot(nvml.gpu(0))
    watch = GpuWatch(machine.read, 0.001)
    watch.start(patience_s=60)
    assert watch.newest().loads[0].utilization_percent == 35
    nvml.describe(machine.description, nvml.gpu(0, "hang nvmlDeviceGetPowerUsage", utilization=36))
    eventually(lambda: watch.age_s() > 0.5, what="a call hangs")
    assert watch.newest().loads[0].utilization_percent == 35
    nvml.describe(machine.description, nvml.gpu(0, utilization=37))
    eventually(lambda: watch.newest().loads[0].utilization_percent == 37, what="it goes on")
    watch.stop(patience_s=20)
