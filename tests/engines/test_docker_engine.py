"""Docker as an engine of attendants, against a real dockerd."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from conftest import eventually
from lab.base import run
from lab.dockerd import Dockerd
from processes import alive

from hakuriver.attendant import docker_output
from hakuriver.attendant.docker import Docker
from hakuriver.attendant.docker_connections import Connections
from hakuriver.attendant.engine import Away, CannotStart, Doubtful
from hakuriver.attendant.messages import Begin, Ended

MIB = 1024 * 1024
#: What takes moments takes that long on a busy machine, at most.
LONG_S = 60.0
ids = itertools.count(1)
#: Prints where it is in the cgroup hierarchy: limits are read back from there, inside the container (v1 or v2).
LIMIT = "cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}"


class Stage:
    """One engine, and the orders for containers in it."""

    def __init__(self, lab: Dockerd, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.docker = Docker()
        self.orders: list[Begin] = []

    def order(self, *argv: str, image: str = "shell", memory: int | None = None, cores: int = 0, **spec: Any) -> Begin:
        number = next(ids)
        made: Begin = {
            "op": "begin", "name": f"hakuriver-task-{number}", "task": str(number), "attempt": 1, "owner": "k1",
            "spec": {
                "argv": list(argv), "env": {}, "cwd": "", "cores": cores, "memory_bytes": memory, "grace_s": 10,
                "socket": self.lab.socket, "image": image, "gpus": [], "cpuset_cpus": "", "cpuset_mems": "",
                "binds": [], "privileged": False, "network": "bridge", "user": "", **spec,
            },
            "out": str(self.directory / f"{number}.out"), "err": str(self.directory / f"{number}.err"),
            "start_before": 1e9,
        }  # fmt: skip
        self.orders.append(made)
        return made

    def sh(self, script: str, **spec: Any) -> Begin:
        return self.order("sh", "-c", script, **spec)

    def begin(self, order: Begin) -> int | None:
        """Make, start and attend it; its pid."""
        assert self.docker.look(order) == "absent"
        self.docker.make(order)
        assert self.docker.look(order) == "made"
        self.docker.start(order)
        return self.docker.attend(order)[0]

    def end(self, order: Begin) -> Ended:
        """Wait for its end, and remove it."""
        ended = self.docker.wait(order)
        assert self.docker.look(order) == "ended"
        self.docker.remove(order["name"])
        assert self.docker.look(order) == "absent"
        return ended

    def run(self, order: Begin) -> Ended:
        self.begin(order)
        return self.end(order)

    def says(self, order: Begin) -> str:
        """What it prints when it is run, without fail."""
        ended = self.run(order)
        assert ended["exit_code"] == 0, (ended, err(order))
        return out(order).decode()

    def refusal(self, order: Begin) -> CannotStart:
        with pytest.raises(CannotStart) as caught:
            self.docker.make(order)
            self.docker.start(order)
        self.docker.remove(order["name"])
        return caught.value

    def anew(self) -> None:
        """What an attendant knows is lost with it."""
        for collected in self.docker._outputs.values():
            collected._abandon()
        self.docker = Docker()


def out(order: Begin) -> bytes:
    return Path(order["out"]).read_bytes() if Path(order["out"]).exists() else b""


def err(order: Begin) -> bytes:
    return Path(order["err"]).read_bytes() if Path(order["err"]).exists() else b""


def shows(order: Begin, text: bytes) -> None:
    eventually(lambda: text in out(order), LONG_S, f"{text!r} in the output")


@pytest.fixture
def stage(docker_engine: Dockerd, scratch: Path) -> Iterator[Stage]:
    made = Stage(docker_engine, scratch)
    yield made
    for order in made.orders:
        made.docker.look(order)  # so that it may be removed, whatever the test has done
        made.docker.remove(order["name"])
    assert docker_engine.containers() == []


@pytest.fixture
def own_engine(scratch: Path) -> Iterator[Stage]:
    """An engine that the test may break."""
    with Dockerd(scratch / "engine", options=("--shutdown-timeout", "3")) as engine:
        engine.add_image("shell")
        yield Stage(engine, scratch)


# -- what a container is given


def test_memory_limit_is_exact_and_without_swap(stage: Stage) -> None:
    size = 50_000_000 // 4096 * 4096 + 4096 * 3
    script = LIMIT.format(v1="memory/memory.limit_in_bytes", v2="memory.max")
    assert stage.says(stage.sh(script, memory=size)).split() == [str(size)]
    script = LIMIT.format(v1="memory/memory.memsw.limit_in_bytes", v2="memory.swap.max")
    assert stage.says(stage.sh(script, memory=size)).split() in ([str(size)], ["0"])


def test_cores_are_a_quota(stage: Stage) -> None:
    script = LIMIT.format(v1="cpu/cpu.cfs_quota_us", v2="cpu.max")
    assert stage.says(stage.sh(script, cores=1)).split()[0] == "100000"
    assert stage.says(stage.sh(script, cores=0)).split()[0] in ("-1", "max")
    assert int(stage.says(stage.sh(script, cores=1000)).split()[0]) == (os.cpu_count() or 1) * 100_000


def test_numa_is_a_cpuset(stage: Stage) -> None:
    script = "nproc; grep -E '_allowed_list' /proc/self/status"
    said = stage.says(stage.sh(script, cpuset_cpus="0", cpuset_mems="0")).split()
    assert said == ["1", "Cpus_allowed_list:", "0", "Mems_allowed_list:", "0"]


def test_gpus_are_given_by_uuid(stage: Stage) -> None:
    said = stage.says(stage.order("env", gpus=["GPU-b", "GPU-a"])).splitlines()
    assert "NVIDIA_VISIBLE_DEVICES=GPU-b,GPU-a" in said
    assert "NVIDIA" not in stage.says(stage.order("env"))


def test_environment_is_the_images_and_the_tasks(stage: Stage) -> None:
    said = stage.says(stage.order("env", image="workdir", env={"A": "x=1 $HOME\n'2'", "HAKURIVER_TASK_ID": "7"}))
    assert "A=x=1 $HOME\n'2'\n" in said
    assert "HAKURIVER_TASK_ID=7" in said.splitlines()
    assert "FROM_IMAGE=yes" in said.splitlines()
    assert "PATH=/opt/tools:/bin:/usr/bin" in said.splitlines()
    assert not {name for name in os.environ if f"\n{name}=" in said} - {"PATH", "HOME", "HOSTNAME", "PWD", "SHLVL"}


def test_directories_are_mounted(stage: Stage, scratch: Path) -> None:
    (scratch / "a").mkdir()
    (scratch / "b").mkdir()
    binds = [f"{scratch}/a:/shared:rw", f"{scratch}/b:/data:ro"]
    order = stage.sh("echo made > /shared/file; echo x > /data/file && exit 1; ls -d /shared /data", binds=binds)
    assert stage.says(order).split() == ["/data", "/shared"]
    assert (scratch / "a" / "file").read_text() == "made\n"
    assert not (scratch / "b" / "file").exists()


def test_working_directory(stage: Stage) -> None:
    assert stage.says(stage.order("pwd", cwd="/usr/bin")) == "/usr/bin\n"
    assert stage.says(stage.order("pwd", image="workdir")) == "/srv\n"
    assert stage.says(stage.order("pwd", cwd="/not/there")) == "/not/there\n", "as docker run -w does"


def test_working_directory_that_cannot_be_had(stage: Stage, scratch: Path) -> None:
    refused = stage.refusal(stage.order("pwd", cwd="/etc/passwd"))
    assert (refused.code, refused.text[:40]) == (125, "The working directory cannot be had in t")
    refused = stage.refusal(stage.order("pwd", cwd="/data/sub", binds=[f"{scratch}:/data:ro"]))
    assert (refused.code, refused.text[:40]) == (125, "The working directory cannot be had in t")


def test_user(stage: Stage) -> None:
    assert stage.says(stage.order("id", "-u")) == "0\n"
    assert stage.says(stage.order("id", "-u", image="workdir")) == "1234\n"
    assert stage.says(stage.sh("id -u; id -g", image="workdir", user="77:88")) == "77\n88\n"
    assert stage.refusal(stage.order("id", user="nobody-knows")).text.startswith("There is no user nobody-knows in")


def test_network_none_is_a_loopback_alone(stage: Stage) -> None:
    said = stage.says(stage.sh("ls /sys/class/net; ip addr", network="none"))
    assert said.startswith("lo\n") and "eth0" not in said
    assert "eth0" in stage.says(stage.order("ls", "/sys/class/net"))


def test_rights_are_the_engines_usual_ones(stage: Stage) -> None:
    said = stage.says(stage.order("grep", "CapEff", "/proc/self/status"))
    assert int(said.split()[1], 16) & 1 << 23 == 0, "no CAP_SYS_NICE"
    stage.docker.make(order := stage.order("true", privileged=True))
    assert stage.lab.client.inspect_container(order["name"])["HostConfig"]["Privileged"] is True


def test_image_s_entrypoint_has_no_say(stage: Stage) -> None:
    assert stage.says(stage.order("echo", "mine", image="entrypoint")) == "mine\n"


def test_arguments_are_no_shells(stage: Stage) -> None:
    argv = ["printf", "%s|", "$HOME", "`id`", "; exit 3", "a b", "", "*", "ü", "-x", "'\"\\"]
    assert stage.says(stage.order(*argv)) == "|".join(argv[2:]) + "|"


def test_labels_and_bounded_log(stage: Stage) -> None:
    stage.docker.make(order := stage.order("true"))
    found = stage.lab.client.inspect_container(order["name"])
    assert found["Config"]["Labels"] == {
        "hakuriver.owner": "k1", "hakuriver.task": order["task"], "hakuriver.attempt": "1", "hakuriver.kind": "task",
    }  # fmt: skip
    assert found["HostConfig"]["LogConfig"]["Type"] == "local"
    assert found["HostConfig"]["LogConfig"]["Config"]["max-size"] == "64m"
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "no"


# -- endings


def test_exit_code_times_and_usage(stage: Stage) -> None:
    before = time.time()
    order = stage.sh("head -c 30000000 /dev/zero | tail -c 30000000 > /dev/null; sleep 1.3; exit 7", cores=1)
    ended = stage.run(order)
    assert (ended["exit_code"], ended["signal"], ended["oom"], ended["text"]) == (7, None, False, "")
    assert ended["started_at"] is not None
    assert before - 1 < ended["started_at"] < ended["ended_at"] < time.time() + 1
    assert 1.2 < ended["wall_s"] < LONG_S
    assert 0.01 < ended["cpu_s"] < 20
    assert ended["peak_memory_bytes"] is not None and ended["peak_memory_bytes"] > 20 * MIB


def test_cpu_time_is_counted_to_the_end(stage: Stage) -> None:
    """What was used since the last look, a second ago at most, is not lost."""
    order = stage.sh("sleep 1.1; head -c 400000000 /dev/zero > /dev/null; cat /sys/fs/cgroup/cpuacct/cpuacct.usage")
    ended = stage.run(order)
    if out(order):  # cgroup v1
        assert ended["cpu_s"] == pytest.approx(int(out(order)) / 1e9, rel=0.2)


def test_out_of_memory_is_told(stage: Stage) -> None:
    order = stage.sh("head -c 200000000 /dev/zero | tail -c 200000000 | wc -c; exit 5", memory=32 * MIB)
    ended = stage.run(order)
    assert ended["oom"] is True
    order = stage.order("tail", "/dev/zero", memory=32 * MIB)
    ended = stage.run(order)
    assert (ended["exit_code"], ended["oom"]) == (137, True)
    assert ended["peak_memory_bytes"] == 32 * MIB


def test_peak_of_one_that_was_killed_for_memory_before_anybody_looked(stage: Stage) -> None:
    stage.docker.make(order := stage.order("tail", "/dev/zero", memory=32 * MIB))
    stage.docker.start(order)
    ended = stage.end(order)
    assert (ended["oom"], ended["peak_memory_bytes"]) == (True, 32 * MIB)


def test_killed_by_somebody_is_not_out_of_memory(stage: Stage) -> None:
    order = stage.sh("echo up; sleep 100", memory=32 * MIB)
    stage.begin(order)
    shows(order, b"up")
    stage.lab.cli("kill", order["name"])
    ended = stage.end(order)
    assert (ended["exit_code"], ended["oom"]) == (137, False)


def test_one_that_somebody_removes(stage: Stage) -> None:
    order = stage.sh("echo up; sleep 100")
    stage.begin(order)
    shows(order, b"up")
    stage.lab.cli("rm", "--force", order["name"])
    ended = stage.docker.wait(order)
    assert ended["exit_code"] is None and not ended["oom"]
    assert "removed by somebody" in ended["text"]


def test_term_reaches_the_command(stage: Stage) -> None:
    order = stage.sh("trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.1; done")
    stage.begin(order)
    shows(order, b"up")
    stage.docker.signal(order["name"], signal.SIGTERM)
    assert stage.end(order)["exit_code"] == 9
    assert out(order) == b"up\ntold\n"


def test_term_ends_a_command_that_does_not_care(stage: Stage) -> None:
    order = stage.order("sleep", "100")
    stage.begin(order)
    stage.docker.signal(order["name"], signal.SIGTERM)
    assert stage.end(order)["exit_code"] == 143
    stage.docker.signal(order["name"], signal.SIGTERM)
    stage.docker.signal(order["name"], signal.SIGKILL)


def test_kill_ends_the_whole_tree(stage: Stage) -> None:
    order = stage.sh("trap '' TERM; (trap '' TERM; sleep 1000) & echo up; sleep 1000")
    pid = stage.begin(order)
    shows(order, b"up")
    stage.docker.signal(order["name"], signal.SIGTERM)
    stage.docker.signal(order["name"], signal.SIGKILL)
    assert stage.end(order)["exit_code"] == 137
    assert not Path(f"/proc/{pid}/root").exists()


def test_pause_and_resume(stage: Stage) -> None:
    order = stage.sh("while :; do echo x; sleep 0.02; done")
    stage.begin(order)
    shows(order, b"x\nx\n")
    assert stage.docker.freeze(order["name"], True) == ""
    assert stage.docker.freeze(order["name"], True) == ""
    assert stage.docker.look(order) == "running"
    seen = steady(order)
    assert stage.docker.freeze(order["name"], False) == ""
    assert stage.docker.freeze(order["name"], False) == ""
    eventually(lambda: len(out(order)) > seen + 4, LONG_S)
    stage.docker.freeze(order["name"], True)
    stage.docker.signal(order["name"], signal.SIGTERM)
    assert stage.end(order)["exit_code"] == 143
    assert stage.docker.freeze(order["name"], True) == "there is no such container"


def steady(order: Begin) -> int:
    """Wait until no output comes any more; how much there is."""
    sizes = [-1, -2]
    while sizes[-1] != sizes[-2]:
        time.sleep(0.3)
        sizes.append(len(out(order)))
    return sizes[-1]


def test_frozen_is_killed_at_once_and_runs_no_more(stage: Stage) -> None:
    order = stage.sh("while :; do echo x; sleep 0.02; done")
    stage.begin(order)
    shows(order, b"x")
    stage.docker.freeze(order["name"], True)
    stage.docker.signal(order["name"], signal.SIGKILL)
    assert stage.end(order)["exit_code"] == 137


# -- output


def numbered(size: int) -> str:
    """A command that writes binary output to both streams, without newlines at their ends."""
    return (
        f"head -c {size} /dev/urandom > /tmp/a; head -c {size} /dev/urandom > /tmp/b; "
        "cat /tmp/a & cat /tmp/b >&2; wait; printf end; printf END >&2; "
        "md5sum < /tmp/a > /sums/a; md5sum < /tmp/b > /sums/b"
    )


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def check_sums(order: Begin, sums: Path) -> None:
    assert out(order).endswith(b"end") and err(order).endswith(b"END")
    assert md5(out(order)[:-3]) == (sums / "a").read_text().split()[0]
    assert md5(err(order)[:-3]) == (sums / "b").read_text().split()[0]


def test_output_is_complete(stage: Stage, scratch: Path) -> None:
    order = stage.sh(numbered(5 * MIB), binds=[f"{scratch}:/sums:rw"])
    assert stage.run(order)["exit_code"] == 0
    check_sums(order, scratch)


def test_output_is_complete_from_the_log_alone(stage: Stage, scratch: Path) -> None:
    order = stage.sh(numbered(5 * MIB), binds=[f"{scratch}:/sums:rw"])
    stage.docker.make(order)
    stage.lab.client.start(order["name"])
    assert stage.end(order)["exit_code"] == 0
    check_sums(order, scratch)


def test_output_is_complete_though_attendants_come_and_go(stage: Stage, scratch: Path) -> None:
    """A new attendant, five times, in the middle of what it writes."""
    script = (
        "while [ ! -e /sums/go ]; do head -c 70000 /dev/urandom | tee -a /sums/out; "
        "head -c 30000 /dev/urandom | tee -a /sums/err >&2; echo | tee -a /sums/out; printf part | tee -a /sums/out; "
        "sleep 0.05; done"
    )
    order = stage.sh(script, binds=[f"{scratch}:/sums:rw"])
    stage.begin(order)
    for round_ in range(1, 6):
        eventually(lambda n=round_: len(out(order)) > n * 400_000, LONG_S)  # type: ignore[misc]
        stage.anew()
        assert stage.docker.look(order) == "running"
        stage.docker.attend(order)
    (scratch / "go").touch()
    assert stage.end(order)["exit_code"] == 0
    assert out(order) == (scratch / "out").read_bytes()
    assert err(order) == (scratch / "err").read_bytes()


def test_output_of_one_that_ended_while_nobody_attended(stage: Stage) -> None:
    order = stage.sh("echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; printf '\\n\\nthree\\r'")
    stage.begin(order)
    shows(order, b"one")
    stage.anew()
    stage.lab.cli("exec", order["name"], "touch", "/tmp/go")
    eventually(lambda: stage.docker.look(order) == "ended", LONG_S)
    assert stage.end(order)["exit_code"] == 0
    assert (out(order), err(order)) == (b"one\n\n\nthree\r", b"two\n")


def test_output_waits_for_a_full_disk(stage: Stage, scratch: Path) -> None:
    small = scratch / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small))
    try:
        order = stage.sh("head -c 6000000 /dev/urandom | tee /sums/out", binds=[f"{scratch}:/sums:rw"])
        order["out"] = str(small / "out")
        stage.begin(order)
        eventually(lambda: len(out(order)) == MIB, LONG_S)
        assert stage.docker.look(order) == "running", "it waits as well"
        run("mount", "-o", "remount,size=20m", str(small))
        ended = stage.end(order)
        assert (ended["exit_code"], ended["text"]) == (0, "")
        assert out(order) == (scratch / "out").read_bytes()
    finally:
        run("umount", str(small))


def test_output_that_cannot_be_written_is_told(stage: Stage, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_output, "FULL_S", 1.0)
    monkeypatch.setattr(docker_output, "SILENCE_S", 0.5)
    small = scratch / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    try:
        order = stage.sh("head -c 300000 /dev/zero")
        order["out"] = str(small / "out")
        ended = stage.run(order)
        assert ended["exit_code"] == 0
        assert ended["text"] == f"output could not be written to {small}/out: No space left on device"
        assert out(order) == bytes(65536)
    finally:
        run("umount", str(small))


def test_output_is_live_and_has_no_need_of_lines(stage: Stage) -> None:
    order = stage.sh("printf 'half a line'; sleep 100")
    stage.begin(order)
    shows(order, b"half a line")
    stage.docker.signal(order["name"], signal.SIGKILL)
    stage.end(order)
    assert out(order) == b"half a line"


def test_output_of_very_short_containers(stage: Stage) -> None:
    for number in range(5):
        assert stage.says(stage.order("echo", str(number))) == f"{number}\n"


def test_output_whose_stream_is_lost_goes_on(stage: Stage) -> None:
    order = stage.sh("i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo $i; sleep 0.02; done")
    stage.begin(order)
    shows(order, b"\n20\n")
    stage.docker._outputs[order["name"]]._close()
    seen = len(out(order))
    eventually(lambda: len(out(order)) > seen + 400, LONG_S)
    stage.lab.cli("exec", order["name"], "touch", "/tmp/go")
    stage.end(order)
    lines = out(order).splitlines()
    assert lines == [b"%d" % n for n in range(1, len(lines) + 1)]


def test_output_after_its_stream_was_closed_by_the_command(stage: Stage) -> None:
    order = stage.sh("echo one; exec > /dev/null 2>&1; sleep 2")
    assert stage.run(order)["exit_code"] == 0
    assert (out(order), err(order)) == (b"one\n", b"")


def test_a_log_that_may_be_incomplete_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_output, "LOG_BYTES", 10_000)
    order = stage.sh("seq 1 5000; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last")
    stage.begin(order)
    shows(order, b"5000\n")
    stage.anew()
    stage.lab.cli("exec", order["name"], "touch", "/tmp/go")
    eventually(lambda: stage.docker.look(order) == "ended", LONG_S)
    stage.end(order)
    assert err(order) == docker_output.MISSING
    whole = b"".join(b"%d\n" % n for n in range(1, 5001))
    assert out(order).startswith(whole) and out(order).endswith(b"\nlast\n")
    # The engine may have stamped any line later than it came here, but none of them twice.
    assert len(out(order)) <= 2 * len(whole) + len(b"last\n")


# -- what cannot be started


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["no-such-program"], 127, "There is no program no-such-program in the container"),
        (["/no/such"], 127, "There is no program /no/such in the container"),
        (["/etc/passwd"], 126, "/etc/passwd cannot be executed"),
        (["/etc"], 126, "/etc cannot be executed"),
    ],
)
def test_programs_that_cannot_be_run(stage: Stage, argv: list[str], code: int, text: str) -> None:
    """With docker-init, which tries and ends; and without, when the engine refuses."""
    ended = stage.run(order := stage.order(*argv))
    assert ended["exit_code"] == code
    assert ended["text"].startswith(text)
    stage.docker._without_init.add(order["spec"]["socket"])
    refused = stage.refusal(stage.order(*argv))
    assert refused.code == code
    assert refused.text.startswith(text)


def test_mount_that_is_missing(stage: Stage, scratch: Path) -> None:
    refused = stage.refusal(stage.order("true", binds=[f"{scratch}/absent:/x:rw"]))
    assert refused.code == 125
    assert refused.text.startswith(f"{scratch}/absent, which is to be mounted, does not exist on this node")
    assert not (scratch / "absent").exists()


def test_image_that_is_missing_is_not_pulled(stage: Stage) -> None:
    refused = stage.refusal(stage.order("true", image="hakuriver/absent:base"))
    assert refused.code == 125
    assert "hakuriver/absent:base is not in the node's Docker engine any more" in refused.text


def test_network_that_is_missing(stage: Stage) -> None:
    assert "has no network absent" in stage.refusal(stage.order("true", network="absent")).text


def test_what_is_not_known_is_told_in_the_engines_words(stage: Stage) -> None:
    refused = stage.refusal(stage.order("true", binds=["/etc:/proc:ro"]))
    assert refused.code == 125
    assert refused.text.startswith('Docker: error mounting "/etc" to rootfs at "/proc"')


def test_less_memory_than_docker_allows(stage: Stage) -> None:
    refused = stage.refusal(stage.order("true", memory=6_000_000))
    assert (refused.code, refused.text[-15:]) == (125, "for 6Mi or more")


def test_arguments_that_are_too_long(stage: Stage) -> None:
    ended = stage.run(order := stage.order("true", "x" * 131_072))
    assert ended["exit_code"]
    assert ended["text"].startswith("Arguments and environment are longer than Linux passes to a program")
    stage.docker._without_init.add(order["spec"]["socket"])
    ended = stage.run(stage.order("true", "x" * 131_072))
    assert ended["text"].startswith("Arguments and environment are longer than Linux passes to a program")
    assert stage.run(stage.order("true", "x" * 131_071))["exit_code"] == 0


def test_gpus_without_nvidias_toolkit_and_a_full_disk(scratch: Path) -> None:
    with Dockerd(scratch / "engine", gpus=False, size="64m") as engine:
        engine.add_image("shell")
        stage = Stage(engine, scratch)
        assert "install the NVIDIA Container Toolkit" in stage.refusal(stage.order("true", gpus=["GPU-1"])).text
        engine.fill()
        refused = stage.refusal(stage.order("true"))
        assert (refused.code, refused.text[:39]) == (125, "No space left on the disk of the node's")
        engine.unfill()
        assert stage.says(stage.order("echo", "again")) == "again\n"


# -- again and again, and somebody else's


def test_every_step_may_be_repeated(stage: Stage) -> None:
    order = stage.sh("echo once; while [ ! -e /tmp/go ]; do sleep 0.05; done")
    stage.docker.make(order)
    stage.docker.make(order)
    stage.anew()
    stage.docker.make(order)
    stage.docker.start(order)
    first = stage.docker.attend(order)
    assert stage.docker.attend(order) == first
    stage.lab.cli("exec", order["name"], "touch", "/tmp/go")
    ended = stage.docker.wait(order)
    assert {**stage.docker.wait(order), "cpu_s": 0, "peak_memory_bytes": 0} == {
        **ended, "cpu_s": 0, "peak_memory_bytes": 0,
    }  # fmt: skip
    assert out(order) == b"once\n"
    stage.docker.remove(order["name"])
    stage.docker.remove(order["name"])


STEPS = ("look", "make", "start", "attend", "wait")


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
@pytest.mark.parametrize("script", ["echo once", "echo once; sleep 1"])
def test_attendant_dies_between_any_two_steps(stage: Stage, done: int, script: str) -> None:
    """The next one takes it up from what it finds: it ran once, and all is told."""
    order = stage.sh(f"{script}; printf tail; exit 4")
    for step in STEPS[:done]:
        getattr(stage.docker, step)(order)
    stage.anew()
    found = stage.docker.look(order)
    if found == "absent":
        stage.docker.make(order)
        found = stage.docker.look(order)
    if found == "made":
        stage.docker.start(order)
        found = "running"
    if found == "running":
        stage.docker.attend(order)
    ended = stage.end(order)
    assert (ended["exit_code"], ended["oom"], ended["text"]) == (4, False, "")
    assert (out(order), err(order)) == (b"once\ntail", b"")


def test_owners_do_not_touch_each_other(stage: Stage) -> None:
    order = stage.sh("echo up; sleep 100")
    stage.begin(order)
    other: Begin = {**order, "owner": "k2"}
    docker = Docker(stage.lab.socket)
    assert docker.look(other) == "absent"
    with pytest.raises(CannotStart, match="taken by a container of somebody else's"):
        docker.make(other)
    docker.signal(order["name"], signal.SIGKILL)
    docker.remove(order["name"])
    assert docker.freeze(order["name"], True) == "there is no such container"
    assert docker.names("k2") == []
    assert Docker(stage.lab.socket).names("k1") == [order["name"]] == stage.docker.names("k1")
    assert stage.docker.look(order) == "running"


def test_one_that_was_never_started_is_removed(stage: Stage) -> None:
    stage.docker.make(order := stage.order("true"))
    stage.anew()
    assert stage.docker.look(order) == "made"
    stage.docker.remove(order["name"])
    assert stage.docker.look(order) == "absent"


def test_frozen_one_is_removed(stage: Stage) -> None:
    order = stage.order("sleep", "100")
    stage.begin(order)
    stage.docker.freeze(order["name"], True)
    stage.docker.remove(order["name"])
    assert stage.docker.look(order) == "absent"


def at_once(stage: Stage, orders: list[Begin]) -> list[int | None]:
    """Run them all, each on a thread of its own; their exit codes."""
    endings: dict[str, Ended] = {}

    def run(order: Begin) -> None:
        endings[order["name"]] = stage.run(order)

    threads = [threading.Thread(target=run, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [endings[order["name"]]["exit_code"] for order in orders]


def test_ten_at_once(stage: Stage) -> None:
    orders = [stage.sh(f"seq 1 2000; exit {n}") for n in range(10)]
    assert at_once(stage, orders) == list(range(10))
    assert all(out(order) == b"".join(b"%d\n" % n for n in range(1, 2001)) for order in orders)


def test_nothing_of_a_stream_is_left_to_the_garbage_collector(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 says on stderr what it cannot close; earlier ones are silent."""
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: told.append(f"{about.object!r}: {about.exc_value!r}"))
    at_once(stage, [stage.sh("echo attached") for _ in range(10)])
    gc.collect()
    assert told == []


# -- an engine that is away


def test_engine_is_away(own_engine: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    order = own_engine.order("echo", "at last")
    own_engine.lab.stop()
    for call in (own_engine.docker.look, own_engine.docker.make, own_engine.docker.start, own_engine.docker.attend):
        with pytest.raises(Away, match=f"Cannot connect to Docker daemon at unix://{own_engine.lab.socket}: "):
            call(order)
    with pytest.raises(Away):
        own_engine.docker.remove(order["name"])
    own_engine.lab.start()
    assert own_engine.says(order) == "at last\n"


def test_engine_goes_away_between_make_and_start(own_engine: Stage) -> None:
    order = own_engine.order("echo", "at last")
    own_engine.docker.make(order)
    own_engine.lab.kill()
    with pytest.raises(Away):
        own_engine.docker.start(order)
    own_engine.lab.start()
    assert own_engine.docker.look(order) == "made"
    own_engine.docker.start(order)
    own_engine.docker.attend(order)
    assert own_engine.end(order)["exit_code"] == 0
    assert out(order) == b"at last\n"


def test_output_that_no_engine_was_there_to_keep_is_told_as_missing(own_engine: Stage, scratch: Path) -> None:
    script = "echo begun; while [ ! -e /scratch/go ]; do sleep 0.05; done; echo lost"
    pid = own_engine.begin(order := own_engine.sh(script, binds=[f"{scratch}:/scratch:ro"]))
    shows(order, b"begun")
    ended: list[Ended] = []
    waiting = threading.Thread(target=lambda: ended.append(own_engine.docker.wait(order)), daemon=True)
    waiting.start()
    own_engine.lab.kill()
    (scratch / "go").touch()
    eventually(lambda: not alive(pid or 0), LONG_S, "the end of the container")
    own_engine.lab.start()
    waiting.join(LONG_S)
    assert (ended[0]["exit_code"], out(order)[:6]) == (0, b"begun\n")
    assert b"what it wrote meanwhile may be missing" in err(order)


def test_engine_that_dies_in_a_start_leaves_doubt(own_engine: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(client: docker.APIClient, name: str) -> None:
        own_engine.lab.kill()
        raise requests.ConnectionError("reset")

    order = own_engine.order("true")
    own_engine.docker.make(order)
    with monkeypatch.context() as patched:
        patched.setattr(docker.APIClient, "start", lost)
        with pytest.raises(Doubtful):
            own_engine.docker.start(order)
    own_engine.lab.start()
    assert own_engine.docker.look(order) == "made"


def test_engine_that_hangs_is_away(own_engine: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    order = own_engine.order("true")
    own_engine.lab.hang(True)
    with monkeypatch.context() as patched:
        patched.setattr("hakuriver.attendant.docker_connections.ANSWER_S", 1)
        with pytest.raises(Away, match="no answer within 1 s"):
            own_engine.docker.look(order)
    own_engine.lab.hang(False)
    assert own_engine.docker.look(order) == "absent"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_engine_restarts_while_a_container_runs(own_engine: Stage, how: str) -> None:
    order = own_engine.sh("trap 'exit 143' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
    own_engine.begin(order)
    shows(order, b"20\n")
    endings: list[Ended] = []
    waiter = threading.Thread(target=lambda: endings.append(own_engine.docker.wait(order)))
    waiter.start()
    getattr(own_engine.lab, how)()
    assert waiter.is_alive()
    own_engine.lab.start()
    waiter.join(LONG_S)
    assert endings[0]["exit_code"] in (137, 143)
    assert not endings[0]["oom"]
    assert "engine went away while it ran" in endings[0]["text"]
    lines = out(order).splitlines()
    assert len(lines) >= 20
    assert lines == [b"%d" % n for n in range(1, len(lines) + 1)]


def test_container_survives_an_engine_that_lets_it(scratch: Path) -> None:
    with Dockerd(scratch / "engine", options=("--live-restore",)) as engine:
        engine.add_image("shell")
        stage = Stage(engine, scratch)
        order = stage.sh("i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo $i; sleep 0.05; done; exit 3")
        stage.begin(order)
        shows(order, b"20\n")
        endings: list[Ended] = []
        waiter = threading.Thread(target=lambda: endings.append(stage.docker.wait(order)))
        waiter.start()
        engine.stop()
        engine.start()
        seen = int(out(order).split()[-1])
        eventually(lambda: int(out(order).split()[-1]) > seen + 20, LONG_S)
        engine.cli("exec", order["name"], "touch", "/tmp/go")
        waiter.join(LONG_S)
        assert endings[0]["exit_code"] == 3


def test_no_engine_at_all(scratch: Path) -> None:
    socket = str(scratch / "none.sock")
    with pytest.raises(Away, match=rf"at unix://{socket}: No such file or directory$"), Connections().to(socket):
        pass
    Path(socket).write_text("")
    with pytest.raises(Away, match=r"Connection refused$"), Connections().to(socket):
        pass
