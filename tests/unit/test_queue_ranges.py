"""Ranges against a set; the queue against a sorted list."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.jobs import Job
from hakuriver.host.queue import Queue, shape_of
from hakuriver.host.ranges import Ranges

_numbers = st.integers(0, 30)


@given(st.lists(st.tuples(st.booleans(), _numbers)))
def test_ranges_are_a_set(steps: list[tuple[bool, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for add, number in steps:
        if add:
            ranges.add(number)
            model.add(number)
        else:
            assert ranges.discard(number) == (number in model)
            model.discard(number)
        assert list(ranges) == sorted(model)
        assert len(ranges) == len(model)
        assert bool(ranges) == bool(model)
        assert all((n in ranges) == (n in model) for n in range(32))
        pairs = ranges.tuples()
        assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(pairs)), "joined where they touch"
        if model:
            assert ranges.first == min(model)


def test_a_copy_is_not_changed_with_its_source() -> None:
    source = Ranges([(0, 9)])
    copy = Ranges(source.tuples())
    source.discard(4)
    assert len(copy) == 10


def make_job(admission: int, **spec: object) -> Job:
    return Job(f"{admission:020d}", 0, "ada", admission, 0.0, {"command": ["x"], **spec})


def drain(queue: Queue) -> list[tuple[str, int]]:
    """Everything in the order in which heads and lots give it."""
    found = []
    while heads := queue.heads():
        lot = next(queue.lots(heads[0][1]))
        k = next(iter(lot))
        found.append((lot.job, k))
        lot.discard(k)
    return found


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(1, 2), st.sampled_from([None, "0-2", "1,4", "0-2%1"])), max_size=8
    )
)
def test_all_that_waits_comes_by_priority_and_admission(wanted: list[tuple[int, int, str | None]]) -> None:
    queue, expected = Queue(), []
    for admission, (priority, cores, array) in enumerate(wanted, 1):
        spec = {"priority": priority, "cores": cores, **({"array": array} if array else {})}
        job = make_job(admission, **spec)
        queue.add_job(job)
        expected += [(-priority, admission, job.id, k) for k in job.all_indices()]
    assert len(queue) == len(expected)
    assert drain(queue) == [row[2:] for row in sorted(expected)]
    assert len(queue) == 0


def test_a_task_put_back_comes_before_those_that_never_ran() -> None:
    queue, job = Queue(), make_job(1, array="0-4")
    queue.add_job(job)
    for k in (0, 1):
        queue.discard(job, k)
    queue.add(job, 1)
    queue.add(job, 1)
    assert drain(queue) == [(job.id, k) for k in (1, 2, 3, 4)]


def test_targets_wait_apart_and_in_their_order() -> None:
    queue, job = Queue(), make_job(1, array="0-1", targets=["b", "a"])
    queue.add_job(job)
    assert [str(shape.target) for _, shape in queue.heads()] == ["b", "a"]
    assert [str(job.target(k)) for _, k in drain(queue)] == ["b", "b", "a", "a"]


def test_a_job_that_bounds_itself_has_a_shape_of_its_own() -> None:
    one, two, three = make_job(1, array="0-9%2"), make_job(2, array="0-9"), make_job(3, array="0-9")
    assert shape_of(one, 0) != shape_of(two, 0)
    assert shape_of(two, 0) == shape_of(three, 0)


def test_what_is_not_to_wait_is_known_without_a_search() -> None:
    queue, job = Queue(), make_job(2, array="0-2", no_queue=True)
    queue.add_job(make_job(1, array="0-2"))
    assert not queue.hurried
    queue.add_job(job)
    assert list(queue.hurried) == [shape_of(job, 0)] != [shape_of(make_job(1), 0)]
    drain(queue)
    assert queue.heads() == [] and not queue.hurried


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_adding_and_taking_out(steps: list[tuple[bool, int]]) -> None:
    queue, job = Queue(), make_job(1, array="0-5")
    queue.add_job(job)
    model = set(range(6))
    for add, k in steps:
        if add and k in model:
            continue  # only what was dispatched is put back
        (queue.add if add else queue.discard)(job, k)
        (model.add if add else model.discard)(k)
    lots = list(queue.lots(shape_of(job, 0)))
    assert sorted(k for lot in lots for k in dict.fromkeys(lot)) == sorted(model)
