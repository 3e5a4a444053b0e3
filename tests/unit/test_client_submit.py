"""What `submit`, `submit_many` and `request` put at the door, what they refuse by themselves, and receipts."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import eventually
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from riverfiles import RiverFiles, answered, refusal

from hakuriver import Invalid, Refused, ShareProblem, client, records, submit, submit_many
from hakuriver.checks import check, task_range
from hakuriver.host import checking
from hakuriver.records import RunRequest, task_count


class Host:
    """Answers what comes to the door, as the test says."""

    def __init__(self, river: RiverFiles, answer: Any) -> None:
        self._river, self._answer = river, answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        answered_already: set[str] = set()
        while not self._stop.wait(0.005):
            for path in [*self._river.dropped(), *self._river.dropped("jsonl")]:
                if path.stem not in answered_already:
                    answered_already.add(path.stem)
                    self._river.receipt(path.stem, **self._answer(path))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_what_is_dropped_is_a_job_that_the_host_takes(river: RiverFiles) -> None:
    done = submit(
        ["sh", "-c", "echo $X"], targets=["n1", "n2"], cores=2, memory="4G", env={"X": "1"}, workdir="/data",
        executor="process", priority=-5, time_limit="2h30m", retries=3, array="0-9%2", name="train", receipt_timeout=0,
    )  # fmt: skip
    (path,) = river.dropped()
    assert path.name == f"{done.job}.json"
    body = checking.request(path.read_bytes())
    assert isinstance(body, RunRequest)
    assert (body.memory, body.time_limit, body.array, body.env) == (4_000_000_000, 9000.0, "0-9%2", {"X": "1"})
    assert (body.cores, body.retries, body.priority, body.workdir) == (2, 3, -5, "/data")
    assert done.tasks == f"{done.job}-[0-19]"
    assert done.total == 20
    assert done.receipt is None


def test_defaults_are_not_written(river: RiverFiles) -> None:
    submit(["echo", "hi"], receipt_timeout=0)
    assert river.asked() == [{"command": ["echo", "hi"]}]


def test_nothing_unfinished_is_left_and_only_the_owner_may_write_the_file(river: RiverFiles) -> None:
    old = os.umask(0)
    try:
        submit(["true"], receipt_timeout=0)
    finally:
        os.umask(old)
    assert [path.name[-5:] for path in (river.root / "incoming").iterdir()] == [".json"]
    assert river.dropped()[0].stat().st_mode & 0o022 == 0


def test_an_answer_within_the_second_is_given(river: RiverFiles) -> None:
    with Host(river, lambda path: {}):
        done = submit(["true"], receipt_timeout=10)
    assert done.receipt is not None
    assert (done.receipt.outcome, done.receipt.ids, done.tasks) == ("accepted", [done.job], done.job)


def test_a_refusal_is_raised_with_its_reasons(river: RiverFiles) -> None:
    with Host(river, lambda path: refusal()), pytest.raises(Refused, match=r"the largest has 8.*ask for 8"):
        submit(["true"], cores=99, receipt_timeout=10)


def test_targets_that_the_host_leaves_out_are_no_tasks(river: RiverFiles) -> None:
    problem = records.Problem(field="targets", value="n9", message="there is no such node")
    with Host(river, lambda path: {"errors": [problem]}):
        done = submit(["true"], targets=["n1", "n9"], receipt_timeout=10)
    assert (done.tasks, done.total) == (done.job, 1)


def test_without_a_host_it_says_so(river: RiverFiles) -> None:
    done = submit(["true"], receipt_timeout=0.05)
    assert (done.receipt, done.host_alive) == (None, False)


def test_a_host_that_moves_is_told_from_none(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        river.beat()
        now[0] += seconds

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    done = submit(["true"])
    assert (done.receipt, done.host_alive) == (None, True)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("memory", "4X", "no size"),
        ("memory", 0, "whole number from 1"),
        ("memory", 1.5, "whole number"),
        ("time_limit", "soon", "no duration"),
        ("time_limit", 0, "more than zero"),
        ("time_limit", float("nan"), "more than zero"),
        ("time_limit", True, "seconds"),
        ("array", "5-1", "runs backwards"),
        ("array", "1,1", "twice"),
        ("array", "0-1000000", "1,000,000 are the most"),
        ("cores", -1, "from 0"),
        ("cores", True, "whole number"),
        ("priority", 101, "from -100 to 100"),
        ("retries", -1, "from 0"),
        ("env", {"A B": "1"}, "letters, digits and _"),
        ("env", {"": "1"}, "letters, digits and _"),
        ("env", {"1A": "1"}, "no digit first"),
        ("env", {"HAKURIVER_X": "1"}, "set by HakuRiver"),
        ("env", {"A": "\0"}, "NUL"),
        ("targets", ["../etc"], "no node name"),
        ("targets", ["n1:x"], "write node, node:NUMA"),
        ("targets", ["n1::0,0"], "stands in it twice"),
        ("container", "Torch", "no environment can have that name"),
        ("gpus", 65, "from 0 to 64"),
        ("gpus", True, "from 0 to 64"),
        ("mounts", ["/a"], "/on/the/node:/in/the/container"),
        ("mounts", ["/a:/b:w"], "/on/the/node:/in/the/container"),
        ("mounts", ["/a:/shared"], "something else is mounted at /shared already"),
        ("mounts", ["/a:/local_temp/:ro"], "something else is mounted at /local_temp already"),
        ("privileged", 1, "true or false"),
        ("private_pid", "no", "true or false"),
        ("no_queue", 1, "true or false"),
        ("targets", "n1", "must be a list"),
        ("workdir", "data", "absolute"),
        ("executor", "podman", "one of auto, docker"),
        ("name", "x" * 201, "200 characters"),
        ("name", "\udcff", "UTF-8"),
    ],
)
def test_what_no_host_would_take_is_said_at_once(river: RiverFiles, field: str, value: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says) as raised:
        submit(["true"], receipt_timeout=0, **{field: value})
    assert raised.value.field == field
    assert river.dropped() == []


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"gpus": 1, "targets": ["n1::0"]}, "gpus", "names its GPUs already; name the GPUs there"),
        ({"gpus": 1, "container": "NULL"}, "gpus", "in a container only.*leave container = NULL out"),
        ({"targets": ["n1::0"], "executor": "systemd"}, "targets", "in a container only.*leave executor = systemd out"),
        ({"targets": ["n1:0"], "executor": "process"}, "targets", "a plain process cannot have it"),
        ({"private_network": True, "executor": "process"}, "private_network", "a plain process cannot have it"),
        ({"container": "base", "executor": "process"}, "container", "runs without one"),
        ({"container": "NULL", "executor": "docker"}, "container", "executor docker needs one"),
        ({"mounts": ["/a:/b"], "container": "NULL"}, "mounts", "in a container only"),
        ({"array": "0-9%2", "no_queue": True}, "array", "would have to; leave one of the two out"),
    ],
)
def test_what_does_not_go_together(river: RiverFiles, fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as raised:
        submit(["true"], receipt_timeout=0, **fields)
    assert raised.value.field == field
    assert river.dropped() == []


def test_what_containers_have_is_written_as_it_was_asked(river: RiverFiles) -> None:
    submit(["x"], gpus=2, container="torch", privileged=False, mounts=["/data:/data:ro"], private_pid=True,
           private_network=True, receipt_timeout=0)  # fmt: skip
    submit(["x"], targets=["n1:1::0,2"], mounts=[], receipt_timeout=0)
    first, second = river.asked()
    assert first == {"command": ["x"], "gpus": 2, "container": "torch", "privileged": False,
                     "mounts": ["/data:/data:ro"], "private_pid": True, "private_network": True}  # fmt: skip
    assert second == {"command": ["x"], "targets": ["n1:1::0,2"], "mounts": []}
    assert RunRequest.model_validate(first).gpus == 2
    assert RunRequest.model_validate(second).mounts == []


@pytest.mark.parametrize(
    ("command", "says"), [([], "there is none"), ("echo hi", "must be a list"), (["a", "\0"], "NUL")]
)
def test_commands_that_are_none(river: RiverFiles, command: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        submit(command, receipt_timeout=0)


def test_a_command_may_be_larger_than_any_job_file(river: RiverFiles) -> None:
    with pytest.raises(Invalid, match="put its data into a file"):
        submit(["echo", "x" * client.JOB_FILE_MAX], receipt_timeout=0)


def test_bounds_are_those_of_the_records() -> None:
    assert client.JOB_FILE_MAX == records.JOB_FILE_MAX
    assert client.BATCH_FILE_MAX == records.BATCH_FILE_MAX


jobs = st.fixed_dictionaries(
    {"command": st.lists(st.text(max_size=5), max_size=3)},
    optional={
        "cores": st.integers(-2, 200_000) | st.booleans() | st.floats(),
        "memory": st.sampled_from(["1", "4G", "4Gi", "0", "x", "-1", ""]) | st.integers(-1, 1 << 61),
        "time_limit": st.sampled_from(["90", "1h30m", "0", "h", "1 h"]) | st.floats() | st.integers(-1, 10**10),
        "priority": st.integers(-150, 150),
        "retries": st.integers(-1, 1001),
        "array": st.sampled_from(["0-9", "1,3", "3,1", "0-9%2", "0-9%0", "9-0", "x", "", "0-999999", "0-1000000"]),
        "env": st.dictionaries(st.text("aA_1 =\n", max_size=3), st.text(max_size=3), max_size=2),
        "targets": st.lists(
            st.sampled_from(
                [
                    "n1",
                    "N1",
                    "a..b",
                    "a.b",
                    "-a",
                    "",
                    "a" * 63,
                    "a" * 64,
                    "n1:0",
                    "n1::0,1",
                    "n1:1::2",
                    "n1::",
                    "n1::0,0",
                    "n1:",
                    "n1:x",
                    ":0",
                    "n1::0:1",
                ]
            ),
            max_size=2,
        ),
        "container": st.sampled_from(["NULL", "null", "base", "a-1.b", "A", "a--", "", "x" * 63, "x" * 64, "a\n"]),
        "gpus": st.sampled_from([0, 1, 64, 65, -1, True, 1.0]),
        "privileged": st.booleans() | st.just(1),
        "mounts": st.lists(
            st.sampled_from(["/a:/b", "/a:/b:ro", "/a:/b:rw", "/a", "a:/b", "/a:/", "/a/../b:/c"]), max_size=2
        ),
        "private_network": st.booleans() | st.just("yes"),
        "private_pid": st.booleans(),
        "no_queue": st.booleans() | st.just(0),
        "workdir": st.sampled_from(["/x", "x", "", "/a\0"]),
        "executor": st.sampled_from(["auto", "docker", "systemd", "process", "x", ""]),
        "name": st.text(max_size=3) | st.sampled_from(["x" * 200, "x" * 201]),
    },
)


@given(jobs)
def test_the_client_refuses_what_the_records_refuse_and_nothing_else(job: dict[str, Any]) -> None:
    try:
        RunRequest.model_validate(job)
        by_host = True
    except ValidationError:
        by_host = False
    try:
        check(dict(job))
        by_client = True
    except Invalid:
        by_client = False
    assert by_client == by_host


@given(st.sampled_from([None, "0-9", "5", "1,3,7-9", "0-3%2"]), st.integers(0, 3))
def test_ranges_count_as_the_host_counts(array: str | None, targets: int) -> None:
    text, count = task_range("1" * 20, array, targets)
    assert count == task_count(array, targets)
    assert ("[" in text) == (count > 1)


# -- many at once


def test_a_batch_is_one_file_with_ids_and_an_end(river: RiverFiles) -> None:
    done = submit_many([{"command": ["echo", str(i)]} for i in range(100)], receipt_timeout=0)
    (path,) = river.dropped("jsonl")
    assert path.stem == done.request
    bodies = checking.batch(path.read_bytes(), settled=False)
    assert [body.id for body in bodies] == done.jobs
    assert len(set(done.jobs)) == 100
    assert done.jobs == sorted(done.jobs)
    assert [body.command[1] for body in bodies] == [str(i) for i in range(100)]


def test_ids_and_duplicates_of_lines_stay_as_they_are(river: RiverFiles) -> None:
    own = "1" * 20
    lines = [f'{{"id": "{own}", "command": ["a"]}}', "", '{"command": ["b"], "command": ["c"]}']
    done = client.submit_lines(client.open_share(), lines, 0)
    assert done.jobs[0] == own
    with pytest.raises(checking.Refusal, match="stands in it twice"):
        checking.batch(river.dropped("jsonl")[0].read_bytes(), settled=False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "no JSON"),
        (b"[]", "must be a job"),
        (b"{}", "must be a job"),
        (b"\xff", "no JSON"),
        (b'{"id": null}', "null"),
    ],
)
def test_lines_that_are_no_jobs_are_named(river: RiverFiles, line: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says) as raised:
        client.submit_lines(client.open_share(), [b'{"command": ["a"]}', line], 0)
    assert raised.value.value == "line 2"
    assert river.dropped("jsonl") == []


def test_no_lines_at_all(river: RiverFiles) -> None:
    with pytest.raises(Invalid, match="there is no job in it"):
        submit_many([], receipt_timeout=0)


def test_fields_of_a_bad_job_among_many_name_its_line(river: RiverFiles) -> None:
    with pytest.raises(Invalid) as raised:
        submit_many([{"command": ["a"]}, {"command": ["a"], "memory": "x"}], receipt_timeout=0)
    assert raised.value.field == "line 2: memory"


# -- other requests


@pytest.mark.parametrize(
    ("kind", "how", "document"),
    [
        ("kill", {"targets": ["1" * 20]}, {"request": "kill", "targets": ["1" * 20]}),
        ("drain", {"node": "n1"}, {"request": "drain", "node": "n1"}),
        ("gc", {"older_than": "30d"}, {"request": "gc", "older_than": 2592000.0}),
        ("gc", {}, {"request": "gc"}),
        ("reindex", {}, {"request": "reindex"}),
    ],
)
def test_requests_are_such_as_the_host_reads(
    river: RiverFiles, kind: str, how: dict[str, Any], document: dict[str, Any]
) -> None:
    answer = client.request(kind, timeout=0, **how)
    (path,) = river.dropped()
    assert path.stem == answer.request
    assert json.loads(path.read_bytes()) == document
    assert checking.request(path.read_bytes()).request == kind


@pytest.mark.parametrize(("kind", "targets"), [("kill", []), ("kill", ["x"] * 100_001), ("dance", ["x"])])
def test_requests_that_are_none(river: RiverFiles, kind: str, targets: list[str]) -> None:
    with pytest.raises(Invalid):
        client.request(kind, targets, timeout=0)


def test_answers_of_a_control(river: RiverFiles) -> None:
    with Host(river, lambda path: answered("kill", ("1" * 20, True, "killed"))):
        answer = client.request("kill", ["1" * 20], timeout=10)
    assert answer.receipt is not None
    assert answer.receipt.answers == [client.TaskAnswer("1" * 20, True, "killed")]


# -- a share that is not as it should be


def test_an_unmounted_share_is_told_from_a_river(scratch: Path) -> None:
    with pytest.raises(ShareProblem, match=r"holds no river.json.*init share"):
        submit(["true"], shared_dir=str(scratch), receipt_timeout=0)
    assert list(scratch.iterdir()) == []


def test_a_river_without_a_door(river: RiverFiles) -> None:
    (river.root / "incoming").rmdir()
    with pytest.raises(ShareProblem, match="was not made whole"):
        submit(["true"], receipt_timeout=0)
    assert not (river.root / "incoming").exists()


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "read-write"),
        (errno.EACCES, "ask the owner"),
        (errno.EIO, "answers"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_what_the_share_says_is_told_with_a_remedy_and_nothing_is_left(
    river: RiverFiles, monkeypatch: pytest.MonkeyPatch, number: int, says: str, call: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(ShareProblem, match=says):
        submit(["true"], receipt_timeout=0)
    assert list((river.root / "incoming").iterdir()) == []


def test_a_stale_handle_is_tried_again(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = os.listdir, iter([OSError(errno.ESTALE, "stale")] * 2)

    def flaky(path: str) -> list[str]:
        for failure in failures:
            raise failure
        return real(path)

    monkeypatch.setattr(os, "listdir", flaky)
    submit(["true"], receipt_timeout=0)
    assert len(river.dropped()) == 1


def test_an_error_for_a_rename_that_was_done_is_none(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def lies(source: str, target: str) -> None:
        real(source, target)
        raise OSError(errno.ENOENT, "retried")

    monkeypatch.setattr(os, "rename", lies)
    submit(["true"], receipt_timeout=0)
    assert len(river.dropped()) == 1


@pytest.fixture
def crowd(river: RiverFiles) -> Iterator[RiverFiles]:
    for number in range(3000):
        river.put(f"receipts/{number:020d}.json", "{}")
    yield river


def test_a_receipt_is_found_without_reading_all_names(crowd: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.receipt("9" * 20)
    share = client.open_share()
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("listed in full"))
    receipt = client.read_receipt(share, "9" * 20)
    assert receipt is not None
    assert receipt.outcome == "accepted"


def test_receipts_of_later_versions_and_broken_ones(river: RiverFiles) -> None:
    share = client.open_share()
    river.put("receipts/a.json", '{"outcome": "done", "news": 1}')
    river.put("receipts/b.json", "{")
    receipt = client.read_receipt(share, "a")
    assert receipt is not None
    assert receipt.raw["news"] == 1
    assert client.read_receipt(share, "b") is None
    eventually(lambda: client.read_receipt(share, "c") is None)
