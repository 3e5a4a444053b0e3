"""Images that are brought before tasks start: rounds, every crash point, and the threads that bring them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from runner_stage import JOB, CrashDisk, Stage, name, play, play_dying, runs, says, start

from hakuriver.records import Start, StartRow
from hakuriver.runner import images as bringing
from hakuriver.runner.agent import Runner
from hakuriver.runner.executors import EXECUTORS, Place, Planned, process
from hakuriver.runner.images import Images
from hakuriver.runner.port import ImageNews
from hakuriver.runner.store import EngineAway, LoadFailed, NoRoom
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk

OLD, NEW, OTHER = "sha256:01d", "sha256:2ef", "sha256:07e4"


def with_image(start: Start, rows: list[StartRow], place: Place) -> Planned:
    """What the keeper would be told by the executor for Docker, as far as images go."""
    planned = process.plan(start, rows, place)
    planned.spec["env"]["IMAGE"] = start.image or ""
    return planned


@pytest.fixture(autouse=True)
def docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, "docker", with_image)


@pytest.fixture
def stage(scratch: Path) -> Stage:
    return Stage(scratch)


def contained(ks: Iterable[int | None] = (None,), image: str = OLD, package: str = "base-17", **more: Any) -> Any:
    """A start in a container."""
    return start(["x"], ks, executor="docker", image=image, package=package, **more)


def asked(op: str, k: int | None = None, request: str = "r") -> dict[str, Any]:
    return {"request": request, "op": op, "job": JOB, "k": k, "attempt": 1}


def told(stage: Stage, kind: str) -> list[dict[str, Any]]:
    return [event for event in stage.host.events if event["kind"] == kind]


# -- rounds


def test_an_image_that_is_there_holds_nobody_up(stage: Stage) -> None:
    stage.images.there.add(OLD)
    runner = stage.runner()
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    assert stage.keeper.began == [(name(), 1)]
    assert stage.host.kinds() == ["begin", "claimed", "ended"]
    assert stage.keeper.specs[(name(), 1)][0]["env"]["IMAGE"] == OLD


def test_tasks_wait_for_their_image_and_others_go_on(stage: Stage) -> None:
    stage.images.there.add(OTHER)
    runner = stage.runner()
    stage.host.send(starts=[contained([1, 2]), start(["x"], [3]), contained([4], OTHER, "other-9")])
    stage.host.send(starts=[contained([5]), start(["x"], [6])])
    stage.turns(runner, 3)
    stage.images.load(OLD)
    stage.turns(runner, 20)
    assert sorted(stage.keeper.began) == [(name(k), 1) for k in (3, 4, 6)]
    assert [(e["k"], e["text"]) for e in told(stage, "syncing")] == [(k, "base-17") for k in (1, 2, 5)]
    assert stage.host.heartbeats()[-1].queued == 3
    assert runner.images.kept == {OLD}  # type: ignore[attr-defined]
    stage.host.send(starts=[contained([7])])
    stage.turns(runner, 3)
    assert [e["k"] for e in told(stage, "syncing")] == [1, 2, 5, 7]
    stage.images.come(OLD)
    stage.turns(runner, 3)
    assert stage.keeper.began[3:] == [(name(k), 1) for k in (1, 2, 5, 7)]
    assert stage.images.loads == [OLD]


def test_a_document_stays_while_its_tasks_wait(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    for _ in range(30):
        stage.host.send()
        stage.turn(runner, 0.6)
    assert stage.host.names("claimed") == ["000001-000000000001.json"]
    stage.images.come(OLD)
    for _ in range(10):
        stage.turn(runner, 0.6)
        stage.host.send()
    assert stage.host.names("claimed") == []


def test_a_round_without_news_costs_one_listing(stage: Stage) -> None:
    disk = CrashDisk(stage.root)
    runner = stage.runner(disk)
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    runner.session.inbox._look_at = float("inf")  # type: ignore[union-attr]
    stage.clock.at += 1e-6
    before = disk.count
    runner.tick()
    assert disk.count - before == 1


@pytest.mark.parametrize("op", ["pause", "resume"])
def test_what_waits_cannot_be_paused(stage: Stage, op: str) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained()], controls=[asked(op)])
    stage.turns(runner, 4)
    [answer] = told(stage, "answer")
    assert (answer["ok"], answer["text"]) == (False, f"cannot {op}: its image is being loaded")
    assert stage.keeper.controls == []


def test_what_waits_can_be_killed_and_then_never_starts(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained([1, 2])])
    stage.turns(runner, 3)
    stage.host.send(controls=[asked("kill", 1)])
    stage.turns(runner, 3)
    end = stage.host.endings[(JOB, 1, 1)][0]
    assert (end["state"], end["cause"], end["reason"]) == ("killed", "killed", "killed before it started")
    assert [(e["k"], e["ok"]) for e in told(stage, "answer")] == [(1, True)]
    stage.images.come(OLD)
    stage.turns(runner, 3)
    assert stage.keeper.began == [(name(2), 1)]


@pytest.mark.parametrize("how", ["kill", "fail"])
def test_what_ended_before_it_started_is_not_started_by_the_next_runner(stage: Stage, how: str) -> None:
    stage.images.there.add(OTHER)
    stage.keeper.scripts[name(2)] = runs
    runner = stage.runner()
    stage.host.send(starts=[contained([1]), contained([2], OTHER, "other-9"), contained([3], NEW, "base-18")])
    stage.turns(runner, 3)
    if how == "kill":
        stage.host.send(controls=[asked("kill", 1)])
    else:
        stage.images.fail(OLD, "it is damaged")
    stage.turns(runner, 3)
    for _ in range(10):
        stage.host.send()
        stage.turn(runner, 0.6)
    assert len(stage.host.names("claimed")) == 1  # for the sake of the third
    stage.images.there |= {OLD, NEW}
    again = stage.runner()
    stage.turns(again, 3)
    assert sorted(stage.keeper.began) == [(name(2), 1), (name(3), 1)]
    assert len(stage.host.endings[(JOB, 1, 1)]) == 2  # told again
    for _ in range(10):
        stage.host.send()
        stage.turn(again, 0.6)
    assert stage.host.names("claimed") == []
    assert os.listdir(again.ended_dir) == []


def test_a_failed_image_ends_those_that_wait_for_it(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained([1, 2]), contained([3], NEW, "base-18")])
    stage.turns(runner, 3)
    stage.images.fail(OLD, "package base-17 is damaged")
    stage.turns(runner, 3)
    ends = {k: ends[0] for (_, k, _), ends in stage.host.endings.items()}
    assert set(ends) == {1, 2}
    assert {(e["state"], e["cause"], e["reason"]) for e in ends.values()} == {
        ("failed", "launch", "Task failed to start: package base-17 is damaged")
    }


def test_a_newer_package_stands_in_for_one_that_is_gone(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    stage.images.replace(OLD, "base-18", NEW)
    stage.turns(runner, 3)
    assert stage.keeper.specs[(name(), 1)][0]["env"]["IMAGE"] == NEW


def test_a_superseded_attempt_that_waits_is_never_started(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    stage.host.send(drop=[[JOB, None, 1]])
    stage.turns(runner, 3)
    stage.images.come(OLD)
    stage.turns(runner, 3)
    assert stage.keeper.began == []
    assert [end["state"] for end in stage.host.endings[(JOB, None, 1)]] == ["fenced"]


@pytest.mark.parametrize("rerunnable", [False, True])
def test_what_may_run_elsewhere_by_now_is_not_started(stage: Stage, rerunnable: bool) -> None:
    """The lease ran out while it waited."""
    runner = stage.runner()
    stage.host.send(starts=[contained(rerunnable=rerunnable)])
    stage.turns(runner, 3)
    stage.clock.at += 1000.0
    stage.turns(runner, 3)
    stage.images.come(OLD)
    stage.turns(runner, 3)
    assert bool(stage.keeper.began) is not rerunnable
    assert stage.host.endings[(JOB, None, 1)][0]["state"] == ("fenced" if rerunnable else "completed")


@pytest.mark.parametrize(("seconds", "state"), [(5.0, "completed"), (1000.0, "fenced")])
def test_a_runner_that_was_away_starts_only_what_its_lease_covers(stage: Stage, seconds: float, state: str) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained(rerunnable=True)])
    stage.turns(runner, 3)
    stage.clock.at += seconds
    again = stage.runner()
    stage.turns(again, 3)
    stage.images.come(OLD)
    stage.turns(again, 3)
    assert stage.host.endings[(JOB, None, 1)][0]["state"] == state
    assert bool(stage.keeper.began) is (state == "completed")


def test_nothing_is_handed_over_while_the_lease_is_short(stage: Stage) -> None:
    runner = stage.runner()
    stage.host.send(starts=[contained()])
    stage.turns(runner, 3)
    assert runner.session is not None
    runner.session.heart.lease_until = stage.clock() + 5.0
    stage.images.come(OLD)
    stage.turn(runner)
    assert stage.keeper.began == []
    stage.turns(runner, 20)
    assert stage.keeper.began == [(name(), 1)]


def test_what_keeps_images_from_coming_is_told(stage: Stage) -> None:
    runner = stage.runner()
    stage.images.trouble = ["the Docker engine cannot be reached"]
    stage.turns(runner, 3)
    assert stage.host.heartbeats()[-1].problems == ["the Docker engine cannot be reached"]


# -- every crash point

KILLED = asked("kill", 3, "r1")
TEXT = {1: b"one\n" * 3000, 2: b"two", 5: b"five"}
EXPECTED = {1: "completed", 2: "completed", 3: "killed", 4: "failed", 5: "completed"}


class Scenario:
    """Tasks that wait for images, one of which is damaged; one is killed while it waits."""

    def __init__(self, scratch: Path) -> None:
        self.stage = stage = Stage(scratch)
        for k, text in TEXT.items():
            stage.keeper.scripts[name(k)] = says(text)
        stage.keeper.on_start = self._check_start
        host = stage.host
        self.script: dict[int, Any] = {
            0: lambda: host.send(starts=[contained([1, 3]), start(["x"], [2])]),
            3: lambda: host.send(controls=[KILLED]),
            4: lambda: host.send(starts=[contained([4], NEW, "base-18"), contained([5])]),
        }

    def _check_start(self, key: Any) -> None:
        assert key[0] == name(2) or OLD in self.stage.images.there, "started before its image was there"
        assert key not in self.stage.keeper.began
        ended = [k for _, k, _ in self.stage.host.endings]
        assert key[0] not in [name(k) for k in ended], "started after its ending was told"

    def round(self, number: int, runner: Runner) -> None:
        if number in self.script:
            self.script.pop(number)()
        elif number > 5 and number % 4 == 0:
            self.stage.host.send()
        runner.tick()
        if number > 4:
            self._bring()
        self.stage.keeper.step()
        self.stage.host.hear()

    def _bring(self) -> None:
        images = self.stage.images
        if NEW in images.wanted:
            images.fail(NEW, "it is damaged")
        images.step()

    def settled(self) -> bool:
        host = self.stage.host
        left = [name for part in ("inbox", "claimed", "events") for name in host.names(part)]
        return not (self.script or self.stage.keeper.tasks) and len(host.endings) == len(EXPECTED) and len(left) < 4

    def check(self) -> None:
        ends = {k: {end["state"] for end in ends} for (_, k, _), ends in self.stage.host.endings.items()}
        # The kill may have come when there was no image to be waited for any more.
        assert ends == {k: {state} for k, state in EXPECTED.items()}
        assert self.stage.images.loads == [OLD]
        began = Counter(self.stage.keeper.began)
        began.pop((name(3), 1), None)
        assert began == {(name(k), 1): 1 for k in TEXT}
        for k, text in TEXT.items():
            assert self.stage.output(k) == text
        assert {e["text"] for e in told(self.stage, "syncing")} <= {"base-17", "base-18"}
        ended = Path(self.stage.out_dir.parent, "ended")
        assert not ended.exists() or len(list(ended.iterdir())) <= 1


#: Rounds until all of the scenario has been asked for.
ROUNDS = 21


@pytest.mark.parametrize("after", [False, True])
def test_the_runner_may_die_at_every_operation(scratch: Path, after: bool) -> None:
    (scratch / "counting").mkdir()
    most = play(Scenario(scratch / "counting"), ROUNDS, CrashDisk(".")).count
    assert most > 120
    for at in range(1, most + 1):
        directory = scratch / str(at)
        directory.mkdir()
        play(Scenario(directory), ROUNDS, CrashDisk(".", at, after=after))
        shutil.rmtree(directory)


@pytest.mark.parametrize("seed", range(20))
def test_the_runner_may_die_on_a_share_that_lies(scratch: Path, seed: int) -> None:
    play_dying(Scenario(scratch), ROUNDS, seed)


# -- the threads that bring images


class Engine:
    """What all stores of one engine see."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self.loads: list[str] = []
        self.away = 0  #: so many questions are not answered
        self.full = False
        self.used = False  #: a container uses a superseded image
        self.removals: list[tuple[str, str]] = []  #: environments that superseded images were removed of, and for what
        self.gate = threading.Event()  #: nothing is loaded before
        self.gate.set()
        self.locks: dict[str, threading.Lock] = {}


class Store:
    """An engine's images without an engine; a tarball holds the image's id, again and again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def has(self, image: str) -> bool:
        if self.engine.away:
            self.engine.away -= 1
            raise EngineAway("the Docker engine cannot be reached")
        return image in self.engine.images

    def lock(self, image: str, what: str, how: int) -> int | None:
        return None

    @contextmanager
    def locked(self, image: str, what: str, how: int) -> Iterator[None]:
        with self.engine.locks.setdefault(image, threading.Lock()):
            yield

    def load(self, parts: Iterable[bytes], image: str) -> None:
        assert self.engine.gate.wait(20)
        data = b"".join(parts)
        if self.engine.full:
            raise NoRoom("no space left for images in /data")
        self.engine.loads.append(image)
        if not data.startswith(image.encode()):
            raise LoadFailed("its tarball holds another image")
        self.engine.images.add(image)

    def remove_superseded(self, environment: str, kept: str) -> bool:
        self.engine.removals.append((environment, kept))
        return not self.engine.used


class Bench:
    """A share with packages, an engine, and runners' images."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "share"
        self.packages = self.root / layout.CONTAINERS
        self.packages.mkdir(parents=True)
        (self.root / layout.SENTINEL).write_text("{}")
        self.engine = Engine()
        self.woken = threading.Event()
        self.opened: list[Images] = []

    def images(self, node: str = "n1") -> Images:
        make: Callable[[], Any] = lambda: Store(self.engine)  # noqa: E731
        made = Images(LocalDisk(str(self.root)), node, layout.CONTAINERS, make, self.woken.set)
        self.opened.append(made)
        return made

    def package(self, name: str, image: str, size: int = 3 << 20, **wrong: Any) -> None:
        data = (image.encode() + b"\n") * (size // (len(image) + 1) + 1)
        (self.packages / f"{name}.tar").write_bytes(data)
        manifest = {
            "environment": name.rpartition("-")[0], "name": name, "image_id": image, "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(), "created_at": 1.0, **wrong,
        }  # fmt: skip
        (self.packages / f"{name}.json").write_text(json.dumps(manifest))

    def marks(self) -> list[str]:
        return [path.name for path in self.packages.iterdir() if path.name.endswith(".loading")]

    def outcome(self, images: Images, wanted: str) -> Any:
        """Wait until it is there or has failed."""
        found: list[Any] = []

        def done() -> bool:
            found.extend(news for news in images.news() if news.wanted == wanted and news.state != "loading")
            return bool(found)

        eventually(done)
        assert not self.marks()
        return found[0]


@pytest.fixture
def bench(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(bringing, "PAUSE_S", 0.02)
    monkeypatch.setattr(bringing, "DAMAGED_PAUSE_S", 0.02)
    made = Bench(scratch)
    yield made
    for images in made.opened:
        images.close()


def test_an_image_is_loaded_once_for_all(bench: Bench) -> None:
    bench.package("base-17", OLD)
    one, other = bench.images(), bench.images("n2")
    bench.engine.gate.clear()
    for _ in range(50):
        one.bring("base-17", OLD)
        other.bring("base-17", OLD)
    eventually(lambda: one.bring("base-17", OLD) == "base-17" and other.bring("base-17", OLD) == "base-17")
    eventually(lambda: sorted(bench.marks()) == ["base-17.n1.loading", "base-17.n2.loading"])
    assert [news.state for news in one.news()] == ["loading"]
    bench.engine.gate.set()
    for images in (one, other):
        done: list[ImageNews] = []

        def is_over(images: Images = images, done: list[ImageNews] = done) -> bool:
            done += images.news()
            return any(news.state != "loading" for news in done)

        eventually(is_over)
        assert [(news.state, news.image) for news in done if news.state != "loading"] == [("there", OLD)]
    eventually(lambda: not bench.marks())
    assert bench.engine.loads == [OLD]
    assert bench.woken.is_set()


def test_different_images_are_loaded_side_by_side(bench: Bench) -> None:
    bench.package("base-17", OLD)
    bench.package("other-9", OTHER)
    images = bench.images()
    bench.engine.gate.clear()
    images.bring("base-17", OLD)
    images.bring("other-9", OTHER)
    eventually(lambda: len(bench.marks()) == 2)
    bench.engine.images.add(NEW)
    images.bring("base-18", NEW)  # what is there does not wait for them
    found: list[str] = []

    def came() -> list[str]:
        found.extend(news.wanted for news in images.news() if news.state == "there")
        return found

    eventually(came)
    assert found == [NEW]
    bench.engine.gate.set()
    eventually(lambda: {OLD, OTHER} <= bench.engine.images and not bench.marks())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"sha256": "0" * 64}, "its sha256 is [0-9a-f]{64} instead of 0000"),
        ({"size_bytes": 7}, "bytes instead of 7"),
        ({"image_id": NEW}, f"names the image {NEW} instead of {OLD}"),
        ({"created_at": "soon"}, "its manifest cannot be read"),
    ],
)
def test_a_damaged_package_is_tried_twice_and_told(bench: Bench, wrong: dict[str, Any], reason: str) -> None:
    bench.package("base-17", OLD, **wrong)
    images = bench.images()
    images.bring("base-17", OLD)
    done = bench.outcome(images, OLD)
    assert done.state == "failed"
    remedy = "make it anew with `hakuriver docker create-tar base`"
    assert re.search(f"^package base-17 is damaged: .*{reason}.*: {remedy}$", done.reason)
    assert bench.engine.loads == []
    bench.package("base-17", OLD)
    images.bring("base-17", OLD)
    assert bench.outcome(images, OLD).state == "there"


def test_the_last_piece_of_a_damaged_tarball_is_held_back(bench: Bench) -> None:
    """So the engine never has the whole of it, and takes nothing."""
    bench.package("base-17", OLD, sha256="0" * 64)
    size = (bench.packages / "base-17.tar").stat().st_size
    packages = bringing.Packages(LocalDisk(str(bench.root)), "n1", layout.CONTAINERS)
    manifest = packages.find("base-17")
    assert manifest is not None
    sent = 0
    with pytest.raises(bringing.Damaged):
        for part in packages.checked(manifest):
            sent += len(part)
    assert 0 < sent < size


def test_a_manifest_without_its_tarball(bench: Bench) -> None:
    bench.package("base-17", OLD)
    (bench.packages / "base-17.tar").unlink()
    images = bench.images()
    images.bring("base-17", OLD)
    assert "its tarball is not there" in bench.outcome(images, OLD).reason


def test_a_tarball_of_another_image(bench: Bench) -> None:
    bench.package("base-17", NEW, image_id=OLD)
    images = bench.images()
    images.bring("base-17", OLD)
    assert bench.outcome(images, OLD).reason == "package base-17: its tarball holds another image"
    assert bench.engine.loads == [OLD, OLD]


def test_the_newest_package_stands_in_for_one_that_is_gone(bench: Bench) -> None:
    bench.package("base-18", OTHER)
    bench.package("base-19", NEW)
    bench.package("base-x-99", OLD)
    images = bench.images()
    images.bring("base-17", OLD)
    done = bench.outcome(images, OLD)
    assert (done.state, done.package, done.image) == ("there", "base-19", NEW)


def test_superseded_images_go_when_the_newest_is_loaded(bench: Bench) -> None:
    bench.package("base-17", OLD)
    bench.package("base-18", NEW)
    images = bench.images()
    images.bring("base-17", OLD)  # of a task that was sent before there was a newer one
    bench.outcome(images, OLD)
    assert bench.engine.removals == []
    bench.engine.used = True
    images.bring("base-18", NEW)
    bench.outcome(images, NEW)
    assert bench.engine.removals == [("base", NEW)]
    bench.engine.used = False
    images.bring("base-18", NEW)
    eventually(lambda: bench.engine.removals == [("base", NEW)] * 2)
    images.bring("base-18", NEW)
    images.bring("base-18", NEW)
    bench.outcome(images, NEW)
    assert bench.engine.removals == [("base", NEW)] * 2


def test_a_package_that_is_gone_without_another(bench: Bench) -> None:
    images = bench.images()
    images.bring("base-17", OLD)
    assert bench.outcome(images, OLD).reason == (
        "package base-17 is not there any more, and there is no other of base: "
        "make one with `hakuriver docker create-tar base`"
    )
    images.bring(None, OLD)
    assert "no package of it is named" in bench.outcome(images, OLD).reason


def test_an_engine_that_is_away_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.package("base-17", OLD)
    bench.engine.away = 1 << 30
    images = bench.images()
    images.bring("base-17", OLD)
    eventually(images.problems)
    assert images.problems() == ["the Docker engine cannot be reached; what needs its images waits"]
    bench.engine.away = 3
    assert bench.outcome(images, OLD).state == "there"
    assert images.problems() == []


def test_a_share_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.package("base-17", OLD)
    images = bench.images()
    shown = bench.root.rename(bench.root.with_name("away"))
    images.bring("base-17", OLD)
    eventually(images.problems)
    assert "not mounted" in images.problems()[0]
    shown.rename(bench.root)
    assert bench.outcome(images, OLD).state == "there"


def test_no_room_is_told_at_once(bench: Bench) -> None:
    bench.package("base-17", OLD)
    bench.engine.full = True
    images = bench.images()
    images.bring("base-17", OLD)
    assert bench.outcome(images, OLD).reason == "package base-17: no space left for images in /data"


def test_marks_that_a_dead_runner_left_are_removed(bench: Bench) -> None:
    for mark in ("base-17.n1.loading", "a.b-3.n1.loading", "base-17.n2.loading", "base-17.x.n1.loading", "n1.loading"):
        (bench.packages / mark).touch()
    bench.images("n1").open()
    left = ["base-17.n2.loading", "base-17.x.n1.loading", "n1.loading"]
    eventually(lambda: sorted(bench.marks()) == left)
