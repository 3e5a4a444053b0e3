"""Packages on the share: an environment's image as a tarball with its manifest, made, listed and removed.

Each step can be repeated. A tarball is written under a temporary name that bears the request; then its manifest, also
under one; then the tarball gets its name, and last the manifest: *at that instant the package is there*. A host that
died finds by the request's id how far it had come. At removal the manifest goes first, to a name that says that its
tarball has to go too. Two hosts that both think they lead are kept apart by `leads`, asked before each of these.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterator

from pydantic import ValidationError

from hakuriver.host.containers import Cannot, Engine, Note
from hakuriver.records import Manifest
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import Package, Unfinished

#: Tells which nodes are online now.
Online = Callable[[], frozenset[str]]
#: How often is listed what may have been made before.
LOOKS = 3
#: Packages of an environment that are kept: the newest and the one before.
KEPT = 2


class Packages:
    """The packages in one directory of the share."""

    def __init__(self, disk: Disk, directory: str, now: Callable[[], float], leads: Callable[[], None]) -> None:
        self._disk = disk
        self._directory = directory
        self._now = now
        self._leads = leads  #: raises when this host leads no longer
        self._last: dict[str, int] = {}  #: timestamps given, also to what is deleted since
        self._read: dict[str, Manifest] = {}  #: manifests never change: each is read once

    # -- what there is

    def all(self) -> list[Manifest]:
        """All packages whose manifest can be read, by environment, oldest first."""
        there = self._manifests(files.names(self._disk, self._directory))
        self._read = {name: manifest for name, manifest in self._read.items() if name in there}
        for name in there.keys() - self._read.keys():
            with contextlib.suppress(FileNotFoundError, ValidationError):
                self._read[name] = Manifest.model_validate_json(self._disk.read(self._manifest(name)))
        known = {there[name]: manifest for name, manifest in self._read.items()}
        return [known[package] for package in sorted(known)]

    def _manifests(self, names: list[str]) -> dict[str, Package]:
        found = ((name[:-5], layout.parse_package(name[:-5])) for name in names if name.endswith(".json"))
        return {name: package for name, package in found if package}

    def _manifest(self, name: str) -> str:
        return layout.manifest(name, self._directory)

    def _of(self, environment: str) -> list[Manifest]:
        return [manifest for manifest in self.all() if manifest.environment == environment]

    # -- making one

    def create(self, engine: Engine, environment: str, request: str, online: Online, note: Note) -> str:
        """Package an environment's container; return what to say."""
        made = self._made(environment, request) or self._finish(request)
        if made is None:
            made = self._make(engine, environment, request, note)
        note("removing what is superseded", None, None)
        self._prune(environment, online())
        kept = {manifest.image_id for manifest in self._of(environment)}
        engine.remove_superseded(environment, kept)
        return f"{made.name}.tar is made: {made.size_bytes:,} bytes, image {made.image_id}"

    def _made(self, environment: str, request: str) -> Manifest | None:
        """What an earlier try of this request has made; a listing may miss it."""
        found = (m for _ in range(LOOKS) for m in self._of(environment) if m.request == request)
        return next(found, None)

    def _make(self, engine: Engine, environment: str, request: str, note: Note) -> Manifest:
        container = engine.get(environment)
        note("committing", None, None)
        image = engine.commit(container, environment)
        self._leads()
        self._disk.mkdir(self._directory)
        created = self._timestamp(environment)
        name = Package(environment, created).name
        parts = self._counted(engine.save(image, environment), int(image.attrs["Size"]), note)
        with contextlib.closing(parts):
            path = layout.unfinished_tarball(name, request, self._directory)
            written = files.stream(self._disk, path, parts)
        manifest = Manifest(
            environment=environment, name=name, image_id=image.id, size_bytes=written.size, sha256=written.sha256,
            created_at=created, source=container.attrs["Config"]["Image"], request=request,
        )  # fmt: skip
        data = json.dumps(manifest.model_dump()).encode() + b"\n"
        self._disk.write(layout.unfinished_manifest(name, request, self._directory), data)
        self._disk.sync([self._directory])
        return self._arrive(manifest)

    def _counted(self, parts: Iterator[bytes], total: int, note: Note) -> Generator[bytes, None, None]:
        """The same parts, told of as they come. Of an image's layers more is saved than they hold: headers."""
        done = 0
        note("saving", 0, total)
        for part in parts:
            yield part
            done += len(part)
            self._leads()
            note("saving", done, max(done, total))

    def _timestamp(self, environment: str) -> int:
        """Now, and later than all that lie there: a clock may have been set back."""
        names = {name.rpartition(".")[0] for name in files.names(self._disk, self._directory)}
        there = [p.timestamp for name in names if (p := layout.parse_package(name)) and p.environment == environment]
        last = max(self._last.get(environment, 0), *there, 0)
        self._last[environment] = max(int(self._now()), last + 1)
        return self._last[environment]

    def _arrive(self, manifest: Manifest) -> Manifest:
        """Give tarball and manifest, both durable, their names."""
        self._leads()
        name, request = manifest.name, manifest.request
        for source, target in (
            (layout.unfinished_tarball(name, request, self._directory), layout.tarball(name, self._directory)),
            (layout.unfinished_manifest(name, request, self._directory), self._manifest(name)),
        ):
            files.arrive(self._disk, source, target)
            self._disk.sync([self._directory])
        return manifest

    # -- after a crash

    def clean(self, open_requests: set[str]) -> None:
        """Remove what an earlier host began and nobody goes on with; take away what was being removed."""
        for name, found in self._unfinished():
            if found.part == "gone":
                self._take_away(found.package)
            elif found.request not in open_requests:
                self._leads()
                self._disk.remove(f"{self._directory}/{name}")

    def _unfinished(self) -> list[tuple[str, Unfinished]]:
        names = files.unfinished(self._disk, self._directory)
        return [(name, found) for name in names if (found := layout.parse_unfinished(name))]

    def _finish(self, request: str) -> Manifest | None:
        """Complete a package that a host had all but named when it died; else remove what there is of it."""
        mine = [(name, found.part) for name, found in self._unfinished() if found.request == request]
        for name, part in mine:
            manifest = self._prepared(f"{self._directory}/{name}") if part == "json" else None
            if manifest:
                return self._arrive(manifest)
        for name, _ in mine:
            self._disk.remove(f"{self._directory}/{name}")
        return None

    def _prepared(self, path: str) -> Manifest | None:
        """A manifest that waits for its name, if its tarball is there, whole."""
        try:
            manifest = Manifest.model_validate_json(self._disk.read(path))
        except (FileNotFoundError, ValidationError):
            return None
        name = manifest.name
        places = (
            layout.tarball(name, self._directory),
            layout.unfinished_tarball(name, manifest.request, self._directory),
        )
        whole = any(files.size_of(self._disk, place) == manifest.size_bytes for place in places)
        return manifest if whole else None

    # -- removing

    def _prune(self, environment: str, online: frozenset[str]) -> None:
        loading = self._loading(online)
        for manifest in self._of(environment)[:-KEPT]:
            if not loading(manifest.name):
                self._remove(manifest.name)

    def delete(self, what: str, online: frozenset[str], again: bool) -> str:
        """Remove a package, or all of an environment; return what to say. `again`: that it is gone may be our doing."""
        packages = self.all()
        named = [m.name for m in packages if m.name == what] or [m.name for m in packages if m.environment == what]
        if not named and not again:
            known = ", ".join(sorted({m.environment for m in packages})) or "none"
            remedy = f"`hakuriver docker list-tars` shows them; environments that have one: {known}"
            raise Cannot("environment", what, "there is no such package", remedy)
        loading = self._loading(online)
        busy = {name: nodes for name in named if (nodes := loading(name))}
        if busy:
            told = "; ".join(f"{name} by {', '.join(nodes)}" for name, nodes in busy.items())
            raise Cannot("environment", what, f"it is being loaded: {told}", "ask again when that is done")
        for name in named:
            self._remove(name)
        return f"deleted {', '.join(f'{name}.tar' for name in named) or what}"

    def _loading(self, online: frozenset[str]) -> Callable[[str], list[str]]:
        """Tells which nodes load a package now; those that are offline do not."""
        names = files.names(self._disk, self._directory)

        def nodes(package: str) -> list[str]:
            return sorted(node for name in names if (node := layout.loading_node(name, package)) in online)

        return nodes

    def _remove(self, name: str) -> None:
        self._leads()
        self._disk.rename(self._manifest(name), layout.removed_manifest(name, self._directory))
        self._disk.sync([self._directory])
        self._take_away(name)

    def _take_away(self, name: str) -> None:
        self._leads()
        self._disk.remove(layout.tarball(name, self._directory))
        self._disk.remove(layout.removed_manifest(name, self._directory))
