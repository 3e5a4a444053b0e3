"""Orders about environments between door, journal and engine: each carried out after its commit, and answered once."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hakuriver.host.leader import Host
from hakuriver.host.recovery import recover
from hakuriver.host.requests import Order
from hakuriver.host.state import State
from hakuriver.ids import new_job_id
from hakuriver.records import Entry, Manifest, Receipt
from hakuriver.settings import Settings, parse
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk
from hakuriver.spool.layout import TREE, Baton

HOST, OTHER = "aabbccddeeff", "112233445566"


class Engine:
    """Stands for the thread that carries orders out: notes what it is given, answers what the test says."""

    def __init__(self) -> None:
        self.given: list[Order] = []
        self.begun: list[Order] = []
        self.leads: list[Baton] = []
        self.online: frozenset[str] = frozenset()
        self.done: list[dict[str, Any]] = []

    def lead(self, baton: Baton, orders: list[Order]) -> None:
        self.leads.append(baton)
        self.given, self.begun = list(orders), list(orders)

    def take(self, orders: Iterable[Order], online: frozenset[str]) -> None:
        self.given += [order for order in orders if order not in self.given]
        self.online = online

    def answered(self) -> list[dict[str, Any]]:
        found, self.done = self.done, []
        return found

    def finish(self, order: Order) -> None:
        self.done.append(order.receipt(f"{order.environment} is done", 5.0))


class River:
    """A share and a host that is ticked by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = 0.0
        self.disk = LocalDisk(str(root))
        for path in TREE:
            (root / path).mkdir(parents=True)
        self.disk.write(Baton(0, "none", 0, 0).path, b"")
        self.disk.write(layout.SENTINEL, b'{"cluster": "test", "cluster_id": "c", "created_at": 0}')

    def start(self, host: str = HOST, engine: Engine | None = None, settings: Settings | None = None) -> Host:
        self.host = Host(
            self.disk, settings or parse({"paths": {"shared_dir": str(self.root)}}, "test"), host,
            boottime=lambda: self.clock, now=time.time, new_id=new_job_id, own_uid=os.getuid(), engine=engine,
        )  # fmt: skip
        return self.host

    def tick(self) -> None:
        self.clock += 1.5
        self.host.tick()

    def ask(self, kind: str = "create-tar", environment: str = "my-env", **more: Any) -> str:
        request = new_job_id()
        document = {"request": kind, "environment": environment, **more}
        self.disk.write(layout.incoming(f"{request}.json"), json.dumps(document).encode())
        return request

    def receipt(self, request: str) -> Receipt | None:
        path = self.root / layout.receipt(request)
        return Receipt.model_validate_json(path.read_bytes()) if path.exists() else None

    def stand_in(self) -> None:
        """Have the baton seem silent to another host."""
        self.clock += 1000.0

    def recovered(self) -> State:
        from hakuriver.host.journal import Journal

        return recover(self.disk, Journal(self.disk, self.host.journal.baton)).state

    @property
    def taken(self) -> list[str]:
        return os.listdir(self.root / layout.TAKEN)


@pytest.fixture
def river(scratch: Path) -> River:
    return River(scratch / "river")


def test_an_order_is_given_once_it_is_committed_and_answered_when_it_is_done(river: River) -> None:
    engine = Engine()
    river.start(engine=engine)
    request = river.ask("create-container", image="busybox")
    river.tick()
    assert engine.given == [
        Order(request, f"{request}.json", "create-container", os.getuid(), HOST, "my-env", "busybox")
    ]
    assert river.receipt(request) is None
    assert river.taken == []  # the journal has it
    river.tick()
    assert len(engine.given) == 1
    engine.finish(engine.given[0])
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert (told.outcome, told.kind, told.text) == ("done", "create-container", "my-env is done")
    assert not river.host.state.orders


def test_nothing_is_given_before_the_commit(river: River, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    host = river.start(engine=engine)
    river.tick()
    request = river.ask()

    def fail(_data: bytes) -> None:
        raise OSError(5, "the share is away")

    with monkeypatch.context() as patched:
        patched.setattr(host.journal, "commit", fail)
        with pytest.raises(OSError, match="away"):
            river.tick()
    assert engine.given == []
    river.tick()
    assert [order.request for order in engine.given] == [request]


def test_packages_are_looked_at_when_one_was_made_or_deleted(river: River) -> None:
    engine = Engine()
    host = river.start(engine=engine)
    river.tick()

    def newest() -> dict[str, str]:
        host.packages.look(host.boottime())
        return host.packages.newest

    river.ask()
    river.tick()
    for name in ("my-env-5", "my-env-6", "my-env-x-7"):
        manifest = Manifest(
            environment=name.rpartition("-")[0], name=name, image_id=f"sha256:{name}", size_bytes=1, sha256="0",
            created_at=1.0,
        )  # fmt: skip
        river.disk.write(layout.manifest(name), manifest.model_dump_json().encode())
    engine.finish(engine.given[0])
    host.tick()  # in the same instant: no listing would be due
    assert newest() == {"my-env": "my-env-6", "my-env-x": "my-env-x-7"}
    for count, what in enumerate(("my-env-6", "my-env-5"), 1):
        river.ask("delete-tar", what)
        river.tick()
        river.disk.remove(layout.manifest(what))
        engine.finish(engine.given[count])
        host.tick()
        assert newest().get("my-env") == {"my-env-6": "my-env-5"}.get(what)


def test_an_answer_for_what_is_not_open_is_none(river: River) -> None:
    engine = Engine()
    river.start(engine=engine)
    request = river.ask()
    river.tick()
    engine.finish(engine.given[0])
    engine.finish(engine.given[0])
    river.tick()
    engine.finish(engine.given[0])
    river.ask("stop-container")
    river.tick()
    assert river.receipt(request) is not None
    receipts = [name for name in os.listdir(river.root / layout.RECEIPTS) if request in name]
    assert receipts == [f"{request}.json"]


def test_after_a_crash_the_same_host_carries_it_out_again(river: River) -> None:
    river.start(engine=Engine())
    request = river.ask()
    river.tick()
    engine = Engine()
    river.start(engine=engine)
    river.tick()
    assert [order.request for order in engine.begun] == [request]
    engine.finish(engine.given[0])
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert told.outcome == "done"


def test_another_host_answers_that_it_is_not_there(river: River) -> None:
    river.start(engine=Engine())
    request = river.ask()
    river.tick()
    engine = Engine()
    river.start(OTHER, engine)
    with pytest.raises(Exception, match="leads"):
        river.tick()
    river.stand_in()
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert told.outcome == "refused"
    assert f"host {HOST} took it" in told.errors[0].message
    assert engine.given == []
    assert not river.host.state.orders


def test_a_host_that_carries_out_nothing_says_so(river: River) -> None:
    river.start()
    request = river.ask()
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert "docker unavailable on host" in told.errors[0].message


def test_orders_are_for_admins(river: River, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    host = river.start(engine=engine)
    river.tick()
    host.own_uid = os.getuid() + 1
    request = river.ask()
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert told.outcome == "refused"
    assert engine.given == []
    host.settings.cluster.admins.append(pwd.getpwuid(os.getuid()).pw_name)
    river.ask()
    river.tick()
    assert len(engine.given) == 1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"request": "create-tar", "environment": "My-Env"}, "environment"),
        ({"request": "create-tar", "environment": "../x"}, "environment"),
        ({"request": "create-tar", "environment": "a" * 64}, "environment"),
        ({"request": "create-tar", "environment": "x", "image": "busybox"}, "file"),
        ({"request": "create-container", "environment": "x"}, "file"),
        ({"request": "create-container", "environment": "x", "image": ""}, "image"),
        ({"request": "create-container", "environment": "x", "image": "../containers/x"}, "image"),
        ({"request": "create-container", "environment": "x", "image": "a/../containers/x"}, "image"),
        ({"request": "create-container", "environment": "x", "image": ";rm -rf /"}, "image"),
        ({"request": "create-container", "environment": "x", "image": "-v"}, "image"),
        ({"request": "create-container", "environment": "x", "image": "x?fromSrc=y"}, "image"),
        ({"request": "create-container", "environment": "x", "image": "a" * 256}, "image"),
        ({"request": "delete-tar", "environment": "x-"}, "environment"),
    ],
)
def test_what_the_door_refuses(river: River, document: dict[str, Any], field: str) -> None:
    river.start(engine=Engine())
    request = new_job_id()
    river.disk.write(layout.incoming(f"{request}.json"), json.dumps(document).encode())
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert (told.outcome, told.kind, told.errors[0].field) == ("refused", document["request"], field)


def test_a_name_that_is_no_images_is_explained(river: River) -> None:
    river.start(engine=Engine())
    request = new_job_id()
    document = {"request": "create-container", "environment": "x", "image": "a b"}
    river.disk.write(layout.incoming(f"{request}.json"), json.dumps(document).encode())
    river.tick()
    told = river.receipt(request)
    assert told is not None
    assert told.errors[0].message.startswith("it is no image's name: letters, digits")


def test_a_package_may_be_named_to_be_deleted(river: River) -> None:
    engine = Engine()
    river.start(engine=engine)
    river.ask("delete-tar", "a" * 63 + "-1792345679")
    river.tick()
    assert len(engine.given) == 1


def test_the_engine_hears_which_nodes_are_online(river: River) -> None:
    engine = Engine()
    host = river.start(engine=engine)
    river.tick()
    host.decide(["node", "n1", 1, {"cores": 1, "memory_bytes": 1, "executors": []}])
    host.decide(["node", "n2", 1, {"cores": 1, "memory_bytes": 1, "executors": []}])
    river.ask()
    river.tick()
    assert engine.online == frozenset(n for n in ("n1", "n2") if not host.hearing.offline(n))


def test_orders_survive_replay_and_checkpoint(river: River) -> None:
    host = river.start(engine=Engine())
    first, second = river.ask("create-container", image="busybox"), river.ask()
    river.tick()
    before = dict(host.state.orders)
    assert sorted(before) == sorted([first, second])
    assert river.recovered().orders == before
    river.clock += 100.0
    river.tick()  # idle for long: a checkpoint
    newest = max((river.root / layout.JOURNAL).iterdir())
    saved = Entry.model_validate_json(newest.read_bytes()).checkpoint
    assert saved is not None
    assert list(saved["orders"]) == list(before)
    assert river.recovered().orders == before


def test_a_checkpoint_of_before_has_no_orders(river: River) -> None:
    host = river.start(engine=Engine())
    river.ask()
    river.tick()
    river.clock += 100.0
    river.tick()
    path = max((river.root / layout.JOURNAL).iterdir())
    entry = json.loads(path.read_bytes())
    del entry["checkpoint"]["orders"]
    path.write_text(json.dumps(entry))
    assert river.recovered().orders == {}
    assert host.leading


def test_the_same_request_twice_is_one_order(river: River) -> None:
    engine = Engine()
    river.start(engine=engine)
    request = river.ask()
    river.tick()
    document = {"request": "stop-container", "environment": "other"}
    river.disk.write(layout.incoming(f"{request}.json"), json.dumps(document).encode())
    river.tick()
    assert [order.kind for order in engine.given] == ["create-tar"]
