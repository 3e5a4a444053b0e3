"""What jobs may ask for, by `[policy]`: each refusal names its rule. Pure functions.

What the river itself is set to (`docker.tasks_privileged`, `docker.additional_mounts`) is allowed to everybody.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from hakuriver import units
from hakuriver.host.checking import problem
from hakuriver.host.shares import limit_of
from hakuriver.offers import gpus_of
from hakuriver.records import RunRequest, task_count
from hakuriver.settings import Docker, Policy
from hakuriver.targets import NO_CONTAINER, WITHOUT_CONTAINER, parse_mount

EVERYBODY, ADMINS = "*", "@admins"
ASK = "or ask an admin of this river"
NAME_ONE = "name one: `--target NODE`, in a file `targets`; `hakuriver node list` shows them"


class Who(NamedTuple):
    """Who asks."""

    user: str
    admin: bool
    open_tasks: int  #: tasks of theirs that are not over


def forbidden(body: RunRequest, who: Who, policy: Policy, docker: Docker) -> list[dict[str, Any]]:
    """What the rules have against a job."""
    found = [
        _null(body, policy),
        _target(body, policy),
        _privileged(body, who, policy, docker),
        *(_mount(mount, policy, docker) for mount in body.mounts or ()),
        _tasks(body, who, policy),
        *_shares(body, policy),
    ]
    return [told for told in found if told]


def _null(body: RunRequest, policy: Policy) -> dict[str, Any] | None:
    if policy.allow_null:
        return None
    remedy = f"name an environment, {ASK}"
    message = "policy.allow_null: nothing may run without a container"
    if body.container == NO_CONTAINER:
        return problem("container", body.container, message, remedy)
    return problem("executor", body.executor, message, remedy) if body.executor in WITHOUT_CONTAINER else None


def _target(body: RunRequest, policy: Policy) -> dict[str, Any] | None:
    if body.targets or not policy.require_target:
        return None
    message = "policy.require_target: a job must name the nodes that it runs on"
    return problem("targets", "none", message, NAME_ONE)


def _privileged(body: RunRequest, who: Who, policy: Policy, docker: Docker) -> dict[str, Any] | None:
    users = policy.privileged_users
    if not body.privileged or docker.tasks_privileged:
        return None
    if EVERYBODY in users or who.user in users or (ADMINS in users and who.admin):
        return None
    message = f"policy.privileged_users: {who.user} may not run privileged containers"
    return problem("privileged", True, message, f"leave it out, {ASK}")


def _mount(text: str, policy: Policy, docker: Docker) -> dict[str, Any] | None:
    source = parse_mount(text).source
    allowed = policy.allowed_mounts
    if EVERYBODY in allowed or text in docker.additional_mounts or any(is_below(source, place) for place in allowed):
        return None
    places = ", ".join(allowed) or "nothing"
    return problem("mounts", text, f"policy.allowed_mounts: {source} may not be mounted", f"allowed: {places}")


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is the directory or in it, by their names: links are not followed."""
    return os.path.commonpath([_normal(path), _normal(directory)]) == _normal(directory)


def _normal(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")  # POSIX lets two slashes at the beginning stand


def _tasks(body: RunRequest, who: Who, policy: Policy) -> dict[str, Any] | None:
    most, asked = policy.tasks_per_user, task_count(body.array, len(body.targets))
    if most is None or who.open_tasks + asked <= most:
        return None
    message = f"policy.tasks_per_user: {who.user} may have {most:,} tasks that are not over, and has {who.open_tasks:,}"
    return problem("array" if body.array else "command", f"{asked:,} tasks", message, "wait until some are over")


def _shares(body: RunRequest, policy: Policy) -> list[dict[str, Any]]:
    """What a single task asks for beyond all that its user may hold."""
    limit = limit_of(policy)
    if limit is None:
        return []
    asked = (("cores", body.cores, limit.cores), ("memory", body.memory or 0, limit.memory_bytes),
             ("gpus", gpus_of(body.__dict__), limit.gpus))  # fmt: skip
    return [_too_much(field, has, most) for field, has, most in asked if most is not None and has > most]


def _too_much(field: str, asked: int, most: int) -> dict[str, Any]:
    shown = units.format_size if field == "memory" else str
    message = f"policy.{field}_per_user: one user's tasks may hold {shown(most)} at once"
    return problem(field, shown(asked), message, "ask for no more")
