"""How two mounts see each other: a real answering process, over one directory and over two bind mounts of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import eventually
from doctors import given_up_when
from riverfiles import RiverFiles

from hakuriver import __version__
from hakuriver.doctor import answering, examining, letters, pair, probes, site
from hakuriver.doctor.examining import Examination
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding, of_status
from hakuriver.doctor.letters import ANSWER, ASK, Cancelled, Letters, NoLetter
from hakuriver.doctor.pair import NoAnswer, Pair
from hakuriver.doctor.probes import Bench
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk, ShareError

RUN = "17000000000000000001"


@pytest.fixture
def river(scratch: Path) -> RiverFiles:
    made = RiverFiles(scratch / "river")
    made.describe("n2", [])
    return made


@contextmanager
def runner(root: Path, node: str) -> Iterator[list[str]]:
    """Does with the doctor's files what a runner does; yields the names that it has seen."""
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for name in os.listdir(root / "nodes" / node):
                if layout.parse_doctor_ask(name):
                    seen.append(name)
                    answering.start(str(root), node, name)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        for name in seen:
            run = layout.parse_doctor_ask(name)
            if run in answering._started:
                eventually(lambda run=run: answering._started[run].poll() is not None)  # type: ignore[misc]


def measure(root: Path, node: str = "n2", disk: LocalDisk | None = None) -> dict[str, Finding]:
    found: list[Finding] = []
    own = disk or LocalDisk(str(root))
    with site.opened(own, RUN) as at:
        Pair(Bench(own, at), node, RUN, time.monotonic() + 50, lambda: False).measure(found.extend)
    return {f.check: f for f in found}


@pytest.fixture(autouse=True)
def forget_runs() -> Iterator[None]:
    yield
    answering._started.clear()


def test_two_sides_of_one_directory(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "RATE_LOW", 0.0)  # how fast the disk is now is not asked
    with runner(river.root, "n2") as seen:
        found = measure(river.root)
    assert {
        "other.node", "other.filesystem", "other.rate", "pair.visibility", "pair.clock", "pair.rename", "pair.locks",
        "pair.owner", "pair.replaced", "pair.by_name",
    } <= found.keys()  # fmt: skip
    assert not of_status(found.values(), BROKEN) + of_status(found.values(), WARNING), found
    assert f"hakuriver {__version__}" in found["other.node"].value
    assert found["pair.rename"].status == OK
    assert found["pair.locks"].status == OK
    assert len(answering._started) == 1
    assert len(set(seen)) == 1
    assert not list((river.root / "nodes/n2").glob("doctor.*"))
    eventually(lambda: not os.listdir(river.root / layout.DOCTOR))


def test_two_mounts(river: RiverFiles, scratch: Path) -> None:
    here, there = scratch / "here", scratch / "there"
    for point in (here, there):
        point.mkdir()
        if subprocess.run(["mount", "--bind", str(river.root), str(point)], capture_output=True).returncode:
            pytest.skip("no right to mount")
    try:
        with runner(there, "n2"):
            found = measure(here)
        assert found["pair.rename"].status == OK
        assert found["pair.visibility"].status == OK
    finally:
        for point in (here, there):
            subprocess.run(["umount", "-l", str(point)], check=True)


def test_a_rename_that_both_win(river: RiverFiles) -> None:
    class Copies(LocalDisk):
        """Leaves the source where it is, as a folder does that a program copies between machines."""

        def rename(self, source: str, target: str) -> None:
            if "/race/" in source:
                Path(self._path(target)).write_bytes(b"")
            else:
                super().rename(source, target)

    with runner(river.root, "n2"):
        found = measure(river.root, disk=Copies(str(river.root)))
    assert found["pair.rename"].status == BROKEN
    assert found["pair.rename"].remedy


def test_listings_that_are_late_are_told_and_measured_around(
    river: RiverFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on sshfs: a name is there when it is asked for, long before a listing shows it."""

    class Late(LocalDisk):
        def list(self, path: str) -> list[Entry]:
            return [e for e in super().list(path) if not e.name.startswith(ANSWER)]

    monkeypatch.setattr(letters, "LISTED_S", 0.05)
    with runner(river.root, "n2"):
        found = measure(river.root, disk=Late(str(river.root)))
    assert found["pair.visibility"].status == WARNING
    assert "dcache_timeout=1" in found["pair.visibility"].remedy
    assert found["pair.by_name"].status == OK


def test_a_node_that_does_not_answer(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "HELLO_S", 0.2)
    with pytest.raises(NoAnswer, match="runner is up") as silent:
        measure(river.root)
    assert "same share" in str(silent.value)
    assert not list((river.root / "nodes/n2").glob("doctor.*"))
    assert not os.listdir(river.root / layout.DOCTOR)


def test_a_node_that_falls_silent(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "REPLY_S", 0.2)

    def hello_and_no_more() -> None:
        with_letters = Letters(LocalDisk(str(river.root)), layout.doctor(RUN), ANSWER, ASK)
        eventually(lambda: (river.root / layout.NodePaths("n2").doctor_ask(RUN)).exists())
        with_letters.send(hostname="h", version="0.0", python="3", uid=os.geteuid(), mount=[])

    other = threading.Thread(target=hello_and_no_more)
    other.start()
    with pytest.raises(NoAnswer, match="stopped answering"):
        measure(river.root)
    other.join()


# -- the answering side


def test_a_runner_is_never_hurt(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in ("", "doctor.", "doctor.12", "../../x", "x" * 20):
        answering.start(str(river.root), "n2", ask)
    assert answering._started == {}
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    answering.start(str(river.root), "n2", f"doctor.{RUN}")
    assert answering._started == {}


def test_as_many_at_once_as_may_be(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MOST", 2)
    disk = LocalDisk(str(river.root))
    runs = [f"{int(RUN) + n}" for n in range(4)]
    for run in runs:
        disk.mkdir(layout.doctor(run))
    for run in runs:
        answering.start(str(river.root), "n2", run)
        answering.start(str(river.root), "n2", run)
    assert list(answering._started) == runs[:2]
    for run in runs:
        site.remove(disk, layout.doctor(run))
    eventually(lambda: all(process.poll() is not None for process in answering._started.values()))
    assert not os.listdir(river.root / layout.DOCTOR)


def test_only_one_answers(river: RiverFiles) -> None:
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN) as at:
        disk.write(f"{at}/answering", b"")
        assert answering.main(str(river.root), RUN) == 1
        assert sorted(os.listdir(river.root / at)) == ["answering"]


def test_it_ends_when_the_doctor_has_gone(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LOOK_UP_S", 0.05)
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN):
        thread = threading.Thread(target=answering.answer, args=(disk, RUN), daemon=True)
        thread.start()
        eventually(lambda: (river.root / layout.doctor(RUN) / f"{ANSWER}-0.json").exists())
    thread.join(10)
    assert not thread.is_alive()
    assert not os.listdir(river.root / layout.DOCTOR)


def test_it_ends_in_time_though_the_doctor_stays(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LOOK_UP_S", 0.05)
    monkeypatch.setattr(answering, "LIFE_S", 0.2)
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN):
        answering.answer(disk, RUN)


def test_what_it_cannot_do_it_says(river: RiverFiles) -> None:
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN) as at:
        thread = threading.Thread(target=answering.answer, args=(disk, RUN), daemon=True)
        thread.start()
        ours = Letters(disk, at, ASK, ANSWER)
        ours.receive(10)
        ours.send(do="dance")
        assert "cannot dance" in ours.receive(10).body["error"]
        ours.send(do="owner", name="nothing")
        assert "nothing" in ours.receive(10).body["error"]
        ours.send(do="over")
        thread.join(10)
        assert not thread.is_alive()


# -- letters


def test_letters_come_in_order_and_whole(river: RiverFiles) -> None:
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN) as at:
        one, other = Letters(disk, at, ASK, ANSWER), Letters(disk, at, ANSWER, ASK)
        one.send(a=1)
        one.send(a=2)
        assert [other.receive(1).body["a"] for _ in range(2)] == [1, 2]
        (river.root / at / "ask-2.json").write_text('{"a": ')
        with pytest.raises(NoLetter):
            other.receive(0.1)
        (river.root / at / "ask-2.json").write_text('{"a": 3}')
        assert other.receive(1).body == {"a": 3}
        with pytest.raises(Cancelled):
            Letters(disk, at, ASK, ANSWER, lambda: True).receive(10)


def test_no_letter_makes_the_directory_anew(river: RiverFiles) -> None:
    with pytest.raises(FileNotFoundError):
        Letters(LocalDisk(str(river.root)), layout.doctor(RUN), ASK, ANSWER).send(a=1)
    assert not os.listdir(river.root / layout.DOCTOR)


# -- what it means


def test_visibility() -> None:
    assert pair.judge_visibility([0.01, 0.02, 0.03], 0).status == OK
    slow = pair.judge_visibility([5.0], 0)
    assert (slow.status, "dcache_timeout=1" in slow.remedy) == (WARNING, True)
    assert pair.judge_visibility([0.5], 1).status == WARNING


@pytest.mark.parametrize("judge", [pair.judge_by_name, pair.judge_replaced])
def test_late_files(judge: object) -> None:
    assert callable(judge)
    assert judge(0.1).status == OK
    assert judge(3.0).status == NOTE
    late = judge(None)
    assert (late.status, late.value) == (NOTE, "later than 8 s")


def test_clocks() -> None:
    assert pair.judge_clocks(0.02, 1.0).status == OK
    far = pair.judge_clocks(0.02, -100.0)
    assert (far.status, far.value) == (NOTE, "100.00 s behind this machine's, give or take 0.01 s")


@pytest.mark.parametrize(
    ("arguments", "statuses"),
    [
        ((5, 5, 0o640, 5, 5), [OK]), ((5, 5, 0o755, 5, 5), [OK, NOTE]), ((0, 65534, 0o640, 0, 0), [WARNING]),
        ((0, 0, 0o640, 0, 1000), [WARNING]), ((5, 5, 0o640, 6, 6), [WARNING]),
    ],
)  # fmt: skip
def test_owners(arguments: tuple[int, int, int, int, int], statuses: list[str]) -> None:
    found = pair.judge_owners(*arguments)
    assert [f.status for f in found] == statuses
    assert all(f.meaning and f.remedy for f in found if f.status != OK)


# -- the whole


def examination(disk: LocalDisk, scratch: Path, other: str | None = None) -> Examination:
    return Examination(disk.root, lambda _: disk, "n1", str(scratch / "state"), other, lambda _: None)


def test_the_whole_with_another(river: RiverFiles, scratch: Path) -> None:
    with runner(river.root, "n2"):
        made = examination(LocalDisk(str(river.root)), scratch, "n2")
        made.run()
    assert made.problem is None
    assert {f.group for f in made.findings} == {"machine", "mount", "share", "other", "pair"}
    assert not of_status(made.findings, BROKEN)


def test_a_share_that_hangs_is_not_waited_for(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    class Hangs(LocalDisk):
        def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
            over.wait(30)
            super().write(path, data, durable=durable)

    monkeypatch.setattr(examining, "MOST_S", 1.0)
    made = examination(Hangs(str(river.root)), scratch)
    made.run()
    over.set()
    found = {f.check: f for f in made.findings}
    assert (found["share.hangs"].status, bool(found["share.hangs"].remedy)) == (WARNING, True)
    eventually(lambda: not os.listdir(river.root / layout.DOCTOR))


def test_what_was_found_until_it_hung_is_told_and_what_was_not_tried(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, hanging = threading.Event(), given_up_when(monkeypatch)

    def hangs(bench: Bench) -> list[Finding]:
        hanging.set()
        over.wait(30)
        return []

    monkeypatch.setitem(probes.FULL, "share.rename", hangs)
    made = examination(LocalDisk(str(river.root)), scratch, "n2")
    made.run()
    told = list(made.findings)
    over.set()
    eventually(lambda: not os.listdir(river.root / layout.DOCTOR))
    found = {f.check: f for f in told}
    assert {"share.space", "share.write", "share.names", "share.case", "share.hangs"} <= found.keys()
    assert "share.exclusive" not in found
    assert "no end of the share: rename" in found["share.hangs"].value
    left = found["share.untried"]
    assert left.status == NOTE
    assert left.value.startswith("not tried: exclusive, listing, ")
    assert left.value.endswith(", pair (n2)")
    assert "no time" in left.meaning
    assert made.findings == told  # whatever the thread that hung still finds


def test_what_no_time_was_left_for_is_told(river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(bench: Bench) -> list[Finding]:
        monkeypatch.setattr(examining, "BEGIN_S", 0.0)
        return [Finding("share.case", OK, "two")]

    monkeypatch.setitem(probes.FULL, "share.case", slow)
    made = examination(LocalDisk(str(river.root)), scratch)
    made.run()
    (left,) = [f for f in made.findings if f.check == "share.untried"]
    names = [check.removeprefix("share.") for check in probes.FULL]
    assert left.value == f"not tried: {', '.join(names[names.index('case') + 1 :])}"
    assert "share.hangs" not in {f.check for f in made.findings}


def test_a_whole_examination_says_nothing_of_time(river: RiverFiles, scratch: Path) -> None:
    made = examination(LocalDisk(str(river.root)), scratch)
    made.run()
    assert not {"share.untried", "share.hangs"} & {f.check for f in made.findings}
    assert {f"share.{name}" for name in ("space", "inodes", "write", "rate")} <= {f.check for f in made.findings}


def test_nothing_is_called_broken_of_a_share_that_went_away(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Finding("share.case", BROKEN, "x", "y", "z")
    monkeypatch.setitem(probes.FULL, "share.case", lambda bench: [broken])
    monkeypatch.setattr(probes, "still_there", lambda bench: False)
    made = examination(LocalDisk(str(river.root)), scratch)
    made.run()
    assert not of_status(made.findings, BROKEN)
    assert "share.write" in {f.check for f in made.findings}


def test_an_interrupt_leaves_nothing(river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            eventually(lambda: list((river.root / "nodes/n2").glob("doctor.*")))
            raise KeyboardInterrupt

    made = examination(LocalDisk(str(river.root)), scratch, "n2")
    made._over = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not os.listdir(river.root / layout.DOCTOR)
    assert not list((river.root / "nodes/n2").glob("doctor.*"))


def test_a_fault_is_not_swallowed(river: RiverFiles, scratch: Path) -> None:
    class Faulty(LocalDisk):
        def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        examination(Faulty(str(river.root)), scratch).run()


def test_a_share_that_cannot_be_written(river: RiverFiles, scratch: Path) -> None:
    class ReadOnly(LocalDisk):
        def mkdir(self, path: str) -> None:
            raise ShareError("make directory", path, OSError(30, "Read-only file system"))

    made = examination(ReadOnly(str(river.root)), scratch, "n2")
    made.run()
    found = {f.check: f for f in made.findings if f.group == "share"}
    assert found.keys() == {"share.space", "share.inodes", "share.write"}
    assert (found["share.write"].status, "Read-only" in found["share.write"].value) == (WARNING, True)
