"""State transitions: changes in, states out, without a disk or a clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hakuriver.host.jobs import LARGE, Job, Rows, read_snapshot
from hakuriver.host.requests import OpenRequest
from hakuriver.host.state import State

JOB = "17952394256555067814"
OTHER = "17952394256555067815"


class River:
    """A state with a term and a seq, and shorthand for changes."""

    def __init__(self, **spec: Any) -> None:
        self.state = State()
        self.state.term = 1
        self.change("node", "n1", 1, {"cores": 8, "memory_bytes": 10**9, "executors": ["process"]})
        self.change("node", "n2", 1, {"cores": 8, "memory_bytes": 10**9, "executors": ["process"]})
        self.accept(JOB, **spec)

    def change(self, *change: Any) -> None:
        self.state.seq += 1
        self.state.apply(list(change))

    def accept(self, job: str, **spec: Any) -> None:
        receipt = {"request": job, "name": "x.json", "kind": "run", "uid": 7, "at": 1.0}
        self.change("jobs", receipt, "me", [[job, {"command": ["true"], "cores": 2, **spec}]], "taken")

    def send(self, node: str = "n1", attempt: int = 1, k: int | None = None) -> str:
        at = self.state.nodes[node]
        self.change("send", node, [[JOB, k, attempt, "process"]], list(at.controls), [], at.previous, list(at.cursor))
        assert at.previous is not None
        return at.previous

    def tell(self, *events: dict[str, Any], node: str = "n1") -> None:
        epoch, seq = self.state.nodes[node].cursor
        self.change("events", node, epoch or 1, seq + 1, list(events))

    def claim(self, place: str, node: str = "n1") -> None:
        self.tell({"kind": "claimed", "dispatch": place}, node=node)

    def end(self, state: str, attempt: int = 1, node: str = "n1", k: int | None = None, **end: Any) -> None:
        cause = {"completed": "exit", "failed": "exit"}.get(state, state)
        record = {"state": state, "cause": cause, "ended_at": 9.0, **end}
        self.tell({"kind": "ended", "job": JOB, "k": k, "attempt": attempt, "end": record}, node=node)

    def kill(self, job: str = JOB, k: int | None = None, request: str = OTHER, *grace: float) -> None:
        self.change("control", request, f"{job}.kill", "kill", 7, 2.0, [[job, k]], [], *grace, "taken")

    @property
    def job(self) -> Job:
        return self.state.jobs[JOB]

    def is_(self, state: str, k: int = 0) -> bool:
        return self.job.state_of(k) == state


def test_one_task_from_pending_to_completed() -> None:
    river = River()
    assert river.is_("pending")
    assert len(river.state.queue) == 1
    place = river.send()
    assert river.is_("assigning")
    assert river.state.nodes["n1"].cores_held == 2
    assert len(river.state.queue) == 0
    river.claim(place)
    river.tell({"kind": "started", "job": JOB, "k": None, "attempt": 1, "at": 3.0})
    assert river.is_("running")
    river.end("completed", exit_code=0)
    assert river.is_("completed")
    assert river.state.nodes["n1"].cores_held == 0
    assert river.job.ending() == ("completed", 0)
    assert river.job.finished_at == 9.0


@pytest.mark.parametrize("then", ["started", "ended", "lost", "again"])
def test_what_waits_for_its_image_says_so_until_it_does_not(then: str) -> None:
    river = River(retries=1 if then == "again" else 0)
    river.claim(river.send())
    river.tell({"kind": "syncing", "job": JOB, "k": None, "attempt": 1, "text": "base-17"})
    task = river.job.live[0]
    assert river.is_("assigning")
    assert task.phase == "syncing base-17"
    if then == "started":
        river.tell({"kind": "started", "job": JOB, "k": None, "attempt": 1, "at": 3.0})
        river.tell({"kind": "syncing", "job": JOB, "k": None, "attempt": 1, "text": "base-17"})  # late
    elif then == "lost":
        river.change("lost", "n1", [[JOB, None, 1]], 10.0)
    else:
        river.end("failed", exit_code=1)
    assert task.phase == ""
    assert river.is_({"started": "running", "ended": "failed", "lost": "lost", "again": "pending"}[then])


def test_an_ending_is_never_overwritten() -> None:
    river = River()
    river.claim(river.send())
    river.end("completed", exit_code=0)
    river.end("failed", exit_code=1)
    river.change("lost", "n1", [[JOB, None, 1]], 10.0)
    assert river.is_("completed")


def test_retries_are_spent_one_by_one_and_then_the_ending_stands() -> None:
    river = River(retries=2)
    for attempt in (1, 2, 3):
        river.claim(river.send(attempt=attempt))
        river.end("failed", attempt=attempt, exit_code=3)
        assert river.is_("pending" if attempt < 3 else "failed")
    assert river.job.ending() == ("failed", 3)


def test_an_ending_told_twice_spends_one_retry() -> None:
    river = River(retries=2)
    river.claim(river.send())
    river.end("failed", exit_code=3)
    river.end("failed", exit_code=3)
    assert river.is_("pending")
    assert river.job.live[0].retries_spent == 1
    assert len(river.state.queue) == 1


def test_fenced_goes_back_and_spends_nothing() -> None:
    river = River(retries=1)
    river.claim(river.send())
    river.end("fenced")
    assert river.is_("pending")
    assert river.job.live[0].retries_spent == 0
    river.claim(river.send("n2", attempt=2), "n2")
    river.end("failed", attempt=2, node="n2", exit_code=1)
    assert river.is_("pending")


def test_lost_without_retries_is_final_until_corrected() -> None:
    river = River()
    river.claim(river.send())
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    assert river.is_("lost")
    assert river.job.ending() == ("lost", 125)
    assert river.state.nodes["n1"].cores_held == 0
    river.change("alive", "n1", [[JOB, None, 1]], 6.0)
    assert river.is_("running")
    assert river.state.nodes["n1"].cores_held == 2
    river.end("completed", exit_code=0)
    assert river.job.ending() == ("completed", 0)


def test_lost_gets_its_true_ending() -> None:
    river = River()
    river.claim(river.send())
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    river.end("failed", exit_code=4)
    assert river.job.ending() == ("failed", 4)
    assert river.job.lost == 0


def test_lost_with_retries_is_corrected_until_the_next_attempt_is_sent() -> None:
    river = River(retries=1)
    river.claim(river.send())
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    assert river.is_("pending")
    assert river.job.live[0].retries_spent == 1
    river.end("completed", exit_code=0)
    assert river.is_("completed")
    assert len(river.state.queue) == 0


def test_an_earlier_attempt_that_returns_changes_nothing() -> None:
    river = River(retries=1)
    river.claim(river.send())
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    river.claim(river.send("n2", attempt=2), "n2")
    river.end("completed", attempt=1, exit_code=0)
    assert river.is_("assigning")
    assert river.job.live[0].attempt == 2


def test_revoked_waits_again_under_the_same_number() -> None:
    river = River()
    place = river.send()
    river.change("revoked", "n1", place, 4.0)
    assert river.is_("pending")
    assert river.job.live[0].attempt == 0
    assert len(river.state.queue) == 1
    assert river.state.nodes["n1"].cores_held == 0


def test_what_another_node_tells_of_the_same_attempt_changes_nothing() -> None:
    river = River()
    place = river.send("n1")
    river.change("revoked", "n1", place, 3.0)
    river.claim(river.send("n2"), "n2")
    river.end("failed", node="n1", exit_code=1)
    assert river.is_("assigning")
    river.end("completed", node="n2")
    assert river.is_("completed")


def test_kill_of_pending_is_answered_at_once() -> None:
    river = River()
    river.kill()
    assert river.is_("killed")
    assert [a.receipt(1.0)["answers"] for a in river.state.answered] == [
        [{"task": JOB, "ok": True, "outcome": "killed"}]
    ]


def test_kill_of_running_waits_for_the_ending() -> None:
    river = River(retries=5)
    river.claim(river.send())
    river.kill()
    assert OTHER in river.state.requests
    assert river.state.nodes["n1"].controls[0]["op"] == "kill"
    river.end("killed", signal=15)
    assert river.is_("killed")
    assert river.state.answered[0].done == [[JOB, True, "killed"]]


LATER = "17952394256555067816"


def test_a_grace_goes_with_the_kill_and_survives_a_checkpoint() -> None:
    river = River()
    river.claim(river.send())
    river.kill(JOB, None, OTHER, 2.5)
    assert river.state.nodes["n1"].controls[0]["grace_s"] == 2.5
    waiting = river.state.requests[OTHER]
    saved = json.loads(json.dumps(waiting.checkpoint()))
    assert OpenRequest.restore(OTHER, saved).grace_s == 2.5
    del saved["grace_s"]  # as an earlier version wrote it
    assert OpenRequest.restore(OTHER, saved).grace_s is None


@pytest.mark.parametrize(
    ("first", "second", "sent"),
    [([], [], False), ([], [0.0], True), ([5.0], [1.0], True), ([1.0], [5.0], False), ([0.0], [0.0], False),
     ([600.0], [], True)],
)  # fmt: skip
def test_a_second_kill_is_sent_on_if_it_may_be_sooner(first: list[float], second: list[float], sent: bool) -> None:
    river = River()
    river.claim(river.send())
    river.kill(JOB, None, OTHER, *first)
    river.kill(JOB, None, LATER, *second)
    assert [control["request"] for control in river.state.nodes["n1"].controls] == [OTHER, LATER][: 1 + sent]
    assert river.job.live[0].kill == (LATER if sent else OTHER)
    assert not river.state.answered
    river.end("killed", signal=9)
    assert [request.request for request in river.state.answered] == [OTHER, LATER]
    assert [request.done for request in river.state.answered] == 2 * [[[JOB, True, "killed"]]]


@pytest.mark.parametrize("then", ["requeue", "dismiss"])
def test_no_kill_of_a_lost_task_stays_without_an_answer(then: str) -> None:
    river = River()
    river.claim(river.send())
    river.kill()
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    river.kill(JOB, None, LATER)
    assert not river.state.answered
    river.change(*(["requeue", JOB, [None]] if then == "requeue" else ["dismiss", [JOB]]))
    assert not river.state.requests
    assert [(ok, said[:4]) for request in river.state.answered for _, ok, said in request.done] == 2 * [(False, "lost")]


@pytest.mark.parametrize("op", ["pause", "resume"])
def test_what_cannot_be_done_in_a_state_is_told_with_it(op: str) -> None:
    river = River(array="0-1")
    river.claim(river.send(k=0))
    river.end("completed", k=0, exit_code=0)
    river.change("control", OTHER, "x.json", op, 7, 2.0, [[JOB, 0], [JOB, 1]], [], "taken")
    (told,) = river.state.answered
    assert [outcome for _, _, outcome in told.done] == [f"cannot {op}: completed", f"cannot {op}: pending"]


def test_what_ends_before_it_was_paused_says_how() -> None:
    river = River()
    river.claim(river.send())
    river.change("control", OTHER, "x.json", "pause", 7, 2.0, [[JOB, None]], [], "taken")
    river.end("failed", exit_code=1)
    assert river.state.answered[0].done == [[JOB, False, "cannot pause: failed"]]


def test_what_a_node_cannot_do_is_told_with_what_was_asked() -> None:
    river = River()
    river.claim(river.send())
    river.change("control", OTHER, "x.json", "pause", 7, 2.0, [[JOB, None]], [], "taken")
    asked = {"kind": "answer", "request": OTHER, "op": "pause", "job": JOB, "k": None, "attempt": 1}
    river.tell({**asked, "ok": False, "text": "being stopped"})
    assert river.state.answered[0].done == [[JOB, False, "cannot pause: being stopped"]]


def test_if_a_kill_and_an_ending_race_the_ending_stands() -> None:
    river = River(retries=5)
    river.claim(river.send())
    river.kill()
    river.end("failed", exit_code=1)
    assert river.is_("failed")  # no retry once a kill was asked for
    assert river.state.answered[0].done == [[JOB, False, "already failed"]]


def test_kill_of_unclaimed_work_that_is_revoked() -> None:
    river = River()
    place = river.send()
    river.kill()
    river.change("revoked", "n1", place, 4.0)
    assert river.is_("killed")
    assert river.state.answered[0].done == [[JOB, True, "killed"]]


def test_kill_of_lost_is_kept_until_the_node_returns() -> None:
    river = River()
    river.claim(river.send())
    river.change("lost", "n1", [[JOB, None, 1]], 5.0)
    river.kill()
    assert not river.state.answered
    assert river.state.nodes["n1"].controls[0]["attempt"] == 1
    river.change("alive", "n1", [[JOB, None, 1]], 6.0)
    river.end("killed", signal=9)
    assert river.is_("killed")
    assert river.state.answered[0].done == [[JOB, True, "killed"]]


def test_a_runner_that_lost_track_fails_what_it_had_claimed() -> None:
    river = River(retries=1)
    river.claim(river.send())
    river.tell({"kind": "begin", "previous_epoch": 1, "previous_seq": 1, "holds": []})
    assert river.is_("pending")
    assert "lost track" in river.job.live[0].reason


def test_begin_keeps_what_the_runner_still_answers_for() -> None:
    river = River()
    river.claim(river.send())
    river.tell({"kind": "begin", "previous_epoch": 1, "previous_seq": 1, "holds": [[JOB, None, 1]]})
    assert river.is_("assigning")


def test_pause_and_resume() -> None:
    river = River()
    river.claim(river.send())
    river.tell({"kind": "started", "job": JOB, "k": None, "attempt": 1, "at": 3.0})
    river.change("control", OTHER, "x", "pause", 7, 2.0, [[JOB, None]], [], "taken")
    river.tell(
        {"kind": "paused", "job": JOB, "k": None, "attempt": 1},
        {"kind": "answer", "request": OTHER, "op": "pause", "job": JOB, "k": None, "attempt": 1, "text": "paused"},
    )
    assert river.is_("paused")
    assert river.state.nodes["n1"].cores_held == 2
    assert river.state.answered[0].done == [[JOB, True, "paused"]]
    river.tell({"kind": "resumed", "job": JOB, "k": None, "attempt": 1})
    assert river.is_("running")


def test_requeue_of_a_failed_task_of_an_array() -> None:
    river = River(array="0-2")
    for k in range(3):
        river.claim(river.send(k=k))
        river.end("failed" if k == 1 else "completed", k=k, exit_code=int(k == 1))
    assert river.job.ending() == ("failed", 1)
    river.change("requeue", JOB, [1])
    assert [river.job.state_of(k) for k in range(3)] == ["completed", "pending", "completed"]
    river.claim(river.send(k=1, attempt=2))
    river.end("completed", attempt=2, k=1, exit_code=0)
    assert river.job.ending() == ("completed", 0)


def test_snapshot_and_back() -> None:
    river = River(array="3,5-9", retries=1, memory_bytes=1000)
    river.claim(river.send(k=3))
    river.end("completed", k=3, exit_code=0)
    river.claim(river.send(k=5))
    data = river.job.snapshot()
    again = Job.load(data)
    assert json.loads(again.snapshot()) == {**json.loads(data), "spec": again.spec}
    assert again.spec == {**again.spec, **river.job.spec}
    assert [again.state_of(k) for k in (3, 5, 6, 9)] == ["completed", "assigning", "pending", "pending"]
    assert list(again.waiting) == [6, 7, 8, 9]


def test_the_rows_of_a_large_snapshot_are_decoded_one_by_one() -> None:
    river = River(array="0-3999", env={"A": "x", "tasks": ', "tasks": ['})
    river.change("end", JOB, 7, "killed", "killed", 'it said "], \\"tasks\\": [" and more', 5.0)
    for k in set(range(4000)) - {7}:
        river.send(k=k)
    data = river.job.snapshot()
    assert len(data) > LARGE
    found, whole = read_snapshot(data), json.loads(data)
    assert isinstance(found["tasks"], Rows)
    assert list(found["tasks"]) == list(found["tasks"]) == whole["tasks"]
    assert len(whole["tasks"]) == 4000
    assert {**found, "tasks": whole["tasks"]} == whole
    assert read_snapshot(River().job.snapshot())["tasks"] == []
    with pytest.raises(ValueError, match="Expecting"):
        read_snapshot(b"x" * LARGE)


@pytest.mark.parametrize(
    ("spec", "names", "indices", "targets"),
    [
        ({}, [JOB], [0], [None]),
        ({"array": "5"}, [JOB], [5], [None]),
        ({"array": "4-6"}, [f"{JOB}-4", f"{JOB}-5", f"{JOB}-6"], [4, 5, 6], [None] * 3),
        ({"targets": ["n1"]}, [JOB], [0], ["n1"]),
        ({"targets": ["n1", "n2"]}, [f"{JOB}-0", f"{JOB}-1"], [0, 1], ["n1", "n2"]),
        (
            {"targets": ["n1", "n2"], "array": "7,9"},
            [f"{JOB}-{k}" for k in range(4)],
            [7, 9, 7, 9],
            ["n1", "n1", "n2", "n2"],
        ),
    ],
)
def test_numbers_of_tasks(spec: dict[str, Any], names: list[str], indices: list[int], targets: list[str]) -> None:
    job = River(**spec).job
    assert [job.name_of(k) for k in job.all_indices()] == names
    assert [job.array_index(k) for k in job.all_indices()] == indices
    assert [target and str(target) for target in map(job.target, job.all_indices())] == targets
