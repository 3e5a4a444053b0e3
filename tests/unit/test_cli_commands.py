"""Every command on prepared files: what it prints, where, and how it exits; each --json against its schema."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from riverfiles import GIB, RiverFiles, answered, job_row, node_row, refusal, row

from hakuriver import client, config
from hakuriver.cli import run, submit, task_control, up
from hakuriver.cli.schema import SCHEMAS, json_schema
from hakuriver.host import checking
from hakuriver.records import GpuRow, JobSpec, RulesTold
from hakuriver.spool.access import Share

A = "16999999990001111234"
B = "17000000000002225678"


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Hakuriver = Callable[..., Ran]


@pytest.fixture
def river(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    monkeypatch.setattr(submit, "RECEIPT_S", 0.05)
    monkeypatch.setattr(task_control, "SIGN_S", 0.05)
    return river


@pytest.fixture
def hakuriver(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> Hakuriver:
    def ran(*arguments: str) -> Ran:
        status = run(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "fault in HakuRiver" not in captured.err
        return Ran(status, captured.out, captured.err)

    return ran


@pytest.fixture
def answering(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Each request is answered like this as soon as it is dropped."""

    def answer(with_: dict[str, Any]) -> None:
        real = client.await_receipt

        def at_once(share: Any, request: str, timeout: float) -> Any:
            river.receipt(request, **with_)
            return real(share, request, 5.0)

        monkeypatch.setattr(client, "await_receipt", at_once)

    return answer


def valid(ran: Ran, name: str) -> Any:
    """The JSON that was printed; it is as its schema says."""
    jsonschema.validate(ran.json, json_schema(name))
    return ran.json


# -- submit


def test_submit_prints_the_id_and_says_that_it_waits(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("submit", "--", "echo", "--cores", "hi")
    (path,) = river.dropped()
    assert (ran.status, ran.out) == (0, f"{path.stem}\n")
    assert "host not responding (none has ever been seen); the job waits" in ran.err
    assert river.asked() == [{"command": ["echo", "--cores", "hi"]}]


def test_submit_says_when_a_host_was_last_seen(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.nodes(node_row())
    assert "a host was last seen 2023-11-1" in hakuriver("submit", "--", "x").err


def test_task_submit_is_the_same(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("task", "submit", "--array", "0-9%2", "x")
    assert ran.out == f"{river.dropped()[0].stem}-[0-9]\n"


def test_all_options_reach_the_host(river: RiverFiles, hakuriver: Hakuriver) -> None:
    options = (
        "--target n1 --target n2 --cores 4 --memory 4Gi --env A=1 --env B= --name s --priority -1 --time-limit 2h "
        "--retries 2 --array 0-1 --workdir /d --executor process --container NULL --no-receipt --quiet"
    )
    ran = hakuriver("submit", *options.split(), "--", "x")
    assert (ran.status, ran.err) == (0, "")
    body = checking.request(river.dropped()[0].read_bytes())
    assert (body.targets, body.cores, body.memory, body.env) == (["n1", "n2"], 4, 4 * GIB, {"A": "1", "B": ""})
    assert (body.priority, body.time_limit, body.retries, body.container) == (-1, 7200.0, 2, "NULL")


def test_all_that_containers_have_reaches_the_host(river: RiverFiles, hakuriver: Hakuriver) -> None:
    options = (
        "--target n1:0 --target n1:1 --gpus 2 --container torch --privileged --mount /data:/data:ro --mount /a:/b "
        "--private-network --private-pid --no-receipt"
    )
    assert hakuriver("submit", *options.split(), "--", "x").err == ""
    assert hakuriver("submit", "--no-privileged", "--no-queue", "--no-receipt", "x").err == ""
    first, second = river.asked()
    assert first == {
        "command": ["x"], "targets": ["n1:0", "n1:1"], "gpus": 2, "container": "torch", "privileged": True,
        "mounts": ["/data:/data:ro", "/a:/b"], "private_network": True, "private_pid": True,
    }  # fmt: skip
    assert second == {"command": ["x"], "privileged": False, "no_queue": True}


def test_status_and_list_tell_where_a_task_runs_and_with_what(river: RiverFiles, hakuriver: Hakuriver) -> None:
    spec = JobSpec(command=["x"], targets=["n1:0", "n1::1"], container="torch", privileged=False, mounts=["/a:/b"])
    held = row(1, "assigning", executor="docker", gpus=(1,), environment="torch-7", phase="syncing torch-7")
    river.snapshot(A, row(0, "running", executor="docker", environment="torch-7"), held, spec=spec, count=2)
    out = hakuriver("task", "status", A).out
    for words in ("targets    n1:0 n1::1", "privileged  no", "mounts      /a:/b", "EXECUTOR  ENVIRONMENT  GPUS"):
        assert " ".join(words.split()) in " ".join(out.split())
    one = " ".join(hakuriver("task", "status", f"{A}-1").out.split())
    assert "target n1::1 chosen executor docker package torch-7 GPUs held 1 phase syncing torch-7" in one
    (job,) = valid(hakuriver("task", "status", "--json", A), "status")["jobs"]
    assert [task["gpus"] for task in job["tasks"]] == [[], [1]]
    listed = hakuriver("task", "list").out
    for words in ("GPUS", "docker", "torch-7", "n1:0 n1::1", "running (syncing torch-7)"):
        assert words in listed
    (told,) = valid(hakuriver("task", "list", "--json"), "list")["jobs"]
    assert (told["gpus"], told["targets"], told["executors"]) == (1, ["n1:0", "n1::1"], ["docker"])


def test_why_tells_which_target_waits_and_for_what(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hakuriver.cli.task_why.SIGN_S", 0.05)
    spec = JobSpec(command=["x"], targets=["n1::0", "n1::1"], container="torch")
    river.snapshot(A, row(0, "running", gpus=(0,)), count=2, waiting="1", spec=spec, done=False)
    gpus = [GpuRow(index=0, uuid="a", name="G", task=f"{A}-0"), GpuRow(index=1, uuid="b", name="G", task=B)]
    rules = RulesTold(environment="base", packages={"torch": "torch-7"})
    river.nodes(node_row("n1", executors=["docker"], can=["docker-gpus"], gpus=gpus), node_row("n2"), rules=rules)
    out = hakuriver("task", "why", A).out
    assert f"n1::1: GPU 1 is held by task {B}" in out
    assert "n1::0" not in out
    assert f"n1::1: GPU 1 is held by task {B}" in hakuriver("task", "why", f"{A}-1").out


def test_submit_json(hakuriver: Hakuriver) -> None:
    told = valid(hakuriver("submit", "--json", "--array", "1,5", "--", "x"), "submit")
    assert (told["outcome"], told["count"], told["receipt"]) == ("waiting", 2, None)
    assert told["tasks"] == f"{told['jobs'][0]}-[1,5]"


def test_an_accepted_job(hakuriver: Hakuriver, answering: Callable[[dict[str, Any]], None]) -> None:
    answering({})
    told = valid(hakuriver("submit", "--json", "--", "x"), "submit")
    jsonschema.validate(told["receipt"], json_schema("receipt"))
    assert (told["outcome"], told["count"]) == ("accepted", 1)


def test_a_refusal_names_option_value_and_remedy(
    hakuriver: Hakuriver, answering: Callable[[dict[str, Any]], None]
) -> None:
    answering(refusal())
    ran = hakuriver("submit", "--cores", "99", "--", "x")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "hakuriver: refused: --cores 99: no node has so many: the largest has 8; ask for 8\n"
    assert hakuriver("submit", "--wait", "--", "x").status == 125
    assert valid(hakuriver("submit", "--json", "--", "x"), "submit")["outcome"] == "refused"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", "4X", "--", "x"], "--memory 4X: it is no size: write 512M, 4G or 4Gi"),
        (["--time-limit", "soon", "--", "x"], "--time-limit soon: it is no duration"),
        (["--env", "A", "--", "x"], "--env A: it must be K=V, as A=fast"),
        (["--target", "../x", "--", "x"], "--target ../x: it is no target: '../x' is no node name, as n1 or"),
        (["--cores", "two", "--", "x"], "'--cores': 'two' is not a valid integer"),
        (["--cores", "-1", "--", "x"], "--cores -1: it must be a whole number from 0"),
        (["--array", "x", "--", "x"], "--array x: it is no array"),
        (["--workdir", "here", "--", "x"], "--workdir here: it must be an absolute path"),
        (["--executor", "podman", "--", "x"], "--executor podman: it must be one of"),
        ([], "COMMAND is missing"),
        (["--from", "nowhere"], "--from nowhere: No such file or directory"),
        (["--from", "-", "--cores", "2"], "--cores does not go with --from"),
        (["--from", "-", "x"], "COMMAND does not go with --from"),
        (["--colour"], "No such option"),
        (["--", "a\udcffb"], "it is not UTF-8"),
    ],
)
def test_usage(river: RiverFiles, hakuriver: Hakuriver, arguments: list[str], says: str) -> None:
    ran = hakuriver("submit", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert river.dropped() == []


def test_jobs_from_a_file(river: RiverFiles, hakuriver: Hakuriver, scratch: Path) -> None:
    jobs = scratch / "jobs.jsonl"
    jobs.write_text('{"command": ["a"]}\n{"command": ["b"], "cores": 2}\n')
    ran = hakuriver("submit", "--from", str(jobs))
    (path,) = river.dropped("jsonl")
    bodies = checking.batch(path.read_bytes(), settled=False)
    assert ran.out.split() == [body.id for body in bodies]
    assert "all 2 jobs wait in" in ran.err
    told = valid(hakuriver("submit", "--json", "--from", str(jobs)), "submit")
    assert (len(told["jobs"]), told["tasks"], told["count"]) == (2, None, None)


def test_a_bad_line_of_a_file_is_named(river: RiverFiles, hakuriver: Hakuriver, scratch: Path) -> None:
    jobs = scratch / "jobs.jsonl"
    jobs.write_text('{"command": ["a"]}\n{"command": \n')
    ran = hakuriver("submit", "--from", str(jobs))
    assert ran.status == 2
    assert "line 2" in ran.err
    assert river.dropped("jsonl") == []


def test_submit_and_wait(
    river: RiverFiles,
    hakuriver: Hakuriver,
    answering: Callable[[dict[str, Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering({})
    monkeypatch.setattr("hakuriver.client.new_job_id", lambda: A)
    river.snapshot(A, row(state="failed", exit_code=7, reason="exit code 7"))
    ran = hakuriver("submit", "--wait", "--", "x")
    assert (ran.status, ran.out) == (7, f"{A}\n")
    assert f"{A} failed: exit code 7" in ran.err
    told = valid(hakuriver("submit", "--wait", "--json", "--", "x"), "submit")
    assert told["outcomes"][0]["exit_code"] == 7


# -- reading


def test_wait(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row())
    river.snapshot(B, row(0, "lost", reason="n1 fell silent"), row(1))
    ran = hakuriver("task", "wait", A)
    assert (ran.status, ran.out, ran.err) == (0, f"{A} completed\n", "")
    ran = hakuriver("task", "wait", A, B)
    assert ran.status == 125
    assert f"{B} lost: n1 fell silent (1 lost, 1 completed)" in ran.out
    assert f"{B} lost: n1 fell silent" in ran.err
    told = valid(hakuriver("task", "wait", "--json", A, f"{B}-1"), "wait")
    assert [each["target"] for each in told["outcomes"]] == [A, f"{B}-1"]
    assert hakuriver("task", "wait", "-q", A, B).out == ""


def test_wait_in_vain(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row(state="running"))
    ran = hakuriver("task", "wait", A, "--timeout", "100ms")
    assert ran.status == 125
    assert "1 not over yet after 0.1 s" in ran.err


def test_wait_interrupted(river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hakuriver.waiting.time.sleep", interrupt)
    river.snapshot(A, row(state="running"))
    ran = hakuriver("task", "wait", A)
    assert ran.status == 130
    assert "goes on" in ran.err
    assert river.dropped() == []


def test_list(river: RiverFiles, hakuriver: Hakuriver) -> None:
    failed = job_row(B, "failed", exit_code=3, name="train", count=3, counts={"failed": 1, "completed": 2})
    river.recent(failed, job_row(A))
    ran = hakuriver("task", "list")
    lines = ran.out.splitlines()
    assert " ".join(lines[0].split()) == "JOB NAME STATE TASKS NODE CORES MEMORY USER SUBMITTED COMMAND"
    assert lines[1].startswith(f"{B}  train  failed (3)  1 failed, 2 completed  n1")
    assert len(lines) == 3
    assert lines[0].index("COMMAND") == lines[1].index("echo hi") == lines[2].index("echo hi")
    assert [line[:20] for line in hakuriver("task", "list", "--state", "failed").out.splitlines()[1:]] == [B]
    assert len(hakuriver("task", "list", "--state", "completed").out.splitlines()) == 3
    told = valid(hakuriver("task", "list", "--json", "--limit", "1"), "list")
    assert [each["job"] for each in told["jobs"]] == [B]
    river.put("incoming/17000000010000000000.json", '{"command": ["x"]}')
    assert valid(hakuriver("task", "list", "--json"), "list")["jobs"][0]["state"] == "submitted"


def test_what_others_wrote_cannot_command_the_terminal(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.recent(job_row(A, name="\x1b[2J\nx", command="\r\x07"))
    out = hakuriver("task", "list").out
    assert "\x1b" not in out
    assert r"\x1b[2J\nx" in out
    assert len(out.splitlines()) == 2


def test_status(river: RiverFiles, hakuriver: Hakuriver) -> None:
    spec = JobSpec(command=["sh", "-c", "a b"], memory_bytes=4 * GIB, time_limit_s=90, env={"KEY": "secret"}, retries=2)
    earlier = [[1, "n2", "failed", "exit", 3, None, 1700000001.0, 1700000002.0]]
    river.snapshot(A, row(state="failed", exit_code=3, reason="exit code 3", attempt=2, earlier=earlier), spec=spec)
    out = hakuriver("task", "status", A).out
    for line in (
        "state        failed",
        "memory       4.3G",
        "time limit   1m30s",
        "environment  KEY",
        "command      sh -c 'a b'",
    ):
        assert line in out
    assert "secret" not in out
    assert f"{river.root}/task_outputs/{A}.2.out" in out
    assert "earlier attempts:" in out
    told = valid(hakuriver("task", "status", "--json", A), "status")
    assert told["jobs"][0]["tasks"][0]["earlier"][0]["node"] == "n2"
    assert told["jobs"][0]["spec"]["env"] == {"KEY": "secret"}


def test_status_of_tasks(river: RiverFiles, hakuriver: Hakuriver) -> None:
    spec = JobSpec(command=["x"], array="0-99")
    river.snapshot(A, row(0), row(7, "running"), count=100, spec=spec, waiting="1-6,8-99")
    out = hakuriver("task", "status", A).out
    assert "98 pending" in out
    assert "1-6,8-99" in out
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [[f"{A}-0", "completed"], [f"{A}-7", "running"]]
    told = valid(hakuriver("task", "status", "--json", f"{A}-7", f"{A}-50"), "status")
    assert [job["tasks"][0]["state"] for job in told["jobs"]] == ["running", "pending"]
    ran = hakuriver("task", "status", f"{A}-100")
    assert (ran.status, ran.out) == (1, "")
    assert "there is no task" in ran.err


def test_status_of_jobs_that_no_host_has_told_of(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.put(f"incoming/{A}.json", '{"command": ["x"], "memory": "4G"}')
    river.receipt(B, **refusal())
    out = hakuriver("task", "status", A, B).out
    assert "submitted" in out
    assert "refused    cores = 99: no node has so many" in out
    assert len(valid(hakuriver("task", "status", "--json", A, B), "status")["jobs"]) == 2


def test_why_it_waits(river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hakuriver.cli.task_why.SIGN_S", 0.05)
    river.snapshot(A, spec=JobSpec(command=["x"], cores=4), done=False)
    river.nodes(node_row("n1", cores_held=6), node_row("n2", state="offline", silent_s=100))
    long_ago(river)
    ran = hakuriver("task", "why", A)
    assert ran.status == 0
    assert ran.out.splitlines()[0] == f"{A}: pending: no node has room for it now"
    assert "  n1: 2 of 8 cores free, 4 are asked for" in ran.out
    assert "  n2: offline, silent for 1m40s" in ran.out
    assert "host not responding (last seen 2023" in ran.out
    told = valid(hakuriver("task", "why", "--json", A), "why")
    assert told["nodes"][0] == {"node": "n1", "reasons": ["2 of 8 cores free, 4 are asked for"]}


def test_why_it_does_not_start_where_it_was_sent(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row(None, "assigning", executor="docker"), done=False)
    river.nodes(node_row("n1", executors=["docker"]))
    assert hakuriver("task", "why", A).out == f"{A}: sent to n1; its runner starts it as soon as it can\n"
    river.nodes(node_row("n1", executors=["docker"], away={"docker": "there is no socket"}))
    told = f"{A}: sent to n1; docker cannot be reached there, and is waited for: there is no socket\n"
    assert hakuriver("task", "why", A).out == told


def long_ago(river: RiverFiles) -> None:
    """No host has moved its baton for a while."""
    os.utime(river.root / "host", (1_700_000_000, 1_700_000_000))


def test_a_host_with_nothing_to_do_is_not_told_as_gone(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, spec=JobSpec(command=["x"], cores=4), done=False)
    river.nodes(node_row("n1", cores_held=6))
    river.beat()
    assert "host not responding" not in hakuriver("task", "why", A).out


def test_why_tells_nothing_of_nodes_before_the_job_is_known(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.receipt(A)
    river.nodes(node_row("n1"))
    out = hakuriver("task", "why", A).out
    assert "accepted a moment ago" in out
    assert "has room" not in out


def test_tasks_that_a_job_does_not_have(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row())
    river.snapshot(B, row(0), row(1), spec=JobSpec(command=["x"], array="0-1"))
    for name, there in ((f"{A}-[0-9]", f"it has one, {A}"), (f"{B}-[5-9]", f"they are {B}-[0-1]")):
        ran = hakuriver("task", "status", name)
        assert (ran.status, ran.out) == (1, "")
        assert f"has none of these tasks: {there}" in ran.err
    assert f"{B}-1" in hakuriver("task", "status", f"{B}-[1-9]").out


def test_why_it_ended(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row(0, "failed", exit_code=3, reason="exit code 3"), row(1))
    out = hakuriver("task", "why", A).out
    assert out.splitlines() == [
        f"{A}: failed: 1 failed, 1 completed",
        f"  {A}-0: failed on n1 after 2s: exit code 3",
    ]
    assert valid(hakuriver("task", "why", "--json", f"{A}-1"), "why")["why"] == "completed on n1 after 2s"


def test_why_it_was_refused(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.receipt(A, **refusal())
    assert "the largest has 8 (ask for 8)" in hakuriver("task", "why", A).out


def test_logs(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row())
    river.put(f"task_outputs/{A}.out", b"1\n2\n3\n")
    assert hakuriver("task", "logs", A).out == "1\n2\n3\n"
    assert hakuriver("task", "logs", "-f", "--tail", "1", A).out == "3\n"
    assert hakuriver("task", "logs", "--json", "-f", A).status == 2
    told = valid(hakuriver("task", "logs", "--json", "--tail", "2", A), "logs")
    assert (told["text"], told["attempt"], told["state"]) == ("2\n3\n", 1, "completed")
    assert told["path"] == f"{river.root}/task_outputs/{A}.out"
    ran = hakuriver("task", "logs", "--err", A)
    assert (ran.status, ran.out) == (0, "")
    assert "has written nothing to stderr" in ran.err


# -- asking


@pytest.mark.parametrize("kind", ["kill", "pause", "resume", "requeue"])
def test_controls(
    river: RiverFiles, hakuriver: Hakuriver, kind: str, answering: Callable[[dict[str, Any]], None]
) -> None:
    answering(answered(kind, (A, True, "done so"), (f"{B}-1", False, "already completed")))
    ran = hakuriver("task", kind, A, f"{B}-[1-2]")
    assert river.asked() == [{"request": kind, "targets": [A, f"{B}-1", f"{B}-2"]}]
    assert (ran.status, ran.out) == (1, f"{A} done so\n")
    assert f"{B}-1 already completed" in ran.err
    told = valid(hakuriver("task", kind, "--json", A), "control")
    assert told["requests"][0]["answers"][1]["ok"] is False


def test_a_control_that_nobody_answers(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("task", "kill", A)
    assert (ran.status, ran.out) == (125, "")
    assert "the request (kill) waits in" in ran.err
    assert hakuriver("task", "kill", "--no-receipt", A).status == 0
    assert valid(hakuriver("task", "kill", "--json", A), "control")["requests"][0]["outcome"] == "waiting"


def test_kill_all_mine(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row(state="running"), uid=os.getuid())
    river.snapshot(B, row(state="running"), uid=os.getuid() + 1)
    hakuriver("task", "kill", "--all", "--mine", "--no-receipt")
    assert river.asked() == [{"request": "kill", "targets": [A]}]


def test_kill_all_of_nothing(hakuriver: Hakuriver) -> None:
    ran = hakuriver("task", "kill", "--mine")
    assert ran.status == 0
    assert "nothing to kill" in ran.err


@pytest.mark.parametrize("arguments", [[], [A, "--all"]])
def test_what_is_to_be_killed_must_be_said_once(hakuriver: Hakuriver, arguments: list[str]) -> None:
    assert hakuriver("task", "kill", *arguments).status == 2


@pytest.mark.parametrize("command", ["drain", "resume", "forget"])
def test_a_name_that_no_node_can_have(hakuriver: Hakuriver, command: str) -> None:
    ran = hakuriver("node", command, "A/B")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "hakuriver: NODE A/B: no node can have that name; `hakuriver node list` shows them\n"


@pytest.mark.parametrize(("command", "kind"), [("drain", "drain"), ("resume", "undrain"), ("forget", "forget")])
def test_node_requests(
    river: RiverFiles, hakuriver: Hakuriver, command: str, kind: str, answering: Callable[[dict[str, Any]], None]
) -> None:
    answering({"outcome": "done", "kind": kind, "text": f"{kind}: n1"})
    ran = hakuriver("node", command, "n1")
    assert (ran.status, ran.out) == (0, f"{kind}: n1\n")
    assert river.asked() == [{"request": kind, "node": "n1"}]
    assert valid(hakuriver("node", command, "--json", "n1"), "control")["requests"][0]["kind"] == kind
    assert hakuriver("node", command, "../n1").status == 2


def test_node_list(river: RiverFiles, hakuriver: Hakuriver) -> None:
    assert "no host has told" in hakuriver("node", "list").err
    assert valid(hakuriver("node", "list", "--json"), "nodes")["nodes"] == []
    river.nodes(node_row("n1", cores_held=2), node_row("n2", state="offline", problems=["disk full"]))
    lines = hakuriver("node", "list").out.splitlines()
    assert lines[1].split()[:3] == ["n1", "online", "2/8"]
    assert lines[2].endswith("disk full")
    assert len(valid(hakuriver("node", "list", "--json"), "nodes")["nodes"]) == 2


def test_node_show(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.nodes(node_row("n1"))
    river.describe("n1", [(A, None, 1), (B, 3, 2)])
    out = hakuriver("node", "show", "n1").out
    assert "cores         0 held of 8\n" in out
    assert f"runs          {A}\nruns          {B}-3\n" in out
    assert valid(hakuriver("node", "show", "--json", "n1"), "node")["tasks"] == [A, f"{B}-3"]
    ran = hakuriver("node", "show", "n9")
    assert (ran.status, ran.out) == (1, "")
    assert "nodes known: n1" in ran.err


def test_housekeeping(river: RiverFiles, hakuriver: Hakuriver, answering: Callable[[dict[str, Any]], None]) -> None:
    answering({"outcome": "done", "kind": "gc", "text": "deleted 3 jobs"})
    assert hakuriver("host", "gc", "--older-than", "7d").out == "deleted 3 jobs\n"
    assert river.asked() == [{"request": "gc", "older_than": 604800.0}]
    assert valid(hakuriver("host", "reindex", "--json"), "control")["requests"][0]["outcome"] == "done"


#: Every request but those of environments, which have their own.
REQUESTS = {
    "kill": ["task", "kill", A], "pause": ["task", "pause", A], "resume": ["task", "resume", A],
    "requeue": ["task", "requeue", A], "drain": ["node", "drain", "n1"], "undrain": ["node", "resume", "n1"],
    "forget": ["node", "forget", "n1"], "gc": ["host", "gc"], "reindex": ["host", "reindex"],
}  # fmt: skip


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_refused_request(hakuriver: Hakuriver, answering: Callable[[dict[str, Any]], None], kind: str) -> None:
    answering({**refusal(), "kind": kind})
    said = "hakuriver: refused: cores = 99: no node has so many: the largest has 8 (ask for 8)\n"
    assert hakuriver(*REQUESTS[kind]) == (1, "", said)
    ran = hakuriver(*REQUESTS[kind], "--json")
    assert (ran.status, ran.err) == (1, said)
    (request,) = valid(ran, "control")["requests"]
    assert (request["kind"], request["outcome"], request["answers"]) == (kind, "refused", [])
    jsonschema.validate(request["receipt"], json_schema("receipt"))
    assert request["receipt"]["errors"][0]["remedy"] == "ask for 8"


def test_a_request_that_is_refused_after_a_while(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks = client.await_receipt, list[str]()

    def at_the_second_look(share: Any, request: str, timeout: float) -> Any:
        looks.append(request)
        if len(looks) == 1:
            return None, True
        river.receipt(request, **refusal())
        return real(share, request, timeout)

    monkeypatch.setattr(client, "await_receipt", at_the_second_look)
    ran = hakuriver("node", "drain", "n1", "--json")
    assert (ran.status, valid(ran, "control")["requests"][0]["outcome"]) == (1, "refused")
    assert len(looks) == 2


def test_of_many_targets_some_may_be_refused(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of the first request is told, and the third is made, though the second was refused."""
    receipts = iter([answered("kill", (A, True, "killed")), refusal(), answered("kill", (B, False, "completed"))])
    real = client.await_receipt

    def in_turn(share: Any, request: str, timeout: float) -> Any:
        river.receipt(request, **next(receipts))
        return real(share, request, timeout)

    monkeypatch.setattr(client, "await_receipt", in_turn)
    monkeypatch.setattr(client, "TARGETS_MAX", 1)
    ran = hakuriver("task", "kill", A, A[:-1] + "9", B, "--json")
    assert ran.status == 1
    assert [each["outcome"] for each in valid(ran, "control")["requests"]] == ["done", "refused", "done"]


def test_a_refusal_without_a_reason(hakuriver: Hakuriver, answering: Callable[[dict[str, Any]], None]) -> None:
    answering({"outcome": "refused"})
    assert hakuriver("node", "drain", "n1").err == "hakuriver: refused: the host gave no reason\n"


# -- schemas


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(hakuriver: Hakuriver, name: str) -> None:
    ran = hakuriver("schema", name)
    jsonschema.Draft202012Validator.check_schema(ran.json)
    assert ran.json == json_schema(name)


def test_names_of_schemas(hakuriver: Hakuriver) -> None:
    assert [line.split()[0] for line in hakuriver("schema").out.splitlines()] == list(SCHEMAS)
    assert hakuriver("schema", "nothing").status == 2


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "golden").glob("request-*.json")), ids=lambda p: p.stem
)
def test_golden_requests_are_as_the_schemas_say(path: Path) -> None:
    body = json.loads(path.read_bytes())
    jsonschema.validate(body, json_schema("request"))
    if body.get("request", "run") == "run":
        jsonschema.validate(body, json_schema("job"))


def test_text_may_stand_for_sizes_and_times(hakuriver: Hakuriver) -> None:
    schema = json_schema("job")
    jsonschema.validate({"command": ["x"], "memory": "4G", "time_limit": "2h"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"command": ["x"], "memory": []}, schema)


@pytest.mark.parametrize(("given", "executor"), [({}, "process"), ({"executor": "systemd"}, "systemd")])
def test_up_runs_plain_processes_unless_told_otherwise(scratch: Path, given: dict[str, str], executor: str) -> None:
    up._child("host", ["host"], Share(str(scratch / "river")), str(scratch), {"scheduling": given}, {})
    written = config.read_table(str(scratch / "host" / "config.toml"))
    assert written["scheduling"] == {"executor": executor}
