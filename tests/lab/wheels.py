"""What `pip install` of HakuRiver needs of an index, in a directory for machines that reach none."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from lab.base import run

FETCHING_S = 300.0


def wheels_of_hakuriver(cache: Path, python: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> Path:
    """pip itself, what builds HakuRiver, and what that needs, for a version of Python, as 3.11.

    `cache` keeps them for the next time. Raises LabError.
    """
    needed = [row for row in importlib.metadata.requires("hakuriver") or () if "extra ==" not in row]
    wanted = ["pip", "hatchling", *sorted(needed)]
    made = cache.resolve() / f"wheels-{python}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "wheels.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others wait until it is whole
        if not made.exists():
            new = made.with_name(f"{made.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            options = ("--quiet", "--only-binary=:all:", "--python-version", python, "--dest", str(new))
            run(sys.executable, "-m", "pip", "download", *options, *wanted, timeout=FETCHING_S)
            os.rename(new, made)
    return made
