"""How much short work a node gets in advance."""

from __future__ import annotations

from typing import Any

from hakuriver.host.ahead import AHEAD_MOST, Ahead
from hakuriver.host.state import State

JOB = "17952394256555067814"


def state(cores: int = 1) -> State:
    found = State()
    receipt = {"request": JOB, "name": "x.json", "kind": "run", "uid": 7, "at": 1.0}
    spec = {"command": ["true"], "cores": cores, "array": "0-99"}
    found.apply(["jobs", receipt, "me", [[JOB, spec]], "taken"])
    return found


def ended(count: int, wall_s: float = 0.01) -> list[dict[str, Any]]:
    return [{"kind": "ended", "job": JOB, "k": k, "attempt": 1, "end": {"wall_s": wall_s}} for k in range(count)]


def test_nothing_is_sent_ahead_before_anything_short_has_ended() -> None:
    ahead = Ahead()
    ahead.note("n1", ended(8, wall_s=30.0), state(), 10.0)
    assert ahead.allowance("n1", 10.0) == (0, frozenset())
    assert ahead.allowance("n2", 10.0) == (0, frozenset())


def test_a_burst_goes_on_as_it_began_and_a_steady_pace_as_it_was() -> None:
    ahead, river = Ahead(), state(cores=2)
    ahead.note("n1", ended(8), river, 10.0)
    assert ahead.allowance("n1", 10.0) == (160, frozenset([JOB]))
    ahead.note("n1", ended(42), river, 10.5)
    assert ahead.allowance("n1", 10.5) == (200, frozenset([JOB]))
    assert ahead.allowance("n2", 10.5) == (0, frozenset())


def test_it_is_bounded_and_ends_a_second_after_the_last() -> None:
    ahead, river = Ahead(), state()
    ahead.note("n1", ended(100) * 50, river, 10.0)
    assert ahead.allowance("n1", 10.0)[0] == AHEAD_MOST
    assert ahead.allowance("n1", 11.1) == (0, frozenset())
