"""A river in one process: virtual time, a share in memory, hosts, runners with keepers, clients.

    world = World(scratch, seed=1)
    world.at(0.5, lambda: world.drop("job.json", {"command": ["sim", "1", "0", ""]}))
    assert world.run(world.done, 60.0), world.story()

Everything is decided by the seed; nothing waits and nothing runs in parallel. While an operation hangs, or
with `interleave`, the others act in the middle of it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hakuriver.settings import Settings, parse
from hakuriver.spool import layout
from sim.actors import NEVER, STEP_S, Actor, HostActor, RunnerActor
from sim.disk import Crash, SimDisk
from sim.evil import Evil, EvilDisk
from sim.keeper import Run
from sim.share import Share, make_tree
from sim.watch import Watch

TIMING = {
    "heartbeat_interval": 1.0, "offline_after": 4.0, "lease": 15.0, "lease_margin": 3.0, "kill_grace": 1.0,
    "poll_interval": 1.0,
}  # fmt: skip
SETTINGS = parse({"paths": {"shared_dir": "/mnt/share", "state_dir": "/var/lib/hakuriver"}, "timing": TIMING}, "sim")
RIVER = {"format": 1, "cluster": "sim", "cluster_id": "0123456789abcdef", "mode": "single-user", "created_at": 1.0}
STANDSTILL = 10_000  #: turns without any passing of time: nothing will come of it
TRACED = 45  #: operations told when something is wrong
HOST_IDS = {"host": "aaaaaaaaaaaa", "other": "bbbbbbbbbbbb"}


class World:
    """All of it."""

    def __init__(self, scratch: Path, seed: int = 0, *, nodes: int = 2, cores: int = 2, track: bool = False,
                 evil: Evil | None = None, settings: Settings = SETTINGS) -> None:  # fmt: skip
        self.t = 0.0
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings
        self.scratch = Path(tempfile.mkdtemp(dir=scratch))  # a world's machines begin with empty disks
        self.log: list[Run] = []
        self.trace: deque[tuple[float, str, str, str]] = deque(maxlen=TRACED)
        self.share = Share(track=track)
        self.share.clock = lambda: self.t
        make_tree(self.share, layout.TREE, {layout.SENTINEL: json.dumps(RIVER).encode(),
                                            layout.Baton(0, "none", 0, 0).path: b""})  # fmt: skip
        self.watch = Watch(self.share)
        self.share.on_name = self.watch.name
        self._evil = evil
        self._ids = itertools.count()
        self._script: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.told: list[Any] = []
        self.client = SimDisk(self.share, "client", self._note)
        self.hosts = {"host": HostActor(self, "host", self._disk("host"), HOST_IDS["host"])}
        self.runners = {f"n{i}": self._runner(f"n{i}", cores) for i in range(1, nodes + 1)}
        self.on_crash: Callable[[Actor], None] = lambda actor: None
        self.interleave = 0.0  #: how often others act in the middle of an operation

    def _runner(self, name: str, cores: int) -> RunnerActor:
        return RunnerActor(self, name, self._disk(name), self.scratch / f"out-{name}", cores)

    def _disk(self, owner: str) -> SimDisk:
        if self._evil is None:
            return SimDisk(self.share, owner, self._note)
        return EvilDisk(self.share, owner, self._note, self._evil, self.seed)

    @property
    def host(self) -> HostActor:
        return self.hosts["host"]

    @property
    def actors(self) -> list[Actor]:
        return [*self.hosts.values(), *self.runners.values()]

    def _note(self, owner: str, kind: str, path: str) -> None:
        self.trace.append((self.t, owner, kind, path))

    def tell(self, snapshots: list[bytes], nodes: dict[str, Any], position: tuple[int, int]) -> None:
        """What the host tells its index."""
        self.told.append((snapshots, nodes, position))

    def new_id(self) -> str:
        """A job's id, as the host makes them."""
        return f"{1_700_000_000_000 + int(self.t * 1000):013d}{next(self._ids):07d}"

    # -- beginning

    def start(self) -> World:
        """Start every daemon."""
        for actor in self.actors:
            self.adopt(actor)
            actor.start()
        return self

    def adopt(self, actor: Actor) -> None:
        """Let others act in the middle of this actor's operations."""
        if isinstance(actor.disk, EvilDisk):
            actor.disk.hang = lambda seconds: self.hang(actor, seconds)
        if self.interleave:
            actor.disk.meanwhile = lambda: self._meanwhile(actor)

    def second_host(self) -> HostActor:
        """A host on another machine."""
        self.hosts["other"] = HostActor(self, "other", self._disk("other"), HOST_IDS["other"])
        self.adopt(self.hosts["other"])
        self.hosts["other"].start()
        return self.hosts["other"]

    # -- time

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Do something at a time, or now if that has passed."""
        heapq.heappush(self._script, (when, next(self._order), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self.at(self.t + seconds, call)

    def run(self, until: Callable[[], bool] | None = None, limit_s: float = 120.0) -> bool:
        """Let time pass until something is true; tell whether it came to that."""
        end, moved_at, turns = self.t + limit_s, self.t, 0
        while self.t < end:
            if until is not None and until():
                return True
            self._turn(end)
            moved_at, turns = (self.t, 0) if self.t > moved_at else (moved_at, turns + 1)
            assert turns < STANDSTILL, self.story()
        return until is not None and until()

    def _turn(self, end: float) -> None:
        """Go to the next moment at which something happens, and let it happen."""
        ready = [a for a in self.actors if a.up and not a.busy]
        first = min(ready, key=lambda a: a.next_at, default=None)
        keepers = [r.keeper_due() for r in self.runners.values() if not r.keeper.lost or r.up]
        others = [self._script[0][0]] if self._script else []
        late = [self.share.late[0][0]] if self.share.late else []
        when = min([first.next_at if first else NEVER, *keepers, *others, *late, end])
        self.t = max(self.t, when)
        self._happen()
        if first is not None and first.up and first.next_at <= self.t:
            self._step(first)

    def _happen(self) -> None:
        self.share.land_due(self.t)
        while self._script and self._script[0][0] <= self.t:
            heapq.heappop(self._script)[2]()
        for runner in self.runners.values():
            if runner.frozen_at is None:
                runner.keeper.advance()

    def _step(self, actor: Actor) -> None:
        self.t += STEP_S
        actor.busy = True
        try:
            actor.step()
        except Crash:
            actor.stop()
            self.on_crash(actor)
        finally:
            actor.busy = False

    def hang(self, actor: Actor, seconds: float) -> None:
        """An operation of this actor takes long; the others go on."""
        end = self.t + seconds
        while self.t < end:
            self._turn(end)

    def _meanwhile(self, actor: Actor) -> None:
        """Now and then somebody else acts before an operation is done."""
        if self.rng.random() < self.interleave and actor.busy:
            self.hang(actor, self.rng.uniform(0.0, 0.2))

    # -- clients

    def drop(self, name: str, content: Any, *, uid: int = 0) -> None:
        """What a client does: a temporary file, synced, renamed; and note that it must be answered."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        disk, temporary = self.client, f"{layout.INCOMING}/.{name}.{next(self._order)}.tmp"
        disk.write(temporary, data)
        self.share.find(temporary).uid = uid
        disk.rename(temporary, layout.incoming(name))
        disk.sync([layout.INCOMING])
        self.watch.asked.append(name)

    def submit(self, *argv: str, **spec: Any) -> str:
        """Submit a job by its id; return that."""
        job = self.new_id()
        self.drop(f"{job}.json", {"id": job, "command": ["sim", *argv], **spec})
        return job

    # -- faults

    def power_cut(self, actor: Actor) -> None:
        """One machine loses its power: its unsynced changes of the share too, as if it exported it."""
        self._note(actor.name, "POWER CUT", "")
        self.share.power_cut({actor.name}, self.rng)
        actor.power_cut(self.rng)
        self.watch.rescan()

    def power_cut_all(self) -> None:
        """Everything lies on one machine, and it loses its power."""
        self._note("all", "POWER CUT", "")
        self.share.power_cut(None, self.rng)
        for actor in self.actors:
            actor.power_cut(self.rng)
        self.watch.rescan()

    def calm(self) -> None:
        """No more trouble."""
        self.interleave = 0.0
        for actor in self.actors:
            actor.disk.meanwhile = None
            actor.disk.point = None
            if isinstance(actor.disk, EvilDisk):
                actor.disk.evil = None

    # -- results

    def done(self) -> bool:
        """Whether every request is answered and every accepted job is over."""
        return self.watch.done()

    @property
    def quiet(self) -> bool:
        """Whether nothing is still to befall the river, and a host leads it."""
        return not (self._script or self.share.late) and any(a.up and a.host.leading for a in self.hosts.values())

    def story(self) -> str:
        """The last operations, for a failure's message."""
        lines = [f"{t:9.3f} {owner:7} {kind:12} {path}" for t, owner, kind, path in self.trace]
        lines += [f"          {a.name}: {'up' if a.up else 'down'} {a.said} {a.over}" for a in self.actors]
        lines += [f"          {run}" for run in self.log]
        return "\n".join([f"seed {self.seed}, at {self.t:.3f}:", *lines])
