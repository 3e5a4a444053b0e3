"""`hakuriver docker` and `docker-shell` on prepared files, with a host that answers as the test says."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonschema
import pytest
from conftest import eventually
from riverfiles import RiverFiles

from hakuriver.cli import docker, run
from hakuriver.cli.schema import json_schema
from hakuriver.spool import layout


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Hakuriver = Callable[..., Ran]


@pytest.fixture
def river(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    monkeypatch.setattr(docker, "FIRST_S", 60.0)
    monkeypatch.setattr(docker, "LOOK_S", 0.05)
    return river


class Clock:
    """One that a test moves, for what waits for the host; counts how often it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.looks = 1000.0, 0
        monkeypatch.setattr(docker, "time", SimpleNamespace(monotonic=self, time=time.time))

    def __call__(self) -> float:
        self.looks += 1
        return self.at

    def move(self, seconds: float) -> None:
        """Once whoever waits has seen what there is: it looks twice at the clock for each look at the river."""
        known = self.looks
        eventually(lambda: self.looks >= known + 4)
        self.at += seconds


@pytest.fixture
def hakuriver(river: RiverFiles, capfd: pytest.CaptureFixture[str]) -> Hakuriver:
    def call(*arguments: str) -> Ran:
        status = run(list(arguments))
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return call


def index(**more: Any) -> bytes:
    golden = json.loads((Path(__file__).parents[1] / "golden" / "index-environments.json").read_bytes())
    return json.dumps({**golden, **more}).encode()


class Host:
    """Answers the one request that comes; before it beats `steps` times, as long apart as `step` takes."""

    def __init__(
        self, river: RiverFiles, steps: int = 0, step: Callable[[], None] = lambda: None, **receipt: Any
    ) -> None:
        self._river = river
        self._steps, self._step = steps, step
        self._receipt = {"outcome": "done", "kind": "create-tar", "text": "it is done", **receipt}
        self.asked: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        eventually(self._river.dropped)
        (path,) = self._river.dropped()
        self.asked = json.loads(path.read_bytes())
        for step in range(self._steps):
            progress = {
                "request": path.stem, "kind": "create-tar", "environment": "my-env", "step": "saving",
                "done_bytes": step * 1000, "total_bytes": 1000 * self._steps,
            }  # fmt: skip
            self._river.put(layout.ENVIRONMENTS_INDEX, index(progress=[progress]))
            self._river.beat()
            self._step()
        self._river.receipt(path.stem, **self._receipt)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["create-container", "python:3.12-slim", "my-env"],
         {"request": "create-container", "environment": "my-env", "image": "python:3.12-slim"}),
        (["start-container", "my-env"], {"request": "start-container", "environment": "my-env"}),
        (["stop-container", "my-env"], {"request": "stop-container", "environment": "my-env"}),
        (["delete-container", "my-env"], {"request": "delete-container", "environment": "my-env"}),
        (["create-tar", "my-env"], {"request": "create-tar", "environment": "my-env"}),
        (["delete-tar", "my-env"], {"request": "delete-tar", "environment": "my-env"}),
        (["delete-tar", "a" * 63 + "-5"], {"request": "delete-tar", "environment": "a" * 63 + "-5"}),
    ],
)  # fmt: skip
def test_each_command_asks_and_tells_the_answer(
    river: RiverFiles, hakuriver: Hakuriver, arguments: list[str], asked: dict[str, Any]
) -> None:
    with Host(river) as host:
        ran = hakuriver("docker", *arguments)
    assert host.asked == asked
    assert ran == (0, "it is done\n", "")


def test_the_answer_as_json(river: RiverFiles, hakuriver: Hakuriver) -> None:
    with Host(river):
        ran = hakuriver("docker", "create-tar", "my-env", "--json")
    told = json.loads(ran.out)
    jsonschema.validate(told, json_schema("control"))
    assert (told["requests"][0]["outcome"], told["requests"][0]["text"]) == ("done", "it is done")


def test_refused_is_said_with_the_remedy(river: RiverFiles, hakuriver: Hakuriver) -> None:
    why = {"field": "environment", "value": "my-env", "message": "there is none", "remedy": "make it"}
    with Host(river, outcome="refused", text="", errors=[why]):
        ran = hakuriver("docker", "create-tar", "my-env")
    assert ran == (1, "", "hakuriver: refused: environment = my-env: there is none (make it)\n")


def test_refused_is_told_as_json_as_well(river: RiverFiles, hakuriver: Hakuriver) -> None:
    why = {"field": "environment", "value": "my-env", "message": "there is none", "remedy": "make it"}
    with Host(river, outcome="refused", text="", errors=[why]):
        ran = hakuriver("docker", "create-tar", "my-env", "--json")
    assert (ran.status, ran.err) == (1, "hakuriver: refused: environment = my-env: there is none (make it)\n")
    told = json.loads(ran.out)
    jsonschema.validate(told, json_schema("control"))
    (request,) = told["requests"]
    assert (request["kind"], request["outcome"], request["receipt"]["errors"]) == ("create-tar", "refused", [why])


def test_it_waits_as_long_as_a_host_is_at_work(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with Host(river, 4, lambda: clock.move(docker.SIGN_S - 1)):  # together longer than a host may be silent
        assert hakuriver("docker", "create-tar", "my-env") == (0, "it is done\n", "")


def test_without_a_host_the_request_waits(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "FIRST_S", 0.1)
    ran = hakuriver("docker", "create-tar", "my-env")
    assert ran.status == 125
    assert "host not responding" in ran.err
    assert "the request (create-tar) waits" in ran.err
    assert len(river.dropped()) == 1


def test_not_waited_for(river: RiverFiles, hakuriver: Hakuriver) -> None:
    assert hakuriver("docker", "create-tar", "my-env", "--no-receipt") == (0, "", "")
    assert hakuriver("docker", "create-tar", "my-env", "--timeout", "0").status == 125
    assert len(river.dropped()) == 2


def test_interrupted_the_request_goes_on(
    river: RiverFiles, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(docker, "_await", interrupted)
    ran = hakuriver("docker", "create-tar", "my-env")
    (path,) = river.dropped()
    assert ran.status == 130
    assert f"the request goes on; its answer will be {river.root}/receipts/{path.name}" in ran.err


@pytest.mark.parametrize("name", ["My-Env", "../x", "-x-", "a" * 64, "", "x y"])
@pytest.mark.parametrize("command", ["create-tar", "delete-tar", "start-container"])
def test_names_that_no_environment_can_have(river: RiverFiles, hakuriver: Hakuriver, command: str, name: str) -> None:
    ran = hakuriver("docker", command, "--", name)
    assert ran.status == 2
    assert ran.err.startswith("hakuriver: ENV ")
    assert river.dropped() == []


# -- the bar


class Screen:
    """A terminal to write to."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_a_bar_for_each_step_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    with docker.Bar() as bar:
        assert bar.wanted
        bar.show(None)
        bar.show({"step": "committing", "done_bytes": None, "total_bytes": None})
        assert screen.text == ""
        bar.show({"step": "pulling \x1b]0;x\x07", "done_bytes": 10, "total_bytes": 100})
        bar.show({"step": "pulling \x1b]0;x\x07", "done_bytes": 50, "total_bytes": 200})
        bar.show({"step": "saving", "done_bytes": 0, "total_bytes": 0})
        bar.show({"step": "saving", "done_bytes": 10, "total_bytes": 5})
    assert "pulling" in screen.text
    assert "saving" in screen.text
    assert "100%" in screen.text
    assert "\x1b]0;" not in screen.text


# -- lists


def test_lists(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.put(layout.ENVIRONMENTS_INDEX, index(problem="", engine="20.10.24"))
    rows = [line.split() for line in hakuriver("docker", "list-containers").out.splitlines()]
    assert rows[0] == ["ENVIRONMENT", "STATE", "IMAGE", "CREATED", "AGE"]
    assert rows[1][:3] == ["my-env", "running", "python:3.12-slim"]
    rows = [line.split() for line in hakuriver("docker", "list-tars").out.splitlines()]
    assert rows[1][:3] == ["my-env", "my-env-1792345679", "2.1M"]
    assert rows[1][-2:] == ["python:3.12-slim", "sha256:b362b0ee15b2"]


def test_lists_as_json(river: RiverFiles, hakuriver: Hakuriver) -> None:
    for written in (False, True):
        if written:
            river.put(layout.ENVIRONMENTS_INDEX, index())
        for command, schema in (("list-containers", "containers"), ("list-tars", "packages")):
            ran = hakuriver("docker", command, "--json")
            assert (ran.status, ran.err) == (0, "")
            jsonschema.validate(json.loads(ran.out), json_schema(schema))


def test_what_keeps_environments_from_being_is_said(river: RiverFiles, hakuriver: Hakuriver) -> None:
    assert "no host has told of any environment yet" in hakuriver("docker", "list-tars").err
    problem = "docker unavailable on host: Cannot connect"
    river.put(layout.ENVIRONMENTS_INDEX, index(engine="", problem=problem, default_problem="no image\x1b[2J"))
    assert problem in hakuriver("docker", "list-containers").err
    err = hakuriver("docker", "list-tars").err
    assert "the default environment is not there yet: no image" in err
    assert "\x1b" not in err


def test_names_of_others_do_nothing_to_a_terminal(river: RiverFiles, hakuriver: Hakuriver) -> None:
    evil = {"environment": "e", "state": "\x1b[31mrunning", "image": "i\nx", "created_at": None}
    river.put(layout.ENVIRONMENTS_INDEX, index(containers=[evil]))
    out = hakuriver("docker", "list-containers").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


# -- the shell: with a program `docker` that notes what it is asked


DOCKER = """#!/bin/sh
[ "$1 $2" = "--host unix://@socket@" ] || exit 99
shift 2
if [ "$1" = container ]; then cat @directory@/inspected; cat @directory@/said >&2; exit "$(cat @directory@/status)"; fi
echo "$@"
exit 7
"""


class Shell:
    """What the program says of the container, and the command that uses it."""

    def __init__(self, directory: Path, socket: str) -> None:
        self._directory = directory
        program = directory / "docker"
        program.write_text(DOCKER.replace("@directory@", str(directory)).replace("@socket@", socket))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.says()

    def says(self, inspected: str = "running my-env", said: str = "", status: int = 0) -> None:
        for name, text in (("inspected", inspected), ("said", said), ("status", str(status))):
            (self._directory / name).write_text(text + "\n")


@pytest.fixture
def shell(river: RiverFiles, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    directory = scratch / "bin"
    directory.mkdir()
    config = scratch / "config.toml"
    config.write_text(
        f'[paths]\nshared_dir = "{river.root}"\nstate_dir = "{scratch}/state"\n[docker]\nhost = "unix:///run/x.sock"\n'
    )
    monkeypatch.setenv("HAKURIVER_CONFIG", str(config))
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Shell(directory, "/run/x.sock")


def test_a_shell_is_docker_exec(shell: Shell, monkeypatch: pytest.MonkeyPatch, hakuriver: Hakuriver) -> None:
    became: list[list[str]] = []

    def exec_(_program: str, argv: list[str]) -> None:
        became.append(argv)
        raise SystemExit(7)

    monkeypatch.setattr(os, "execvp", exec_)
    with pytest.raises(SystemExit):
        hakuriver("docker-shell", "my-env")
    assert became[0][:6] == ["docker", "--host", "unix:///run/x.sock", "exec", "-i", "hakuriver-env-my-env"]
    assert became[0][6:8] == ["sh", "-c"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"inspected": "paused my-env"},
         "my-env does not run, it is paused: `hakuriver docker start-container my-env` starts it"),
        ({"inspected": "running "}, "is no environment of HakuRiver's"),
        ({"inspected": "running other"}, "is no environment of HakuRiver's"),
        ({"inspected": "", "said": "Error: No such container: hakuriver-env-my-env", "status": 1},
         "environments live on the host"),
        ({"inspected": "", "said": "Cannot connect to the Docker daemon at unix:///run/x.sock.", "status": 1},
         "docker unavailable here: Cannot connect to the Docker daemon at unix:///run/x.sock."),
    ],
)  # fmt: skip
def test_why_there_is_no_shell(shell: Shell, hakuriver: Hakuriver, said: dict[str, Any], told: str) -> None:
    shell.says(**said)
    ran = hakuriver("docker", "shell", "my-env")
    assert ran.status == 1
    assert told in ran.err


def test_without_the_program(shell: Shell, hakuriver: Hakuriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = hakuriver("docker-shell", "my-env")
    assert ran.status == 127
    assert "the program docker is not on PATH" in ran.err
    assert hakuriver("docker-shell", "No-Such").status == 2
