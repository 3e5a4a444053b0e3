"""Reading jobs wherever they are, resolving what people type, lists, and why a task waits."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from riverfiles import GIB, RiverFiles, job_row, node_row, refusal, row

from hakuriver import Ambiguous, Invalid, NotFound, explaining, listing, reading, status
from hakuriver.client import open_share
from hakuriver.host.jobs import Task as HostTask
from hakuriver.host.jobs import exit_code_of as host_exit_code_of
from hakuriver.ids import new_job_id
from hakuriver.listing import Wanted
from hakuriver.offers import River
from hakuriver.records import GpuRow, JobRow, JobSpec, NumaNode, TaskRow
from hakuriver.resolving import Target, resolve_one, unfinished
from hakuriver.spool.access import Share

A = "16999999990001111234"
B = "17000000000002221234"
C = "17000000000003335678"


@pytest.fixture
def share(river: RiverFiles) -> Share:
    return open_share()


# -- one job


def test_columns_are_those_of_the_records() -> None:
    names = ("k", "state", "attempt", "node", "retries_spent", "started_at", "ended_at", "exit_code", "signal", "cause",
             "reason", "wall_s", "cpu_s", "peak_memory_bytes")  # fmt: skip
    assert names == TaskRow._fields[: reading.PEAK + 1]
    assert (*names, "executor", "gpus", "environment", "phase", "target", "earlier") == reading.Task._fields[1:]
    assert (TaskRow._fields[reading.EARLIER], TaskRow._fields[reading.EXECUTOR]) == ("earlier", "executor")
    assert TaskRow._fields[reading.GPUS :] == ("gpus", "environment", "phase")
    assert len(TaskRow._fields) == reading.PHASE + 1


def test_columns_at_the_end_of_a_row_that_say_nothing_are_left_out(river: RiverFiles) -> None:
    path = river.snapshot(A, row(0), row(1, gpus=(1, 3), environment="base-7", phase="syncing base-7"), count=2,
                          spec=JobSpec(command=["x"], targets=["n1", "n1::1,3"]))  # fmt: skip
    found = json.loads(path.read_bytes())
    del found["tasks"][0][reading.GPUS :]
    path.write_text(json.dumps(found))
    short, long = status(A).tasks
    assert (short.gpus, short.environment, short.phase, short.target) == ([], None, "", "n1")
    assert (long.gpus, long.environment, long.phase, long.target) == ([1, 3], "base-7", "syncing base-7", "n1::1,3")
    assert explaining.task(status(A), long._replace(state="assigning")) == "syncing base-7 on n1, then it starts"
    (told,) = listing.rows(open_share(), Wanted(), None)
    assert (told["gpus"], told["environments"], told["phase"]) == (2, ["base-7"], "syncing base-7")


def test_a_snapshot_typed(river: RiverFiles) -> None:
    earlier = [[1, "n2", "failed", "exit", 3, None, 1.0, 2.0]]
    river.snapshot(A, row(state="running", attempt=2, earlier=earlier))
    job = status(A)
    assert (job.state, job.owner, job.total, job.over) == ("running", "ann", 1, False)
    (task,) = job.tasks
    assert (task.task, task.node, task.attempt, task.executor) == (A, "n1", 2, "process")
    assert (task.earlier[0].exit_code, task.earlier[0].node) == (3, "n2")


def test_of_several_snapshots_the_highest_position_holds_over_both_trees(river: RiverFiles) -> None:
    river.snapshot(A, row(state="failed", exit_code=3))
    river.snapshot(A, row(state="running"))
    assert status(A).state == "running"
    river.snapshot(A, row())
    assert status(A).state == "completed"


def test_a_snapshot_that_is_replaced_under_our_hands(river: RiverFiles, share: Share) -> None:
    old = river.snapshot(A, row(state="running"))
    place = reading.find(share, {A})[A]
    river.snapshot(A, row())
    old.unlink()
    found = reading.read_snapshot(share, A, place)
    assert found is not None
    assert found["state"] == "completed"


def test_a_job_at_the_door(river: RiverFiles) -> None:
    river.put(f"incoming/{A}.json", '{"command": ["x"], "name": "n", "cores": 3}')
    job = status(A)
    assert (job.state, job.name, job.spec["cores"], job.counts) == ("submitted", "n", 3, {"submitted": 1})
    assert job.over is False


def test_a_job_that_was_taken(river: RiverFiles) -> None:
    river.put(f"host/taken/000001-000000000001.{A}.{A}.json", '{"command": ["x"]}')
    assert status(A).state == "submitted"


def test_a_job_of_a_batch_at_the_door(river: RiverFiles) -> None:
    lines = f'{{"id": "{B}", "command": ["y"]}}\n{{"id": "{A}", "command": ["x"]}}\n{{"end": 2}}\n'
    river.put(f"incoming/{C}.jsonl", lines)
    assert status(A).spec["command"] == ["x"]


def test_a_job_that_was_only_just_accepted(river: RiverFiles) -> None:
    river.receipt(A, tasks=3)
    job = status(A)
    assert (job.state, job.total, job.accepted_at) == ("pending", 3, 1700000000.0)


def test_a_refused_job(river: RiverFiles) -> None:
    river.receipt(A, **refusal())
    job = status(A)
    assert (job.state, job.exit_code, job.over) == ("refused", 125, True)
    assert job.receipt is not None
    assert "largest has 8" in str(job.receipt.errors[0])


def test_a_job_that_never_was(river: RiverFiles) -> None:
    with pytest.raises(NotFound, match=r"never submitted.*retention"):
        status(A)


def test_the_receipt_of_a_request_is_no_job(river: RiverFiles) -> None:
    river.receipt(A, "done", kind="kill")
    with pytest.raises(NotFound):
        status(A)


def test_tasks_that_were_never_sent_out(river: RiverFiles) -> None:
    river.snapshot(A, row(0), count=3, spec=JobSpec(command=["x"], array="0-2"))
    job = status(A)
    assert reading.task_of(job, 2).state == "pending"
    assert reading.task_of(job, 0).state == "completed"
    with pytest.raises(NotFound, match=r"they are .*-\[0-2\]"):
        reading.task_of(job, 3)
    with pytest.raises(NotFound):
        reading.task_of(job, None)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"state": "completed"}, 0),
        ({"state": "failed", "exit_code": 7}, 7),
        ({"state": "failed", "exit_code": None, "signal": 11}, 139),
        ({"state": "failed", "exit_code": 1, "cause": "time_limit"}, 124),
        ({"state": "failed", "exit_code": None, "signal": 15, "cause": "time_limit"}, 124),
        ({"state": "killed_oom", "signal": 9}, 137),
        ({"state": "killed", "signal": 9}, 137),
        ({"state": "killed"}, 143),
        ({"state": "lost"}, 125),
        ({"state": "failed", "cause": "launch"}, 125),
    ],
)
def test_exit_codes_are_those_that_the_host_gives_a_job(told: dict[str, Any], code: int) -> None:
    made = row(**told)
    assert reading.exit_code_of(list(made)) == code
    if told["state"] not in ("lost", "completed"):  # the host settles these before
        assert host_exit_code_of(HostTask.from_row(list(made))) == code


# -- what people type


def test_whole_names_are_taken_as_they_are(share: Share) -> None:
    assert resolve_one(share, A) == Target(A)
    assert resolve_one(share, f"{A}-7") == Target(A, ((7, 7),))
    assert resolve_one(share, f" {A}-[0-3,9] ") == Target(A, ((0, 3), (9, 9)))


@pytest.mark.parametrize("text", [f"{A}-7", A, f"{A}-[0-3,9]"])
def test_names_are_written_as_they_are_read(share: Share, text: str) -> None:
    target = resolve_one(share, text)
    assert target.name == text
    assert list(Target(A, ((0, 1), (9, 9))).tasks()) == [f"{A}-0", f"{A}-1", f"{A}-9"]


def test_endings_come_from_the_index(river: RiverFiles, share: Share) -> None:
    river.endings(A, B, C)
    assert resolve_one(share, "5678") == Target(C)
    assert resolve_one(share, "0003335678-4") == Target(C, ((4, 4),))
    with pytest.raises(Ambiguous, match=f"2 jobs(.|\n)*{A}(.|\n)*{B}"):
        resolve_one(share, "1234")
    assert resolve_one(share, "11234") == Target(A)


def test_endings_of_what_the_index_has_not(river: RiverFiles, share: Share) -> None:
    river.endings(A)
    river.put(f"incoming/{B}.json", '{"command": ["x"]}')
    river.snapshot(C, row(state="running"))
    assert resolve_one(share, "5678") == Target(C)
    with pytest.raises(Ambiguous):
        resolve_one(share, "1234")


def test_endings_without_an_index(river: RiverFiles, share: Share) -> None:
    river.snapshot(A, row())
    river.snapshot(C, row(state="running"))
    assert resolve_one(share, "1234") == Target(A)


def test_a_short_ending_of_a_task_name(river: RiverFiles, share: Share) -> None:
    river.endings(A, C)
    assert resolve_one(share, "78-3") == Target(C, ((3, 3),))


@pytest.mark.parametrize(
    "text", ["", "abc", "123", "1-2", "../x", "1234567890123456789012", f"{A}-", f"{A}-[9-1]", f"{A}-01", "²²²²"]
)
def test_what_names_no_job(share: Share, text: str) -> None:
    with pytest.raises(Invalid):
        resolve_one(share, text)


def test_an_ending_that_nobody_has(river: RiverFiles, share: Share) -> None:
    river.endings(A)
    with pytest.raises(NotFound, match="no job ends in 9999"):
        resolve_one(share, "9999")


def test_all_that_is_not_over(river: RiverFiles, share: Share) -> None:
    river.snapshot(A, row(state="running"), uid=os.getuid())
    river.snapshot(B, row(state="running"), uid=os.getuid() + 1)
    river.snapshot(C, row(state="running"))
    river.snapshot(C, row())
    at_door = "17000000000009999999"
    river.put(f"incoming/{at_door}.json", '{"command": ["x"]}')
    assert [target.job for target in unfinished(share, mine=False)] == [A, B, at_door]
    assert [target.job for target in unfinished(share, mine=True)] == [A, at_door]


def test_what_has_just_been_accepted_is_not_over_either(river: RiverFiles, share: Share) -> None:
    mine, others, done, refused, old = (new_job_id() for _ in range(5))
    old = f"16{old[2:]}"
    river.receipt(mine, uid=os.getuid())
    river.receipt(others, uid=os.getuid() + 1)
    river.receipt(done, uid=os.getuid())
    river.snapshot(done, row())
    river.receipt(refused, "refused", uid=os.getuid())
    river.receipt(old, uid=os.getuid())  # deleted long ago
    assert {target.job for target in unfinished(share, mine=False)} == {mine, others}
    assert [target.job for target in unfinished(share, mine=True)] == [mine]


def test_of_requests_at_the_door_jobs_alone_count(river: RiverFiles, share: Share) -> None:
    kill, batch = new_job_id(), new_job_id()
    river.put(f"incoming/{kill}.json", '{"request": "kill", "tasks": ["x"]}')
    river.put(f"incoming/{batch}.jsonl", f'{{"id": "{A}", "command": ["x"]}}\n{{"id": "{B}"}}\n[]\n{{"end": 2}}\n')
    assert [target.job for target in unfinished(share, mine=False)] == [A, B]


# -- lists


def jobs_of(rows: list[dict[str, Any]]) -> list[str]:
    return [found["job"] for found in rows]


def test_lists_come_from_the_index_newest_first(river: RiverFiles, share: Share) -> None:
    river.recent(job_row(C, "running"), job_row(A))
    assert jobs_of(listing.rows(share, Wanted(), 50)) == [C, A]
    assert jobs_of(listing.rows(share, Wanted(), 1)) == [C]


def test_what_the_index_has_not_yet_is_read_from_snapshots(river: RiverFiles, share: Share) -> None:
    river.recent(job_row(A))
    river.snapshot(B, row(0, state="failed", exit_code=3, reason="exit code 3"), row(1), name="x")
    river.put(f"incoming/{C}.json", '{"command": ["sh", "-c", "a b"], "array": "0-4"}')
    rows = listing.rows(share, Wanted(), 50)
    assert jobs_of(rows) == [C, B, A]
    assert (rows[0]["state"], rows[0]["counts"], rows[0]["command"]) == ("submitted", {"submitted": 5}, "sh -c 'a b'")
    assert (rows[1]["state"], rows[1]["exit_code"], rows[1]["reason"]) == ("failed", 3, "exit code 3")
    for found in rows[1:]:
        JobRow.model_validate(found)


def test_what_is_older_than_the_index_is_walked_to(
    river: RiverFiles, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "RECENT_MOST", 1)
    river.snapshot(A, row())
    river.snapshot(B, row(state="running"))
    river.recent(job_row(C))
    assert jobs_of(listing.rows(share, Wanted(), 50)) == [C, B, A]
    assert jobs_of(listing.rows(share, Wanted(), 2)) == [C, B]


def test_without_an_index_all_is_walked(river: RiverFiles, share: Share) -> None:
    river.snapshot(A, row())
    river.snapshot(C, row())
    assert jobs_of(listing.rows(share, Wanted(), None)) == [C, A]


def test_a_crowded_bucket_is_left_to_the_index(
    river: RiverFiles, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CROWDED", 1)
    river.recent(job_row(A))
    river.snapshot(B, row())
    river.snapshot(C, row())
    assert jobs_of(listing.rows(share, Wanted(), None)) == [A]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(states=("failed",)), [C]),
        (Wanted(states=("running", "completed")), [C, A]),
        (Wanted(nodes=("n2",)), [C]),
        (Wanted(users=("ann",)), [A]),
        (Wanted(names=("tr*",)), [C]),
        (Wanted(names=("tr",)), []),
        (Wanted(since_s=10.0), []),
        (Wanted(since_s=1e10), [C, A]),
    ],
)
def test_filters(river: RiverFiles, share: Share, wanted: Wanted, found: list[str]) -> None:
    running = job_row(
        C, "running", counts={"running": 1, "failed": 1}, count=2, nodes=["n2"], owner="bob", name="train"
    )
    river.recent(running, job_row(A))
    assert jobs_of(listing.rows(share, wanted, None)) == found


def test_a_job_file_at_the_door_that_is_nonsense(river: RiverFiles, share: Share) -> None:
    river.put(f"incoming/{A}.json", "{")
    river.put(f"incoming/{B}.json", '{"command": 7, "array": "x", "targets": 3}')
    river.put(f"incoming/{C}.json", '{"request": "drain", "node": "n1"}')
    assert jobs_of(listing.rows(share, Wanted(), None)) == [B, A]


# -- why

DOCKER: dict[str, Any] = {
    "executors": ["docker"], "can": ["docker-gpus"], "numa": [NumaNode(id=n, cpus=[n]) for n in (0, 1)],
    "gpus": [
        GpuRow(index=0, uuid="g0", name="G", task=B), GpuRow(index=1, uuid="g1", name="G", task=C),
        GpuRow(index=2, uuid="g2", name="G", foreign=True), GpuRow(index=3, uuid="g3", name="G"),
    ],
}  # fmt: skip


def test_which_gpus_are_taken_and_by_whom() -> None:
    rows = [json.loads(node_row(**DOCKER).model_dump_json())]
    ((_, found),) = explaining.nodes({"gpus": 2}, rows, River(environment="base", packages={"base": "base-7"}))
    assert found == [
        "1 of 4 GPUs free, 2 are asked for", f"GPU 0 is held by task {B}", f"GPU 1 is held by task {C}",
        "GPU 2 is used by processes that are no task's",
    ]  # fmt: skip


def test_targets_on_one_node_stand_for_themselves() -> None:
    rows = [json.loads(node_row(**DOCKER).model_dump_json()), json.loads(node_row("n2").model_dump_json())]
    river = River(environment="base", packages={"base": "base-7"})
    found = explaining.nodes({"targets": ["n1::0", "n1:1"]}, rows, river)
    assert [(node, bool(why)) for node, why in found] == [("n1::0", True), ("n1:1", False), ("n2", True)]
    assert [node for node, _ in explaining.nodes({"targets": ["n1::0", "n1:1"]}, rows, river, ["n1:1"])] == [
        "n1:1",
        "n2",
    ]


def test_a_user_who_holds_as_much_as_one_may(river: RiverFiles) -> None:
    river.snapshot(A, spec=JobSpec(command=["x"], cores=3))
    rules = {"limit": {"cores": 4, "memory_bytes": None, "gpus": 2}, "users": {"0": {"cores": 2, "gpus": 2}}}
    job = status(A)
    who = (job.spec, job.uid, job.owner)
    why = explaining.share(*who, {"rules": rules})
    assert why == "policy.cores_per_user: tasks of ann hold 2, 3 are asked for, and 4 are the most"
    assert explaining.share(*who, {"rules": {**rules, "users": {}}}) is None
    assert explaining.share(*who, {}) is None


def test_an_environment_without_a_package(river: RiverFiles) -> None:
    river.snapshot(A, spec=JobSpec(command=["x"], container="gone"))
    index = {"rules": {"packages": {"base": "base-7"}, "environment": "base"}}
    found = [explaining.NodeReasons("n1", ["there is no package for environment gone"])]
    assert explaining.pending(status(A), found, index).startswith(
        "there is no package for environment gone: `hakuriver"
    )


@pytest.mark.parametrize(
    ("spec", "node", "reason"),
    [
        ({}, {}, None),
        ({}, {"state": "offline", "silent_s": 200.0}, "offline, silent for 3m20s"),
        ({}, {"state": "draining"}, "draining"),
        ({"cores": 9}, {}, "it has 8 cores, 9 are asked for"),
        ({"cores": 4}, {"cores_held": 6}, "2 of 8 cores free, 4 are asked for"),
        ({"cores": 0}, {"cores_held": 8}, None),
        ({"memory_bytes": 20 * GIB}, {}, "it has 17.2G of memory, 21.5G are asked for"),
        ({"memory_bytes": 9 * GIB}, {"memory_held_bytes": 8 * GIB}, "8.6G of 17.2G of memory free, 9.7G are asked for"),
        ({"executor": "docker"}, {}, "it has no docker"),
        ({"container": "base"}, DOCKER, None),
        (
            {"container": "base"},
            {**DOCKER, "away": {"docker": "no such file"}},
            "docker cannot be reached: no such file",
        ),
        ({"container": "gone"}, DOCKER, "there is no package for environment gone"),
        ({"gpus": 1}, DOCKER, None),
        ({"gpus": 2}, DOCKER, "1 of 4 GPUs free, 2 are asked for"),
        ({"gpus": 9}, DOCKER, "it has 4 GPUs, 9 are asked for"),
        ({"gpus": 1}, {**DOCKER, "can": []}, "its Docker cannot give GPUs to containers"),
        ({"targets": ["n1::0"]}, DOCKER, f"GPU 0 is held by task {B}"),
        ({"targets": ["n1::2"]}, DOCKER, None),
        ({"targets": ["n1::3"]}, DOCKER, None),
        ({"targets": ["n1::7"]}, DOCKER, "it has no GPU 7"),
        ({"targets": ["n1:1"]}, DOCKER, None),
        ({"targets": ["n1:2"]}, DOCKER, "it has no NUMA node 2; it has 0, 1"),
        ({"targets": ["n1:0"]}, {}, "it has no NUMA nodes, 0 is asked for"),
        ({"executor": "systemd"}, {"cannot": {"systemd": "no sudo"}}, "it has no systemd: no sudo"),
        ({"container": "NULL", "private_pid": True}, {"executors": ["systemd"]}, "its systemd cannot hide"),
    ],
)
def test_what_keeps_a_task_from_a_node(spec: dict[str, Any], node: dict[str, Any], reason: str | None) -> None:
    rows = [json.loads(node_row(**node).model_dump_json())]
    river = River(environment="base", packages={"base": "base-7"})
    ((_, found),) = explaining.nodes(spec, rows, river)
    if reason is None:
        assert found == []
    else:
        assert found[0].startswith(reason)


def test_targets_that_no_host_knows() -> None:
    found = explaining.nodes({"targets": ["n9"]}, [json.loads(node_row().model_dump_json())])
    assert found == [("n1", ["not among the job's targets"]), ("n9", ["no host has heard of it"])]


def test_an_array_that_is_bounded_by_itself(river: RiverFiles) -> None:
    spec = JobSpec(command=["x"], array="0-9%2")
    river.snapshot(A, row(0, "running"), row(1, "running"), count=10, spec=spec)
    assert explaining.at_once(status(A)) == "the array runs 2 at once at most, and 2 are"


def test_how_tasks_ended(river: RiverFiles) -> None:
    river.snapshot(
        A, row(0, "failed", exit_code=3, attempt=2), row(1, "killed", signal=15, reason="killed by ann"), row(2),
        row(3, "lost", cause=""), spec=JobSpec(command=["x"], array="0-3", retries=2),
    )  # fmt: skip
    job = status(A)
    told = [explaining.task(job, task) for task in job.tasks]
    assert told[0] == "failed on n1 after 2s, attempt 2 of at most 3: it exited with 3"
    assert told[1].endswith("killed by ann")
    assert told[2] == "completed on n1 after 2s, attempt 1 of at most 3"
    assert told[3].endswith("nobody knows")
