"""Paths, and what is built on the seam, on a real directory."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareAway, ShareError
from hakuriver.spool.layout import Baton, NodePaths

JOB = "01792345678901234567"


@pytest.fixture
def disk(scratch: Path) -> LocalDisk:
    (scratch / layout.SENTINEL).write_bytes(b"{}")
    (scratch / "d").mkdir()
    return LocalDisk(str(scratch))


# --- layout


def test_every_name_that_is_made_is_taken_apart_again() -> None:
    baton = Baton(3, "aabbccddeeff", 42, 7)
    assert layout.parse_baton(baton.name) == baton
    assert layout.parse_snapshot(layout.snapshot_name(JOB, 3, 42)) == (JOB, 3, 42)
    assert layout.parse_entry(layout.journal(3, 42).rpartition("/")[2]) == (3, 42)
    taken = layout.taken_name(3, 42, JOB, "a.b-c.json")
    assert layout.parse_taken(taken) == (JOB, "a.b-c.json")
    runner = NodePaths("n1").baton(4, "beef")
    assert layout.parse_runner_baton(runner.rpartition("/")[2]) == (4, "beef")


@given(st.text(max_size=60))
def test_no_name_breaks_a_parser(name: str) -> None:
    for parse in (
        layout.parse_baton, layout.parse_snapshot, layout.parse_entry, layout.parse_taken, layout.parse_runner_baton,
    ):  # fmt: skip
        parse(name)


@given(st.text(st.characters(codec="utf-8"), max_size=120))
def test_what_the_door_takes_can_lie_in_taken_and_come_back(name: str) -> None:
    if layout.DOOR_NAME.fullmatch(name):
        taken = layout.taken_name(999_999, 10**12 - 1, JOB, name)
        assert len(taken.encode()) < 200
        assert "/" not in taken
        assert layout.parse_taken(taken) == (JOB, name)


@pytest.mark.parametrize(
    "name",
    [".a.json", "a", "a.JSON", "a b.json", "a\n.json", "a.json\n", "../a.json", "é.json", "x" * 101 + ".json", ".json"],
)
def test_what_the_door_leaves_alone(name: str) -> None:
    assert not layout.DOOR_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "A", "-a", "a-", "a..b", "a" * 64, "a\n", "ä", ".a"])
def test_what_is_no_node_name(name: str) -> None:
    assert not layout.NODE_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["a", "n1", "node-1.lab_2", "a" * 63])
def test_node_names(name: str) -> None:
    assert layout.NODE_NAME.fullmatch(name)


def test_outputs_of_attempts() -> None:
    assert layout.stdout_path(JOB, None, 1) == f"task_outputs/{JOB}.out"
    assert layout.stdout_path(JOB, None, 3) == f"task_outputs/{JOB}.3.out"
    assert layout.stderr_path(JOB, 7, 1) == f"task_errors/{JOB}/7.err"
    assert layout.stderr_path(JOB, 7, 2) == f"task_errors/{JOB}/7.2.err"


def test_a_bucket_is_100_seconds() -> None:
    assert layout.bucket(JOB) == "01792/345"
    assert layout.done_bucket(JOB) == "jobs/done/01792/345"
    assert layout.ending_file(JOB) == layout.ending_file("567") == "index/endings/567.json"


# --- publish and move


def test_publish_leaves_the_document_and_nothing_else(disk: LocalDisk, scratch: Path) -> None:
    files.publish(disk, "d/x.json", b"one")
    assert disk.read("d/x.json") == b"one"
    assert os.listdir(scratch / "d") == ["x.json"]


def test_publish_makes_the_directory_it_needs(disk: LocalDisk) -> None:
    files.publish(disk, "jobs/active/1/2/x.json", b"one")
    assert disk.read("jobs/active/1/2/x.json") == b"one"


def test_publish_makes_nothing_where_the_share_is_not_mounted(disk: LocalDisk, scratch: Path) -> None:
    (scratch / layout.SENTINEL).unlink()
    with pytest.raises(ShareAway, match="not mounted"):
        files.publish(disk, "receipts/x.json", b"one")
    assert not (scratch / "receipts").exists()


def test_no_directory_is_made_in_an_empty_mount_point(disk: LocalDisk, scratch: Path) -> None:
    (scratch / layout.SENTINEL).unlink()
    with pytest.raises(ShareAway):
        disk.mkdir("jobs/active/1")
    assert not (scratch / "jobs").exists()


def test_publish_batch_replaces_copies(disk: LocalDisk) -> None:
    files.publish_batch(disk, [("d/x", b"one"), ("d/y", b"two")])
    files.publish_batch(disk, [("d/x", b"three")])
    assert (disk.read("d/x"), disk.read("d/y")) == (b"three", b"two")


def test_a_copy_takes_the_place_of_what_stands_there(disk: LocalDisk) -> None:
    files.publish_batch(disk, [("d/x", b"one")], [("d/x", "d/copy", b"one")])
    files.publish_batch(disk, [("d/y", b"two")], [("d/y", "d/copy", b"two")])
    assert (disk.read("d/x"), disk.read("d/y"), disk.read("d/copy")) == (b"one", b"two", b"two")
    files.publish_batch(disk, [("d/y", b"two")], [("d/y", "d/copy", b"two")])  # carried out twice after a crash
    assert disk.read("d/copy") == b"two"
    assert sorted(files.names(disk, "d")) == ["copy", "x", "y"]


def test_a_copy_where_there_are_no_hard_links(disk: LocalDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.publish_batch(disk, [("d/x", b"one")], [("d/x", "d/copy", b"one")])
    assert disk.read("d/copy") == b"one"


@pytest.mark.parametrize("count", [1, files.SYNC_ALL_FROM - 1, files.SYNC_ALL_FROM, 100])
def test_a_batch_is_durable_with_few_syncs(scratch: Path, count: int) -> None:
    class Counting(LocalDisk):
        def __init__(self, root: str) -> None:
            super().__init__(root)
            self.did: list[tuple[str, object]] = []

        def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
            self.did.append(("write", durable))
            super().write(path, data, durable=durable)

        def sync(self, directories: Iterable[str]) -> None:
            self.did.append(("sync", list(directories)))

        def sync_all(self) -> None:
            self.did.append(("sync_all", None))

    (scratch / "d").mkdir()
    disk = Counting(str(scratch))
    files.publish_batch(disk, [(f"d/{n}", b"x") for n in range(count)])
    few = count < files.SYNC_ALL_FROM
    assert disk.did == [("write", few)] * count + [("sync", ["d"]) if few else ("sync_all", None)]


def test_of_two_that_move_one_wins(disk: LocalDisk) -> None:
    disk.write("d/x", b"")
    assert files.move(disk, "d/x", "d/mine") is True
    assert files.move(disk, "d/x", "d/yours") is False
    assert files.names(disk, "d") == ["mine"]


def test_an_error_of_a_rename_that_was_done_is_a_win(disk: LocalDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("d/x", b"")
    rename = disk.rename

    def lie(source: str, target: str) -> None:
        rename(source, target)
        raise FileNotFoundError(source)

    monkeypatch.setattr(disk, "rename", lie)
    assert files.move(disk, "d/x", "d/y") is True
    files.publish(disk, "d/z", b"whole")
    assert disk.read("d/z") == b"whole"


def test_while_the_source_stands_nobody_has_won(disk: LocalDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("d/x", b"")

    def fail(source: str, target: str) -> None:
        raise ShareError("rename", source, OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr(disk, "rename", fail)
    assert files.move(disk, "d/x", "d/y") is None
    with pytest.raises(ShareError):
        files.publish(disk, "d/z", b"")


def test_listings_show_no_unfinished_files(disk: LocalDisk) -> None:
    disk.write("d/.x.json.1.tmp", b"")
    assert files.names(disk, "d") == []
    assert files.names(disk, "nowhere") == []


def test_positions_are_in_order_whatever_else_lies_there(disk: LocalDisk) -> None:
    for name in ("000001-000000000010.json", "000001-000000000009.json", "x.json", "1-2", "000002-000000000001.json"):
        disk.write(f"d/{name}", b"")
    assert files.positions(disk, "d") == [(1, 9), (1, 10), (2, 1)]


def test_the_seam(disk: LocalDisk) -> None:
    disk.write("d/x", b"one")
    with pytest.raises(FileExistsError):
        disk.write("d/x", b"two")
    with pytest.raises(FileNotFoundError):
        disk.read("d/y")
    disk.write_at("d/out", 3, b"def", durable=True)
    disk.write_at("d/out", 0, b"abc")
    assert disk.read("d/out") == b"abcdef"
    disk.rmdir("d")
    for name in ("x", "out", "never"):
        disk.remove(f"d/{name}")
    disk.sync(["d"])
    disk.sync_all()
    disk.rmdir("d")
    assert [e.name for e in disk.list("")] == [layout.SENTINEL]


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-write"), (errno.EIO, "waiting")]
)
def test_a_failing_disk_says_what_to_do(
    disk: LocalDisk, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ShareError, match=words) as caught:
        disk.write("d/x", b"data")
    assert (caught.value.errno, caught.value.path) == (number, "d/x")


def test_a_stale_handle_is_tried_again_by_path(disk: LocalDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("d/x", b"one")
    real, left = os.unlink, [files.STALE_TRIES - 1]

    def stale(path: str) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        real(path)

    monkeypatch.setattr(os, "unlink", stale)
    disk.remove("d/x")
    assert files.names(disk, "d") == []
    left[0] = files.STALE_TRIES
    with pytest.raises(ShareError, match="Stale"):
        disk.remove("d/x")
    monkeypatch.undo()


# --- inspect: what may be a request


def test_a_plain_file_is_read_with_its_owner(disk: LocalDisk) -> None:
    disk.write("d/x", b"12345")
    found = disk.inspect("d/x", 100)
    assert (found.data, found.size, found.uid, found.refusal) == (b"12345", 5, os.getuid(), None)
    assert found.stamp[1] > 0
    assert disk.inspect("d/x", 3).data == b"1234", "one byte more than the limit tells that there is more"


def test_kinds_that_can_be_no_request(disk: LocalDisk, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch / "d")
    disk.write("d/real", b"secret")
    os.mkfifo("fifo")
    os.symlink("real", "link")
    os.mkdir("dir")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    words = {"fifo": "regular", "link": "symbolic", "dir": "regular", "socket": "regular"}
    for name, word in words.items():
        found = disk.inspect(f"d/{name}", 100)
        assert word in (found.refusal or ""), name
        assert found.data == b""


def test_a_second_hard_link_is_refused(disk: LocalDisk, scratch: Path) -> None:
    disk.write("d/x", b"{}")
    os.link(scratch / "d/x", scratch / "d/y")
    assert "hard link" in (disk.inspect("d/x", 9).refusal or "")
    os.unlink(scratch / "d/y")
    assert disk.inspect("d/x", 9).refusal is None


@pytest.mark.parametrize(("mode", "word"), [(0o666, "everybody"), (0o602, "everybody"), (0o644, ""), (0o400, "")])
def test_who_else_may_write(disk: LocalDisk, scratch: Path, mode: int, word: str) -> None:
    disk.write("d/x", b"{}")
    os.chmod(scratch / "d/x", mode)
    refusal = disk.inspect("d/x", 9).refusal or ""
    assert word in refusal and bool(refusal) == bool(word)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_shared_group_may_not_write(disk: LocalDisk, scratch: Path) -> None:
    disk.write("d/x", b"{}")
    os.chmod(scratch / "d/x", 0o664)
    os.chown(scratch / "d/x", 54321, 100)
    found = disk.inspect("d/x", 9)
    assert "group" in (found.refusal or "")
    assert found.uid == 54321


def test_a_file_that_changes_while_it_is_read_has_no_stamp(
    disk: LocalDisk, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("d/x", b"12345")
    real = os.read

    def grow(fd: int, size: int) -> bytes:
        with open(scratch / "d/x", "ab") as file:
            file.write(b"6")
        return real(fd, size)

    monkeypatch.setattr(os, "read", grow)
    assert disk.inspect("d/x", 100).stamp[1] == -1


def test_present_needs_the_sentinel(disk: LocalDisk, scratch: Path) -> None:
    files.present(disk)
    (scratch / layout.SENTINEL).unlink()
    with pytest.raises(ShareAway, match="init share"):
        files.present(disk)


def test_unfinished_files_are_removed_when_they_are_old(scratch: Path) -> None:
    disk = LocalDisk(str(scratch))
    (scratch / "incoming" / "below").mkdir(parents=True)
    for name, age in ((".old.1.tmp", 5000), ("below/.old.2.tmp", 5000), (".new.tmp", 10), ("job.json", 5000)):
        path = scratch / "incoming" / name
        path.write_text("x")
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    assert files.remove_unfinished(disk, "incoming", 3600) == 2
    left = sorted(str(p.relative_to(scratch)) for p in scratch.rglob("*") if p.is_file())
    assert left == ["incoming/.new.tmp", "incoming/job.json"]
