"""What `pip install .` needs of an index, in a directory for machines that reach none; kept for the next time."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from pathlib import Path

from lab.base import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FETCHING_S = 300.0


def wheels(cache: Path, project: Path) -> Path:
    """Wheels of what builds the project and of what it depends on, for this Python. Raises LabError."""
    table = tomllib.loads((project / "pyproject.toml").read_text())
    wanted = sorted([*table["build-system"]["requires"], *table["project"]["dependencies"]])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    recipe = hashlib.sha256(" ".join([python, *wanted]).encode()).hexdigest()[:12]
    made = cache.resolve() / f"wheels-{python}-{recipe}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "wheels.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others wait until it is whole
        if not made.exists():
            new = made.with_name(made.name + ".new")
            shutil.rmtree(new, ignore_errors=True)
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(new)]
            run(*fetch, *wanted, timeout=FETCHING_S)
            new.rename(made)
    return made
