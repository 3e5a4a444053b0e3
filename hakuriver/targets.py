"""Where a task is to run: `node`, `node:NUMA`, `node::GPU,GPU`, `node:NUMA::GPU,GPU`; and what goes with what.

Imports little: the command line checks with it before it sends.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hakuriver.spool.layout import NODE_NAME

#: What a job names as its container if it wants none, though a default may be set.
NO_CONTAINER = "NULL"
#: Where containers see the share's data and the node's temporary directory.
SHARED, LOCAL_TEMP = "/shared", "/local_temp"
#: Executors that run a command without a container.
WITHOUT_CONTAINER = ("systemd", "process")


class Target(NamedTuple):
    """A node, and what of it."""

    node: str
    numa: int | None = None
    gpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        numa = "" if self.numa is None else f":{self.numa}"
        gpus = ",".join(map(str, self.gpus))
        return f"{self.node}{numa}" + (f"::{gpus}" if gpus else "")


def parse(text: str) -> Target:
    """Take a target apart. Raises ValueError saying what is wrong with it."""
    node, numa, gpus = _split(text)
    if not NODE_NAME.fullmatch(node):
        raise ValueError(f"{text!r} is no target: {node!r} is no node name, as n1 or gpu-2.lab")
    chosen = tuple(int(gpu) for gpu in gpus.split(",")) if gpus else ()
    twice = next((gpu for gpu in chosen if chosen.count(gpu) > 1), None)
    if twice is not None:
        raise ValueError(f"{text!r} is no target: GPU {twice} stands in it twice")
    return Target(node, int(numa) if numa else None, chosen)


def _split(text: str) -> tuple[str, str, str]:
    """Node, NUMA node and GPUs as written; empty where there is none."""
    head, gpu_mark, gpus = text.partition("::")
    node, numa_mark, numa = head.partition(":")
    if (gpu_mark and not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", gpus)) or (
        numa_mark and not re.fullmatch(r"[0-9]{1,4}", numa)
    ):
        raise ValueError(f"{text!r} is no target: write node, node:NUMA, node::GPU,GPU or node:NUMA::GPU")
    return node, numa, gpus


class Mount(NamedTuple):
    """A directory of the node that a container sees."""

    source: str
    inside: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.inside}" + (":ro" if self.read_only else "")


def parse_mount(text: str) -> Mount:
    """Take `HOST:CONTAINER` or `HOST:CONTAINER:ro` apart. Raises ValueError saying what is wrong with it."""
    parts = text.split(":")
    mode = parts[2] if len(parts) == 3 else "rw"
    if len(parts) not in (2, 3) or mode not in ("ro", "rw") or not all(part.startswith("/") for part in parts[:2]):
        raise ValueError(f"{text!r} is no mount: write /on/the/node:/in/the/container, and :ro after it for read only")
    if ".." in parts[0].split("/") + parts[1].split("/") or parts[1].rstrip("/") == "":
        raise ValueError(f"{text!r} is no mount: no .. in it, and not over the whole of the container")
    if parts[1].rstrip("/") in (SHARED, LOCAL_TEMP):
        taken = f"something else is mounted at {parts[1].rstrip('/')} already; choose another place"
        raise ValueError(f"{text!r} cannot be mounted: {taken}")
    return Mount(parts[0], parts[1], mode == "ro")


class Conflict(ValueError):
    """{message}: {field} = {value} does not go with something else that the job asks for; {remedy}."""

    def __init__(self, field: str, value: object, message: str, remedy: str) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.message = message
        self.remedy = remedy


def check_together(job: Mapping[str, Any]) -> None:
    """Raise Conflict if what a job asks for does not go together; its values must be right one by one."""
    if job.get("no_queue") and "%" in (job.get("array") or ""):
        message = "with no_queue nothing waits, and tasks beyond the number after % would have to"
        raise Conflict("array", job["array"], message, "leave one of the two out")
    parsed = [parse(target) for target in job.get("targets") or ()]
    named = next((target for target in parsed if target.gpus), None)
    if named and job.get("gpus"):
        remedy = "name the GPUs there, or ask for a number here"
        raise Conflict("gpus", job["gpus"], f"target {named} names its GPUs already", remedy)
    executor, container = job.get("executor") or "auto", job.get("container")
    _check_container(executor, container)
    if executor in WITHOUT_CONTAINER or container == NO_CONTAINER:
        without = f"container = {NO_CONTAINER}" if container == NO_CONTAINER else f"executor = {executor}"
        for field, value in _of_containers(job, named):
            message = f"it can be had in a container only, not with {without}"
            raise Conflict(field, value, message, f"leave {without} out")
    if executor == "process":
        for field, value in _of_systemd(job, parsed):
            remedy = "leave executor out, or use docker or systemd"
            raise Conflict(field, value, "a plain process cannot have it", remedy)


def _check_container(executor: str, container: str | None) -> None:
    if executor in WITHOUT_CONTAINER and container not in (None, NO_CONTAINER):
        raise Conflict("container", container, f"executor {executor} runs without one", "leave one of the two out")
    if executor == "docker" and container == NO_CONTAINER:
        remedy = "name an environment, or leave container out for the default one"
        raise Conflict("container", container, "executor docker needs one", remedy)


def _of_containers(job: Mapping[str, Any], named: Target | None) -> Iterator[tuple[str, object]]:
    """What the job asks for that only containers have."""
    if named:
        yield "targets", str(named)
    for field in ("gpus", "privileged", "mounts"):
        if job.get(field):
            yield field, job[field]


def _of_systemd(job: Mapping[str, Any], targets: Sequence[Target]) -> Iterator[tuple[str, object]]:
    """What the job asks for that plain processes do not have."""
    for target in targets:
        if target.numa is not None:
            yield "targets", str(target)
    for field in ("private_network", "private_pid"):
        if job.get(field):
            yield field, job[field]
