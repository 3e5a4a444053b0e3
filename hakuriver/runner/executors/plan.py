"""What executors are given and what they make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hakuriver.keeper.messages import SpecMessage, TaskMessage


class Refused(Exception):
    """This node cannot run it: {why}."""


class Place(NamedTuple):
    """Where attempts run."""

    node: str
    shared_dir: str  #: where the share is mounted here
    local_temp_dir: str
    home: str
    user: str
    grace_s: float  #: between TERM and KILL


class Planned(NamedTuple):
    """What the keeper is told."""

    spec: SpecMessage
    tasks: list[TaskMessage]
