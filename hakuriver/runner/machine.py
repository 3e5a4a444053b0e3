"""What this machine is and how busy it is.

Cores and memory are those that this process may use: affinity, cgroup limits (v1 and v2), or what [resources] says.
Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst (cpu.max, memory.max), cgroup-v1 (cpu.cfs_quota_us,
memory.limit_in_bytes) of the Linux kernel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hakuriver.records import Load
from hakuriver.settings import Resources

CGROUPS = "/sys/fs/cgroup"
#: Sensors of the processor itself, by the names of their drivers.
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class Machine(NamedTuple):
    """What a node offers."""

    hostname: str
    boot_id: str
    cores: int
    memory_bytes: int


def describe(resources: Resources) -> Machine:
    """This machine; what [resources] names is taken from there."""
    return Machine(
        hostname=socket.gethostname(),
        boot_id=(read_text("/proc/sys/kernel/random/boot_id") or "").strip(),
        cores=resources.cores or usable_cores(),
        memory_bytes=resources.memory or usable_memory(),
    )


def read_text(path: str) -> str | None:
    """A small file of the kernel's; None if it is not there."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for directory in own_cgroups("cpu") if (quota := cpu_quota(directory)) is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def usable_memory() -> int:
    """Bytes that this process and all that it starts may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for directory in own_cgroups("memory") if (limit := memory_limit(directory)) is not None]
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


def temperature(sensors: dict[str, list[Any]]) -> float | None:
    """The hottest processor sensor in degrees Celsius, else the hottest of any; None if there is none."""
    found = [t for name in CPU_SENSORS for t in sensors.get(name, ())] or [t for ts in sensors.values() for t in ts]
    return max((float(t.current) for t in found if t.current), default=None)


def sampler(local_dir: str) -> Callable[[], Load]:
    """Make a function that tells the load; `local_dir`: where tasks have their scratch space."""
    import psutil

    psutil.cpu_percent(None)  # the first call only begins the measurement

    def sample() -> Load:
        memory = psutil.virtual_memory()
        return Load(
            cpu_percent=psutil.cpu_percent(None),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            load_1m=os.getloadavg()[0],
            temperature_c=_temperature_now(psutil),
            disk_free_bytes=_disk_free(local_dir),
        )

    return sample


def _temperature_now(psutil: Any) -> float | None:
    try:
        return temperature(psutil.sensors_temperatures())
    except (AttributeError, OSError):
        return None  # no sensors here


def _disk_free(path: str) -> int | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
