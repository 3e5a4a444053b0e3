"""What the systemd executor makes of a start, without a systemd."""

from __future__ import annotations

from typing import Any

import pytest

from hakuriver.records import JobSpec, Start, StartRow
from hakuriver.runner.executors import EXECUTORS, Place, Planned, Refused

JOB = "20250101000000000001"
PLACE = Place(
    "n1", "/mnt/river", "/var/tmp/river", "/root", "root", 7.0, numa={0: (0, 1), 1: (2, 3)}, numactl="/usr/bin/numactl"
)


def start(*rows: StartRow, place: Place = PLACE, **spec: Any) -> Planned:
    job = JobSpec(**{"command": ["prog", "a b"], **spec})
    made = Start(job=JOB, uid=0, spec=job, executor="systemd", tasks=[])
    return EXECUTORS["systemd"](made, list(rows) or [StartRow(None, 1, 0, False)], place)


def test_it_sees_the_node_as_a_process_does() -> None:
    planned = start(cores=2, memory_bytes=5_000_000_001, time_limit_s=9.0, env={"A": "1", "LANG": "C"})
    assert planned.spec == {
        "argv": ["prog", "a b"],
        "env": {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root",
            "LANG": "C", "TMPDIR": "/var/tmp/river", "OMP_NUM_THREADS": "2", "A": "1", "HAKURIVER_JOB_ID": JOB,
            "HAKURIVER_NODE": "n1", "HAKURIVER_CORES": "2", "HAKURIVER_SHARED_DIR": "/mnt/river",
            "HAKURIVER_LOCAL_TEMP_DIR": "/var/tmp/river", "HAKURIVER_MEMORY_BYTES": "5000000001",
        },
        "cwd": "/mnt/river/shared_data", "cores": 2, "memory_bytes": 5_000_000_001, "time_limit_s": 9.0,
        "grace_s": 7.0, "engine": "systemd",
        "settings": {"user": "", "numactl": "/usr/bin/numactl", "private_network": False, "private_pid": False},
    }  # fmt: skip
    assert planned.tasks == [
        {
            "task": JOB, "attempt": 1, "rerunnable": False, "priority": 0, "settings": {"numa": None},
            "env": {"HAKURIVER_TASK_ID": JOB, "HAKURIVER_TASK_INDEX": "0", "HAKURIVER_ATTEMPT": "1"},
        }
    ]  # fmt: skip


def test_what_the_job_asks_for() -> None:
    planned = start(workdir="/work", private_network=True, private_pid=True)
    assert planned.spec["cwd"] == "/work"
    assert planned.spec["settings"]["private_network"] and planned.spec["settings"]["private_pid"]


def test_the_user_that_the_node_names() -> None:
    planned = start(place=PLACE._replace(runner_user="river", runner_home="/home/river"))
    assert planned.spec["settings"]["user"] == "river"
    assert (planned.spec["env"]["HOME"], planned.spec["env"]["USER"]) == ("/home/river", "river")


@pytest.mark.parametrize("executor", ["systemd", "process"])
@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({}, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/hakuriver/bin"),
        ({"PATH": "/srv/bin"}, "/srv/bin"),
    ],
)
def test_programs_of_the_runner_come_last(executor: str, env: dict[str, str], path: str) -> None:
    made = Start(job=JOB, uid=0, spec=JobSpec(command=["x"], env=env), executor=executor, tasks=[])
    place = PLACE._replace(programs="/opt/hakuriver/bin")
    assert EXECUTORS[executor](made, [StartRow(None, 1, 0, False)], place).spec["env"]["PATH"] == path


def test_tasks_may_be_bound_to_different_numa_nodes() -> None:
    planned = start(StartRow(0, 1, 0, True, numa=0), StartRow(1, 3, 5, True, numa=1), StartRow(2, 1, 6, False))
    assert [task["settings"]["numa"] for task in planned.tasks] == [0, 1, None]
    assert [task["env"].get("HAKURIVER_TARGET_NUMA_NODE") for task in planned.tasks] == ["0", "1", None]


def test_what_the_node_has_not() -> None:
    with pytest.raises(Refused, match="has no NUMA node 7: it has 0, 1"):
        start(StartRow(None, 1, 0, False, numa=7))
    with pytest.raises(Refused, match=r"has no numactl.*paths\.numactl_path"):
        start(StartRow(None, 1, 0, False, numa=1), place=PLACE._replace(numactl=""))
    with pytest.raises(Refused, match="NUL"):
        start(command=["a\0b"])
