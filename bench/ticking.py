"""One tick of the host when much waits and nothing has changed.

The host's own loop is stopped and its state machine is opened in this process, on the same share and with the same
node alive, so that exactly one tick can be timed.
"""

from __future__ import annotations

import os
import statistics
import time

from figures import Figure, bounded
from river import River, river
from starting import wait_with_array, wait_with_jobs

from hakuriver.config import load
from hakuriver.daemons import boottime, identity
from hakuriver.host.leader import Host
from hakuriver.ids import new_job_id
from hakuriver.records import River as Sentinel
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk
from hakuriver.spool.locks import inbox_lock

SECONDS = 4.0  #: a round's


def tick(rounds: int) -> list[Figure]:
    """Medians over ticks in which nothing happened."""
    return [
        _measured("one tick, an array of 100,000 waiting", wait_with_array, rounds),
        _measured("one tick, 100,000 jobs waiting", wait_with_jobs, rounds),
    ]


def _measured(measure: str, fill: object, rounds: int) -> Figure:
    assert callable(fill)
    with river(free=4, busy=4) as it:
        fill(it)
        it.stop("host")
        times = idle_ticks(opened(it), rounds * SECONDS)
    return bounded(measure, "ms", statistics.median(times), 5, ticks=len(times), most=max(times))


def opened(it: River) -> Host:
    """The host's state machine on this river, until nothing happens any more."""
    settings = load(str(it.config))
    disk = LocalDisk(settings.paths.shared_dir)
    cluster = Sentinel.model_validate_json(disk.read(layout.SENTINEL)).cluster_id
    # The stopped host's own id: another's would have to wait for the lease.
    host_id, _lock = identity(os.path.join(settings.paths.state_dir, cluster, "host"), "id", 12, "it has not stopped")
    host = Host(
        disk, settings, host_id, boottime=boottime, now=time.time, new_id=new_job_id, own_uid=os.getuid(),
        lock=inbox_lock,
    )  # fmt: skip
    while host.tick():
        pass
    return host


def idle_ticks(host: Host, seconds: float) -> list[float]:
    """Milliseconds of each tick in which nothing happened."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        happened = host.tick()
        taken = time.perf_counter() - begun
        if not happened:
            times.append(taken * 1e3)
        time.sleep(0.002)
    return times
