"""What a node can do: engines that answer, fail, hang, come and go; programs that are there or not."""

from __future__ import annotations

import json
import os
import pwd
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

from hakuriver.runner import abilities
from hakuriver.runner.abilities import Docker, Looker
from hakuriver.runner.tools import Answer, answer
from hakuriver.settings import Settings, parse

#: What real engines answer, as far as it matters here; `null` stands in some versions for what there is none of.
VERSION = {"Version": "27.5.1", "ApiVersion": "1.47"}
INFO = {"Runtimes": {"runc": {"path": "runc"}}, "MemoryLimit": True, "CgroupVersion": "2"}


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers as a Docker engine does, one document for each path."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.documents: dict[str, Any] = {"/_ping": "OK", "/version": VERSION, "/info": INFO}
        self.asked: list[str] = []
        self.status = "200 OK"
        self.quiet = threading.Event()
        self.quiet.set()
        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.quiet.set()
        self.shutdown()
        self.server_close()
        os.unlink(str(self.server_address))


class Handler(socketserver.StreamRequestHandler):
    server: Engine

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(path)
        assert self.server.quiet.wait(20)
        document = self.server.documents[path]
        text = document if isinstance(document, str) else json.dumps(document)
        self.wfile.write(f"HTTP/1.0 {self.server.status}\r\nServer: Docker\r\n\r\n{text}".encode())


@pytest.fixture
def engine(short: Path) -> Iterator[Engine]:
    made = Engine(short / "docker.sock")
    yield made
    if made.fileno() >= 0:
        made.close()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path is short enough for sockets in it."""
    return tmp_path_factory.mktemp("e")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> Path:
    """A machine with nothing: no programs, no systemd. Returns where programs are looked for."""
    (scratch / "bin").mkdir()
    monkeypatch.setenv("PATH", str(scratch / "bin"))
    monkeypatch.setattr(abilities, "SYSTEMD", str(scratch / "systemd"))
    return scratch / "bin"


def program(directory: Path, name: str, text: str = "exit 0") -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def settings(docker: Path | str = "/nowhere/docker.sock", **more: Any) -> Settings:
    return parse({"docker": {"host": f"unix://{docker}"}, **more}, "test")


@pytest.fixture
def with_systemd(bare: Path) -> Path:
    (bare.parent / "systemd").mkdir()
    for name in ("systemd-run", "unshare", "numactl"):
        program(bare, name)
    program(bare, "systemctl", 'echo "systemd 252 (252.39-1~deb12u1)"; echo "+PAM +AUDIT"')
    return bare


def test_a_machine_with_nothing_runs_plain_processes() -> None:
    found = Looker(settings()).look(gpus=False)
    assert (found.executors, found.can, found.away, found.problems) == (("process",), (), {}, ())
    assert found.cannot == {"docker": abilities.NO_ENGINE, "systemd": abilities.NO_SYSTEMD}
    assert set(found.engines) <= {"cgroup"}


# -- Docker


def test_an_engine(engine: Engine, short: Path) -> None:
    found = Looker(settings(short / "docker.sock")).look(gpus=False)
    assert found.executors == ("docker", "process")
    assert found.engines["docker"] == "27.5.1"
    assert (found.away, found.can) == ({}, ())
    assert "docker-gpus" not in found.cannot, "nobody misses it who has no GPUs"


@pytest.mark.parametrize(
    ("runtimes", "programs", "can"),
    [
        ({"runc": {}, "nvidia": {}}, [], True),
        ({"runc": {}}, ["nvidia-container-runtime-hook"], True),
        ({}, ["nvidia-ctk"], True),
        ({"runc": {}}, [], False),
        (None, [], False),
    ],
)
def test_gpus_in_containers(
    engine: Engine, short: Path, bare: Path, runtimes: Any, programs: list[str], can: bool
) -> None:
    engine.documents["/info"] = {**INFO, "Runtimes": runtimes}
    for name in programs:
        program(bare, name)
    found = Looker(settings(short / "docker.sock")).look(gpus=True)
    assert (found.can, found.cannot.get("docker-gpus")) == (
        (("docker-gpus",), None) if can else ((), abilities.NO_TOOLKIT)
    )


def test_an_engine_that_comes_and_goes(short: Path, bare: Path) -> None:
    program(bare, "dockerd")
    looker = Looker(settings(short / "docker.sock"))
    found = looker.look(gpus=False)
    assert found.executors == ("docker", "process"), "it is installed, though it does not run"
    assert found.away == {
        "docker": f"Cannot connect to Docker daemon: there is no socket {short / 'docker.sock'}: start the Docker "
                  "engine, or name its socket in docker.host"
    }  # fmt: skip
    assert "docker" not in found.engines
    engine = Engine(short / "docker.sock")
    assert looker.look(gpus=False).away == {}
    assert looker.look(gpus=False).engines["docker"] == "27.5.1"
    assert engine.asked == ["/_ping", "/version", "/info", "/_ping"], "what does not change is asked once"
    engine.close()
    found = looker.look(gpus=False)
    assert list(found.away) == ["docker"]
    assert found.engines["docker"] == "27.5.1", "so that a restart of the engine is no news"
    engine = Engine(short / "docker.sock")
    engine.documents["/version"] = {"Version": "28.0.0"}
    assert looker.look(gpus=False).engines["docker"] == "28.0.0"
    engine.close()


def test_an_engine_without_programs_that_goes_is_away(short: Path) -> None:
    looker = Looker(settings(short / "docker.sock"))
    assert looker.look(gpus=False).executors == ("process",)
    engine = Engine(short / "docker.sock")
    assert looker.look(gpus=False).executors == ("docker", "process")
    engine.close()
    found = looker.look(gpus=False)
    assert (found.executors, list(found.away)) == (("docker", "process"), ["docker"])


def test_a_socket_that_nobody_listens_to(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(short / "docker.sock"))
    found = Looker(settings(short / "docker.sock")).look(gpus=False)
    assert found.away == {
        "docker": f"Cannot connect to Docker daemon: nobody answers at {short / 'docker.sock'}: start the Docker engine"
    }


def test_an_engine_that_hangs_is_not_waited_for_long(
    engine: Engine, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities.ask, "__defaults__", (0.05,))
    engine.quiet.clear()
    assert "does not answer within" in Looker(settings(short / "docker.sock")).look(gpus=False).away["docker"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda engine: setattr(engine, "status", "503 Service Unavailable"), "'HTTP/1.0 503 Service Unavailable'"),
        (lambda engine: engine.documents.update({"/version": "<html>"}), "Expecting value"),
        (lambda engine: engine.documents.update({"/info": []}), "does not answer as it should"),
    ],
)
def test_what_is_no_engine(engine: Engine, short: Path, change: Callable[[Engine], None], text: str) -> None:
    change(engine)
    away = Looker(settings(short / "docker.sock")).look(gpus=False).away["docker"]
    assert text in away
    assert "see its log" in away


def test_who_may_not_use_the_socket_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(abilities, "ask", refuse)
    told = abilities.look_at_docker("/run/docker.sock", None)
    assert isinstance(told, str)
    assert "put the user into the group" in told


def test_an_engine_that_cannot_limit_memory_is_a_problem(engine: Engine, short: Path) -> None:
    engine.documents["/info"] = {**INFO, "MemoryLimit": False}
    assert Looker(settings(short / "docker.sock")).look(gpus=False).problems == (abilities.NO_MEMORY_LIMIT,)
    assert abilities.describe_docker({}, {}) == Docker("unknown", False, True)


# -- systemd


def test_systemd_as_root(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = Looker(settings()).look(gpus=False)
    assert found.executors == ("process", "systemd")
    assert found.can == ("systemd-numa", "systemd-private-network", "systemd-private-pid")
    assert found.engines["systemd"] == "252"
    assert found.engines["numactl"] == str(with_systemd / "numactl")


@pytest.mark.parametrize(("missing", "text"), [("systemd-run", abilities.NO_SYSTEMD_RUN), ("", abilities.NO_SYSTEMD)])
def test_without_systemd(with_systemd: Path, missing: str, text: str) -> None:
    if missing:
        (with_systemd / missing).unlink()
    else:
        (with_systemd.parent / "systemd").rmdir()
    found = Looker(settings()).look(gpus=False)
    assert (found.executors, found.cannot["systemd"], found.can) == (("process",), text, ())


def test_what_systemd_cannot_do_alone(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("numactl", "unshare"):
        (with_systemd / name).unlink()
    found = Looker(settings()).look(gpus=False)
    assert found.can == ("systemd-private-network",)
    assert found.cannot["systemd-numa"] == abilities.NO_NUMACTL
    assert found.cannot["systemd-private-pid"] == abilities.NO_PRIVATE_PID
    program(with_systemd, "systemctl", 'echo "systemd 257 (257.1)"')
    assert "systemd-private-pid" in Looker(settings()).look(gpus=False).can


def test_numactl_that_is_not_where_it_should_be(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = Looker(settings(paths={"numactl_path": "/nowhere/numactl"})).look(gpus=False)
    text = "paths.numactl_path = '/nowhere/numactl': there is no such program: correct it, or leave it empty"
    assert (found.problems, found.cannot["systemd-numa"]) == ((text,), text)
    there = settings(paths={"numactl_path": str(with_systemd / "numactl")})
    assert Looker(there).numactl == str(with_systemd / "numactl")


@pytest.mark.parametrize("refused", ["systemd-run", "systemctl", ""])
def test_sudo(with_systemd: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(with_systemd, "sudo", f'[ "$1" = -n ] && [ "$2" != "{refused}" ] && exec "$2" "$3"\n'
            'echo "sudo: a password is required" >&2; exit 1')  # fmt: skip
    found = Looker(settings()).look(gpus=False)
    if refused:
        assert found.executors == ("process",)
        assert found.cannot["systemd"].startswith(
            f"Permission denied when executing {refused}: sudo refuses it (sudo: a password is required): allow it"
        )
    else:
        assert found.executors == ("process", "systemd")


def test_no_sudo(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "No such file" in Looker(settings()).look(gpus=False).cannot["systemd"]


def test_a_user_for_tasks_who_does_not_exist(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    looker = Looker(settings(environment={"runner_user": "nobody-of-that-name"}))
    found = looker.look(gpus=False)
    assert "systemd" in found.executors
    assert found.away == {"systemd": "environment.runner_user = 'nobody-of-that-name': there is no such user here: "
                                     "make it, or correct the name"}  # fmt: skip
    monkeypatch.setattr(pwd, "getpwnam", lambda name: name)
    assert looker.look(gpus=False).away == {}, "it was made"


def test_systemd_that_goes_is_away(with_systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    looker = Looker(settings())
    looker.look(gpus=False)
    (with_systemd.parent / "systemd").rmdir()
    assert looker.look(gpus=False).away == {"systemd": abilities.NO_SYSTEMD}


# -- programs


def test_programs_are_not_waited_for(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    assert answer(["sleep", "60"], 0.05) == Answer(False, "no answer within 0 s")
    assert answer(["sh", "-c", "echo a; echo b >&2; exit 3"]) == Answer(False, "b")
    assert answer(["sh", "-c", "exit 3"]) == Answer(False, "exit status 3")
    assert answer(["echo", "a"]) == Answer(True, "a\n")
    assert answer([str(bare / "none")]) == Answer(False, "No such file or directory")


@pytest.mark.parametrize(
    ("files", "version"), [(["cgroup.controllers"], "2"), (["memory/tasks"], "1"), ([], "")]
)  # fmt: skip
def test_the_version_of_cgroups(scratch: Path, files: list[str], version: str) -> None:
    for name in files:
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_text("")
    assert abilities.cgroup_version(str(scratch)) == version


# -- all of it, as a runner has it


def test_the_lookout_sees_an_engine_that_comes(short: Path, monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    from hakuriver.runner import machine

    monkeypatch.setattr(machine, "LOOK_S", 0.02)
    program(bare, "dockerd")
    lookout = machine.Lookout(settings(short / "docker.sock", resources={"cores": 3}))
    lookout.start()
    before = lookout.machine()
    assert (before.cores, before.executors, before.gpus) == (3, ("docker", "process"), ())
    assert list(lookout.conditions().away) == ["docker"]
    engine = Engine(short / "docker.sock")
    eventually(lambda: not lookout.conditions().away)
    assert lookout.machine().engines["docker"] == "27.5.1"
    assert lookout.load().memory_total_bytes > 0
    engine.close()
    eventually(lambda: lookout.conditions().away)
    lookout.stop()
