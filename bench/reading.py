"""`hakuriver task list` and `task status` on a river with a long history, beside one with a short one."""

from __future__ import annotations

import os
import pwd
import time
from contextlib import ExitStack

from figures import Figure, against_floor
from floors import process
from river import HAKURIVER, River, river, until

from hakuriver.ids import new_job_id
from hakuriver.records import JobSnapshot, JobSpec, TaskRow
from hakuriver.spool import layout

LONG, SHORT = 100_000, 100
EVERY_S = 1.0  #: a job began so often
TURNS = 7  #: a round's
SETTLE_S = 3.0


def read(rounds: int) -> list[Figure]:
    """Both commands as processes, the two rivers taking turns; each host has made its index itself."""
    lists: dict[int, list[float]] = {LONG: [], SHORT: []}
    states: dict[int, list[float]] = {LONG: [], SHORT: []}
    with ExitStack() as stack:
        rivers = {count: stack.enter_context(river()) for count in (LONG, SHORT)}
        jobs = {count: with_history(it, count) for count, it in rivers.items()}
        time.sleep(SETTLE_S)
        for _ in range(rounds * TURNS):
            for count, it in rivers.items():
                lists[count].append(process([HAKURIVER, "task", "list"], it.environment) * 1e3)
                states[count].append(process([HAKURIVER, "task", "status", jobs[count]], it.environment) * 1e3)
    floor = f"with {SHORT}"
    return [
        against_floor(f"task list with {LONG:,} finished jobs", "ms", lists[LONG], floor, lists[SHORT], 1.5),
        against_floor(f"task status with {LONG:,} finished jobs", "ms", states[LONG], floor, states[SHORT], 1.5),
    ]


def with_history(it: River, count: int) -> str:
    """Give a river a past, and let its host make the index of it. Returns a job from the middle."""
    begun = time.time() - count * EVERY_S
    jobs = [new_job_id(begun + number * EVERY_S) for number in range(count)]
    it.stop("host")
    for number, job in enumerate(jobs):
        _write(it, job, number)
    for path in (it.directory / "state").rglob("index.db*"):
        path.unlink()
    it.start_host()
    recent = it.share / layout.INDEX / "recent.json"
    until("the index is made", lambda: jobs[-1] in recent.read_text() if recent.exists() else False, 0.2)
    until("endings are told", lambda: _has_ending(it, jobs[count // 2]), 0.2)
    return jobs[count // 2]


def _has_ending(it: River, job: str) -> bool:
    path = it.share / layout.ending_file(job)
    return path.exists() and job in path.read_text()


def _write(it: River, job: str, number: int) -> None:
    """One finished job of one task, as a host leaves it."""
    at = int(job[:13]) / 1000
    row = TaskRow(
        None, "completed", 1, "node", 0, at, at + 1, 0, None, "exit", "", 1.0, 0.5, 10**7, None, True, None, [],
        "process",
    )  # fmt: skip
    snapshot = JobSnapshot(
        job=job, state="completed", exit_code=0, term=0, seq=number + 1, admission=number, name="past",
        owner=pwd.getpwuid(os.getuid()).pw_name, uid=os.getuid(), accepted_at=at, finished_at=at + 1, count=1,
        counts={"completed": 1}, spec=JobSpec(command=["python", "train.py", str(number)]), tasks=[row],
    )  # fmt: skip
    directory = it.share / layout.done_bucket(job)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / layout.snapshot_name(job, 0, number + 1)).write_text(snapshot.model_dump_json())
