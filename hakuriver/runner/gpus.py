"""NVIDIA GPUs, by NVML, read on a thread of its own: its calls are known to hang while a driver is in trouble.

GPUs bear the index that NVML gives them when this process begins, in the order of their PCI bus ids; it stays theirs
until it ends, whatever becomes of the others. Source: the NVML API reference.
"""

from __future__ import annotations

import ctypes
import glob
import importlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from hakuriver.records import Gpu, GpuLoad

log = logging.getLogger("hakuriver.runner")

LIBRARY = "libnvidia-ml.so.1"
#: Files that are there where the driver has found GPUs.
DEVICES = "/dev/nvidia[0-9]*"
#: Seconds after which what cannot be had is tried again: a driver that is loaded later, a GPU that was lost.
RETRY_S = 60.0
#: Readings that may be missing before NVML counts as hanging, and seconds at least.
MISSING, HANGS_S = 3, 15.0
#: Errors by which NVML says that it does not know, with a GPU that is well.
_UNTOLD = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NO_PERMISSION", "NO_DATA", "NOT_READY", "ARGUMENT_VERSION_MISMATCH",
           "DEPRECATED")  # fmt: skip

SEE = "see `nvidia-smi` and the kernel's log"
FAULT = "GPUs cannot be read for a fault in the program: the runner's log tells more"
HANGS = f"NVML does not answer, and what the GPUs do is not known: {SEE}"
NO_LIBRARY = f"there are NVIDIA GPUs, but {LIBRARY} was not found: install the library of their driver"
NO_MODULE = "there are NVIDIA GPUs, but not the Python module for them: install the extra `gpu`, or nvidia-ml-py"
OLD_MODULE = "the Python module pynvml is not that of nvidia-ml-py: remove the distribution pynvml, install the other"


class Reading(NamedTuple):
    """What NVML told at one time."""

    gpus: tuple[Gpu, ...] = ()
    loads: tuple[GpuLoad, ...] = ()
    problems: tuple[str, ...] = ()


class Unavailable(Exception):
    """No GPUs: {why}."""


class Nvml:
    """Reads all GPUs that are wanted. Its calls may hang."""

    def __init__(self, wanted: list[int] | None = None, *, devices: str = DEVICES,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        """`wanted`: indices; None: all. `devices`: a pattern of files that are there where GPUs are."""
        self._wanted = wanted
        self._devices = devices
        self._clock = clock
        self._module: Any = None  #: once it is initialised
        self._gpus: tuple[Gpu, ...] = ()
        self._handles: dict[int, Any] = {}
        self._lost: dict[int, str] = {}  #: GPUs that have no handle any more, and why
        self._amiss: list[str] = []  #: what was wrong when the GPUs were counted
        self._tried_at = float("-inf")
        self._trouble = ""

    def read(self) -> Reading:
        """The GPUs as they are now. Never raises."""
        if self._module is None and self._again():
            self._begin()
        if self._module is None:
            return Reading(problems=(self._trouble,) if self._trouble and glob.glob(self._devices) else ())
        if self._lost and self._again():
            self._find_again()
        loads, problems = [], list(self._amiss)
        for gpu in self._gpus:
            load, problem = self._load(gpu)
            loads.append(load)
            problems += [problem] if problem else []
        return Reading(self._gpus, tuple(loads), tuple(problems))

    def _again(self) -> bool:
        """Whether to try anew what has failed."""
        now = self._clock()
        if now - self._tried_at < RETRY_S:
            return False
        self._tried_at = now
        return True

    # -- the beginning

    def _begin(self) -> None:
        try:
            module = load_module()
        except Unavailable as reason:
            self._trouble = str(reason)
            return
        try:
            module.nvmlInit()
            self._module = module
            self._count()
        except module.NVMLError as error:
            self._module = None
            self._trouble = f"NVML says: {error}; {SEE}"

    def _count(self) -> None:
        """Find the GPUs; one that does not answer is left out, and its index stays free."""
        nvml, found = self._module, []
        self._handles.clear()
        driver = _told(nvml, nvml.nvmlSystemGetDriverVersion)
        count = nvml.nvmlDeviceGetCount()
        self._amiss = [
            f"resources.gpus names {index}, but there are {count} GPUs: correct it, or see `nvidia-smi`"
            for index in self._wanted or () if index >= count
        ]  # fmt: skip
        for index in range(count):
            if self._wanted is not None and index not in self._wanted:
                continue
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found.append(describe(nvml, index, handle, driver))
                self._handles[index] = handle
            except nvml.NVMLError as error:
                self._amiss.append(f"GPU {index} is left out: {error}; {SEE}, then start the runner again")
        self._gpus = tuple(found)

    def _find_again(self) -> None:
        """After GPUs were lost: begin anew, and know them by their UUIDs."""
        nvml = self._module
        try:
            nvml.nvmlShutdown()
            nvml.nvmlInit()
        except nvml.NVMLError:
            pass  # then the next lines find none of them
        self._lost.clear()
        for gpu in self._gpus:
            try:
                self._handles[gpu.index] = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            except nvml.NVMLError as error:
                self._lose(gpu, f"is lost: {error}")

    # -- each time

    def _load(self, gpu: Gpu) -> tuple[GpuLoad, str]:
        """What one GPU does, and what is wrong with it."""
        if gpu.index not in self._lost:
            try:
                return measure(self._module, gpu.index, self._handles[gpu.index]), ""
            except self._module.NVMLError as error:
                self._lose(gpu, f"does not answer: {error}")
        return GpuLoad(index=gpu.index), self._lost[gpu.index]

    def _lose(self, gpu: Gpu, why: str) -> None:
        self._lost[gpu.index] = f"GPU {gpu.index} ({gpu.uuid}) {why}; {SEE}"


def load_module() -> Any:
    """The module pynvml of nvidia-ml-py. Raises Unavailable; is quick, and imports nothing, where no driver is."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        raise Unavailable(NO_LIBRARY) from None
    from importlib import metadata, util  # they take longer to import than all of this module

    try:
        metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        raise Unavailable(OLD_MODULE if util.find_spec("pynvml") else NO_MODULE) from None
    return importlib.import_module("pynvml")


def describe(nvml: Any, index: int, handle: Any, driver: str | None) -> Gpu:
    """What does not change of a GPU. Raises NVMLError if it does not even tell its UUID."""
    bus = _told(nvml, nvml.nvmlDeviceGetPciInfo_v3, handle)
    memory = _memory(nvml, handle)
    return Gpu(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=_told(nvml, nvml.nvmlDeviceGetName, handle) or "unknown",
        memory_bytes=memory.total if memory else None,
        driver_version=driver,
        pci_bus_id=_text(bus.busId) if bus else None,
    )


def measure(nvml: Any, index: int, handle: Any) -> GpuLoad:
    """What a GPU does. Raises NVMLError if it is in trouble."""
    used = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _memory(nvml, handle)
    return GpuLoad(
        index=index,
        utilization_percent=used.gpu if used else None,
        memory_utilization_percent=used.memory if used else None,
        memory_used_bytes=memory.used if memory else None,
        graphics_clock_mhz=_told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_GRAPHICS),
        memory_clock_mhz=_told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
        temperature_c=_told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        fan_percent=_told(nvml, nvml.nvmlDeviceGetFanSpeed, handle),
        power_mw=_told(nvml, nvml.nvmlDeviceGetPowerUsage, handle),
        power_limit_mw=_told(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
        processes=_processes(nvml, handle),
    )


def _told(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of NVML returns; None if the driver does not tell. Raises NVMLError if the GPU is in trouble."""
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        if error.value in [getattr(nvml, f"NVML_ERROR_{name}", None) for name in _UNTOLD]:
            return None
        raise


def _memory(nvml: Any, handle: Any) -> Any:
    """The second version counts what the driver keeps for itself as not used; older drivers have the first alone."""
    told = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    return told or _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)


def _processes(nvml: Any, handle: Any) -> int:
    pids: set[int] = set()
    for kind in ("Compute", "Graphics"):
        found = None
        for version in ("v3", "v2"):
            if found is None:
                found = _told(nvml, getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}"), handle)
        pids.update(process.pid for process in found or ())
    return len(pids)


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


class GpuWatch:
    """Reads again and again on a thread of its own, and has the newest reading at hand."""

    def __init__(self, read: Callable[[], Reading], every_s: float,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self._read = read
        self._every_s = every_s
        self._clock = clock
        self._newest = Reading()
        self._at = clock()
        self._first = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self, patience_s: float) -> bool:
        """Begin, and wait for the first reading, but not for long; tell whether it has come."""
        self._thread.start()
        return self._first.wait(patience_s)

    def stop(self, patience_s: float = 0.0) -> None:
        """Read no more; a call that hangs is left to itself."""
        self._stop.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            reading = self._reading()
            self._at = self._clock()
            self._newest = reading
            self._first.set()
            wait = self._every_s if reading.gpus else RETRY_S

    def _reading(self) -> Reading:
        try:
            return self._read()
        except Exception:
            log.exception("a fault in the program: the GPUs cannot be read")
            return _without_loads(self._newest, FAULT)

    def age_s(self) -> float:
        """Seconds since the last reading."""
        return self._clock() - self._at

    def newest(self) -> Reading:
        """The newest reading; without loads if it is an old one, since NVML hangs."""
        newest = self._newest
        waits = self._every_s if newest.gpus or not self._first.is_set() else RETRY_S
        hangs = self.age_s() >= max(waits * MISSING, HANGS_S)
        return _without_loads(newest, HANGS) if hangs else newest


def _without_loads(reading: Reading, problem: str) -> Reading:
    return Reading(reading.gpus, tuple(GpuLoad(index=gpu.index) for gpu in reading.gpus), (problem,))
