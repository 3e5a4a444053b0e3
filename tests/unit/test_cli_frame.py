"""What all commands have in common: help, configuration, messages, tables, and what is imported."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from riverfiles import RiverFiles

from hakuriver import __version__, config
from hakuriver.cli import failing, live, making, run, supervising, tables
from hakuriver.cli.common import clean
from hakuriver.cli.frame import DOTTED, OTHER_PROGRAMS, LazyGroup, other_spelling
from hakuriver.cli.root import cli
from hakuriver.tomltext import toml


def commands(group: click.Group, path: str = "hakuriver") -> Iterator[tuple[str, click.Command]]:
    """Every command, groups included."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


EVERY = dict(commands(cli))


# -- help


@pytest.mark.parametrize("path", EVERY)
def test_every_command_has_help_and_an_example_of_itself(path: str) -> None:
    text = EVERY[path].help or ""
    assert "Example" in text
    example = text[text.index("Example") :]
    names = [other for other, command in EVERY.items() if command is EVERY[path]]
    assert any(name in example for name in names)


@pytest.mark.parametrize("path", EVERY)
def test_every_option_has_help(path: str) -> None:
    for parameter in EVERY[path].params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("path", EVERY)
def test_help_fits_a_terminal_and_asks_nothing_of_the_configuration(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    assert run([*path.split()[1:], "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: hakuriver")
    assert max(len(line) for line in out.splitlines()) <= 100


def test_options_that_examples_use_exist() -> None:
    for path, command in EVERY.items():
        known = {name for each in EVERY.values() for p in each.params for name in (*p.opts, *p.secondary_opts)}
        example = (command.help or "").partition("Example")[2]
        used = [word for line in example.splitlines() for word in line.partition(" -- ")[0].split() if word[:2] == "--"]
        assert set(used) - known - {"--"} == set(), path


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("hakuriver task list", "hakuriver.task list"),
        ("hakuriver.task list", "hakuriver task list"),
        ("hakuriver submit", "hakuriver.task submit"),
        ("hakuriver docker-shell", "hakuriver.docker-shell"),
        ("hakuriver.init", "hakuriver init"),
        ("hakurun", "hakuriver hakurun"),
        ("hakuriver hakurun", "hakurun"),
        ("hakuriver node list", None),
        ("hakuriver", None),
    ],
)
def test_the_other_spelling(path: str, other: str | None) -> None:
    assert other_spelling(path) == other


@pytest.mark.parametrize("program", [*(f"hakuriver.{noun}" for noun in DOTTED), *OTHER_PROGRAMS])
def test_a_program_is_the_command_of_its_noun_and_says_so(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], program) == 0
    out = capsys.readouterr().out
    other = other_spelling(program)
    assert other
    assert out.startswith(f"Usage: {program} ")
    assert f"\n   or: {other} " in out
    assert run([*other.split()[1:], "--help"]) == 0
    mirrored = capsys.readouterr().out
    assert out.partition("\n\n")[2] == mirrored.partition("\n\n")[2]


def test_groups_tell_the_whole_first_sentence_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.partition("Commands:")[2].split())
    assert "up Run a cluster of this machine alone: a host and N runners, with a view of what they do." in told
    assert "..." not in told


def test_version_and_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"hakuriver {__version__}\n"
    assert run(["task", "stauts"]) == 2
    assert "the nearest is 'status'" in capsys.readouterr().err
    assert run([]) == 2


def test_groups_load_what_they_name() -> None:
    for group in (command for command in EVERY.values() if isinstance(command, LazyGroup)):
        for name in group.lazy:
            assert group.get_command(click.Context(group), name) is not None


# -- configuration


def test_config_may_stand_before_and_after_the_command(
    river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HAKURIVER_SHARED_DIR")
    path = scratch / "c.toml"
    path.write_text(f'[paths]\nshared_dir = "{river.root}"\n')
    for arguments in (
        ["--config", str(path), "submit", "--no-receipt", "x"],
        ["submit", "--config", str(path), "--no-receipt", "x"],
        ["task", "--config", str(path), "submit", "--no-receipt", "x"],
    ):
        assert run(arguments) == 0
    assert len(river.dropped()) == 3
    assert run(["task", "list", "--config", str(scratch / "none.toml")]) == 1
    assert "there is no such file; --config must name" in capsys.readouterr().err


def test_an_empty_config_is_not_the_usual_file(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--config", "", "task", "list"],
        ["task", "list", "--config="],
        ["config", "show", "--config", " "],
    ):
        assert run(arguments) == 2
        assert "it is empty: name a file" in capsys.readouterr().err


def test_without_any_configuration_it_says_what_to_set(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(scratch))
    assert run(["task", "list"]) == 1
    said = capsys.readouterr().err
    assert "set HAKURIVER_SHARED_DIR, or write ~/.hakuriver/config.toml with `hakuriver init config" in said


@pytest.mark.parametrize("command", [["init", "share"], ["init", "config"], ["up"]])
def test_an_empty_directory_name_is_not_the_working_directory(
    command: list[str], scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.chdir(scratch)
    assert run([*command, "--shared-dir", ""]) == 2
    assert "--shared-dir '': it is empty" in capsys.readouterr().err
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 101])
def test_a_clusters_name_is_one_line(name: str, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "share", "--shared-dir", str(scratch / "river"), "--name", name]) == 2
    assert "printable characters" in capsys.readouterr().err
    assert not (scratch / "river").exists()


# -- init


def test_a_river_is_made_whole_and_once(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = scratch / "a" / "river"
    assert run(["init", "share", "--shared-dir", str(root), "--name", "lab"]) == 0
    assert sorted(os.listdir(root / "host")) == ["journal", "leader.000000.none.000000000000.0", "taken"]
    assert (root / "incoming").stat().st_mode & 0o777 == 0o700
    before = (root / "river.json").read_bytes()
    assert run(["init", "share", "--shared-dir", str(root)]) == 1
    assert "is a river already" in capsys.readouterr().err
    assert (root / "river.json").read_bytes() == before


def test_a_river_that_was_begun_is_finished(scratch: Path) -> None:
    making.make_river(str(scratch / "r"), None)
    (scratch / "r" / "river.json").unlink()
    (scratch / "r" / "www").rmdir()
    river = making.make_river(str(scratch / "r"), None)
    assert river.cluster == "r"
    assert (scratch / "r" / "www").is_dir()
    assert len([name for name in os.listdir(scratch / "r" / "host") if name.startswith("leader.")]) == 1


def test_where_no_river_can_be(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scratch / "file").write_text("")
    assert run(["init", "share", "--shared-dir", str(scratch / "file")]) == 1
    assert run(["init", "share", "--shared-dir", str(scratch / "file" / "below")]) == 1
    (scratch / "r").mkdir()
    (scratch / "r" / "incoming").write_text("")
    assert run(["init", "share", "--shared-dir", str(scratch / "r")]) == 1
    assert capsys.readouterr().err.count("something else stands where a directory must be") == 3
    assert not (scratch / "r" / "river.json").exists()


def test_a_configuration_with_every_key_that_loads(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scratch / "sub" / "config.toml"
    assert run(["init", "config", "--config", str(path), "--shared-dir", str(scratch / 'a "b"')]) == 0
    text = path.read_text()
    assert config.load(str(path)).paths.shared_dir == str(scratch / 'a "b"')
    assert run(["init", "config", "--config", str(path)]) == 2
    assert "it is kept" in capsys.readouterr().err
    keys = [line for line in text.splitlines() if line.startswith("#") and " = " in line and not line.startswith("# ")]
    path.write_text("\n".join(line[1:] if line in keys else line for line in text.splitlines()))
    assert len(keys) > 20
    config.load(str(path))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.booleans(), st.lists(st.text('a"\\\n')))
def test_what_is_written_as_toml_reads_the_same(text: str, number: int, truth: bool, items: list[str]) -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    number %= 1 << 63
    written = toml({"a": {"text": text, "number": number, "truth": truth, "items": list(items)}})
    assert tomllib.loads(written) == {"a": {"text": text, "number": number, "truth": truth, "items": items}}


# -- messages


BAD = [
    ["task", "status", "x" * 5000], ["task", "status", "\x1b[2J"], ["task", "status", "0" * 20], ["task", "wait", "-1"],
    ["task", "logs", "9999"], ["task", "kill", "½"], ["node", "show", "../.."], ["node", "show", ""],
    ["node", "drain", "A"],
    ["runner", "--name", "../x"], ["host", "gc", "--older-than", "x"], ["task", "list", "--since", "-"],
    ["task", "list", "--state", "done"], ["submit", "--from", "/"], ["submit", "--from", "/etc/shadow/x"],
    ["init", "x"],
    ["init", "share"], ["up"], ["up", "--shared-dir", "/proc/1"], ["init", "share", "--shared-dir", "/proc/x"],
    ["schema", "x"], ["task", "logs", "--tail", "-1", "1234"], ["task", "why"], ["--config"], ["--config", "/", "host"],
    ["task", "wait", "--timeout", "x", "1234"], ["submit", "--", ""], ["nonsense"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD, ids=lambda a: " ".join(a)[:40].encode("ascii", "replace").decode())
def test_nothing_that_is_typed_shows_a_traceback(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    status = run(arguments)
    captured = capsys.readouterr()
    assert status in (1, 2) or arguments == ["submit", "--", ""]
    assert captured.err
    assert "Traceback" not in captured.err
    assert "fault in HakuRiver" not in captured.err
    assert "\x1b" not in captured.err


@pytest.mark.parametrize("index", ["", "[]", "{", '{"nodes": 3}', '{"jobs": [{}], "nodes": [{}]}', "\xff" * 10])
@pytest.mark.parametrize("command", ["task list", "node list", "node show n1", "task status 1234"])
def test_broken_indexes_are_no_faults_of_ours(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], index: str, command: str
) -> None:
    for name in ("recent", "nodes", "endings/234"):
        river.put(f"index/{name}.json", index)
    assert run(command.split()) in (0, 1)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "fault in HakuRiver" not in err


def test_a_fault_of_our_own_is_told_as_such(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("hakuriver.listing.rows", fails)
    assert run(["task", "list"]) == 1
    err = capsys.readouterr().err
    assert "a fault in HakuRiver itself: RuntimeError: oh; set HAKURIVER_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("HAKURIVER_DEBUG", "1")
    assert run(["task", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_under_our_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing.explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")) == 1
    assert "No space left on device /x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("4X", "4X"),
        ("", "''"),
        ("a b", "'a b'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        (3, "3"),
        ("x" * 300, repr("x" * 200 + "…")),
    ],
)
def test_values_in_messages(value: object, shown: str) -> None:
    assert failing.shown(value) == shown


# -- tables


def test_tables_are_aligned_and_cut_only_to_a_terminal() -> None:
    lines = tables.table(["A", "LONGER"], [["x", 1], ["a longer one", 100], ["", None]])
    assert lines == ["A             LONGER", "x                  1", "a longer one     100", "-                  -"]
    assert tables.table(["A"], [["x" * 30]], width=10)[1] == "x" * 9 + "…"
    assert tables.table(["A"], []) == ["A"]


@given(st.text())
def test_what_is_shown_is_one_line_that_a_terminal_does_not_obey(text: str) -> None:
    for shown in (clean(text), tables.table(["A"], [[text]])[1], tables.pairs([("a", text)])[0]):
        assert all(c.isprintable() for c in shown)


def test_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert tables.bar(50, 100, 12.0, "3 running") == f"[{'#' * 15}{'.' * 15}]  50/100  3 running  12s"
    assert tables.bar(0, 0, 0.5).startswith("[....")
    monkeypatch.setenv("COLUMNS", "20")
    assert len(tables.bar(1, 2, 1.0)) == 19


def test_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert tables.is_terminal(Terminal()) is True
    assert tables.is_terminal(io.StringIO()) is False
    monkeypatch.setenv("TERM", "dumb")
    assert tables.is_terminal(Terminal()) is False


def test_the_live_view() -> None:
    node = {"node": "n1", "state": "online", "cores": 4, "cores_held": 1, "memory_bytes": 10**9, "memory_held_bytes": 0,
            "tasks": 1, "load": {"load_1m": 0.5}}  # fmt: skip
    job = {"job": "1" * 20, "name": None, "state": "running", "count": 2, "counts": {"running": 2}, "nodes": ["n1"],
           "accepted_at": None, "command": "x"}  # fmt: skip
    lines = live.render([node], [job])
    assert any("n1" in line and "1/4" in line for line in lines)
    assert "jobs: 1 running" in lines
    assert any("2 running" in line for line in lines[4:])
    assert "jobs: none yet" in live.render([], [])


# -- children


def test_a_child_that_dies_is_started_again_ever_later(scratch: Path) -> None:
    said: list[str] = []
    child = supervising.Child("n1", ["--nonsense"], str(scratch), {**os.environ})
    now = 0.0
    for _ in range(3):
        child.mind(now, said.append)
        assert child.wait(float("inf")) is True
        child.mind(now, said.append)
        now += 100.0
    assert len(said) == 3
    assert said[0].startswith("n1 ended with 2 (")
    assert "starting it again in 1 s" in said[0]
    assert "No such option" in said[0]


def test_the_last_line_of_a_log(scratch: Path) -> None:
    log = scratch / "log"
    assert supervising.last_line(str(log)) == "no log"
    log.write_bytes(b"one\n\xff two \n\n")
    assert supervising.last_line(str(log)) == "� two"


# -- what it costs


def loaded_by(code: str) -> set[str]:
    """The modules that are there after a piece of Python."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_submit_imports_no_more_than_it_needs(river: RiverFiles) -> None:
    loaded = loaded_by("from hakuriver.cli import run; assert run(['submit', '--no-receipt', '--', 'x']) == 0")
    loaded -= loaded_by("import click")
    assert "hakuriver.client" in loaded
    heavy = """pydantic jinja2 sqlite3 sqlite_utils psutil importlib.metadata dataclasses logging subprocess asyncio
        ctypes hashlib shutil tempfile urllib http tomllib socket"""
    assert loaded & set(heavy.split()) == set()
    ours = {name for name in loaded if name.startswith("hakuriver")}
    assert ours <= {
        "hakuriver", "hakuriver.cli", "hakuriver.cli.frame", "hakuriver.cli.root", "hakuriver.cli.common",
        "hakuriver.cli.submit",
        "hakuriver.client", "hakuriver.checks", "hakuriver.config", "hakuriver.errors", "hakuriver.ids",
        "hakuriver.spool", "hakuriver.spool.access", "hakuriver.spool.layout",
    }  # fmt: skip


def test_public_names_are_loaded_when_used() -> None:
    assert {name for name in loaded_by("import hakuriver") if name.startswith("hakuriver")} == {"hakuriver"}
    import hakuriver

    for name in hakuriver.__all__:
        assert getattr(hakuriver, name).__doc__, name
    assert set(hakuriver.__all__) <= set(dir(hakuriver))
    with pytest.raises(AttributeError):
        hakuriver.nothing  # noqa: B018
