"""What jobs may ask for: each rule, who it concerns, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from hakuriver.host.policy import Who, forbidden, is_below
from hakuriver.records import RunRequest
from hakuriver.settings import Docker, Policy

ANN = Who("ann", False, 0)


def told(job: dict[str, Any], policy: dict[str, Any], who: Who = ANN, **docker: Any) -> list[tuple[str, str]]:
    """Field and rule of each refusal."""
    body = RunRequest.model_validate({"command": ["x"], **job})
    found = forbidden(body, who, Policy(**policy), Docker(**docker))
    assert all(problem["remedy"] and problem["value"] for problem in found)
    return [(problem["field"], problem["message"].split(":")[0]) for problem in found]


def test_nothing_is_forbidden_that_nothing_forbids() -> None:
    job = {"container": "NULL", "cores": 1000, "memory": "1T"}
    assert told(job, {}) == []
    assert told({"gpus": 8, "mounts": ["/:/host"]}, {}) == []


@pytest.mark.parametrize(
    ("job", "refused"),
    [
        ({"container": "NULL"}, [("container", "policy.allow_null")]),
        ({"executor": "systemd"}, [("executor", "policy.allow_null")]),
        ({"executor": "process"}, [("executor", "policy.allow_null")]),
        ({}, []),
        ({"container": "base"}, []),
    ],
)
def test_nothing_without_a_container(job: dict[str, Any], refused: list[tuple[str, str]]) -> None:
    assert told(job, {"allow_null": False}) == refused


@pytest.mark.parametrize(
    ("job", "refused"),
    [
        ({}, [("targets", "policy.require_target")]),
        ({"targets": []}, [("targets", "policy.require_target")]),
        ({"targets": ["n1"]}, []),
        ({"targets": ["n1:0", "n2"]}, []),
    ],
)
def test_a_target_may_be_required(job: dict[str, Any], refused: list[tuple[str, str]]) -> None:
    assert told(job, {"require_target": True}) == refused
    assert told(job, {}) == []


@pytest.mark.parametrize(
    ("users", "who", "allowed"),
    [
        (["@admins"], ANN, False),
        (["@admins"], Who("ann", True, 0), True),
        (["ann"], ANN, True),
        (["bob"], ANN, False),
        (["*"], ANN, True),
        ([], Who("ann", True, 0), False),
    ],
)
def test_who_may_be_privileged(users: list[str], who: Who, allowed: bool) -> None:
    refused = told({"privileged": True}, {"privileged_users": users}, who)
    assert refused == ([] if allowed else [("privileged", "policy.privileged_users")])
    assert told({"privileged": False}, {"privileged_users": users}, who) == []
    assert told({}, {"privileged_users": []}, who, tasks_privileged=True) == []
    assert told({"privileged": True}, {"privileged_users": []}, who, tasks_privileged=True) == []


@pytest.mark.parametrize(
    ("mount", "allowed"),
    [
        ("/data:/d", True),
        ("/data/x:/d:ro", True),
        ("/data/:/d", True),
        ("//data//x/.:/d", True),
        ("/database:/d", False),
        ("/dat:/d", False),
        ("/:/d", False),
        ("/etc:/data", False),
        ("/etc/hosts:/etc/hosts:ro", True),
    ],
)
def test_mounts_are_compared_by_their_components(mount: str, allowed: bool) -> None:
    policy = {"allowed_mounts": ["/data/"]}
    refused = told({"mounts": [mount]}, policy, additional_mounts=["/etc/hosts:/etc/hosts:ro"])
    assert refused == ([] if allowed else [("mounts", "policy.allowed_mounts")])


def test_each_mount_is_told() -> None:
    assert len(told({"mounts": ["/a:/a", "/b:/b"]}, {"allowed_mounts": []})) == 2
    assert told({"mounts": []}, {"allowed_mounts": []}) == []


@pytest.mark.parametrize(("path", "below"), [("/", True), ("/a", True), ("//a", True)])
def test_all_is_below_the_root(path: str, below: bool) -> None:
    assert is_below(path, "/") == below


@pytest.mark.parametrize(
    ("job", "open_tasks", "refused"),
    [({}, 9, []), ({}, 10, ["command"]), ({"array": "0-9"}, 0, []), ({"array": "0-9"}, 1, ["array"]),
     ({"array": "0-4", "targets": ["a", "b"]}, 0, []), ({"array": "0-4", "targets": ["a", "b"]}, 1, ["array"])],
)  # fmt: skip
def test_how_many_tasks_a_user_may_have(job: dict[str, Any], open_tasks: int, refused: list[str]) -> None:
    found = told(job, {"tasks_per_user": 10}, ANN._replace(open_tasks=open_tasks))
    assert found == [(field, "policy.tasks_per_user") for field in refused]


@pytest.mark.parametrize(
    ("job", "policy", "rule"),
    [
        ({"cores": 5}, {"cores_per_user": 4}, "cores"),
        ({"cores": 4}, {"cores_per_user": 4}, None),
        ({"memory": "2G"}, {"memory_per_user": "1G"}, "memory"),
        ({"gpus": 2}, {"gpus_per_user": 1}, "gpus"),
        ({"targets": ["n1::0", "n1::1,2"]}, {"gpus_per_user": 1}, "gpus"),
        ({"targets": ["n1::0", "n1::1"]}, {"gpus_per_user": 1}, None),
        ({"gpus": 1}, {"gpus_per_user": 0}, "gpus"),
    ],
)
def test_one_task_that_asks_for_more_than_its_user_may_hold(
    job: dict[str, Any], policy: dict[str, Any], rule: str | None
) -> None:
    assert told(job, policy) == ([] if rule is None else [(rule, f"policy.{rule}_per_user")])
