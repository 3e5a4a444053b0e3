"""A keeper and an attendant of its in one process, in virtual time, with an engine that outlives both.

The real keeper core and the real attendant; stand-ins are the engine, the runner, and what carries their messages. Each
call of the engine, each write of the record or the lease and each message is an operation, before or after which the
attendant alone may die, or the keeper with it. One thread runs at a time, in a fixed order, so that a scenario
takes the same operations each time.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hakuriver.attendant.engine import Away, CannotStart
from hakuriver.attendant.loop import Attendant
from hakuriver.keeper import core, kernel, lease, record
from hakuriver.keeper.commands import COMMANDS
from hakuriver.keeper.core import Keeper
from hakuriver.keeper.record import encode

Key = tuple[str, int]
EPOCH = 1_700_000_000.0  #: seconds since 1970 when the clock shows 0
STEP_S = 0.05  #: what a step costs, so that time passes also when nobody waits
RESTART_S = 0.2  #: from the death of a keeper to the next
KEEPER, ATTENDANT = "keeper", "attendant"


class Killed(BaseException):
    """Whoever calls has been killed."""


class Fibre:
    """A thread that runs from one of its waits to the next, when it is told to."""

    current: Fibre | None = None

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self.ready: Callable[[], bool] = lambda: True
        self.over = self.killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._work, self._arguments = work, arguments
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self._work(*self._arguments)
        except Killed:
            pass
        finally:
            self.over = True
            self._stopped.release()

    def step(self) -> None:
        """Let it run to its next wait."""
        before, Fibre.current = Fibre.current, self
        self._go.release()
        self._stopped.acquire()
        Fibre.current = before

    def wait(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Called inside: let others run, until this is true."""
        self.ready = ready
        self._stopped.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        """It never runs again."""
        if not self.over:
            self.killed = True
            self.step()


@dataclass
class Script:
    """What a task does: how long, how it ends, what it writes; `dies_s` after TERM, None: it ignores that."""

    seconds: float = 1.0
    code: int = 0
    output: bytes = b""
    dies_s: float | None = 0.1
    oom: bool = False
    refused: bool = False
    slow_s: float = 0.0  #: how long its making takes
    unheard: bool = False  #: it is started, and the connection lost meanwhile


@dataclass
class Box:
    """A container or unit, as the engine keeps it."""

    script: Script
    owner: str
    state: str = "made"
    started_at: float = 0.0
    worked: float = 0.0  #: seconds, while it was not frozen
    frozen: bool = False
    dies_at: float | None = None
    signal: int | None = None
    ended_at: float = 0.0

    def log(self) -> bytes:
        """What it has written."""
        share = self.worked / self.script.seconds
        return self.script.output[: int(len(self.script.output) * min(1.0, share))]


class World:
    """The clock, the engine's state, and when who dies."""

    def __init__(self, scripts: dict[str, Script], at: tuple[int, ...], who: str = KEEPER, after: bool = False) -> None:
        """`at`: the operations before or after which `who` dies."""
        self.scripts, self.at, self.who, self.after = scripts, at, who, after
        self.beside: Callable[[], object] = lambda: None  #: what others do while the keeper does something
        self.now = 1000.0
        self.count = 0
        self.boxes: dict[str, Box] = {}
        self.logs: dict[str, bytes] = {}  #: of what was removed
        self.starts: Counter[str] = Counter()
        self.runs: list[tuple[str, float, float]] = []  #: name, start and end of what ran
        self.away = False
        self.dead: set[str] = set()  #: who has just died

    def operate(self, effect: Callable[[], Any], actor: str) -> Any:
        """One operation."""
        if Fibre.current is not None:
            Fibre.current.wait()
        else:
            self.beside()
            if KEEPER in self.dead:
                raise Killed
        count = self.count = self.count + 1
        if count in self.at and not self.after:
            self._die(actor)
        result = effect()
        if count in self.at and self.after:
            self._die(actor)
        return result

    def _die(self, actor: str) -> None:
        self.dead.add(self.who)
        if self.who == KEEPER or actor == ATTENDANT:
            raise Killed

    def advance(self, to: float) -> None:
        """Let time pass, and happen what happens in the engine."""
        while self.now < to:
            step = min([to, *(t for t in map(self._due, self.boxes.values()) if t is not None and t > self.now)])
            for box in self.boxes.values():
                if box.state == "running" and not box.frozen:
                    box.worked += step - self.now
            self.now = step
            for name, box in self.boxes.items():
                self._happen(name, box)

    def _due(self, box: Box) -> float | None:
        """When it ends by itself."""
        if box.state != "running" or box.frozen:
            return None
        work = self.now + box.script.seconds - box.worked
        return work if box.dies_at is None else min(work, max(box.dies_at, self.now))

    def _happen(self, name: str, box: Box) -> None:
        if box.state != "running" or box.frozen:
            return
        if box.dies_at is not None and box.dies_at <= self.now:
            self._end(name, box)
        elif box.worked >= box.script.seconds - 1e-9:
            box.worked, box.signal = box.script.seconds, None
            self._end(name, box)

    def _end(self, name: str, box: Box) -> None:
        box.state, box.ended_at = "ended", self.now
        self.runs.append((name, box.started_at, self.now))

    def kill(self, name: str, box: Box) -> None:
        """SIGKILL."""
        if box.state == "running":
            box.signal = 9
            self._end(name, box)

    def due(self) -> float | None:
        """When something happens next in the engine."""
        return min((t for t in map(self._due, self.boxes.values()) if t is not None), default=None)


class Engine:
    """The stand-in for Docker and systemd, as an attendant sees it. See `attendant.engine.Engine`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owners: set[str] = set()

    def _call(self, effect: Callable[[], Any]) -> Any:
        def reach() -> Any:
            if self._world.away:
                raise Away("it is away")
            return effect()

        return self._world.operate(reach, ATTENDANT)

    def _box(self, name: str) -> Box | None:
        box = self._world.boxes.get(name)
        return box if box is not None and box.owner in self._owners else None

    def look(self, order: Any) -> str:
        self._owners.add(order["owner"])

        def state() -> str:
            box = self._box(order["name"])
            return box.state if box else "absent"

        return str(self._call(state))

    def make(self, order: Any) -> None:
        ready_at = self._world.now + self._world.scripts[order["task"]].slow_s
        assert Fibre.current is not None
        Fibre.current.wait(lambda: self._world.now >= ready_at)

        def make() -> None:
            assert order["name"] not in self._world.boxes
            self._world.boxes[order["name"]] = Box(self._world.scripts[order["task"]], order["owner"])

        self._call(make)

    def start(self, order: Any) -> None:
        def start() -> None:
            box = self._world.boxes[order["name"]]
            if box.script.refused:
                raise CannotStart(127, "no such program")
            assert box.state == "made"
            assert self._world.now < order["start_before"], "started too late"
            box.state, box.started_at = "running", self._world.now
            self._world.starts[order["name"]] += 1
            if box.script.unheard:
                raise Away("it was lost before it answered")

        self._call(start)

    def attend(self, order: Any) -> tuple[int | None, float]:
        self._call(lambda: self._collect(order))
        return 4711, EPOCH + self._world.boxes[order["name"]].started_at

    def wait(self, order: Any) -> Any:
        world, fibre = self._world, Fibre.current
        assert fibre is not None
        fibre.wait(lambda: world.away or world.boxes[order["name"]].state == "ended")
        self._call(lambda: self._collect(order))
        return self._call(lambda: self._ending(order["name"]))

    def _collect(self, order: Any) -> None:
        """Append what the file does not have yet."""
        log = self._world.boxes[order["name"]].log()
        with open(order["out"], "ab") as file:
            file.write(log[file.tell() :])

    def _ending(self, name: str) -> dict[str, Any]:
        box = self._world.boxes[name]
        return {
            "ev": "ended", "name": name, "exit_code": None if box.signal else box.script.code, "signal": box.signal,
            "oom": box.script.oom, "text": "", "started_at": EPOCH + box.started_at, "ended_at": EPOCH + box.ended_at,
            "wall_s": box.ended_at - box.started_at, "cpu_s": 0.0, "peak_memory_bytes": None,
        }  # fmt: skip

    def signal(self, name: str, number: int) -> None:
        def send() -> None:
            box = self._box(name)
            if box is None or box.state != "running":
                return
            box.frozen = False
            if number == 9:
                self._world.kill(name, box)
            elif box.script.dies_s is not None and box.dies_at is None:
                box.signal, box.dies_at = number, self._world.now + box.script.dies_s

        self._call(send)

    def freeze(self, name: str, on: bool) -> str:
        def freeze() -> str:
            box = self._box(name)
            if box is None or box.state != "running":
                return "it does not run"
            box.frozen = on
            return ""

        return str(self._call(freeze))

    def remove(self, name: str) -> None:
        def remove() -> None:
            box = self._box(name)
            if box is not None:
                self._world.kill(name, box)
                self._world.logs[name] = box.log()
                del self._world.boxes[name]

        self._call(remove)

    def names(self, owner: str) -> list[str]:
        self._owners.add(owner)
        return list(self._call(lambda: sorted(n for n, box in self._world.boxes.items() if box.owner == owner)))


class Link:
    """Both ends of what keeper and attendant talk over, and the attendant."""

    pids = iter(range(1, 1 << 30))

    def __init__(self, world: World) -> None:
        self.pid = next(Link.pids)
        self.unread = b""
        self.alive = True
        self.orders: deque[Any] = deque()
        self.news: deque[Any] = deque([{"ev": "ready"}])
        self.fibres: list[Fibre] = []
        self._world = world
        self._attendant = Attendant(
            Engine(world), self._tell, spawn=self._spawn, pause=self._pause, now=lambda: world.now
        )

    def order(self, order: Any) -> None:
        """The keeper's."""
        self._world.operate(lambda: self.orders.append(order), KEEPER)

    def _tell(self, news: Any) -> None:
        self._world.operate(lambda: self.news.append(news), ATTENDANT)

    def _spawn(self, work: Callable[..., None], *arguments: Any) -> None:
        self.fibres.append(Fibre(work, *arguments))

    def _pause(self, seconds: float) -> None:
        assert Fibre.current is not None
        until = self._world.now + seconds
        Fibre.current.wait(lambda: self._world.now >= until)

    def step(self) -> bool:
        """Let the attendant do a little; whether it did anything."""
        moved = False
        while self.alive and self.orders:
            self._attendant.obey(self.orders.popleft())
            moved = True
        for fibre in list(self.fibres):
            if self.alive and fibre.ready():
                fibre.step()
                moved = True
            if fibre.over and fibre in self.fibres:
                self.fibres.remove(fibre)
        return moved

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.orders.clear()
        for fibre in self.fibres:
            fibre.kill()
        self.fibres.clear()

    def end(self) -> None:
        """See `keeper.attendants.Link`."""
        self.die()

    def close(self) -> None:
        """See `keeper.attendants.Link`."""


class NoSpawner:
    """There are no plain processes here."""

    in_flight = 0

    def __init__(self, *arguments: Any) -> None:
        pass

    def take(self) -> None:
        return None


@dataclass
class Runner:
    """What a runner says to its keeper, and what it hears: it repeats itself until it is answered."""

    world: World
    tasks: dict[str, dict[str, Any]]  #: by task: what is said of it in its start
    out: Path
    controls: list[tuple[str, str, str]] = field(default_factory=list)  #: task, after which event, op
    leases: Callable[[float], bool] = lambda _: True  #: whether the lease is renewed at this second
    lease_s: float = 8.0
    lease_until: float = 0.0
    asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    answers: dict[str, bool] = field(default_factory=dict)
    heard: dict[str, list[str]] = field(default_factory=dict)
    ends: dict[str, list[Any]] = field(default_factory=dict)
    output: dict[str, bytes] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    beat_at: float = 0.0

    def connect(self, keeper: Keeper) -> None:
        """Say hello, hear what there is, say the rest again."""
        self._say(keeper, {"op": "hello", "v": 1, "cores": 4, "memory_bytes": None})
        self.beat_at = self.world.now
        self.beat(keeper)
        self.known = set()
        for state in [task.state() for task in keeper.known.tasks.values()]:
            self.known.add(state["task"])
            if state["started_at"] is not None:
                self._note(state["task"], "started")
            if state["phase"] == "paused":
                self._note(state["task"], "paused")
            if state["end"] is not None:
                self.hear(state["end"])
        for request, (task, op) in self.asked.items():
            if request not in self.answers:
                self._control(keeper, task, op, request)

    def _say(self, keeper: Keeper, message: dict[str, Any]) -> None:
        line = encode(message).encode()
        self.world.operate(lambda: COMMANDS[message["op"]](keeper, message, line), KEEPER)

    def _control(self, keeper: Keeper, task: str, op: str, request: str) -> None:
        self._say(keeper, {"op": op, "task": task, "attempt": 1, "request": request, "reason": ""})

    def beat(self, keeper: Keeper) -> None:
        """Renew the lease if it is time."""
        if self.world.now < self.beat_at:
            return
        self.beat_at = self.world.now + 1.0
        if self.leases(self.world.now):
            self.lease_until = self.world.now + self.lease_s
            self._say(keeper, {"op": "lease", "until": self.lease_until})

    def talk(self, keeper: Keeper) -> None:
        """Say what is due."""
        self.beat(keeper)
        for task, more in self.tasks.items():
            due = more.get("at", 0.0) <= self.world.now < self.lease_until - 4
            if due and task not in self.known and task not in self.ends:
                self.known.add(task)
                spec = {"argv": [task], "cores": 1, "grace_s": 0.5, "engine": "docker", "settings": {"socket": "s"},
                        **more.get("spec", {})}  # fmt: skip
                message = {"task": task, "attempt": 1, "rerunnable": more.get("rerunnable", False)}
                self._say(keeper, {"op": "start", "spec": spec, "tasks": [message]})
        for task, event, op in self.controls:
            request = f"{op} {task}"
            if request not in self.asked and event in self.heard.get(task, ["queued"]):
                self.asked[request] = (task, op)
                self._control(keeper, task, op, request)
        for task in [name for name in self.ends if name in self.known]:
            if all(request in self.answers for request, asked in self.asked.items() if asked[0] == task):
                self.known.discard(task)
                self._say(keeper, {"op": "forget", "tasks": [[task, 1]]})

    def _note(self, task: str, kind: str) -> None:
        self.heard.setdefault(task, ["queued"]).append(kind)

    def hear(self, event: Any) -> None:
        """Take in an event."""
        task = event["task"]
        self._note(task, event["kind"])
        if event["kind"] == "answer":
            self.answers[event["request"]] = event["ok"]
        elif event["kind"] == "ended":
            self.ends.setdefault(task, []).append(event)
            path = self.out / f"{event['slot']}.out"
            if task not in self.output:
                self.output[task] = b"" if event["slot"] is None else path.read_bytes()


class Stage:
    """All of them."""

    def __init__(self, directory: Path, world: World, runner: Runner) -> None:
        self.directory, self.world, self.runner = directory, world, runner
        self.links: list[Link] = []
        self.restarts = 0
        if any(at % 2 for at in world.at):
            world.beside = self._hurry
        self.keeper: Keeper | None = None
        self.keeper_at = world.now

    def _hurry(self) -> None:
        """Attendants do all that they can."""
        while not self.world.dead and any(link.step() for link in self.links):
            pass

    def _reach(self, kind: str) -> Any:
        self.links.append(Link(self.world))
        return self.links[-1]

    def _begin(self) -> None:
        """Start a keeper, and let the runner find it."""
        self.keeper = Keeper(str(self.directory), "owner", 1 << 30, "watch", lambda: None, self._reach)
        self.keeper.begin()
        self._turn(self.keeper)
        self.runner.connect(self.keeper)

    def step(self) -> None:
        """One step of everybody."""
        try:
            moved = self._step()
        except Killed:
            moved = True
        if self.world.dead:
            self._bury()
        elif not moved:
            self.world.advance(self._next())

    def _step(self) -> bool:
        if self.keeper is None:
            if self.world.now >= self.keeper_at:
                self._begin()
            return False
        moved = False
        for link in self.links:
            moved = link.step() or moved
        if self.world.dead:
            return True
        for link in [link for link in self.links if not link.alive]:
            self.links.remove(link)
            self.keeper.held.gone(link.pid)
        self.runner.talk(self.keeper)
        return self._turn(self.keeper) or moved

    def _turn(self, keeper: Keeper) -> bool:
        moved = False
        for attendant in keeper.held.attendants():
            link: Any = attendant.link
            while link is not None and link.alive and link.news:
                keeper.held.hear(attendant, link.news.popleft())
                moved = True
        keeper.timers.run(self.world.now)
        assert keeper.act()
        events, keeper.events = keeper.events, []
        for event in events:
            self.world.operate(partial(self.runner.hear, event), KEEPER)
        return moved or bool(events)

    def _bury(self) -> None:
        dead, self.world.dead = self.world.dead, set()
        for link in self.links:
            link.die()
        if KEEPER in dead:
            self.restarts += 1
            self.links.clear()
            self.keeper, self.keeper_at = None, self.world.now + RESTART_S

    def _next(self) -> float:
        """When to look again: when something is due, or soon."""
        times = [self.world.now + STEP_S, self.world.due()]
        return max(min(t for t in times if t is not None), self.world.now + 0.001)

    def close(self) -> None:
        """End all threads."""
        for link in self.links:
            link.die()


class Descriptors:
    """Notes what is opened by os.open, so that what a keeper leaves open when it dies can be closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open: set[int] = set()
        really_open, self._close = os.open, os.close

        def open_(*arguments: Any, **more: Any) -> int:
            fd = really_open(*arguments, **more)
            self._open.add(fd)
            return fd

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "close", self._closed)

    def _closed(self, fd: int) -> None:
        self._open.discard(fd)
        self._close(fd)

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._close(self._open.pop())


def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    """Put virtual time and counted writes in the place of the real ones; call the result for each new world."""
    current: list[World] = []
    descriptors = Descriptors(monkeypatch)

    def begin(world: World) -> None:
        descriptors.close()
        current[:] = [world]

    class Book(record.Record):
        def flush(self, sync: bool) -> bool:
            if not self._pending and not sync:
                return True
            return bool(current[0].operate(lambda: super(Book, self).flush(sync), KEEPER))

        def compact(self, known: record.Known, boot: str) -> None:
            current[0].operate(lambda: super(Book, self).compact(known, boot), KEEPER)

    class Kept(lease.Kept):
        def write(self, until: float) -> None:
            current[0].operate(lambda: super(Kept, self).write(until), KEEPER)

    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    monkeypatch.setattr(record, "sync_directory", lambda path: None)
    monkeypatch.setattr(core, "Record", Book)
    monkeypatch.setattr(lease, "Kept", Kept)
    monkeypatch.setattr(core, "Spawner", NoSpawner)
    monkeypatch.setattr(core, "kill_leftovers", lambda *arguments: None)
    monkeypatch.setattr(Keeper, "reap", lambda self: None)
    monkeypatch.setattr(kernel, "boottime", lambda: current[0].now)
    monkeypatch.setattr("time.time", lambda: EPOCH + current[0].now)
    return begin
