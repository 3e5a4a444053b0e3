"""How soon things are seen over a filesystem, and what waiting costs: `python measure.py NAME`, a row of the table.

With the settings as they are by default, on a river that does nothing else. Clocks of machines are put on one scale
by round trips, to some milliseconds; the figures of guests hold their own slowness.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from conftest import eventually  # noqa: E402
from lab import lab_of  # noqa: E402
from lab.base import Lab  # noqa: E402

from hakuriver.settings import Timing  # noqa: E402
from share.river import River, noted  # noqa: E402

#: Nodes that the host of an idle river has; drops that are timed; seconds of idleness that are measured.
NODES, DROPS, IDLE_S = 20, 20, 60.0
#: Seconds between two drops: longer than what it takes to become slow.
QUIET_S = (11.0, 13.0)
#: Jobs of the burst.
BURST = 200


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def over(river: River, job: str) -> bool:
    return river.job(job).over


def latency(river: River) -> dict[str, Any]:
    """Drop to start, and end to its being seen by who waits for it, seconds; each after a time of quiet."""
    chance = random.Random(1)
    starts, results = [], []
    for _ in range(DROPS):
        time.sleep(chance.uniform(*QUIET_S))
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        job = river.submit(noted("sleep 0.2"))
        eventually(partial(over, river, job), 120, "the job is over", 0.05)
        seen = time.clock_gettime(time.CLOCK_BOOTTIME)
        run = river.runs_of(job)[0]
        starts.append(run.began - before)
        results.append(seen - run.last)
    return {
        "start_median_s": statistics.median(starts), "start_p99_s": percentile(starts, 0.99),
        "result_median_s": statistics.median(results), "result_p99_s": percentile(results, 0.99),
    }  # fmt: skip


def rate(river: River) -> dict[str, Any]:
    """Jobs a second from a batch to the last ending."""
    before = time.monotonic()
    job = river.submit("true", array=f"0-{BURST - 1}")
    river.ended(job, 600)
    return {"tasks_per_s": BURST / (time.monotonic() - before)}


def idle(river: River, lab: Lab) -> dict[str, Any]:
    """What a host of 20 nodes and a runner cost while nothing happens: per cent of a core, and requests a second."""
    machine = river.machines["d"]
    argv = [sys.executable, str(HERE / "idlers.py"), machine.share, f"{machine.state}/idlers", str(NODES - 2)]
    pid = machine.do("start", argv=argv, log=f"{machine.state}/idlers.log", env={})
    river.online(*(f"idle-{number}" for number in range(1, NODES - 1)))
    time.sleep(20.0)
    found: dict[str, Any] = {}
    daemons = {"host": river.host, "runner": river.runners["n1"]}
    before = {name: _cost(lab, daemon) for name, daemon in daemons.items()}
    time.sleep(IDLE_S)
    for name, daemon in daemons.items():
        cpu, requests = _cost(lab, daemon)
        found[f"{name}_cpu_percent"] = (cpu - before[name][0]) / IDLE_S * 100
        if requests is not None and before[name][1] is not None:
            found[f"{name}_requests_per_s"] = (requests - before[name][1]) / IDLE_S
    machine.do("signal", pid=pid, number=9)
    return found


def _cost(lab: Lab, daemon: Any) -> tuple[float, Any]:
    return daemon.machine.do("cpu_s", pid=daemon.pid), lab.requests(daemon.machine.name)


def main(name: str) -> None:
    scratch = Path(__file__).resolve().parents[2] / "build" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=scratch, prefix="lab"))
    lab = lab_of(name)(directory)
    try:
        lab.up()
        river = River(lab, {key: field.default for key, field in Timing.model_fields.items()})
        try:
            river.start()
            found = {"filesystem": name, **latency(river), **rate(river), **idle(river, lab)}
        except BaseException:
            print(river.logs(), file=sys.stderr)
            raise
        finally:
            river.close()
    finally:
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
