"""What this machine is, how busy it is, and what it can do now.

Cores and memory are those that this process may use: affinity, cgroup limits (v1 and v2), or what [resources] says.
Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst (cpu.max, memory.max), cgroup-v1 (cpu.cfs_quota_us,
memory.limit_in_bytes) of the Linux kernel.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from hakuriver.records import Gpu, Load, NumaNode
from hakuriver.runner import numa
from hakuriver.runner.abilities import Abilities, Looker
from hakuriver.runner.gpus import GpuWatch, Nvml
from hakuriver.runner.tools import read_text
from hakuriver.settings import Resources, Settings

log = logging.getLogger("hakuriver.runner")

#: Seconds between two looks at the engines, and for which the first looks are waited for at the start.
LOOK_S, PATIENCE_S = 10.0, 8.0
CGROUPS = "/sys/fs/cgroup"
#: Sensors of the processor itself, by the names of their drivers.
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class Machine(NamedTuple):
    """What a node offers."""

    hostname: str
    boot_id: str
    cores: int
    memory_bytes: int
    executors: tuple[str, ...] = ("process",)
    numa: tuple[NumaNode, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    can: tuple[str, ...] = ()
    engines: Mapping[str, str] = {}  #: versions
    cannot: Mapping[str, str] = {}  #: what it could be expected to do, and why it cannot


class Conditions(NamedTuple):
    """What comes and goes, as a heartbeat tells it."""

    away: Mapping[str, str] = {}  #: executors that cannot be used now, and why
    problems: tuple[str, ...] = ()


class Lookout:
    """Looks at this machine again and again, on threads of its own: engines and drivers may let one wait."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plain = describe(settings.resources)
        self._sample = sampler(settings.paths.local_temp_dir)
        self._numa: tuple[NumaNode, ...] = ()
        self._abilities = Abilities()
        self._looker: Looker | None = None
        self._gpus = GpuWatch(Nvml(settings.resources.gpus).read, settings.timing.gpu_interval)
        self._looked, self._stop = threading.Event(), threading.Event()

    def start(self) -> None:
        """Begin, and wait for the first looks, but not for long: what comes later is told later."""
        self._gpus.start(PATIENCE_S)
        threading.Thread(target=self._run, name="looks", daemon=True).start()
        self._looked.wait(PATIENCE_S)
        away, problems = self.conditions()
        for text in [*(f"{name}: {why}" for name, why in away.items()), *problems]:
            log.warning("%s", text)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception:
                log.exception("a fault in the program: it is not known what this machine can do now")
            self._looked.set()
            self._stop.wait(LOOK_S)

    def _look(self) -> None:
        if self._looker is None:
            self._looker = Looker(self._settings)
            self._numa = tuple(numa.discover(self._looker.numactl))
        self._abilities = self._looker.look(bool(self._gpus.newest().gpus))

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._gpus.stop()

    def machine(self) -> Machine:
        """What it offers, as far as it is known by now."""
        gpus, found = self._gpus.newest().gpus, self._abilities
        driver = next((gpu.driver_version for gpu in gpus if gpu.driver_version), None)
        return self._plain._replace(
            executors=found.executors, numa=self._numa, gpus=gpus, can=found.can, cannot=found.cannot,
            engines={**found.engines, **({"nvidia": driver} if driver else {})},
        )  # fmt: skip

    def load(self) -> Load:
        """How busy it is."""
        return self._sample().model_copy(update={"gpus": list(self._gpus.newest().loads)})

    def conditions(self) -> Conditions:
        """What cannot be used now, and what is wrong."""
        return Conditions(self._abilities.away, (*self._abilities.problems, *self._gpus.newest().problems))


def describe(resources: Resources) -> Machine:
    """This machine's cores and memory; what [resources] names is taken from there."""
    return Machine(
        hostname=socket.gethostname(),
        boot_id=(read_text("/proc/sys/kernel/random/boot_id") or "").strip(),
        cores=resources.cores or usable_cores(),
        memory_bytes=resources.memory or usable_memory(),
    )


def usable_cores(listing: str | None = None, root: str = CGROUPS) -> int:
    """Cores that this process may use, at least 1; see `own_cgroups`."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in own_cgroups("cpu", listing, root) if (quota := cpu_quota(group)) is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def usable_memory(listing: str | None = None, root: str = CGROUPS) -> int:
    """Bytes that this process and all that it starts may use; see `own_cgroups`."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for group in own_cgroups("memory", listing, root) if (limit := memory_limit(group)) is not None]
    return min([total, *limits])


def own_cgroups(controller: str, listing: str | None = None, root: str = CGROUPS) -> Iterator[str]:
    """The directories of this process's cgroup and those above it, for v2 and for a v1 controller.

    `listing`: the content of /proc/self/cgroup.
    """
    listing = read_text("/proc/self/cgroup") if listing is None else listing
    for line in (listing or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            yield from _upwards(root, path)
        elif controller in names.split(","):
            yield from _upwards(f"{root}/{names}", path)


def _upwards(root: str, path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield "/".join([root, *parts[:count]])


def cpu_quota(directory: str) -> float | None:
    """Cores that a cgroup may use; None: no bound."""
    text = read_text(f"{directory}/cpu.max")
    if text is None:
        quota, period = read_text(f"{directory}/cpu.cfs_quota_us"), read_text(f"{directory}/cpu.cfs_period_us")
        text = f"{quota} {period}" if quota and period else "max"
    parts = text.split()
    if len(parts) != 2 or not parts[0].isdigit() or not int(parts[1]):
        return None
    return int(parts[0]) / int(parts[1])


def memory_limit(directory: str) -> int | None:
    """Bytes that a cgroup may use; None: no bound."""
    text = read_text(f"{directory}/memory.max") or read_text(f"{directory}/memory.limit_in_bytes") or ""
    return int(text) if text.strip().isdigit() else None


def temperatures(sensors: dict[str, list[Any]]) -> list[float]:
    """What the processor's sensors show in degrees Celsius, else what any do."""
    found = [t for name in CPU_SENSORS for t in sensors.get(name, ())] or [t for ts in sensors.values() for t in ts]
    return [float(t.current) for t in found if t.current]


def sampler(local_dir: str) -> Callable[[], Load]:
    """Make a function that tells the load; `local_dir`: where tasks have their scratch space."""
    import psutil

    psutil.cpu_percent(None)  # the first call only begins the measurement

    def sample() -> Load:
        memory = psutil.virtual_memory()
        degrees = _temperatures_now(psutil)
        return Load(
            cpu_percent=psutil.cpu_percent(None),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            load_1m=os.getloadavg()[0],
            temperature_c=max(degrees, default=None),
            temperature_average_c=round(sum(degrees) / len(degrees), 1) if degrees else None,
            disk_free_bytes=_disk_free(local_dir),
        )

    return sample


def _temperatures_now(psutil: Any) -> list[float]:
    try:
        return temperatures(psutil.sensors_temperatures())
    except (AttributeError, OSError):
        return []  # no sensors here


def _disk_free(path: str) -> int | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
