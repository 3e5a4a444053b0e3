"""Measure every speed that HakuRiver promises, beside its floor; print a table and write JSON. Run by `make bench`.

BENCH_ROUNDS=N: alternating rounds (default 3); BENCH_ONLY=submit,tick: only these measures.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from accepting import array, intake
from containing import contain
from figures import Figure, table
from idling import idle
from reading import read
from starting import start
from submitting import submit
from ticking import tick
from working import work

MEASURES: dict[str, Callable[[int], list[Figure]]] = {
    "submit": submit, "start": start, "intake": intake, "array": array, "work": work, "tick": tick, "read": read,
    "idle": idle, "contain": contain,
}  # fmt: skip


def chosen() -> list[str]:
    """The measures asked for. Raises SystemExit for one that does not exist."""
    names = [name for name in os.environ.get("BENCH_ONLY", "").split(",") if name] or list(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise SystemExit(f"BENCH_ONLY: no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return names


def main(arguments: list[str]) -> int:
    """Measure; exit with 1 if a figure misses what it must reach, or could not be measured."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped then, too
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    figures: list[Figure] = []
    broken = []
    begun = time.time()
    for name in chosen():
        since = time.time()
        try:
            figures += MEASURES[name](rounds)
        except Exception as error:  # the others are still worth having
            broken.append(name)
            print(f"{name}: could not be measured: {type(error).__name__}: {error}", file=sys.stderr)
        print(f"{name}: {time.time() - since:.0f} s", file=sys.stderr)
    print(table(figures))
    if arguments[:1] == ["--json"]:
        write(Path(arguments[1]), figures, rounds, begun)
    return int(bool(broken) or any(figure.passed is False for figure in figures))


def write(path: Path, figures: list[Figure], rounds: int, begun: float) -> None:
    """The same for programs, with every sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "at": begun, "took_s": time.time() - begun, "rounds": rounds, "python": platform.python_version(),
        "machine": platform.platform(), "cores": len(os.sched_getaffinity(0)),
        "figures": [figure.document() for figure in figures],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
