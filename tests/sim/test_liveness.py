"""What follows from silence, by the design's rules in short times: offline 4 s, lease 15 s, margin 3 s."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from hakuriver.host.hearing import EventReader
from hakuriver.host.leader import Superseded
from hakuriver.records import HOLDING
from hakuriver.spool import layout
from sim.actors import Actor, RunnerActor
from sim.disk import Point
from sim.keeper import Run
from sim.oracle import judge
from sim.world import TIMING, World

OFFLINE_S = TIMING["offline_after"]
LEASE_S = TIMING["lease"]
FREED_S = TIMING["lease"] + TIMING["lease_margin"]
#: Seconds that a round trip through host and runner takes, at a poll a second.
ROUND_S = 4.0


class River:
    """A world with some shorthands."""

    def __init__(self, scratch: Path, *, nodes: int = 2, cores: int = 2) -> None:
        self.world = World(scratch, 7, nodes=nodes, cores=cores).start()
        self.world.run(None, 3.0)

    @property
    def n1(self) -> RunnerActor:
        return self.world.runners["n1"]

    @property
    def n2(self) -> RunnerActor:
        return self.world.runners["n2"]

    def submit(self, seconds: str, codes: str = "0", **spec: Any) -> str:
        return self.world.submit(seconds, codes, "", **spec)

    def running(self, job: str, *, node: str | None = None) -> Run:
        """Wait until a process of it runs."""
        assert self.world.run(lambda: any(self._alive(r, job, node) for r in self.world.log), 60.0), self.world.story()
        return next(r for r in self.world.log if self._alive(r, job, node))

    def _alive(self, run: Run, job: str, node: str | None) -> bool:
        return run.task == job and run.end is None and node in (None, run.node)

    def runs(self, job: str) -> list[Run]:
        return [run for run in self.world.log if run.task[:20] == job]

    def row(self, job: str) -> list[Any]:
        """The only task, as the host holds it or has told it last."""
        host = self.world.host.host
        if job in host.state.jobs and 0 in host.state.jobs[job].live:
            return host.state.jobs[job].live[0].row(True)
        return self.world.watch.jobs[job]["tasks"][0]  # type: ignore[no-any-return]

    def state(self, job: str) -> str:
        live = self.world.host.host.state.jobs.get(job)
        return live.state_of(0) if live else str(self.world.watch.jobs[job]["state"])

    def until(self, job: str, state: str, limit_s: float = 60.0) -> None:
        assert self.world.run(lambda: self.state(job) == state, limit_s), f"{self.state(job)}\n{self.world.story()}"

    def node_row(self, node: str) -> dict[str, Any]:
        nodes: dict[str, Any] = self.world.host.host.nodes_index()
        return next(row for row in nodes["nodes"] if row["node"] == node)

    def cut_off(self) -> bool:
        return bool(self.world.host.host.nodes_index()["cut_off"])

    def judge(self, *, without: str = "", reruns: bool = False) -> None:
        """After some quiet every law holds. `without`: breaches that contain this are meant."""
        self.world.run(None, 12.0)
        broken = judge(self.world, lossy=True, reruns=reruns)
        assert [b for b in broken if not without or without not in b] == [], self.world.story()


@pytest.fixture
def river(scratch: Path) -> River:
    return River(scratch)


def test_a_silent_node_is_offline_and_comes_back(river: River) -> None:
    river.n1.stop()
    river.world.run(None, OFFLINE_S - 1.0)
    assert river.node_row("n1")["state"] == "online"
    river.world.run(None, 3.0)
    assert river.node_row("n1")["state"] == "offline"
    river.n1.start()
    river.world.run(None, 3.0)
    assert river.node_row("n1")["state"] == "online"
    river.judge()


def test_unclaimed_work_moves_at_once(river: River) -> None:
    river.running(river.submit("0.5"), node="n1")  # a new leader waits until a node has told its term, or for a lease
    river.world.run(None, 5.0)
    river.n1.stop()
    asked = river.world.t
    job = river.submit("1", array="0-1")
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert {(run.node, run.attempt) for run in river.runs(job)} == {("n2", 1)}
    assert max(run.start for run in river.runs(job)) - asked < OFFLINE_S + 2 * ROUND_S
    river.n1.start()
    river.judge()


def test_work_that_was_taken_back_is_not_started_by_a_runner_that_comes_back(river: River) -> None:
    river.n1.stop()
    job = river.submit("20")
    river.running(job, node="n2")
    river.n1.start()
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert [(run.node, run.how) for run in river.runs(job)] == [("n2", "exit")]
    river.judge()


def test_claimed_work_is_freed_after_lease_and_margin(river: River) -> None:
    may, may_not = river.submit("inf", retries=1), river.submit("inf")
    first, second = river.running(may), river.running(may_not)
    assert (first.node, second.node) == ("n1", "n1")
    river.n1.stop()
    silent = river.world.t
    again = river.running(may, node="n2")
    assert FREED_S - 2.0 < again.start - silent < FREED_S + 2 * ROUND_S
    assert first.how == "fenced"
    assert first.end is not None and first.end - silent < LEASE_S < again.start - silent
    assert (second.end, river.state(may_not)) == (None, "lost")
    assert river.row(may)[4] == 1
    for job in (may, may_not):
        river.world.drop(f"{job}.kill", b"")
    assert river.world.run(lambda: again.end is not None, 60.0)
    river.n1.start()
    assert river.world.run(river.world.done, 60.0)
    river.judge()


def test_what_is_not_to_wait_goes_elsewhere_or_fails_when_it_is_taken_back(river: River) -> None:
    river.running(river.submit("0.5"), node="n1")  # a new leader waits until a node has told its term, or for a lease
    full = river.submit("inf", targets=["n2"])
    river.running(full)
    river.world.run(None, 5.0)
    river.n1.stop()
    job = river.submit("1", array="0-1", no_queue=True)
    assert river.world.run(lambda: bool(river.world.watch.jobs.get(job, {}).get("finished_at")), 60.0)
    assert river.world.watch.jobs[job]["counts"] == {"completed": 1, "failed": 1}
    assert [run.node for run in river.runs(job)] == ["n2"]
    assert {row[9] for row in river.world.watch.jobs[job]["tasks"]} == {"exit", "no_queue"}
    river.n1.start()
    river.world.drop(f"{full}.kill", b"")
    assert river.world.run(river.world.done, 60.0), river.world.story()
    river.judge()


def test_a_retry_that_is_not_to_wait_fails_when_its_node_is_given_up(river: River) -> None:
    full = river.submit("inf", targets=["n2"], cores=2)
    river.running(full)
    job = river.submit("inf", no_queue=True, retries=1)
    first = river.running(job, node="n1")
    river.n1.stop()
    silent = river.world.t
    river.until(job, "failed")
    assert FREED_S - 2.0 < river.world.t - silent < FREED_S + 2 * ROUND_S
    assert (first.how, river.row(job)[9], river.row(job)[2]) == ("fenced", "no_queue", 1)
    river.n1.start()
    river.world.drop(f"{full}.kill", b"")
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert (river.state(job), len(river.runs(job))) == ("failed", 1)
    river.judge()


def test_without_a_witness_nothing_is_freed(river: River) -> None:
    job = river.submit("inf", retries=1)
    first = river.running(job)
    river.n1.stop()
    river.n2.stop()
    river.world.run(None, 90.0)
    assert river.cut_off()
    assert river.state(job) in HOLDING and river.row(job)[2] == 1
    river.n2.start()
    again = river.running(job, node="n2")
    assert first.how == "fenced" and again.attempt == 2
    assert not river.cut_off()


def test_a_host_whose_share_is_away_counts_no_silence(river: River, monkeypatch: pytest.MonkeyPatch) -> None:
    job = river.submit("40", retries=1)
    river.running(job)
    disk = river.world.host.disk
    hidden, river_share = type(disk.share)(), disk.share
    hidden.clock = river_share.clock
    monkeypatch.setattr(disk, "share", hidden)
    river.world.run(None, 30.0)
    monkeypatch.setattr(disk, "share", river_share)
    river.world.run(None, 2.0)
    assert (river.state(job), river.node_row("n1")["state"]) == ("running", "online")
    assert river.world.run(river.world.done, 60.0)
    assert [run.how for run in river.runs(job)] == ["exit"]
    river.judge()


def test_a_host_that_slept_frees_nothing(river: River) -> None:
    job = river.submit("80", retries=1)
    river.running(job)
    river.world.host.up = False
    river.world.run(None, 60.0)
    river.world.host.up = True
    river.world.run(None, 1.5)
    assert (river.state(job), river.node_row("n1")["state"]) == ("running", "online")
    assert river.world.run(river.world.done, 60.0)
    assert [run.how for run in river.runs(job)] == ["exit"]
    river.judge()


def test_silence_before_and_after_the_hosts_sleep_is_not_joined(river: River) -> None:
    job = river.submit("inf", retries=1)
    river.running(job)
    river.n1.stop()
    river.world.run(None, 2.0)
    river.world.host.up = False
    river.world.run(None, 60.0)
    river.world.host.up = True
    river.world.host.next_at = river.world.t
    river.world.run(None, 1.5)
    assert river.node_row("n1")["state"] == "online"
    again = river.running(job, node="n2")
    assert again.attempt == 2


def test_the_only_node_is_judged_by_the_share_itself(scratch: Path) -> None:
    river = River(scratch, nodes=1)
    job = river.submit("inf")
    run = river.running(job)
    river.n1.stop()
    silent = river.world.t
    river.until(job, "lost")
    assert FREED_S - 2.0 < river.world.t - silent < FREED_S + 2 * ROUND_S
    assert run.end is None
    assert not [path for path in river.world.share.tree() if "probe" in path]
    river.n1.start()
    river.until(job, "running")
    river.world.drop(f"{job}.kill", b"")
    assert river.world.run(river.world.done, 60.0)
    river.judge()


def test_the_only_node_loses_its_runner_and_retries_there(scratch: Path) -> None:
    river = River(scratch, nodes=1)
    job = river.submit("5", retries=1)
    river.running(job)
    river.n1.stop()
    river.world.run(None, 40.0)
    assert river.state(job) == "pending"
    river.n1.start()
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert river.row(job)[1] == "completed"
    river.judge()


def test_a_lost_task_that_still_runs_is_running_again(river: River) -> None:
    job = river.submit("60")
    run = river.running(job)
    river.n1.stop()
    river.until(job, "lost")
    river.n1.start()
    river.until(job, "running")
    assert run.end is None
    assert river.world.run(lambda: river.world.t > run.start + 61.0 and river.world.done(), 120.0), river.world.story()
    assert (river.state(job), river.row(job)[7]) == ("completed", 0)
    river.judge()


def test_a_lost_task_that_has_ended_gets_its_true_ending(river: River) -> None:
    job = river.submit("10", "5")
    river.running(job)
    river.n1.stop()
    river.until(job, "lost")
    river.n1.start()
    river.until(job, "failed")
    assert (river.row(job)[7], river.row(job)[9]) == (5, "exit")
    river.judge()


def test_a_loss_is_taken_back_before_the_next_attempt_is_sent(scratch: Path) -> None:
    """Nobody has room for it: the retry that was spent is given back."""
    river = River(scratch, cores=1)
    job, other = river.submit("22", retries=1), river.submit("60")
    river.running(job, node="n1")
    river.running(other, node="n2")
    river.n1.freeze()
    river.until(job, "pending")
    assert river.row(job)[4] == 1
    river.n1.thaw()
    river.until(job, "running")
    assert river.row(job)[4] == 0
    assert river.world.run(river.world.done, 90.0)
    assert [(run.attempt, run.how) for run in river.runs(job)] == [(1, "exit")]
    river.judge()


def test_an_earlier_attempt_that_comes_back_is_stopped_and_ignored(river: River) -> None:
    """A machine paused from outside cannot fence itself: the documented exception."""
    job = river.submit("90", retries=1)
    first = river.running(job)
    river.n1.freeze()
    second = river.running(job, node="n2")
    river.n1.thaw()
    thawed = river.world.t
    assert river.world.run(lambda: first.end is not None, 30.0), river.world.story()
    assert first.how in ("fenced", "killed") and (first.end or 0.0) - thawed < 2 * ROUND_S
    assert river.world.run(river.world.done, 150.0), river.world.story()
    assert (second.how, second.code, river.row(job)[1], river.row(job)[2]) == ("exit", 0, "completed", 2)
    river.judge(without="two executions at once")


def test_the_ending_of_an_earlier_attempt_is_ignored(river: River) -> None:
    job = river.submit("19.5", "3,0", retries=1)
    river.running(job)
    river.n1.freeze()
    river.running(job, node="n2")
    river.n1.keeper.lease_until = None  # so that it may come to its end
    river.n1.thaw()
    assert river.world.run(river.world.done, 90.0), river.world.story()
    assert (river.row(job)[1], river.row(job)[2]) == ("completed", 2)
    assert [earlier[2] for earlier in river.row(job)[17]] == ["lost"]
    river.judge(without="two executions at once")


def test_the_kill_of_a_lost_task_is_carried_out_on_its_return(river: River) -> None:
    job = river.submit("inf")
    run = river.running(job)
    river.n1.stop()
    river.until(job, "lost")
    river.world.drop(f"{job}.kill", b"")
    river.world.run(None, 10.0)
    assert run.end is None
    river.n1.start()
    river.until(job, "killed")
    assert run.how == "killed"
    assert river.world.run(river.world.done, 30.0)
    river.judge()


def test_what_was_killed_before_it_was_lost_is_not_run_again(river: River) -> None:
    job = river.submit("inf", retries=3)
    river.running(job)
    river.n1.stop()
    river.world.drop(f"{job}.kill", b"")
    river.world.run(None, FREED_S + 3 * ROUND_S)
    assert len(river.runs(job)) == 1
    river.n1.start()
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert len(river.runs(job)) == 1
    assert river.state(job) in ("killed", "lost")
    river.judge()


def test_a_runner_that_restarts_soon_changes_nothing_for_its_tasks(river: River) -> None:
    long, short = river.submit("10", retries=1), river.submit("2", "4")
    river.running(long)
    river.running(short)
    river.n1.stop()
    river.world.run(None, 5.0)
    river.n1.start()
    assert river.world.run(river.world.done, 60.0)
    assert [run.how for run in river.world.log] == ["exit", "exit"]
    assert (river.row(long)[1], river.row(short)[7]) == ("completed", 4)
    river.judge()


def test_a_reboot_ends_the_tasks_and_retries_apply(river: River) -> None:
    once, twice = river.submit("inf"), river.submit("6", retries=1)
    river.running(once)
    river.running(twice)
    river.n1.power_cut(river.world.rng)
    river.world.run(None, 2.0)
    river.n1.boot()
    assert river.world.run(river.world.done, 60.0), river.world.story()
    assert (river.row(once)[1], river.row(once)[9]) == ("failed", "reboot")
    assert (river.row(twice)[1], river.row(twice)[4]) == ("completed", 1)
    river.judge()


def test_retries_are_spent_one_by_one(river: River) -> None:
    jobs = {codes: river.submit("0.1", codes, retries=2) for codes in ("0", "1,0", "1,2,0", "1,2,3")}
    assert river.world.run(river.world.done, 90.0)
    found = {codes: (river.row(job)[1], river.row(job)[4], len(river.runs(job))) for codes, job in jobs.items()}
    assert found == {
        "0": ("completed", 0, 1), "1,0": ("completed", 1, 2), "1,2,0": ("completed", 2, 3), "1,2,3": ("failed", 2, 3),
    }  # fmt: skip
    river.judge()


def test_requeue_runs_a_finished_job_once_more(river: River) -> None:
    job = river.submit("0.1", "1,2,0", retries=1)
    assert river.world.run(river.world.done, 60.0)
    assert river.row(job)[1] == "failed"
    river.world.drop("again.json", {"request": "requeue", "targets": [job]})
    assert river.world.run(lambda: len(river.runs(job)) == 3 and river.world.done(), 60.0), river.world.story()
    river.until(job, "completed")
    assert (river.row(job)[2], river.row(job)[4]) == (3, 0)
    river.judge(reruns=True)


def test_a_requeue_survives_the_host_at_every_operation(scratch: Path) -> None:
    """Also whose receipt was told: the snapshot that shows it comes first (see Watch)."""
    tried = next(at for at in itertools.count(1) if not _died_before_the_end(River(scratch), at))
    assert tried > 10


@pytest.mark.parametrize(("kind", "leases"), [("requeue", 4), ("kill", 2)])
def test_who_asks_much_of_a_slow_share_does_not_cost_the_host_its_lead(
    river: River, monkeypatch: pytest.MonkeyPatch, kind: str, leases: int
) -> None:
    """To read jobs that are over takes several leases, and so does to write what a requeue shows; another stands by."""
    world = river.world
    host, read, write, each_s = world.host, world.host.disk.read, world.host.disk.write, 2.0
    jobs = [river.submit("0.1", "1,0") for _ in range(round(2.5 * LEASE_S / each_s))]
    assert world.run(lambda: len(world.log) == len(jobs) and world.done(), 60.0), world.story()
    other = world.second_host()
    world.run(None, 3.0)

    def answered() -> bool:
        return any(receipt["name"] == "again.json" for receipt in world.watch.receipts.values())

    def slow_read(path: str) -> bytes:
        world.hang(host, each_s if path.startswith(layout.DONE) else 0.0)
        return read(path)

    def slow_write(path: str, data: bytes, *, durable: bool = True) -> None:
        world.hang(host, each_s if path.startswith(layout.ACTIVE) and not answered() else 0.0)
        write(path, data, durable=durable)

    monkeypatch.setattr(host.disk, "read", slow_read)
    monkeypatch.setattr(host.disk, "write", slow_write)
    begun = world.t
    world.drop("again.json", {"request": kind, "targets": jobs})
    assert world.run(answered, 10 * LEASE_S), world.story()
    assert world.t - begun > leases * LEASE_S
    assert (host.host.leading, other.host.leading, host.host.journal.baton.term) == (True, False, 1)
    runs = 2 if kind == "requeue" else 1
    assert world.run(lambda: len(world.log) == runs * len(jobs) and world.done(), 60.0), world.story()
    river.judge(reruns=True)


def _died_before_the_end(river: River, at: int) -> bool:
    """Requeue a job that has failed, with the host dying at its operation `at` from there, and judge."""
    job = river.submit("0.1", "1,0")
    assert river.world.run(river.world.done, 60.0)
    river.world.run(None, 3.0)
    died: list[float] = []

    def restart(dead: Actor) -> None:
        died.append(river.world.t)
        river.world.after(1.0, dead.start)

    river.world.on_crash = restart
    river.world.host.crash_at(Point(at, "before"))
    river.world.drop("again.json", {"request": "requeue", "targets": [job]})
    assert river.world.run(lambda: len(river.runs(job)) == 2 and river.world.done(), 60.0), river.world.story()
    river.until(job, "completed")
    over = river.world.t
    river.judge(reruns=True)
    return bool(died) and died[0] <= over


def test_a_drained_node_finishes_what_it_has_and_can_be_told_to_kill(river: River) -> None:
    job, short = river.submit("inf"), river.submit("4")
    river.running(job, node="n1")
    river.running(short, node="n1")
    river.world.drop("drain.json", {"request": "drain", "node": "n1"})
    river.world.run(None, 3.0)
    elsewhere = river.submit("1")
    river.running(elsewhere, node="n2")
    river.world.drop(f"{job}.kill", b"")
    river.until(job, "killed")
    assert river.world.run(river.world.done, 60.0)
    assert river.node_row("n1")["state"] == "draining"
    assert [run.how for run in river.runs(short)] == ["exit"]
    river.judge()


def test_an_old_host_that_wakes_up_has_no_effect(river: River) -> None:
    job = river.submit("50", retries=1)
    river.running(job)
    old = river.world.host
    old.up = False
    new = river.world.second_host()
    assert river.world.run(lambda: new.host.leading, 60.0)
    another = river.submit("1")
    with pytest.raises(Superseded):
        old.host.tick()
        old.host.journal.beat()
    assert river.world.run(river.world.done, 90.0), river.world.story()
    assert [run.attempt for run in river.runs(another)] == [1]
    assert [run.how for run in river.runs(job)] == ["exit"]
    old.stop()
    river.judge()


def test_a_host_that_is_stopped_in_good_order_is_succeeded_at_once(river: River) -> None:
    job = river.submit("5")
    river.running(job)
    old = river.world.host
    old.host.release()
    old.stop()
    new, stopped_at = river.world.second_host(), river.world.t
    assert river.world.run(lambda: new.host.leading, LEASE_S), river.world.story()
    assert river.world.t - stopped_at < 2.0, "no lease is waited for"
    assert river.world.run(river.world.done, 90.0), river.world.story()
    assert [run.how for run in river.runs(job)] == ["exit"]
    river.judge()


def test_a_host_hands_nothing_back_that_is_not_its_own(river: River) -> None:
    """Succeeded while it slept, it must not give away another's lead."""
    old, new = river.world.host.host, river.world.second_host()
    river.world.host.up = False
    assert river.world.run(lambda: new.host.leading, 3 * LEASE_S), river.world.story()
    with pytest.raises(Superseded):
        old.release()
    assert river.world.run(lambda: new.host.journal.baton.beat > 0, 30.0)


def forget(river: River, node: str) -> None:
    request = river.world.new_id()
    river.world.drop(f"{request}.json", {"id": request, "request": "forget", "node": node})
    river.world.run(None, 5.0)


@pytest.mark.parametrize("more_s", [0.0, 0.3, 0.6, 0.9])
def test_a_node_that_is_forgotten_is_gone(river: River, more_s: float) -> None:
    """Its files still lie there in the tick that forgets it: they must not bring it back."""
    river.n1.stop()
    river.world.run(None, 8.0 + more_s)
    forget(river, "n1")
    assert "n1" not in river.world.host.host.state.nodes, river.world.story()
    assert not any("/n1" in path or "n1." in path for path in river.world.share.tree())


def test_another_machine_may_take_a_forgotten_name(river: River) -> None:
    river.n1.stop()
    river.n1.start()
    river.world.run(None, 40.0)
    river.n1.stop()
    river.world.run(None, 8.0)
    forget(river, "n1")
    river.n1.start()
    river.world.run(None, 10.0)
    assert river.node_row("n1")["state"] == "online"
    assert river.world.host.host.state.nodes["n1"].epoch == 1


def test_a_node_whose_description_comes_late_is_met_with_its_next_heartbeat(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = EventReader.description

    def late(reader: EventReader, node: str, epoch: int) -> dict[str, Any] | None:
        asked.append(node)
        return real(reader, node, epoch) if asked.count(node) > 1 else None

    monkeypatch.setattr(EventReader, "description", late)
    world = World(scratch, 7).start()
    assert world.run(lambda: world.host.host.leading and len(world.host.host.state.nodes) == 2, 5.0), world.story()


def test_a_listing_that_misses_a_node_makes_no_other_the_only_one(
    river: River, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only node is judged by the share itself; of several, one has to witness for the other."""
    job = river.submit("500", targets=["n1"], retries=1)
    river.running(job)
    for runner in (river.n1, river.n2):
        runner.stop()
    host = river.world.host.host
    real = host.hearing.nodes
    monkeypatch.setattr(host.hearing, "nodes", lambda now: real(now)[:1])
    river.world.run(None, FREED_S + 30.0)
    assert host.liveness.cut_off
    assert river.state(job) not in ("lost", "pending"), "nothing was freed"
