"""How attempts are run: one module for each executor, all through the keeper.

An executor is a function from a start and its place to what the keeper is told. It does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from hakuriver.runner.executors import docker, process, systemd
from hakuriver.runner.executors.plan import Place, Planned, Refused

__all__ = ["EXECUTORS", "Place", "Planned", "Refused"]

from hakuriver.records import Start, StartRow

#: Executors of this version, by the name that a start bears.
EXECUTORS: dict[str, Callable[[Start, list[StartRow], Place], Planned]] = {
    "process": process.plan,
    "docker": docker.plan,
    "systemd": systemd.plan,
}
