"""From the door to the inbox: a host with nodes that have engines, GPUs and NUMA nodes."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hakuriver.host.leader import Host
from hakuriver.ids import new_job_id
from hakuriver.records import (
    Dispatch,
    Gpu,
    GpuLoad,
    Heartbeat,
    JobSnapshot,
    Load,
    Manifest,
    NodeDescription,
    NodesIndex,
    NumaNode,
    Receipt,
    Start,
    TaskRow,
)
from hakuriver.settings import parse
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk
from hakuriver.spool.layout import TREE, Baton, NodePaths

GIB = 1 << 30
ALL = ["docker", "process", "systemd"]
CAN = ["docker-gpus", "systemd-numa", "systemd-private-network", "systemd-private-pid"]


class River:
    """A share with a host that is ticked by hand, and nodes that are files."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.settings = settings
        self.clock = 0.0
        self.beats: dict[str, int] = {}
        self.read: set[str] = set()
        disk = self.disk = LocalDisk(str(root))
        for path in TREE:
            (root / path).mkdir(parents=True)
        disk.write(Baton(0, "none", 0, 0).path, b"")
        disk.write(layout.SENTINEL, b'{"cluster": "test", "cluster_id": "c", "created_at": 0}')
        self.start()

    def start(self) -> None:
        """Begin, or begin again after a crash."""
        self.host = Host(
            self.disk, parse({"paths": {"shared_dir": str(self.root)}, **self.settings}, "test"), "aabbccddeeff",
            boottime=lambda: self.clock, now=time.time, new_id=new_job_id, own_uid=os.getuid(),
        )  # fmt: skip
        self.tick()

    def tick(self, times: int = 2) -> None:
        """So many rounds, a second apart."""
        for _ in range(times):
            self.clock += 1.0
            self.host.tick()

    def node(self, name: str, *gpus: int, numa: int = 0, executors: list[str] = ALL, **more: Any) -> None:
        """A runner has started."""
        what: dict[str, Any] = {
            "node": name, "epoch": 1, "hostname": name, "boot_id": "b", "version": "0.4.0", "cores": 8,
            "memory_bytes": 16 * GIB, "executors": executors, "started_at": 1.0, "can": CAN,
            "numa": [NumaNode(id=n, cpus=[n]) for n in range(numa)],
            "gpus": [Gpu(index=n, uuid=f"GPU-{n}", name="G") for n in gpus], **more,
        }  # fmt: skip
        (self.root / NodePaths(name).dir("heartbeat")).mkdir(parents=True)
        for part in layout.NODE_TREE:
            (self.root / NodePaths(name).dir(part)).mkdir(exist_ok=True)
        path = self.root / NodePaths(name).description(1)
        path.write_text(NodeDescription(**what).model_dump_json())
        self.beat(name)
        while name not in self.host.state.nodes:
            self.tick()

    def beat(self, name: str, away: dict[str, str] | None = None, used: tuple[int, ...] = ()) -> None:
        """Its heartbeat; `used`: GPUs that processes use."""
        seq = self.beats[name] = self.beats.get(name, 0) + 1
        load = Load(gpus=[GpuLoad(index=n, processes=1) for n in used])
        told = Heartbeat(
            node=name, epoch=1, seq=seq, term=1, inbox=None, lease_s=90, load=load, away=away or {}, at=1.0
        )
        (self.root / NodePaths(name).numbered("heartbeat", 1, seq)).write_text(told.model_dump_json())
        self.tick()

    def package(self, name: str) -> Path:
        """A package's manifest; the tarball is nobody's business here."""
        told = Manifest(environment=name.rpartition("-")[0], name=name, image_id=f"sha256:{name}", size_bytes=1,
                        sha256="0", created_at=1.0)  # fmt: skip
        path = self.root / layout.manifest(name)
        path.write_text(told.model_dump_json())
        return path

    def ask(self, **job: Any) -> Receipt:
        """Drop a job and read its receipt."""
        name = new_job_id()
        (self.root / "incoming" / f"{name}.json").write_text(json.dumps({"command": ["x"], **job}))
        self.tick()
        return Receipt.model_validate_json((self.root / layout.receipt(name)).read_bytes())

    def refused(self, **job: Any) -> tuple[str, str, str]:
        """Field, message and remedy of the first fault."""
        receipt = self.ask(**job)
        assert receipt.outcome == "refused", receipt
        return receipt.errors[0].field, receipt.errors[0].message, receipt.errors[0].remedy or ""

    def sent(self) -> list[tuple[str, Start]]:
        """Starts that were sent since the last call, with their nodes."""
        found = []
        for path in sorted(self.root.glob("nodes/*/inbox/*.json")):
            if str(path) not in self.read:
                self.read.add(str(path))
                document = Dispatch.model_validate_json(path.read_bytes())
                found += [(document.node, start) for start in document.starts]
        return found

    def started(self) -> list[tuple[str, str, tuple[int, ...], str | None]]:
        """Node, executor, GPUs and package of each task sent since the last call."""
        return [(node, start.executor, tuple(row.gpus), start.environment)
                for node, start in self.sent() for row in start.tasks]  # fmt: skip

    def end(self, job: str, k: int | None = None) -> None:
        """A task is over: as if its node had told."""
        (task,) = (t for t in self.host.state.jobs[job].live.values() if k is None or t.k == k)
        node = self.host.state.nodes[task.node or ""]
        end = {"state": "completed", "cause": "exit", "exit_code": 0, "wall_s": 5.0}
        event = {"kind": "ended", "job": job, "k": k, "attempt": task.attempt, "end": end}
        self.host.decide(["events", node.name, 1, node.cursor[1] + 1, [event]])
        self.tick()

    def fail(self, job: str) -> None:
        """Its only task has failed: as if its node had told."""
        (task,) = self.host.state.jobs[job].live.values()
        node = self.host.state.nodes[task.node or ""]
        end = {"state": "failed", "cause": "exit", "exit_code": 1, "wall_s": 5.0}
        event = {"kind": "ended", "job": job, "k": None, "attempt": task.attempt, "end": end}
        self.host.decide(["events", node.name, 1, node.cursor[1] + 1, [event]])
        self.tick()

    def index(self) -> NodesIndex:
        return NodesIndex.model_validate(self.host.nodes_index())


@pytest.fixture
def river(scratch: Path) -> River:
    """One node with two GPUs and two NUMA nodes, one with nothing; one package of the default environment."""
    made = River(scratch / "share")
    made.package("hakuriver-base-7")
    made.node("n1", 0, 1, numa=2)
    made.node("n2", executors=["process"])
    return made


# --- targets


@pytest.mark.parametrize(
    ("job", "field", "message", "remedy"),
    [
        ({"targets": ["n9:1"]}, "targets", "there is no such node", "nodes known: n1, n2"),
        ({"targets": ["n1:2"]}, "targets", "it has no NUMA node 2", "NUMA nodes of n1: 0, 1"),
        ({"targets": ["n2:0"]}, "targets", "it has no", "NUMA nodes of n2: none"),
        ({"targets": ["n1::0,5"]}, "targets", "n1 has no GPU 5", "GPUs of n1: 0, 1"),
        ({"targets": ["n2::0"]}, "targets", "n2 has no GPU 0", "GPUs of n2: none"),
        ({"targets": ["n1"], "gpus": 3}, "targets", "gpus = 3: n1 has 2", "ask for no more"),
        ({"targets": ["n1"], "cores": 9}, "targets", "cores = 9: n1 has 8", "ask for no more"),
        ({"targets": ["n2"], "executor": "docker"}, "targets", "n2 cannot run it: it has no docker", "executors of n2"),
        ({"targets": ["n2"], "private_pid": True}, "targets", "n2 cannot run it", "executors of n2: process"),
        ({"gpus": 3}, "gpus", "no node has so many: the most on one are 2", "ask for no more"),
        ({"cores": 9}, "cores", "no node has so many: the largest has 8", "ask for no more"),
        ({"gpus": 1, "memory": "1T"}, "memory", "no node has so much and 1 cores and 1 GPUs", "ask for no more"),
        ({"container": "torch"}, "container", "there is no package for environment torch", "create-tar torch"),
        ({"container": "torch"}, "container", "there is no package", "hakuriver-base"),
    ],
)
def test_what_can_never_run_is_refused(
    river: River, job: dict[str, Any], field: str, message: str, remedy: str
) -> None:
    found = river.refused(**job)
    assert found[0] == field
    assert message in found[1]
    assert remedy in found[2]
    assert not river.host.state.jobs


def test_bad_targets_are_told_and_the_others_go_on(river: River) -> None:
    receipt = river.ask(targets=["n1:0", "n9", "n1:7", "n1::1", "n9"])
    assert (receipt.outcome, receipt.tasks) == ("accepted", 2)
    assert [error.value for error in receipt.errors] == ["n9", "n1:7"]
    rows = [(row.numa, tuple(row.gpus)) for _, start in river.sent() for row in start.tasks]
    assert rows == [(0, ()), (None, (1,))]
    assert river.host.state.jobs[receipt.ids[0]].spec["targets"] == ["n1:0", "n1::1"]


def test_no_node_that_can_run_it(scratch: Path) -> None:
    river = River(scratch / "share")
    assert river.ask(private_network=True).outcome == "accepted", "while no node is known it waits"
    river.node("n1", executors=["process"])
    assert river.refused(private_network=True)[0] == "private_network"
    assert river.refused(executor="systemd")[:2] == ("executor", "no node can run it (n1: it has no systemd)")


def test_who_named_no_executor_is_told_whose_choice_it_was(scratch: Path) -> None:
    river = River(scratch / "share", scheduling={"executor": "systemd"})
    river.node("n1", executors=["process"])
    field, message, remedy = river.refused()
    assert (field, message) == ("executor", "no node can run it (n1: it has no systemd)")
    assert remedy.startswith("auto means systemd here (scheduling.executor): name another")


def test_what_docker_can_is_not_known_while_it_is_away(scratch: Path) -> None:
    river = River(scratch / "share")
    river.package("hakuriver-base-7")
    river.node("n1", 0, can=[])
    assert "cannot give GPUs" in river.refused(gpus=1)[1]
    river.beat("n1", away={"docker": "no such file"})
    assert river.ask(gpus=1).outcome == "accepted"
    assert river.started() == []


# --- what is sent


def test_a_container_is_sent_with_all_that_was_decided(scratch: Path) -> None:
    docker = {"tasks_privileged": True, "additional_mounts": ["/data:/data:ro"], "network": "host"}
    river = River(scratch / "share", docker=docker)
    river.package("torch-3")
    river.package("torch-12")
    river.node("n1", 0, 1, numa=2)
    job = river.ask(container="torch", targets=["n1:1::0"]).ids[0]
    river.ask(container="torch", privileged=False, mounts=[], private_network=True)
    (_, first), (_, second) = river.sent()
    assert (first.executor, first.environment, first.image) == ("docker", "torch-12", "sha256:torch-12")
    assert (first.privileged, first.mounts, first.network) == (True, ["/data:/data:ro"], "host")
    assert [(row.numa, tuple(row.gpus)) for row in first.tasks] == [(1, (0,))]
    assert (second.privileged, second.mounts, second.network) == (False, [], "none")
    task = river.host.state.jobs[job].live[0]
    assert (task.gpus, task.environment, task.executor) == ([0], "torch-12", "docker")


def test_a_plain_start_is_as_short_as_before(river: River) -> None:
    river.ask(executor="process", retries=1)
    documents = [json.loads(path.read_bytes()) for path in river.root.glob("nodes/*/inbox/*.json")]
    (start,) = [start for document in documents for start in document["starts"]]
    assert start.keys() == {"job", "name", "uid", "spec", "executor", "tasks"}
    assert start["tasks"] == [[None, 1, 0, True]]


def test_what_was_decided_survives_the_host(river: River) -> None:
    job = new_job_id()
    (river.root / "incoming" / f"{job}.json").write_text('{"command": ["x"], "gpus": 2}')
    river.tick(1)
    document = max(river.root.glob("nodes/n1/inbox/*.json"))
    before = document.read_bytes()
    document.unlink()  # as if the host had died between commit and send
    river.package("hakuriver-base-9")
    river.start()
    assert document.read_bytes() == before
    assert river.host.state.nodes["n1"].gpus_held == {0: (job, 0), 1: (job, 0)}
    river.ask(gpus=1)
    assert [gpus for _, _, gpus, _ in river.started()] == [(0, 1)]
    river.end(job)
    assert river.started() == [("n1", "docker", (0,), "hakuriver-base-9")]


# --- what waits


def test_an_engine_that_is_away_is_not_chosen(river: River) -> None:
    river.beat("n1", away={"docker": "connection refused"})
    river.ask(targets=["n1"], container="NULL")
    assert river.started() == [("n1", "systemd", (), None)]
    waiting = river.ask(gpus=1).ids[0]
    assert river.started() == []
    river.beat("n1")
    assert river.started() == [("n1", "docker", (0,), "hakuriver-base-7")]
    assert river.host.state.jobs[waiting].state_of(0) == "assigning"


def test_an_environment_that_vanishes_is_waited_for(river: River) -> None:
    first = river.ask(gpus=2).ids[0]
    river.started()
    path = river.package("torch-1")
    river.tick(1)
    assert river.ask(gpus=1, container="torch").outcome == "accepted"
    path.unlink()
    for _ in range(10):
        river.beat("n1")
    river.end(first)
    assert river.started() == []
    assert "torch" not in river.index().rules.packages
    river.package("torch-2")
    river.tick(4)
    assert river.started() == [("n1", "docker", (0,), "torch-2")]


def test_a_default_environment_that_is_being_made_is_waited_for(scratch: Path) -> None:
    river = River(scratch / "share", docker={"initial_base_image": "alpine"})
    river.node("n1", 0)
    assert river.ask(gpus=1).outcome == "accepted"
    assert river.refused(container="torch")[0] == "container"


def test_a_gpu_that_others_use_is_avoided_unless_it_is_named(river: River) -> None:
    river.beat("n1", used=(0,))
    assert river.host.foreign.of(river.host.state.nodes["n1"]) == {0}
    river.ask(gpus=1)
    assert river.started() == [("n1", "docker", (1,), "hakuriver-base-7")]
    river.ask(gpus=1)
    assert river.started() == []
    river.ask(targets=["n1::0"])
    assert river.started() == [("n1", "docker", (0,), "hakuriver-base-7")]


def test_a_gpu_that_two_nodes_tell_of_is_held_once(river: River) -> None:
    river.node("twin", 0, 1)
    jobs = [river.ask(gpus=2).ids[0] for _ in range(2)]
    assert river.started() == [("n1", "docker", (0, 1), "hakuriver-base-7")]
    river.beat("twin", used=(0, 1))
    twin = next(row for row in river.index().nodes if row.node == "twin")
    assert [(gpu.task, gpu.foreign) for gpu in twin.gpus] == [(jobs[0], False)] * 2
    river.ask(targets=["twin::1"])
    assert river.started() == []
    river.end(jobs[0])
    assert [gpus for _, _, gpus, _ in river.started()] == [(0, 1)]


def test_what_is_left_of_a_task_is_not_foreign_for_a_while(river: River) -> None:
    job = river.ask(gpus=1).ids[0]
    river.beat("n1", used=(0,))
    assert river.host.foreign.of(river.host.state.nodes["n1"]) == set()
    river.end(job)
    river.beat("n1", used=(0,))
    assert river.host.foreign.of(river.host.state.nodes["n1"]) == set()
    river.tick(20)
    river.beat("n1", used=(0,))
    assert river.host.foreign.of(river.host.state.nodes["n1"]) == {0}
    river.beat("n1")
    assert river.host.foreign.of(river.host.state.nodes["n1"]) == set()


# --- policy


def test_what_policy_forbids_is_refused_at_the_door(scratch: Path) -> None:
    policy = {"allow_null": False, "privileged_users": [], "allowed_mounts": ["/data"], "tasks_per_user": 3,
              "cores_per_user": 4}  # fmt: skip
    river = River(scratch / "share", policy=policy)
    river.package("hakuriver-base-7")
    river.node("n1", executors=["docker", "process"])
    for job, rule in (
        ({"container": "NULL"}, "policy.allow_null"),
        ({"privileged": True}, "policy.privileged_users"),
        ({"mounts": ["/database:/d"]}, "policy.allowed_mounts"),
        ({"array": "0-3"}, "policy.tasks_per_user"),
        ({"cores": 5}, "policy.cores_per_user"),
    ):
        assert river.refused(**job)[1].startswith(rule)
    first = river.ask(mounts=["/data/x:/d"], cores=3).ids[0]
    assert river.started() == [("n1", "docker", (), "hakuriver-base-7")]
    river.ask(array="0-1", cores=2)
    assert river.refused()[1].startswith("policy.tasks_per_user")
    assert river.started() == [], "the user's tasks hold as much as they may"
    rules = river.index().rules
    assert rules.limit is not None
    assert (rules.limit.cores, rules.users[str(os.getuid())].cores, rules.contained) == (4, 3, True)
    river.end(first)
    assert len(river.started()) == 2
    assert river.ask().outcome == "accepted"


def test_a_job_without_a_target_where_one_is_required(scratch: Path) -> None:
    river = River(scratch / "share", policy={"require_target": True})
    river.node("n1", executors=["process"])
    field, message, remedy = river.refused()
    assert (field, message.partition(":")[0]) == ("targets", "policy.require_target")
    assert "--target NODE" in remedy
    assert river.refused(targets=["n9"])[1] == "there is no such node"
    assert river.ask(targets=["n1"]).outcome == "accepted"
    assert len(river.started()) == 1


def test_tasks_of_a_batch_count_together(scratch: Path) -> None:
    river = River(scratch / "share", policy={"tasks_per_user": 3})
    lines = "".join(f'{{"command": ["x"], "array": "0-{n}"}}\n' for n in (0, 1)) + '{"command": ["x"]}\n{"end": 3}\n'
    (river.root / "incoming" / "batch.jsonl").write_text(lines)
    river.tick()
    (path,) = (river.root / "receipts").glob("batch.jsonl.json")
    receipt = Receipt.model_validate_json(path.read_bytes())
    assert receipt.outcome == "refused"
    assert receipt.errors[0].field == "line 3: command"
    assert river.host.state.open_tasks[os.getuid()] == 0


# --- what is not to wait


def rows(river: River, receipt: Receipt) -> list[TaskRow]:
    """The job's tasks, as told once it is over."""
    (path,) = river.root.glob(f"jobs/done/*/*/{receipt.ids[0]}.*")
    return JobSnapshot.model_validate_json(path.read_bytes()).tasks


@pytest.fixture
def small(scratch: Path) -> River:
    """Two nodes of two cores."""
    made = River(scratch / "share")
    for name in ("n1", "n2"):
        made.node(name, executors=["process"], cores=2)
    return made


def test_what_is_not_to_wait_and_finds_no_room_fails_at_once_and_says_why(small: River) -> None:
    small.ask(targets=["n1"], array="0-1")
    receipt = small.ask(cores=2, targets=["n1", "n2"], no_queue=True, retries=3)
    assert [node for node, *_ in small.started()] == ["n1", "n1", "n2"], "its other task has room"
    job = small.host.state.jobs[receipt.ids[0]]
    assert (job.state_of(0), job.state_of(1), len(small.host.state.queue)) == ("failed", "assigning", 0)
    small.end(job.id, 1)
    failed = rows(small, receipt)[0]
    assert (failed.state, failed.cause, failed.attempt, failed.retries_spent) == ("failed", "no_queue", 0, 0)
    assert failed.reason == (
        "the job asked not to wait (no_queue), and no node has room for it now (n1: 0 of 2 cores free, 2 are asked for)"
    )
    assert small.ask().outcome == "accepted"
    assert [node for node, *_ in small.started()] == ["n2"], "others wait, or start, as ever"


def test_of_a_thousand_tasks_those_without_room_fail_in_the_same_entry(small: River) -> None:
    entries = len(small.host.journal.entries)
    receipt = small.ask(array="0-999", no_queue=True)
    journal = sorted((small.root / "host/journal").iterdir())[entries:]
    (entry,) = (text for path in journal if '"jobs"' in (text := path.read_text()))
    kinds = Counter(change[0] for change in json.loads(entry)["changes"])
    assert (kinds["jobs"], kinds["send"], kinds["end"]) == (1, 2, 996)
    assert len(small.started()) == 4
    for k in range(4):
        small.end(receipt.ids[0], k)
    told = Counter(row.cause for row in rows(small, receipt))
    assert told == {"exit": 4, "no_queue": 996}


def test_it_concerns_each_time_that_a_task_becomes_ready(small: River) -> None:
    receipt = small.ask(cores=2, targets=["n1"], no_queue=True, retries=1)
    small.ask(cores=2, targets=["n1"], priority=1)
    job = small.host.state.jobs[receipt.ids[0]]
    small.fail(job.id)
    (row,) = rows(small, receipt)
    assert (row.state, row.cause, row.attempt, row.retries_spent) == ("failed", "no_queue", 1, 1)
    assert [(earlier.attempt, earlier.cause) for earlier in row.earlier] == [(1, "exit")]


def test_the_reason_tells_what_holds_it_back(scratch: Path) -> None:
    river = River(scratch / "share", policy={"cores_per_user": 3})
    none = rows(river, river.ask(no_queue=True))[0].reason
    assert none.endswith("no host has told of any node yet: see whether `hakuriver runner` runs on one")
    river.node("n1", executors=["process"])
    river.ask(cores=2)
    bound = rows(river, river.ask(cores=2, no_queue=True))[0].reason
    assert "policy.cores_per_user: tasks of" in bound


def test_of_many_nodes_some_are_told(scratch: Path) -> None:
    river = River(scratch / "share")
    for number in range(7):
        river.node(f"n{number}", executors=["process"], cores=2)
    river.ask(cores=2, array="0-6")
    many = rows(river, river.ask(cores=2, no_queue=True))[0].reason
    assert [f"n{number}:" in many for number in range(7)] == [True] * 5 + [False] * 2
    assert many.endswith("; 2 nodes more)")


def test_a_room_that_is_kept_is_not_had_by_what_is_not_to_wait(scratch: Path) -> None:
    river = River(scratch / "share", limits={"reserve_after": 5.0})
    river.node("n1", executors=["process"], cores=2)
    river.ask()
    river.ask(cores=2)
    river.tick(8)
    (row,) = rows(river, river.ask(no_queue=True))
    assert "a node has room, but keeps it" in row.reason


def test_a_host_that_has_not_heard_a_node_yet_does_not_say_that_it_has_no_room(small: River) -> None:
    beats = sorted(small.root.glob("nodes/n*/heartbeat/*"))
    hidden = [path.rename(path.with_name(f".{path.name}")) for path in beats]
    small.start()
    receipt = small.ask(no_queue=True)
    assert small.host.state.jobs[receipt.ids[0]].state_of(0) == "pending"
    for path in hidden:
        path.rename(path.with_name(path.name[1:]))
    small.tick(6)
    assert len(small.started()) == 1


def test_a_host_that_never_hears_a_node_says_at_last_that_there_is_none(small: River) -> None:
    for path in small.root.glob("nodes/n*/heartbeat/*"):
        path.unlink()
    small.start()
    receipt = small.ask(no_queue=True)
    assert small.host.state.jobs[receipt.ids[0]].state_of(0) == "pending"
    small.tick(40)
    assert "offline" in rows(small, receipt)[0].reason


def test_what_could_not_be_placed_stays_so_after_a_crash(small: River) -> None:
    small.ask(targets=["n1", "n2"], cores=2)
    receipt = small.ask(no_queue=True)
    told = rows(small, receipt)
    small.start()
    assert len(small.host.state.queue) == 0
    assert rows(small, receipt) == told


# --- what is requeued


def requeue(river: River, *targets: str) -> tuple[Counter[str], list[str]]:
    """Drop a request and tick; the kinds of the changes in the entry that answers it, and the answers."""
    name = new_job_id()
    request = {"request": "requeue", "targets": targets}
    (river.root / "incoming" / f"{name}.json").write_text(json.dumps(request))
    river.tick()
    (entry,) = (text for path in (river.root / "host/journal").iterdir() if f'"{name}"' in (text := path.read_text()))
    receipt = Receipt.model_validate_json((river.root / layout.receipt(name)).read_bytes())
    return Counter(change[0] for change in json.loads(entry)["changes"]), [row.outcome for row in receipt.answers]


def test_tasks_of_a_job_are_requeued_by_one_change_however_they_are_named(small: River) -> None:
    """Each change goes through all that is over of the job, which may be a hundred thousand tasks."""
    small.ask(array="0-3")
    (job,) = small.ask(array="0-9", no_queue=True).ids or [""]
    assert job not in small.host.state.jobs
    kinds, told = requeue(small, f"{job}-3", f"{job}-5", job, f"{job}-7", f"{job}-11")
    assert (kinds["revive"], kinds["requeue"], kinds["end"]) == (1, 1, 10)
    assert told == [*["requeued"] * 10, "it is not over", "there is no such task"]
    assert job not in small.host.state.jobs, "over again"


def test_a_job_of_which_nothing_is_requeued_is_not_taken_into_memory(small: River) -> None:
    (job,) = small.ask(array="0-1").ids or [""]
    small.end(job, 0)
    small.end(job, 1)
    kinds, told = requeue(small, job, f"{job}-2")
    assert told == ["nothing to requeue: no task of it has ended", "there is no such task"]
    assert kinds == {"receipt": 1}
    assert not small.host.state.jobs


# --- strategies


@pytest.mark.parametrize(
    ("strategy", "nodes"),
    [("first-fit", "aaaa"), ("best-fit", "aaaa"), ("least-loaded", "abca"), ("round-robin", "abca")],
)
def test_the_strategy_of_the_settings(scratch: Path, strategy: str, nodes: str) -> None:
    river = River(scratch / "share", scheduling={"strategy": strategy})
    for name in "abc":
        river.node(name, executors=["process"])
    found = ""
    for _ in nodes:
        river.ask()
        found += "".join(node for node, *_ in river.started())
    assert found == nodes
