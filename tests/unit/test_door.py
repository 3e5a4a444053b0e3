"""The hostile door: whatever lies in incoming/ is answered by one receipt or left alone, and harms nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.host import checking
from hakuriver.host.checking import Refusal
from hakuriver.host.leader import Host
from hakuriver.ids import new_job_id
from hakuriver.records import Receipt, RunRequest
from hakuriver.settings import parse
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk, ShareError
from hakuriver.spool.layout import TREE, Baton

JOB = "01792345678901234567"
RUN = b'{"command": ["echo", "hi"]}'


class River:
    """A share with a host that is ticked by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = 0.0
        disk = self.disk = LocalDisk(str(root))
        for path in TREE:
            (root / path).mkdir(parents=True)
        disk.write(Baton(0, "none", 0, 0).path, b"")
        disk.write(layout.SENTINEL, b'{"cluster": "test", "cluster_id": "c", "created_at": 0}')
        self.start()

    def start(self) -> None:
        """Begin, or begin again after a crash."""
        self.host = Host(
            self.disk,
            parse({"paths": {"shared_dir": str(self.root)}}, "test"),
            "aabbccddeeff",
            boottime=lambda: self.clock,
            now=time.time,
            new_id=new_job_id,
            own_uid=os.getuid(),
        )
        self.tick(0.0)

    def tick(self, passed: float = 1.5) -> None:
        """One tick, after some seconds."""
        self.clock += passed
        self.host.tick()

    def settle(self) -> None:
        """Let a file that does not change any more be answered."""
        for _ in range(4):
            self.tick()

    def drop(self, name: str, data: bytes = RUN) -> Path:
        """As `cp` does it."""
        path = self.root / "incoming" / name
        path.write_bytes(data)
        return path

    def ask(self, name: str, data: bytes = RUN) -> Receipt:
        """Drop a file and read its receipt, by name."""
        self.drop(name, data)
        self.settle()
        return self.receipt(name)

    def receipt(self, name: str) -> Receipt:
        """The answer to a file of this name."""
        path = self.root / layout.receipt(name.removesuffix(".json"))
        return Receipt.model_validate_json(path.read_bytes())

    def receipts(self) -> list[Receipt]:
        """Every receipt by its id, without the copies."""
        found = [json.loads(path.read_bytes()) for path in (self.root / "receipts").iterdir()]
        return [Receipt.model_validate(r) for r in {r["request"]: r for r in found}.values()]

    def names(self, directory: str) -> list[str]:
        """What lies in a directory."""
        return sorted(os.listdir(self.root / directory))


@pytest.fixture
def river(scratch: Path) -> River:
    return River(scratch / "share")


# --- what is accepted


def test_a_hand_made_file_is_accepted_under_an_id_of_the_hosts(river: River) -> None:
    receipt = river.ask("job.json")
    assert (receipt.outcome, receipt.tasks, receipt.kind) == ("accepted", 1, "run")
    assert receipt.ids == [receipt.request]
    assert river.receipt(receipt.request) == receipt
    assert river.names("incoming") == river.names("host/taken") == []


def test_a_byte_order_mark_is_passed_over(river: River) -> None:
    assert river.ask("notepad.json", b"\xef\xbb\xbf" + RUN).outcome == "accepted"


def test_the_same_name_dropped_again_is_a_new_job(river: River) -> None:
    first, second = river.ask("job.json"), river.ask("job.json")
    assert first.ids != second.ids
    assert set(river.host.state.jobs) == {*first.ids, *second.ids}


def test_the_same_id_dropped_again_is_the_same_job(river: River) -> None:
    first = river.ask(f"{JOB}.json")
    assert first.ids == [JOB]
    assert river.ask(f"{JOB}.json") == first
    assert list(river.host.state.jobs) == [JOB]


def test_a_repeat_under_another_name_gets_its_own_receipt(river: River) -> None:
    data = json.dumps({"command": ["true"], "id": JOB}).encode()
    assert river.ask("one.json", data).ids == [JOB]
    assert river.ask("two.json", data).ids == [JOB]
    assert list(river.host.state.jobs) == [JOB]


def test_a_repeated_batch_tells_the_same_ids(river: River) -> None:
    ids = [f"0179234567890123456{n}" for n in range(3)]
    lines = [json.dumps({"command": ["true"], "id": job}).encode() for job in ids]
    data = b"\n".join([*lines, b'{"end": 3}']) + b"\n"
    first, again = river.ask("batch.jsonl", data), river.ask("batch.jsonl", data)
    assert first.ids == again.ids == ids
    assert again.tasks == 3
    assert sorted(river.host.state.jobs) == ids


def test_a_file_that_is_still_being_copied_is_waited_for(river: River) -> None:
    with open(river.root / "incoming" / "slow.json", "wb") as file:  # taken at once; this descriptor goes on
        for end in range(1, len(RUN)):
            file.write(RUN[end - 1 : end])
            file.flush()
            river.tick()
            assert river.names("receipts") == []
        file.write(RUN[-1:])
        file.flush()
        river.tick()
    assert river.receipt("slow.json").outcome == "accepted"


def test_half_a_file_that_stays_so_is_refused(river: River) -> None:
    receipt = river.ask("half.json", RUN[:9])
    assert receipt.outcome == "refused"
    assert "no JSON" in receipt.errors[0].message


def test_a_batch_without_its_closing_line_is_whole_once_it_rests(river: River) -> None:
    river.drop("open.jsonl", RUN + b"\n" + RUN + b"\n")
    river.tick()
    assert river.names("receipts") == []
    river.settle()
    assert len(river.receipt("open.jsonl.json").ids) == 2


@pytest.mark.parametrize(("end", "jobs"), [(b"", 2), (b'\n{"end": 2}', 2), (b'\n{"command": ["ec', 0)])
def test_the_last_line_of_a_batch_counts_though_it_has_no_end(river: River, end: bytes, jobs: int) -> None:
    receipt = river.ask("open.jsonl", RUN + b"\n" + RUN + end)
    assert len(receipt.ids) == jobs
    assert receipt.outcome == ("accepted" if jobs else "refused")


def test_one_bad_line_refuses_the_whole_batch(river: River) -> None:
    receipt = river.ask("x.jsonl", RUN + b'\n{"command": []}\n{"end": 2}\n')
    assert receipt.outcome == "refused"
    assert receipt.errors[0].field == "line 2: command"
    assert not river.host.state.jobs


def test_touch_kills(river: River) -> None:
    river.ask(f"{JOB}.json")
    receipt = river.ask(f"{JOB}.kill", b"")
    assert [(a.task, a.ok, a.outcome) for a in receipt.answers] == [(JOB, True, "killed")]


def test_what_is_asked_of_a_job_that_is_over_is_answered_with_how_it_ended(river: River) -> None:
    river.drop(f"{JOB}.json", b'{"command": ["x"], "array": "0-1"}')
    river.settle()
    river.ask(f"{JOB}.kill", b"")
    for kind, said in (
        ("kill", "already killed"),
        ("pause", "cannot pause: killed"),
        ("resume", "cannot resume: killed"),
    ):
        targets = [JOB, f"{JOB}-1", f"{JOB}-7"]
        receipt = river.ask(f"{kind}.json", json.dumps({"request": kind, "targets": targets}).encode())
        found = {answer.task: (answer.ok, answer.outcome) for answer in receipt.answers}
        assert found == {JOB: (False, said), f"{JOB}-1": (False, said), f"{JOB}-7": (False, "there is no such task")}


def test_a_kill_that_is_read_before_its_job_waits_for_it(river: River) -> None:
    path = river.drop(f"{JOB}.json", RUN[:-1])  # still being copied
    river.drop(f"{JOB}.kill", b"")
    river.tick()
    assert river.names("receipts") == []
    path = next((river.root / "host" / "taken").glob(f"*.{JOB}.json"))
    path.write_bytes(RUN)
    river.settle()
    assert river.receipt(f"{JOB}.json").outcome == "accepted"
    assert [a.ok for a in river.receipt(f"{JOB}.kill").answers] == [True]


def test_a_kill_of_a_job_that_is_in_no_file_is_answered_soon(river: River) -> None:
    receipt = river.ask(f"{JOB}.kill", b"")
    assert [(a.ok, a.outcome) for a in receipt.answers] == [(False, "there is no such job")]


def test_a_request_that_stays_after_its_answer_is_not_answered_again(
    river: River, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(river.disk, "remove", lambda path: None)  # the removals meet the empty mount point
    first = river.ask("job.json")
    names = LocalDisk.list
    river.tick(5.0)
    monkeypatch.setattr(LocalDisk, "list", lambda self, path: [] if path == layout.TAKEN else names(self, path))
    river.tick(5.0)  # a listing that misses it
    monkeypatch.undo()
    river.settle()
    river.tick(5.0)
    river.settle()
    assert river.receipts() == [first]
    assert river.names("host/taken") == []


def test_a_job_and_a_task_of_it_named_together_are_answered_once(river: River) -> None:
    river.ask(f"{JOB}.json", b'{"command": ["true"], "array": "0-2"}')
    asked = {"request": "kill", "targets": [f"{JOB}-1", JOB, f"{JOB}-1"]}
    receipt = river.ask("kill.json", json.dumps(asked).encode())
    assert [a.task for a in receipt.answers] == [f"{JOB}-{k}" for k in range(3)]
    assert all(a.ok for a in receipt.answers)


def test_housekeeping_takes_old_receipts_and_their_copies_by_id(river: River) -> None:
    old = "01500000000000000000"
    river.ask(f"{old}.kill", b"")
    river.ask("mine.kill", b"")
    path = river.root / "receipts" / f"{old}-3.kill.json"
    path.write_bytes(b"{}")
    river.ask("gc.json", b'{"request": "gc", "older_than": "1d"}')
    assert not path.exists()
    assert f"{old}.kill.json" not in river.names("receipts")
    assert "mine.kill.json" in river.names("receipts")


# --- what is refused, and what the refusal says

REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "file", "no JSON"),
    (b"\xff\xfe{}", "file", "not UTF-8"),
    (b"[1]", "file", "JSON object"),
    (b"null", "file", "JSON object"),
    (b'{"command": ["x"], "cores": NaN}', "file", "NaN"),
    (b'{"command": ["x"], "time_limit": -Infinity}', "file", "-Infinity"),
    (b'{"command": ["x"], "command": ["y"]}', "file", "'command' stands in it twice"),
    (b'{"command": ["x"], "env": {"A": "1", "A": "2"}}', "file", "'A' stands in it twice"),
    (b"[" * 200_000, "file", "nested"),
    (b'{"a":' * 40 + b"1" + b"}" * 40, "file", "nested"),
    (b"{}", "command", "must be there"),
    (b'{"command": []}', "command", "at least 1"),
    (b'{"command": "echo hi"}', "command", "list"),
    (b'{"command": ["x", 1]}', "command.1", "string"),
    (b'{"command": ["\\u0000"]}', "command.0", "NUL"),
    (b'{"command": ["\\ud800"]}', "command.0", "surrogate"),
    (b'{"command": ["x"], "cores": "\\ud800"}', "cores", "integer"),
    (b'{"command": ["x"], "coars": 3}', "coars", "no such key"),
    (b'{"command": ["x"], "cores": true}', "cores", "whole number"),
    (b'{"command": ["x"], "cores": 1.0}', "cores", "whole number"),
    (b'{"command": ["x"], "cores": -1}', "cores", "greater than or equal"),
    (b'{"command": ["x"], "memory": "lots"}', "memory", "no size"),
    (b'{"command": ["x"], "memory": 1' + b"0" * 40 + b"}", "memory", "less than or equal"),
    (b'{"command": ["x"], "time_limit": 0}', "time_limit", "greater than 0"),
    (b'{"command": ["x"], "time_limit": 1e999}', "time_limit", "less than or equal"),
    (b'{"command": ["x"], "retries": ' + b"9" * 5000 + b"}", "file", ""),
    (b'{"command": ["x"], "array": "0-9999999"}', "file", "1,000,000"),
    (b'{"command": ["x"], "array": "3-1"}', "array", "backwards"),
    (b'{"command": ["x"], "array": "1,1"}', "array", "twice"),
    (b'{"command": ["x"], "env": {"A=B": "1"}}', "env", "no name"),
    (b'{"command": ["x"], "env": {"HAKURIVER_X": "1"}}', "env", "set by HakuRiver"),
    (b'{"command": ["x"], "workdir": "here"}', "workdir", "absolute"),
    (b'{"command": ["x"], "targets": ["../etc"]}', "targets", "no node name"),
    (b'{"command": ["x"], "targets": ["nobody"]}', "targets", "no such node"),
    (b'{"command": ["x"], "priority": 101}', "priority", "less than or equal"),
    (b'{"command": ["x"], "executor": "docker"}', "container", "no package for environment hakuriver-base"),
    (b'{"command": ["x"], "container": "torch"}', "container", "no package for environment torch"),
    (b'{"command": ["x"], "container": "Torch"}', "container", "no environment's name"),
    (b'{"command": ["x"], "gpus": 65}', "gpus", "less than or equal"),
    (b'{"command": ["x"], "gpus": 1, "targets": ["n1::0"]}', "gpus", "names its GPUs already"),
    (b'{"command": ["x"], "gpus": 1, "container": "NULL"}', "gpus", "in a container only"),
    (b'{"command": ["x"], "targets": ["n1::0"], "executor": "systemd"}', "targets", "in a container only"),
    (b'{"command": ["x"], "targets": ["n1::0"], "executor": "process"}', "targets", "in a container only"),
    (b'{"command": ["x"], "targets": ["n1::0,0"]}', "targets", "GPU 0 stands in it twice"),
    (b'{"command": ["x"], "targets": ["n1:a"]}', "targets", "no target"),
    (b'{"command": ["x"], "targets": ["n1:0"], "executor": "process"}', "targets", "plain process"),
    (b'{"command": ["x"], "private_pid": true, "executor": "process"}', "private_pid", "plain process"),
    (b'{"command": ["x"], "container": "NULL", "executor": "docker"}', "container", "needs one"),
    (b'{"command": ["x"], "container": "torch", "executor": "systemd"}', "container", "runs without one"),
    (b'{"command": ["x"], "privileged": true, "container": "NULL"}', "privileged", "in a container only"),
    (b'{"command": ["x"], "mounts": ["/a:/b"], "executor": "process"}', "mounts", "in a container only"),
    (b'{"command": ["x"], "mounts": ["/a"]}', "mounts", "no mount"),
    (b'{"command": ["x"], "mounts": ["/a:/b:rx"]}', "mounts", "no mount"),
    (b'{"command": ["x"], "mounts": ["/a/../b:/b"]}', "mounts", "no .. in it"),
    (b'{"command": ["x"], "no_queue": 1}', "no_queue", "valid boolean"),
    (b'{"command": ["x"], "no_queue": true, "array": "0-9%2"}', "array", "would have to"),
    (b'{"request": "vps", "command": ["x"]}', "request", "no VPS yet"),
    (b'{"command": [""]}', "command", "empty"),
    (b'{"command": ["x"], "format": 2}', "format", "1"),
    (b'{"command": ["x"], "id": "1"}', "id", "pattern"),
    (b'{"request": "kil", "targets": ["1"]}', "request", "no such request"),
    (b'{"request": ["run"]}', "request", "no such request"),
    (b'{"request": "kill", "targets": []}', "targets", "at least 1"),
    (b'{"request": "kill", "targets": ["%s"], "grace": -1}' % JOB.encode(), "grace", "greater than or equal to 0"),
    (b'{"request": "kill", "targets": ["%s"], "grace": "2h"}' % JOB.encode(), "grace", "less than or equal to 3600"),
    (b'{"request": "kill", "targets": ["%s"], "grace": true}' % JOB.encode(), "grace", "must be seconds"),
    (b'{"request": "pause", "targets": ["%s"], "grace": 1}' % JOB.encode(), "grace", "only a kill"),
    (b'{"request": "drain", "node": "nobody"}', "node", "no such node"),
    (b'{"request": "gc", "older_than": -1}', "older_than", "greater than or equal"),
]


@pytest.mark.parametrize(("data", "field", "message"), REFUSED, ids=lambda v: repr(v)[:40])
def test_a_refusal_names_field_and_fault(river: River, data: bytes, field: str, message: str) -> None:
    receipt = river.ask("bad.json", data)
    assert receipt.outcome == "refused"
    assert receipt.errors[0].field == field
    assert message in receipt.errors[0].message
    assert receipt.errors[0].remedy
    assert river.names("host/taken") == []
    assert not river.host.state.jobs


def test_an_unknown_key_is_told_with_the_nearest_known_one(river: River) -> None:
    (error,) = river.ask("bad.json", b'{"command": ["x"], "time_limits": 3}').errors
    assert (error.value, error.remedy) == ("3", "the nearest known one is time_limit")


@pytest.mark.parametrize("env", [{"KEY": "s3cret", "A=B": "1"}, {"KEY": ["s3cret"]}, ["s3cret"]])
def test_a_refusal_tells_no_value_of_an_environment(river: River, env: Any) -> None:
    receipt = river.ask("bad.json", json.dumps({"command": ["x"], "env": env}).encode())
    assert receipt.errors[0].field.startswith("env")
    assert "s3cret" not in receipt.model_dump_json()


def test_100_mb_are_refused_without_being_read(river: River) -> None:
    path = river.drop("huge.json", RUN)
    os.truncate(path, 100_000_000)
    river.tick()
    assert "100,000,000 bytes" in river.receipt("huge.json").errors[0].message


def test_a_key_twice_among_many_is_found_quickly(river: River) -> None:
    data = ("{" + ",".join(f'"{n}":0' for n in range(90_000)) + ',"0":1}').encode()
    before = time.process_time()
    assert "'0' stands in it twice" in river.ask("many.json", data).errors[0].message
    assert time.process_time() - before < 20  # it was minutes once


def test_a_receipt_does_not_grow_with_what_it_refuses(river: River) -> None:
    river.ask("long.json", b'{"' + b"k" * 1_000_000 + b'": 1}')
    assert (river.root / "receipts/long.json").stat().st_size < 2000


@pytest.mark.parametrize("name", [f"{JOB}-99999999999.kill", "job.kill", f"{JOB}-01.pause", f"{JOB}x.requeue"])
def test_a_touched_file_must_name_a_job_or_task(river: River, name: str) -> None:
    receipt = river.ask(name, b"")
    assert (receipt.outcome, receipt.kind) == ("refused", name.rpartition(".")[2])
    assert "job id or a task" in receipt.errors[0].message


def test_a_control_waits_for_a_job_that_an_earlier_run_took_and_a_listing_misses(scratch: Path) -> None:
    river = River(scratch / "share")
    for name in (f"{JOB}.json", f"{JOB}.kill"):
        river.drop(name, RUN if name.endswith("json") else b"")
    river.host.door.take(1, 1)  # and there its host dies
    river.disk = _Misses(str(river.root), layout.TAKEN, f"{JOB}.json")
    river.start()
    river.settle()
    river.settle()
    [answer] = river.receipt(f"{JOB}.kill").answers
    assert (answer.outcome, river.receipt(f"{JOB}.json").outcome) == ("killed", "accepted")


class _Misses(LocalDisk):
    """The first listings of a directory, at the start and in a sweep, leave out a request's file."""

    def __init__(self, root: str, directory: str, name: str) -> None:
        super().__init__(root)
        self._directory, self._name, self._left = directory, name, 2

    def list(self, path: str) -> list[Entry]:
        found = super().list(path)
        if path != self._directory or not self._left:
            return found
        self._left -= 1
        return [entry for entry in found if not entry.name.endswith(self._name)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000 + b"\n", "nested"),
        (RUN + b'\n{"end": 2}\n', "says 2 jobs, 1 lines"),
        (RUN + b'\n{"end": true}\n', "must be there"),
        (b'{"end": 0}\n', "no job"),
        (RUN[:-1] + b" " * (1 << 20) + b'}\n{"end": 1}\n', "1,048,576 bytes at most"),
        (b'{"request": "kill", "targets": ["%s"]}\n{"end": 1}\n' % JOB.encode(), "only jobs"),
        (b'{"command":["x"],"id":"%s"}\n' % JOB.encode() * 2 + b'{"end": 2}\n', "stands in it twice"),
    ],
)
def test_bad_batches(river: River, data: bytes, message: str) -> None:
    receipt = river.ask("bad.jsonl", data)
    assert (receipt.outcome, receipt.kind) == ("refused", "batch")
    assert message in receipt.errors[0].message


# --- what is no regular file of one owner


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _symlink(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "outside")


def _dangling(path: Path) -> None:
    path.symlink_to("/nowhere")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _hard_link(path: Path) -> None:
    os.link(path.parent.parent.parent / "outside", path)


def _world_writable(path: Path) -> None:
    path.write_bytes(RUN)
    path.chmod(0o666)


@pytest.mark.parametrize("make", [_fifo, _socket, _symlink, _dangling, _loop, _hard_link, _world_writable])
def test_what_is_no_file_of_one_owner_is_refused(river: River, make: Any) -> None:
    outside = river.root.parent / "outside"
    outside.write_bytes(RUN)
    make(river.root / "incoming" / "odd.json")
    river.tick()
    receipt = river.receipt("odd.json")
    assert (receipt.outcome, receipt.errors[0].field, receipt.errors[0].value) == ("refused", "file", "odd.json")
    assert outside.read_bytes() == RUN
    assert river.names("incoming") == river.names("host/taken") == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused_with_that_reason(river: River) -> None:
    os.chown(river.drop("other.json"), 54321, 54321)
    river.tick()
    receipt = river.receipt("other.json")
    assert (receipt.outcome, receipt.uid) == ("refused", 54321)
    assert "belongs to 54321" in receipt.errors[0].message


def test_directories_and_names_that_are_no_request_are_left_alone(river: River) -> None:
    (river.root / "incoming" / "dir.json").mkdir()
    odd = [".hidden.json", "a b.json", "new\nline.json", "ünï.json", "x" * 250 + ".json", "noend", "job.JSON", "-.txt"]
    for name in odd:
        river.drop(name)
    with open(os.fsencode(river.root / "incoming") + b"/\xff\xfe.json", "wb") as file:
        file.write(RUN)
    before = river.names("incoming")
    river.settle()
    assert river.names("incoming") == before
    assert river.names("receipts") == []


def test_a_directory_put_in_place_of_a_taken_file_stops_nothing(river: River, monkeypatch: pytest.MonkeyPatch) -> None:
    (river.root / "incoming" / "trap.json" / "full").mkdir(parents=True)
    real = river.disk.list
    monkeypatch.setattr(river.disk, "list", lambda path: [e._replace(is_dir=False) for e in real(path)])
    river.tick()
    assert river.receipt("trap.json").outcome == "refused"
    monkeypatch.undo()
    assert river.ask("next.json").outcome == "accepted"


def test_a_taken_file_that_vanishes_is_forgotten(river: River) -> None:
    river.drop("gone.json", b"{")
    river.tick()
    (name,) = river.names("host/taken")
    (river.root / "host/taken" / name).unlink()
    river.settle()
    assert river.names("receipts") == []
    assert not river.host.door.busy


def test_a_door_that_is_not_there_is_waited_for(river: River) -> None:
    (river.root / "incoming").rename(river.root / "elsewhere")
    with pytest.raises(ShareError, match="incoming"):
        river.tick()
    (river.root / "elsewhere").rename(river.root / "incoming")
    assert river.ask("job.json").outcome == "accepted"


def test_files_that_change_and_vanish_while_they_are_read(river: River) -> None:
    stop, enough = threading.Event(), threading.Event()

    def disturb() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            if n > 200:
                enough.set()
            path = river.root / "incoming" / f"j{n % 5}.json"
            try:
                path.write_bytes((RUN if n % 3 else b"{") * (n % 4))
                if n % 7 == 0:
                    path.unlink()
                for taken in (river.root / "host/taken").iterdir():
                    with open(taken, "r+b") as file:  # as a slow `cp` does that began before the rename
                        file.write(b"{" if n % 2 else RUN)
            except FileNotFoundError:
                pass

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(60):
            river.tick(0.5)
        assert enough.wait(60)
        river.tick(0.5)
    finally:
        stop.set()
        thread.join()
    river.settle()
    assert river.names("host/taken") == []
    assert len({r.request for r in river.receipts()}) >= 1
    accepted = {job for r in river.receipts() if r.outcome == "accepted" for job in r.ids}
    assert accepted <= set(river.host.state.jobs)


# --- anything at all

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = st.sampled_from([*RunRequest.model_fields, "targets", "node", "older_than", "coars", "\ud800"])
_requests = st.dictionaries(_fields, _json, max_size=6).flatmap(
    lambda body: st.sampled_from([{"command": ["x"], **body}, body, {"request": "kill", **body}])
)
_bodies = st.binary(max_size=200) | _json.map(json.dumps).map(str.encode) | _requests.map(json.dumps).map(str.encode)
_batches = st.lists(_bodies, max_size=4).map(b"\n".join)
_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..")
)
_stems = st.sampled_from([JOB, f"{JOB}-0", "job", "..x", "a.b", "-", "nul"]) | _names
_endings = st.sampled_from(["json", "jsonl", "kill", "pause", "resume", "requeue", "txt"])


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[River]:
    """One host for all examples: none of them may stop it."""
    yield River(tmp_path_factory.mktemp("door") / "share")


@settings(max_examples=300)
@given(stem=_stems, ending=_endings, data=_bodies | _batches)
def test_anything_is_answered_or_left_alone(lasting: River, stem: str, ending: str, data: bytes) -> None:
    name = f"{stem}.{ending}"
    if len(name.encode()) > 255:
        return
    known = {r.request for r in lasting.receipts()}
    path = lasting.drop(name, data)
    lasting.settle()
    new = [r for r in lasting.receipts() if r.request not in known]
    if layout.DOOR_NAME.fullmatch(name):
        assert lasting.names("incoming") == lasting.names("host/taken") == []
        assert [r.name for r in new] in ([name], []) and (new or JOB in known)
    else:
        assert lasting.names("incoming") == [name] and not new
        path.unlink()
    assert lasting.names("") == sorted({layout.SENTINEL, *(p.split("/")[0] for p in TREE)})


def test_after_all_that_the_journal_can_be_read_again(lasting: River) -> None:
    jobs = set(lasting.host.state.jobs)
    lasting.start()
    assert set(lasting.host.state.jobs) == jobs
    assert lasting.ask("still-here.json").outcome == "accepted"


@given(_bodies)
def test_checking_gives_a_request_or_a_refusal(data: bytes) -> None:
    try:
        body = checking.request(data)
    except Refusal as refusal:
        assert refusal.problems and all(set(p) == {"field", "value", "message", "remedy"} for p in refusal.problems)
        json.dumps(refusal.problems, ensure_ascii=False).encode()
    else:
        assert body.request in checking._MODELS


@given(_requests)
def test_what_is_accepted_is_what_was_asked(body: dict[str, Any]) -> None:
    try:
        found = checking.check(body)
    except Refusal:
        return
    if isinstance(found, RunRequest):
        spec = checking.spec_of(found)
        assert spec["command"] == body["command"]
        assert spec["cores"] == body.get("cores", 1)
