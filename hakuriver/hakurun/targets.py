"""What is to be run: `module:function`, a program, or a module; looked for in this order.

Programs come before modules, because `hakuriver.client` and many others look like both.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hakuriver.errors import HakuRiverError
from hakuriver.hakurun.spans import literal

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
#: Exits with 3 if no module is there, as `python -m` looks for it; no more is imported than the packages it lies in.
_PROBE = """
import importlib.util, sys
name = sys.argv[1]
try:
    found = importlib.util.find_spec(name.partition(".")[0])
    if found and "." in name:
        found = found.submodule_search_locations is not None and importlib.util.find_spec(name)
except (ImportError, ValueError):
    found = None
sys.exit(0 if found else 3)
"""
_NO_MODULE = 3


class NotFound(HakuRiverError):
    """{target} is neither a program nor a module."""


class Run(NamedTuple):
    """One combination: what is executed, and how it is shown to people."""

    argv: list[str]
    shown: str


class Target(NamedTuple):
    """What runs."""

    kind: Literal["function", "program", "module"]
    name: str

    def run(self, values: Sequence[int | str]) -> Run:
        """Run it with these arguments."""
        if self.kind == "function":
            argv = [sys.executable, os.path.join(os.path.dirname(__file__), "call.py"), self.name, json.dumps(values)]
            return Run(argv, f"{self.name}({', '.join(map(repr, values))})")
        argv = [*self._before(sys.executable), *map(str, values)]
        return Run(argv, shlex.join(argv))

    def line(self, values: Sequence[int | str]) -> str:
        """The same, for a shell."""
        if self.kind == "function":
            return shlex.join([*self.portable(), *map(literal, values)])
        return self.run(values).shown

    def portable(self) -> list[str]:
        """What the command begins with on another machine."""
        return ["hakurun", self.name] if self.kind == "function" else self._before("python3")

    def _before(self, python: str) -> list[str]:
        return [python, "-m", self.name] if self.kind == "module" else [self.name]


def resolve(name: str) -> Target:
    """Find out what a name is. Raises NotFound, which says what was tried."""
    if _FUNCTION.fullmatch(name):
        return Target("function", name)
    if shutil.which(name):
        return Target("program", name)
    if os.sep in name or os.path.isfile(name):
        raise NotFound(_no_program(name))
    if _MODULE.fullmatch(name) and _is_module(name):
        return Target("module", name)
    raise NotFound(
        f"{name!r} is no module:function, no program on PATH, and no module that {sys.executable} can import here: "
        "correct the name, or write a path, as ./run.sh"
    )


def _no_program(name: str) -> str:
    if not os.path.exists(name):
        return f"{name!r}: there is no such file: correct the path; it begins at the working directory, {os.getcwd()}"
    path = name if os.sep in name else f"./{name}"
    if os.access(name, os.X_OK) and not os.path.isdir(name):
        return f"{name!r} is a file here and not on PATH: write {path}"
    return f"{name!r} cannot be executed: write its interpreter before it, as python {path}, or chmod +x it"


def _is_module(name: str) -> bool:
    nothing = subprocess.DEVNULL  # a package that fails to import says so when it is run
    probe = [sys.executable, "-c", _PROBE, name]
    return subprocess.run(probe, stdin=nothing, stdout=nothing, stderr=nothing, check=False).returncode != _NO_MODULE
