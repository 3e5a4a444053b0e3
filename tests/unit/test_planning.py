"""The plan: a pure function of queue, cluster and policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.jobs import Job
from hakuriver.host.nodes import Held, Node
from hakuriver.host.planning import FREE_TASKS_PER_CORE, Plan, Room, Rules, choose, plan
from hakuriver.host.queue import Queue, Shape, shape_of
from hakuriver.host.shares import Share, Shares
from hakuriver.offers import Offer, River

GIB = 1 << 30


ALL = frozenset({"docker", "systemd", "process"})
PROCESS = Offer(frozenset({"process"}))
PACKAGES = {"base": "base-7", "torch": "torch-3"}
RIVER = River(environment="base", packages=PACKAGES)


def room(node: str, cores: int = 4, memory: int = 8, **more: Any) -> Room:
    given: dict[str, Any] = {"tasks": 0, "offer": PROCESS, **more}
    return Room(node, cores, memory * GIB, cores, memory * GIB, **given)


def gpu_room(node: str, *gpus: int, **more: Any) -> Room:
    """A node with all executors and these GPUs, all free."""
    return room(node, 16, 64, offer=offer(*gpus), gpus=set(gpus), **more)


def offer(*gpus: int, **more: Any) -> Offer:
    can = frozenset({"docker-gpus", "systemd-numa", "systemd-private-network", "systemd-private-pid"})
    return Offer(ALL, can, frozenset({0, 1}), frozenset(gpus))._replace(**more)


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
    **rules: Any,
) -> Plan:
    return plan(queue_of(*jobs), rooms, active, long_waiting, Rules(**{"river": RIVER, **rules}))


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


def test_no_room_is_kept_for_what_is_not_to_wait() -> None:
    jobs = [make_job(1, cores=8, no_queue=True), make_job(2, array="0-19")]
    found = run(jobs, [room("a", 8, tasks=1), room("b", 4)], long_waiting=lambda shape: True)
    assert found.placements[0].job == jobs[0].id, "there is room for it"
    rooms = [room("a", 8), room("b", 4)]
    rooms[0].cores = 7
    found = run(jobs, rooms, long_waiting=lambda shape: True)
    assert {(p.job, p.node) for p in found.placements} == {(jobs[1].id, "a"), (jobs[1].id, "b")}
    assert found.blocked == [shape_of(jobs[1], 0)], "nor is it noted how long it waits"


def test_what_is_not_to_wait_is_not_sent_ahead() -> None:
    job = make_job(1, array="0-99", no_queue=True)
    found = run([job], [room("a", 2, ahead=3, ahead_jobs=frozenset({job.id}))])
    assert [p.k for p in found.placements] == [0, 1]


def test_a_plan_that_ends_before_all_is_looked_at_says_so() -> None:
    job = make_job(1, array="0-3", cores=0)
    assert not plan(queue_of(job), [room("a")], lambda job: 0, lambda shape: False, Rules(), most=3).whole
    assert plan(queue_of(job), [room("a")], lambda job: 0, lambda shape: False, Rules(), most=5).whole
    assert plan(queue_of(job), [], lambda job: 0, lambda shape: False, Rules(), most=3).whole


_jobs = st.lists(
    st.fixed_dictionaries(
        {"cores": st.integers(0, 5), "memory_bytes": st.integers(0, 10).map(lambda n: n * GIB)},
        optional={
            "priority": st.integers(-2, 2),
            "array": st.sampled_from(["0-3", "0-19%3", "1,5", "0-40"]),
            "targets": st.lists(st.sampled_from("abcz"), max_size=3),
            "no_queue": st.just(True),
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
            PROCESS,
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
        target = jobs[placed.job].target(placed.k)
        assert target is None or target.node == placed.node
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
        shape = shape_of(job, placed.k)
        by_shape.setdefault(shape, []).append((-job.spec.get("priority", 0), job.admission, placed.k))
    assert all(order == sorted(order) for order in by_shape.values())


@given(_jobs, _rooms)
def test_nothing_that_fits_is_left_waiting(specs: list[Any], sizes: list[Any]) -> None:
    jobs = [make_job(n, **spec) for n, spec in enumerate(specs, 1)]
    rooms = [room(name, cores, memory) for name, (cores, _, memory, _, _) in zip("abc", sizes, strict=False)]
    queue = queue_of(*jobs)
    found = plan(queue, rooms, lambda job: 0, lambda shape: False, Rules())
    for shape in found.blocked:
        assert not any(r.fits(shape, "", True) for r in rooms if choose(shape, r, River()))


# --- executors


def chosen(spec: dict[str, Any], here: Offer | None = None, **river: Any) -> str | None:
    """Executor, and package if there is one, that a job gets on a node of 16 cores; None: it is not placed."""
    here = here or offer(0, 1)
    rooms = [room("n1", 16, 64, offer=here, gpus=set(here.gpus))]
    found = run([make_job(1, **spec)], rooms, river=RIVER._replace(**river)).placements
    return " ".join(filter(None, (found[0].executor, found[0].package))) if found else None


BARE = Offer(frozenset({"process"}))
NO_DOCKER = offer()._replace(executors=frozenset({"systemd", "process"}))


@pytest.mark.parametrize(
    ("spec", "here", "river", "executor"),
    [
        ({}, None, {}, "docker base-7"),
        ({}, BARE, {}, "process"),
        ({}, NO_DOCKER, {}, "systemd"),
        ({}, None, {"packages": {}}, "systemd"),
        ({}, None, {"executor": "process"}, "process"),
        ({}, BARE, {"executor": "docker"}, None),
        ({}, None, {"contained": True}, "docker base-7"),
        ({}, BARE, {"contained": True}, None),
        ({"executor": "process"}, None, {"executor": "docker"}, "process"),
        ({"executor": "docker"}, None, {"executor": "process"}, "docker base-7"),
        ({"container": "NULL"}, None, {}, "systemd"),
        ({"container": "NULL"}, BARE, {}, "process"),
        ({"container": "NULL"}, None, {"executor": "process"}, "process"),
        ({"container": "NULL"}, None, {"executor": "docker"}, "systemd"),
        ({"container": "torch"}, None, {"executor": "process"}, "docker torch-3"),
        ({"container": "torch"}, NO_DOCKER, {}, None),
        ({"container": "nothing"}, None, {}, None),
        ({"gpus": 1}, None, {"executor": "process"}, "docker base-7"),
        ({"gpus": 1}, offer(0, can=frozenset()), {}, None),
        ({"targets": ["n1::1"]}, None, {}, "docker base-7"),
        ({"privileged": True}, None, {"executor": "systemd"}, "docker base-7"),
        ({"privileged": False}, None, {"executor": "systemd"}, "systemd"),
        ({"mounts": ["/a:/b"]}, None, {"executor": "systemd"}, "docker base-7"),
        ({"private_pid": True}, None, {"executor": "process"}, "docker base-7"),
        ({"private_network": True, "container": "NULL"}, None, {"executor": "process"}, "systemd"),
        ({"private_network": True}, BARE, {}, None),
        ({"private_pid": True, "executor": "systemd"}, offer(can=frozenset({"systemd-numa"})), {}, None),
        ({"targets": ["n1:1"]}, None, {"executor": "process"}, "docker base-7"),
        ({"targets": ["n1:1"]}, NO_DOCKER, {}, "systemd"),
        ({"targets": ["n1:1"]}, NO_DOCKER._replace(can=frozenset()), {}, None),
        ({"targets": ["n1:2"]}, None, {}, None),
        ({"targets": ["n1:0"]}, BARE, {}, None),
        ({}, offer(away={"docker": "refused"}), {}, None),  # it would run now in its environment, now without
        ({}, offer(away={"docker": "refused"}), {"packages": {}}, "systemd"),
        ({}, NO_DOCKER._replace(away={"docker": "refused"}), {}, "systemd"),
        ({"container": "torch"}, offer(away={"docker": "refused"}), {}, None),
        ({}, offer(away={"docker": "refused", "systemd": "sudo"}), {"packages": {}}, "process"),
    ],
)  # fmt: skip
def test_the_executor(spec: dict[str, Any], here: Offer | None, river: dict[str, Any], executor: str | None) -> None:
    assert chosen(spec, here, **river) == executor


# --- GPUs


def gpus(found: Plan) -> list[tuple[str, tuple[int, ...]]]:
    return [(placed.node, placed.gpus) for placed in found.placements]


def test_gpus_that_are_named_are_given_and_each_once() -> None:
    found = run([make_job(1, targets=["a::1,0", "a::1", "a::2"])], [gpu_room("a", 0, 1, 2)])
    assert gpus(found) == [("a", (1, 0)), ("a", (2,))]


def test_of_a_number_the_lowest_are_given_that_nobody_else_uses() -> None:
    found = run([make_job(1, gpus=2), make_job(2, gpus=1)], [gpu_room("a", 0, 1, 2, 3, foreign=frozenset({1}))])
    assert gpus(found) == [("a", (0, 2)), ("a", (3,))]


def test_a_gpu_that_others_use_is_given_to_who_names_it() -> None:
    rooms = [gpu_room("a", 0, foreign=frozenset({0}))]
    assert gpus(run([make_job(1, gpus=1), make_job(2, targets=["a::0"])], rooms)) == [("a", (0,))]


def test_a_task_without_gpus_passes_one_that_waits_for_some() -> None:
    found = run([make_job(1, gpus=3), make_job(2)], [gpu_room("a", 0, 1)])
    assert [placed.job[-1] for placed in found.placements] == ["2"]


def test_one_node_may_be_named_several_times() -> None:
    job = make_job(1, targets=["a:0", "a:1", "a::0", "b"])
    found = run([job], [gpu_room("a", 0), room("b")])
    assert [(placed.k, placed.node, placed.gpus) for placed in found.placements] == [
        (0, "a", ()), (1, "a", ()), (2, "a", (0,)), (3, "b", ()),
    ]  # fmt: skip


def test_tasks_with_gpus_are_never_sent_ahead() -> None:
    job = make_job(1, gpus=1, array="0-9")
    full = gpu_room("a", 0, 1, ahead=10, ahead_jobs=frozenset({job.id}))
    full.cores = 1
    assert len(run([job], [full]).placements) == 1


def test_room_is_kept_for_long_waiting_gpu_tasks_where_least_is_missing() -> None:
    rooms = [gpu_room("a", 0, 1), gpu_room("b", 0, 1, 2)]
    rooms[0].gpus, rooms[1].gpus = {0}, set()
    found = run([make_job(1, gpus=2), make_job(2)], rooms, long_waiting=lambda shape: shape.gpus == 2)
    assert [placed.node for placed in found.placements] == ["b"]


# --- strategies


@pytest.mark.parametrize(
    ("strategy", "nodes"),
    [("first-fit", "aaaabb"), ("best-fit", "bbbaaa"), ("least-loaded", "ababab"), ("round-robin", "ababab")],
)
def test_the_strategy_chooses_among_nodes_with_room(strategy: str, nodes: str) -> None:
    rooms = [room("a", 4), room("b", 4), room("c", 4)]
    for each, free in zip(rooms, (4, 3, 0), strict=True):
        each.cores = free
    jobs = [make_job(number) for number in range(1, len(nodes) + 1)]
    found = run(jobs, rooms, strategy=strategy)
    assert "".join(placed.node for placed in found.placements) == nodes


def test_round_robin_goes_on_where_it_was() -> None:
    rules = Rules(strategy="round-robin", river=RIVER)
    for expected in "abca":
        rooms = [room("a"), room("b"), room("c")]
        found = plan(queue_of(make_job(1)), rooms, lambda job: 0, lambda shape: False, rules)
        assert [placed.node for placed in found.placements] == [expected]


# --- users


def users(limit: Share, jobs: list[Job], *held: Held) -> list[str]:
    """Jobs that are placed on a large node where so much is held."""
    node = Node("n1")
    for number, what in enumerate(held):
        node.hold((str(number), 0), what)
    queue = Queue(by_user=True)
    for job in jobs:
        queue.add_job(job)
    rules = Rules(RIVER, shares=Shares(limit, [node]))
    found = plan(queue, [gpu_room("a", 0, 1, 2, 3)], lambda job: 0, lambda shape: True, rules)
    assert not found.blocked, "what waits for its user's own tasks keeps no room"
    return [placed.job[-1] for placed in found.placements]


def owned(admission: int, uid: int, **spec: Any) -> Job:
    job = make_job(admission, **spec)
    job.uid = uid
    return job


def test_a_user_holds_no_more_than_the_limit_and_others_go_on() -> None:
    jobs = [owned(1, 7, cores=3), owned(2, 7, cores=2), owned(3, 7, cores=1), owned(4, 8, cores=4)]
    assert users(Share(4, None, None), jobs) == ["1", "3", "4"]
    assert users(Share(4, None, None), jobs, Held(7, 4), Held(8, 1)) == []
    assert users(Share(None, None, 2), [owned(1, 7, gpus=1), owned(2, 7)], Held(7, 1, 0, (0, 1))) == ["2"]
    assert users(Share(None, GIB, None), [owned(1, 7, memory_bytes=GIB), owned(2, 7)], Held(7, 0, 1)) == ["2"]


def test_shapes_are_split_by_user_only_where_that_matters() -> None:
    one, two = owned(1, 7), owned(2, 8)
    assert shape_of(one, 0) == shape_of(two, 0)
    assert shape_of(one, 0, by_user=True) != shape_of(two, 0, by_user=True)
