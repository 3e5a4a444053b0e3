"""Orders about environments, between the ticks and the thread that carries them out: the ticks never wait for Docker.

The leading host gives its orders here once they are committed, and gets a receipt for each when it is done or cannot
be; what is done with them stands in `carrying.py`. The next order is begun when the one before is answered.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from hakuriver.host.carrying import Carrying, Deposed
from hakuriver.host.requests import Order
from hakuriver.settings import Settings
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import Baton

log = logging.getLogger("hakuriver.host")

#: Seconds after a fault before all is begun anew.
FAULT_S = 5.0


class Environments:
    """The mailbox, with the thread behind it."""

    def __init__(
        self, disk: Disk, settings: Settings, cluster_id: str, *, now: Callable[[], float], new_id: Callable[[], str],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        self.disk = disk
        self.settings = settings.docker
        self.cluster_id = cluster_id
        self.now = now
        self.new_id = new_id
        self.tell = tell  #: gets what index/environments.json holds, when more than progress has changed
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  #: can be read when there is a receipt
        self.online: frozenset[str] = frozenset()  #: names of nodes
        self._news = threading.Condition()
        self._baton: Baton | None = None  #: of this host's lead: orders and receipts belong to it
        self._known: set[str] = set()
        self.begun: frozenset[str] = frozenset()  #: orders of before this lead: some of each may be done already
        self._orders: list[Order] = []  #: not answered; the first is the one that is being carried out
        self._receipts: list[dict[str, Any]] = []
        self._thread: threading.Thread | None = None

    # -- for the ticks

    def lead(self, baton: Baton, orders: list[Order]) -> None:
        """See leader.Engine."""
        with self._news:
            self._baton = baton
            self._orders, self._receipts = list(orders), []
            self._known = {order.request for order in orders}
            self.begun = frozenset(self._known)
            self._news.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="environments", daemon=True)
            self._thread.start()

    def stand_by(self) -> None:
        """This host leads no longer: whatever is going on is given up at its next step."""
        with self._news:
            self._baton = None
            self._news.notify()

    def take(self, orders: Iterable[Order], online: frozenset[str]) -> None:
        """See leader.Engine."""
        new = [order for order in orders if order.request not in self._known]
        with self._news:
            self.online = online
            self._known.update(order.request for order in new)
            self._orders += new
            if new:
                self._news.notify()

    def answered(self) -> list[dict[str, Any]]:
        """See leader.Engine."""
        with self._news:
            found, self._receipts = self._receipts, []
        return found

    def hush(self) -> None:
        """The bell has been heard."""
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            pass  # it had not been rung

    # -- for the thread

    def next(self, baton: Baton, wait_s: float) -> Order | None:
        """The order to carry out, waited for; None: there is none. Raises Deposed."""
        with self._news:
            self._news.wait_for(lambda: self._orders or self._baton is not baton, wait_s)
            self.check(baton)
            return self._orders[0] if self._orders else None

    def check(self, baton: Baton) -> None:
        """Raise Deposed unless this host leads still, as far as its ticks know."""
        if self._baton is not baton:
            raise Deposed

    def pause(self, baton: Baton, seconds: float) -> None:
        """Wait, unless the lead is over. Raises Deposed."""
        with self._news:
            self._news.wait_for(lambda: self._baton is not baton, seconds)
            self.check(baton)

    def depose(self, baton: Baton) -> NoReturn:
        """Another host was seen to lead. Raises Deposed; the ticks find out by themselves."""
        with self._news:
            if self._baton is baton:
                self._baton = None
        raise Deposed

    def answer(self, baton: Baton, order: Order, receipt: dict[str, Any]) -> None:
        """An order is done, or cannot be."""
        with self._news:
            self.check(baton)
            self._orders.remove(order)
            self._receipts.append(receipt)
        os.eventfd_write(self.bell, 1)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._baton is not None)
                baton = self._baton
            assert baton is not None
            try:
                Carrying(self, baton).work()
            except Deposed:
                log.info("environments are looked after by another host now")
            except Exception:
                log.exception("a fault in what looks after environments; it begins anew")
                time.sleep(FAULT_S)
