"""Completion as it is met in real shells: bash without bash-completion, zsh, fish."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually
from riverfiles import RiverFiles, job_row, node_row

BIN = Path(sys.executable).parent
JOB = "17000000000002225678"
PATIENCE_S = 30.0

Environment = dict[str, str]


@pytest.fixture
def environment(scratch: Path) -> Environment:
    river = RiverFiles(scratch / "river")
    river.nodes(node_row("n1"), node_row("n2"))
    river.recent(job_row(JOB, state="running", counts={"running": 1}))
    (scratch / "jobs.jsonl").touch()
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    own = {"HOME": str(scratch), "PATH": path, "HAKURIVER_SHARED_DIR": str(river.root), "TERM": "dumb", "PS1": "> "}
    return {**os.environ, **own}


def needs(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed (Debian: apt-get install {shell})")


def bash(environment: Environment, words: str) -> list[str]:
    """COMPREPLY for words as bash itself would have split them."""
    call = f"COMP_WORDBREAKS=' =:'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    reply = '_hakuriver_complete; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f'set -u; eval "$(hakuriver completion bash)"; {call}; {reply}'
    ran = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True)
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hakuriver task wh", ["why"]),
        ("hakuriver.task wh", ["why"]),
        ("hakuriver.task kill ''", [JOB]),
        ("hakuriver submit --target n", ["n1", "n2"]),
        ("hakuriver submit --target = n", ["n1", "n2"]),
        ("hakuriver submit --target = ", ["n1", "n2"]),
        ("hakuriver task list --state = kil", ["killed", "killed_oom"]),
        ("hakuriver submit -- bash", []),
        ("hakuriver node show n1 : 0", []),
    ],
)
def test_bash(environment: Environment, words: str, offered: list[str]) -> None:
    def as_offered() -> bool:
        found = bash(environment, words)
        return found == offered or ("-- bash" in words and "bash" in found)

    eventually(as_offered, PATIENCE_S)  # after two seconds completion gives up, and whoever sits there tries again


def test_bash_says_nothing_without_a_share(environment: Environment) -> None:
    del environment["HAKURIVER_SHARED_DIR"]
    assert bash(environment, "hakuriver node show ''") == []


def test_bash_at_a_keyboard(environment: Environment) -> None:
    said = typed(["bash", "--norc", "--noprofile", "-i"], environment, 'eval "$(hakuriver completion bash)"',
                 "hakuriver submit --from jo\t\x01echo \n")  # fmt: skip
    assert "\nhakuriver submit --from jobs.jsonl" in said.replace("\r", "")
    said = typed(["bash", "--norc", "--noprofile", "-i"], environment, 'eval "$(hakuriver completion bash)"',
                 "hakuriver.task wh\t\x01echo \n")  # fmt: skip
    assert "\nhakuriver.task why" in said.replace("\r", "")


def test_fish(environment: Environment) -> None:
    needs("fish")

    def offered(line: str) -> list[str]:
        script = f"hakuriver completion fish | source; complete -C '{line}'"
        ran = subprocess.run(["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True)
        assert ran.stderr == ""
        return [row.split("\t")[0] for row in ran.stdout.splitlines()]

    def offers(line: str, found: list[str]) -> None:
        eventually(lambda: offered(line) == found, PATIENCE_S, line)

    offers("hakuriver task wh", ["why"])
    offers("hakuriver.task kill ", [JOB])
    offers("hakuriver submit --target ", ["n1", "n2"])
    offers("hakuriver submit --target=", ["--target=n1", "--target=n2"])
    offers("hakurun --hel", ["--help"])
    eventually(lambda: "jobs.jsonl" in offered(f"hakuriver submit --from {environment['HOME']}/jo")[0], PATIENCE_S)


def test_zsh(environment: Environment) -> None:
    needs("zsh")
    begin = "PROMPT='> '; autoload -U compinit; compinit -D -u; source <(hakuriver completion zsh)"
    for line, becomes in (
        ("hakuriver task wh\t", "\nhakuriver task why"),
        ("hakuriver.task kill 17\t", f"\nhakuriver.task kill {JOB}"),
        ("hakuriver submit --from jo\t", "\nhakuriver submit --from jobs.jsonl"),
        ("hakuriver task list --state=pau\t", "\nhakuriver task list --state=paused"),
    ):
        said = typed(["zsh", "-f", "-i"], environment, begin, f"{line}\x01echo \n")
        assert becomes in said.replace("\r", ""), line


def typed(shell: list[str], environment: Environment, first: str, keys: str) -> str:
    """What a shell on a terminal shows when a line has been read, and then these keys are pressed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(environment["HOME"])
        os.execvpe(shell[0], shell, environment)
    try:
        os.write(terminal, f"{first}; echo be''gun\n".encode())
        said = until(terminal, "begun", "")
        os.write(terminal, keys.encode())
        os.write(terminal, b"echo do''ne\n")
        return until(terminal, "done", said)
    finally:
        os.close(terminal)  # the shell is hung up on
        os.waitpid(pid, 0)


def until(terminal: int, word: str, said: str) -> str:
    end = time.monotonic() + PATIENCE_S
    while f"\n{word}" not in said.replace("\r", ""):
        assert time.monotonic() < end, said
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 65536).decode(errors="replace")
    return said
