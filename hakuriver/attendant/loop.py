"""What an attendant does with its orders: a thread for each attempt, and one for the controls of each name.

    begin:   look -> make -> start, unless it is too late or it was stopped -> attend -> wait -> ended
    attend:  look -> attend -> wait -> ended, or absent

Every step may be repeated by another attendant that finds in the engine what this one has left there. While the engine
is away: before anything is made, that is told and trying again is the keeper's business; later nothing is told but what
is known, however long it takes.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hakuriver.attendant.engine import Away, CannotStart, Doubtful

if TYPE_CHECKING:
    from hakuriver.attendant.engine import Engine
    from hakuriver.attendant.messages import Attend, Begin, Control, News, Order, Remove, Sweep

RETRY_S, RETRY_MOST_S = 0.2, 5.0  #: between two tries while the engine is away; doubled each time
REFUSED = 125  #: as `docker run` exits when the engine refuses
NUMBERS = {"term": int(signal.SIGTERM), "kill": int(signal.SIGKILL)}
Result = TypeVar("Result")


def boottime() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def thread(work: Callable[..., None], *arguments: Any) -> None:
    """Have it done beside."""
    threading.Thread(target=work, args=arguments, daemon=True).start()


class Attempt:
    """One attempt that was ordered to be begun or attended."""

    def __init__(self, order: Begin | Attend) -> None:
        self.order = order
        self.stop = 0  #: the strongest signal that was ordered while it did not run yet
        self.runs = False  #: signals are for the engine from now on
        self.over = False  #: all that there is to say of it is said: it may be begun or attended anew


class Attendant:
    """An engine's attendant. `tell` sends news to the keeper; the others are those of real life unless a test says."""

    def __init__(
        self,
        engine: Engine,
        tell: Callable[[News], None],
        *,
        spawn: Callable[..., None] = thread,
        pause: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = boottime,
    ) -> None:
        self._engine, self._tell = engine, tell
        self._spawn, self._pause, self._now = spawn, pause, now
        self._lock = threading.Lock()  #: of what follows; never held in a call of the engine
        self._attempts: dict[str, Attempt] = {}  #: until they are removed
        self._controls: dict[str, deque[Control | Remove]] = {}

    def obey(self, order: Order) -> None:
        """Begin to carry out an order; does not wait."""
        if order["op"] == "begin" or order["op"] == "attend":
            self._take(order)
        elif order["op"] == "sweep":
            self._spawn(self._sweep, order)
        else:
            self._queue(order)

    def _take(self, order: Begin | Attend) -> None:
        """Have a thread see to it, unless one does."""
        with self._lock:
            known = self._attempts.get(order["name"])
            if known is not None and not known.over:
                return
            attempt = self._attempts[order["name"]] = Attempt(order)
        self._spawn(self._see_to, attempt)

    # -- an engine that is away

    def _patiently(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call until the engine answers."""
        pause = RETRY_S
        while True:
            try:
                return call(*arguments)
            except Away:
                pass  # its state is told by who wants to start something
            except CannotStart:
                raise
            except Exception:
                traceback.print_exc(file=sys.stderr)  # a fault, of ours or of the engine's: what runs is not given up
            self._pause(pause)
            pause = min(pause * 2, RETRY_MOST_S)

    # -- an attempt

    def _see_to(self, attempt: Attempt) -> None:
        order = attempt.order
        if order["op"] == "attend":
            found = self._patiently(self._engine.look, order)
        else:
            found = self._begin(attempt, order)
        if found in ("running", "ended"):
            self._follow(attempt, found)
        elif found:
            self._gone(attempt)

    def _gone(self, attempt: Attempt) -> None:
        """It does not run and has no ending; what was only made is removed."""
        name = attempt.order["name"]
        self._patiently(self._engine.remove, name)
        self._say(attempt, {"ev": "absent", "name": name})

    def _say(self, attempt: Attempt, news: News) -> None:
        """Tell the last of an attempt. It is over before the keeper knows, who may order more of it."""
        with self._lock:
            attempt.over = True
        self._tell(news)

    def _begin(self, attempt: Attempt, order: Begin) -> str:
        """Bring it to run: what became of it, empty if it was not started and the keeper knows."""
        try:
            found = self._engine.look(order)
            if found == "absent":
                self._engine.make(order)
                found = "made"
            while found == "made":
                found = self._start(attempt, order)
            return found
        except Away as away:
            self._not_started(attempt, 0, str(away), away=True)
        except CannotStart as refusal:
            self._refuse(attempt, refusal.code, refusal.text)
        except Exception as fault:
            traceback.print_exc(file=sys.stderr)
            self._refuse(attempt, REFUSED, f"cannot start: {fault!r}")
        return ""

    def _start(self, attempt: Attempt, order: Begin) -> str:
        """Start what was made, if it still may be; what there is then, empty if it was removed. Raises CannotStart."""
        if attempt.stop or self._now() >= order["start_before"]:
            self._engine.remove(order["name"])
            self._not_started(attempt, 0, "it was too late", late=True)
            return ""
        try:
            self._engine.start(order)
            return "running"
        except Doubtful:
            if (found := self._patiently(self._engine.look, order)) != "made":
                return found
            self._started(order, None, time.time())
            return "absent"  # nobody knows whether it ran: never twice
        except Away:
            return self._patiently(self._engine.look, order)  # it may run all the same

    def _refuse(self, attempt: Attempt, code: int, text: str) -> None:
        self._patiently(self._engine.remove, attempt.order["name"])
        self._not_started(attempt, code, text)

    def _not_started(self, attempt: Attempt, code: int, text: str, *, late: bool = False, away: bool = False) -> None:
        name = attempt.order["name"]
        self._say(attempt, {"ev": "not_started", "name": name, "late": late, "away": away, "code": code, "text": text})

    def _follow(self, attempt: Attempt, found: str) -> None:
        """See it to its end."""
        order, told = attempt.order, False
        pause = RETRY_S
        while True:
            try:
                if found == "running":
                    pid, at = self._engine.attend(order)
                    if not told:
                        self._started(order, pid, at)
                        told = True
                    self._runs(attempt)
                self._say(attempt, self._engine.wait(order))
                return
            except Away:
                pass
            except Exception:
                traceback.print_exc(file=sys.stderr)
            self._pause(pause)
            pause = min(pause * 2, RETRY_MOST_S)
            found = self._patiently(self._engine.look, order)
            if found not in ("running", "ended"):
                if not told:  # or it would be taken for one that never ran
                    self._started(order, None, time.time())
                self._gone(attempt)
                return

    def _started(self, order: Begin | Attend, pid: int | None, at: float) -> None:
        self._tell({"ev": "started", "name": order["name"], "pid": pid, "at": at})

    def _runs(self, attempt: Attempt) -> None:
        """Signals that came too early are sent now, later ones at once."""
        with self._lock:
            attempt.runs, number = True, attempt.stop
        if number:
            self._patiently(self._engine.signal, attempt.order["name"], number)

    # -- controls, in order for each name

    def _queue(self, order: Control | Remove) -> None:
        with self._lock:
            waiting = self._controls.get(order["name"])
            if waiting is None:
                self._controls[order["name"]] = deque([order])
            elif order not in waiting:  # a repetition of what waits for the engine
                waiting.append(order)
        if waiting is None:
            self._spawn(self._control, order["name"])

    def _control(self, name: str) -> None:
        """Carry out what is ordered of a name, until nothing is."""
        while (order := self._next_control(name)) is not None:
            if order["op"] == "remove":
                self._remove(order)
            elif order["op"] == "term" or order["op"] == "kill":
                self._signal(name, NUMBERS[order["op"]])
            else:
                text = self._patiently(self._engine.freeze, name, order["op"] == "pause")
                self._tell({"ev": "changed", "name": name, "op": order["op"], "ok": not text, "text": text})

    def _next_control(self, name: str) -> Control | Remove | None:
        with self._lock:
            if self._controls[name]:
                return self._controls[name].popleft()
            del self._controls[name]
            return None

    def _signal(self, name: str, number: int) -> None:
        with self._lock:
            attempt = self._attempts.get(name)
            if attempt is not None and not attempt.runs:
                if attempt.stop != signal.SIGKILL:
                    attempt.stop = number
                return
        self._patiently(self._engine.signal, name, number)

    def _remove(self, order: Remove) -> None:
        name = order["name"]
        if name not in self._attempts:
            attend: Attend = {**order, "op": "attend"}
            self._patiently(self._engine.look, attend)  # from which the engine learns whose it is
        self._patiently(self._engine.remove, name)
        with self._lock:
            self._attempts.pop(name, None)
        self._tell({"ev": "removed", "name": name})

    def _sweep(self, order: Sweep) -> None:
        for name in self._patiently(self._engine.names, order["owner"]):
            if name not in order["keep"] and name not in self._attempts:
                self._patiently(self._engine.remove, name)
