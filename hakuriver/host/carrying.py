"""Carries out orders about environments while this host leads, and tells what there is.

An order that was open when the host began may be half done: every step can be repeated. When the share fails an order
is tried again; when the engine does it is answered, because whoever asked can see to that. What there is and what is
going on stands in index/environments.json, replaced when it changes, twice a second at most. The default environment is
made here too, unasked; its image is pulled on a thread of its own, so that no order waits for a registry.

The SDK is imported when there is an order, or a socket of an engine: a host without Docker does not pay for it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hakuriver.daemons import Saying
from hakuriver.host import journal
from hakuriver.host.checking import problem
from hakuriver.host.containers import Cannot, Engine, Note, Unavailable
from hakuriver.host.packaging import Packages
from hakuriver.host.requests import Order
from hakuriver.records import FORMAT
from hakuriver.spool import files, layout
from hakuriver.spool.files import ShareError
from hakuriver.spool.layout import Baton

if TYPE_CHECKING:
    from hakuriver.host.environments import Environments

log = logging.getLogger("hakuriver.host")

#: Seconds between two looks at the engine and the packages when nothing is asked.
LOOK_S = 15.0
#: Seconds between two writes of the index while something goes on, and between two looks at who leads.
PROGRESS_S, LEADS_S = 0.5, 2.0
#: Seconds between two tries when the share has failed, and while the engine is waited for.
RETRY_S = 2.0
#: Seconds that an order of before a restart waits for the engine, which may start later than the host.
ENGINE_WAIT_S = 60.0
#: Seconds between two tries to make the default environment: the first, and the longest.
DEFAULT_S, DEFAULT_MOST_S = 10.0, 3600.0
#: Seconds between two looks whether its image has been pulled.
PULL_LOOK_S = 1.0
#: What of the share's errors no waiting mends.
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})


class Deposed(Exception):
    """This host leads no longer: what it was doing is for the next one to answer."""


class Carrying:
    """The work of one lead. Whatever it does is given up with Deposed when the lead is over."""

    def __init__(self, mail: Environments, baton: Baton) -> None:
        self._mail = mail
        self._baton = baton
        self.settings = mail.settings
        self._packages = Packages(mail.disk, mail.settings.container_dir, mail.now, self._leads)
        self._looked = float("-inf")  #: at who leads
        self._engine: Engine | None = None
        self._seen: dict[str, Any] = {"engine": "", "problem": "", "containers": []}
        self._progress: dict[str, Any] | None = None
        self._told: dict[str, Any] = {}
        self._published = float("-inf")
        self._default = Default(self)
        self._saying = Saying(log, "environments wait: ")
        self._saying_engine = Saying(log)

    def work(self) -> None:
        """Carry out orders as they come. Raises Deposed."""
        try:
            self._attempt(lambda: self._packages.clean(set(self._mail.begun)))
            while True:
                self._attempt(self._look)
                self._next()
        finally:
            self._let_go()

    def _next(self) -> None:
        order = self._mail.next(self._baton, min(LOOK_S, self._default.wait_s()))
        if order is not None:
            self._answer(order)
        else:
            self._default.go_on()

    def _leads(self) -> None:
        """Raise Deposed unless this host leads. The baton is looked at from time to time: the ticks may be held up."""
        self._mail.check(self._baton)
        now = time.monotonic()
        if now - self._looked < LEADS_S:
            return
        with contextlib.suppress(journal.NotYet):  # it is being renamed just now
            found = journal.find_baton(self._mail.disk)
            if (found.term, found.host) != (self._baton.term, self._baton.host):
                self._mail.depose(self._baton)
            self._looked = now

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do what may as well be done later."""
        try:
            work()
            self._saying.forget()
        except (ShareError, FileNotFoundError) as error:
            self._saying.say(error)

    # -- orders

    def _answer(self, order: Order) -> None:
        """Carry out one order, and answer it."""
        try:
            receipt = order.receipt(self._persist(order), self._mail.now())
        except Cannot as error:
            receipt = order.refusal([error.problem], self._mail.now())
        except ShareError as error:
            receipt = order.refusal([problem("share", None, str(error))], self._mail.now())
        except Deposed:
            raise
        except Exception as error:  # it would be met again and again, and all other orders wait
            log.exception("a fault in %s %s", order.kind, order.environment)
            why = problem("request", order.kind, f"a fault in HakuRiver itself: {error!r}", "see the host's log")
            receipt = order.refusal([why], self._mail.now())
        log.info("%s %s: %s", order.kind, order.environment, receipt.get("text") or receipt["errors"][0]["message"])
        self._attempt(self._look)  # who reads the receipt finds in the index what was done
        self._mail.answer(self._baton, order, receipt)

    def _persist(self, order: Order) -> str:
        """Carry an order out, once more after each failure of the share that waiting may mend."""
        again = order.request in self._mail.begun
        while True:
            try:
                return self.carry_out(order, again)
            except (ShareError, FileNotFoundError) as error:
                if getattr(error, "errno", None) in LASTING:
                    raise
                self._saying.say(error)
            again = True
            self._mail.pause(self._baton, RETRY_S)

    def carry_out(self, order: Order, again: bool) -> str:
        """Do what is asked, or the rest of it; return what to say. Raises Cannot, ShareError."""

        def note(step: str, done: int | None, total: int | None) -> None:
            self._note(order, step, done, total)

        note("begun", None, None)
        try:
            return self._do(order, again, note)
        finally:
            self._progress = None

    def _do(self, order: Order, again: bool, note: Note) -> str:
        environment = order.environment
        if order.kind == "delete-tar":
            return self._packages.delete(environment, self._mail.online, again)
        engine = self.engine(ENGINE_WAIT_S if again else 0.0)
        if order.kind == "create-container":
            return engine.create(environment, order.image or "", self.settings.network, note)
        if order.kind == "create-tar":
            return self._packages.create(engine, environment, order.request, lambda: self._mail.online, note)
        if order.kind == "delete-container":
            return engine.delete(environment, again)
        return engine.start(environment) if order.kind == "start-container" else engine.stop(environment)

    def engine(self, wait_s: float = 0.0) -> Engine:
        """The engine, there just now; waited for so long. Raises Unavailable."""
        end = time.monotonic() + wait_s
        while True:
            try:
                self._reach()
                assert self._engine is not None
                return self._engine
            except Unavailable:
                if time.monotonic() >= end:
                    raise
            self._mail.pause(self._baton, RETRY_S)

    def _reach(self) -> None:
        """See that the engine answers; a connection that was lost is made once more."""
        try:
            try:
                found = self._connected().containers()
            except Unavailable:
                if self._engine is None:
                    raise
                self._let_go()
                found = self._connected().containers()
        except Unavailable as error:
            self._let_go()
            self._seen = {"engine": "", "problem": error.why, "containers": []}
            self._saying_engine.say(f"{error.why}; environments have to wait for it, all else goes on")
            raise
        rows = [{"environment": c.environment, "state": c.state, "image": c.image, "created_at": c.created_at}
                for c in found]  # fmt: skip
        self._seen = {"engine": self._connected().version, "problem": "", "containers": rows}
        self._saying_engine.say(f"environments are made by Docker {self._seen['engine']}")

    def _connected(self) -> Engine:
        socket = self.settings.socket
        if not os.path.exists(socket):  # an open connection may outlive it, others could not be made
            raise Unavailable(socket, os.strerror(errno.ENOENT))
        if self._engine is None:
            self._engine = Engine(socket, self._mail.cluster_id)
        return self._engine

    def _let_go(self) -> None:
        known, self._engine = self._engine, None
        if known is not None:
            known.close()

    # -- telling

    def _look(self) -> None:
        """See what there is, and tell it."""
        with contextlib.suppress(Cannot):
            self._reach()
        self._publish()

    def _note(self, order: Order, step: str, done: int | None, total: int | None) -> None:
        """Say how far an order is; the index is written for it now and then."""
        before = self._progress
        self._progress = {
            "request": order.request, "kind": order.kind, "environment": order.environment, "step": step,
            "done_bytes": done, "total_bytes": total,
        }  # fmt: skip
        if before and before["step"] == step and time.monotonic() - self._published < PROGRESS_S:
            return
        with contextlib.suppress(ShareError, FileNotFoundError):  # the order goes on
            self._publish()

    def _publish(self) -> None:
        packages = [manifest.model_dump() for manifest in self._packages.all()]
        lasting = {
            "format": FORMAT, "host": self._baton.host, **self._seen, "default_problem": self._default.problem,
            "packages": packages,
        }  # fmt: skip
        now = {**lasting, "progress": [self._progress] if self._progress else []}
        if now == self._told:
            return
        self._published = time.monotonic()
        document = {**now, "at": self._mail.now()}
        files.publish(self._mail.disk, layout.ENVIRONMENTS_INDEX, json.dumps(document).encode(), replace=True)
        if not self._told or lasting != {key: self._told[key] for key in lasting} or not self._progress:
            self._mail.tell(document)
        self._told = now

    # -- for the default environment

    def packaged(self, environment: str) -> bool:
        """Whether a package of it is there."""
        return any(manifest.environment == environment for manifest in self._packages.all())

    def own_order(self, kind: str, environment: str, image: str | None) -> Order:
        """An order that nobody has given."""
        return Order(self._mail.new_id(), "", kind, os.getuid(), self._baton.host, environment, image)

    def pull(self, image: str) -> None:
        """Have the image in the engine, on a connection of its own. Raises Cannot."""
        engine = Engine(self.settings.socket, self._mail.cluster_id)
        try:
            engine.have(image, lambda *_: None)
        finally:
            engine.close()


class Default:
    """The default environment: made once if there is none, from `docker.initial_base_image`; tried again and again."""

    def __init__(self, carrying: Carrying) -> None:
        self._carrying = carrying
        self._image = carrying.settings.initial_base_image
        self._environment = carrying.settings.default_container_name
        self._due = time.monotonic() if self._image else float("inf")
        self._pause = DEFAULT_S
        self._pull: Pull | None = None
        self.problem = ""  #: why it is not there yet
        self._saying = Saying(log, f"the default environment {self._environment} waits: ")

    def wait_s(self) -> float:
        """Seconds until there is something to do; while an image is pulled, until the next look at that."""
        due = max(0.0, self._due - time.monotonic())
        return max(due, PULL_LOOK_S) if self._pull and not self._pull.over else due

    def go_on(self) -> None:
        """Do the next step, if one is due."""
        if self.wait_s() > 0:
            return
        try:
            self._step()
        except (Cannot, ShareError, FileNotFoundError) as error:
            self.problem = str(error)
            self._saying.say(self.problem)
            self._pull = None
            self._due = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, DEFAULT_MOST_S)

    def _step(self) -> None:
        if self._carrying.packaged(self._environment):
            self._done()
        elif self._carrying.engine().find(self._environment) is not None:
            self._carry_out("create-tar", None)
            log.info("the default environment %s is made", self._environment)
            self._done()
        elif self._pull is None:
            self.problem = f"{self._image} is looked for"
            self._pull = Pull(self._carrying, self._image)
        else:
            self._pull.check()
            self._carry_out("create-container", self._image)
            self._due = time.monotonic()

    def _carry_out(self, kind: str, image: str | None) -> None:
        self._carrying.carry_out(self._carrying.own_order(kind, self._environment, image), again=True)

    def _done(self) -> None:
        self.problem, self._pull, self._due = "", None, float("inf")


class Pull:
    """Has an image brought into the engine on a thread of its own."""

    def __init__(self, carrying: Carrying, image: str) -> None:
        self._carrying = carrying
        self._image = image
        self._error: Cannot | None = None
        self._thread = threading.Thread(target=self._run, name="pulls", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._carrying.pull(self._image)
        except Cannot as error:
            self._error = error
        except Exception as error:
            log.exception("a fault while an image is pulled")
            self._error = Cannot("image", self._image, f"a fault: {error}", "see the host's log")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raise what has kept it from being done."""
        if self._error is not None:
            raise self._error
