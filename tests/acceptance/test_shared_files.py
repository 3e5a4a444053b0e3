"""What an installation puts into share/ beside its bin/: man pages, and files for completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hakuriver.cli.completion import PROGRAMS

PREFIX = Path(sys.executable).parents[1]


@pytest.mark.parametrize("page", ["hakuriver", "hakuriver-task", "hakuriver.task", "hakurun", "hakuriver-config.toml"])
def test_man_finds_our_pages_by_path_alone(page: str) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed (Debian: apt-get install man-db)")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAN")}
    environment = {**kept, "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(["man", "--warnings", page], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "hakuriver" in ran.stdout or "hakurun" in ran.stdout
    assert "SEE ALSO" in ran.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_files_for_completion_name_every_program(program: str) -> None:
    bash = PREFIX / "share/bash-completion/completions" / program
    ran = subprocess.run(["bash", "--norc", "-c", f". {bash}; complete -p {program}"], capture_output=True, text=True)
    assert "-F _hakuriver_complete" in ran.stdout, ran.stderr
    assert (PREFIX / "share/fish/vendor_completions.d" / f"{program}.fish").is_file()
    assert program in (PREFIX / "share/zsh/site-functions/_hakuriver").read_text().splitlines()[0].split()
