"""Where a runner finds its own programs, and what of that tasks get: nothing that hides the system's."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from hakuriver.runner import installed
from hakuriver.runner.executors.process import PATH, search_path

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def machine(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A Python at the one path, and hakurun at the other; where nothing else is installed."""

    def made(python: str, program: str) -> Path:
        monkeypatch.setattr(sys, "executable", str(scratch / python))
        schemes = {"": "usr/local/bin", "posix_user": "home/.local/bin"}
        monkeypatch.setattr(sysconfig, "get_path", lambda _kind, scheme="": str(scratch / schemes[scheme]))
        (scratch / program).parent.mkdir(parents=True)
        (scratch / program).write_text("#!/bin/sh\n")
        (scratch / program).chmod(0o755)
        return scratch

    return made


@pytest.mark.parametrize(
    ("python", "program"),
    [
        ("venv/bin/python", "venv/bin/hakurun"),
        ("usr/bin/python3", "usr/local/bin/hakurun"),  # installed by pip for all
        ("usr/bin/python3", "home/.local/bin/hakurun"),  # and for one user
    ],
)
def test_where_programs_are_installed(machine: Callable[[str, str], Path], python: str, program: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("site.ENABLE_USER_SITE", True)
    root = machine(python, program)
    assert installed.programs() == str((root / program).parent)


def test_programs_of_a_user_whom_this_python_leaves_out(
    machine: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    machine("venv/bin/python", "home/.local/bin/hakurun")
    assert installed.programs() == ""


@pytest.mark.parametrize("program", ["elsewhere/hakurun", "venv/bin/hakuriver", "venv/bin/hakurun/directory"])
def test_sources_that_are_not_installed(machine: Callable[[str, str], Path], program: str) -> None:
    machine("venv/bin/python", program)
    assert installed.programs() == ""


def test_a_program_that_may_not_be_run(machine: Callable[[str, str], Path]) -> None:
    root = machine("venv/bin/python", "venv/bin/hakurun")
    (root / "venv/bin/hakurun").chmod(0o644)
    assert installed.programs() == ""


def test_a_directory_that_no_path_can_name(machine: Callable[[str, str], Path]) -> None:
    machine("a:b/bin/python", "a:b/bin/hakurun")
    assert installed.programs() == ""


def test_a_python_that_does_not_know_where_it_lies(
    machine: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine("", "venv/bin/hakurun")
    monkeypatch.chdir(root / "venv/bin")
    monkeypatch.setattr(sys, "executable", "")
    assert installed.programs() == ""


def test_the_python_of_a_virtual_environment_is_a_link_to_another(scratch: Path) -> None:
    venv.create(scratch / "env", symlinks=True)
    (scratch / "env/bin/hakurun").write_text("#!/bin/sh\n")
    (scratch / "env/bin/hakurun").chmod(0o755)
    assert (scratch / "env/bin/python").is_symlink()
    told = "from hakuriver.runner import installed; print(installed.programs())"
    ran = subprocess.run(
        [scratch / "env/bin/python", "-c", told], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert ran.stdout == f"{scratch}/env/bin\n"


@pytest.mark.parametrize("programs", ["", "/usr/local/bin", "/usr/bin", "/bin"])
def test_what_tasks_find_anyway_is_named_once(programs: str) -> None:
    assert search_path(programs) == PATH


def test_programs_elsewhere_come_last() -> None:
    assert search_path("/opt/hakuriver/bin") == f"{PATH}:/opt/hakuriver/bin"
