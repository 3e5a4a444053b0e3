"""The demo of the README, run against what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "contrib" / "demo" / "demo.py"


@pytest.fixture(scope="module")
def shown() -> str:
    """What the demo printed."""
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_is_shown_with_what_it_printed(shown: str) -> None:
    commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
    assert sum(c.startswith("hakuriver submit") for c in commands) == 5
    assert any(re.match(r"cp \S+/job\.json \S+/incoming/$", c) for c in commands)
    assert "hello from the river" in shown
    assert "39601" in shown


def test_endings_are_told(shown: str) -> None:
    assert [int(code) for code in re.findall(r"^\(exit code (\d+)\)$", shown, re.MULTILINE)] == [3, 143, 137]
    states = dict(
        re.findall(
            r"\b(hello|by-hand|squares|failing|too-long|hungry)\b.*?\b(completed|failed|killed\w*)",
            shown[shown.index("$ hakuriver task list") :],
        )
    )
    assert states == {
        "hello": "completed", "by-hand": "completed", "squares": "completed", "failing": "failed",
        "too-long": "killed", "hungry": "killed_oom",
    }  # fmt: skip


def test_pages_stay_to_be_looked_at(shown: str) -> None:
    path = re.search(r"^The status pages: (.*)$", shown, re.MULTILINE)
    assert path is not None
    page = Path(path[1])
    assert "too-long" in "".join(p.read_text() for p in page.parent.rglob("*.html"))
    assert not (page.parents[2] / "state").exists()
