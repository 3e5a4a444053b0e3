"""What shells are told when Tab is pressed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from commandtree import entries, metavar
from riverfiles import RiverFiles, job_row, node_row

from hakuriver.cli import completing, completion, run
from hakuriver.spool import layout

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OLD, RUNNING, FAILED = "16999999990001111234", "17000000000002225678", "17000000000003339999"
#: Names of values that nobody can foresee.
FREE = {
    "C", "CLUSTER", "IMAGE", "INDICES", "K=V", "N", "NAME", "P", "PATTERN", "S", "SEC", "SIZE", "STATE", "TARGET",
    "TIME", "USER", "E", "HOST:INSIDE[:ro]", "[WORDS]...",
}  # fmt: skip


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What ends a completion that takes too long would end the tests."""
    monkeypatch.setattr(completing, "PATIENCE_S", 1000.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture
def river(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    river.recent(
        job_row(FAILED, state="failed", counts={"failed": 1}),
        job_row(RUNNING, state="running", counts={"running": 1}),
        job_row(OLD, state="pending", counts={"pending": 1}),
    )
    river.put(
        layout.ENVIRONMENTS_INDEX,
        json.dumps({"containers": [{"environment": "torch", "state": "running"}],
                    "packages": [{"environment": "base", "name": "base-1792345679"}]}),
    )  # fmt: skip
    return river


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HAKURIVER_COMPLETE", "1")


def told(capsys: pytest.CaptureFixture[str], *words: str, program: str = "hakuriver") -> list[str]:
    """Values, or kinds where a shell knows the values."""
    assert run(list(words), program) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [line.split("\t") for line in captured.out.splitlines()]
    assert all(len(row) == 3 for row in rows)
    return [value if kind == "plain" else f"<{kind}>" for kind, value, _ in rows]


@pytest.mark.parametrize("program", ["hakuriver", "hakuriver.task"])
def test_commands_and_options(capsys: pytest.CaptureFixture[str], program: str) -> None:
    noun = ["task"] if program == "hakuriver" else []
    assert told(capsys, *noun, "wh", program=program) == ["why"]
    assert told(capsys, *noun, "list", "--stat", program=program)[0] == "--state"
    assert told(capsys, *noun, "list", "--state", "pa", program=program) == ["paused"]
    assert told(capsys, *noun, "list", "--state=pa", program=program) == ["paused"]


def test_every_command_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    offered = told(capsys, "")
    assert offered == [each.path.split()[1] for each in entries() if each.path.count(" ") == 1]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("task status ", [RUNNING, OLD, FAILED]),
        ("task why 16", [OLD]),
        ("task kill ", [RUNNING, OLD]),
        ("task requeue ", [FAILED]),
        ("task kill 1699 17", [RUNNING]),
        ("submit --container ", ["NULL", "base"]),
        ("submit --executor s", ["systemd"]),
        ("docker stop-container ", ["torch"]),
        ("docker delete-tar base", ["base", "base-1792345679"]),
        ("submit --from ", ["<file>"]),
        ("--config ", ["<file>"]),
        ("up --shared-dir ", ["<dir>"]),
        ("submit -- ", ["<command>"]),
        ("submit -- sh ", ["<file>"]),
        ("submit py", ["<command>"]),
        ("schema rec", ["receipt"]),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_values(river: RiverFiles, capsys: pytest.CaptureFixture[str], line: str, values: list[str]) -> None:
    assert told(capsys, *line.split(" ")) == values


@pytest.mark.parametrize(
    "line", ["submit --target ", "node drain n", "node show ", "doctor --with n", "task list --node "]
)
def test_nodes(river: RiverFiles, capsys: pytest.CaptureFixture[str], line: str) -> None:
    river.nodes(node_row("n1"), node_row("n2"))
    assert told(capsys, *line.split(" ")) == ["n1", "n2"]


def test_before_the_dashes_of_submit_its_options_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--cores" in told(capsys, "submit", "")


def test_a_configuration_named_on_the_line(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HAKURIVER_SHARED_DIR")
    (scratch / "c.toml").write_text(f'[paths]\nshared_dir = "{river.root}"\n')
    assert told(capsys, "--config", str(scratch / "c.toml"), "task", "kill", "") == [RUNNING, OLD]
    assert told(capsys, "task", "kill", "--config", str(scratch / "c.toml"), "") == [RUNNING, OLD]


@pytest.mark.parametrize(
    "line", ["task status ", "submit --target ", "docker delete-tar ", "nonsense ", "task nonsense ", ""]
)
@pytest.mark.parametrize("share", ["", "/nonexistent"])
def test_without_a_share_nothing_is_said(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], share: str, line: str
) -> None:
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", share)
    assert told(capsys, *line.split(" ")) == [] or line == ""


def test_broken_indexes_offer_nothing(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("recent", "nodes", "environments"):
        river.put(f"index/{name}.json", "[{")
    assert told(capsys, "node", "show", "") == []
    assert told(capsys, "docker", "stop-container", "") == []


def test_names_from_the_share_cannot_break_a_line(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    river.recent(job_row(RUNNING, state="running", name="a\tb\n\x1b[2J", counts={"running": 1}))
    assert told(capsys, "task", "kill", "") == [RUNNING]


def test_a_share_that_hangs_is_not_waited_for(river: RiverFiles) -> None:
    """The kernel ends it, whatever it is doing."""
    hangs = "import time; from hakuriver.cli import completing, main; completing.PATIENCE_S = 0.1"
    hangs += "; completing.completions = lambda *_: time.sleep(60); main()"
    ran = subprocess.run([sys.executable, "-c", hangs, "node", "show", ""], capture_output=True, timeout=50)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGALRM, b"", b"")


def test_every_value_is_known_here(capsys: pytest.CaptureFixture[str]) -> None:
    """A new name for a value is either completed or among those that cannot be."""
    named = {metavar(p): f"{each.path} {p.opts[0]}" for each in entries() for p in each.command.params if has_value(p)}
    unknown = {value: place for value, place in named.items() if value not in completing.BY_METAVAR.keys() | FREE}
    assert unknown == {}


def has_value(parameter: click.Parameter) -> bool:
    return not (isinstance(parameter, click.Option) and parameter.is_flag) and not isinstance(
        parameter.type, click.Choice
    )


def test_the_programs_are_those_that_are_installed() -> None:
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert sorted(completion.PROGRAMS) == sorted(scripts)
