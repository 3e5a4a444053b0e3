"""Containers: the node's Docker engine runs the command in an environment's image.

Settings for the engine, see `attendant/docker.py`: of all tasks of a job socket, image (its id), binds
(/source:/inside:rw or :ro), privileged, network and user; of each task gpus (UUIDs), cpuset_cpus and cpuset_mems
(as 0,1,2; or empty).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hakuriver.records import Start, StartRow
from hakuriver.runner.executors.plan import (
    Place,
    Planned,
    Refused,
    gpu_uuids,
    numa_cpus,
    river_variables,
    spec_message,
    task_message,
)
from hakuriver.spool.layout import SHARED_DATA
from hakuriver.targets import LOCAL_TEMP, SHARED, Mount, parse_mount

if TYPE_CHECKING:
    from hakuriver.keeper.messages import TaskMessage


def plan(start: Start, rows: list[StartRow], place: Place) -> Planned:
    """What to tell the keeper. Raises Refused for what this node has not."""
    spec = spec_message(start.spec, environment(start, place), start.spec.workdir or SHARED, place.grace_s)
    spec["engine"] = "docker"
    spec["settings"] = _settings(start, place)
    return Planned(spec, [_task(start, row, place) for row in rows])


def environment(start: Start, place: Place) -> dict[str, str]:
    """The environment that all tasks of a job have in common, beside the image's own, which has PATH and more."""
    return {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(max(1, start.spec.cores)),
        **start.spec.env,
        **river_variables(start, place, SHARED, LOCAL_TEMP),
    }


def _settings(start: Start, place: Place) -> dict[str, Any]:
    if not start.image:
        raise Refused("it names no image to run in: was its environment's package deleted? Requeue it")
    return {
        "socket": place.docker_socket,
        "image": start.image,
        "binds": [_bind(mount) for mount in _mounts(start, place)],
        "privileged": start.privileged,
        "network": "none" if start.spec.private_network else start.network,
        "user": place.docker_user,
    }


def _mounts(start: Start, place: Place) -> list[Mount]:
    """The river's own and the job's. Raises Refused: it is none, or two of them are in one place."""
    own = [Mount(f"{place.shared_dir}/{SHARED_DATA}", SHARED), Mount(place.local_temp_dir, LOCAL_TEMP)]
    taken = {mount.inside for mount in own}
    try:
        wanted = [parse_mount(text) for text in start.mounts]
    except ValueError as error:
        raise Refused(f"mounts: {error}") from None
    for mount in wanted:
        inside = mount.inside.rstrip("/")
        if inside in taken:
            raise Refused(f"mounts: {mount}: something else is mounted at {inside} already; choose another place")
        taken.add(inside)
    return [*own, *wanted]


def _bind(mount: Mount) -> str:
    return f"{mount.source}:{mount.inside}:{'ro' if mount.read_only else 'rw'}"


def _task(start: Start, row: StartRow, place: Place) -> TaskMessage:
    message = task_message(start, row)
    message["settings"] = {
        "gpus": gpu_uuids(row, place),
        "cpuset_cpus": ",".join(map(str, numa_cpus(row, place))),
        "cpuset_mems": "" if row.numa is None else str(row.numa),
    }
    return message
