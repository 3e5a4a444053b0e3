"""The keeper's record: what its lines say, what follows after a crash, and that compaction keeps it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hakuriver.keeper import record
from hakuriver.keeper.record import Known, Record, fact, fold, queue_line, settle
from hakuriver.keeper.task import ENDED, QUEUED, RUNNING, STARTING


def start(*names: str, **more: Any) -> bytes:
    tasks = [{"task": name, "attempt": 1, **more} for name in names]
    return json.dumps({"op": "start", "spec": {"argv": ["true"]}, "tasks": tasks}).encode()


def lines(*more: bytes, names: str = "abc", **flags: Any) -> list[bytes]:
    return [fact("boot", v=1, boot="B"), queue_line(0, start(*names, **flags)), *more]


def phases(known: Known) -> dict[str, str]:
    return {task.task: task.phase for task in known.tasks.values()}


def outcome(known: Known, boot: str) -> dict[str, tuple[str, bool]]:
    return {task.task: (end["cause"], end["ran"]) for task, end in settle(known, boot, 1.0)}


def test_fold_follows_each_task() -> None:
    known = fold(
        lines(
            fact("intent", n=[0, 1]),
            fact("go", t=[[0, 4], [1, 5]]),
            fact("started", n=0, pid=11, ticks=22, at=3.5),
            fact("ended", n=0, e={"slot": None}),
            fact("started", n=1, pid=12, ticks=23, at=4.5),
        ),
        "o",
    )
    assert phases(known) == {"a": ENDED, "b": RUNNING, "c": QUEUED}
    b = known.tasks["b", 1]
    assert (b.pid, b.ticks, b.started_at, b.slot_number) == (12, 23, 4.5, 5)
    assert known.boot == "B"
    assert known.next_n == 3


@pytest.mark.parametrize("keep", range(1, 200, 7))
def test_a_torn_line_is_ignored(keep: int) -> None:
    whole = b"".join(lines(fact("intent", n=[0]), fact("go", t=[[0, 4]])))
    tail = fact("started", n=0, pid=11, ticks=22, at=3.5)
    torn = whole + tail[: min(keep, len(tail) - 2)]
    assert phases(fold(torn.splitlines(keepends=True), "o"))["a"] == STARTING


def test_known_tasks_take_no_number() -> None:
    known = fold([*lines(), queue_line(3, start("b", "d")), fact("go", t=[[3, 0]])], "o")
    assert phases(known) == {"a": QUEUED, "b": QUEUED, "c": QUEUED, "d": STARTING}


def test_forgotten_tasks_may_come_again() -> None:
    known = fold([*lines(names="a"), fact("ended", n=0, e={"slot": None}), fact("forget", n=[0])], "o")
    assert not known.tasks
    assert len(known.queue(json.loads(start("a")))) == 1


def test_a_message_without_sense_adds_nothing() -> None:
    known = Known("o")
    for message in ({"spec": {"argv": []}, "tasks": []}, {"spec": {"argv": ["x"]}, "tasks": [{"task": "a"}]}):
        with pytest.raises((ValueError, KeyError)):
            known.queue(message)
    assert not known.tasks


MIDDLE = (
    fact("intent", n=[0, 1, 2]),
    fact("go", t=[[0, 4], [1, 5]]),
    fact("started", n=0, pid=11, ticks=22, at=3.5),
)


def test_after_a_reboot_all_that_may_have_run_has_failed() -> None:
    known = fold(lines(*MIDDLE, names="abcd"), "o")
    assert outcome(known, "other") == dict.fromkeys("abc", ("reboot", True))


def test_after_the_keepers_death_an_intent_alone_started_nothing() -> None:
    known = fold(lines(*MIDDLE, names="abcd"), "o")
    assert outcome(known, "B") == dict.fromkeys("ab", ("keeper_died", True))


def test_queued_tasks_that_may_run_elsewhere_are_given_up() -> None:
    assert outcome(fold(lines(rerunnable=True), "o"), "B") == dict.fromkeys("abc", ("fenced", False))
    known = fold(lines(fact("flag", n=1, rerunnable=False), rerunnable=True), "o")
    assert outcome(known, "B") == dict.fromkeys("ac", ("fenced", False))


def test_a_task_put_back_is_queued() -> None:
    known = fold(lines(fact("intent", n=[0]), fact("go", t=[[0, 4]]), fact("back", n=0)), "o")
    assert outcome(known, "B") == {}


def test_compaction_keeps_everything(tmp_path: Path) -> None:
    known = fold(
        lines(*MIDDLE, fact("ended", n=0, e={"slot": 4, "x": 1}), fact("flag", n=2, rerunnable=True), meta=[1]), "o"
    )
    known.queue(json.loads(start("d", priority=7)))
    known.forget(known.tasks["b", 1])
    before = {key: (t.n, t.phase, t.end, t.rerunnable, t.priority, t.meta) for key, t in known.tasks.items()}
    book = Record(str(tmp_path))
    book.compact(known, "B2")
    book.add(fact("go", t=[[3, 9]]))
    assert book.flush(sync=True)
    again = Record(str(tmp_path)).read("o")
    assert again.boot == "B2"
    assert again.tasks["d", 1].phase == STARTING
    again.tasks["d", 1].phase = QUEUED
    assert {k: (t.n, t.phase, t.end, t.rerunnable, t.priority, t.meta) for k, t in again.tasks.items()} == before
    assert again.next_n == 4


def test_compaction_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MIN_COMPACT", 100)
    book = Record(str(tmp_path))
    book.compact(Known("o"), "B")
    assert not book.grown
    book.add(b"x" * 500 + b"\n")
    book.flush(sync=False)
    assert book.grown
    book.compact(Known("o"), "B")
    assert os.listdir(tmp_path) == ["record.2.jsonl"]


def test_a_disk_that_refuses_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Record(str(tmp_path))
    book.compact(Known("o"), "B")
    size = (tmp_path / "record.1.jsonl").stat().st_size
    real = os.write
    answers: Iterator[int | OSError] = iter([3, OSError(28, "full")])

    def write(fd: int, data: bytes) -> int:
        answer = next(answers, len(data))
        if isinstance(answer, OSError):
            raise answer
        return real(fd, data[:answer])

    monkeypatch.setattr(os, "write", write)
    book.add(b"abcdef\n")
    assert not book.flush(sync=False)
    book.add(b"ghi\n")
    assert book.flush(sync=False)
    assert (tmp_path / "record.1.jsonl").read_bytes()[size:] == b"abcdef\nghi\n"
