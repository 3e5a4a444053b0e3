"""A keeper without processes: what a task does stands in its command, and time is virtual.

    ["sim", seconds, exit codes, output]     codes "1,0": the first attempt exits with 1, later ones with 0;
                                             seconds "inf": until it is killed; output "" for none

It is as durable as the real one: facts reach the disk when an intent is synced, and a power cut loses those since.
What ran, when and where goes into a log that no crash touches: the oracle judges by it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hakuriver.keeper import lease
from hakuriver.keeper.client import KeeperLost
from sim.disk import SimDisk

Key = tuple[str, int]
QUEUED, RUNNING, PAUSED, ENDED = "queued", "running", "paused", "ended"
#: Seconds that a process takes to die after TERM.
DYING_S = 0.05


@dataclass
class Run:
    """One process that existed, from start to end. `how`: exit, killed, fenced, time_limit, reboot, keeper_died."""

    task: str
    attempt: int
    node: str
    start: float
    end: float | None = None
    how: str = ""
    code: int | None = None


@dataclass
class Task:
    """One attempt."""

    key: Key
    spec: dict[str, Any]
    rerunnable: bool
    order: tuple[int, int]
    phase: str = QUEUED
    intended: bool = False
    slot: int | None = None
    started_at: float | None = None
    left_s: float = 0.0  #: of its work, while it does not progress
    since: float = 0.0  #: when it began to progress
    dies_at: float | None = None
    stop: tuple[str, str] | None = None  #: cause and reason of its being stopped
    deadline: float | None = None
    answers: list[str | None] = field(default_factory=list)
    end: dict[str, Any] | None = None

    @property
    def script(self) -> tuple[float, int, bytes]:
        """Seconds, exit code and output of this attempt."""
        _, seconds, codes, output = self.spec["argv"]
        all_codes = codes.split(",")
        return float(seconds), int(all_codes[min(self.key[1], len(all_codes)) - 1]), output.encode()

    def due(self) -> float | None:
        """When something happens to it by itself."""
        if self.phase not in (RUNNING, PAUSED):
            return None
        times = [t for t in (self.dies_at, self.deadline) if t is not None]
        if self.phase == RUNNING and self.stop is None and self.left_s != float("inf"):
            times.append(self.since + self.left_s)
        return min(times, default=None)


class SimKeeper:
    """The keeper port of one node, and the node's processes."""

    def __init__(self, node: str, out_dir: Path, clock: Callable[[], float], log: list[Run]) -> None:
        self.node = node
        self.out_dir = out_dir
        self.clock = clock  #: CLOCK_BOOTTIME of the machine
        self.true_clock = clock  #: the world's, for the log
        self.log = log
        self.disk: SimDisk | None = None  #: calls count as operations of the runner that uses it
        self.tasks: dict[Key, Task] = {}
        self.forgotten: set[Key] = set()
        self.lease_until: float | None = None
        self.capacity: int | None = None
        self.lost = True
        self._events: list[dict[str, Any]] = []
        self._number = 0
        self._slots = 0
        self._synced: dict[Key, Task] = {}

    # -- what the runner asks

    def _call(self, op: str, what: str, effect: Callable[[], Any]) -> Any:
        def reach() -> Any:
            if self.lost:
                raise KeeperLost("it is gone")
            return effect()

        return self.disk.operate(f"keeper {op}", what, reach) if self.disk else reach()

    def connect(self, cores: int, memory_bytes: int | None = None) -> Any:
        def hello() -> dict[str, Any]:
            self.capacity = cores
            self._events.clear()
            return {"ev": "hello", "v": 1, "pid": 1, "boot_id": "b", "lease_until": self.lease_until,
                    "tasks": [self._state(task) for task in self.tasks.values()]}  # fmt: skip

        self.lost = False
        return self._call("connect", self.node, hello)

    def _state(self, task: Task) -> dict[str, Any]:
        return {"task": task.key[0], "attempt": task.key[1], "phase": task.phase, "pid": None, "ticks": None,
                "started_at": task.started_at, "slot": task.slot, "end": task.end, "meta": None}  # fmt: skip

    def start(self, spec: Any, tasks: Iterable[Any]) -> None:
        messages = list(tasks)
        names = " ".join(f"{m['task']}#{m['attempt']}" for m in messages)
        self._call("start", names, lambda: self._queue(dict(spec), messages))

    def _queue(self, spec: dict[str, Any], messages: list[Any]) -> None:
        for message in messages:
            key = (message["task"], message["attempt"])
            if key not in self.tasks:
                self._number += 1
                order = (-message.get("priority", 0), self._number)
                self.tasks[key] = Task(key, spec, message["rerunnable"], order)

    def kill(
        self, task: str, attempt: int, request: str | None = None, reason: str = "", grace_s: float | None = None
    ) -> None:
        self._call("kill", f"{task}#{attempt}", lambda: self._kill((task, attempt), request, reason, grace_s))

    def pause(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        self._call("pause", f"{task}#{attempt}", lambda: self._freeze((task, attempt), request, "pause"))

    def resume(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        self._call("resume", f"{task}#{attempt}", lambda: self._freeze((task, attempt), request, "resume"))

    def lease(self, until: float) -> None:
        def extend() -> None:
            self.lease_until = until

        self._call("lease", f"until {until:.2f}", extend)

    def forget(self, tasks: Iterable[Key]) -> None:
        keys = list(tasks)
        self._call("forget", " ".join(f"{name}#{n}" for name, n in keys), lambda: self._forget(keys))

    def _forget(self, keys: list[Key]) -> None:
        for key in keys:
            task = self.tasks.get(key)
            if task is not None and task.phase == ENDED:
                del self.tasks[key]
                self.forgotten.add(key)
                for path in self._files(task):
                    path.unlink(missing_ok=True)

    def receive(self) -> list[dict[str, Any]]:
        if self.lost:
            raise KeeperLost("it is gone")
        events, self._events = self._events, []
        return [{"ev": "events", "events": events}] if events else []

    # -- controls

    def _answer(self, key: Key, op: str, request: str | None, ok: bool, text: str) -> None:
        self._events.append({"kind": "answer", "request": request, "task": key[0], "attempt": key[1], "op": op,
                             "ok": ok, "text": text})  # fmt: skip

    def _kill(self, key: Key, request: str | None, reason: str, grace_s: float | None) -> None:
        task = self.tasks.get(key)
        if task is None:
            self._answer(key, "kill", request, False, "unknown")
        elif task.phase == ENDED:
            self._answer_kill(task, request)
        else:
            task.answers.append(request)
            self._stop(task, "killed", reason or "killed on request", grace_s)

    def _answer_kill(self, task: Task, request: str | None) -> None:
        assert task.end is not None
        ok = task.end["cause"] == "killed"
        self._answer(task.key, "kill", request, ok, "killed" if ok else f"already {task.end['state']}")

    def _stop(self, task: Task, cause: str, reason: str, grace_s: float | None = None) -> None:
        """It takes a while to die, unless less is left to it."""
        most = DYING_S if grace_s is None else min(grace_s, DYING_S)
        if task.phase == QUEUED:
            self._end(task, cause, reason, ran=False)
        elif task.phase != ENDED and task.stop is None:
            task.stop = (cause, reason)
            task.dies_at = self.clock() + most
        elif task.phase != ENDED and task.dies_at is not None:
            task.dies_at = min(task.dies_at, self.clock() + most)

    def _freeze(self, key: Key, request: str | None, op: str) -> None:
        task = self.tasks.get(key)
        now = self.clock()
        wanted, kind = (PAUSED, "paused") if op == "pause" else (RUNNING, "resumed")
        if task is None or task.phase in (QUEUED, ENDED) or task.stop is not None:
            self._answer(key, op, request, False, "unknown" if task is None else "not running")
        elif task.phase == wanted:
            self._answer(key, op, request, True, f"already {wanted}")
        else:
            if wanted == PAUSED:
                task.left_s -= now - task.since
            task.phase, task.since = wanted, now
            self._events.append({"kind": kind, "task": key[0], "attempt": key[1], "at": now})
            self._answer(key, op, request, True, kind)

    # -- time

    def due(self) -> float | None:
        """When something happens here next, by the machine's clock."""
        if self.lost and not self.tasks:
            return None
        times = [at for task in self.tasks.values() if (at := task.due()) is not None]
        if self.lease_until is not None:
            times += [
                self._fence_at(t) for t in self.tasks.values() if t.rerunnable and t.phase != ENDED and not t.stop
            ]
        if self._next_to_start() is not None:
            times.append(self.clock())
        return min(times, default=None)

    def _fence_at(self, task: Task) -> float:
        assert self.lease_until is not None
        return lease.fence_at(self.lease_until, task.spec["grace_s"])

    def advance(self) -> None:
        """Let everything happen that is due."""
        now = self.clock()
        self._fence(now)
        for task in list(self.tasks.values()):
            at = task.due()
            if at is not None and at <= now:
                self._happen(task, at)
        while (task_to_start := self._next_to_start()) is not None:
            self._begin(task_to_start)

    def _fence(self, now: float) -> None:
        if self.lease_until is None:
            return
        for task in self.tasks.values():
            if task.rerunnable and task.phase != ENDED and task.stop is None and self._fence_at(task) <= now:
                self._stop(task, "fenced", "the node's lease ran out")

    def _happen(self, task: Task, at: float) -> None:
        if task.dies_at is not None and at >= task.dies_at:
            assert task.stop is not None
            self._end(task, *task.stop)
        elif task.deadline is not None and at >= task.deadline and task.stop is None:
            task.deadline = None
            self._stop(task, "time_limit", "the time limit was reached")
        else:
            self._end(task, "exit", "", code=task.script[1])

    def _next_to_start(self) -> Task | None:
        waiting = [task for task in self.tasks.values() if task.phase == QUEUED]
        if not waiting or self.lease_until is None or self.capacity is None:
            return None
        task = min(waiting, key=lambda t: t.order)
        now, grace = self.clock(), task.spec["grace_s"]
        if not lease.may_start(self.lease_until, now, rerunnable=task.rerunnable, grace_s=grace):
            return None
        used = sum(t.spec["cores"] for t in self.tasks.values() if t.phase in (RUNNING, PAUSED))
        return task if task.spec["cores"] == 0 or used + task.spec["cores"] <= self.capacity else None

    def _begin(self, task: Task) -> None:
        task.intended = True
        self._sync()
        task.phase, task.slot, task.started_at = RUNNING, self._slots, self.true_clock()
        self._slots += 1
        task.since, task.left_s = self.clock(), task.script[0]
        if task.spec.get("time_limit_s") is not None:
            task.deadline = self.clock() + task.spec["time_limit_s"]
        self.log.append(Run(*task.key, self.node, self.true_clock()))
        output = task.script[2]
        if output:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / f"{task.slot}.out").write_bytes(output)
        self._events.append({"kind": "started", "task": task.key[0], "attempt": task.key[1], "pid": None, "ticks": None,
                             "at": task.started_at, "slot": task.slot})  # fmt: skip

    def _files(self, task: Task) -> list[Path]:
        return [self.out_dir / f"{task.slot}.{stream}" for stream in ("out", "err")]

    def _end(self, task: Task, cause: str, reason: str, *, ran: bool = True, code: int | None = None) -> None:
        state = {"exit": "failed" if code else "completed", "time_limit": "failed", "killed": "killed",
                 "fenced": "fenced", "reboot": "failed", "keeper_died": "failed"}[cause]  # fmt: skip
        size = len(task.script[2]) if ran and task.slot is not None else 0
        if task.phase in (RUNNING, PAUSED):
            self._log_end(task, cause, code)
        elif not ran:
            size = 0
        task.phase = ENDED
        task.end = {
            "kind": "ended", "task": task.key[0], "attempt": task.key[1], "state": state, "cause": cause,
            "exit_code": code, "signal": 15 if cause in ("killed", "fenced") else None, "reason": reason,
            "started_at": task.started_at, "ended_at": self.true_clock(), "wall_s": 1.5, "cpu_s": 0.1,
            "peak_memory_bytes": None, "out_bytes": size, "err_bytes": 0, "slot": task.slot if size else None,
            "ran": ran,
        }  # fmt: skip
        task.slot = task.end["slot"]
        self._events.append(task.end)
        for request in task.answers:
            self._answer_kill(task, request)
        task.answers = []

    def _log_end(self, task: Task, cause: str, code: int | None) -> None:
        run = next(r for r in reversed(self.log) if (r.task, r.attempt, r.node) == (*task.key, self.node))
        if run.end is None:
            run.end, run.how, run.code = self.true_clock(), cause, code

    # -- what befalls it

    def _sync(self) -> None:
        """The record is on disk as it is now."""
        self._synced = {key: copy.copy(task) for key, task in self.tasks.items()}

    def die(self) -> None:
        """The keeper is killed; its guard ends the tasks, and the next keeper says so."""
        self._settle("keeper_died", "the keeper died, its tasks with it")

    def power_cut(self, rng: random.Random) -> None:
        """The machine is gone, and with it what the record had not synced, or only some of it."""
        for task in self.tasks.values():
            if task.phase in (RUNNING, PAUSED):
                self._log_end(task, "reboot", None)
        if rng.random() < 0.5:
            self.tasks = {key: copy.copy(task) for key, task in self._synced.items()}
        self._settle("reboot", "node rebooted")

    def _settle(self, cause: str, reason: str) -> None:
        """What the next keeper makes of the record: see `keeper.record.settle`."""
        for task in self.tasks.values():
            task.answers = []
            rebooted = task.phase == QUEUED and task.intended and cause == "reboot"
            if task.phase in (RUNNING, PAUSED) or rebooted:
                self._end(task, cause, reason)
            elif task.phase == QUEUED and task.rerunnable:
                self._end(task, "fenced", "the keeper was restarted before the start", ran=False)
        self.lost = True
        self.lease_until = None
        self.capacity = None
        self._events.clear()
        self._sync()
