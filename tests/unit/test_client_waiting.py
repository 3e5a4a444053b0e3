"""Waiting for jobs and tasks, and following their output."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from riverfiles import RiverFiles, refusal, row

from hakuriver import Invalid, NotFound, TimedOut, exit_code, logs, read_logs, reading, wait, waiting
from hakuriver.client import open_share
from hakuriver.records import JobSpec
from hakuriver.resolving import Target
from hakuriver.waiting import Waiter

A = "16999999990001111234"
B = "17000000000002221234"


def then(*steps: Callable[[], object]) -> Callable[[Waiter], None]:
    """After each poll the next step."""
    left = list(steps)

    def step(_: Waiter) -> None:
        if left:
            left.pop(0)()

    return step


def test_a_job_that_goes_its_way(river: RiverFiles) -> None:
    door = river.put(f"incoming/{A}.json", '{"command": ["x"]}')
    (outcome,) = wait(
        A,
        20,
        on_poll=then(
            lambda: door.rename(river.root / f"host/taken/000001-000000000001.{A}.{A}.json"),
            lambda: river.receipt(A),
            lambda: river.snapshot(A, row(state="running")),
            lambda: river.snapshot(A, row(state="failed", exit_code=3, reason="exit code 3")),
        ),
    )
    assert (outcome.target, outcome.state, outcome.exit_code, outcome.reason) == (A, "failed", 3, "exit code 3")
    assert not outcome.completed


def test_several_are_told_in_the_order_named_and_the_first_bad_one_counts(river: RiverFiles) -> None:
    river.snapshot(A, row(state="killed_oom", signal=9))
    river.snapshot(B, row(state="failed", exit_code=2))
    assert [outcome.exit_code for outcome in wait([B, A], 0)] == [2, 137]
    assert exit_code(wait([A, B, A], 0)) == 137
    assert exit_code([]) == 0


def test_tasks_of_a_job_that_goes_on(river: RiverFiles) -> None:
    spec = JobSpec(command=["x"], array="0-9")
    river.snapshot(A, row(0), row(1, "failed", exit_code=4), row(2, "running"), count=10, spec=spec)
    (first, second) = wait([f"{A}-0", f"{A}-[0-1]"], 0)
    assert (first.state, first.exit_code) == ("completed", 0)
    assert (second.state, second.exit_code, second.counts) == ("failed", 4, {"completed": 1, "failed": 1})
    with pytest.raises(TimedOut) as raised:
        wait([f"{A}-0", f"{A}-2", f"{A}-7"], 0)
    assert [outcome.target for outcome in raised.value.outcomes] == [f"{A}-0"]


def test_a_task_that_is_to_be_retried_is_not_over(river: RiverFiles) -> None:
    river.snapshot(A, row(state="pending", reason="retry 1 of 3"), done=False)
    with pytest.raises(TimedOut):
        wait(A, 0)


def test_a_task_that_the_job_does_not_have(river: RiverFiles) -> None:
    river.snapshot(A, row(0), row(1))
    (outcome,) = wait(f"{A}-9", 5)
    assert (outcome.state, outcome.exit_code) == ("unknown", 125)


def test_a_refused_job(river: RiverFiles) -> None:
    river.receipt(A, **refusal())
    (outcome,) = wait(A, 5)
    assert (outcome.state, outcome.exit_code) == ("refused", 125)
    assert "largest has 8" in outcome.reason


def test_a_lost_job(river: RiverFiles) -> None:
    river.snapshot(A, row(state="lost", reason="n1 fell silent"))
    (outcome,) = wait(A, 5)
    assert (outcome.state, outcome.exit_code, outcome.reason) == ("lost", 125, "n1 fell silent")


def test_a_job_that_lies_nowhere_is_given_up(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "GONE_S", 0.05)
    (outcome,) = wait(A, 10)
    assert (outcome.state, outcome.exit_code) == ("unknown", 125)


def test_an_accepted_job_without_a_snapshot_is_waited_for(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "GONE_S", 0.0)
    monkeypatch.setattr(waiting, "ACCEPTED_GONE_S", 0.0)
    river.receipt(A)
    river.put(f"incoming/{B}.json", '{"command": ["x"]}')
    with pytest.raises(TimedOut) as raised:
        wait([A, B], 0.3)
    assert raised.value.outcomes == []


def test_an_accepted_job_that_a_living_host_does_not_show_is_gone(
    river: RiverFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "ACCEPTED_GONE_S", 0.05)
    river.receipt(A)
    (outcome,) = wait(A, 10, on_poll=lambda _: river.beat())
    assert (outcome.state, outcome.exit_code) == ("unknown", 125)


def test_many_receipts_are_found_by_listing(river: RiverFiles) -> None:
    jobs = [f"170000000000{number:08d}" for number in range(waiting.RECEIPTS_MOST + 5)]
    for job in jobs:
        river.receipt(job, **refusal())
    assert {outcome.state for outcome in wait(jobs, 10)} == {"refused"}


def test_snapshots_are_read_once(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    river.snapshot(A, row(state="running"))
    waiter = Waiter(open_share(), [Target(A)])
    assert waiter.poll() is True
    monkeypatch.setattr(reading, "read_snapshot", lambda *_: pytest.fail("read again"))
    assert waiter.poll() is False
    assert waiter.counts == {A: {"running": 1}}


def test_an_interval_grows_and_is_short_after_a_change(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds))
    monkeypatch.setattr(waiting, "POLL_SHARE", 1000.0)
    river.snapshot(A, row(state="running"))
    steps = [*[lambda: None] * 40, lambda: river.snapshot(A, row(state="paused"), done=False), *[lambda: None] * 3]
    wait(A, on_poll=then(*steps, lambda: river.snapshot(A, row())))
    assert max(pauses) == waiting.LONGEST_POLL
    assert pauses[40] == waiting.LONGEST_POLL
    assert pauses[41] < 0.2


# -- logs


def test_the_latest_attempt_is_printed(river: RiverFiles) -> None:
    river.snapshot(A, row(attempt=2))
    river.put(f"task_outputs/{A}.out", "first\n")
    river.put(f"task_outputs/{A}.2.out", "second\n")
    river.put(f"task_errors/{A}.2.err", "bad\n")
    assert b"".join(read_logs(A)) == b"second\n"
    assert b"".join(read_logs(A, attempt=1)) == b"first\n"
    assert b"".join(read_logs(A, err=True)) == b"bad\n"
    with pytest.raises(NotFound, match="no attempt 3"):
        read_logs(A, attempt=3)


def test_tasks_of_an_array(river: RiverFiles) -> None:
    river.snapshot(A, row(3), row(4), spec=JobSpec(command=["x"], array="3-4"))
    river.put(f"task_outputs/{A}/4.out", "four")
    assert b"".join(read_logs(f"{A}-4")) == b"four"
    assert b"".join(read_logs(f"{A}-3")) == b""
    with pytest.raises(Invalid, match=f"name one, as {A}-3"):
        read_logs(A)
    with pytest.raises(NotFound):
        read_logs(f"{A}-9")
    with pytest.raises(Invalid, match="name one task"):
        read_logs(f"{A}-[3-4]")


def test_following_ends_when_all_is_read(river: RiverFiles) -> None:
    river.snapshot(A, row(state="running"))
    parts = read_logs(A, follow=True)
    output = river.put(f"task_outputs/{A}.out", "one\n")
    assert next(parts) == b"one\n"

    def go_on() -> None:
        with output.open("a") as file:
            file.write("two\n")
        river.snapshot(A, row())

    timer = threading.Timer(0.2, go_on)
    timer.start()
    assert b"".join(parts) == b"two\n"
    timer.join()


def test_following_goes_on_with_the_next_attempt(river: RiverFiles) -> None:
    river.snapshot(A, row(state="running"))
    river.put(f"task_outputs/{A}.out", "first\n")
    attempts: list[int] = []
    parts = read_logs(A, follow=True, on_attempt=attempts.append)
    assert next(parts) == b"first\n"
    river.put(f"task_outputs/{A}.2.out", "second\n")
    river.snapshot(A, row(state="completed", attempt=2))
    assert list(parts) == [b"second\n"]
    assert attempts == [1, 2]


def test_a_pinned_attempt_is_the_only_one_followed(river: RiverFiles) -> None:
    river.snapshot(A, row(state="running", attempt=2))
    river.put(f"task_outputs/{A}.out", "first\n")
    assert list(read_logs(A, follow=True, attempt=1)) == [b"first\n"]


@given(st.lists(st.binary(max_size=6), max_size=8), st.integers(0, 10), st.integers(1, 8))
def test_tails(lines: list[bytes], wanted: int, chunk: int) -> None:
    data = b"\n".join(lines)
    before = logs.CHUNK
    logs.CHUNK = chunk
    try:
        offset = logs.tail_offset(io.BufferedReader(io.BytesIO(data)), wanted)
    finally:
        logs.CHUNK = before
    parts = data.split(b"\n")
    every = [part + b"\n" for part in parts[:-1]] + [part for part in parts[-1:] if part]
    assert data[offset:] == b"".join(every[max(0, len(every) - wanted) :])
