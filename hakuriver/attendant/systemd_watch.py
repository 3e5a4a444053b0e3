"""Notices the end of units, whoever waits for them."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from hakuriver.attendant import systemd_units as units
from hakuriver.attendant.engine import Away
from hakuriver.attendant.systemd_units import Unit

if TYPE_CHECKING:
    from hakuriver.attendant.systemd import Systemd

PATTERN = "hakuriver-task-*.service"
LOOK_S = 0.1  #: between two looks for results
ASK_S = 5.0  #: between two questions to systemd, whether units are there still


class Watch:
    """One thread looks for all results, as long as anybody waits."""

    def __init__(self, engine: Systemd) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._waiting: set[str] = set()  #: names of units
        self._gone: dict[str, dict[str, str]] = {}  #: what systemd said of units that ended without a result
        self._runs = False

    def wait(self, unit: Unit) -> dict[str, str]:
        """Wait for a unit's end; what systemd remembers of it if there is no result."""
        with self._changed:
            self._waiting.add(unit.name)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._look_on, daemon=True).start()
            self._changed.wait_for(lambda: unit.name in self._gone or os.path.exists(unit.result))
            self._waiting.discard(unit.name)
            return self._gone.pop(unit.name, {})

    def over(self, unit: Unit) -> bool:
        """Whether it has ended, or is not there; not as far as anybody knows, if systemd does not answer."""
        try:
            show = self._engine.shows(unit.name).get(unit.name, {})
        except Away:
            return False
        return show.get("ActiveState") not in units.ALIVE

    def _look_on(self) -> None:
        asked = time.monotonic()
        while self._goes_on():
            time.sleep(LOOK_S)
            if time.monotonic() - asked >= ASK_S:
                self._ask()
                asked = time.monotonic()

    def _goes_on(self) -> bool:
        """Wake those whose unit has ended; whether anybody waits."""
        ended = {f"{name}.service" for name in os.listdir(f"{self._engine.directory}/ended")}
        with self._changed:
            if ended & self._waiting or self._gone:
                self._changed.notify_all()
            self._runs = bool(self._waiting)
            return self._runs

    def _ask(self) -> None:
        """Find units that ended without a result. Results are written before units are gone: look in that order."""
        with self._changed:
            waiting = set(self._waiting)
        try:
            shows = self._engine.shows(PATTERN)
        except Away:
            return  # systemd is being exchanged, or worse; results come all the same
        ended = {f"{name}.service" for name in os.listdir(f"{self._engine.directory}/ended")}
        with self._changed:
            for name in waiting - ended:
                if shows.get(name, {}).get("ActiveState") not in units.ALIVE:
                    self._gone[name] = shows.get(name, {})
