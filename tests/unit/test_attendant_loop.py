"""The attendant with real threads: what it orders of its engine, and what it tells of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hakuriver.attendant import loop
from hakuriver.attendant.engine import Away, CannotStart, Doubtful
from hakuriver.attendant.loop import Attendant


class Engine:
    """One that notes calls; a test puts answers, exceptions or functions in their place."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: dict[str, list[Any]] = {}
        self.state: dict[str, str] = {}
        self.ended = threading.Event()

    def _call(self, what: str, name: str = "") -> Any:
        self.calls.append(f"{what} {name}".strip())
        answer = self.answers.get(what)
        if not answer:
            return None
        one = answer.pop(0)
        if isinstance(one, BaseException):
            raise one
        return one() if callable(one) else one

    def look(self, order: Any) -> str:
        return self._call("look", order["name"]) or self.state.get(order["name"], "absent")

    def make(self, order: Any) -> None:
        self._call("make", order["name"])
        self.state[order["name"]] = "made"

    def start(self, order: Any) -> None:
        self._call("start", order["name"])
        self.state[order["name"]] = "running"

    def attend(self, order: Any) -> tuple[int | None, float]:
        self._call("attend", order["name"])
        return 7, 5.0

    def wait(self, order: Any) -> Any:
        self._call("wait", order["name"])
        self.ended.wait(20)
        return {"ev": "ended", "name": order["name"]}

    def signal(self, name: str, number: int) -> None:
        self._call("signal", f"{name} {number}")

    def freeze(self, name: str, on: bool) -> str:
        return self._call("freeze", f"{name} {on}") or ""

    def remove(self, name: str) -> None:
        self._call("remove", name)
        self.state.pop(name, None)

    def names(self, owner: str) -> list[str]:
        self._call("names", owner)
        return sorted(self.state)


class Bench:
    def __init__(self) -> None:
        self.engine = Engine()
        self.news: list[Any] = []
        self.attendant = Attendant(self.engine, self.news.append, now=lambda: 100.0)

    def order(self, op: str, name: str = "a", **more: Any) -> None:
        order = {"op": op, "name": name, "owner": "o", "start_before": 200.0, "task": name, "attempt": 1, "spec": {},
                 "out": "", "err": "", **more}  # fmt: skip
        self.attendant.obey(order)  # type: ignore[arg-type]

    def wait(self, event: str, name: str = "a") -> Any:
        def found() -> Any:
            return next((n for n in self.news if n["ev"] == event and n["name"] == name), None)

        until(found, event, self)
        return found()

    def called(self, call: str) -> None:
        until(lambda: call in self.engine.calls, call, self)


def until(condition: Callable[[], object], what: str, bench: Bench) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}; {bench.news} {bench.engine.calls}"
        time.sleep(0.002)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(loop, "RETRY_S", 0.001)
    made = Bench()
    yield made
    made.engine.ended.set()


def test_a_whole_life(bench: Bench) -> None:
    bench.order("begin")
    assert bench.wait("started") == {"ev": "started", "name": "a", "pid": 7, "at": 5.0}
    bench.engine.ended.set()
    bench.wait("ended")
    bench.order("remove")
    bench.wait("removed")
    assert bench.engine.calls == ["look a", "make a", "start a", "attend a", "wait a", "remove a"]


def test_repeated_orders_start_nothing_twice(bench: Bench) -> None:
    for _ in range(3):
        bench.order("begin")
    bench.wait("started")
    bench.order("begin")
    bench.order("attend")
    bench.engine.ended.set()
    bench.wait("ended")
    assert bench.engine.calls.count("start a") == 1


@pytest.mark.parametrize(
    ("state", "op", "calls", "told"),
    [
        ("running", "begin", ["attend", "wait"], "started"),
        ("running", "attend", ["attend", "wait"], "started"),
        ("ended", "begin", ["wait"], ""),
        ("ended", "attend", ["wait"], ""),
        ("made", "begin", ["start", "attend", "wait"], "started"),
        ("made", "attend", ["remove"], "absent"),
        ("absent", "attend", ["remove"], "absent"),
    ],
)
def test_what_there_is_already(bench: Bench, state: str, op: str, calls: list[str], told: str) -> None:
    bench.engine.state["a"] = state
    bench.engine.ended.set()
    bench.order(op)
    bench.wait("absent" if told == "absent" else "ended")
    assert bench.engine.calls == ["look a", *(f"{call} a" for call in calls)]
    assert [news["ev"] for news in bench.news][:-1] == ([told] if told == "started" else [])


def test_too_late(bench: Bench) -> None:
    bench.order("begin", start_before=100.0)
    told = bench.wait("not_started")
    assert (told["late"], told["away"]) == (True, False)
    assert bench.engine.calls == ["look a", "make a", "remove a"]


def test_stopped_before_it_was_started(bench: Bench) -> None:
    stopped = threading.Event()
    bench.engine.answers["make"] = [lambda: stopped.wait(20)]
    bench.order("begin")
    bench.called("make a")
    bench.order("term")
    until(lambda: bench.attendant._attempts["a"].stop, "the stop", bench)
    stopped.set()
    assert bench.wait("not_started")["late"]
    assert "start a" not in bench.engine.calls


def test_stopped_as_it_was_started(bench: Bench) -> None:
    stopped = threading.Event()
    bench.engine.answers["start"] = [lambda: stopped.wait(20)]
    bench.order("begin")
    bench.called("start a")
    bench.order("kill")
    bench.order("term")
    until(lambda: not bench.attendant._controls, "the orders", bench)
    stopped.set()
    bench.called("signal a 9")
    assert "signal a 15" not in bench.engine.calls


@pytest.mark.parametrize("step", ["look", "make"])
def test_away_before_the_start_is_told(bench: Bench, step: str) -> None:
    bench.engine.answers[step] = [Away("no socket")]
    bench.order("begin")
    told = bench.wait("not_started")
    assert (told["away"], told["text"]) == (True, "no socket")
    bench.order("begin")
    bench.wait("started")


def test_away_in_the_start_is_cleared_up(bench: Bench) -> None:
    def half() -> None:
        bench.engine.state["a"] = "running"
        raise Away("lost")

    bench.engine.answers["start"] = [half]
    bench.order("begin")
    bench.wait("started")
    assert bench.engine.calls.count("start a") == 1


def test_away_in_the_start_that_had_no_effect(bench: Bench) -> None:
    bench.engine.answers["start"] = [Away("lost")]
    bench.order("begin")
    bench.wait("started")
    assert bench.engine.calls.count("start a") == 2


def test_what_may_have_run_is_not_started_again(bench: Bench) -> None:
    bench.engine.answers["start"] = [Doubtful("lost")]
    bench.order("begin")
    bench.wait("absent")
    assert [news["ev"] for news in bench.news] == ["started", "absent"]
    assert bench.engine.calls.count("start a") == 1


def test_what_may_have_run_and_does_is_followed(bench: Bench) -> None:
    def half() -> None:
        bench.engine.state["a"] = "running"
        raise Doubtful("lost")

    bench.engine.answers["start"] = [half]
    bench.order("begin")
    bench.wait("started")
    assert bench.engine.calls.count("start a") == 1


@pytest.mark.parametrize("problem", [Away("gone"), ValueError("a fault")])
def test_trouble_while_it_runs_is_no_ending(bench: Bench, problem: Exception) -> None:
    bench.engine.answers["wait"] = [problem, problem]
    bench.engine.answers["attend"] = [None, problem]
    bench.order("begin")
    until(lambda: bench.engine.calls.count("wait a") > 1, "more tries", bench)
    assert [news["ev"] for news in bench.news] == ["started"]
    bench.engine.ended.set()
    bench.wait("ended")
    assert [news["ev"] for news in bench.news] == ["started", "ended"]


def test_what_vanishes_while_it_runs_has_started(bench: Bench) -> None:
    def vanish() -> None:
        bench.engine.state.clear()
        raise ValueError("no such container")

    bench.engine.answers["attend"] = [vanish]
    bench.order("begin")
    bench.wait("absent")
    assert [news["ev"] for news in bench.news] == ["started", "absent"]


@pytest.mark.parametrize(("problem", "code"), [(CannotStart(127, "no such"), 127), (KeyError("image"), 125)])
@pytest.mark.parametrize("step", ["make", "start"])
def test_what_cannot_be_started_leaves_nothing(bench: Bench, problem: Exception, code: int, step: str) -> None:
    bench.engine.answers[step] = [problem]
    bench.engine.answers["remove"] = [Away("for a moment")]
    bench.order("begin")
    told = bench.wait("not_started")
    assert (told["code"], told["late"], told["away"]) == (code, False, False)
    assert bench.engine.state == {}


def test_controls_of_a_name_are_carried_out_in_order(bench: Bench) -> None:
    bench.order("begin")
    bench.wait("started")
    until(lambda: bench.attendant._attempts["a"].runs, "it runs", bench)
    bench.engine.answers["freeze"] = [Away("for a moment"), "", "cannot"]
    for op in ("pause", "resume", "term", "kill"):
        bench.order(op)
    bench.called("signal a 9")
    order = [call for call in bench.engine.calls if call.startswith(("freeze", "signal"))]
    assert order == ["freeze a True", "freeze a True", "freeze a False", "signal a 15", "signal a 9"]
    changed = [(news["op"], news["ok"], news["text"]) for news in bench.news if news["ev"] == "changed"]
    assert changed == [("pause", True, ""), ("resume", False, "cannot")]


def test_orders_that_wait_are_not_piled_up(bench: Bench) -> None:
    bench.order("begin")
    bench.wait("started")
    until(lambda: bench.attendant._attempts["a"].runs, "it runs", bench)
    here = threading.Event()
    bench.engine.answers["signal"] = [lambda: here.wait(20)]
    bench.order("term")
    for _ in range(10):
        bench.order("kill")
    here.set()
    bench.called("signal a 9")
    until(lambda: not bench.attendant._controls, "the orders", bench)
    assert bench.engine.calls.count("signal a 9") == 1


def test_a_sweep_spares_what_is_kept_or_ordered(bench: Bench) -> None:
    bench.engine.state.update(stray="ended", kept="made", b="running")
    bench.order("attend", "b")
    bench.wait("started", "b")
    bench.order("sweep", "", keep=["kept"])
    bench.called("remove stray")
    bench.order("remove", "c")
    bench.wait("removed", "c")
    until(lambda: sorted(bench.engine.state) == ["b", "kept"], "the stray one is gone", bench)
    assert bench.engine.calls.index("look c") < bench.engine.calls.index("remove c")
