"""`hakuriver job validate`: it says of a file what the door says of it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hakuriver.cli import run
from hakuriver.cli.schema import json_schema

RUN = b'{"command": ["echo", "hi"]}'
JOB = "01792345678901234567"


@pytest.fixture(autouse=True)
def nowhere(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with neither a share nor a configuration."""
    monkeypatch.chdir(scratch)
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.delenv("HAKURIVER_SHARED_DIR", raising=False)
    return scratch


def validate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run(["job", "validate", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("job.json", RUN, "job.json: good, 1 task\n"),
        ("plain", RUN + b"\n", "plain: good, 1 task\n"),
        ("pretty", b'{\n  "command": ["x"],\n  "array": "0-9"\n}\n', "pretty: good, 10 tasks\n"),
        ("two.json", b'{"command": ["x"], "array": "0-1", "targets": ["a", "b"]}', "two.json: good, 4 tasks\n"),
        ("b.jsonl", RUN + b'\n{"command": ["x"], "array": "1-3"}\n', "b.jsonl: good, 2 jobs, 4 tasks\n"),
        ("closed.jsonl", RUN + b'\n{"end": 1}\n', "closed.jsonl: good, 1 job, 1 task\n"),
        ("lines", RUN + b"\n" + RUN, "lines: good, 2 jobs, 2 tasks\n"),
        (f"{JOB}.json", b'{"command": ["x"], "id": "%s"}' % JOB.encode(), f"{JOB}.json: good, 1 task\n"),
        ("kill.json", b'{"request": "kill", "targets": ["%s"]}' % JOB.encode(), "kill.json: good, a request to kill\n"),
    ],
)
def test_what_is_good(nowhere: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, said: str) -> None:
    (nowhere / name).write_bytes(data)
    assert validate(capsys, name) == (0, said, "")


BAD = [
    ("job.json", b'{"command": ["x"], "cores": -1}', ["job.json: cores = -1: ", "(Cores held; 0 reserves none.)"]),
    (
        "job.json",
        b'{"comand": ["x"]}',
        ["command: it must be there", "comand = ['x']", "the nearest known one is command"],
    ),
    ("job.json", b'{"command": ["x"]', ["it is no JSON", "line 1, column"]),
    ("job.json", b'{"command": ["x\n"]}', ["it is no JSON: Invalid control character at line 1, column"]),
    ("job.json", b'{"command": ["\xff"]}', ["it is not UTF-8"]),
    ("job.json", RUN + b"\n" + RUN, ["it is no JSON: Extra data"]),
    ("b.jsonl", RUN + b"\n\n" + b'{"command": []}\n', ["line 3: command", "at least 1 item"]),
    ("b.jsonl", RUN + b'\n{"end": 7}\n', ["the last line says 7 jobs, 1 lines"]),
    ("b.jsonl", b"", ["there is no job in it"]),
    ("b.jsonl", b'{"command": ["x"], "id": "%s"}\n' % JOB.encode() * 2, ["line 2: id", "stands in it twice"]),
    ("my job.json", RUN, ["name = my job.json", "leaves a file of this name alone"]),
    (f"{JOB}.json", b'{"command": ["x"], "id": "%s"}' % b"01792345678901234999", ["the file's name says"]),
    ("big.json", b" " * (1 << 20) + RUN, ["more than 1,048,576 bytes"]),
]


@pytest.mark.parametrize(("name", "data", "said"), BAD)
def test_what_is_wrong(
    nowhere: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, said: list[str]
) -> None:
    (nowhere / name).write_bytes(data)
    status, out, err = validate(capsys, name)
    assert (status, out) == (1, "")
    assert all(words in err for words in said), err
    assert all(line.startswith(f"hakuriver: {name}: ") for line in err.splitlines())


def test_many_files_are_all_told_and_json_is_as_its_schema_says(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "good.json").write_bytes(RUN)
    (nowhere / "bad.json").write_bytes(b"[]")
    status, out, err = validate(capsys, "missing.json", "bad.json", "good.json")
    assert (status, out) == (1, "good.json: good, 1 task\n")
    assert err.count("\n") == 2
    assert "missing.json: file: it cannot be read: No such file or directory" in err
    status, out, _ = validate(capsys, "--json", "missing.json", "bad.json", "good.json")
    told: Any = json.loads(out)
    jsonschema.validate(told, json_schema("validate"))
    assert (status, [file["good"] for file in told["files"]]) == (1, [False, False, True])
    assert [len(file["problems"]) for file in told["files"]] == [1, 1, 0]


@pytest.mark.parametrize(
    ("data", "said"), [(RUN, "stdin: good, 1 task\n"), (RUN + b"\n" + RUN + b"\n", "stdin: good, 2 jobs, 2 tasks\n")]
)
def test_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes, said: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert validate(capsys, "-") == (0, said, "")


def test_what_terminals_obey_is_shown_as_text(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[31mred.json"
    (nowhere / name).write_bytes(b'{"command": ["x"], "name": 3, "\\u001b[2J": 1}')
    _, out, err = validate(capsys, name)
    assert "\x1b" not in out + err


def test_a_directory_and_nothing(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir(nowhere / "d.json")
    assert "Is a directory" in validate(capsys, "d.json")[2]
    assert validate(capsys)[0] == 2
