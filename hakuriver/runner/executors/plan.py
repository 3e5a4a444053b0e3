"""What executors are given, what they make of it, and what all of them do alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hakuriver.ids import task_name
from hakuriver.records import JobSpec, Start, StartRow

if TYPE_CHECKING:
    from hakuriver.keeper.messages import SpecMessage, TaskMessage


class Refused(Exception):
    """This node cannot run it: {why}."""


class Place(NamedTuple):
    """Where attempts run."""

    node: str
    shared_dir: str  #: where the share is mounted here
    local_temp_dir: str
    home: str
    user: str
    grace_s: float  #: between TERM and KILL
    numa: Mapping[int, tuple[int, ...]] = {}  #: NUMA nodes and their CPUs
    gpus: Mapping[int, str] = {}  #: UUIDs of GPUs by their indices
    docker_socket: str = "/var/run/docker.sock"
    docker_user: str = ""  #: inside containers; empty: the image's own
    runner_user: str = ""  #: of systemd tasks; empty: as `user`, who runs the runner
    runner_home: str = ""
    numactl: str = ""  #: path of the program; empty: there is none
    programs: str = ""  #: directory of hakurun and hakuriver; empty: there is none


class Planned(NamedTuple):
    """What the keeper is told."""

    spec: SpecMessage
    tasks: list[TaskMessage]


def river_variables(start: Start, place: Place, shared_dir: str, local_temp_dir: str) -> dict[str, str]:
    """HAKURIVER_ variables that all tasks of a job have, with the directories as the task sees them."""
    spec = start.spec
    memory = {} if spec.memory_bytes is None else {"HAKURIVER_MEMORY_BYTES": str(spec.memory_bytes)}
    return {
        "HAKURIVER_JOB_ID": start.job, "HAKURIVER_NODE": place.node, "HAKURIVER_CORES": str(spec.cores),
        "HAKURIVER_SHARED_DIR": shared_dir, "HAKURIVER_LOCAL_TEMP_DIR": local_temp_dir, **memory,
    }  # fmt: skip


def spec_message(spec: JobSpec, env: dict[str, str], cwd: str, grace_s: float) -> SpecMessage:
    """What tasks have in common. Raises Refused for text that cannot be passed to a program."""
    _check([*spec.command, cwd, *(f"{name}={value}" for name, value in env.items())])
    return {
        "argv": spec.command, "env": env, "cwd": cwd, "cores": spec.cores, "memory_bytes": spec.memory_bytes,
        "time_limit_s": spec.time_limit_s, "grace_s": grace_s,
    }  # fmt: skip


def task_message(start: Start, row: StartRow) -> TaskMessage:
    """What one task has of its own."""
    task = task_name(start.job, row.k)
    env = {
        "HAKURIVER_TASK_ID": task,
        "HAKURIVER_TASK_INDEX": str(row.array_index),
        "HAKURIVER_ATTEMPT": str(row.attempt),
    }
    if row.numa is not None:
        env["HAKURIVER_TARGET_NUMA_NODE"] = str(row.numa)
    if row.gpus:
        env["HAKURIVER_GPUS"] = ",".join(map(str, row.gpus))
    return {
        "task": task, "attempt": row.attempt, "rerunnable": row.rerunnable, "priority": start.spec.priority, "env": env,
    }  # fmt: skip


def numa_cpus(row: StartRow, place: Place) -> tuple[int, ...]:
    """The CPUs of the NUMA node that it is to be bound to; none if it is not. Raises Refused: there is no such node."""
    if row.numa is None:
        return ()
    if row.numa not in place.numa:
        raise Refused(f"node {place.node} has no NUMA node {row.numa}: it has {_listed(place.numa)}")
    return place.numa[row.numa]


def gpu_uuids(row: StartRow, place: Place) -> list[str]:
    """The GPUs that are its own. Raises Refused: there is no such GPU."""
    for index in row.gpus:
        if index not in place.gpus:
            raise Refused(f"node {place.node} has no GPU {index} now: it has {_listed(place.gpus)}")
    return [place.gpus[index] for index in row.gpus]


def _listed(numbers: Mapping[int, Any]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"


def _check(texts: Iterable[str]) -> None:
    """The door refuses such text; a dispatch that was damaged must not confuse the keeper all the same."""
    for text in texts:
        try:
            encoded = os.fsencode(text)
        except UnicodeEncodeError:
            raise Refused(f"{text!r} holds half of a surrogate pair, which is no text") from None
        if b"\0" in encoded:
            raise Refused(f"{text!r} holds a NUL character, which cannot be passed to a program")
