"""A stage for the runner: a keeper in memory, a small host, virtual time, and disks that crash or lie."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from hakuriver.host.hearing import EventReader
from hakuriver.ids import position, task_name
from hakuriver.keeper.client import KeeperLost
from hakuriver.keeper.proc import start_ticks
from hakuriver.records import FORMAT, EventBatch, Heartbeat
from hakuriver.runner.agent import Runner
from hakuriver.runner.machine import Machine
from hakuriver.runner.port import ImageNews
from hakuriver.settings import Settings, parse
from hakuriver.spool import files, layout
from hakuriver.spool.files import Entry, LocalDisk, ShareError
from hakuriver.spool.layout import NodePaths

JOB = "17000000000001234567"
Key = tuple[str, int]
#: Stands for the process of every task that runs: this one.
LIVING = {"pid": os.getpid(), "ticks": start_ticks(os.getpid())}


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Keeper:
    """A keeper without processes: what a task does stands in `scripts`; others end at once with exit code 0."""

    def __init__(self, out_dir: Path, clock: Clock) -> None:
        self.out_dir = out_dir
        self.clock = clock
        self.scripts: dict[str, Callable[[Keeper, dict[str, Any]], None]] = {}
        self.tasks: dict[Key, dict[str, Any]] = {}
        self.began: list[Key] = []  #: every attempt that a process was made for
        self.forgotten: list[Key] = []
        self.specs: dict[Key, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.controls: list[tuple[Any, ...]] = []
        self.graces: list[float | None] = []  #: of kills
        self.lease_until: float | None = None
        self.leases: list[float] = []
        self.on_start: Callable[[Key], None] = lambda key: None
        self.lost = False
        self._events: list[dict[str, Any]] = []
        self._slots = 0

    # -- what the runner asks

    def connect(self, cores: int, memory_bytes: int | None = None) -> Any:
        self.lost = False
        self._events.clear()
        return {"ev": "hello", "v": 1, "pid": 1, "boot_id": "b", "lease_until": self.lease_until,
                "tasks": [dict(task) for task in self.tasks.values()]}  # fmt: skip

    def _reach(self) -> None:
        if self.lost:
            raise KeeperLost("it is gone")

    def start(self, spec: Any, tasks: Iterable[Any]) -> None:
        self._reach()
        for task in tasks:
            key = (task["task"], task["attempt"])
            if key not in self.tasks:
                assert key not in self.forgotten, f"{key} is started again after it was forgotten"
                self.on_start(key)
                self.specs[key] = (spec, task)
                self.tasks[key] = {"task": key[0], "attempt": key[1], "phase": "queued", "started_at": None,
                                   "pid": None, "ticks": None,
                                   "slot": None, "end": None, "meta": None}  # fmt: skip

    def _control(self, op: str, task: str, attempt: int, request: str | None) -> None:
        self._reach()
        self.controls.append((op, task, attempt, request))
        known = self.tasks.get((task, attempt))
        ok, text = False, "unknown"
        if known is not None and op == "kill":
            if known["phase"] != "ended":
                self.end(task, attempt, state="killed", cause="killed", exit_code=None, signal=15)
            ok = known["end"]["cause"] == "killed"
            text = "killed" if ok else f"already {known['end']['state']}"
        elif known is not None and known["phase"] in ("running", "paused"):
            ok, text = True, {"pause": "paused", "resume": "resumed"}[op]
            known["phase"] = "paused" if op == "pause" else "running"
            self._events.append({"kind": text, "task": task, "attempt": attempt, "at": 1.0})
        answer = {"kind": "answer", "request": request, "op": op, "ok": ok, "text": text}
        self._events.append({**answer, "task": task, "attempt": attempt})

    def kill(
        self, task: str, attempt: int, request: str | None = None, reason: str = "", grace_s: float | None = None
    ) -> None:
        self.graces.append(grace_s)
        self._control("kill", task, attempt, request)

    def pause(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        self._control("pause", task, attempt, request)

    def resume(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        self._control("resume", task, attempt, request)

    def lease(self, until: float) -> None:
        self._reach()
        self.lease_until = until
        self.leases.append(until)

    def forget(self, tasks: Iterable[Key]) -> None:
        self._reach()
        for key in tasks:
            assert self.tasks[key]["phase"] == "ended"
            del self.tasks[key]
            self.forgotten.append(key)

    def receive(self) -> list[dict[str, Any]]:
        self._reach()
        events, self._events = self._events, []
        return [{"ev": "events", "events": events}] if events else []

    # -- what happens

    def step(self) -> None:
        """Start what is queued."""
        for task in [t for t in self.tasks.values() if t["phase"] == "queued"]:
            if self.lease_until is not None and self.clock() < self.lease_until:
                self.began.append((task["task"], task["attempt"]))
                slot, self._slots = self._slots, self._slots + 1
                task.update(phase="running", started_at=1.0, slot=slot, **LIVING)
                self._events.append({"kind": "started", "task": task["task"], "attempt": task["attempt"], "at": 1.0,
                                     "slot": slot, **LIVING})  # fmt: skip
                self.scripts.get(task["task"], ends)(self, task)

    def end(self, name: str, attempt: int, **more: Any) -> None:
        """End a task; its slot is told if it has written anything."""
        task = self.tasks[(name, attempt)]
        sizes = [p.stat().st_size if p.exists() else 0 for p in self.files(task)]
        end = {"kind": "ended", "task": name, "attempt": attempt, "state": "completed", "cause": "exit",
               "exit_code": 0, "signal": None, "reason": "", "started_at": task["started_at"], "ended_at": 2.0,
               "wall_s": 1.0, "cpu_s": 0.5, "peak_memory_bytes": None, "out_bytes": sizes[0], "err_bytes": sizes[1],
               "slot": task["slot"] if any(sizes) else None, "ran": True, **more}  # fmt: skip
        task.update(phase="ended", end=end, slot=end["slot"])
        self._events.append(end)

    def files(self, task: dict[str, Any]) -> list[Path]:
        return [self.out_dir / f"{task['slot']}.{stream}" for stream in ("out", "err")]

    def write(self, task: dict[str, Any], data: bytes, stream: int = 0) -> None:
        """Let a task write to stdout (0) or stderr (1)."""
        with open(self.files(task)[stream], "ab") as file:
            file.write(data)


class Images:
    """An engine's images without an engine: what is not in `there` is brought when a test, or `step`, says so."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.loads: list[str] = []  #: every image that was loaded
        self.kept: set[str] = set()
        self.trouble: list[str] = []
        self.wanted: dict[str, str | None] = {}
        self._loading: set[str] = set()
        self._news: list[ImageNews] = []

    def reconnect(self) -> None:
        """The process that has asked is gone, and what it was doing with it; the engine is as it was."""
        self.wanted.clear()
        self._loading.clear()
        self._news.clear()

    def bring(self, package: str | None, image: str) -> str | None:
        if image in self.there:
            self._news.append(ImageNews(image, "there", package, image))
        self.wanted.setdefault(image, package)
        return package if image in self._loading else None

    def stirred(self) -> bool:
        return bool(self._news)

    def news(self) -> list[ImageNews]:
        news, self._news = self._news, []
        return news

    def keep(self, images: set[str]) -> None:
        self.kept = images

    def problems(self) -> list[str]:
        return self.trouble

    # -- what happens

    def load(self, image: str) -> None:
        """Begin to load what is wanted."""
        self._loading.add(image)
        self._news.append(ImageNews(image, "loading", self.wanted[image], image))

    def come(self, image: str) -> None:
        """It is there now."""
        self.loads.append(image)
        self.there.add(image)
        self._news.append(ImageNews(image, "there", self.wanted.pop(image), image))
        self._loading.discard(image)

    def fail(self, image: str, reason: str) -> None:
        self._news.append(ImageNews(image, "failed", self.wanted.pop(image), image, reason))
        self._loading.discard(image)

    def replace(self, image: str, package: str, other: str) -> None:
        """Its package is gone: a newer one has been loaded in its place."""
        self._news.append(ImageNews(image, "there", package, other))
        del self.wanted[image]

    def step(self) -> None:
        """A little goes on: what is wanted is being loaded, and then there."""
        for image in list(self.wanted):
            if image in self.there:
                del self.wanted[image]
            elif image in self._loading:
                self.come(image)
            else:
                self.load(image)


def ends(keeper: Keeper, task: dict[str, Any]) -> None:
    keeper.end(task["task"], task["attempt"])


def runs(keeper: Keeper, task: dict[str, Any]) -> None:
    """Runs until it is ended."""


def says(data: bytes) -> Callable[[Keeper, dict[str, Any]], None]:
    """Writes to stdout and ends."""

    def script(keeper: Keeper, task: dict[str, Any]) -> None:
        keeper.write(task, data)
        keeper.end(task["task"], task["attempt"])

    return script


class Killed(BaseException):
    """The process dies here."""


class CrashDisk(LocalDisk):
    """Kills its user before or after the operation number `at`."""

    def __init__(self, root: str, at: int = -1, *, after: bool = False) -> None:
        super().__init__(root)
        self.count = 0
        self._at = at
        self._after = after

    def _wrap(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self.count += 1
        if self.count == self._at and not self._after:
            raise Killed
        result = call(*arguments, **more)
        if self.count == self._at:
            raise Killed
        return result

    def list(self, path: str) -> list[Entry]:
        return self._wrap(super().list, path)  # type: ignore[no-any-return]

    def read(self, path: str) -> bytes:
        return self._wrap(super().read, path)  # type: ignore[no-any-return]

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._wrap(super().write, path, data, durable=False)

    def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
        self._wrap(super().write_at, path, offset, data)

    def rename(self, source: str, target: str) -> None:
        self._wrap(super().rename, source, target)

    def link(self, source: str, target: str) -> None:
        self._wrap(super().link, source, target)

    def remove(self, path: str) -> None:
        self._wrap(super().remove, path)

    def mkdir(self, path: str) -> None:
        self._wrap(super().mkdir, path)

    def sync(self, directories: Iterable[str]) -> None:
        self._wrap(lambda paths: None, directories)

    def sync_all(self) -> None:
        self._wrap(lambda: None)


class LyingDisk(CrashDisk):
    """Leaves entries out of listings, fails, and reports failures of what was done, each now and then."""

    def __init__(self, root: str, seed: int, rate: float = 0.03) -> None:
        super().__init__(root)
        self.random = random.Random(seed)
        self.rate = rate

    def _wrap(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self.count += 1
        if self.random.random() < self.rate:
            raise ShareError("use", str(arguments), OSError(errno.EIO, "it lies"))
        result = call(*arguments, **more)
        if self.random.random() < self.rate:
            raise ShareError("use", str(arguments), OSError(errno.EIO, "it lies, all is done"))
        return result

    def list(self, path: str) -> list[Entry]:
        found = super().list(path)
        if found and self.random.random() < self.rate:
            found.pop(self.random.randrange(len(found)))
        return found


class Dying(LyingDisk):
    """A share that lies, and kills whoever uses it now and then."""

    def _wrap(self, call: Any, *arguments: Any, **more: Any) -> Any:
        result = super()._wrap(call, *arguments, **more)
        if self.random.random() < 0.01:
            raise Killed
        return result


class Host:
    """Sends documents and reads events as the real one does; remembers what it was told."""

    def __init__(self, root: str, node: str = "n1") -> None:
        self.disk = LocalDisk(root)
        self.paths = NodePaths(node)
        self.reader = EventReader(self.disk)
        self.cursor = (0, 0)
        self.previous: str | None = None
        self.seq = 0
        self.events: list[dict[str, Any]] = []
        self.claimed: set[str] = set()
        self.endings: dict[tuple[str, int | None, int], list[dict[str, Any]]] = {}
        self.on_end: Callable[[dict[str, Any]], None] = lambda event: None

    def document(self, **more: Any) -> dict[str, Any]:
        """The next document of the chain."""
        self.seq += 1
        place = position(1, self.seq)
        made = {"format": FORMAT, "node": self.paths.node, "term": 1, "place": place, "previous": self.previous,
                "ack_epoch": self.cursor[0], "ack_seq": self.cursor[1], "starts": [], "controls": [], "drop": [],
                **more}  # fmt: skip
        self.previous = place
        return made

    def put(self, document: dict[str, Any]) -> str:
        """Have it lie in the inbox."""
        place: str = document["place"]
        files.publish(self.disk, self.paths.named("inbox", place), json.dumps(document).encode())
        return place

    def send(self, **more: Any) -> str:
        return self.put(self.document(**more))

    def hear(self) -> None:
        """Fold all batches that are new."""
        while batches := self.reader.read(self.paths.node, self.cursor):
            for epoch, seq, events in batches:
                EventBatch.model_validate_json(self.disk.read(self.paths.numbered("events", epoch, seq)))
                self.cursor = (epoch, seq)
                for event in events:
                    self._fold(event)

    def _fold(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["kind"] == "claimed":
            self.claimed.add(event["dispatch"])
        if event["kind"] == "ended":
            self.on_end(event)
            self.endings.setdefault((event["job"], event["k"], event["attempt"]), []).append(event["end"])

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def heartbeats(self) -> list[Heartbeat]:
        directory = self.paths.dir("heartbeat")
        return [Heartbeat.model_validate_json(self.disk.read(f"{directory}/{name}"))
                for name in sorted(files.names(self.disk, directory))]  # fmt: skip

    def names(self, part: str) -> list[str]:
        return sorted(files.names(self.disk, self.paths.dir(part)))


def start(command: list[str], ks: Iterable[int | None] = (None,), *, job: str = JOB, attempt: int = 1,
          rerunnable: bool = False, executor: str = "process", image: str | None = None,
          package: str | None = None, **spec: Any) -> dict[str, Any]:  # fmt: skip
    """A start as it stands in a dispatch."""
    return {"job": job, "name": None, "uid": 0, "spec": {"command": command, **spec}, "executor": executor,
            "image": image, "environment": package,
            "tasks": [[k, attempt, k or 0, rerunnable] for k in ks]}  # fmt: skip


class Stage:
    """A share, a keeper, a host and the means to make runners."""

    def __init__(self, scratch: Path, **timing: float) -> None:
        self.root = str(scratch / "share")
        self.out_dir = scratch / "keeper" / "out"
        self.out_dir.mkdir(parents=True)
        disk = LocalDisk(self.root)
        for path in layout.TREE:
            Path(self.root, path).mkdir(parents=True)
        disk.write(layout.SENTINEL, b"{}", durable=False)
        self.clock = Clock()
        self.keeper = Keeper(self.out_dir, self.clock)
        self.images = Images()
        self.host = Host(self.root)
        self.settings: Settings = parse(
            {"paths": {"shared_dir": self.root, "state_dir": "/nowhere/state"}, "timing": timing}, "test"
        )

    def runner(self, disk: files.Disk | None = None, *, node: str = "n1", nonce: str = "aaaa") -> Runner:
        self.images.reconnect()
        return Runner(
            disk or CrashDisk(self.root), self.keeper, self.images, self.settings, node=node, nonce=nonce,
            boottime=self.clock, now=lambda: 1.7e9, machine=Machine("host", "boot", 4, 1 << 30),
            out_dir=str(self.out_dir), ended_dir=str(self.out_dir.parent / "ended"),
        )  # fmt: skip

    def turn(self, runner: Runner, seconds: float = 0.3) -> None:
        """One round of everybody."""
        runner.tick()
        self.keeper.step()
        self.host.hear()
        self.clock.at += seconds

    def turns(self, runner: Runner, count: int = 6, seconds: float = 0.3) -> None:
        for _ in range(count):
            self.turn(runner, seconds)

    def output(self, k: int | None = None, stream: str = "out", job: str = JOB) -> bytes:
        """What lies on the share."""
        path = layout.stdout_path(job, k, 1) if stream == "out" else layout.stderr_path(job, k, 1)
        return Path(self.root, path).read_bytes()


def name(k: int | None = None, job: str = JOB) -> str:
    return task_name(job, k)


class Scenario(Protocol):
    """What is played through on a stage."""

    stage: Stage

    def round(self, number: int, runner: Runner) -> None:
        """What happens in this round."""

    def settled(self) -> bool:
        """Whether all has come to its end."""

    def check(self) -> None:
        """Hold it against what must be."""


#: Rounds after which nothing bad happens any more: from any state the end must be reached.
TROUBLED = 120


def play(scenario: Scenario, rounds: int, disk: CrashDisk, again: Callable[[str], CrashDisk] = CrashDisk) -> CrashDisk:
    """Play `rounds` and on to the end; after a kill another runner on another disk goes on."""
    disk.root = scenario.stage.root
    runner = scenario.stage.runner(disk)
    for number in range(TROUBLED + 80):
        try:
            scenario.round(number, runner)
        except Killed:
            runner = scenario.stage.runner(again(scenario.stage.root))
        except ShareError:
            assert number <= TROUBLED
        if number == TROUBLED:
            runner = scenario.stage.runner(CrashDisk(scenario.stage.root))
        scenario.stage.clock.at += 0.6
        if number >= rounds and scenario.settled():
            break
    scenario.check()
    return disk


def play_dying(scenario: Scenario, rounds: int, seed: int) -> None:
    """Play it on a share that lies, by runners that die at random."""
    seeds = iter(range(seed * 1000, seed * 1000 + 999))
    play(scenario, rounds, Dying(".", next(seeds)), lambda root: Dying(root, next(seeds)))
