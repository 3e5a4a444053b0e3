"""Many idle nodes in one process: real runners over a mount, each with a keeper that has nothing to keep.

`python idlers.py SHARE STATE COUNT`: nodes idle-1 to idle-COUNT. A task that came here would only wait.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from hakuriver.daemons import boottime
from hakuriver.records import Load
from hakuriver.runner.agent import Runner
from hakuriver.runner.machine import describe
from hakuriver.settings import Settings, parse
from hakuriver.spool.files import LocalDisk, ShareError


class NoKeeper:
    """A keeper without tasks."""

    def connect(self, cores: int, memory_bytes: int | None = None) -> Any:
        return {"ev": "hello", "v": 1, "pid": 1, "boot_id": "b", "lease_until": None, "tasks": []}

    def receive(self) -> list[Any]:
        return []

    def lease(self, until: float) -> None:
        """There is nothing to stop."""

    def forget(self, tasks: Any) -> None:
        """There is nothing to forget."""


class NoImages:
    """An engine that nothing is asked of."""

    def stirred(self) -> bool:
        return False

    def news(self) -> list[Any]:
        return []

    def keep(self, images: set[str]) -> None:
        """There are none."""

    def problems(self) -> list[str]:
        return []


def runner(settings: Settings, name: str) -> Runner:
    keeper: Any = NoKeeper()
    images: Any = NoImages()
    nonce = f"{name:0>16}".replace("-", "0")[:16]
    return Runner(
        LocalDisk(settings.paths.shared_dir), keeper, images, settings, node=name, nonce=nonce,
        boottime=boottime, now=time.time, machine=describe(settings.resources), sample=Load,
        out_dir=f"{settings.paths.state_dir}/out",
        ended_dir=f"{settings.paths.state_dir}/ended",
    )  # fmt: skip


def main(share: str, state: str, count: int) -> None:
    settings = parse({"paths": {"shared_dir": share, "state_dir": state}, "resources": {"cores": 1}}, "idlers")
    due = {runner(settings, f"idle-{number}"): number / count for number in range(1, count + 1)}
    begin = boottime()
    due = {one: begin + wait for one, wait in due.items()}
    while True:
        one = min(due, key=lambda found: due[found])
        time.sleep(max(0.0, due[one] - boottime()))
        try:
            busy = one.tick()
            due[one] = boottime() + (0.02 if busy else one.wait_s())
        except ShareError:
            due[one] = boottime() + 1.0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
