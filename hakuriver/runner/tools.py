"""Asking programs and the kernel's files: cheap, and never for long."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

#: Seconds that a program may take to answer.
ANSWER_S = 4.0


class Answer(NamedTuple):
    """What a program said."""

    ok: bool  #: it exited with 0
    text: str  #: its output; of one that failed the last line of what it complained


def answer(command: list[str], seconds: float = ANSWER_S) -> Answer:
    """Run a program that tells something; what cannot be run has failed."""
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                             timeout=seconds, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(False, f"no answer within {seconds:.0f} s")
    except OSError as error:
        return Answer(False, error.strerror or str(error))
    if ran.returncode == 0:
        return Answer(True, ran.stdout)
    said = (ran.stderr or ran.stdout).strip().splitlines()
    return Answer(False, said[-1][:200] if said else f"exit status {ran.returncode}")


def read_text(path: str) -> str | None:
    """A small file of the kernel's; None if it is not there."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None
