"""Examinations that hang, as tests of the doctor want them."""

from __future__ import annotations

import threading

import pytest

from hakuriver.doctor.examining import Examination


def given_up_when(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Once this is set nobody waits for an examination any more, as after `MOST_S`, however slow the machine is."""
    hangs, real = threading.Event(), Examination.run

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return not hangs.wait(60) and super().wait(0)

    def run(made: Examination) -> None:
        made._over = Over()
        real(made)

    monkeypatch.setattr(Examination, "run", run)
    return hangs
