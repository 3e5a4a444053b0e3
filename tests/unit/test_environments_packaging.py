"""Packages on the share: whole or not there, whatever dies when; and which are kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.containers import Cannot
from hakuriver.host.packaging import KEPT, Packages
from hakuriver.ids import new_job_id
from hakuriver.records import Manifest
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareError

ENV = "my-env"
REQUEST = "17952854963253715659"
CONTENT = [b"a" * 1000, b"b" * 1000, bytes(1024)]


class Engine:
    """An engine that commits and saves; what is in the images does not matter here."""

    def __init__(self) -> None:
        self.commits = 0
        self.kept: set[str] = set()
        self.content = CONTENT

    def get(self, _environment: str) -> Any:
        return SimpleNamespace(attrs={"Config": {"Image": "busybox:1"}})

    def commit(self, _container: Any, _environment: str) -> Any:
        self.commits += 1
        return SimpleNamespace(id=f"sha256:{self.commits:064d}", attrs={"Size": 2500})

    def save(self, _image: Any, _environment: str) -> Iterator[bytes]:
        yield from self.content

    def remove_superseded(self, _environment: str, keep: set[str]) -> None:
        self.kept = keep


class Died(BaseException):
    """The host was killed."""


class Dying(LocalDisk):
    """Ends the host at its n-th operation that changes the share."""

    def __init__(self, root: str, at: int) -> None:
        super().__init__(root)
        self.left = at

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._count()
        super().write(path, data, durable=durable)

    def rename(self, source: str, target: str) -> None:
        self._count()
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)

    def sync(self, directories: Any) -> None:
        self._count()
        super().sync(directories)


class Place:
    """A share with packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / layout.SENTINEL).write_text("{}")
        self.directory = root / layout.CONTAINERS
        self.directory.mkdir()
        self.now = 1000.0
        self.engine = Engine()
        self.steps: list[tuple[str, int | None, int | None]] = []
        self.deposed = False

    def packages(self, disk: LocalDisk | None = None) -> Packages:
        return Packages(disk or LocalDisk(str(self.root)), layout.CONTAINERS, lambda: self.now, self._leads)

    def _leads(self) -> None:
        if self.deposed:
            raise Died

    def create(self, request: str = "", packages: Packages | None = None, online: tuple[str, ...] = ()) -> str:
        engine: Any = self.engine
        return (packages or self.packages()).create(
            engine, ENV, request or new_job_id(), lambda: frozenset(online), lambda *step: self.steps.append(step)
        )

    def lying(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def check(self, *timestamps: int) -> None:
        """These packages lie there, whole, and nothing else."""
        names = [f"{ENV}-{timestamp}" for timestamp in timestamps]
        assert self.lying() == sorted(f"{name}.{part}" for name in names for part in ("tar", "json"))
        for name in names:
            manifest = Manifest.model_validate_json((self.directory / f"{name}.json").read_bytes())
            data = (self.directory / f"{name}.tar").read_bytes()
            assert (manifest.size_bytes, manifest.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert data == b"".join(self.engine.content)

    def put(self, name: str, **more: Any) -> None:
        """A package as it lies there."""
        package = layout.parse_package(name)
        assert package is not None
        manifest = Manifest(
            environment=package.environment, name=name, image_id="sha256:1", size_bytes=1, sha256="0" * 64,
            created_at=float(package.timestamp), **more,
        )  # fmt: skip
        (self.directory / f"{name}.tar").write_bytes(b"x")
        (self.directory / f"{name}.json").write_text(manifest.model_dump_json())


@pytest.fixture
def place(scratch: Path) -> Place:
    return Place(scratch / "share")


def test_a_package_is_what_its_manifest_says(place: Place) -> None:
    said = place.create(REQUEST)
    place.check(1000)
    (manifest,) = place.packages().all()
    assert manifest.model_dump() == {
        "format": 1, "environment": ENV, "name": f"{ENV}-1000", "image_id": f"sha256:{1:064d}", "size_bytes": 3024,
        "sha256": hashlib.sha256(b"".join(CONTENT)).hexdigest(), "created_at": 1000.0, "source": "busybox:1",
        "request": REQUEST,
    }  # fmt: skip
    assert said == f"{ENV}-1000.tar is made: 3,024 bytes, image sha256:{1:064d}"
    saving = [step[1:] for step in place.steps if step[0] == "saving"]
    assert saving == [(0, 2500), (1000, 2500), (2000, 2500), (3024, 3024)]
    assert place.engine.kept == {manifest.image_id}


def test_timestamps_grow_though_the_clock_does_not(place: Place) -> None:
    packages = place.packages()
    place.create(packages=packages)
    place.now = 5.0
    place.create(packages=packages)
    packages.delete(ENV, frozenset(), again=False)
    place.create(packages=packages)
    place.check(1002)
    place.put("other-9000")
    (place.directory / f"{ENV}-7000.tar").write_bytes(b"of an earlier version")
    place.create(packages=packages)
    assert f"{ENV}-7001.tar" in place.lying()


def test_the_newest_and_the_one_before_are_kept(place: Place) -> None:
    for _ in range(4):
        place.create()
    place.check(1002, 1003)
    assert KEPT == 2


def test_other_environments_and_foreign_files_are_left_alone(place: Place) -> None:
    foreign = ["my-env-x-7.tar", "my-env-5.tar", "notes.txt", "my-env-6.json.bak"]
    for name in foreign:
        (place.directory / name).write_text("x")
    for name in ("my-env-2-10", "my-env-2-20", "my-env-2-30", "a-1"):
        place.put(name)
    for _ in range(3):
        place.create()
    others = {
        f"{name}.{part}" for name in ("my-env-2-10", "my-env-2-20", "my-env-2-30", "a-1") for part in ("tar", "json")
    }
    assert {*foreign, *others} <= set(place.lying())


def test_none_is_removed_that_a_node_that_is_online_is_loading(place: Place) -> None:
    place.put(f"{ENV}-1")
    place.put(f"{ENV}-2")
    (place.root / layout.in_use(f"{ENV}-1", "n1")).touch()
    (place.root / layout.in_use(f"{ENV}-2", "gone")).touch()
    place.create(online=("n1", "n2"))
    place.create(online=("n1", "n2"))
    assert {f"{ENV}-1.tar", f"{ENV}-1.json"} <= set(place.lying())
    assert f"{ENV}-2.tar" not in place.lying()
    with pytest.raises(Cannot, match=f"loaded: {ENV}-1 by n1"):
        place.packages().delete(ENV, frozenset({"n1"}), again=False)
    assert f"{ENV}-1000.tar" in place.lying()
    place.packages().delete(ENV, frozenset(), again=False)
    assert not [name for name in place.lying() if name.endswith((".tar", ".json"))]


def test_none_is_removed_whose_manifest_cannot_be_read(place: Place) -> None:
    for timestamp in (1, 2, 3):
        place.put(f"{ENV}-{timestamp}")
    (place.directory / f"{ENV}-1.json").write_text('{"half":')
    place.create()
    assert {f"{ENV}-1.tar", f"{ENV}-1.json", f"{ENV}-3.tar", f"{ENV}-1000.tar"} <= set(place.lying())
    assert f"{ENV}-2.tar" not in place.lying()


def test_delete_by_package_and_by_environment(place: Place) -> None:
    for name in (f"{ENV}-1", f"{ENV}-2", "b-1", "b-1-5"):
        place.put(name)
    packages = place.packages()
    assert packages.delete(f"{ENV}-1", frozenset(), again=False) == f"deleted {ENV}-1.tar"
    assert packages.delete("b-1", frozenset(), again=False) == "deleted b-1.tar"  # a package before an environment
    assert [m.name for m in packages.all()] == ["b-1-5", f"{ENV}-2"]
    with pytest.raises(Cannot, match=r"no such package.*b-1, my-env"):
        packages.delete("nope", frozenset(), again=False)
    assert packages.delete("nope", frozenset(), again=True) == "deleted nope"


# -- crashes


#: Operations that make a package appear: manifest and its directory; each of the two names and the directory.
OPERATIONS = 6


def test_killed_at_any_operation_there_is_one_package_in_the_end(scratch: Path) -> None:
    for at in range(OPERATIONS + 1):
        place = Place(scratch / f"share{at}")
        try:
            place.create(REQUEST, place.packages(Dying(str(place.root), at)))
        except Died:
            pass
        again = place.packages()
        again.clean({REQUEST})
        place.now += 50
        place.create(REQUEST, again)
        (manifest,) = again.all()
        place.check(int(manifest.created_at))
        assert place.engine.commits == (2 if at == 0 else 1)


def test_what_nobody_goes_on_with_is_removed(scratch: Path) -> None:
    for at in range(OPERATIONS + 1):
        place = Place(scratch / f"share{at}")
        place.put(f"{ENV}-1")
        try:
            place.create(REQUEST, place.packages(Dying(str(place.root), at)))
        except Died:
            pass
        again = place.packages()
        again.clean(set())
        listed = {f"{m.name}.{part}" for m in again.all() for part in ("json", "tar")}
        # A tarball that has its name and no manifest could be anybody's: it is left.
        assert set(place.lying()) - listed <= {f"{ENV}-1000.tar"}


def test_killed_at_any_operation_while_removing_nothing_is_left_in_the_end(scratch: Path) -> None:
    for at in range(8):
        place = Place(scratch / f"share{at}")
        for name in (f"{ENV}-1", f"{ENV}-2", "other-1"):
            place.put(name)
        try:
            place.packages(Dying(str(place.root), at)).delete(ENV, frozenset(), again=False)
        except Died:
            pass
        again = place.packages()
        for manifest in again.all():  # the manifest goes first
            assert (place.directory / f"{manifest.name}.tar").exists()
        again.clean(set())
        again.delete(ENV, frozenset(), again=True)
        assert place.lying() == ["other-1.json", "other-1.tar"]


def test_a_half_written_manifest_is_none(place: Place) -> None:
    (place.root / layout.unfinished_tarball(f"{ENV}-5", REQUEST)).write_bytes(b"half")
    (place.root / layout.unfinished_manifest(f"{ENV}-5", REQUEST)).write_bytes(b'{"form')
    place.create(REQUEST)
    place.check(1000)


def test_a_tarball_that_is_not_whole_is_made_anew(place: Place) -> None:
    with pytest.raises(Died):
        place.create(REQUEST, place.packages(Dying(str(place.root), 2)))
    (tarball,) = (path for path in place.directory.iterdir() if ".tar." in path.name)
    tarball.write_bytes(b"half")
    place.now = 2000
    place.create(REQUEST)
    place.check(2000)


def test_a_deposed_host_publishes_and_removes_nothing(place: Place) -> None:
    place.put(f"{ENV}-1")
    place.deposed = True
    with pytest.raises(Died):
        place.create()
    with pytest.raises(Died):
        place.packages().delete(ENV, frozenset(), again=False)
    assert place.lying() == [f"{ENV}-1.json", f"{ENV}-1.tar"]


def test_a_listing_that_misses_the_package_makes_no_second_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.create(REQUEST)
    seen = files.names
    misses = iter([True, True])

    def missing(disk: Any, path: str) -> list[str]:
        return [] if next(misses, False) else seen(disk, path)

    monkeypatch.setattr(files, "names", missing)
    place.create(REQUEST)
    place.check(1000)


# -- what fails


def test_when_the_share_is_full_nothing_is_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    written = []

    def full(fd: int, data: Any) -> int:
        written.append(len(data))
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ShareError, match="full: free some space"):
            place.create(REQUEST)
    assert place.lying() == []
    place.create(REQUEST)
    place.check(1000)


def test_when_the_engine_breaks_off_nothing_is_left(place: Place) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError("the engine has gone")

    place.engine.content = broken()  # type: ignore[assignment]
    with pytest.raises(ConnectionResetError):
        place.create(REQUEST)
    assert place.lying() == []


def test_the_directory_is_made_but_never_in_a_share_that_is_away(place: Place) -> None:
    place.directory.rmdir()
    place.create()
    place.check(1000)
    for path in place.directory.iterdir():
        path.unlink()
    place.directory.rmdir()
    (place.root / layout.SENTINEL).unlink()
    with pytest.raises(files.ShareAway):
        place.create()
    assert list(place.root.iterdir()) == []


# -- names


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@st.composite
def plain_names(draw: st.DrawFn) -> str:
    """Names of nodes and environments, of all lengths. (Made from their pattern they take a hundred times as long.)"""
    parts = draw(st.lists(st.text(LETTERS, min_size=1, max_size=20), min_size=1, max_size=9))
    rests = [draw(st.sampled_from((".", "_", "__", "-", "--"))) + part for part in parts[1:]]
    return "".join((parts[0], *rests))[:63].rstrip("._-")


@given(plain_names())
def test_plain_names_are_allowed(name: str) -> None:
    assert layout.ENVIRONMENT_NAME.fullmatch(name)
    assert layout.NODE_NAME.fullmatch(name)


@given(plain_names(), st.integers(0, 2**40), st.integers(10**19, 10**20 - 1))
def test_names_are_read_as_they_are_made(environment: str, timestamp: int, request: int) -> None:
    name = layout.Package(environment, timestamp).name
    for path, part, asked in (
        (layout.unfinished_tarball(name, str(request)), "tar", str(request)),
        (layout.unfinished_manifest(name, str(request)), "json", str(request)),
        (layout.removed_manifest(name), "gone", ""),
    ):
        file = path.rpartition("/")[2]
        assert layout.parse_unfinished(file) == (name, part, asked)
        assert layout.parse_package(name) == (environment, timestamp)
        assert len(os.fsencode(file)) < 200


@given(plain_names(), plain_names())
def test_the_node_that_loads_is_read_as_it_is_written(environment: str, node: str) -> None:
    name = layout.in_use(f"{environment}-5", node).rpartition("/")[2]
    assert layout.loading_node(name, f"{environment}-5") == node
    assert layout.loading_node(name, f"{environment}-55") is None


@pytest.mark.parametrize(
    "name", [".x.tmp", ".my-env-5.tar.abcdef12.tmp", "my-env-5.tar", f".x.tar.{REQUEST}.tmp", ".gone.tmp"]
)
def test_other_temporary_files_are_nobodys_package(name: str) -> None:
    assert layout.parse_unfinished(name) is None


def test_manifests_are_json_with_a_newline(place: Place) -> None:
    place.create()
    data = (place.directory / f"{ENV}-1000.json").read_bytes()
    assert data.endswith(b"}\n")
    assert json.loads(data)["environment"] == ENV
