"""The plan: a pure function of queue, cluster and policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.jobs import Job
from hakuriver.host.planning import FREE_TASKS_PER_CORE, Plan, Room, eligible, plan
from hakuriver.host.queue import Queue, Shape

GIB = 1 << 30


def room(node: str, cores: int = 4, memory: int = 8, **more: Any) -> Room:
    given: dict[str, Any] = {"tasks": 0, "executors": frozenset({"process"}), **more}
    return Room(node, cores, memory * GIB, cores, memory * GIB, **given)


def make_job(admission: int, **spec: Any) -> Job:
    return Job(f"{admission:020d}", 0, "ada", admission, 0.0, {"command": ["x"], **spec})


def queue_of(*jobs: Job) -> Queue:
    queue = Queue()
    for job in jobs:
        queue.add_job(job)
    return queue


def run(
    jobs: list[Job],
    rooms: list[Room],
    active: Any = lambda job: 0,
    long_waiting: Any = lambda shape: False,
    auto: str = "auto",
) -> Plan:
    return plan(queue_of(*jobs), rooms, active, long_waiting, auto=auto)


def test_the_first_that_fits_is_placed_on_the_first_node_that_has_room() -> None:
    found = run([make_job(1, cores=3), make_job(2, cores=3), make_job(3)], [room("a"), room("b")])
    assert [(p.job[-1], p.node, p.executor) for p in found.placements] == [
        ("1", "a", "process"), ("2", "b", "process"), ("3", "a", "process"),
    ]  # fmt: skip


def test_a_task_that_fits_may_pass_one_that_does_not() -> None:
    found = run([make_job(1, cores=8), make_job(2)], [room("a")])
    assert [p.job[-1] for p in found.placements] == ["2"]
    assert [shape.cores for shape in found.blocked] == [8]


def test_priority_goes_before_admission() -> None:
    found = run([make_job(1, cores=4), make_job(2, cores=4, priority=1)], [room("a")])
    assert [p.job[-1] for p in found.placements] == ["2"]


def test_an_array_is_started_in_order_and_no_more_than_it_allows_at_once() -> None:
    found = run([make_job(1, array="0-9%3")], [room("a", 8)], active=lambda job: 1)
    assert [p.k for p in found.placements] == [0, 1]


def test_a_target_is_kept_to() -> None:
    found = run([make_job(1, targets=["b", "z"])], [room("a"), room("b")])
    assert [(p.k, p.node) for p in found.placements] == [(0, "b")]


def test_a_node_without_the_executor_gets_nothing() -> None:
    assert not run([make_job(1, executor="docker")], [room("a")]).placements
    assert (
        run([make_job(1)], [room("a", executors=frozenset({"process", "docker"}))]).placements[0].executor == "docker"
    )


def test_what_auto_means_may_be_set() -> None:
    both = frozenset({"process", "docker"})
    assert run([make_job(1)], [room("a", executors=both)], auto="process").placements[0].executor == "process"
    asked = run([make_job(1, executor="docker")], [room("a", executors=both)], auto="process")
    assert asked.placements[0].executor == "docker"


def test_tasks_without_cores_are_bounded_too() -> None:
    found = run([make_job(1, cores=0, array="0-199")], [room("a", 2)])
    assert len(found.placements) == 2 * FREE_TASKS_PER_CORE


def test_one_that_has_waited_long_gets_room_kept() -> None:
    rooms = [room("a", 4), room("b", 4)]
    rooms[0].cores, rooms[1].cores = 1, 2
    found = run([make_job(1, cores=4), make_job(2, array="0-9")], rooms, long_waiting=lambda shape: shape.cores == 4)
    assert {p.node for p in found.placements} == {"a"}, "the node with most room is kept free"


def test_no_room_is_kept_for_a_job_that_waits_for_its_own_tasks() -> None:
    jobs = [make_job(1, array="0-9%1"), make_job(2, array="0-9")]
    found = run(jobs, [room("a", 4)], active=lambda job: int(job == jobs[0].id), long_waiting=lambda shape: True)
    assert [p.job[-1] for p in found.placements] == ["2"] * 4
    assert not any(shape.job for shape in found.blocked)


def test_no_room_is_kept_where_a_task_could_never_run() -> None:
    found = run([make_job(1, cores=8), make_job(2)], [room("a", 4)], long_waiting=lambda shape: shape.cores == 8)
    assert [p.job[-1] for p in found.placements] == ["2"]


def test_nothing_is_sent_ahead_of_a_job_that_is_not_known_to_be_short() -> None:
    node = room("a", 0, ahead=5, ahead_jobs=frozenset({make_job(1).id}))
    assert run([make_job(2)], [node]).placements == []


def test_short_tasks_are_sent_ahead_and_others_first() -> None:
    job = make_job(1, array="0-99")
    found = run([job], [room("a", 2, ahead=3, ahead_jobs=frozenset({job.id})), room("b", 2)])
    assert Counter(p.node for p in found.placements) == {"a": 5, "b": 2}
    assert [p.node for p in found.placements[:4]] == ["a", "a", "b", "b"], "free room is used before any is sent ahead"


_jobs = st.lists(
    st.fixed_dictionaries(
        {"cores": st.integers(0, 5), "memory_bytes": st.integers(0, 10).map(lambda n: n * GIB)},
        optional={
            "priority": st.integers(-2, 2),
            "array": st.sampled_from(["0-3", "0-19%3", "1,5", "0-40"]),
            "targets": st.lists(st.sampled_from("abcz"), max_size=3),
        },
    ),
    max_size=8,
)
_rooms = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(1, 12), st.integers(0, 12), st.integers(0, 6)),
    max_size=3,
)


@given(_jobs, _rooms, st.booleans(), st.integers(0, 3))
def test_no_plan_oversubscribes(specs: list[Any], sizes: list[Any], long: bool, running: int) -> None:
    jobs = {job.id: job for job in (make_job(n, **spec) for n, spec in enumerate(specs, 1))}
    rooms = [
        Room(
            name,
            min(free, cores),
            min(mem_free, memory) * GIB,
            cores,
            memory * GIB,
            0,
            frozenset({"process"}),
            ahead,
            frozenset(list(jobs)[::2]),
        )
        for name, (cores, free, memory, mem_free, ahead) in zip("abc", sizes, strict=False)
    ]
    before = {r.node: (r.cores, r.memory_bytes, r.ahead) for r in rooms}
    found = run(list(jobs.values()), rooms, lambda job: running, lambda shape: long)
    # each task once, on a node that may run it
    assert len({(p.job, p.k) for p in found.placements}) == len(found.placements)
    for placed in found.placements:
        assert jobs[placed.job].target(placed.k) in (None, placed.node)
    # no more cores than are free, and what may be sent ahead; memory only so too
    for r in rooms:
        here = [jobs[p.job].spec for p in found.placements if p.node == r.node]
        cores, memory, ahead = before[r.node]
        assert sum(spec["cores"] for spec in here) <= max(cores + ahead, 0)
        if not ahead:
            assert sum(spec["memory_bytes"] for spec in here) <= memory
        assert all(spec["cores"] <= r.cores_total and spec["memory_bytes"] <= r.memory_total for spec in here)
    # never more of a job at once than it allows
    for job_id, many in Counter(p.job for p in found.placements).items():
        most = jobs[job_id].most_at_once
        assert most is None or running + many <= most
    # in order within what is alike
    by_shape: dict[Shape, list[Any]] = {}
    for placed in found.placements:
        job = jobs[placed.job]
        shape = Shape(job.target(placed.k), job.spec["cores"], job.spec["memory_bytes"], "auto",
                      job.id if job.most_at_once else None, job.most_at_once)  # fmt: skip
        by_shape.setdefault(shape, []).append((-job.spec.get("priority", 0), job.admission, placed.k))
    assert all(order == sorted(order) for order in by_shape.values())


@given(_jobs, _rooms)
def test_nothing_that_fits_is_left_waiting(specs: list[Any], sizes: list[Any]) -> None:
    jobs = [make_job(n, **spec) for n, spec in enumerate(specs, 1)]
    rooms = [room(name, cores, memory) for name, (cores, _, memory, _, _) in zip("abc", sizes, strict=False)]
    queue = queue_of(*jobs)
    found = plan(queue, rooms, lambda job: 0, lambda shape: False)
    for shape in found.blocked:
        assert not any(r.fits(shape, "", True) for r in rooms if eligible(shape, r.node, r.executors))
