"""What the docker executor and the attendant's engine make of a start, without an engine."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from conftest import eventually

from hakuriver.attendant.docker import container, seconds
from hakuriver.attendant.docker_refusals import lacks_init, not_executed, refusal
from hakuriver.attendant.messages import Begin
from hakuriver.attendant.usage import Group, Usage, Used
from hakuriver.records import JobSpec, Start, StartRow
from hakuriver.runner.executors import EXECUTORS, Place, Planned, Refused

JOB = "20250101000000000001"
PLACE = Place(
    "n1", "/mnt/river", "/var/tmp/river", "/root", "root", 7.0,
    numa={0: (0, 1), 1: (2, 3)}, gpus={0: "GPU-a", 1: "GPU-b", 3: "GPU-d"}, docker_socket="/run/d.sock",
    programs="/opt/hakuriver/bin",  # which are not in the image
)  # fmt: skip


def start(*rows: StartRow, place: Place = PLACE, spec: dict[str, Any] | None = None, **more: Any) -> Planned:
    job = JobSpec(**{"command": ["prog", "a b"], **(spec or {})})
    made = Start(job=JOB, uid=0, spec=job, executor="docker", tasks=[], **{"image": "sha256:abc", **more})
    return EXECUTORS["docker"](made, list(rows) or [StartRow(None, 1, 0, False)], place)


def test_spec_is_as_the_container_sees_it() -> None:
    planned = start(spec={"cores": 2, "memory_bytes": 5_000_000_001, "time_limit_s": 9.0, "env": {"A": "1"}})
    assert planned.spec == {
        "argv": ["prog", "a b"],
        "env": {
            "LANG": "C.UTF-8", "OMP_NUM_THREADS": "2", "A": "1", "HAKURIVER_JOB_ID": JOB, "HAKURIVER_NODE": "n1",
            "HAKURIVER_CORES": "2", "HAKURIVER_SHARED_DIR": "/shared", "HAKURIVER_LOCAL_TEMP_DIR": "/local_temp",
            "HAKURIVER_MEMORY_BYTES": "5000000001",
        },
        "cwd": "/shared", "cores": 2, "memory_bytes": 5_000_000_001, "time_limit_s": 9.0, "grace_s": 7.0,
        "engine": "docker",
        "settings": {
            "socket": "/run/d.sock", "image": "sha256:abc", "privileged": False, "network": "bridge", "user": "",
            "binds": ["/mnt/river/shared_data:/shared:rw", "/var/tmp/river:/local_temp:rw"],
        },
    }  # fmt: skip
    assert planned.tasks == [
        {
            "task": JOB, "attempt": 1, "rerunnable": False, "priority": 0,
            "env": {"HAKURIVER_TASK_ID": JOB, "HAKURIVER_TASK_INDEX": "0", "HAKURIVER_ATTEMPT": "1"},
            "settings": {"gpus": [], "cpuset_cpus": "", "cpuset_mems": ""},
        }
    ]  # fmt: skip


def test_what_the_river_or_the_job_says() -> None:
    settings = start(
        spec={"workdir": "/work"}, privileged=True, network="host", mounts=["/data:/data:ro", "/home/x:/home/x"],
        place=PLACE._replace(docker_user="1000:1000"),
    )  # fmt: skip
    assert settings.spec["cwd"] == "/work"
    told = settings.spec["settings"]
    assert (told["privileged"], told["network"], told["user"]) == (True, "host", "1000:1000")
    assert told["binds"][2:] == ["/data:/data:ro", "/home/x:/home/x:rw"]
    assert start(spec={"private_network": True}, network="host").spec["settings"]["network"] == "none"


def test_each_task_has_its_own_gpus_and_numa_node() -> None:
    first, second = start(StartRow(0, 2, 5, True, 1, (3, 0)), StartRow(1, 1, 6, False)).tasks
    assert first["task"] == f"{JOB}-0"
    assert first["settings"] == {"gpus": ["GPU-d", "GPU-a"], "cpuset_cpus": "2,3", "cpuset_mems": "1"}
    assert first["env"] == {
        "HAKURIVER_TASK_ID": f"{JOB}-0", "HAKURIVER_TASK_INDEX": "5", "HAKURIVER_ATTEMPT": "2",
        "HAKURIVER_TARGET_NUMA_NODE": "1", "HAKURIVER_GPUS": "3,0",
    }  # fmt: skip
    assert second["settings"] == {"gpus": [], "cpuset_cpus": "", "cpuset_mems": ""}


@pytest.mark.parametrize(
    ("row", "more", "reason"),
    [
        ({"gpus": (2,)}, {}, "node n1 has no GPU 2 now: it has 0, 1, 3"),
        ({"numa": 2}, {}, "node n1 has no NUMA node 2: it has 0, 1"),
        ({}, {"mounts": ["/a"]}, "mounts: '/a' is no mount: write"),
        (
            {},
            {"mounts": ["/a:/shared/"]},
            "mounts: '/a:/shared/' cannot be mounted: something else is mounted at /shared already",
        ),
        ({}, {"mounts": ["/a:/x", "/b:/x:ro"]}, "mounts: /b:/x:ro: something else is mounted at /x already"),
        ({}, {"image": None}, "it names no image to run in"),
        ({}, {"spec": {"command": ["a\0b"]}}, "holds a NUL character"),
    ],
)
def test_what_a_node_has_not_is_refused(row: dict[str, Any], more: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        start(StartRow(None, 1, 0, False)._replace(**row), **more)
    assert reason in str(caught.value)


def test_a_node_without_gpus() -> None:
    with pytest.raises(Refused, match="has no GPU 0 now: it has none"):
        start(StartRow(None, 1, 0, False, None, (0,)), place=PLACE._replace(gpus={}))


# -- what the engine is asked for


def order(**spec: Any) -> Begin:
    return {
        "op": "begin", "name": "hakuriver-task-1", "task": "1", "attempt": 3, "owner": "k1", "out": "/o", "err": "/e",
        "start_before": 0.0, "spec": {"argv": ["a", "b c"], "env": {"A": "x=y"}, "image": "sha256:abc", **spec},
    }  # fmt: skip


def test_what_a_container_is_made_of() -> None:
    planned = start(StartRow(None, 3, 0, False, 1, (0,)), spec={"cores": 1, "memory_bytes": 123_456_789})
    spec = {**planned.spec, **planned.spec["settings"], **planned.tasks[0]["settings"]}
    made = container({**order(), "spec": spec}, True)
    assert made["Image"] == "sha256:abc"
    assert (made["Entrypoint"], made["Cmd"]) == ([""], ["prog", "a b"])
    assert made["Labels"] == {
        "hakuriver.owner": "k1", "hakuriver.task": "1", "hakuriver.attempt": "3", "hakuriver.kind": "task",
    }  # fmt: skip
    host = made["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (10**9, 123_456_789, 123_456_789)
    assert (host["CpusetCpus"], host["CpusetMems"]) == ("2,3", "1")
    assert host["DeviceRequests"] == [{"Driver": "", "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]}]
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/mnt/river/shared_data", "Target": "/shared", "ReadOnly": False},
        {"Type": "bind", "Source": "/var/tmp/river", "Target": "/local_temp", "ReadOnly": False},
    ]
    assert (host["AutoRemove"], host["RestartPolicy"], host["Init"]) == (False, {"Name": "no"}, True)


def test_what_is_not_asked_for_is_not_limited() -> None:
    host = container(order(), False)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["CpusetCpus"]) == (0, 0, 0, "")
    assert (host["DeviceRequests"], host["Mounts"], host["Privileged"], host["NetworkMode"]) == (
        [],
        [],
        False,
        "bridge",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T18:19:38.048031197Z", 1795285178.048031197),
        ("2026-11-21T18:19:38Z", 1795285178.0),
        ("2026-11-21T20:19:38.5+02:00", 1795285178.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times_of_the_engine(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


RUNC = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {}"
    ": unknown"
)


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (RUNC.format('exec: "nosuch": executable file not found in $PATH'), 127, "There is no program nosuch in"),
        (
            RUNC.format('exec: "/no/such": stat /no/such: no such file or directory'),
            127,
            "There is no program /no/such",
        ),
        (
            RUNC.format('exec: "/etc/passwd": permission denied'),
            126,
            "/etc/passwd cannot be executed: permission denied",
        ),
        (RUNC.format("exec /app: exec format error"), 126, "/app cannot be executed: exec format error (is it"),
        (
            RUNC.format("error during container init: mkdir /shared/x: read-only file system"),
            125,
            "The working directory cannot be had in the container: mkdir /shared/x: read-only file system",
        ),
        ("Cannot mkdir: /etc/passwd is not a directory", 125, "The working directory cannot be had in the container"),
        ("No such image: sha256:00", 125, "The image sha256:00 is not in the node's Docker engine any more"),
        (
            'invalid mount config for type "bind": bind source path does not exist: /no such',
            125,
            "/no such, which is to be mounted, does not exist on this node",
        ),
        ("write /d/overlay2/x-init/link: no space left on device", 125, "No space left on the disk of the node's"),
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            125,
            "The node's Docker engine cannot give",
        ),
        ("network lab not found", 125, "The node's Docker engine has no network lab"),
        (
            "failed to set up container networking: network lab not found",
            125,
            "The node's Docker engine has no network",
        ),
        ("unable to find user joe: no matching entries in passwd file", 125, "There is no user joe in the image"),
        (
            "Minimum memory limit allowed is 6MB",
            125,
            "The memory limit is lower than the node's Docker engine allows: ",
        ),
        ("task 19cda2a6d5e1bc05: already exists: unknown", 125, "The node's Docker engine died as it started the"),
        ("container name is odd", 125, "Docker: container name is odd"),
    ],
)
def test_refusals_of_the_engine(said: str, code: int, told: str) -> None:
    """Recorded from dockerd 20.10, but for `exec format error` and the words of later engines about networks."""
    found = refusal(said)
    assert found.code == code
    assert found.text.startswith(told)


def test_docker_init() -> None:
    assert lacks_init(RUNC.format('exec: "docker-init": executable file not found in $PATH'))
    assert not lacks_init(RUNC.format('exec: "x": executable file not found in $PATH'))
    line = b"[FATAL tini (7)] exec nosuch failed: No such file or directory\n"
    assert not_executed(line, 127).startswith("There is no program nosuch in the container")
    assert not_executed(line.replace(b"No such file or directory", b"Permission denied"), 126) == (
        "nosuch cannot be executed: Permission denied"
    )
    assert not_executed(b"more\n" + line, 127) == ""
    assert not_executed(line, None) == ""


# -- cgroups


def test_usage_from_cgroup_v1(tmp_path: Any) -> None:
    listing = "12:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/docker/x\n"
    for path, text in (
        ("memory/docker/x/memory.max_usage_in_bytes", "4096"),
        ("cpu,cpuacct/docker/x/cpuacct.usage", "25"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text + "\n")
    assert Group(listing, str(tmp_path)).look(Used()) == Used(25e-9, 4096)


def test_usage_from_cgroup_v2(tmp_path: Any) -> None:
    group = tmp_path / "system.slice" / "docker-x.scope"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n")
    (group / "memory.current").write_text("100\n")
    meter = Group("0::/system.slice/docker-x.scope\n", str(tmp_path))
    assert meter.look(Used(0.0, 200)) == Used(1.5, 200), "kernels before 5.19 keep no peak"
    (group / "memory.peak").write_text("300\n")
    assert meter.look(Used(0.0, 200)) == Used(1.5, 300)


def test_the_end_of_a_process_is_an_occasion_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def look(group: Group, before: Used) -> Used:
        looks.append(0.0)
        return Used(float(len(looks)))

    monkeypatch.setattr(Group, "look", look)
    monkeypatch.setattr("hakuriver.attendant.usage.FIRST_S", (0.0,))
    monkeypatch.setattr("hakuriver.attendant.usage.EVERY_S", 1000.0)
    usage = Usage()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        usage.add("x", process.pid)
        eventually(lambda: len(looks) == 1)
    eventually(lambda: len(looks) == 2)
    assert usage.take("x").cpu_s == 2.0


def test_usage_of_what_is_gone() -> None:
    usage = Usage()
    usage.add("x", 2**22 + 1)
    assert usage.take("x") == Used()
    assert usage.take("y") == Used()
