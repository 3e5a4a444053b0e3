"""The thread that carries out orders: what it answers when engine or share fail, and when another host leads.

What a real engine does is tested in tests/engines; the stand-in for one only says what no lab can: a registry's words.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import eventually

from hakuriver.host import carrying
from hakuriver.host.containers import Cannot, Engine, Unavailable
from hakuriver.host.environments import Environments
from hakuriver.host.packaging import Packages
from hakuriver.host.requests import Order
from hakuriver.ids import new_job_id
from hakuriver.records import EnvironmentsIndex, Manifest
from hakuriver.settings import parse
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk, ShareError
from hakuriver.spool.layout import Baton

HOST = "aabbccddeeff"


class Flaky(LocalDisk):
    """A share that fails when it is told to."""

    failing: int | None = None  #: with this errno

    def list(self, path: str) -> Any:
        if self.failing is not None:
            raise ShareError("list", path, OSError(self.failing, os.strerror(self.failing)))
        return super().list(path)


class River:
    """A share, and the thread of a host that leads."""

    def __init__(self, root: Path, **docker: Any) -> None:
        self.disk = Flaky(str(root))
        for path in layout.TREE:
            (root / path).mkdir(parents=True)
        self.disk.write(layout.SENTINEL, b"{}")
        self.socket = f"/tmp/hakuriver-{new_job_id()}.sock"
        settings = parse({"docker": {"host": f"unix://{self.socket}", **docker}}, "test", str(root))
        self.told: list[dict[str, Any]] = []
        self.mail = Environments(
            self.disk, settings, "cluster", now=lambda: 1000.0, new_id=new_job_id, tell=self.told.append
        )
        self.baton = Baton(1, HOST, 0, 0)
        self.disk.write(self.baton.path, b"")

    def lead(self, *open_orders: Order) -> None:
        self.mail.lead(self.baton, list(open_orders))

    def order(self, kind: str = "create-tar", environment: str = "my-env") -> Order:
        return Order(new_job_id(), "x.json", kind, 0, HOST, environment, "i" if kind == "create-container" else None)

    def ask(self, *orders: Order) -> list[dict[str, Any]]:
        """Give them, and wait for as many receipts."""
        self.mail.take(orders, frozenset())
        return self.receipts(len(orders))

    def receipts(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many."""
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            found.extend(self.mail.answered())
            return len(found) >= count

        eventually(answered)
        return found

    @property
    def index(self) -> EnvironmentsIndex | None:
        try:
            return EnvironmentsIndex.model_validate_json(self.disk.read(layout.ENVIRONMENTS_INDEX))
        except FileNotFoundError:
            return None

    def package(self, name: str) -> None:
        environment = name.rpartition("-")[0]
        manifest = Manifest(
            environment=environment, name=name, image_id="sha256:1", size_bytes=1, sha256="0", created_at=1.0
        )
        self.disk.write(layout.tarball(name), b"x")
        self.disk.write(layout.manifest(name), manifest.model_dump_json().encode())


@pytest.fixture
def river(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[River]:
    monkeypatch.setattr(carrying, "RETRY_S", 0.05)
    monkeypatch.setattr(carrying, "LEADS_S", 0.0)
    made = River(scratch / "river")
    yield made
    made.mail.stand_by()


def message(receipt: dict[str, Any]) -> str:
    return str(receipt["errors"][0]["message"])


def test_without_an_engine_orders_are_answered_with_the_reason(river: River) -> None:
    river.lead()
    why = f"docker unavailable on host: Cannot connect to Docker daemon at unix://{river.socket}: No such file"
    for kind in ("create-container", "start-container", "stop-container", "delete-container", "create-tar"):
        (receipt,) = river.ask(river.order(kind))
        assert (receipt["outcome"], receipt["kind"]) == ("refused", kind)
        assert message(receipt).startswith(why)
    index = river.index
    assert index is not None
    assert index.engine == ""
    assert index.problem.startswith(why)
    assert index.progress == []


def test_packages_are_listed_and_deleted_without_an_engine(river: River) -> None:
    river.package("my-env-5")
    river.lead()
    eventually(lambda: river.index)
    assert river.index is not None
    assert [p.name for p in river.index.packages] == ["my-env-5"]
    (receipt,) = river.ask(river.order("delete-tar"))
    assert (receipt["outcome"], receipt["text"]) == ("done", "deleted my-env-5.tar")
    assert river.index.packages == []
    assert [len(told["packages"]) for told in river.told][-1] == 0


def test_the_bell_rings_with_each_answer(river: River) -> None:
    river.lead()
    river.ask(river.order())
    eventually(lambda: select.select([river.mail.bell], [], [], 0)[0])
    assert os.eventfd_read(river.mail.bell) == 1
    river.mail.hush()
    river.mail.hush()


def test_a_host_without_docker_does_not_load_the_sdk(scratch: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from test_environments_thread import River
import hakuriver.host.daemon
river = River(Path({str(scratch / "river")!r}))
river.lead()
while river.index is None:
    time.sleep(0.01)
sys.exit("docker" in sys.modules or "urllib3" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_an_order_waits_for_a_share_that_is_away(river: River) -> None:
    river.package("my-env-5")
    river.lead()
    eventually(lambda: river.index)
    river.disk.failing = errno.ENOTCONN
    river.mail.take([river.order("delete-tar")], frozenset())
    threading.Event().wait(0.3)
    assert river.mail.answered() == []
    river.disk.failing = None
    assert river.receipts()[0]["outcome"] == "done"


def test_a_fault_is_answered_and_holds_no_other_order_up(
    river: River, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(*_: object) -> None:
        raise KeyError("State")

    monkeypatch.setattr(Packages, "delete", faulty)
    river.lead()
    first, second = river.ask(river.order("delete-tar"), river.order("start-container"))
    assert "a fault in HakuRiver itself: KeyError('State')" in message(first)
    assert "docker unavailable" in message(second)
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("number", sorted(carrying.LASTING))
def test_what_waiting_does_not_mend_is_answered(river: River, number: int) -> None:
    river.lead()
    eventually(lambda: river.index)
    river.mail.take([], frozenset())
    river.disk.failing = number
    order = river.order("delete-tar")
    river.mail.take([order], frozenset())
    (receipt,) = river.receipts()
    assert receipt["outcome"] == "refused"
    assert receipt["errors"][0]["field"] == "share"
    river.disk.failing = None
    river.package("my-env-5")
    assert river.ask(river.order("delete-tar"))[0]["outcome"] == "done"


def test_another_host_that_leads_is_noticed_by_its_baton(river: River) -> None:
    river.package("my-env-5")
    river.lead()
    eventually(lambda: river.index)
    river.disk.rename(river.baton.path, Baton(2, "112233445566", 0, 0).path)
    river.mail.take([river.order("delete-tar")], frozenset())
    eventually(lambda: river.mail._baton is None)
    assert river.mail.answered() == []
    assert (Path(river.disk.root) / layout.manifest("my-env-5")).exists()


def test_orders_of_a_lead_that_is_over_are_forgotten(river: River) -> None:
    river.lead()
    eventually(lambda: river.index)
    river.mail.stand_by()
    river.mail.take([river.order()], frozenset())
    later = Baton(2, HOST, 0, 0)
    river.disk.rename(river.baton.path, later.path)
    mine = river.order()
    river.mail.lead(later, [mine])
    river.mail.stand_by()
    river.mail.lead(later, [])
    river.package("my-env-5")
    assert river.ask(river.order("delete-tar"))[0]["outcome"] == "done"


def test_an_order_of_before_a_restart_waits_for_its_engine(river: River, monkeypatch: pytest.MonkeyPatch) -> None:
    order = river.order()
    tries: list[None] = []

    def engine(_socket: str, _owner: str) -> Any:
        tries.append(None)
        raise Unavailable(_socket, "Connection refused")

    def monotonic() -> float:
        """Its patience ends with the sixth try."""
        return time.monotonic() + (carrying.ENGINE_WAIT_S if len(tries) > 5 else 0.0)

    monkeypatch.setattr(carrying, "Engine", engine)
    monkeypatch.setattr(carrying, "time", SimpleNamespace(monotonic=monotonic))
    Path(river.socket).touch()
    try:
        river.lead(order)
        (receipt,) = river.receipts()
    finally:
        Path(river.socket).unlink()
    assert "Connection refused" in message(receipt)
    assert len(tries) > 5


def test_what_nobody_finishes_is_removed_at_the_start(river: River) -> None:
    mine, gone = river.order(), new_job_id()
    for request in (mine.request, gone):
        river.disk.write(layout.unfinished_tarball("my-env-5", request), b"half")
    river.package("my-env-7")
    river.disk.rename(layout.manifest("my-env-7"), layout.removed_manifest("my-env-7"))
    river.lead(mine)
    directory = Path(river.disk.root) / layout.CONTAINERS
    eventually(lambda: [p.name for p in directory.iterdir()] == [f".my-env-5.tar.{mine.request}.tmp"])


def test_a_default_environment_that_is_there_is_not_made(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(carrying, "DEFAULT_S", 0.05)
    river = River(scratch / "river", initial_base_image="busybox", default_container_name="base")
    try:
        river.lead()
        eventually(lambda: river.index and "docker unavailable on host" in river.index.default_problem)
        assert "the default environment base waits: docker unavailable on host" in caplog.text
        river.package("base-5")
        eventually(lambda: river.index and not river.index.default_problem)
    finally:
        river.mail.stand_by()


# -- a registry's answers


class Registry(BaseHTTPRequestHandler):
    """An engine that has no image and can pull what the test says."""

    protocol_version = "HTTP/1.1"
    lines: tuple[dict[str, Any], ...] = ()
    tarball = b""
    cut = False  #: the connection ends in the middle

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "stand-in"})
        elif "/get" in self.path:
            self._stream([self.tarball])
        else:
            self._answer(404, {"message": "No such image"})

    def do_POST(self) -> None:
        self._stream([json.dumps(line).encode() + b"\n" for line in self.lines])

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, parts: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in filter(None, parts):  # an empty one would end it
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        if self.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "test"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> Any:
        request, _ = super().get_request()
        return request, ("test", 0)


@pytest.fixture
def registry() -> Iterator[type[Registry]]:
    class Mine(Registry):
        path_of_socket = f"/tmp/hakuriver-{new_job_id()}.sock"

    server = Server(Mine.path_of_socket, Mine)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield Mine
    server.shutdown()
    server.server_close()
    os.unlink(Mine.path_of_socket)


def engine_of(registry: Any) -> Engine:
    return Engine(registry.path_of_socket, "cluster")


def test_progress_of_a_pull_is_over_all_layers(registry: type[Registry]) -> None:
    def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
        return {"status": "Downloading", "id": layer, "progressDetail": {"current": current, "total": total}}

    registry.lines = (
        {"status": "Pulling from library/busybox", "id": "latest"},
        downloading("a", 10, 100), downloading("b", 5, 50), downloading("a", 100, 100),
        {"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 9}},
        {"status": "Pull complete", "id": "a", "progressDetail": {}},
    )  # fmt: skip
    steps: list[Any] = []
    engine_of(registry).have("busybox", lambda *step: steps.append(step))
    assert steps == [
        ("pulling busybox", None, None), ("pulling busybox", 10, 100), ("pulling busybox", 15, 150),
        ("pulling busybox", 105, 150),
    ]  # fmt: skip


def test_a_pull_that_fails_half_way_says_why(registry: type[Registry]) -> None:
    registry.lines = ({"status": "Pulling"}, {"error": "manifest unknown", "errorDetail": {}})
    with pytest.raises(Cannot, match="cannot be pulled: manifest unknown; load or import it there"):
        engine_of(registry).have("busybox", lambda *_: None)


def test_a_connection_that_ends_in_the_middle_is_an_engine_away(registry: type[Registry]) -> None:
    registry.lines, registry.cut = ({"status": "Pulling"},), True
    with pytest.raises(Unavailable, match="docker unavailable on host"):
        engine_of(registry).have("busybox", lambda *_: None)


def test_no_image_of_our_own_names_is_ever_pulled(registry: type[Registry]) -> None:
    registry.lines = ({"error": "it was asked for"},)
    with pytest.raises(Cannot, match="no registry is asked"):
        engine_of(registry).have("hakuriver/base:base", lambda *_: None)


@pytest.mark.parametrize("tarball", [b"x" * 512 + b'{"errorDetail":{"message":"no space"}}', b"", b"x" * 2048])
def test_a_tarball_that_is_not_whole_is_noticed(registry: type[Registry], tarball: bytes) -> None:
    from docker.models.images import Image

    registry.tarball = tarball
    engine = engine_of(registry)
    image = Image({"Id": "sha256:1", "RepoTags": ["hakuriver/my-env:base"]}, client=engine._docker)
    with pytest.raises(Cannot, match="broke off"):
        list(engine.save(image, "my-env"))
    registry.tarball = b"x" * 512 + bytes(1024)
    assert b"".join(engine.save(image, "my-env")) == registry.tarball


def test_an_engine_that_speaks_no_http(scratch: Path) -> None:
    with pytest.raises(Unavailable, match="docker unavailable on host: Cannot connect to Docker daemon"):
        Engine(str(scratch / "no.sock"), "cluster")
