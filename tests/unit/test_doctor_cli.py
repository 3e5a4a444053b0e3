"""`hakuriver doctor`: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import eventually
from doctors import given_up_when
from riverfiles import RiverFiles

from hakuriver.cli import doctor as command
from hakuriver.cli import run
from hakuriver.cli.schema import json_schema
from hakuriver.doctor import machine, pair, probes
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding
from hakuriver.spool import layout
from hakuriver.spool.access import Share


@pytest.fixture
def river(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    made = RiverFiles(scratch / "river")
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", str(made.root))
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.setattr(machine, "TOOLS", ())
    return made


def told(river: RiverFiles, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = run(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json_schema("doctor"))
    return status, document


def test_text(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    captured = capsys.readouterr()
    assert "this machine\n" in captured.out
    assert "\nthe share, from here\n" in captured.out
    assert "ok       rename" in captured.out
    assert max(map(len, captured.out.splitlines())) <= 100
    assert captured.err.startswith("hakuriver: ")
    assert "nothing is broken" in captured.err
    assert not os.listdir(river.root / layout.DOCTOR)


def test_json(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = told(river, capsys)
    assert (status, document["format"], document["shared_dir"]) == (0, 1, str(river.root))
    assert (document["with"], document["problem"], document["broken"]) == (None, None, False)
    assert {"machine.state", "mount.filesystem", "share.rename"} <= {f["check"] for f in document["findings"]}


def test_something_broken(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Finding("share.rename", BROKEN, "5 files were won by both", "tasks would run twice", "use another")
    monkeypatch.setitem(probes.FULL, "share.rename", lambda bench: [broken])
    status, document = told(river, capsys)
    assert (status, document["broken"]) == (1, True)
    assert run(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "  BROKEN   rename" in captured.out
    assert "           change: use another\n" in captured.out
    assert "1 broken" in captured.err
    assert "this cannot work" in captured.err


def test_a_warning_is_no_failure(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Finding("share.rate", WARNING, "slow", "late", "faster")
    monkeypatch.setitem(probes.FULL, "share.rate", lambda bench: [slow])
    assert run(["doctor"]) == 0
    assert "1 warning" in capsys.readouterr().err


def test_a_node_that_does_not_answer(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "HELLO_S", 0.2)
    river.describe("n2", [])
    status, document = told(river, capsys, "--with", "n2")
    assert status == 1
    assert "n2 does not answer" in document["problem"]
    assert document["with"] == "n2"
    assert run(["doctor", "--with", "n2"]) == 1
    captured = capsys.readouterr()
    assert "n2 does not answer within" in captured.err
    assert "the share, from here" in captured.out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--with", "n9"], 1, "there is no node 'n9'"),
        (["--with", "A B"], 2, "no node can have that name"),
        (["--shared-dir", ""], 2, "it is empty"),
        (["--shared-dir", "/nonexistent/river"], 1, "No such file or directory /nonexistent/river"),
        (["x"], 2, "Usage"),
    ],
)
def test_usage(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert run(["doctor", *arguments]) == status
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_share_that_is_not_mounted_is_an_error(
    river: RiverFiles, scratch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = scratch / "mnt"
    empty.mkdir()
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", str(empty))
    assert run(["doctor"]) == 1
    assert "river.json" in capsys.readouterr().err
    assert list(empty.iterdir()) == []


def test_a_directory_that_is_to_become_a_river(
    river: RiverFiles, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = scratch / "new"
    new.mkdir()
    status, document = told(river, capsys, "--shared-dir", str(new))
    found = {f["check"]: f for f in document["findings"]}
    assert status == 0
    assert found["mount.river"]["status"] == WARNING
    assert "init share" in found["mount.river"]["remedy"]
    assert found["share.rename"]["status"] == OK
    assert list(new.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--shared-dir", "RIVER"], ["--with", "n2"]])
def test_a_share_that_hangs_when_it_is_first_looked_at(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    over, hanging, real = threading.Event(), given_up_when(monkeypatch), Share.names
    looked: list[str] = []

    def hangs(share: Share, path: str) -> list[str]:
        looked.append(threading.current_thread().name)
        hanging.set()
        over.wait(20)
        return real(share, path)

    monkeypatch.setattr(Share, "names", hangs)
    status, document = told(river, capsys, *(a.replace("RIVER", str(river.root)) for a in arguments))
    over.set()
    assert status == 0
    found = {f["check"]: f for f in document["findings"]}
    assert {"machine.node", "mount.filesystem", "share.hangs", "share.untried"} <= found.keys()
    assert "not tried: space, write, " in found["share.untried"]["value"]
    assert looked == ["examines"]


#: Goes on trying until it is told to end; what takes long on this machine is left out.
_LONG = """
import signal, sys
from hakuriver.cli import main
from hakuriver.doctor import machine, probes
machine.TOOLS = ()
probes.FULL = {"share.write": probes.document}
if sys.argv.pop(1) == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
main()
"""


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGTERM, 1), (signal.SIGTERM, 3), (signal.SIGHUP, 1), (signal.SIGINT, 1)]
)
def test_a_signal_leaves_nothing(river: RiverFiles, number: signal.Signals, again: int) -> None:
    with asking(river, "") as process:
        for _ in range(again):
            process.send_signal(number)
            time.sleep(0.001)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (128 + number, "", "")
    assert os.listdir(river.root / layout.DOCTOR) == []
    assert not list((river.root / "nodes/n2").glob("doctor.*"))


def test_one_that_ignores_hangups_goes_on(river: RiverFiles) -> None:
    with asking(river, "nohup") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert os.listdir(river.root / layout.DOCTOR) == []


@contextmanager
def asking(river: RiverFiles, how: str) -> Iterator[subprocess.Popen[str]]:
    """A doctor that waits for the answer of a node."""
    river.describe("n2", [])
    command = [sys.executable, "-c", _LONG, how, "doctor", "--with", "n2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: list((river.root / "nodes/n2").glob("doctor.*")))
        yield process


def test_lines_are_wrapped_and_aligned() -> None:
    findings = [
        Finding("share.a", OK, "fine", "not said", "not said"),
        Finding("share.longer", WARNING, "v" * 30, "means " * 20, "do `mount -o remount,rw`"),
        Finding("machine.b", NOTE, "x\x1b[2Jy", "", ""),
    ]
    lines = command.render(findings, 70)
    assert lines[0] == "this machine"
    assert lines[1] == "  note     b       x\\x1b[2Jy"
    assert lines[3:5] == ["the share, from here", "  ok       a       fine"]
    assert all(len(line) < 70 for line in lines)
    assert "not said" not in "\n".join(lines)
    assert lines[-1] == "           change: do `mount -o remount,rw`"


def test_other_commands_do_not_load_it() -> None:
    code = (
        "import sys; from hakuriver.cli import run; run(['task', 'list']); run(['node', 'list']);"
        "print([name for name in sys.modules if 'doctor' in name])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_help_loads_little() -> None:
    # click itself loads subprocess on some Pythons (by way of uuid and platform on 3.10).
    code = (
        "import sys, click; before = set(sys.modules); import hakuriver.cli.doctor;"
        "print(sorted({'pydantic', 'subprocess'} & (set(sys.modules) - before)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[]\n"
