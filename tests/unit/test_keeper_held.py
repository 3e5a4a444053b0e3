"""What the keeper orders of attendants, and what it makes of their news; time and attendants are the test's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_stage import Descriptors

from hakuriver.keeper import core, held, kernel
from hakuriver.keeper.commands import COMMANDS
from hakuriver.keeper.core import Keeper
from hakuriver.keeper.task import QUEUED, STARTING


class Link:
    """An attendant that notes its orders."""

    pids = iter(range(1, 1 << 30))

    def __init__(self) -> None:
        self.pid = next(Link.pids)
        self.orders: list[Any] = []
        self.alive = True

    def order(self, order: Any) -> None:
        self.orders.append(order)

    def end(self) -> None:
        self.alive = False

    def close(self) -> None:
        self.alive = False


class Bench:
    """A keeper, its directory, and all attendants that it has had."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now, self.boot = directory, 1000.0, "boot"
        self.links: list[Link] = []
        self.unreachable = False
        self.events: list[Any] = []
        directory.mkdir()

    def begin(self, *, lease_s: float | None = 60.0) -> Keeper:
        self.keeper = Keeper(str(self.directory), "o", 1 << 30, "watch", lambda: None, self._reach)
        self.keeper.begin()
        if lease_s is not None:
            self.say("hello", v=1, cores=4, memory_bytes=None)
            self.say("lease", until=self.now + lease_s)
        self.turn()
        return self.keeper

    def _reach(self, kind: str) -> Any:
        if self.unreachable:
            raise OSError("no more processes")
        self.links.append(Link())
        return self.links[-1]

    def say(self, op: str, **more: Any) -> None:
        message = {"op": op, **more}
        COMMANDS[op](self.keeper, message, json.dumps(message).encode())

    def start(self, *names: str, rerunnable: bool = False, **spec: Any) -> None:
        whole = {"argv": ["x"], "env": {"A": "1"}, "cores": 1, "engine": "docker", "settings": {"s": 1}, **spec}
        tasks = [{"task": name, "attempt": 1, "rerunnable": rerunnable, "env": {"B": "2"}, "settings": {"t": 2}}
                 for name in names]  # fmt: skip
        self.say("start", spec=whole, tasks=tasks)
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.keeper.timers.run(self.now)
        self.keeper.act()
        self.events += self.keeper.events
        self.keeper.events = []

    def ready(self) -> None:
        self.hear(ev="ready")

    def hear(self, **news: Any) -> None:
        """News of the newest attendant."""
        (attendant,) = self.keeper.held.attendants()
        self.keeper.held.hear(attendant, news)
        self.turn()

    def started(self, task: str = "a") -> None:
        self.hear(ev="started", name=f"hakuriver-task-{task}", pid=5, at=0.0)

    def ended(self, task: str = "a", code: int | None = 0, **more: Any) -> None:
        self.hear(ev="ended", name=f"hakuriver-task-{task}", **{
            "exit_code": code, "signal": None, "oom": False, "text": "", "started_at": 1.0, "ended_at": 2.0,
            "wall_s": 1.0, "cpu_s": 0.5, "peak_memory_bytes": 7, **more,
        })  # fmt: skip

    def not_started(self, task: str = "a", *, late: bool = False, away: bool = False, code: int = 0) -> None:
        self.hear(ev="not_started", name=f"hakuriver-task-{task}", late=late, away=away, code=code, text="why")

    def kill_attendant(self) -> None:
        link = self.links[-1]
        self.keeper.held.gone(link.pid)
        self.turn()

    @property
    def ops(self) -> list[str]:
        """What the newest attendant was ordered."""
        return [f"{order['op']} {order.get('name', '').removeprefix('hakuriver-task-')}" for order in
                self.links[-1].orders]  # fmt: skip

    def phase(self, task: str = "a") -> str:
        return self.keeper.known.tasks[task, 1].phase

    def end(self, task: str = "a") -> Any:
        return next(event for event in self.events if event["kind"] == "ended" and event["task"] == task)

    def answer(self, request: str) -> Any:
        return next((event for event in self.events if event.get("request") == request), None)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made, descriptors = Bench(tmp_path / "keeper"), Descriptors(monkeypatch)
    monkeypatch.setattr(kernel, "boottime", lambda: made.now)
    monkeypatch.setattr(kernel, "boot_id", lambda: made.boot)
    monkeypatch.setattr(Keeper, "reap", lambda self: None)
    monkeypatch.setattr(core, "kill_leftovers", lambda *arguments: None)
    yield made
    descriptors.close()


def test_nothing_is_ordered_before_the_attendant_listens(bench: Bench) -> None:
    bench.begin()
    assert bench.links == []
    bench.start("a")
    assert bench.links[0].orders == []
    bench.ready()
    assert bench.ops == ["begin a", "sweep "]
    order = bench.links[0].orders[0]
    assert order["spec"] == {"argv": ["x"], "env": {"A": "1", "B": "2"}, "cwd": None, "cores": 1, "memory_bytes": None,
                             "grace_s": 10.0, "s": 1, "t": 2}  # fmt: skip
    assert (order["owner"], order["start_before"]) == ("o", 1060.0)
    assert Path(order["out"]).parent == bench.directory / "out"
    assert bench.links[0].orders[1]["keep"] == ["hakuriver-task-a"]


def test_what_may_be_rerun_has_to_start_before_its_fence(bench: Bench) -> None:
    bench.begin()
    bench.start("a", rerunnable=True)
    bench.ready()
    assert bench.links[0].orders[0]["start_before"] == 1060.0 - 10.0 - 1.0


def test_names_tell_the_attempt() -> None:
    class Of:
        task, attempt = "job-3", 1

    assert held.name(Of()) == "hakuriver-task-job-3"  # type: ignore[arg-type]
    Of.attempt = 2
    assert held.name(Of()) == "hakuriver-task-job-3.2"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "state", "cause", "reason"),
    [
        ({"code": 0}, "completed", "exit", "exit code 0"),
        ({"code": 3, "text": "of the engine"}, "failed", "exit", "exit code 3: of the engine"),
        ({"code": None, "signal": 11}, "failed", "signal", "ended by SIGSEGV"),
        ({"code": 137, "oom": True}, "killed_oom", "oom", "the memory limit was reached"),
        ({"code": 0, "oom": True}, "completed", "exit", "exit code 0"),
        ({"code": None}, "failed", "lost_track", "nobody knows how it ended"),
    ],
)
def test_endings(bench: Bench, told: Any, state: str, cause: str, reason: str) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.started()
    bench.ended("a", **told)
    end = bench.end()
    assert (end["state"], end["cause"], end["reason"], end["ran"]) == (state, cause, reason, True)
    assert (end["wall_s"], end["cpu_s"], end["peak_memory_bytes"]) == (1.0, 0.5, 7)


def test_it_is_removed_when_its_end_is_recorded_and_only_then_forgotten(bench: Bench, monkeypatch: Any) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.started()
    monkeypatch.setattr(bench.keeper.record, "flush", lambda sync: False)
    bench.ended()
    assert "remove a" not in bench.ops
    monkeypatch.undo()
    bench.turn()
    assert bench.ops[-1] == "remove a"
    bench.say("forget", tasks=[["a", 1]])
    assert bench.keeper.known.tasks
    bench.hear(ev="removed", name="hakuriver-task-a")
    assert not bench.keeper.known.tasks


def test_an_engine_that_is_away_is_tried_again_later_and_later(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    for pause in (0.5, 1.0, 2.0):
        bench.not_started(away=True)
        assert bench.phase() == QUEUED
        begun = bench.ops.count("begin a")
        bench.turn(pause * 0.9)
        assert bench.ops.count("begin a") == begun
        bench.turn(pause * 0.2)
        assert (bench.ops.count("begin a"), bench.phase()) == (begun + 1, STARTING)


def test_others_of_an_engine_that_is_away_wait_too_and_can_be_killed(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.not_started(away=True)
    bench.start("b", "c", rerunnable=True)
    assert bench.ops == ["begin a", "sweep "]
    bench.say("kill", task="b", attempt=1, request="k", reason="")
    bench.turn(0.6)
    assert sorted(bench.ops[2:]) == ["begin a", "begin c"]
    assert (bench.end("b")["state"], bench.end("b")["ran"]) == ("killed", False)


def test_late_goes_back_into_the_queue_unless_the_lease_is_over(bench: Bench) -> None:
    bench.begin(lease_s=20.0)
    bench.start("stays", "moves", rerunnable=False)
    bench.say("rerunnable", tasks=[["moves", 1, True]])
    bench.ready()
    bench.not_started("moves", late=True)
    assert bench.phase("moves") == STARTING  # at once: the lease has been extended meanwhile
    bench.turn(9.5)
    assert bench.ops[-1] == "term moves"
    bench.not_started("moves", late=True)
    assert (bench.end("moves")["state"], bench.end("moves")["ran"]) == ("fenced", False)


def test_what_cannot_be_started_has_failed(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.not_started(code=127)
    end = bench.end()
    assert (end["state"], end["cause"], end["exit_code"], end["reason"]) == (
        "failed",
        "launch",
        127,
        "Task failed to start: why",
    )


def test_a_kill_before_anybody_was_told_is_carried_out_at_once(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.say("kill", task="a", attempt=1, request="k", reason="")
    bench.turn()
    assert bench.end()["ran"] is False
    assert bench.answer("k")["ok"]


def test_kill_repeats_until_it_ends(bench: Bench) -> None:
    bench.begin()
    bench.start("a", grace_s=3.0)
    bench.ready()
    bench.started()
    bench.say("kill", task="a", attempt=1, request="k", reason="")
    bench.turn()
    assert bench.ops[-1] == "term a"
    for _ in range(3):
        bench.turn(3.0)
        assert bench.ops[-1] == "kill a"
    assert bench.ops.count("kill a") == 3
    assert bench.answer("k") is None
    bench.ended(code=137)
    assert bench.end()["state"] == "killed"
    assert bench.answer("k")["ok"]


def test_a_kill_without_grace_sends_no_term(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.started()
    bench.say("kill", task="a", attempt=1, request="k", reason="", grace_s=0.0)
    bench.turn()
    assert {op for op in bench.ops if op[:4] in ("term", "kill")} == {"kill a"}


def test_of_several_kills_the_soonest_counts_under_any_keeper(bench: Bench) -> None:
    bench.begin()
    bench.start("a", grace_s=10.0)
    bench.ready()
    bench.started()
    for grace in (60.0, 4.0, 30.0):
        bench.say("kill", task="a", attempt=1, request=f"k{grace:g}", reason="", grace_s=grace)
        bench.turn()
    assert bench.ops[-1] == "term a"
    bench.begin()
    bench.ready()
    bench.turn(3.5)
    assert bench.ops[-2:] == ["term a", "sweep "]
    bench.turn(0.5)
    assert bench.ops[-1] == "kill a"


def test_a_long_grace_ends_before_the_lease_unless_that_is_renewed(bench: Bench) -> None:
    bench.begin(lease_s=20.0)
    bench.start("a", "stays", rerunnable=True)
    bench.start("own")
    bench.ready()
    for task in ("a", "stays", "own"):
        bench.started(task)
        bench.say("kill", task=task, attempt=1, request=task, reason="", grace_s=600.0)
    bench.turn()
    bench.say("rerunnable", tasks=[["stays", 1, False]])
    bench.say("lease", until=bench.now + 30.0)
    bench.turn(28.5)
    assert [op for op in bench.ops if op[:4] == "kill"] == []
    bench.turn(0.5)
    assert [op for op in bench.ops if op[:4] == "kill"] == ["kill a"]
    bench.ended("a", code=137)
    assert bench.end("a")["cause"] == "killed", "the first cause stands"


def test_signals_do_not_wait_for_a_full_disk(bench: Bench, monkeypatch: Any) -> None:
    bench.begin(lease_s=20.0)
    bench.start("a", rerunnable=True)
    bench.ready()
    bench.started()
    monkeypatch.setattr(bench.keeper.record, "flush", lambda sync: False)
    bench.turn(9.5)
    assert bench.ops[-1] == "term a"


def test_pause_and_resume_are_answered_when_they_are_done(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.say("pause", task="a", attempt=1, request="early", reason="")
    bench.ready()
    bench.started()
    for op in ("pause", "resume", "pause"):
        bench.say(op, task="a", attempt=1, request=op + str(len(bench.ops)), reason="")
    bench.turn()
    assert bench.answer("early")["text"] == "not running"
    assert bench.ops[-3:] == ["pause a", "resume a", "pause a"]
    bench.hear(ev="changed", name="hakuriver-task-a", op="pause", ok=True, text="")
    assert (bench.phase(), bench.answer("pause2")["ok"]) == ("paused", True)
    bench.hear(ev="changed", name="hakuriver-task-a", op="resume", ok=False, text="cannot")
    assert (bench.answer("resume3")["ok"], bench.answer("resume3")["text"]) == (False, "cannot")
    bench.ended()
    assert bench.answer("pause4")["text"] == "already completed"


def test_the_next_attendant_is_told_what_is_not_answered(bench: Bench) -> None:
    bench.begin()
    bench.start("runs", "starts", "stops", "gone")
    bench.ready()
    for task in ("runs", "stops", "gone"):
        bench.started(task)
    bench.ended("gone")
    bench.say("kill", task="stops", attempt=1, request="k", reason="")
    bench.say("pause", task="runs", attempt=1, request="p", reason="")
    bench.turn()
    bench.kill_attendant()
    assert len(bench.links) == 1
    bench.turn(held.RESTART_S)
    bench.ready()
    assert bench.ops == ["attend runs", "pause runs", "begin starts", "attend stops", "term stops", "remove gone",
                         "sweep "]  # fmt: skip


def test_attendants_that_die_are_replaced_more_and_more_slowly(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    began = bench.now
    times = []
    for _ in range(8):
        bench.kill_attendant()
        links = len(bench.links)
        while len(bench.links) == links:
            bench.turn(0.1)
        times.append(bench.now - began)
    pauses = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert pauses[0] < 0.3
    assert 4.5 < pauses[-1] < held.REST_MOST_S + 1.0


def test_without_any_attendant_tasks_wait_in_the_queue(bench: Bench) -> None:
    bench.begin()
    bench.unreachable = True
    bench.start("a")
    for _ in range(20):
        bench.turn(0.2)
    assert bench.phase() in (QUEUED, STARTING)
    bench.say("kill", task="a", attempt=1, request="k", reason="")
    bench.turn()
    assert bench.end()["state"] == "killed"
    bench.start("b")
    bench.unreachable = False
    for _ in range(60):
        bench.turn(0.2)
    bench.ready()
    bench.turn(10.0)
    assert "begin b" in bench.ops


def test_an_attendant_that_nobody_needs_is_ended(bench: Bench) -> None:
    bench.begin()
    bench.start("a")
    bench.ready()
    bench.started()
    bench.ended()
    bench.hear(ev="removed", name="hakuriver-task-a")
    bench.turn(held.IDLE_S * 0.9)
    assert bench.links[0].alive
    bench.turn(held.IDLE_S * 0.2)
    assert not bench.links[0].alive
    bench.kill_attendant()
    bench.turn(10.0)
    assert len(bench.links) == 1


# -- another keeper


def test_another_keeper_goes_on(bench: Bench) -> None:
    bench.begin()
    bench.start("runs", "frozen", "starts", "ended", cores=0)
    bench.ready()
    for task in ("runs", "frozen", "ended"):
        bench.started(task)
    bench.say("pause", task="frozen", attempt=1, request="p", reason="")
    bench.hear(ev="changed", name="hakuriver-task-frozen", op="pause", ok=True, text="")
    bench.ended("ended")
    keeper = bench.begin(lease_s=None)
    assert {key[0]: task.phase for key, task in keeper.known.tasks.items()} == {
        "runs": "running", "frozen": "paused", "starts": "starting", "ended": "ended",
    }  # fmt: skip
    bench.ready()
    assert bench.ops == ["attend runs", "attend frozen", "attend starts", "remove ended", "sweep "]
    bench.hear(ev="absent", name="hakuriver-task-starts")
    assert bench.phase("starts") == QUEUED
    bench.hear(ev="absent", name="hakuriver-task-runs")
    assert bench.end("runs")["cause"] == "lost_track"
    assert bench.ops[-1] == "remove runs"
    assert keeper.live == 2


def test_another_keeper_knows_why_it_was_stopped(bench: Bench) -> None:
    bench.begin()
    bench.start("a", grace_s=5.0)
    bench.ready()
    bench.started()
    bench.say("kill", task="a", attempt=1, request="k", reason="not wanted")
    bench.turn()
    bench.begin(lease_s=None)
    bench.ready()
    assert bench.ops == ["attend a", "term a", "sweep "]
    bench.turn(5.0)
    assert bench.ops[-1] == "kill a"
    bench.ended(code=137)
    assert (bench.end()["state"], bench.end()["reason"]) == ("killed", "not wanted")


def test_the_time_limit_counts_from_the_start_under_any_keeper(bench: Bench) -> None:
    bench.begin()
    bench.start("a", time_limit_s=10.0)
    bench.ready()
    bench.hear(ev="started", name="hakuriver-task-a", pid=5, at=None)
    bench.turn(7.0)
    bench.begin()
    bench.ready()
    bench.turn(2.0)
    assert "term a" not in bench.ops
    bench.turn(2.0)
    assert bench.ops[-1] == "term a"


@pytest.mark.parametrize("known", [True, False])
def test_the_lease_outlives_the_keeper(bench: Bench, known: bool) -> None:
    bench.begin(lease_s=30.0)
    bench.start("moves", rerunnable=True)
    bench.start("stays")
    bench.ready()
    for task in ("moves", "stays"):
        bench.started(task)
    if not known:
        (bench.directory / "lease").unlink()
    bench.begin(lease_s=None)
    bench.ready()
    assert ("kill moves" in bench.ops) is not known  # no lease is known: it may be over
    bench.turn(19.5)
    assert ("term moves" in bench.ops) is known
    bench.turn(9.5)
    assert bench.ops[-1] == "kill moves"
    assert not [op for op in bench.ops if op in ("term stays", "kill stays")]


def test_a_lease_that_was_found_starts_nothing(bench: Bench) -> None:
    bench.begin(lease_s=30.0)
    bench.start("waits", cores=99)
    bench.start("behind")
    bench.begin(lease_s=None)
    bench.say("hello", v=1, cores=200, memory_bytes=None)
    bench.turn()
    assert bench.phase("behind") == QUEUED
    bench.say("lease", until=bench.now + 30.0)
    bench.turn()
    assert bench.phase("behind") == STARTING


def test_after_a_reboot_all_has_ended_and_is_removed(bench: Bench) -> None:
    bench.begin()
    bench.start("runs", "starts", "killed")
    bench.ready()
    for task in ("runs", "killed"):
        bench.started(task)
    bench.say("kill", task="killed", attempt=1, request="k", reason="")
    bench.turn()
    bench.boot = "another"
    keeper = bench.begin(lease_s=None)
    causes = {key[0]: task.end["cause"] for key, task in keeper.known.tasks.items() if task.end}
    assert causes == {"runs": "reboot", "starts": "reboot", "killed": "killed"}
    bench.ready()
    assert bench.ops == ["remove runs", "remove starts", "remove killed", "sweep "]


def test_compaction_keeps_what_engines_hold(bench: Bench) -> None:
    keeper = bench.begin()
    bench.start("a")
    bench.ready()
    bench.started()
    bench.say("kill", task="a", attempt=1, request="k", reason="why")
    bench.turn()
    before = keeper.known.tasks["a", 1]
    keeper.record.compact(keeper.known, keeper.boot)
    after = bench.begin(lease_s=None).known.tasks["a", 1]
    for field in ("stop", "stop_reason", "kill_by", "since", "settings", "pid", "slot_number"):
        assert getattr(after, field) == getattr(before, field) is not None
    assert sorted(name for name in os.listdir(bench.directory / "out")) == ["0.err", "0.out"]
