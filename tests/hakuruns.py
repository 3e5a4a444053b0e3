"""hakurun as a process of its own, from these sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAIN = "import sys; sys.argv[0] = 'hakurun'; from hakuriver.cli import main; main()"
COMMAND = [sys.executable, "-c", MAIN]


def environment(**more: str) -> dict[str, str]:
    """Where these sources are found from any directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def hakurun(*arguments: str, cwd: Path | None = None, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end. `more`: environment variables."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**more), input=text, capture_output=True, text=True, timeout=60
    )


def processes(word: str) -> list[int]:
    """Those that have this word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass  # it is over
    return found
