"""Tasks that engines hold: what is ordered of their attendants, and what follows from their news.

An attendant keeps nothing. Whatever one has not answered when it dies is ordered of the next: to begin what is being
started, to attend what runs or may run, to stop, pause and remove. What is in the engine is known by its name.

    begun, not told as started     STARTING     begin    (of an earlier keeper, or being stopped: attend)
    started, not told as ended     RUNNING      attend
    ended in the record            leaving      remove

Until an engine has been rid of a task, the record keeps the task: so the next keeper knows what to remove.
"""

from __future__ import annotations

import os
import time

from hakuriver.keeper import endings, kernel, lease
from hakuriver.keeper.record import fact
from hakuriver.keeper.task import ENDED, PAUSED, QUEUED, RUNNING, STARTING, Task

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hakuriver.keeper.attendants import Link
    from hakuriver.keeper.core import Keeper
    from hakuriver.keeper.timers import Timer

    News = dict[str, Any]

RESTART_S, RESTART_MOST_S = 0.1, 5.0  #: between an attendant's death and the next; doubled each time
STEADY_S = 10.0  #: one that lived that long was no failure
HOPELESS = 3  #: attendants that died before they could be spoken to; then what none was told of waits in the queue
REST_S, REST_MOST_S = 0.5, 10.0  #: before an engine that is away is tried again; doubled each time
IDLE_S = 300.0  #: an attendant that is not needed for so long is ended


def name(task: Task) -> str:
    """Of its container or unit."""
    later = f".{task.attempt}" if task.attempt > 1 else ""
    return f"hakuriver-task-{task.task}{later}"


class Attendant:
    """The attendant of one engine, whether one lives or not."""

    __slots__ = ("born", "failures", "idle", "kind", "link", "not_before", "ready", "rest_s", "restart", "rests_until")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.link: Link | None = None  #: until it has been reaped: two of them would write the same output
        self.ready = False  #: it can be spoken to
        self.born = 0.0  #: CLOCK_BOOTTIME
        self.failures = 0
        self.not_before = 0.0  #: since others have died, CLOCK_BOOTTIME
        self.restart: Timer | None = None
        self.idle: Timer | None = None
        self.rest_s, self.rests_until = REST_S, 0.0


class Holding:
    """A task that its engine holds, or is about to."""

    __slots__ = ("freezes", "seek", "sent", "stop", "task")

    def __init__(self, task: Task, *, seek: bool) -> None:
        self.task = task
        self.seek = seek  #: an earlier keeper gave it up to its attendant: nothing else is known
        self.sent = False  #: some attendant has been told of it
        self.freezes: list[tuple[str, str | None]] = []  #: pauses and resumes not carried out yet: op, request
        self.stop = ""  #: the last of term and kill


class Held:
    """All of them, by name. ``reach``: starts an attendant of that kind."""

    def __init__(self, keeper: Keeper, owner: str, reach: Callable[[str], Link]) -> None:
        self._keeper, self._owner, self._reach = keeper, owner, reach
        self._attendants: dict[str, Attendant] = {}
        self.tasks: dict[str, Holding] = {}
        self.leaving: dict[str, Task] = {}  #: ended, and something of them may be left in the engine
        self._unsafe: list[str] = []  #: of these, those whose end the record does not hold yet
        self._forgotten: set[str] = set()  #: of these, those that nobody asks for any more
        self._signals: list[Holding] = []  #: to be sent when the record knows why
        self._hear = {
            "started": self._started, "not_started": self._not_started, "absent": self._absent,
            "changed": self._changed, "ended": self._ended,
        }  # fmt: skip

    # -- what the keeper asks

    def adopt(self, task: Task) -> None:
        """Take over what an earlier keeper left: held by the engine, or ended."""
        if task.phase == ENDED:
            self.leaving[name(task)] = task
        elif task.phase != QUEUED:
            holding = self.tasks[name(task)] = Holding(task, seek=task.phase == STARTING)
            holding.stop = "" if task.stop is None else "term"

    def begin(self, task: Task) -> None:
        """Have it started. The record says that it may be."""
        holding = self.tasks[name(task)] = Holding(task, seek=False)
        if task.stop is not None:
            self._unborn(holding)
            return
        attendant = self._need(task.spec.engine)
        if attendant.ready:
            self._take_up(attendant, holding)

    def leave(self, task: Task) -> None:
        """It has ended: what is left of it goes when the record holds that."""
        self.tasks.pop(name(task), None)
        self.leaving[name(task)] = task
        self._unsafe.append(name(task))

    def turn(self) -> None:
        """The record is safe: remove what has ended, and see that nobody lacks an attendant."""
        for ended in self._unsafe:
            task = self.leaving[ended]
            self._order(self._need(task.spec.engine), self._whole("remove", task))
        self._unsafe = []

    def begin_again(self) -> None:
        """The first turn of a keeper."""
        for kind in {task.spec.engine for task in self._all()}:
            self._need(kind)

    def signal(self, task: Task, op: str) -> None:
        """Send ``term`` or ``kill``. What no attendant has been told of was not started, and ends here."""
        holding = self.tasks.get(name(task))
        if holding is not None and task.phase == STARTING and not (holding.sent or holding.seek):
            self._unborn(holding)
        elif holding is not None:
            holding.stop = op
            self._signals.append(holding)

    def send_signals(self) -> None:
        """The record says why, or cannot."""
        signals, self._signals = self._signals, []
        for holding in signals:
            if self.tasks.get(name(holding.task)) is holding:
                attendant = self._need(holding.task.spec.engine)
                self._order(attendant, {"op": holding.stop, "name": name(holding.task)})

    def freeze(self, task: Task, op: str, request: str | None) -> None:
        """Pause or resume; answered when it has been done."""
        holding, wanted = self.tasks[name(task)], PAUSED if op == "pause" else RUNNING
        if task.phase == wanted and not holding.freezes:
            self._keeper.answer(task.key, op, request, True, f"already {wanted}")
            return
        holding.freezes.append((op, request))
        self._order(self._need(task.spec.engine), {"op": op, "name": name(task)})

    def running(self) -> list[Task]:
        """Those that may write output."""
        return [holding.task for holding in self.tasks.values() if holding.task.alive]

    def rests_until(self, task: Task) -> float:
        """Until when its engine is not tried: it is away. 0: it may be."""
        attendant = self._attendants.get(task.spec.engine)
        return attendant.rests_until if attendant and attendant.rests_until > kernel.boottime() else 0.0

    def forget(self, task: Task) -> bool:
        """Whether it may be forgotten at once, or will be when its engine is rid of it."""
        if name(task) not in self.leaving:
            return True
        self._forgotten.add(name(task))
        return False

    # -- attendants

    def _all(self) -> list[Task]:
        return [holding.task for holding in self.tasks.values()] + list(self.leaving.values())

    def _need(self, kind: str) -> Attendant:
        """The attendant of an engine; one is started unless it is there or about to be."""
        attendant = self._attendants.get(kind)
        if attendant is None:
            attendant = self._attendants[kind] = Attendant(kind)
        self._keeper.timers.cancel(attendant.idle)
        attendant.idle = None
        if attendant.link is None and attendant.restart is None:
            if attendant.not_before > kernel.boottime():
                attendant.restart = self._keeper.timers.at(attendant.not_before, lambda: self._start(attendant))
            else:
                self._start(attendant)
        return attendant

    def _start(self, attendant: Attendant) -> None:
        attendant.restart, attendant.born = None, kernel.boottime()
        if self._needed(attendant):
            try:
                attendant.link = self._reach(attendant.kind)
            except OSError:
                self._failed(attendant)

    def _failed(self, attendant: Attendant) -> None:
        """One has died, or could not be made."""
        attendant.not_before = kernel.boottime() + min(RESTART_S * 2**attendant.failures, RESTART_MOST_S)
        attendant.failures = min(attendant.failures + 1, 16)
        if attendant.failures >= HOPELESS:
            self._give_up(attendant)
        if self._needed(attendant):
            self._need(attendant.kind)

    def _give_up(self, attendant: Attendant) -> None:
        """What no attendant has been told of goes back into the queue: it may be killed there, or fenced."""
        self._rest(attendant)
        for holding in list(self.tasks.values()):
            mine = holding.task.spec.engine == attendant.kind and holding.task.phase == STARTING
            if mine and not (holding.sent or holding.seek):
                self._unborn(holding)

    def lost(self, attendant: Attendant) -> None:
        """It does not answer any more: end it. Another is started when it has been reaped."""
        attendant.ready = False
        if attendant.link is not None:
            attendant.link.end()

    def gone(self, pid: int) -> None:
        """A child has been reaped: start another attendant if it was one that is needed."""
        for attendant in self._attendants.values():
            if attendant.link is not None and attendant.link.pid == pid:
                attendant.link.close()
                attendant.link, attendant.ready = None, False
                if kernel.boottime() - attendant.born > STEADY_S:
                    attendant.failures = 0
                if self._needed(attendant):
                    self._failed(attendant)

    def _needed(self, attendant: Attendant) -> bool:
        return any(task.spec.engine == attendant.kind for task in self._all())

    def _watch_idle(self, kind: str) -> None:
        attendant = self._attendants[kind]
        if attendant.link is not None and attendant.idle is None and not self._needed(attendant):
            when = kernel.boottime() + IDLE_S
            attendant.idle = self._keeper.timers.at(when, lambda: self.lost(attendant))

    def attendants(self) -> list[Attendant]:
        """Those of all engines, alive or not."""
        return list(self._attendants.values())

    def _order(self, attendant: Attendant, order: News) -> None:
        """Say it, or leave it to `_repeat`."""
        if attendant.ready and attendant.link is not None:
            try:
                attendant.link.order(order)
            except OSError:
                self.lost(attendant)

    # -- orders that are repeated

    def _repeat(self, attendant: Attendant) -> None:
        """Tell a new attendant everything that is not answered yet."""
        mine = [task for task in self._keeper.known.tasks.values() if task.spec.engine == attendant.kind]
        for holding in list(self.tasks.values()):
            if holding.task.spec.engine == attendant.kind:
                self._take_up(attendant, holding)
        for ended, task in self.leaving.items():
            if task.spec.engine == attendant.kind and ended not in self._unsafe:
                self._order(attendant, self._whole("remove", task))
        keep = [name(task) for task in mine if task.phase != ENDED] + self._unsafe
        self._order(attendant, {"op": "sweep", "owner": self._owner, "keep": keep})

    def _take_up(self, attendant: Attendant, holding: Holding) -> None:
        task = holding.task
        holding.sent = True
        order = self._whole("attend", task)
        if task.phase == STARTING and task.stop is None and not holding.seek:
            order["op"], order["start_before"] = "begin", self._start_before(task)
        self._order(attendant, order)
        for op, _ in holding.freezes:
            self._order(attendant, {"op": op, "name": name(task)})
        if holding.stop:
            self._order(attendant, {"op": holding.stop, "name": name(task)})

    def _whole(self, op: str, task: Task) -> dict[str, Any]:
        """An order with all that there is to know of a task."""
        return {
            "op": op, "name": name(task), "task": task.task, "attempt": task.attempt, "owner": self._owner,
            "spec": _settings(task), "out": self._path(task, "out"), "err": self._path(task, "err"),
        }  # fmt: skip

    def _path(self, task: Task, stream: str) -> str:
        if task.slot_number is None:
            return ""  # it has ended and wrote nothing
        return f"{os.path.abspath(self._keeper.outputs.directory)}/{task.slot_number}.{stream}"

    def _start_before(self, task: Task) -> float:
        until = self._keeper.lease_until or 0.0
        return lease.start_before(until, rerunnable=task.rerunnable, grace_s=task.spec.grace_s)

    # -- news

    def hear(self, attendant: Attendant, news: News) -> None:
        """Take in what an attendant tells. What was answered before is no news."""
        kind = news["ev"]
        if kind == "ready":
            attendant.ready = True
            self._repeat(attendant)
        elif kind == "removed":
            self._rid(attendant, news["name"])
        elif kind in self._hear and news["name"] in self.tasks:
            self._hear[kind](self.tasks[news["name"]], news)

    def _started(self, holding: Holding, news: News) -> None:
        task = holding.task
        attendant = self._attendants[task.spec.engine]
        attendant.rest_s, attendant.rests_until, attendant.failures = REST_S, 0.0, 0
        holding.seek = False
        if task.phase == STARTING:
            self._keeper.started_in_engine(task, news["pid"], news["at"])
        else:
            task.pid = news["pid"]

    def _not_started(self, holding: Holding, news: News) -> None:
        if news["away"]:
            self._rest(self._attendants[holding.task.spec.engine])
        again = news["away"] or news["late"]
        self._unborn(holding, None if again else news["code"], news["text"])

    def _absent(self, holding: Holding, news: News) -> None:
        del news
        task = holding.task
        if task.phase == STARTING:
            self._unborn(holding)
        else:
            self._end(holding, endings.gone(task, time.time(), self._keeper.give_back(task)))

    def _changed(self, holding: Holding, news: News) -> None:
        task, op = holding.task, news["op"]
        asked = next((pair for pair in holding.freezes if pair[0] == op), None)
        if asked is None:
            return
        holding.freezes.remove(asked)
        phase, kind = (PAUSED, "paused") if op == "pause" else (RUNNING, "resumed")
        if news["ok"] and task.phase != phase:
            task.phase = phase
            self._keeper.record.add(fact("paused", n=task.n, on=phase == PAUSED))
            self._keeper.tell(task, kind)
        self._keeper.answer(task.key, op, asked[1], news["ok"], kind if news["ok"] else news["text"])

    def _ended(self, holding: Holding, news: News) -> None:
        task = holding.task
        if task.phase == STARTING:
            self._keeper.started_in_engine(task, None, news["started_at"])
        self._end(holding, endings.held(task, news, self._keeper.give_back(task)))  # type: ignore[arg-type]

    def _end(self, holding: Holding, end: Any) -> None:
        self._keeper.end(holding.task, end)
        for op, request in holding.freezes:
            self._keeper.answer(holding.task.key, op, request, False, f"already {end['state']}")

    def _unborn(self, holding: Holding, code: int | None = None, text: str = "") -> None:
        """It was not started. Without a code it may be tried again, unless the cluster may do so elsewhere."""
        task = holding.task
        del self.tasks[name(task)]
        again = holding.task.rerunnable and (holding.seek or not self._keeper.may_start(task))
        self._keeper.not_started(task, code, text, fenced=again)

    def _rest(self, attendant: Attendant) -> None:
        now = kernel.boottime()
        if attendant.rests_until <= now:
            attendant.rests_until = now + attendant.rest_s
            attendant.rest_s = min(attendant.rest_s * 2, REST_MOST_S)

    def _rid(self, attendant: Attendant, ended: str) -> None:
        task = self.leaving.pop(ended, None)
        if task is not None and ended in self._forgotten:
            self._forgotten.discard(ended)
            self._keeper.forget(task)
        self._watch_idle(attendant.kind)


def _settings(task: Task) -> dict[str, Any]:
    """What the attendant is told of the task."""
    raw = task.spec.raw
    told = {
        "argv": raw["argv"], "env": {**task.spec.env, **task.attempt_env}, "cwd": raw.get("cwd"),
        "cores": task.spec.cores, "memory_bytes": task.spec.memory_bytes, "grace_s": task.spec.grace_s,
    }  # fmt: skip
    return {**told, **task.spec.settings, **task.settings}
