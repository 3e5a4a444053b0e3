"""The protocol's models: what the door takes and what daemons pass over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hakuriver import records
from hakuriver.records import ControlRequest, HostRequest, JobSpec, RunRequest, task_count

JOB = "01792345678901234567"


def run(**fields: Any) -> RunRequest:
    return RunRequest.model_validate({"command": ["x"], **fields})


def test_a_command_is_all_that_a_job_needs() -> None:
    body = run()
    assert (body.cores, body.memory, body.retries, body.executor, body.targets) == (1, None, 0, "auto", [])


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [("memory", "4G", 4 * 10**9), ("memory", 5, 5), ("time_limit", "2h", 7200.0), ("time_limit", 3, 3.0),
     ("time_limit", 0.5, 0.5), ("priority", -100, -100), ("cores", 0, 0), ("array", "0-9%3", "0-9%3"),
     ("workdir", "/srv", "/srv"), ("env", {"A_1": "ü"}, {"A_1": "ü"}), ("targets", ["n-1.x_y"], ["n-1.x_y"])],
)  # fmt: skip
def test_values_are_kept_in_plain_units(field: str, given: object, kept: object) -> None:
    assert getattr(run(**{field: given}), field) == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [("command", []), ("command", [1]), ("command", "x"), ("command", ["a\0b"]), ("command", ["\udc80"]),
     ("cores", "1"), ("cores", 1.5), ("cores", False), ("cores", 100_001), ("memory", 0), ("memory", True),
     ("memory", 2**60 + 1), ("memory", 4.0), ("memory", "4X"), ("time_limit", -1), ("time_limit", True),
     ("time_limit", float("nan")), ("time_limit", float("inf")), ("priority", 101), ("retries", -1), ("retries", 1001),
     ("array", "x"), ("array", ""), ("array", 3), ("env", {"1A": "x"}), ("env", {"": "x"}), ("env", {"A": 1}),
     ("env", {"A": "\0"}), ("env", {"HAKURIVER_TASK_ID": "x"}), ("targets", ["UPPER"]), ("targets", ["a..b"]),
     ("targets", ["-a"]), ("targets", [""]), ("targets", ["n\n"]), ("targets", "n1"), ("name", "n" * 201),
     ("workdir", "x"), ("workdir", ""), ("executor", "shell"), ("format", 2), ("format", "1"), ("id", "12"),
     ("id", JOB + "\n"), ("request", "kill"), ("nonsense", 1)],
)  # fmt: skip
def test_the_door_refuses(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        run(**{field: value})


def test_a_million_tasks_and_no_more() -> None:
    assert run(array="0-999999").array
    assert run(array="0-499999", targets=["a", "b"]).targets
    with pytest.raises(ValidationError, match="1,000,000"):
        run(array="0-1000000")
    with pytest.raises(ValidationError, match="1,000,000"):
        run(array="0-499999", targets=["a", "b", "c"])


@pytest.mark.parametrize(
    ("array", "targets", "count"), [(None, 0, 1), (None, 1, 1), (None, 3, 3), ("0-9", 0, 10), ("1,3-4", 2, 6)]
)
def test_array_and_targets_multiply(array: str | None, targets: int, count: int) -> None:
    assert task_count(array, targets) == count


@pytest.mark.parametrize("target", [JOB, f"{JOB}-0", f"{JOB}-1234567890"])
def test_controls_name_jobs_and_tasks(target: str) -> None:
    assert ControlRequest.model_validate({"request": "kill", "targets": [target]}).targets == [target]


@pytest.mark.parametrize(
    "target", ["", "4567", f"{JOB}-", f"{JOB}-01", f"{JOB}-12345678901", f"{JOB}\n", f"{JOB}-[0-3]"]
)
def test_controls_name_nothing_else(target: str) -> None:
    with pytest.raises(ValidationError):
        ControlRequest.model_validate({"request": "kill", "targets": [target]})


def test_older_than_may_be_text() -> None:
    assert HostRequest.model_validate({"request": "gc", "older_than": "30d"}).older_than == 2_592_000
    with pytest.raises(ValidationError):
        HostRequest.model_validate({"request": "gc", "older_than": "soon"})


def test_every_field_of_a_job_is_kept_in_its_spec() -> None:
    asked = set(RunRequest.model_fields) - {"request", "format", "id"}
    renamed = {"memory": "memory_bytes", "time_limit": "time_limit_s"}
    assert {renamed.get(name, name) for name in asked} == set(JobSpec.model_fields)


def test_every_state_is_final_or_holds_or_waits() -> None:
    assert {"pending"} | records.HOLDING | records.FINAL == set(records.STATES)
    assert not records.HOLDING & records.FINAL


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_request_or_a_validation_error(value: Any) -> None:
    for model in (RunRequest, ControlRequest, HostRequest, records.NodeRequest):
        try:
            model.model_validate(value)
        except ValidationError as error:
            json.dumps([e["loc"] for e in error.errors()])
        else:
            pytest.fail("a request has at least a command or a kind, which this generator does not make")
