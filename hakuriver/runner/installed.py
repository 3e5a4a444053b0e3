"""Where the programs of this very installation lie."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator

#: One that tasks call, which every installation has.
PROGRAM = "hakurun"


def programs() -> str:
    """The directory that holds PROGRAM, whole; empty: there is none that a PATH could name.

    Links are not followed: the python of a virtual environment is one to a Python elsewhere.
    """
    for directory in _places():
        if os.path.isabs(directory) and ":" not in directory and _executable(f"{directory}/{PROGRAM}"):
            return directory
    return ""


def _places() -> Iterator[str]:
    """Beside the Python that runs this, and where that one installs programs: for all, and for one user."""
    yield os.path.dirname(sys.executable or "")
    yield sysconfig.get_path("scripts")
    if site.ENABLE_USER_SITE:
        yield sysconfig.get_path("scripts", f"{os.name}_user")


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
