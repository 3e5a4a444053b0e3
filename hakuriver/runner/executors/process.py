"""Plain processes: the keeper runs the command itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hakuriver.ids import task_name
from hakuriver.records import JobSpec, Start, StartRow
from hakuriver.runner.executors.plan import Place, Planned, Refused
from hakuriver.spool.layout import SHARED_DATA

if TYPE_CHECKING:
    from hakuriver.keeper.messages import SpecMessage, TaskMessage

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan(start: Start, rows: list[StartRow], place: Place) -> Planned:
    """What to tell the keeper. Raises Refused for what no process can be given."""
    spec: SpecMessage = {
        "argv": start.spec.command,
        "env": environment(start, place),
        "cwd": start.spec.workdir or f"{place.shared_dir}/{SHARED_DATA}",
        "cores": start.spec.cores,
        "memory_bytes": start.spec.memory_bytes,
        "time_limit_s": start.spec.time_limit_s,
        "grace_s": place.grace_s,
    }
    _check([*spec["argv"], spec["cwd"] or "", *(f"{k}={v}" for k, v in spec["env"].items())])
    return Planned(spec, [_task(start, row) for row in rows])


def environment(start: Start, place: Place) -> dict[str, str]:
    """The environment that all tasks of a job have in common; nothing of the runner's own is in it."""
    spec = start.spec
    return {
        "PATH": PATH, "HOME": place.home, "USER": place.user, "LANG": "C.UTF-8", "TMPDIR": place.local_temp_dir,
        "OMP_NUM_THREADS": str(max(1, spec.cores)),
        **spec.env,
        **_river(start.job, spec, place),
    }  # fmt: skip


def _river(job: str, spec: JobSpec, place: Place) -> dict[str, str]:
    """HAKURIVER_ variables; those of each task are added to them."""
    memory = {} if spec.memory_bytes is None else {"HAKURIVER_MEMORY_BYTES": str(spec.memory_bytes)}
    return {
        "HAKURIVER_JOB_ID": job, "HAKURIVER_NODE": place.node, "HAKURIVER_CORES": str(spec.cores),
        "HAKURIVER_SHARED_DIR": place.shared_dir, "HAKURIVER_LOCAL_TEMP_DIR": place.local_temp_dir, **memory,
    }  # fmt: skip


def _task(start: Start, row: StartRow) -> TaskMessage:
    task = task_name(start.job, row.k)
    return {
        "task": task,
        "attempt": row.attempt,
        "rerunnable": row.rerunnable,
        "priority": start.spec.priority,
        "env": {
            "HAKURIVER_TASK_ID": task,
            "HAKURIVER_TASK_INDEX": str(row.array_index),
            "HAKURIVER_ATTEMPT": str(row.attempt),
        },
    }


def _check(texts: list[str]) -> None:
    """The door refuses such text; a dispatch that was damaged must not confuse the keeper all the same."""
    for text in texts:
        try:
            encoded = os.fsencode(text)
        except UnicodeEncodeError:
            raise Refused(f"{text!r} holds half of a surrogate pair, which is no text") from None
        if b"\0" in encoded:
            raise Refused(f"{text!r} holds a NUL character, which cannot be passed to a program")
