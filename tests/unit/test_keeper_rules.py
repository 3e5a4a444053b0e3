"""The keeper's pure parts: queue and admission, lease, endings, gaps, timers."""

import json
from pathlib import Path
from typing import Any

import pytest

from hakuriver.keeper import endings, kernel, lease, outputs
from hakuriver.keeper.__main__ import options
from hakuriver.keeper.task import ENDED, Spec, Task
from hakuriver.keeper.timers import Timers
from hakuriver.keeper.waiting import Capacity, Queue

COUNT = iter(range(1 << 30))


def task(name: str = "t", priority: int = 0, cores: int = 1, memory: int | None = None, **env: Any) -> Task:
    spec = Spec({"argv": ["x"], "env": {"A": "1", "PATH": "/p"}, "cores": cores, "memory_bytes": memory})
    return Task(spec, {"task": name, "attempt": 1, "priority": priority, "env": env}, next(COUNT), "o")


def node(cores: int = 4, memory: int | None = None) -> Capacity:
    capacity = Capacity()
    capacity.cores, capacity.memory = cores, memory
    return capacity


def filled(*tasks: Task) -> Queue:
    queue = Queue()
    for one in tasks:
        queue.push(one)
    return queue


def drain(queue: Queue, capacity: Capacity) -> list[str]:
    names = []
    while found := queue.pop(capacity):
        capacity.reserve(found)
        names.append(found.task)
    return names


# -- queue


def test_priority_then_arrival() -> None:
    queue = filled(task("a"), task("b", 5), task("c"), task("d", 5))
    assert drain(queue, node()) == ["b", "d", "a", "c"]


def test_a_task_that_does_not_fit_holds_up_those_behind_it() -> None:
    capacity = node(4)
    queue = filled(task("a", cores=3), task("b", cores=2), task("c", cores=1))
    assert drain(queue, capacity) == ["a"]
    capacity.reserve(task(cores=3), -1)
    assert drain(queue, capacity) == ["b", "c"]


def test_what_reserves_nothing_waits_behind_nobody() -> None:
    assert drain(filled(task("a", cores=4), task("b", cores=4), task("c", cores=0)), node(4)) == ["c", "a"]


def test_memory_is_reserved_too() -> None:
    queue = filled(task("a", memory=60), task("b", memory=50), task("c", cores=0, memory=500))
    assert drain(queue, node(8, 100)) == ["c", "a"]


def test_a_task_larger_than_the_node_runs_alone() -> None:
    capacity = node(2)
    assert drain(filled(task("a", cores=8), task("b")), capacity) == ["a"]


def test_nothing_fits_before_the_capacity_is_known() -> None:
    assert drain(filled(task("a"), task("b", cores=0)), Capacity()) == []


def test_staged_tasks_keep_their_place() -> None:
    queue = filled(task("a"), task("b"), task("c"))
    assert [one.task for one in queue.stage(2)] == ["a", "b"]
    queue.push(task("urgent", 9))
    assert drain(queue, node()) == ["urgent", "a", "b", "c"]


def test_what_ended_while_queued_is_skipped() -> None:
    first, second = task("a"), task("b")
    queue = filled(first, second)
    queue.stage(1)
    first.phase = ENDED
    assert drain(queue, node()) == ["b"]


# -- lease


def test_the_last_kill_is_out_before_the_lease_ends() -> None:
    assert lease.fence_at(100.0, 10.0) + 10.0 < 100.0


def test_a_stopping_that_begins_late_is_shorter() -> None:
    assert lease.grace_left(100.0, lease.fence_at(100.0, 10.0), 10.0) == 10.0
    assert lease.grace_left(100.0, 95.0, 10.0) == 4.0
    assert lease.grace_left(100.0, 99.5, 10.0) == 0.0


@pytest.mark.parametrize(
    ("until", "now", "rerunnable", "expected"),
    [
        (None, 0.0, False, False),
        (None, 0.0, True, False),
        (100.0, 88.9, True, True),
        (100.0, 89.0, True, False),
        (100.0, 99.9, False, True),
        (100.0, 100.0, False, False),
    ],
)
def test_may_start(until: float | None, now: float, rerunnable: bool, expected: bool) -> None:
    assert lease.may_start(until, now, rerunnable=rerunnable, grace_s=10.0) is expected


# -- endings


@pytest.mark.parametrize(
    ("stop", "status", "oom", "state", "cause"),
    [
        (None, 0, False, "completed", "exit"),
        (None, 0, True, "completed", "exit"),
        (None, 3 << 8, False, "failed", "exit"),
        (None, 3 << 8, True, "killed_oom", "oom"),
        (None, 9, True, "killed_oom", "oom"),
        (None, 11, False, "failed", "signal"),
        ("killed", 9, True, "killed", "killed"),
        ("killed", 0, False, "killed", "killed"),
        ("fenced", 15, False, "fenced", "fenced"),
        ("time_limit", 15, False, "failed", "time_limit"),
        ("oom", 9, True, "killed_oom", "oom"),
        ("shutdown", 15, False, "failed", "shutdown"),
    ],
)
def test_verdict(stop: str | None, status: int, oom: bool, state: str, cause: str) -> None:
    assert endings.verdict(stop, "", status, oom)[:2] == (state, cause)


def test_signals_have_names() -> None:
    assert endings.signal_name(11) == "SIGSEGV"
    assert endings.signal_name(40) == "signal 40"


def test_peak_memory_below_the_keepers_own_says_nothing() -> None:
    assert endings.peak(None, 10, 10) is None
    assert endings.peak(7, 10, 10) == 7
    assert endings.peak(None, 11, 10) == 11
    assert endings.peak(20, 11, 10) == 20


# -- environment


def test_environment_of_the_task_goes_before_that_of_the_spec() -> None:
    assert task("t", A="2", B="3").environ() == [b"HAKURIVER_KEEPER=o/t/1", b"PATH=/p", b"A=2", b"B=3"]
    assert task("t", B="3").environ() == [b"HAKURIVER_KEEPER=o/t/1", b"A=1", b"PATH=/p", b"B=3"]
    assert task("t").path() == "/p"


# -- output


def test_middle_keeps_a_quarter_of_the_limit_at_either_end() -> None:
    mib = 1 << 20
    assert outputs.middle(0, 4 * mib, 4 * mib) == (mib, 3 * mib)
    assert outputs.middle(mib, 9 * mib, 4 * mib) == (2 * mib, 8 * mib)
    start, end = outputs.middle(5, 4 * mib + 5, 4 * mib) or (0, 0)
    assert (start % 4096, end % 4096) == (0, 0)
    assert (start >= mib, end <= 3 * mib + 5) == (True, True)


def test_middle_of_little_is_nothing() -> None:
    assert outputs.middle(0, 5000, 8192) is None


@pytest.mark.parametrize(
    ("gaps", "new", "expected"),
    [
        ([], (5, 9), [(5, 9)]),
        ([(5, 9)], (9, 12), [(5, 12)]),
        ([(5, 9)], (1, 3), [(1, 3), (5, 9)]),
        ([(5, 9), (20, 30)], (6, 25), [(5, 30)]),
        ([(5, 30)], (6, 7), [(5, 30)]),
    ],
)
def test_merge(gaps: list[outputs.Gap], new: outputs.Gap, expected: list[outputs.Gap]) -> None:
    assert outputs.merge(gaps, new) == expected


def test_trim_says_so_before_it_frees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.out"
    path.write_bytes(b"x" * (1 << 20))
    told = []
    monkeypatch.setattr(kernel, "punch", lambda fd, a, b: told.append((a, b, outputs.read_gaps(str(path)))))
    with path.open("rb") as file:
        outputs.trim(str(path), file.fileno(), 1 << 19)
    assert told == [(1 << 17, 7 << 17, [(1 << 17, 7 << 17)])]
    assert json.loads((tmp_path / "0.out.gaps").read_text()) == [[1 << 17, 7 << 17]]


def test_silent_slots_are_used_again(tmp_path: Path) -> None:
    slots = outputs.Outputs(str(tmp_path / "out"))
    slots.begin({7})
    first = slots.take()
    assert first.number == 8
    assert slots.give_back(first) == (0, 0)
    again = slots.take()
    assert again is first
    (tmp_path / "out" / "8.out").write_text("said")
    assert slots.give_back(again) == (4, 0)
    assert slots.take().number == 9
    slots.drop(8)
    slots.drop(8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["9.err", "9.out"]


# -- timers and options


def test_timers_run_in_order_and_can_be_cancelled() -> None:
    timers, ran = Timers(), list[str]()
    timers.at(3.0, lambda: ran.append("c"))
    timers.at(1.0, lambda: ran.append("a"))
    gone = timers.at(2.0, lambda: ran.append("b"))
    timers.cancel(gone)
    timers.cancel(gone)
    timers.cancel(None)
    timers.run(2.5)
    assert ran == ["a"]
    assert timers.next() == 3.0
    timers.run(3.0)
    assert (ran, timers.next()) == (["a", "c"], None)


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for _ in range(10_000):
        timers.cancel(timers.at(1e9, lambda: None))
    assert len(timers._heap) < 200


def test_options() -> None:
    assert options(["--dir", "/x"])["--memory-mode"] == "auto"
    for bad in ([], ["--dir"], ["--dir", "/x", "--what", "1"], ["--dir", "/x", "--output-limit", "-1"]):
        with pytest.raises(SystemExit):
            options(bad)
