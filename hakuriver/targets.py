"""Where a task is to run: `node`, `node:NUMA`, `node::GPU,GPU`, `node:NUMA::GPU,GPU`; and what goes with what.

Imports little: the command line checks with it before it sends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hakuriver.spool.layout import NODE_NAME

#: What a job names as its container if it wants none, though a default may be set.
NO_CONTAINER = "NULL"
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
        raise ValueError(f"{text!r}: {node!r} is no node name: a-z, 0-9, '.', '_' and '-'")
    chosen = tuple(int(gpu) for gpu in gpus.split(",")) if gpus else ()
    twice = next((gpu for gpu in chosen if chosen.count(gpu) > 1), None)
    if twice is not None:
        raise ValueError(f"{text!r}: GPU {twice} stands in it twice")
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
    return Mount(parts[0], parts[1], mode == "ro")


def conflict(
    executor: str, container: str | None, targets: Sequence[str], gpus: int, *,
    docker_only: Sequence[str], private: Sequence[str],
) -> str | None:  # fmt: skip
    """What does not go together in a job, in words; None if all does.

    `docker_only`: what it asks for that only a container can have; `private`: what plain processes cannot have.
    """
    named = any(parse(target).gpus for target in targets)
    if gpus and named:
        return "gpus goes with targets that name no GPUs: name them there, or ask for a number"
    wants = [*(["gpus"] if gpus or named else []), *docker_only]
    if executor in WITHOUT_CONTAINER and container not in (None, NO_CONTAINER):
        return f"container {container} goes with executor docker or auto; {executor} runs without one"
    if executor == "docker" and container == NO_CONTAINER:
        return "executor docker needs a container: name an environment, or leave container out for the default one"
    if wants and (executor in WITHOUT_CONTAINER or container == NO_CONTAINER):
        return f"{wants[0]} can be had in a container only: leave container = NULL and executor = {executor} out"
    numa = any(parse(target).numa is not None for target in targets)
    if executor == "process" and (numa or private):
        return f"{private[0] if private else 'a NUMA node'} cannot be had by a plain process: use systemd or docker"
    return None
