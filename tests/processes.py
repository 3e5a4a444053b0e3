"""Finding processes by what /proc tells of them. Imports next to nothing: it also runs on the machines of a lab."""

from __future__ import annotations

import os
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def halted(pid: int) -> bool:
    """Whether all threads of a process are stopped: they run on until the one that took the signal has its turn."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False  # one has just ended: look again
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def processes(*words: str) -> list[int]:
    """Living processes whose command line holds all these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if command and all(word in command for word in words) and alive(int(entry.name)):
                found.append(int(entry.name))
    return found
