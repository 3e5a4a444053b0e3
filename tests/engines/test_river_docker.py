"""Tasks in containers, from submit to their files, on two nodes with an engine each."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SCRATCH, eventually
from daemons import send
from lab import nvml
from lab.dockerd import Dockerd

from engines.river import LONG_S, MIB, DockerRiver, attendants, clear, image_ids, loads
from hakuriver import reading
from hakuriver.spool import layout


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Dockerd]]:
    """Two nodes' and, under `maker`, the host's."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    yard = Path(tempfile.mkdtemp(dir=SCRATCH))
    with Dockerd(yard / "one") as one, Dockerd(yard / "two") as two, Dockerd(yard / "maker") as maker:
        yield {"n1": one, "n2": two, "maker": maker}
    shutil.rmtree(yard)


@pytest.fixture
def river(scratch: Path, engines: dict[str, Dockerd], monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerRiver]:
    """Nothing is started yet."""
    locks = scratch / "locks"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))
    nodes = {node: engines[node] for node in ("n1", "n2")}
    with DockerRiver(scratch, nodes, engines["maker"]) as made:
        yield made
    clear(engines["maker"])


def runs(river: DockerRiver, name: str = "ran") -> Counter[str]:
    """How often each task has begun, as they note it themselves."""
    return Counter(river.data(name))


RAN = "echo $HAKURIVER_TASK_ID >>/shared/ran"


# -- images


def test_fifty_tasks_wait_for_one_environment(river: DockerRiver) -> None:
    river.package(filler=96 * MIB)
    river.start_all(cores=25)
    one, two = river.engines.values()

    def play() -> None:
        job = river.contained("cat /etc/mark; echo $HAKURIVER_TASK_INDEX", array="0-49")
        eventually(river.loading, LONG_S)
        one.hang(True)
        try:
            river.until(job, lambda _: river.phases(job) == {"syncing base-1700000000"}, LONG_S)
            assert "syncing base-1700000000" in river.command("task", "status", job)
            before = river.heartbeats("n1")
            beside = river.submit("echo beside", targets=["n1"], executor="process", cores=0)
            assert river.ended(beside, LONG_S).state == "completed"
            eventually(lambda: river.heartbeats("n1") > before + 3, LONG_S)
        finally:
            one.hang(False)
        found = river.completed(job, 240)
        assert {task.node for task in found.tasks} == {"n1", "n2"}
        assert not any(task.phase for task in found.tasks)
        for k in range(50):
            assert river.out(job, k) == f"one\n{k}\n"

    found: list[int] = []
    found.append(loads(one, lambda: found.append(loads(two, play))))
    assert found == [1, 1]
    assert river.loading() == []


def test_two_nodes_of_one_engine_load_once(river: DockerRiver) -> None:
    river.package(filler=64 * MIB)
    river.engines = {"n1": river.engines["n1"], "n2": river.engines["n1"]}
    river.start_all()

    def play() -> None:
        jobs = [river.contained("true", targets=[node]) for node in ("n1", "n2")]
        for job in jobs:
            river.completed(job)

    assert loads(river.engines["n1"], play) == 1


def test_an_updated_environment(river: DockerRiver) -> None:
    """What runs keeps its image; what comes later gets the new one, and the old one goes when nothing needs it."""
    river.package(mark="one")
    river.start_all()
    engine = river.engines["n1"]
    river.completed(river.contained("true", targets=["n1"]))
    first = image_ids(engine)
    old = river.contained("while [ ! -e /shared/go ]; do sleep 0.1; done; cat /etc/mark", targets=["n1"])
    river.in_state(old, "running", LONG_S)
    river.package(mark="two", at=1_700_000_100)
    new = river.contained("cat /etc/mark", targets=["n1"])
    river.completed(new)
    assert river.out(new) == "two\n"
    assert first < image_ids(engine)
    (river.share / layout.SHARED_DATA / "go").touch()
    river.completed(old)
    assert river.out(old) == "one\n"
    eventually(lambda: engine.containers() == [], LONG_S)
    river.completed(river.contained("true", targets=["n1"]))
    eventually(lambda: not first & image_ids(engine), LONG_S)
    assert len(image_ids(engine)) == 1


def test_images_of_others_are_left_alone(river: DockerRiver) -> None:
    engine = river.engines["n1"]
    mine = engine.add_image("shell", "mine:latest")
    river.package(mark="one")
    river.start_all()
    river.completed(river.contained("true", targets=["n1"]))
    engine.cli("tag", "hakuriver/base:base", "kept:latest")
    river.package(mark="two", at=1_700_000_100)
    river.completed(river.contained("true", targets=["n1"]))
    assert engine.images() == ["hakuriver/base:base", "kept:latest", "mine:latest"]
    assert mine in image_ids(engine)


@pytest.mark.parametrize("damage", ["bytes", "half", "no tarball"])
def test_a_damaged_package(river: DockerRiver, damage: str) -> None:
    package = river.package(filler=5 * MIB)
    tarball = river.share / layout.tarball(package)
    if damage == "bytes":
        with tarball.open("r+b") as file:
            file.seek(3 * MIB)
            file.write(b"damaged")
    elif damage == "half":
        os.truncate(tarball, tarball.stat().st_size // 2)
    else:
        tarball.unlink()
    river.start_all()
    job = river.contained("true", targets=["n1"])
    assert river.ended(job, LONG_S).state == "failed"
    [task] = river.job(job).tasks
    said = {"bytes": "its sha256 is", "half": "bytes instead of", "no tarball": "its tarball is not there"}[damage]
    assert task.cause == "launch"
    assert said in task.reason
    assert "make it anew with `hakuriver docker create-tar base`" in task.reason
    assert image_ids(river.engines["n1"]) == set()
    river.package(at=1_700_000_100)
    river.completed(river.contained("true", targets=["n1"]))


def test_a_tarball_of_another_image(river: DockerRiver) -> None:
    image = river.image("base", "one")
    river.image("other", "two")
    data = b"".join(river.maker.client.get_image("hakuriver/other:base"))
    river.publish("base-1700000000", data, image)
    river.start_all()
    job = river.contained("true", targets=["n1"])
    assert river.ended(job, LONG_S).state == "failed"
    assert f"instead of {image}" in river.job(job).tasks[0].reason
    assert image_ids(river.engines["n1"]) == set()


def test_no_room_for_an_image(scratch: Path, engines: dict[str, Dockerd]) -> None:
    with (
        Dockerd(scratch / "small", size="120m") as small,
        DockerRiver(scratch, {"n1": small}, engines["maker"]) as river,
    ):
        river.package(filler=30 * MIB)
        river.start_all()
        small.fill()
        job = river.contained("true")
        assert river.ended(job, LONG_S).state == "failed"
        reason = river.job(job).tasks[0].reason
        assert f"no space left for images in {small.data}" in reason
        small.unfill()
        river.package(at=1_700_000_100)
        river.completed(river.contained("true"))
    clear(engines["maker"])


# -- engines that go and come


def test_an_engine_that_is_away_at_first(river: DockerRiver) -> None:
    river.package()
    engine = river.engines["n1"]
    river.start_host()
    engine.stop()
    try:
        river.node_daemon("n1").start()
        river.online("n1")
        job = river.contained("cat /etc/mark")
        river.until(job, lambda found: found.state == "pending")
        eventually(lambda: "docker" in river.problems("n1").lower(), LONG_S)
    finally:
        engine.start()
    river.completed(job)
    assert river.out(job) == "one\n"


def test_an_engine_that_goes_while_an_image_is_loaded(river: DockerRiver) -> None:
    river.package(filler=96 * MIB)
    river.start_all()
    engine = river.engines["n1"]
    job = river.contained(RAN, targets=["n1"])
    eventually(river.loading, LONG_S)
    engine.kill()
    try:
        eventually(lambda: "Cannot connect to Docker daemon" in river.problems("n1"), LONG_S)
    finally:
        engine.start()
    river.completed(job)
    assert runs(river) == {job: 1}


# -- runner and keeper that are killed


def test_the_runner_is_killed_while_an_image_is_loaded(river: DockerRiver) -> None:
    river.package(filler=96 * MIB)
    runner = river.start_all()["n1"]
    job = river.contained(f"{RAN}; exit 7", targets=["n1"])
    eventually(river.loading, LONG_S)
    river.engines["n1"].hang(True)
    runner.kill()
    river.engines["n1"].hang(False)
    runner.start()
    found = river.ended(job, LONG_S)
    assert (found.state, found.exit_code) == ("failed", 7)
    assert runs(river) == {job: 1}
    eventually(lambda: not river.loading(), LONG_S)


def test_what_was_killed_while_its_image_was_loaded_never_runs(river: DockerRiver) -> None:
    river.package(filler=96 * MIB)
    runner = river.start_all()["n1"]
    engine = river.engines["n1"]
    job = river.contained(RAN, targets=["n1"], array="0-1")
    eventually(river.loading, LONG_S)
    engine.hang(True)
    try:
        river.until(job, lambda _: river.phases(job))
        pause = river.ask("pause", f"{job}-0")
        assert pause.outcome == "done"
        assert "its image is being loaded" in str(pause)
        river.ask("kill", f"{job}-0")
        river.until(job, lambda _: river.task(f"{job}-0").state == "killed")
        runner.kill()
    finally:
        engine.hang(False)
    runner.start()
    river.ended(job, LONG_S)
    assert [task.state for task in river.job(job).tasks] == ["killed", "completed"]
    assert runs(river) == {f"{job}-1": 1}


@pytest.mark.parametrize("victim", ["runner", "keeper", "attendant"])
def test_one_is_killed_again_and_again(river: DockerRiver, victim: str) -> None:
    """In every phase of some of many short tasks."""
    river.package()
    runner = river.start_all()["n1"]
    machine = river.machines["machine-n1"]
    job = river.contained(f"{RAN}; exit $((HAKURIVER_TASK_INDEX % 3))", targets=["n1"], array="0-29")
    for number in range(6):
        river.until(job, _ended(4 * number), LONG_S)
        if victim == "runner":
            runner.kill()
            runner.start()
        else:
            pids = machine.keepers() if victim == "keeper" else attendants(machine)
            for pid in pids:
                send(pid, signal.SIGKILL)
    river.ended(job, 240)
    tasks = river.job(job).tasks
    assert {task.k: task.exit_code for task in tasks} == {k: k % 3 for k in range(30)}
    assert runs(river) == {f"{job}-{k}": 1 for k in range(30)}


@pytest.mark.parametrize("victim", ["runner", "keeper"])
def test_one_is_killed_while_the_engine_hangs(river: DockerRiver, victim: str) -> None:
    """Between the order to make a container and its start, wherever the engine was stopped."""
    river.package()
    runner = river.start_all()["n1"]
    machine, engine = river.machines["machine-n1"], river.engines["n1"]
    river.completed(river.contained("true", targets=["n1"]))
    for number in range(3):
        job = river.contained(f"{RAN}{number}; exit 7", targets=["n1"], array="0-3")
        eventually(lambda: engine.containers(), LONG_S)
        engine.hang(True)
        try:
            if victim == "runner":
                runner.kill()
                runner.start()
            else:
                before = machine.keepers()
                for pid in before:
                    send(pid, signal.SIGKILL)
                eventually(lambda before=before: set(machine.keepers()) - set(before), LONG_S)  # type: ignore[misc]
        finally:
            engine.hang(False)
        river.ended(job, LONG_S)
        assert {task.exit_code for task in river.job(job).tasks} == {7}
        assert runs(river, f"ran{number}") == {f"{job}-{k}": 1 for k in range(4)}
        eventually(lambda: engine.containers() == [], LONG_S)


def _ended(count: int) -> Callable[[reading.Job], bool]:
    """Whether so many tasks of a job are over."""
    return lambda found: sum(task.ended_at is not None for task in found.tasks) >= count


def test_the_runner_is_away_while_a_task_ends(river: DockerRiver) -> None:
    river.package()
    runner = river.start_all()["n1"]
    job = river.contained(f"{RAN}; until [ -e /shared/go ]; do sleep 0.1; done; seq 3; exit 7", targets=["n1"])
    river.in_state(job, "running", LONG_S)
    runner.kill()
    (river.share / layout.SHARED_DATA / "go").touch()
    name = f"hakuriver-task-{job}"
    eventually(lambda: _over(river.engines["n1"], name), LONG_S)
    runner.start()
    found = river.ended(job, LONG_S)
    assert (found.state, found.exit_code) == ("failed", 7)
    assert river.out(job) == "1\n2\n3\n"
    assert runs(river) == {job: 1}
    eventually(lambda: river.engines["n1"].containers() == [], LONG_S)


def _over(engine: Dockerd, name: str) -> bool:
    """Whether a container has ended, or is gone altogether."""
    rows = engine.client.containers(filters={"name": name})
    return not rows


@pytest.mark.parametrize("until", ["while it runs", "its end"])
def test_the_keeper_is_killed(river: DockerRiver, until: str) -> None:
    """The container goes on, and its ending is told."""
    river.package()
    river.start_all()
    job = river.contained(f"{RAN}; until [ -e /shared/go ]; do sleep 0.1; done; seq 3; exit 7", targets=["n1"])
    river.in_state(job, "running", LONG_S)
    machine = river.machines["machine-n1"]
    [keeper] = machine.keepers()
    if until == "its end":
        (river.share / layout.SHARED_DATA / "go").touch()
    send(keeper, signal.SIGKILL)
    eventually(lambda: machine.keepers() not in ([], [keeper]), LONG_S)
    (river.share / layout.SHARED_DATA / "go").touch()
    found = river.ended(job, LONG_S)
    assert (found.state, found.exit_code) == ("failed", 7)
    assert river.out(job) == "1\n2\n3\n"
    assert runs(river) == {job: 1}


def test_the_engine_is_restarted_while_a_task_runs(river: DockerRiver) -> None:
    """Without live-restore it ends its containers: that is told, and the task tried again if it may be."""
    river.package()
    river.start_all()
    engine = river.engines["n1"]
    job = river.contained(f"{RAN}; [ $HAKURIVER_ATTEMPT = 2 ] || sleep 600", targets=["n1"], retries=1)
    eventually(lambda: runs(river) == {job: 1}, LONG_S)  # it is told to be running before it has noted anything
    engine.stop()
    engine.start()
    river.completed(job)
    assert runs(river) == {job: 2}


# -- what tasks are given


def test_a_task_in_an_environment_made_by_command(river: DockerRiver) -> None:
    """From an image on the host to a task on a node."""
    river.start_all()
    river.maker.add_image("shell", "start:1")
    river.command("docker", "create-container", "start:1", "made")
    river.maker.cli("exec", "hakuriver-env-made", "sh", "-c", "echo by hand >/etc/mark")
    river.command("docker", "create-tar", "made")
    job = river.contained("cat /etc/mark", "made", targets=["n2"])
    river.completed(job)
    assert river.out(job) == "by hand\n"


def test_gpus_are_given_by_their_uuids(river: DockerRiver, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = scratch / "gpus"
    nvml.describe(description, *(nvml.gpu(n) for n in range(4)))
    river.package()
    river.start_host(docker={"host": f"unix://{river.maker.socket}"})
    for name, value in nvml.environment(nvml.build(scratch), description).items():
        monkeypatch.setenv(name, value)
    # The toolkit's hook, which the engine was started with, has to be on the runner's PATH as well.
    monkeypatch.setenv("PATH", f"{river.engines['n1'].directory}/bin:{os.environ['PATH']}")
    river.start_node("n1")
    eventually(lambda: len(river.node("n1")["gpus"]) == 4, LONG_S)
    show = "echo $NVIDIA_VISIBLE_DEVICES $HAKURIVER_GPUS"
    named, some = river.contained(show, targets=["n1::3,1"]), river.contained(show, gpus=2)
    river.completed(named)
    river.completed(some)
    assert river.out(named) in (f"{nvml.uuid(1)},{nvml.uuid(3)} 1,3\n", f"{nvml.uuid(3)},{nvml.uuid(1)} 3,1\n")
    uuids, indices = river.out(some).split()
    assert uuids == ",".join(nvml.uuid(int(index)) for index in indices.split(","))
    assert len(indices.split(",")) == 2


def test_limits_are_read_back_inside(river: DockerRiver) -> None:
    river.package()
    river.start_all()
    groups = "/sys/fs/cgroup"
    script = (
        f"cat {groups}/memory/memory.limit_in_bytes {groups}/memory/memory.memsw.limit_in_bytes "
        f"{groups}/cpu/cpu.cfs_quota_us {groups}/cpu/cpu.cfs_period_us 2>/dev/null || "
        f"cat {groups}/memory.max {groups}/memory.swap.max {groups}/cpu.max; pwd; env | sort"
    )
    job = river.contained(script, targets=["n1"], cores=2, memory="67108864", env={"MINE": "a b"})
    river.completed(job)
    told = river.out(job).splitlines()
    assert told[:4] in (["67108864", "67108864", "200000", "100000"], ["67108864", "0", "200000 100000", "/shared"])
    assert {"/shared", "MINE=a b", "HAKURIVER_CORES=2", "HAKURIVER_MEMORY_BYTES=67108864"} <= set(told)
    assert {"HAKURIVER_SHARED_DIR=/shared", "HAKURIVER_LOCAL_TEMP_DIR=/local_temp"} <= set(told)
    assert not [line for line in told if line.startswith("CANARY")]


def test_a_task_that_takes_too_much_memory(river: DockerRiver) -> None:
    river.package()
    river.start_all()
    script = "a=x; while :; do a=$a$a; done"
    job = river.contained(script, targets=["n1"], memory="33554432")
    found = river.ended(job, LONG_S)
    assert found.state == "killed_oom"
    assert "memory" in found.tasks[0].reason
    used = found.tasks[0].peak_memory_bytes
    assert used is not None
    assert used >= 16 * MIB


def test_kill_pause_and_resume(river: DockerRiver) -> None:
    river.package()
    river.start_all()
    ticks = "trap 'echo bye; exit 3' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    job = river.contained(ticks, targets=["n1"])
    river.in_state(job, "running", LONG_S)
    eventually(lambda: river.out(job), LONG_S)  # live
    assert river.ask("pause", job).answers[0].outcome == "paused"
    river.in_state(job, "paused")
    # What was written before it was frozen has come when two looks agree.
    _settled(lambda: river.out(job))
    at = river.out(job)
    assert river.ask("resume", job).answers[0].outcome == "resumed"
    eventually(lambda: len(river.out(job)) > len(at), LONG_S)
    assert river.ask("kill", job, grace=LONG_S).answers[0].outcome == "killed"
    assert river.ended(job, LONG_S).state == "killed"
    assert river.out(job).endswith("bye\n")
    eventually(lambda: river.engines["n1"].containers() == [], LONG_S)


def _settled(look: Callable[[], object]) -> None:
    """Wait until what is seen has not changed for a second."""
    last: list[object] = [object()]
    since = [time.monotonic()]

    def still() -> bool:
        now = look()
        if now != last[0]:
            last[0], since[0] = now, time.monotonic()
        return time.monotonic() - since[0] > 1.0

    eventually(still, LONG_S)


def test_a_paused_task_can_be_killed(river: DockerRiver) -> None:
    river.package()
    river.start_all()
    job = river.contained("sleep 600", targets=["n1"])
    river.in_state(job, "running", LONG_S)
    river.ask("pause", job)
    river.in_state(job, "paused")
    river.ask("kill", job)
    assert river.ended(job).state == "killed"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [(["no-such-program"], 127, "no-such-program"), (["/etc/mark"], 126, "/etc/mark")],
)
def test_what_cannot_be_started_says_why(river: DockerRiver, command: list[str], code: int, said: str) -> None:
    river.package()
    river.start_all()
    job = river.submit(command, container="base", targets=["n1"])
    found = river.ended(job, LONG_S)
    assert (found.state, found.tasks[0].exit_code) == ("failed", code)
    assert said in found.tasks[0].reason


def test_an_endless_output_is_live_and_whole(river: DockerRiver) -> None:
    river.package()
    river.start_all()
    job = river.contained("seq 200000; echo out of band >&2; seq 200001 300000", targets=["n1"])
    river.completed(job)
    assert river.out(job).splitlines() == [str(n) for n in range(1, 300001)]
    assert river.out(job, stream="err") == "out of band\n"
