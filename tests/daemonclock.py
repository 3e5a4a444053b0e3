"""The clock of daemons in the hands of a test."""

from __future__ import annotations

import threading

import pytest
from conftest import eventually

from hakuriver import daemons


class Clock:
    """One that a test moves, for daemons."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.looks = 1000.0, 0
        monkeypatch.setattr(daemons, "boottime", self)

    def __call__(self) -> float:
        self.looks += threading.current_thread() is not threading.main_thread()
        return self.at

    def looked_at(self) -> None:
        """Wait until the part of the daemon that minds has seen how late it is, and what there is then."""
        known = self.looks
        eventually(lambda: self.looks >= known + 2, every_s=0.001)
