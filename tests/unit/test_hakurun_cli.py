"""hakurun: its command line, what it prints without running anything, and what is submitted."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hakuruns import hakurun
from riverfiles import RiverFiles
from test_cli_frame import loaded_by

from hakuriver.cli import run
from hakuriver.cli.hakurun import _Telling
from hakuriver.hakurun.running import Tally
from hakuriver.hakurun.targets import Run

# -- usage


@pytest.mark.parametrize("arguments", [[], ["--"], ["--parallel"], ["--submit"], ["--submit", "--cores", "2", "--"]])
def test_without_a_target_it_shows_its_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments, "hakurun") == 2
    err = capsys.readouterr().err
    assert err.startswith("Usage: hakurun ")
    assert "\n   or: hakuriver hakurun " in err
    assert "TARGET is missing" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--paralel", "echo"], "--paralel"),
        (["-j", "0", "echo"], "0"),
        (["-j"], "-j"),
        (["echo", "span:{1..x}"], "argument 'span:{1..x}': it is no range"),
        (["--dry-run", "echo", "span:[]"], "argument span:[]: the list is empty"),
        (["--submit", "--", "echo", "span:[]"], "argument span:[]: the list is empty"),
        (["span:{1..1001}", "x"], "TARGET may have 1,000"),
        (["--submit", "--coers", "2", "--", "echo"], "--coers"),
        (["--submit", "-j", "2", "--", "echo"], "-j is hakurun's own: write it before --submit"),
        (["--submit", "--wait", "--dry-run", "echo"], "--dry-run is hakurun's own: write it before --submit"),
        (["--submit", "--array", "0-3", "--", "echo"], "--array does not go with hakurun"),
        (["--submit", "--from", "x", "--", "echo"], "--from does not go with hakurun"),
        (["--submit", "--", "echo", "span:{1..1000001}"], "a job may have 1,000,000 tasks"),
        (["--submit", "--target", "n1", "--target", "n2", "--", "echo", "span:{1..600000}"], "1,000,000 are the most"),
    ],
)
def test_wrong_usage(river: RiverFiles, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments, "hakurun") == 2
    assert says in capsys.readouterr().err
    assert river.dropped() == []


def test_help_of_submit_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--submit", "--help"], "hakurun") == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: hakurun --submit [OPTIONS] -- COMMAND [ARGS]...\n   or: hakuriver hakurun --submit")
    assert "--cores" in out


def test_no_target_is_127_and_names_the_three_that_were_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["no-such-thing"], "hakurun") == 127
    err = capsys.readouterr().err
    assert all(tried in err for tried in ("module:function", "program on PATH", "no module"))


def test_all_after_the_target_is_its_own() -> None:
    assert (
        hakurun("echo", "--parallel", "-j", "--submit", "--", "--help").stdout == "--parallel -j --submit -- --help\n"
    )
    assert hakurun("--", "echo", "--", "x").stdout == "-- x\n"


# -- what would be run


def printed(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> list[str]:
    assert run(["--dry-run", *arguments], "hakurun") == 0
    return capsysbinary.readouterr().out.decode(errors="surrogateescape").splitlines()


def test_a_dry_run_prints_what_a_shell_can_run(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = printed(capsysbinary, "echo", "span:{1..2}", "a 'b'", "--x=span:[$HOME,é\udcff]")
    assert [shlex.split(line) for line in lines] == [
        ["echo", number, "a 'b'", f"--x={x}"] for number in "12" for x in ("$HOME", "é\udcff")
    ]
    assert [shlex.split(line)[1:] for line in printed(capsysbinary, "json.tool", "span:{1..2}")] == [
        ["-m", "json.tool", "1"], ["-m", "json.tool", "2"],
    ]  # fmt: skip


def test_a_dry_run_of_a_function_prints_calls_that_keep_types(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = printed(capsysbinary, "m:f", "span:{1..2}", "span:x", "span:[span:x]", "3")
    assert lines == [f"hakurun m:f 'span:{{{n}..{n}}}' x 'span:[\"span:x\"]' 3" for n in (1, 2)]


def test_lines_for_a_shell_run() -> None:
    """The documented `hakurun echo "... submit ..." | bash`: nothing but commands on stdout."""
    ran = hakurun("echo", "echo got", "span:{1..3}")
    assert subprocess.run(["bash"], input=ran.stdout, capture_output=True, text=True).stdout == "got 1\ngot 2\ngot 3\n"


def test_a_brace_that_the_shell_has_expanded_is_warned_of() -> None:
    ran = hakurun("echo", "span:1", "span:2", "span:3", "span:4", "x", "span:a", "span:b")
    assert (ran.returncode, ran.stdout) == (0, "1 2 3 4 x a b\n")
    assert ran.stderr.splitlines() == [
        "hakurun: warning: the shell has expanded a span: span:1 ... span:4 are 4 arguments of each run; "
        "quote it, as 'span:{1..4}'",
        "hakurun: warning: the shell has expanded a span: span:a span:b are 2 arguments of each run; "
        "quote it, as 'span:{a..b}'",
    ]


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert "\x1b" not in hakurun("true", "span:[\x1b[2J,\n]").stderr


# -- how it goes


class Terminal:
    def __init__(self, person: bool) -> None:
        self.text = ""
        self._person = person

    def isatty(self) -> bool:
        return self._person

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    ("out", "err", "lines", "bar"),
    [(False, True, False, True), (True, True, True, False), (False, False, True, False), (True, False, True, False)],
)
def test_a_bar_is_drawn_where_no_output_of_runs_comes_between(
    out: bool, err: bool, lines: bool, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout, stderr = Terminal(out), Terminal(err)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    telling, tally = _Telling(4, 2), Tally()
    telling.begin()
    telling.started(1, Run(["x"], "x"))
    tally.count(1, 3)
    telling.waiting(1, tally)
    telling.ended(1, Run(["x"], "x"), 3)
    assert ("Task 1/4: x" in stderr.text) == lines
    assert ("\r\x1b[K[#######.......................]  1/4  1 running, 1 failed  " in stderr.text) == bar
    assert "Task 1/4 exited with 3: x" in stderr.text
    assert stderr.text.startswith("hakurun: 4 runs, 2 at a time\n")


# -- as tasks of a job


def submitted(river: RiverFiles) -> dict[str, object]:
    (name,) = river.dropped()
    found: dict[str, object] = json.loads((river.root / "incoming" / name).read_text())
    return found


def test_a_job_with_the_options_of_submit(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-j", "3", "--submit", "--cores", "2", "--name", "s", "--no-receipt", "--json"]
    assert run([*arguments, "--", "sort", "span:{1..5}", "--", "x"], "hakurun") == 0
    job = submitted(river)
    assert job["array"] == "0-4%3"
    assert (job["cores"], job["name"]) == (2, "s")
    assert job["command"] == [
        "sh", "-c", 'exec sort "$((1 + HAKURIVER_TASK_INDEX / 1 % 5 * (1)))" -- x\n',
    ]  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert told["count"] == 5


def test_the_separator_may_be_left_out(river: RiverFiles) -> None:
    assert run(["--submit", "--no-receipt", "sort", "-n", "span:{1..5}"], "hakurun") == 0
    assert "exec sort -n " in str(submitted(river)["command"])


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["json.tool", "x"], ["python3", "-m", "json.tool", "x"]),
        (["m:f", "x", "span:{2..2}"], ["hakurun", "m:f", "x", "span:{2..2}"]),
        (["only-on-nodes", "x"], ["only-on-nodes", "x"]),
    ],
)
def test_what_a_task_runs(river: RiverFiles, words: list[str], command: list[str]) -> None:
    assert run(["hakurun", "--submit", "--no-receipt", "--", *words]) == 0
    assert submitted(river) == {"command": command}


def test_a_program_that_is_not_here_is_noted(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--submit", "--no-receipt", "--", "only-on-nodes", "span:1", "span:2"], "hakurun") == 0
    err = capsys.readouterr().err
    assert "only-on-nodes is not found here; the tasks run it as a program of their nodes" in err
    assert "quote it, as 'span:{1..2}'" in err


def test_programs_that_are_a_span(river: RiverFiles) -> None:
    assert run(["--submit", "--no-receipt", "--", "span:[sort,uniq]", "x"], "hakurun") == 0
    assert submitted(river)["array"] == "0-1"
    assert 'exec "$_hakurun_0" x' in str(submitted(river)["command"])


def test_a_dry_run_of_a_job_prints_the_submission(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dry-run", "--submit", "-c", "2", "--wait", "--", "sort", "span:[a b,c]"], "hakurun") == 0
    line = capsys.readouterr().out
    assert river.dropped() == []
    words = shlex.split(line)
    assert words[:9] == ["hakuriver", "submit", "-c", "2", "--wait", "--array", "0-1", "--", "sh"]
    assert "_hakurun_0='a b';;" in words[-1]


def test_the_configuration_may_stand_before_and_after(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAKURIVER_SHARED_DIR")
    path = scratch / "c.toml"
    path.write_text(f'[paths]\nshared_dir = "{river.root}"\n')
    for arguments in (["--config", str(path), "hakurun", "--submit"], ["hakurun", "--submit", "--config", str(path)]):
        assert run([*arguments, "--no-receipt", "--", "sort"]) == 0
    assert len(river.dropped()) == 2


# -- what it costs


def test_it_loads_nothing_of_the_river_to_run_here() -> None:
    loaded = loaded_by("from hakuriver.cli import run; assert run(['true', 'span:{1..2}'], 'hakurun') == 0")
    assert "hakuriver.hakurun.running" in loaded
    heavy = (
        "pydantic docker jinja2 sqlite3 psutil asyncio hakuriver.records hakuriver.cli.submit hakuriver.hakurun.script"
    )
    assert loaded & set(heavy.split()) == set()
