"""References, man pages and files for shells are made from the code, and are what the code says now."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import commandtree
import manpages
import pytest
import reference

from hakuriver.cli.completion import script
from hakuriver.settings import settings_rows

ROOT = Path(__file__).parents[2]
MADE = reference.documents()
MAN_PAGES = manpages.man_pages()


@pytest.mark.parametrize("name", [name for name in MADE if name.endswith(".md")])
def test_the_pages_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == MADE[name], f"{name} is not what the code says now: run `make docs`"


def test_all_other_made_files_are_up_to_date_and_no_others_are_there() -> None:
    there = {
        str(path.relative_to(ROOT)): path.read_text()
        for directory in reference.WHOLE
        for path in (ROOT / directory).rglob("*")
        if path.is_file()
    }
    made = {name: text for name, text in MADE.items() if not name.endswith(".md")}
    stale = sorted(name for name in {*there, *made} if there.get(name) != made.get(name))
    assert stale == [], "not what the code says now: run `make docs`"


def test_nothing_of_this_machine_goes_into_them(scratch: Path) -> None:
    environment = {**os.environ, "HOME": "/nonexistent", "COLUMNS": "30", "LC_ALL": "C", "DOCKER_HOST": "unix:///x"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    elsewhere = "import socket, sys; socket.gethostname = lambda: 'elsewhere'; sys.path.insert(0, sys.argv[1]);"
    run = f"{elsewhere} import pathlib, reference; reference.write(pathlib.Path(sys.argv[2]))"
    subprocess.run(
        [sys.executable, "-c", run, str(ROOT / "contrib"), str(scratch)], env=environment, cwd=scratch, check=True
    )
    written = {str(path.relative_to(scratch)): path.read_text() for path in scratch.rglob("*") if path.is_file()}
    assert written == MADE


def test_what_is_no_longer_made_goes(scratch: Path) -> None:
    old = scratch / "docs/man/man1/hakuriver-gone.1"
    old.parent.mkdir(parents=True)
    old.touch()
    reference.write(scratch)
    assert not old.exists()


@pytest.mark.parametrize("path", [each.path for each in commandtree.entries()])
def test_every_command_and_option_stands_in_the_reference_and_in_a_man_page(path: str) -> None:
    each = next(each for each in commandtree.entries() if each.path == path)
    section = re.search(rf"^##+ {re.escape(path)}\n(.*?)(?=^##|\Z)", MADE["docs/reference-commands.md"], re.M | re.S)
    assert section
    page = MAN_PAGES[f"{manpages.page_name(path.split()[1]) if ' ' in path else 'hakuriver'}.1"]
    submit = next(each.command for each in commandtree.entries() if each.path == "hakuriver submit")
    for name in each.spellings:
        assert f"\n{name}" in section[1]
        assert manpages.escaped(name) in page
    for option in commandtree.options(each.command):
        assert "The same command as" in section[1] or f"`{option.opts[0]}" in section[1]
        assert f"\\fB{manpages.escaped(option.opts[0])}\\fR" in page or each.command is submit


def test_every_key_stands_in_the_reference_and_in_the_man_page() -> None:
    page = MAN_PAGES["hakuriver-config.toml.5"]
    for row in settings_rows():
        assert f"| `{row.key}` |" in MADE["docs/reference-configuration.md"]
        assert f"\n\\fB{row.key}\\fR = " in page


def test_every_variable_that_is_read_is_told() -> None:
    read, named = set(), set()
    for path in (ROOT / "hakuriver").rglob("*.py"):
        read |= set(re.findall(r"environ(?:\.get\(|\[|\.pop\()\"(HAKURIVER_\w+)\"", path.read_text()))
        named |= set(re.findall(r"HAKURIVER_[A-Z_]+", path.read_text()))
    assert read <= set(manpages.ENVIRONMENT) <= named


@pytest.mark.parametrize("name", MAN_PAGES)
def test_man_pages_have_no_faults(name: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed (Debian: apt-get install groff-base)")
    ran = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8"], input=MAN_PAGES[name], cwd=ROOT / "docs/man", capture_output=True,
        text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a-b 'c' `d -e` ~^ \\ –", r"a\-b \(aqc\(aq \fBd \-e\fR \(ti\(ha \e \[u2013]"),
        ("no end of `code", r"no end of \(gacode"),
    ],
)
def test_text_in_man_pages(text: str, written: str) -> None:
    assert manpages.roff(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2*3 <a> A_B _C `x*_|` |", r"2\*3 \<a> A_B \_C `x*_\|` \|"),
        ("plain", "plain"),
    ],
)
def test_text_in_tables(text: str, written: str) -> None:
    assert reference.cell(text) == written


def test_parts_of_a_help_text() -> None:
    text = "One\n    two.\n\n    \b\n    Example:\n      hakuriver up\n\n    \b\n      a  b\n      c\n\n    End.\f no"
    found = list(commandtree.parts(text))
    assert [part.kind for part in found] == ["text", "example", "lines", "text"]
    assert (found[0].text, found[3].text) == ("One two.", "End.")
    assert commandtree.example(found[1]) == ("Example:", "hakuriver up")


def test_usage_of_arguments_without_names_for_people() -> None:
    @click.command()
    @click.option("--number", type=int)
    @click.option("--kind", type=click.Choice(["a", "b"]))
    @click.option("--yes/--no")
    @click.argument("first")
    @click.argument("rest", nargs=-1)
    def made() -> None:
        pass

    assert commandtree.arguments(made) == "[OPTIONS] FIRST [REST]..."
    labels = [commandtree.option_label(option) for option in commandtree.options(made)]
    assert labels == [["--number N"], ["--kind a|b"], ["--yes", "--no"]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_have_no_faults(shell: str, scratch: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed (Debian: apt-get install {shell})")
    (scratch / "script").write_text(script(shell))
    ran = subprocess.run([shell, "-n", str(scratch / "script")], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
