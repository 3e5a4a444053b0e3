"""Environments on a real Docker engine and a real host: made, entered, packaged, loaded elsewhere, left as found."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

if os.environ.get("ENGINES") != "1":
    pytest.skip("as root: make test-engines", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))  # what tests of real processes share

from cluster import CALM, SHORT, Cluster
from daemons import PATIENCE_S, Daemon, can_mount, mount, unmount
from lab.dockerd import Dockerd

from hakuriver import client
from hakuriver.client import Receipt, Refused
from hakuriver.records import EnvironmentsIndex, Manifest
from hakuriver.spool import layout

#: A task's environment in the field is gigabytes; so much takes seconds here, long enough to be killed in.
LARGE = 400 << 20
IMAGE = "shell:1"
#: What is large takes seconds, and a minute or two on a busy machine.
LONG_S = 120.0


@pytest.fixture(scope="module")
def engine(module_scratch: Path) -> Iterator[Dockerd]:
    """The host's engine."""
    with Dockerd(module_scratch / "host-engine") as made:
        made.add_image("shell", IMAGE)
        made.add_image("entrypoint", "entry:1")
        yield made


@pytest.fixture(scope="module")
def other(module_scratch: Path) -> Iterator[Dockerd]:
    """A node's engine."""
    with Dockerd(module_scratch / "node-engine") as made:
        yield made


class River(Cluster):
    """A share with a host whose engine is a lab's."""

    def __init__(self, directory: Path, engine: Dockerd, timing: dict[str, float] = CALM, **docker: Any) -> None:
        super().__init__(directory, timing=timing, docker={"host": f"unix://{engine.socket}", **docker})
        self.engine = engine
        self.daemon: Daemon = self.start_host()

    def __enter__(self) -> River:
        return self

    @property
    def index(self) -> EnvironmentsIndex:
        return EnvironmentsIndex.model_validate_json(self.path(layout.ENVIRONMENTS_INDEX).read_bytes())

    @property
    def packages(self) -> list[str]:
        return [manifest.name for manifest in self.index.packages]

    def shown(self, environment: str) -> tuple[str, str] | None:
        """State and image of an environment's container, as the index has them."""
        return next(((c.state, c.image) for c in self.index.containers if c.environment == environment), None)

    def lying(self) -> list[str]:
        return sorted(self.names(layout.CONTAINERS))

    def do(self, kind: str, environment: str, **more: Any) -> Receipt:
        return self.ask(kind, environment=environment, timeout=LONG_S, **more)

    def refused(self, kind: str, environment: str, **more: Any) -> str:
        with pytest.raises(Refused) as caught:
            self.do(kind, environment, **more)
        return str(caught.value)

    def hang_while_saving(self) -> None:
        """Have the engine stop in the middle of a tarball, which is then neither whole nor given up."""
        eventually(lambda: _saving(self), LONG_S, "the saving")
        self.engine.hang(True)
        assert _saving(self)

    def begin_one(self, kind: str, environment: str) -> str:
        share = str(self.share)
        return client.request(kind, environment=environment, shared_dir=share, timeout=0).request

    def state(self, environment: str) -> str:
        """Of an environment's container, as the engine says."""
        name = layout.environment_container(environment)
        return self.engine.cli("inspect", "--format", "{{.State.Status}}", name).strip()

    def inside(self, environment: str, script: str) -> str:
        return self.engine.cli("exec", layout.environment_container(environment), "sh", "-c", script)

    def command(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "hakuriver", "--config", str(self.daemon.config), *argv]

    def run(self, *argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A command line, without a terminal."""
        return subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, timeout=60, **more)

    def manifest(self, name: str) -> Manifest:
        return Manifest.model_validate_json(self.path(layout.manifest(name)).read_bytes())


@pytest.fixture(scope="module")
def river(module_scratch: Path, engine: Dockerd) -> Iterator[River]:
    (module_scratch / "river").mkdir()
    with River(module_scratch / "river", engine) as made:
        yield made


@pytest.fixture
def own(scratch: Path, engine: Dockerd) -> Iterator[River]:
    """A river of a test's own, on the same engine."""
    with River(scratch, engine) as made:
        yield made


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, {**os.environ, "TERM": "xterm"})
        self.seen = ""

    def until(self, text: str, deadline_s: float = PATIENCE_S) -> str:
        """Read until this has come; what came with it."""
        end, found = time.monotonic() + deadline_s, ""
        while text not in found and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                found += os.read(self.fd, 65536).decode(errors="replace")
        assert text in found, found
        self.seen += found
        return found

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def status(self) -> int:
        """Wait for its end; its exit status."""
        while True:
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


# -- containers


def test_a_container_s_life(river: River) -> None:
    assert river.do("create-container", "life", image=IMAGE).text == f"life is made from {IMAGE}, and runs"
    assert river.state("life") == "running"
    assert river.shown("life") == ("running", IMAGE)
    assert "is there already" in river.do("create-container", "life", image=IMAGE).text
    started = river.engine.cli("inspect", "--format", "{{.State.StartedAt}}", "hakuriver-env-life")
    river.do("start-container", "life")
    assert river.engine.cli("inspect", "--format", "{{.State.StartedAt}}", "hakuriver-env-life") == started
    river.do("stop-container", "life")
    assert river.state("life") == "exited"
    exit_code = river.engine.cli("inspect", "--format", "{{.State.ExitCode}}", "hakuriver-env-life")
    assert exit_code == "0\n", "it hears TERM, and is not killed in the end"
    assert river.shown("life") == ("exited", IMAGE)
    river.do("stop-container", "life")
    river.do("start-container", "life")
    assert river.state("life") == "running"
    river.do("delete-container", "life")
    assert "hakuriver-env-life" not in river.engine.containers()
    assert river.shown("life") is None
    assert "there is no such environment's container" in river.refused("delete-container", "life")


def test_what_cannot_be_done_is_said(river: River) -> None:
    river.do("create-container", "said", image=IMAGE)
    assert f"made from {IMAGE}" in river.refused("create-container", "said", image="entry:1")
    assert "hakuriver docker create-container" in river.refused("start-container", "nope")
    assert "it is not in the host's engine and cannot be pulled" in river.refused(
        "create-container", "x", image="no-such:1"
    )
    assert "no registry is asked" in river.refused("create-container", "x", image="hakuriver/nope:base")
    assert "invalid reference format" in river.refused("create-container", "x", image="a:b:c:d")
    river.do("delete-container", "said")


def test_an_image_without_a_shell_leaves_no_container(river: River, module_scratch: Path) -> None:
    empty = module_scratch / "empty.tar"
    subprocess.run(["tar", "-cf", str(empty), "-C", str(module_scratch), "--files-from", "/dev/null"], check=True)
    river.engine.cli("import", str(empty), "empty:1")
    assert "an image with sh and sleep" in river.refused("create-container", "hollow", image="empty:1")
    assert "hakuriver-env-hollow" not in river.engine.containers()


def test_an_entrypoint_does_not_get_in_the_way(river: River) -> None:
    river.do("create-container", "entry", image="entry:1")
    assert river.state("entry") == "running"
    name = _package(river, "entry")
    made = json.loads(river.engine.cli("inspect", river.manifest(name).image_id))[0]["Config"]
    assert not made["Entrypoint"]
    river.do("delete-container", "entry")


def test_foreign_containers_and_images_are_left_alone(river: River) -> None:
    engine = river.engine
    engine.cli("create", "--name", "hakuriver-env-foreign", IMAGE, "true")
    engine.cli("tag", IMAGE, "hakuriver/taken:base")
    engine.cli("create", "--name", "bystander", IMAGE, "true")
    dangling = engine.cli("commit", "bystander").strip()
    river.do("create-container", "taken", image=IMAGE)
    try:
        for kind in ("start-container", "stop-container", "delete-container", "create-tar"):
            assert "is not this river's" in river.refused(kind, "foreign")
        assert "is not this river's" in river.refused("create-container", "foreign", image=IMAGE)
        assert "that is no environment's" in river.refused("create-tar", "taken")
        assert {"bystander", "hakuriver-env-foreign"} <= set(engine.containers())
        assert engine.cli("image", "inspect", "--format", "{{.Id}}", "hakuriver/taken:base") == engine.cli(
            "image", "inspect", "--format", "{{.Id}}", IMAGE
        )
        engine.cli("rmi", "hakuriver/taken:base")
        for _ in range(3):
            _package(river, "taken")
        assert engine.cli("image", "inspect", "--format", "{{.Id}}", dangling).strip() == dangling
        # Whoever runs a packaged image by hand has its labels with it, and no environment's container.
        engine.cli("run", "-d", "--name", "by-hand", "hakuriver/taken:base", "sleep", "1000")
        assert [c.environment for c in river.index.containers].count("taken") == 1
        river.do("delete-container", "taken")
        assert "by-hand" in engine.containers()
    finally:
        engine.cli("rm", "-f", "by-hand", "bystander", "hakuriver-env-foreign")


# -- a shell


def test_a_shell_on_a_terminal(river: River) -> None:
    river.do("create-container", "shelled", image=IMAGE)
    terminal = Terminal(river.command("docker-shell", "shelled"))
    terminal.until("/ # ")
    terminal.resize(33, 101)
    # The engine is told of the new size a moment later.
    terminal.type("while [ \"$(stty size)\" != '33 101' ]; do sleep 0.1; done; tty; echo $TERM si''ze\n")
    shown = terminal.until("xterm size")
    assert "/dev/pts/" in shown
    terminal.type("sleep 1234\n")
    # Once it is that program it has the terminal, not the shell any more.
    eventually(lambda: "sleep 1234" in river.engine.cli("top", "hakuriver-env-shelled"))
    terminal.type("\x03")
    terminal.until("/ # ")
    terminal.type("echo status=$?; echo kept > /kept; exit 7\n")
    assert terminal.status() == 7
    assert "status=130" in terminal.seen
    assert river.inside("shelled", "cat /kept") == "kept\n"


def test_a_shell_without_a_terminal(river: River) -> None:
    river.do("create-container", "piped", image=IMAGE)
    ran = river.run("docker", "shell", "piped", input="echo from a pipe; tty; exit 3\n")
    assert (ran.returncode, ran.stdout) == (3, "from a pipe\nnot a tty\n")
    river.do("stop-container", "piped")
    ran = river.run("docker-shell", "piped", input="true\n")
    assert ran.returncode == 1
    assert "`hakuriver docker start-container piped`" in ran.stderr
    ran = river.run("docker-shell", "nope", input="true\n")
    assert ran.returncode == 1
    assert "environments live on the host" in ran.stderr
    river.engine.cli("create", "--name", "hakuriver-env-theirs", IMAGE, "true")
    ran = river.run("docker-shell", "theirs", input="true\n")
    assert "is left alone" in ran.stderr
    river.engine.cli("rm", "hakuriver-env-theirs")


def test_a_shell_where_no_engine_is(river: River) -> None:
    river.engine.away(True)
    try:
        ran = river.run("docker-shell", "any", input="true\n")
    finally:
        river.engine.away(False)
    assert ran.returncode == 1
    assert "docker unavailable here" in ran.stderr


# -- packages


def _package(river: River, environment: str) -> str:
    text = river.do("create-tar", environment).text
    return text.partition(".tar ")[0]


@pytest.mark.parametrize("state", ["running", "exited", "paused"])
def test_a_package_loads_elsewhere_and_the_container_is_as_it_was(river: River, other: Dockerd, state: str) -> None:
    env = f"env-{state}"
    container = layout.environment_container(env)
    river.do("create-container", env, image=IMAGE)
    river.inside(env, f"echo made in {env} > /made")
    if state != "running":
        river.engine.cli("stop" if state == "exited" else "pause", container)
    before = river.engine.cli("inspect", "--format", "{{.State.StartedAt}} {{.State.FinishedAt}}", container)
    name = _package(river, env)
    assert river.state(env) == state
    assert river.engine.cli("inspect", "--format", "{{.State.StartedAt}} {{.State.FinishedAt}}", container) == before

    manifest = river.manifest(name)
    tarball = river.path(layout.tarball(name))
    assert manifest.size_bytes == tarball.stat().st_size
    assert manifest.sha256 == hashlib.sha256(tarball.read_bytes()).hexdigest()
    assert (manifest.environment, manifest.source) == (env, IMAGE)
    other.cli("load", "--input", str(tarball))
    tag = layout.environment_image(env)
    assert other.cli("image", "inspect", "--format", "{{.Id}}", tag).strip() == manifest.image_id
    assert other.cli("run", "--rm", manifest.image_id, "cat", "/made") == f"made in {env}\n"
    assert river.engine.cli("image", "inspect", "--format", "{{.Id}}", tag).strip() == manifest.image_id
    river.do("delete-container", env)
    assert name in river.packages


def test_two_packages_are_kept_and_what_they_supersede_goes(river: River) -> None:
    river.do("create-container", "often", image=IMAGE)
    names = []
    for number in range(4):
        river.inside("often", f"echo {number} > /number")
        names.append(_package(river, "often"))
    mine = [name for name in river.packages if name.startswith("often-")]
    assert mine == names[2:]
    assert sorted(names) == names
    assert [name for name in river.lying() if name.startswith("often-")] == sorted(
        f"{name}.{part}" for name in mine for part in ("tar", "json")
    )
    ids = river.engine.cli(
        "images", "--all", "--quiet", "--no-trunc", "--filter", "label=hakuriver.environment=often"
    ).split()
    assert sorted(set(ids)) == sorted(river.manifest(name).image_id for name in mine)


def test_what_a_node_loads_or_a_container_uses_stays(river: River) -> None:
    river.do("create-container", "used", image=IMAGE)
    river.start_runner("n1")
    first = _package(river, "used")
    image = river.manifest(first).image_id
    river.engine.cli("run", "-d", "--name", "user", image, "sleep", "1000")
    loading = river.path(layout.in_use(first, "n1"))
    loading.touch()
    river.inside("used", "touch /another")
    for _ in range(3):
        _package(river, "used")
    assert first in river.packages
    assert f"loaded: {first} by n1" in river.refused("delete-tar", first)
    loading.unlink()
    _package(river, "used")
    assert first not in river.packages
    assert river.engine.cli("inspect", "--format", "{{.State.Status}}", "user").strip() == "running"
    river.engine.cli("rm", "-f", "user")
    _package(river, "used")
    assert image not in river.engine.cli("images", "--all", "--quiet", "--no-trunc")
    assert river.do("delete-tar", "used").text.startswith("deleted used-")
    assert not [name for name in river.lying() if name.startswith("used-")]
    assert river.state("used") == "running"


# -- what the commands print


def test_the_commands(river: River) -> None:
    ran = river.run("docker", "create-container", IMAGE, "cmd")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"cmd is made from {IMAGE}, and runs\n", "")
    ran = river.run("docker", "create-tar", "cmd")
    assert ran.returncode == 0
    assert ran.stderr == ""  # no bar without a terminal
    name = ran.stdout.partition(".tar ")[0]
    rows = [line.split() for line in river.run("docker", "list-tars").stdout.splitlines()]
    assert rows[0] == ["ENVIRONMENT", "PACKAGE", "SIZE", "CREATED", "AGE", "SOURCE", "IMAGE"]
    assert ["cmd", name] in [row[:2] for row in rows]
    listed = json.loads(river.run("docker", "list-tars", "--json").stdout)["packages"]
    assert river.manifest(name).model_dump() in listed
    shown = river.run("docker", "list-containers").stdout
    assert ["cmd", "running", IMAGE] in [line.split()[:3] for line in shown.splitlines()]
    assert "deleted" in river.run("docker", "delete-tar", name).stdout
    ran = river.run("docker", "delete-container", "cmd", "--json")
    assert json.loads(ran.stdout)["requests"][0]["outcome"] == "done"
    ran = river.run("docker", "stop-container", "cmd")
    assert ran.returncode == 1
    assert ran.stderr.startswith("hakuriver: refused: environment = cmd: there is no such environment's container")


def test_the_page(river: River) -> None:
    river.do("create-container", "paged", image=IMAGE)
    name = _package(river, "paged")
    page = river.path(layout.page("docker.html"))
    eventually(lambda: page.exists() and name in page.read_text(), LONG_S, "the page")
    text = page.read_text()
    assert river.manifest(name).image_id[:19] in text
    assert f"Docker {river.index.engine}" in text
    eventually(lambda: 'href="docker.html"' in river.path(layout.page("nodes.html")).read_text(), LONG_S, "the link")


# -- large ones, and what goes wrong


def _grow(river: River, environment: str, size: int = LARGE) -> None:
    river.do("create-container", environment, image=IMAGE)
    river.inside(environment, f"dd if=/dev/urandom of=/large bs=1M count={size >> 20} 2>/dev/null")


def _saving(river: River) -> bool:
    """Whether a tarball is being written just now."""
    files = list(river.path(layout.CONTAINERS).glob(".*.tar.*.tmp"))
    try:
        return any(path.stat().st_size > 1 << 20 for path in files)
    except FileNotFoundError:
        return False  # it is whole, as of now


def test_a_bar_while_gigabytes_are_saved_and_the_ticks_go_on(river: River) -> None:
    _grow(river, "large")
    terminal = Terminal(river.command("docker", "create-tar", "large"))
    river.hang_while_saving()
    try:
        terminal.until("saving  [", LONG_S)
        seen = river.index
        assert seen.progress[0].kind == "create-tar"
        assert (seen.progress[0].total_bytes or 0) >= LARGE
        assert river.ask("reindex").outcome == "done"
        assert river.index.progress, "the ticks have not waited for its end"
    finally:
        river.engine.hang(False)
    assert terminal.status() == 0
    assert "100%" in terminal.seen
    assert not river.index.progress


def test_ctrl_c_leaves_the_request_going(river: River) -> None:
    _grow(river, "large")
    before = set(river.packages)
    terminal = Terminal(river.command("docker", "create-tar", "large"))
    river.hang_while_saving()
    try:
        terminal.until("saving  [", LONG_S)
        terminal.type("\x03")
        assert terminal.status() == 130
    finally:
        river.engine.hang(False)
    assert "the request goes on" in terminal.seen
    eventually(lambda: [name for name in set(river.packages) - before if name.startswith("large-")], LONG_S)
    eventually(lambda: not river.index.progress, LONG_S)
    river.do("delete-tar", "large")
    river.do("delete-container", "large")


def test_a_host_killed_while_saving_makes_one_package_and_one_receipt(own: River, other: Dockerd) -> None:
    _grow(own, "killed")
    request = own.begin_one("create-tar", "killed")
    eventually(lambda: _saving(own), LONG_S, "the saving")
    own.daemon.kill()
    assert own.packages == []
    assert own.receipts("create-tar") == []
    own.daemon.start()
    assert own.receipt(request, LONG_S).outcome == "done"
    own.do("stop-container", "killed")  # whatever had been done twice would be done by now
    assert len(own.receipts("create-tar")) == 1
    (name,) = own.packages
    assert own.lying() == [f"{name}.json", f"{name}.tar"]
    assert not list(own.path(layout.CONTAINERS).glob(".*"))
    other.cli("load", "--input", str(own.path(layout.tarball(name))))
    assert own.manifest(name).image_id in other.cli("images", "--quiet", "--no-trunc")
    mine = own.engine.cli("images", "--all", "--quiet", "--no-trunc", "--filter", "label=hakuriver.environment=killed")
    assert mine.split() == [own.manifest(name).image_id]
    own.do("delete-container", "killed")


def test_an_engine_that_is_away_is_said_and_comes_back(own: River) -> None:
    own.do("create-container", "away", image=IMAGE)
    own.engine.away(True)
    try:
        said = own.refused("create-tar", "away")
        assert "docker unavailable on host: Cannot connect to Docker daemon at unix://" in said
        assert own.index.engine == ""
        assert "Cannot connect" in own.run("docker", "list-containers").stderr
        assert own.do("delete-tar", "away") if own.packages else True
    finally:
        own.engine.away(False)
    _package(own, "away")
    assert own.index.engine
    own.do("delete-container", "away")


def test_an_engine_that_hangs_holds_no_tick_up(own: River) -> None:
    own.do("create-container", "hung", image=IMAGE)
    own.engine.hang(True)
    try:
        request = own.begin_one("create-tar", "hung")
        assert own.ask("reindex").outcome == "done"
        assert client.read_receipt(client.open_share(str(own.share)), request) is None
    finally:
        own.engine.hang(False)
    assert own.receipt(request).outcome == "done"
    own.do("delete-container", "hung")


def test_an_engine_that_dies_while_saving_leaves_nothing(own: River) -> None:
    _grow(own, "died")
    request = own.begin_one("create-tar", "died")
    eventually(lambda: _saving(own), LONG_S, "the saving")
    own.engine.kill()
    try:
        receipt = own.receipt(request, LONG_S)
        assert receipt.outcome == "refused"
        assert "docker unavailable on host" in receipt.errors[0].message
        assert own.lying() == []
        assert not list(own.path(layout.CONTAINERS).glob(".*"))
    finally:
        own.engine.start()
    own.do("start-container", "died")
    _package(own, "died")
    own.do("delete-container", "died")


def test_a_full_share_is_said_and_nothing_is_left(own: River, scratch: Path) -> None:
    if not can_mount(scratch):
        pytest.skip("this root may not mount")
    place = own.path(layout.CONTAINERS)
    mount("-t", "tmpfs", "-o", "size=1m", "none", str(place))
    try:
        own.do("create-container", "full", image=IMAGE)
        assert "the file system is full: free some space" in own.refused("create-tar", "full")
        assert list(place.iterdir()) == []
    finally:
        unmount(place)
    _package(own, "full")
    own.do("delete-container", "full")


def test_the_default_environment_is_made_in_the_background(scratch: Path, engine: Dockerd) -> None:
    with River(scratch, engine, initial_base_image=IMAGE, default_container_name="base") as river:
        eventually(lambda: river.path(layout.ENVIRONMENTS_INDEX).exists() and river.packages, LONG_S)
        (name,) = river.packages
        assert river.manifest(name).environment == "base"
        assert river.receipts("create-tar") == []
        river.daemon.stop()
        river.daemon.start()
        river.do("stop-container", "base")
        assert river.packages == [name]
        river.do("delete-tar", "base")
        river.daemon.stop()
        river.daemon.start()  # from the container that is there, as it is
        eventually(lambda: [p for p in river.packages if p != name], LONG_S)
        assert river.state("base") == "exited"
        river.do("delete-container", "base")


def test_a_default_environment_that_cannot_be_made_holds_nothing_up(scratch: Path, engine: Dockerd) -> None:
    with River(scratch, engine, initial_base_image="no-such-image:1") as river:
        eventually(
            lambda: (
                river.path(layout.ENVIRONMENTS_INDEX).exists() and "cannot be pulled" in river.index.default_problem
            ),
            LONG_S,
        )
        assert "cannot be pulled" in river.daemon.log
        river.do("create-container", "beside", image=IMAGE)
        river.do("delete-container", "beside")
        page = river.path(layout.page("docker.html"))
        eventually(lambda: page.exists() and "cannot be pulled" in page.read_text(), LONG_S)


def test_a_frozen_host_s_order_is_not_published_by_it(own: River) -> None:
    """Another host takes over while one is frozen in the middle of saving: the first publishes nothing later."""
    _grow(own, "frozen")
    request = own.begin_one("create-tar", "frozen")
    eventually(lambda: _saving(own), LONG_S, "the saving")
    own.daemon.freeze()
    baton = own.baton()
    own.path(baton.path).rename(own.path(layout.Baton(baton.term + 1, "0123456789ab", baton.seq, 0).path))
    own.daemon.thaw()
    eventually(lambda: not list(own.path(layout.CONTAINERS).glob(".*")), LONG_S, "the end of the saving")
    assert own.lying() == []
    assert client.read_receipt(client.open_share(str(own.share)), request) is None
    own.engine.cli("rm", "-f", "hakuriver-env-frozen")


def test_a_host_that_takes_over_answers_for_containers_that_it_does_not_have(
    scratch: Path, engine: Dockerd, other: Dockerd
) -> None:
    with River(scratch, engine, timing=SHORT) as river:
        _grow(river, "left")
        request = river.begin_one("create-tar", "left")
        eventually(lambda: _saving(river), LONG_S, "the saving")
        river.daemon.kill()
        river.start_host("m2", docker={"host": f"unix://{other.socket}"})
        receipt = river.receipt(request)
        assert receipt.outcome == "refused"
        assert "took it and leads no longer" in receipt.errors[0].message
        assert "hakuriver-env-left" not in other.containers()
        eventually(lambda: not river.index.containers, LONG_S)
        assert not list(river.path(layout.CONTAINERS).iterdir())
        assert river.state("left") == "running"
        assert "create-container IMAGE left" in river.refused("create-tar", "left")
    engine.cli("rm", "-f", "hakuriver-env-left")


def test_a_task_runs_in_what_was_packaged_last(own: River, other: Dockerd) -> None:
    own.do("create-container", "used-last", image=IMAGE)
    own.start_runner("n1", docker={"host": f"unix://{other.socket}"})
    for text in ("first", "second"):
        own.inside("used-last", f"echo {text} > /version")
        _package(own, "used-last")
        job = own.submit(["cat", "/version"], container="used-last")  # at once: no older package will do
        assert own.ended(job, 90.0).state == "completed"
        assert own.out(job) == f"{text}\n"
    own.do("delete-tar", "used-last")
    with pytest.raises(Refused, match="used-last"):
        own.submit(["true"], container="used-last", receipt_timeout=PATIENCE_S)
    own.do("delete-container", "used-last")
