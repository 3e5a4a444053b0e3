"""From the rename into `incoming/` to the task's own start, idle and with a long queue behind it.

Three rivers stand side by side, so that all drift of the machine meets all of them: one idle, one with an
array of 100,000 tasks waiting, one with 100,000 jobs of one task. What waits is targeted at a node whose cores one
long task holds; the dropped job has no target and runs on the other node. The task is `date`: it tells its own start.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from contextlib import ExitStack

from figures import Figure, against_floor, bounded, percentile
from floors import date_start, durable_file
from river import River, river, until

SAMPLES = 70  #: a round's, of each river
WAITING = 100_000
PAUSE_S = (0.05, 0.15)  #: between two drops, at random
QUIET_MS = 2.0  #: a disk that takes longer for a durable file has other work
SETTLE_S = 3.0
DOCUMENT = b'{"command": ["/bin/date", "+%s.%N"]}'


def start(rounds: int) -> list[Figure]:
    """Median and 99th percentile of each river."""
    with ExitStack() as stack:
        rivers = {
            "idle": stack.enter_context(river(free=4, busy=4)),
            "array": stack.enter_context(river(free=4, busy=4)),
            "jobs": stack.enter_context(river(free=4, busy=4)),
        }
        wait_with_array(rivers["array"])
        wait_with_jobs(rivers["jobs"])
        time.sleep(SETTLE_S)
        samples: dict[str, list[float]] = {name: [] for name in (*rivers, "date", "disk")}
        for number in range(rounds * SAMPLES):
            samples["date"].append(date_start() * 1e3)
            samples["disk"].append(durable_file(rivers["idle"].directory, DOCUMENT) * 1e3)
            for name, it in rivers.items():
                time.sleep(random.uniform(*PAUSE_S))
                samples[name].append(one(it, f"d{number}") * 1e3)
    return figures(samples)


def figures(samples: dict[str, list[float]]) -> list[Figure]:
    """The rows, from milliseconds. The last rows tell how quiet the machine and its disk were meanwhile."""
    idle, array, jobs, disk = samples["idle"], samples["array"], samples["jobs"], samples["disk"]
    rows = [
        bounded("drop to start, idle: median", "ms", statistics.median(idle), 10, values=idle),
        bounded("drop to start, idle: 99th percentile", "ms", percentile(idle, 99), 50),
        against_floor("the same with an array of 100,000 waiting", "ms", array, "idle", idle, 1.3),
        bounded("  its 99th percentile", "ms", percentile(array, 99), None),
        against_floor("the same with 100,000 jobs waiting", "ms", jobs, "idle", idle, 1.3),
        bounded("  its 99th percentile", "ms", percentile(jobs, 99), None),
        bounded("  of these, starting date by itself", "ms", statistics.median(samples["date"]), None),
        bounded("  one durable file meanwhile: median", "ms", statistics.median(disk), None, values=disk),
        bounded("  one durable file meanwhile: 99th percentile", "ms", percentile(disk, 99), None),
    ]
    if statistics.median(disk) > QUIET_MS:
        for row in rows:
            row.caveat = "(the disk was not quiet)"
    return rows


def one(it: River, name: str) -> float:
    """Seconds from one drop to its task's start."""
    dropped = it.drop(f"{name}.json", DOCUMENT)
    (job,) = it.receipt(name)["ids"]
    it.wait(job)
    return float((it.share / f"task_outputs/{job}.out").read_text()) - dropped


def wait_with_array(it: River) -> None:
    """100,000 tasks of one job wait for a node that is held."""
    it.occupy("busy", 4)
    it.receipt(it.submit("--target", "busy", "--array", f"0-{WAITING - 1}", "--", "true"))


def wait_with_jobs(it: River) -> None:
    """100,000 jobs wait for a node that is held."""
    it.occupy("busy", 4)
    submit_many(it, WAITING, "busy")


def submit_many(it: River, count: int, node: str) -> None:
    """Submit so many jobs for a node as one request, and wait until all are accepted."""
    lines = "".join(json.dumps({"command": ["true"], "targets": [node]}) + "\n" for _ in range(count))
    before = accepted(it)
    it.command("submit", "--no-receipt", "--from", "-", text=lines)
    until("all are accepted", lambda: accepted(it) >= before + count, 0.2)
    until("their snapshots are written", lambda: snapshots(it) >= count, 1.0)


def accepted(it: River) -> int:
    """How many jobs receipts speak of."""
    return sum(len(json.loads(path.read_bytes())["ids"]) for path in (it.share / "receipts").glob("*.json"))


def snapshots(it: River) -> int:
    """How many snapshots of unfinished jobs there are."""
    return sum(len(files) for _, _, files in os.walk(it.share / "jobs" / "active"))
