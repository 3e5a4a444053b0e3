"""Which packages the host knows, on a share whose listings may lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hakuriver.host.packages import LIST_EVERY_S, UNSEEN_MOST, Packages
from hakuriver.records import Manifest
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk, ShareError

DIRECTORY = layout.CONTAINERS


class Stage:
    """A directory of packages and a host that looks at it, a listing at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root / DIRECTORY
        self.root.mkdir(parents=True)
        self.disk = LocalDisk(str(root))
        self.packages = Packages(self.disk, DIRECTORY)
        self.clock = 0.0

    def put(self, name: str, /, **more: Any) -> None:
        told = {"environment": name.rpartition("-")[0], "name": name, "image_id": f"sha256:{name}", "size_bytes": 1,
                "sha256": "0" * 64, "created_at": 1.0}  # fmt: skip
        (self.root / f"{name}.json").write_text(Manifest.model_validate({**told, **more}).model_dump_json())

    def look(self, times: int = 1) -> dict[str, str]:
        for _ in range(times):
            self.clock += LIST_EVERY_S
            self.packages.look(self.clock)
        return self.packages.newest


@pytest.fixture
def stage(scratch: Path) -> Stage:
    return Stage(scratch)


def test_the_newest_of_each_environment(stage: Stage) -> None:
    for name in ("base-9", "base-10", "base-2-7", "torch-3"):
        stage.put(name)
    assert stage.look() == {"base": "base-10", "base-2": "base-2-7", "torch": "torch-3"}
    assert stage.packages.image("base-10") == "sha256:base-10"


def test_what_is_no_package_is_left_alone(stage: Stage) -> None:
    for name in ("notes.json", "base-1.tar", "Base-1.json", "base-2.json", "base-3.n1.loading", ".base-4.json.tmp"):
        (stage.root / name).write_text("{")
    stage.put("base-5", name="base-6")
    assert stage.look() == {}


def test_a_directory_that_is_not_there_has_none(scratch: Path) -> None:
    packages = Packages(LocalDisk(str(scratch)), "nowhere")
    packages.look(1.0)
    assert packages.newest == {}


def test_it_is_listed_now_and_then_and_each_manifest_read_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.put("base-1")
    done: list[str] = []

    def counted(operation: str, real: Any) -> Any:
        def call(disk: LocalDisk, path: str) -> Any:
            done.append(operation)
            return real(disk, path)

        return call

    for operation in ("list", "read"):
        monkeypatch.setattr(LocalDisk, operation, counted(operation, getattr(LocalDisk, operation)))
    for moment in (0.0, 0.1, 1.9, 2.0, 3.0, 4.0):
        stage.packages.look(moment)
    assert done == ["list", "read", "list", "list"]
    stage.packages.look(4.1, at_once=True)
    assert done == ["list", "read", "list", "list", "list"]


def test_a_manifest_that_cannot_be_read_yet_is_read_later(stage: Stage) -> None:
    stage.put("base-1")
    (stage.root / "base-2.json").write_text("")
    assert stage.look() == {"base": "base-1"}
    stage.put("base-2")
    assert stage.look() == {"base": "base-2"}


def test_listings_that_miss_one_change_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.put("base-1")
    stage.look()
    monkeypatch.setattr(LocalDisk, "list", lambda self, path: list[Entry]())
    assert stage.look(UNSEEN_MOST + 3) == {"base": "base-1"}, "it can still be read"


def test_a_share_that_is_away_changes_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.put("base-1")
    stage.look()

    def fails(_self: LocalDisk, path: str) -> Any:
        raise ShareError("read", path, OSError(5, "Input/output error"))

    monkeypatch.setattr(LocalDisk, "list", fails)
    assert stage.look(UNSEEN_MOST + 3) == {"base": "base-1"}
    monkeypatch.setattr(LocalDisk, "read", fails)
    monkeypatch.setattr(LocalDisk, "list", lambda self, path: list[Entry]())
    assert stage.look(UNSEEN_MOST + 3) == {"base": "base-1"}


def test_one_that_is_gone_is_forgotten_after_some_listings(stage: Stage) -> None:
    stage.put("base-1")
    stage.put("base-2")
    stage.look()
    (stage.root / "base-2.json").unlink()
    assert stage.look(UNSEEN_MOST) == {"base": "base-2"}
    assert stage.look() == {"base": "base-1"}


def test_what_was_deleted_is_forgotten_at_once_and_found_again_if_it_was_not(stage: Stage) -> None:
    for name in ("base-1", "base-2", "torch-1"):
        stage.put(name)
    stage.look()
    (stage.root / "base-2.json").unlink()
    stage.packages.forget("base-2")
    assert stage.packages.newest == {"base": "base-1", "torch": "torch-1"}
    stage.packages.forget("base")
    assert stage.packages.newest == {"torch": "torch-1"}
    stage.packages.look(stage.clock)
    assert stage.packages.newest == {"base": "base-1", "torch": "torch-1"}
