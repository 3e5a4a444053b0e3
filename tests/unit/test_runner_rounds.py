"""The runner's rounds, one promise at a time."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from runner_stage import JOB, CrashDisk, Host, Stage, name, runs, says, start

from hakuriver.keeper.client import KeeperLost
from hakuriver.records import Heartbeat, NodeDescription
from hakuriver.runner.agent import Runner
from hakuriver.runner.baton import NodeTaken, Superseded
from hakuriver.runner.output import PIECE
from hakuriver.spool import files, layout
from hakuriver.spool.files import ShareAway, ShareError


@pytest.fixture
def stage(scratch: Path) -> Stage:
    return Stage(scratch)


def test_a_task_flows_and_leaves_nothing_behind(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = says(b"hi\n")
    stage.host.send(starts=[start(["echo", "hi"])])
    stage.turns(runner)
    assert stage.host.kinds() == ["begin", "claimed", "ended"]
    assert stage.host.endings[(JOB, None, 1)][0]["exit_code"] == 0
    assert stage.output() == b"hi\n"
    stage.host.send()
    stage.turns(runner, 30)
    assert [stage.host.names(part) for part in ("inbox", "claimed", "events")] == [[], [], []]
    assert stage.keeper.forgotten == [(name(), 1)]


def test_started_is_told_while_a_task_runs(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["sleep"])])
    stage.turns(runner)
    assert stage.host.kinds() == ["begin", "claimed", "started"]
    stage.turns(runner, 20)
    beat = stage.host.heartbeats()[-1]
    assert beat.tasks == [(JOB, None, 1)]
    assert beat.inbox == "000001-000000000001"


def test_nothing_starts_before_its_claim_is_on_the_share(stage: Stage) -> None:
    runner = stage.runner()

    def check(_key: Any) -> None:
        stage.host.hear()
        assert "claimed" in stage.host.kinds()
        assert stage.host.names("claimed") == ["000001-000000000001.json"]

    stage.keeper.on_start = check
    stage.host.send(starts=[start(["true"])])
    stage.turns(runner)
    assert stage.keeper.began == [(name(), 1)]


def test_what_the_keeper_is_told(stage: Stage) -> None:
    runner = stage.runner()
    spec: dict[str, Any] = {"env": {"A": "b"}, "cores": 3, "memory_bytes": 5000, "time_limit_s": 7.0, "priority": 9}
    stage.host.send(starts=[start(["x", "y"], [7], rerunnable=True, **spec)])
    stage.turns(runner)
    told, task = stage.keeper.specs[(name(7), 1)]
    env = {**told["env"], **task["env"]}
    assert told["argv"] == ["x", "y"]
    assert told["cwd"] == f"{stage.root}/shared_data"
    assert (told["cores"], told["memory_bytes"], told["time_limit_s"], told["grace_s"]) == (3, 5000, 7.0, 10.0)
    assert (task["rerunnable"], task["priority"]) == (True, 9)
    assert env["A"] == "b"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["HAKURIVER_TASK_ID"] == name(7)
    assert env["HAKURIVER_JOB_ID"] == JOB
    assert (env["HAKURIVER_TASK_INDEX"], env["HAKURIVER_ATTEMPT"], env["HAKURIVER_NODE"]) == ("7", "1", "n1")
    assert (env["HAKURIVER_CORES"], env["HAKURIVER_MEMORY_BYTES"]) == ("3", "5000")
    assert env["HAKURIVER_SHARED_DIR"] == stage.root
    assert env["TMPDIR"] == env["HAKURIVER_LOCAL_TEMP_DIR"]
    assert env["LANG"] == "C.UTF-8"
    assert not set(env) & set(os.environ) - {"PATH", "HOME", "USER", "LANG", "TMPDIR", "OMP_NUM_THREADS"}


def test_threads_asked_for_stand_and_no_memory_is_no_variable(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[start(["x"], env={"OMP_NUM_THREADS": "2", "PATH": "/bin"}, cores=8, workdir="/tmp")])
    stage.turns(runner)
    told, _ = stage.keeper.specs[(name(), 1)]
    assert told["env"]["OMP_NUM_THREADS"] == "2"
    assert told["env"]["PATH"] == "/bin"
    assert "HAKURIVER_MEMORY_BYTES" not in told["env"]
    assert told["cwd"] == "/tmp"


@pytest.mark.parametrize(
    ("executor", "command", "reason"),
    [("podman", ["x"], "no executor podman"), ("process", ["a\0b"], "NUL"), ("process", ["\ud800"], "surrogate")],
)
def test_what_cannot_be_run_is_refused_as_an_ending(
    stage: Stage, executor: str, command: list[str], reason: str
) -> None:
    runner = stage.runner()
    if "\ud800" in command:  # cannot be read by pydantic either: the whole dispatch is unreadable
        reason = "cannot read"
    stage.host.send(starts=[start(command, executor=executor)])
    stage.turns(runner, 10)
    if reason == "cannot read":
        assert [e for e in stage.host.events if e["kind"] == "unreadable" and reason in e["text"]]
    else:
        end = stage.host.endings[(JOB, None, 1)][0]
        assert (end["state"], end["cause"]) == ("failed", "refused")
        assert reason in end["reason"]
    assert stage.keeper.began == []


def test_documents_are_taken_in_the_order_of_their_chain(stage: Stage) -> None:
    runner = stage.runner()
    first = stage.host.document(starts=[start(["a"], [1])])
    second = stage.host.document(starts=[start(["b"], [2])])
    stage.host.put(second)
    stage.turns(runner, 20)
    assert stage.keeper.began == []
    assert first["place"] in stage.host.heartbeats()[-1].problems[0]
    stage.host.put(first)
    stage.turns(runner)
    assert stage.keeper.began == [(name(1), 1), (name(2), 1)]
    stage.turns(runner, 20)
    assert stage.host.heartbeats()[-1].problems == []


def test_a_revoked_document_is_passed_but_not_those_before_it(stage: Stage) -> None:
    runner = stage.runner()
    first, second, third = (stage.host.document(starts=[start(["x"], [k])]) for k in (1, 2, 3))
    paths = stage.host.paths
    stage.host.disk.mkdir(paths.dir("revoked"))
    files.publish(stage.host.disk, paths.named("revoked", second["place"]), json.dumps(second).encode())
    stage.host.put(third)
    stage.turns(runner)
    assert stage.keeper.began == []
    stage.host.put(first)
    stage.turns(runner)
    assert stage.keeper.began == [(name(1), 1), (name(3), 1)]


def test_a_document_sent_twice_is_dealt_with_once(stage: Stage) -> None:
    runner = stage.runner()
    sent = stage.host.document(starts=[start(["x"])])
    stage.host.put(sent)
    stage.turns(runner)
    stage.host.put(sent)
    stage.turns(runner, 20)
    assert stage.keeper.began == [(name(), 1)]
    assert stage.host.names("inbox") == []


@pytest.mark.parametrize("change", [{"format": 99}, {"starts": 5}, {"node": "other"}])
def test_a_document_that_cannot_be_read_is_answered(stage: Stage, change: dict[str, Any]) -> None:
    runner = stage.runner()
    place = stage.host.send(**change)
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    told = [event for event in stage.host.events if event["kind"] == "unreadable"]
    assert [event["dispatch"] for event in told] == [place]
    assert f"cannot read dispatch {place}" in told[0]["text"]
    assert stage.keeper.began == [(name(), 1)]


def test_what_is_no_json_may_become_some(stage: Stage) -> None:
    runner = stage.runner()
    made = stage.host.document(starts=[start(["x"])])
    runner.tick()
    path = Path(stage.root, stage.host.paths.named("inbox", made["place"]))
    path.write_bytes(b'{"format":')
    stage.turns(runner, 3)
    assert stage.host.kinds() == ["begin"]
    path.write_text(json.dumps(made))
    stage.turns(runner, 3)
    assert stage.keeper.began == [(name(), 1)]


def test_what_stays_no_json_is_answered(stage: Stage) -> None:
    runner = stage.runner()
    made = stage.host.document()
    runner.tick()
    Path(stage.root, stage.host.paths.named("inbox", made["place"])).write_bytes(b"\xff")
    stage.turns(runner, 10)
    assert [e["dispatch"] for e in stage.host.events if e["kind"] == "unreadable"] == [made["place"]]


def test_controls_are_answered_and_kept_until_that_is_known(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    asked = {"job": JOB, "k": None, "attempt": 1}
    stage.host.send(controls=[{"request": "r1", "op": "pause", **asked}, {"request": "r2", "op": "resume", **asked}])
    stage.host.send(controls=[{"request": "r3", "op": "kill", **asked}, {"request": "r4", "op": "kill", **asked}])
    stage.turns(runner)
    answers = [(e["request"], e["op"], e["ok"]) for e in stage.host.events if e["kind"] == "answer"]
    assert answers == [("r1", "pause", True), ("r2", "resume", True), ("r3", "kill", True), ("r4", "kill", True)]
    assert stage.host.endings[(JOB, None, 1)][0]["state"] == "killed"
    stage.turns(runner, 20)
    assert len(stage.host.names("claimed")) == 2
    stage.host.send()
    stage.turns(runner, 20)
    assert stage.host.names("claimed") == []


def test_a_document_stays_until_the_keeper_has_started_its_tasks(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.host.send(starts=[start(["x"])])
    for _ in range(40):  # the keeper has it queued: its record need not be durable yet
        runner.tick()
        stage.host.hear()
        stage.clock.at += 0.5
        if "claimed" in stage.host.kinds() and stage.host.seq < 3:
            stage.host.send()
    assert stage.host.names("inbox") == []
    assert stage.host.names("claimed") == ["000001-000000000001.json"]
    stage.turns(runner, 2)
    stage.host.send()
    stage.turns(runner, 30)
    assert stage.host.names("claimed") == []


@pytest.mark.parametrize(("told", "grace"), [({}, None), ({"grace_s": 0.0}, 0.0), ({"grace_s": 90.0}, 90.0)])
def test_a_kill_goes_to_the_keeper_with_its_grace(stage: Stage, told: dict[str, float], grace: float | None) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    stage.host.send(controls=[{"request": "r", "op": "kill", "job": JOB, "k": None, "attempt": 1, **told}])
    stage.turns(runner)
    assert stage.keeper.graces == [grace]


def test_a_document_stays_until_its_controls_are_answered(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.keeper.kill = lambda *arguments, **more: None  # type: ignore[method-assign]
    stage.host.send(controls=[{"request": "r", "op": "kill", "job": JOB, "k": None, "attempt": 1}])
    stage.turns(runner, 2)
    stage.host.send()
    stage.turns(runner, 30)
    assert stage.host.names("claimed") == ["000001-000000000001.json"]


def test_a_control_for_an_unknown_attempt_is_answered(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(controls=[{"request": "r", "op": "pause", "job": JOB, "k": 3, "attempt": 2}])
    stage.turns(runner)
    [answer] = [event for event in stage.host.events if event["kind"] == "answer"]
    assert (answer["job"], answer["k"], answer["attempt"], answer["ok"]) == (JOB, 3, 2, False)


def test_a_superseded_attempt_is_stopped_and_told_as_fenced(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    stage.host.send(drop=[[JOB, None, 1], [JOB, 5, 1]])
    stage.turns(runner)
    assert stage.keeper.controls == [("kill", name(), 1, None)]
    assert [end["state"] for end in stage.host.endings[(JOB, None, 1)]] == ["fenced"]
    assert "answer" not in stage.host.kinds()


def test_the_lease_counts_from_before_the_heartbeat_was_written(stage: Stage) -> None:
    class Slow(CrashDisk):
        def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
            stage.clock.at += 20.0 if "/heartbeat/" in path else 0.0
            super().write(path, data, durable=durable)

    runner = stage.runner(Slow(stage.root))
    before = stage.clock()
    runner.tick()
    assert stage.keeper.leases == [before + stage.settings.timing.lease]


def test_a_heartbeat_that_fails_renews_no_lease(stage: Stage) -> None:
    class Full(CrashDisk):
        full = False

        def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
            if self.full:
                raise ShareError("write", path, OSError(errno.ENOSPC, "No space left on device"))
            super().write(path, data, durable=durable)

    disk = Full(stage.root)
    runner = stage.runner(disk)
    stage.turns(runner)
    leases = list(stage.keeper.leases)
    disk.full = True
    stage.clock.at += 10
    for _ in range(3):
        with pytest.raises(ShareError, match="free some space"):
            runner.tick()
    assert stage.keeper.leases == leases
    disk.full = False
    runner.tick()
    assert stage.keeper.leases == [*leases, stage.clock() + stage.settings.timing.lease]


def test_nothing_is_handed_over_under_a_lease_that_is_about_to_end(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.host.send(starts=[start(["x"])])
    assert runner.session is not None
    runner.session.heart.lease_until = stage.clock() + 5.0
    stage.turn(runner)
    assert stage.keeper.began == []
    assert "claimed" in stage.host.kinds()
    stage.turns(runner, 20)
    assert stage.keeper.began == [(name(), 1)]


@pytest.mark.parametrize("rerunnable", [False, True])
def test_what_waited_until_the_lease_had_run_out_may_run_elsewhere(stage: Stage, rerunnable: bool) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.host.send(starts=[start(["x"], rerunnable=rerunnable)])
    assert runner.session is not None
    runner.session.heart.lease_until = stage.clock() + 5.0
    stage.turn(runner)
    stage.clock.at += 1000.0
    stage.turns(runner)
    assert stage.host.endings[(JOB, None, 1)][0]["state"] == ("fenced" if rerunnable else "completed")
    assert bool(stage.keeper.began) is not rerunnable


def test_what_was_superseded_before_it_was_handed_over_is_not_started(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.host.send(starts=[start(["x"])])
    stage.host.send(drop=[[JOB, None, 1]])
    stage.turns(runner)
    assert stage.keeper.began == []
    assert stage.host.endings[(JOB, None, 1)][0]["state"] == "fenced"


def test_heartbeats_are_kept_for_a_minute(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner, 60, 2.5)
    beats = stage.host.heartbeats()
    assert 10 <= len(beats) <= 14
    assert [beat.seq for beat in beats] == list(range(beats[0].seq, beats[0].seq + len(beats)))


def test_a_restart_begins_an_epoch_that_names_the_one_before(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name(1)] = runs
    stage.host.send(starts=[start(["x"], [1, 2])])
    stage.turns(runner)
    again = stage.runner()
    stage.turns(again)
    begin = [event for event in stage.host.events if event["kind"] == "begin"][1]
    assert again.epoch == 2
    assert begin["previous_epoch"] == 1
    assert begin["previous_seq"] >= 1
    assert sorted(map(tuple, begin["holds"])) == [(JOB, 1, 1), (JOB, 2, 1)]
    assert stage.keeper.began == [(name(1), 1), (name(2), 1)]
    assert stage.host.kinds().count("started") == 2
    description = NodeDescription.model_validate_json(stage.host.disk.read(stage.host.paths.description(2)))
    assert (description.cores, description.executors) == (4, ["process"])


def test_after_a_restart_the_chain_goes_on_where_it_was(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[start(["x"], [1])])
    stage.turns(runner)
    stage.host.send()
    stage.turns(runner, 40)
    assert stage.host.names("claimed") == stage.host.names("inbox") == []
    again = stage.runner()
    stage.turns(again)
    stage.host.send(starts=[start(["x"], [2])])
    stage.turns(again)
    assert stage.keeper.began == [(name(1), 1), (name(2), 1)]


def test_a_lost_keeper_begins_a_new_epoch_and_nothing_is_forgotten(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    stage.keeper.end(name(), 1, state="failed", cause="keeper_died")
    stage.keeper.lost = True
    with pytest.raises(KeeperLost):
        runner.tick()
    stage.turns(runner)
    assert runner.epoch == 2
    assert stage.host.endings[(JOB, None, 1)][0]["cause"] == "keeper_died"


def test_a_start_that_got_lost_on_its_way_to_the_keeper_is_sent_again(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[start(["x"])])
    runner.tick()
    stage.keeper.tasks.clear()
    stage.keeper.lost = True
    with pytest.raises(KeeperLost):
        runner.tick()
    stage.turns(runner)
    assert stage.keeper.began == [(name(), 1)]


def test_a_node_of_another_machine_is_refused(stage: Stage) -> None:
    stage.turns(stage.runner())
    with pytest.raises(NodeTaken, match="hakuriver node forget n1"):
        stage.runner(nonce="bbbb").tick()
    assert stage.runner(nonce="aaaa").tick()


def test_a_runner_whose_baton_was_taken_stops(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    stage.turns(stage.runner())
    stage.clock.at += stage.settings.timing.heartbeat_interval  # it looks when it has anything to do
    with pytest.raises(Superseded):
        runner.tick()


def test_a_forgotten_node_begins_anew(stage: Stage) -> None:
    runner = stage.runner()
    stage.keeper.scripts[name(1)] = runs
    stage.host.send(starts=[start(["x"], [1])])
    stage.turns(runner)
    paths = stage.host.paths
    for part in (*layout.NODE_TREE, ""):
        directory = f"{paths.root}/{part}".rstrip("/")
        for entry in files.names(stage.host.disk, directory):
            stage.host.disk.remove(f"{directory}/{entry}")
        stage.host.disk.rmdir(directory)
    stage.host = Host(stage.root)
    stage.host.seq = 50
    stage.turns(runner)
    assert runner.epoch == 2
    assert stage.host.events[0]["holds"] == [[JOB, 1, 1]]
    stage.host.send(starts=[start(["x"], [2])])
    stage.turns(runner)
    assert (name(2), 1) in stage.keeper.began


def test_an_unmounted_share_is_not_written_to(stage: Stage) -> None:
    runner = stage.runner()
    stage.turns(runner)
    os.rename(stage.root, stage.root + ".away")
    os.mkdir(stage.root)
    stage.clock.at += 30
    with pytest.raises(ShareAway, match="not mounted"):
        runner.tick()
    assert os.listdir(stage.root) == []
    os.rmdir(stage.root)
    os.rename(stage.root + ".away", stage.root)
    stage.turns(runner)
    assert stage.host.heartbeats()[-1].epoch == 1


def test_an_output_that_cannot_be_stored_ends_its_task_all_the_same(stage: Stage) -> None:
    runner = stage.runner()
    os.symlink("/dev/null", Path(stage.root, layout.stdout_path(JOB, None, 1)))
    stage.keeper.scripts[name()] = says(b"hi")
    stage.host.send(starts=[start(["x"])])
    stage.turns(runner)
    assert "could not be stored" in stage.host.endings[(JOB, None, 1)][0]["reason"]


def test_many_endings_share_one_sync(stage: Stage) -> None:
    class Counting(CrashDisk):
        syncs = 0

        def sync_all(self) -> None:
            self.syncs += 1

    disk = Counting(stage.root)
    runner = stage.runner(disk)
    for k in range(20):
        stage.keeper.scripts[name(k)] = says(b"%d" % k)
    stage.host.send(starts=[start(["x"], range(20))])
    stage.turns(runner)
    assert [stage.output(k) for k in range(20)] == [b"%d" % k for k in range(20)]
    assert disk.syncs == 1


def test_much_output_of_a_task_that_runs_is_carried_on_at_once(stage: Stage) -> None:
    """Piece after piece, and not one with each heartbeat."""
    runner = stage.runner()
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["sleep"])])
    stage.turns(runner, 20)
    stage.keeper.write(stage.keeper.tasks[(name(), 1)], b"x" * (5 * PIECE))
    began = stage.clock()
    stage.turns(runner, 30, seconds=0.05)
    assert stage.clock() - began < stage.settings.timing.heartbeat_interval
    assert len(stage.output()) == 5 * PIECE


# -- a round that hangs


class Gate:
    """Where a thread waits until it is let go."""

    def __init__(self) -> None:
        self.closed = False
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if self.closed:
            self.reached.set()
            assert self.open.wait(60)


class Stuck:
    """A disk on which writes into outputs hang, as somebody who has read them does not answer; or looks, or bells."""

    def __init__(self, root: str) -> None:
        self._disk = CrashDisk(root)
        self.output, self.look, self.bell = Gate(), Gate(), Gate()
        self.output.closed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def list(self, path: str) -> list[files.Entry]:
        if path == "":
            self.look()
        return self._disk.list(path)

    def rename(self, source: str, target: str) -> None:
        if source.startswith("bells/"):
            self.bell()
        self._disk.rename(source, target)

    def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
        self.output()
        self._disk.write_at(path, offset, data, durable=durable)


@pytest.fixture
def hanging(stage: Stage) -> Iterator[tuple[Runner, Stuck]]:
    """A runner whose round hangs in the output of a task that goes on."""
    disk = Stuck(stage.root)
    runner = stage.runner(disk)
    stage.keeper.scripts[name()] = runs
    stage.host.send(starts=[start(["sleep"])])
    stage.turns(runner, 20)
    stage.keeper.write(stage.keeper.tasks[(name(), 1)], b"hello\n")

    def turns() -> None:
        while not disk.output.reached.is_set():
            stage.turn(runner)

    thread = threading.Thread(target=turns, daemon=True)
    thread.start()
    assert disk.output.reached.wait(30)
    yield runner, disk
    disk.output.open.set()
    thread.join(30)


def test_while_a_round_hangs_the_heart_goes_on_and_the_lease_is_kept(
    stage: Stage, hanging: tuple[Runner, Stuck]
) -> None:
    runner, _ = hanging
    interval = stage.settings.timing.heartbeat_interval
    before = beats(stage)
    assert runner.stand_in() > 0, "nothing is overdue yet"
    assert beats(stage) == before
    for _ in range(int(stage.settings.timing.lease / interval) + 2):
        stage.clock.at += interval * 1.6
        runner.stand_in()
    assert len(beats(stage)) > len(before) + 3
    assert stage.keeper.lease_until is not None
    assert stage.keeper.lease_until > stage.clock()
    newest = Heartbeat.model_validate_json(Path(stage.root, "nodes/n1/heartbeat", beats(stage)[-1]).read_bytes())
    assert "does not come back" in newest.problems[-1]
    assert newest.tasks == [(JOB, None, 1)]
    bells = [layout.parse_bell(bell) for bell in os.listdir(f"{stage.root}/bells")]
    assert [bell.beat for bell in bells if bell] == [newest.seq]


def test_a_round_that_hangs_for_good_lets_the_node_fall_silent(stage: Stage, hanging: tuple[Runner, Stuck]) -> None:
    runner, _ = hanging
    stage.clock.at += 1000.0
    before = beats(stage)
    runner.stand_in()
    assert beats(stage) == before


def test_nobody_stands_in_for_a_runner_that_was_taken_over(stage: Stage, hanging: tuple[Runner, Stuck]) -> None:
    runner, _ = hanging
    [own] = [found for found in os.listdir(f"{stage.root}/nodes/n1") if found.startswith("runner.")]
    os.rename(f"{stage.root}/nodes/n1/{own}", f"{stage.root}/nodes/n1/runner.99.{own.split('.')[2]}")
    stage.clock.at += stage.settings.timing.heartbeat_interval * 1.6
    before = beats(stage)
    with pytest.raises(Superseded):
        runner.stand_in()
    assert beats(stage) == before


def beats(stage: Stage) -> list[str]:
    return sorted(name for name in os.listdir(f"{stage.root}/nodes/n1/heartbeat") if name.endswith(".json"))


def test_a_bell_that_hangs_keeps_no_lease_from_being_renewed(stage: Stage, hanging: tuple[Runner, Stuck]) -> None:
    runner, disk = hanging
    disk.bell.closed = True
    before = stage.keeper.lease_until
    stage.clock.at += stage.settings.timing.heartbeat_interval * 1.6
    other = threading.Thread(target=runner.stand_in, daemon=True)
    other.start()
    assert disk.bell.reached.wait(30)
    assert before is not None
    assert stage.keeper.lease_until is not None
    assert stage.keeper.lease_until > before
    disk.bell.open.set()
    other.join(30)


def test_the_lease_never_goes_back(stage: Stage) -> None:
    """The other thread's heartbeat hangs in its bell; the round goes on first, and makes a newer one."""
    disk = Stuck(stage.root)
    runner = stage.runner(disk)
    stage.turns(runner, 20)
    assert runner.session is not None
    stage.clock.at = runner.session.heart.next_at + 0.1
    disk.look.closed = disk.bell.closed = True
    threads = [threading.Thread(target=runner.tick, daemon=True)]
    threads[0].start()
    assert disk.look.reached.wait(30)
    stage.clock.at += 3.0
    threads.append(threading.Thread(target=runner.stand_in, daemon=True))
    threads[1].start()
    assert disk.bell.reached.wait(30)
    stage.clock.at += 80.0
    known = len(stage.keeper.leases)
    disk.look.open.set()
    eventually(lambda: len(stage.keeper.leases) > known)
    stage.clock.at += 15.0
    disk.bell.open.set()
    for thread in threads:
        thread.join(30)
    assert stage.keeper.leases == sorted(stage.keeper.leases)


def test_nobody_stands_in_for_a_round_that_fails_at_once(stage: Stage) -> None:
    """On a full share no heartbeat can be made; when there is room again, nothing has hung."""
    runner = stage.runner()
    stage.turns(runner, 20)
    stage.clock.at += 100.0
    before = beats(stage)
    runner.stand_in()
    assert beats(stage) == before
