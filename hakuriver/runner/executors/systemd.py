"""Units: the node's systemd runs the command as a service of its own, on the node itself.

Settings for the engine, see `attendant/systemd.py`: of all tasks of a job user (empty: the runner's own), numactl (path
of the program), private_network and private_pid; of each task numa (the NUMA node to be bound to, or null).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.records import Start, StartRow
from hakuriver.runner.executors import process
from hakuriver.runner.executors.plan import Place, Planned, Refused, numa_cpus, spec_message, task_message
from hakuriver.spool.layout import SHARED_DATA

if TYPE_CHECKING:
    from hakuriver.keeper.messages import TaskMessage


def plan(start: Start, rows: list[StartRow], place: Place) -> Planned:
    """What to tell the keeper. Raises Refused for what this node has not."""
    cwd = start.spec.workdir or f"{place.shared_dir}/{SHARED_DATA}"
    spec = spec_message(start.spec, environment(start, place), cwd, place.grace_s)
    spec["engine"] = "systemd"
    spec["settings"] = {
        "user": place.runner_user,
        "numactl": place.numactl,
        "private_network": start.spec.private_network,
        "private_pid": start.spec.private_pid,
    }
    return Planned(spec, [_task(start, row, place) for row in rows])


def environment(start: Start, place: Place) -> dict[str, str]:
    """As a process has it, with the home of the user that it runs as."""
    if place.runner_user:
        place = place._replace(user=place.runner_user, home=place.runner_home)
    return process.environment(start, place)


def _task(start: Start, row: StartRow, place: Place) -> TaskMessage:
    numa_cpus(row, place)
    if row.numa is not None and not place.numactl:
        raise Refused(
            f"node {place.node} has no numactl, by which tasks are bound to NUMA nodes: install it there, or name it "
            "in paths.numactl_path"
        )
    message = task_message(start, row)
    message["settings"] = {"numa": row.numa}
    return message
