"""One `hakuriver submit` as a process."""

from __future__ import annotations

from figures import Figure, against_floor
from floors import process, python_pass
from river import HAKURIVER, river

PAIRS = 15  #: a round's


def submit(rounds: int) -> list[Figure]:
    """`hakuriver submit --no-receipt`, taking turns with `python -c pass`; a host runs and has no nodes."""
    line = [HAKURIVER, "submit", "--no-receipt", "--", "true"]
    values, floors = [], []
    with river() as it:
        for _ in range(rounds * PAIRS):
            floors.append(python_pass() * 1e3)
            values.append(process(line, it.environment) * 1e3)
    return [against_floor("submit --no-receipt, as a process", "ms", values, "python -c pass", floors, 4.5)]
