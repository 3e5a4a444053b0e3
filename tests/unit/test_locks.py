"""The lock of an inbox: held by one, done without where it cannot be had, and nothing is made for it."""

from __future__ import annotations

import os
from pathlib import Path

from hakuriver.spool.locks import inbox_lock


def test_it_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    path = f"{tmp_path}/inbox.lock"
    with inbox_lock(path) as first, inbox_lock(path) as second:
        assert (first, second) == (True, False)
    open_before = len(os.listdir("/proc/self/fd"))
    with inbox_lock(path) as again:
        assert again
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_share_that_is_away_is_not_made(tmp_path: Path) -> None:
    with inbox_lock(f"{tmp_path}/share/nodes/n1/inbox.lock") as held:
        assert not held
    assert os.listdir(tmp_path) == []
