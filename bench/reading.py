"""`hakuriver task list` and `task status` on a river with a long history, beside one with a short one."""

from __future__ import annotations

from figures import Figure


def read(_rounds: int) -> list[Figure]:
    """Not yet."""
    raise NotImplementedError
