"""What becomes of tasks: queue, start, stop, end. All of it on the main thread.

Nothing here blocks on a share. Facts go to the record first; the loop flushes it, then hands over what was chosen to
start and tells the runner, in that order.
"""

from __future__ import annotations

import os
import resource
import signal
import time

from hakuriver.keeper import endings, kernel, lease, proc
from hakuriver.keeper.held import Held
from hakuriver.keeper.memory import Groups
from hakuriver.keeper.outputs import Outputs
from hakuriver.keeper.record import Record, fact, settle, started, stopped
from hakuriver.keeper.spawn import Failure, Spawner
from hakuriver.keeper.task import ENDED, PAUSED, QUEUED, RUNNING, STARTING, Task
from hakuriver.keeper.timers import Timer, Timers
from hakuriver.keeper.trees import Trees, kill_leftovers
from hakuriver.keeper.waiting import Capacity, Queue

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hakuriver.keeper.attendants import Link
    from hakuriver.keeper.messages import Ended

INTENTS = 16  #: tasks whose intents share one fdatasync while a backlog is worked off
BUSY_S = 0.1  #: intents are made ahead when the last were made less than this ago
MAX_STARTING = 256  #: each has two descriptors open
TRIM_S, WATCH_S = 1.0, 0.2  #: how often output sizes, and memory without cgroups, are looked at
UNKILLABLE_S = 10.0  #: after that an end is told although SIGKILL has left something (a process in a dead mount)
RETRY_KILL_S, RETRY_KILL_HELD_S = 0.5, 2.0
REMOVE_S = 5.0  #: how long a keeper that was told to stop waits for engines to be rid of what has ended

NOT_STARTED = "Task failed to start: "  #: before the reason of one that could not be

Exit = tuple[int, float, int, float]


class Keeper:
    """All tasks and what holds them. ``events`` and ``chosen`` are taken by the loop at the end of its turn."""

    def __init__(self, directory: str, owner: str, output_limit: int, memory_mode: str,
                 wake: Callable[[], None], reach: Callable[[str], Link]) -> None:  # fmt: skip
        """``wake``: called from other threads when the loop has something to take; ``reach``: see `Held`."""
        self.boot = kernel.boot_id()
        self.output_limit = output_limit
        self.record = Record(directory)
        self.known = self.record.read(owner)
        self.outputs = Outputs(f"{directory}/out")
        self.timers = Timers()
        self.queue, self.capacity = Queue(), Capacity()
        self._kept_lease = lease.Kept(directory, self.boot)
        self.lease_until = self._kept_lease.read()
        self._leased = False  #: the lease was told by a runner of ours; one found in the file only ends things
        self.events: list[Any] = []
        self.chosen: list[Task] = []
        self.sync = False  #: the record's next flush must be durable
        self.closing = False
        self.living: dict[int, Task] = {}
        self.live = 0  #: tasks that have not ended
        self.trees = Trees(owner, lambda: self.living)
        self.held = Held(self, owner, reach)
        self._lingering: list[Task] = []
        self._early: dict[int, Exit] = {}
        self._last_sync = 0.0
        self._ticking: dict[str, Timer] = {}
        self._fence: Timer | None = None
        self._remove_until = 0.0
        self._recover(owner)
        self.groups = Groups(owner, memory_mode)
        self.spawner = Spawner(self.may_start, wake)

    # -- recovery

    def _recover(self, owner: str) -> None:
        """End what the keeper before us did not see the end of."""
        tasks = list(self.known.tasks.values())
        if self.known.boot == self.boot:
            kill_leftovers(owner, tasks, lambda: time.sleep(0.01))
        for task, end in settle(self.known, self.boot, time.time()):
            number = task.slot_number
            if number is not None:
                end["out_bytes"], end["err_bytes"] = self.outputs.sizes(number)
                end["slot"] = number if end["out_bytes"] or end["err_bytes"] else None
            task.end, task.phase, task.slot_number = end, ENDED, end["slot"]
        self.outputs.begin({task.slot_number for task in tasks if task.slot_number is not None})
        self.record.compact(self.known, self.boot)
        self.enqueue([task for task in tasks if task.phase == QUEUED])
        for task in tasks:
            if task.spec.engine and task.intended:
                self._adopt(task)

    def _adopt(self, task: Task) -> None:
        """Go on with what an engine holds, or may hold, since the keeper before us."""
        self.held.adopt(task)
        if task.phase in (STARTING, RUNNING, PAUSED) and task.slot_number is not None:
            self.live += 1
            self.capacity.reserve(task)
            task.slot = self.outputs.resume(task.slot_number)
            if task.phase != STARTING:
                self.watch(task)
            if task.stop is not None:
                self._kill_at(task, task.kill_by or 0.0)

    def begin(self) -> None:
        """Before the first turn: what engines hold is looked for, under the lease that the keeper before us had."""
        self.held.begin_again()
        if self.lease_until is None and self.held.tasks:
            self.lease_until = 0.0  # nobody knows: what may be rerun elsewhere must not go on
        self.keep_lease()

    # -- queue and lease

    def enqueue(self, tasks: list[Task]) -> None:
        """Queue tasks that are in the record."""
        for task in tasks:
            self.queue.push(task)
        self.live += len(tasks)

    def may_start(self, task: Task) -> bool:
        """The last look before a start. Called from spawner threads too."""
        now = kernel.boottime()
        return task.stop is None and lease.may_start(
            self.lease_until if self._leased else None, now, rerunnable=task.rerunnable, grace_s=task.spec.grace_s
        )

    def extend_lease(self, until: float) -> None:
        """The lease, longer or shorter."""
        self.lease_until, self._leased = until, True
        self._kept_lease.write(until)
        self.keep_lease()

    def keep_lease(self) -> None:
        """Stop what may not run any longer, and look again when the next must be stopped."""
        self.timers.cancel(self._fence)
        self._fence = None
        if self.lease_until is None:
            return
        now, next_at = kernel.boottime(), None
        for task in list(self.known.tasks.values()):
            if not task.rerunnable or task.phase == ENDED:
                continue
            if task.phase == QUEUED and not self._leased:
                continue
            # One that is being stopped may have been given a longer grace than the lease leaves it.
            most = task.spec.grace_s if task.stop is None else 0.0
            at = lease.fence_at(self.lease_until, most)
            if at <= now:
                grace = lease.grace_left(self.lease_until, now, most)
                self.stop(task, "fenced", "the node's lease ran out", grace)
            elif next_at is None or at < next_at:
                next_at = at
        if next_at is not None:
            self._fence = self.timers.at(next_at, self.keep_lease)

    # -- starting

    def act(self) -> bool:
        """The end of a turn: choose, have the record say so, carry it out. False if the disk refuses the record."""
        self.choose()
        safe = self.record.flush(self.sync)
        self.held.send_signals()  # also if the disk is full: the lease does not wait for it
        if not safe:
            return False
        self.sync = False
        self.hand_over()
        return True

    def choose(self) -> None:
        """Choose what starts now; afterwards the record says so."""
        now = kernel.boottime()
        if self.closing or not self._leased or self.lease_until is None or now >= self.lease_until:
            return
        if self.spawner.in_flight > MAX_STARTING // 2:
            return  # then many at once: they share a sync
        chosen: list[Task] = []
        while self.spawner.in_flight + len(chosen) + len(self.chosen) < MAX_STARTING:
            task = self.queue.pop(self.capacity)
            if task is None:
                break
            if self._prepare(task):
                chosen.append(task)
        if chosen:
            self._intend(chosen, now)
            self.record.add(fact("go", t=[[task.n, task.slot_number] for task in chosen]))
            self.chosen += chosen

    def _prepare(self, task: Task) -> bool:
        """Give a task what it needs to start; False if that ended it, or if its engine is not to be tried yet."""
        rests_until = self.held.rests_until(task) if task.spec.engine else 0.0
        if rests_until:
            self.timers.at(rests_until, lambda: self.queue.push(task))
            return False
        if not self.may_start(task):
            self.end_unborn(task, "fenced", "the node's lease runs out")
            return False
        self.capacity.reserve(task)
        try:
            task.slot = self.outputs.take()
            task.slot_number = task.slot.number
            if task.spec.memory_bytes and self.groups.version and not task.spec.engine:
                task.group = self.groups.make(str(task.n), task.spec.memory_bytes)
        except OSError as problem:
            self._release(task)
            self.end_unborn(task, "launch", NOT_STARTED + f"cannot prepare the start: {problem}", exit_code=126)
            return False
        task.phase = STARTING
        return True

    def _intend(self, chosen: list[Task], now: float) -> None:
        """Have intents durable for what starts, and in a hurry for those that come next."""
        fresh = [task for task in chosen if not task.intended]
        if not fresh:
            return
        if now - self._last_sync < BUSY_S:
            fresh += self.queue.stage(INTENTS - len(fresh))
        self._last_sync = now
        self.sync = True
        for task in fresh:
            task.intended = True
        self.record.add(fact("intent", n=[task.n for task in fresh]))

    def hand_over(self) -> None:
        """The record is safe: start what was chosen."""
        self.held.turn()
        for task in self.chosen:
            if task.spec.engine:
                self.held.begin(task)
            else:
                self.spawner.hand_over(task)
        if self.spawner.in_flight:
            self.tick("relieve", 1.0, self._relieve)
        self.chosen = []

    def _relieve(self) -> bool:
        self.spawner.relieve(kernel.boottime())
        return self.spawner.in_flight > 0

    def take_results(self) -> None:
        """Hear from the spawner."""
        while result := self.spawner.take():
            task, made, ticks = result
            if isinstance(made, Failure):
                self.not_started(task, made.code, made.text, fenced=task.rerunnable)
            else:
                self._started(task, made, ticks)
        if not self.spawner.in_flight:
            self._early.clear()

    def _started(self, task: Task, pid: int, ticks: int | None) -> None:
        task.pid, task.ticks, task.phase = pid, ticks, RUNNING
        self.living[pid] = task
        self._tell_started(task)
        early = self._early.pop(pid, None)
        if early is not None:
            self._exited([(task, early)])
        elif task.stop is not None:
            self._terminate(task)
        else:
            self.watch(task)

    def started_in_engine(self, task: Task, pid: int | None, at: float | None) -> None:
        """An engine has started it. ``at``: since 1970, as the engine says."""
        now = time.time()
        task.pid, task.phase, task.started_at = pid, RUNNING, now if at is None else at
        task.since = kernel.boottime() - max(0.0, now - task.started_at)
        self._tell_started(task)
        if task.stop is not None:
            self._terminate(task)
        else:
            self.watch(task)

    def _tell_started(self, task: Task) -> None:
        self.record.add(started(task))
        self.events.append({"kind": "started", "task": task.task, "attempt": task.attempt, "pid": task.own_pid,
                            "ticks": task.ticks, "at": task.started_at, "slot": task.slot_number})  # fmt: skip
        if task.slot is not None:
            self.outputs.spare(task.slot)

    def watch(self, task: Task) -> None:
        """Begin to enforce the limits of a task that runs."""
        limit = task.spec.time_limit_s
        if limit is not None and task.stop is None:
            text = f"the time limit of {limit:g} s was reached"
            since = kernel.boottime() if task.since is None else task.since
            task.deadline = self.timers.at(since + limit, lambda: self.stop(task, "time_limit", text))
        self.tick("trim", TRIM_S, self._trim)
        if task.spec.memory_bytes and task.group is None and not task.spec.engine:
            self.tick("memory", WATCH_S, self._watch_memory)

    def not_started(self, task: Task, code: int | None, text: str, *, fenced: bool) -> None:
        """It could not be started, or without a code was not to be: then it goes back into the queue unless fenced."""
        self.give_back(task)
        if code is not None:
            self.end_unborn(task, "launch", NOT_STARTED + text, exit_code=code)
        elif task.stop is not None:
            self.end_unborn(task, task.stop, task.stop_reason)
        elif fenced:
            self.end_unborn(task, "fenced", "the node's lease runs out")
        else:
            task.phase, task.slot_number = QUEUED, None
            self.record.add(fact("back", n=task.n))
            self.queue.push(task)

    # -- watching

    def tick(self, name: str, every: float, call: Callable[[], bool]) -> None:
        """Call again and again while it returns true; one such round for each name."""
        if name in self._ticking:
            return

        def turn() -> None:
            del self._ticking[name]
            if call():
                self.tick(name, every, call)

        self._ticking[name] = self.timers.at(kernel.boottime() + every, turn)

    def _trim(self) -> bool:
        running = [*self.living.values(), *self.held.running()]
        for task in running:
            if task.slot is not None:
                task.slot.trim(self.output_limit)
        return bool(running)

    def _watch_memory(self) -> bool:
        watched = [t for t in self.living.values() if t.spec.memory_bytes and t.group is None]
        table = proc.everything() if watched else {}
        for task in watched:
            used = sum(table[pid].rss for pid in self.trees.members(task, table))
            task.peak = max(task.peak or 0, used)
            if used > (task.spec.memory_bytes or 0):
                task.oom = True
                self.stop(task, "oom", "the memory limit was reached", grace_s=0.0)
        return bool(watched)

    # -- stopping

    def stop(self, task: Task, cause: str, reason: str, grace_s: float | None = None) -> None:
        """End a task: SIGTERM to its tree, SIGKILL after the grace. The first cause stands, and the shortest grace."""
        if task.phase == QUEUED:
            self.end_unborn(task, cause, reason)
        if task.phase == ENDED or task.exit is not None:
            return
        grace = task.spec.grace_s if grace_s is None else grace_s
        if task.stop is not None:
            self._hasten(task, grace)
            return
        task.stop, task.stop_reason = cause, reason
        self._kill_at(task, kernel.boottime() + grace)
        if task.spec.engine:
            task.kill_by = kernel.boottime() + grace
            self.record.add(stopped(task))
            self.held.signal(task, "term" if grace > 0 else "kill")
        elif task.alive and grace > 0:
            self._terminate(task)
        elif task.alive:
            self._kill(task)

    def _hasten(self, task: Task, grace_s: float) -> None:
        """It is being stopped already: have SIGKILL come this soon, unless that is due earlier."""
        when = kernel.boottime() + grace_s
        if task.deadline is None or task.deadline.when <= when:
            return
        self._kill_at(task, when)
        if task.spec.engine:
            task.kill_by = when if task.kill_by is None else min(when, task.kill_by)
            self.record.add(stopped(task))

    def _terminate(self, task: Task) -> None:
        late = task.deadline is None or task.deadline.when <= kernel.boottime()
        if late:  # it started after its SIGKILL was due
            self._kill(task)
        elif task.spec.engine:
            self.held.signal(task, "term")
        elif task.phase == PAUSED:
            self.trees.signal(task, signal.SIGTERM, signal.SIGCONT)
        else:
            self.trees.signal(task, signal.SIGTERM)

    def _kill(self, task: Task) -> None:
        """SIGKILL, again and again until the task ends."""
        if task.phase == ENDED or task.exit is not None:
            return
        if task.spec.engine:
            self.held.signal(task, "kill")
        elif task.alive:
            self.trees.sweep(task, signal.SIGKILL)
        else:
            for pid in self.spawner.unborn(task):
                if pid not in self.living:
                    proc.send(pid, signal.SIGKILL)
        again = RETRY_KILL_HELD_S if task.spec.engine else RETRY_KILL_S
        self._kill_at(task, kernel.boottime() + again)

    def _kill_at(self, task: Task, when: float) -> None:
        self.timers.cancel(task.deadline)
        task.deadline = self.timers.at(when, lambda: self._kill(task))

    def shut_down(self) -> None:
        """Stop all that runs; what is queued stays in the record for the next keeper."""
        self.closing = True
        self._remove_until = kernel.boottime() + REMOVE_S
        self.timers.at(self._remove_until, lambda: None)
        for task in list(self.known.tasks.values()):
            if task.phase not in (QUEUED, ENDED):
                self.stop(task, "shutdown", "node rebooted or shut down: the keeper was told to stop")

    @property
    def busy(self) -> bool:
        """Whether any task has, or is about to have, a process."""
        if self.living or self._lingering or self.chosen or self.spawner.in_flight or self.held.tasks:
            return True
        return bool(self.held.leaving) and kernel.boottime() < self._remove_until

    # -- ending

    def reap(self) -> None:
        """Collect children that have ended, ours and adopted ones."""
        done: list[tuple[Task, Exit]] = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid in self.trees.attendants:
                self.held.gone(pid)
            self.trees.reaped(pid)
            found = (status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, time.monotonic())
            task = self.living.get(pid)
            if task is not None:
                done.append((task, found))
            elif self.spawner.in_flight:
                self._early[pid] = found  # perhaps a task that the spawner has not told us of yet
        if done:
            self._exited(done)

    def _exited(self, done: list[tuple[Task, Exit]]) -> None:
        for task, found in done:
            task.exit = found
            self.living.pop(task.pid or 0, None)
        strangers = self.trees.strangers()
        for task, _ in done:
            if self.trees.quiet(task, strangers):
                self._finish(task)
            else:
                task.waited_since = kernel.boottime()
                self._lingering.append(task)
        if self._lingering:
            self._clear()

    def _clear(self) -> bool:
        """Kill what tasks left behind when their main process ended; true while something is there."""
        if not self._lingering:
            return False
        waiting, self._lingering = self._lingering, []
        table = proc.everything()
        for task in waiting:
            left = self.trees.members(task, table, waiting)
            if left and kernel.boottime() - task.waited_since < UNKILLABLE_S:
                self.trees.sweep(task, signal.SIGKILL)
                self._lingering.append(task)
            else:
                self._finish(task, len(left))
        if self._lingering:
            self.tick("clear", 0.02, self._clear)
        return bool(self._lingering)

    def give_back(self, task: Task) -> tuple[int, int]:
        """Free what a task held: its bytes of output."""
        self.timers.cancel(task.deadline)
        task.deadline = None
        self.capacity.reserve(task, -1)
        if task.group is not None:
            oom, peak = self.groups.told(task.group)
            task.oom, task.peak, task.metered = task.oom or oom, peak, peak is not None
            self.groups.remove(task.group)
            task.group = None
        slot, task.slot = task.slot, None
        return self.outputs.give_back(slot, again=not task.spec.engine) if slot is not None else (0, 0)

    def _release(self, task: Task) -> None:
        self.give_back(task)
        task.slot_number = None

    def _finish(self, task: Task, left: int = 0) -> None:
        sizes = self.give_back(task)
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        end = endings.ended(task, time.time(), sizes, own_peak)
        if left:
            end["reason"] += f"; {left} of its processes cannot be killed"
        self.end(task, end)

    def end_unborn(self, task: Task, cause: str, reason: str, **more: Any) -> None:
        """End a task that never had a process."""
        task.started_at = None
        self.end(task, endings.unborn(task, cause, reason, time.time(), **more))

    def end(self, task: Task, end: Ended) -> None:
        """How it ended: for the record, the runner and those who asked for it."""
        task.phase, task.end, task.slot_number = ENDED, end, end["slot"]
        self.live -= 1
        if task.spec.engine and task.intended:
            self.held.leave(task)
        self.record.add(fact("ended", n=task.n, e=end))
        self.events.append(end)
        for request in task.answers:
            self.answer_kill(task, request)
        task.answers = []

    def tell(self, task: Task, kind: str) -> None:
        """Tell the runner that a task was paused or resumed."""
        self.events.append({"kind": kind, "task": task.task, "attempt": task.attempt, "at": time.time()})

    def answer(self, key: tuple[str, int], op: str, request: str | None, ok: bool, text: str) -> None:
        """Answer a control."""
        self.events.append({"kind": "answer", "request": request, "task": key[0], "attempt": key[1],
                            "op": op, "ok": ok, "text": text})  # fmt: skip

    def answer_kill(self, task: Task, request: str | None) -> None:
        """Answer a kill of a task that has ended."""
        assert task.end is not None
        ok = task.end["cause"] == "killed"
        self.answer(task.key, "kill", request, ok, "killed" if ok else f"already {task.end['state']}")

    def forget(self, task: Task) -> None:
        """Drop an ended task and its output, if not now then when its engine is rid of it."""
        if task.spec.engine and not self.held.forget(task):
            return
        if task.end is not None and task.end["slot"] is not None:
            self.outputs.drop(task.end["slot"])
        self.record.add(fact("forget", n=[task.n]))
        self.known.forget(task)
