"""The spawner's threads: one that hangs in a dead mount must not hold up the others."""

import threading
from collections.abc import Iterator

import pytest
from conftest import eventually

from hakuriver.keeper import kernel, spawn
from hakuriver.keeper.spawn import MAX_THREADS, STUCK_S, THREADS, Failure, Spawner
from hakuriver.keeper.task import Spec, Task


def task(name: str) -> Task:
    return Task(Spec({"argv": ["x"]}), {"task": name, "attempt": 1}, 0, "o")


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set: the mount answers again. Tasks named ``hangs`` wait for it."""
    answers = threading.Event()

    def launch(one: Task) -> Failure:
        if one.task == "hangs":
            answers.wait(20)
        return Failure(127, one.task)

    monkeypatch.setattr(spawn, "launch", launch)
    yield answers
    answers.set()


def names(spawner: Spawner) -> list[str]:
    return [result[0].task for result in list(spawner.results)]


def test_a_stuck_start_gets_a_colleague(mount: threading.Event) -> None:
    spawner = Spawner(lambda _: True, lambda: None)
    for name in ("hangs",) * THREADS + ("a", "b"):
        spawner.hand_over(task(name))
    eventually(lambda: len(spawner._busy) == THREADS)
    spawner.relieve(kernel.boottime())
    assert spawner._threads == THREADS
    spawner.relieve(kernel.boottime() + STUCK_S + 1)
    eventually(lambda: names(spawner) == ["a", "b"])
    mount.set()
    eventually(lambda: names(spawner) == ["a", "b"] + ["hangs"] * THREADS)


def test_colleagues_are_bounded(mount: threading.Event) -> None:
    spawner = Spawner(lambda _: True, lambda: None)
    for _ in range(2 * MAX_THREADS):
        spawner.hand_over(task("hangs"))
    for n in range(2 * MAX_THREADS):
        eventually(lambda n=n: len(spawner._busy) == min(n + THREADS, MAX_THREADS))  # type: ignore[misc]
        spawner.relieve(kernel.boottime() + STUCK_S + 1)
    assert spawner._threads == MAX_THREADS


def test_what_may_not_start_any_more_is_not_launched(mount: threading.Event) -> None:
    spawner = Spawner(lambda _: False, lambda: None)
    spawner.hand_over(task("hangs"))
    eventually(lambda: spawner.results)
    result = spawner.take()
    assert result is not None
    assert isinstance(result[1], Failure)
    assert result[1].code is None
    assert spawner.take() is None
