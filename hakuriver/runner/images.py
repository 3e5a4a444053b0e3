"""Brings environments' images from the share into the node's engine, on threads of its own.

One thread looks whether images are there; a few others load, different images side by side and each once, however
many tasks, jobs and runners wait for it. A share or an engine that hangs holds those threads up and nothing else:
heartbeats, tasks and output go on. What is read is checked before the engine has all of it, so that a damaged tarball
leaves nothing behind.

While a package is read, a file beside it says so, and the host does not remove it. A damaged one is tried once more;
what cannot be reached, share or engine, is tried again for as long as it takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hakuriver.records import Manifest
from hakuriver.runner.port import ImageNews
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError

if TYPE_CHECKING:
    from hakuriver.runner.store import Store

log = logging.getLogger("hakuriver.runner")

#: Threads that load; one more looks.
LOADERS = 3
#: Tries at a package that seems to be damaged: a share may have shown old bytes of it.
TRIES = 2
#: Seconds between two tries: the first, the longest; between two at what seems damaged.
PAUSE_S, PAUSE_MOST_S, DAMAGED_PAUSE_S = 0.5, 30.0, 1.0


class Damaged(Exception):
    """Package {name} is damaged: {why}; make it anew."""

    def __init__(self, name: str, why: str) -> None:
        environment = name.rpartition("-")[0]
        super().__init__(
            f"package {name} is damaged: {why}: make it anew with `hakuriver docker create-tar {environment}`"
        )


class Stopped(Exception):
    """The runner ends: nothing is tried again."""


class Gone(Exception):
    """There is no such package any more, nor a newer one."""


class Images:
    """The images of the node's engine; see `ImagePort`."""

    def __init__(
        self, disk: Disk, node: str, directory: str, make_store: Callable[[], Store], wake: Callable[[], None]
    ) -> None:
        """`directory`: of the packages, below the share's root. `make_store`: called on each thread that needs one.

        `wake`: called on those threads when there are news.
        """
        self._packages = Packages(disk, node, directory)
        self._make_store = make_store
        self._wake = wake
        self._lock = threading.Lock()
        self._wanted: dict[str, str | None] = {}  #: images being brought, and the package that is loaded for each
        self._news: list[ImageNews] = []
        self._problems: dict[str, str] = {}
        self._kept: set[str] = set()  #: what the looking thread has been told to keep, or to look for
        self._looks: queue.SimpleQueue[Callable[[Store], None]] = queue.SimpleQueue()
        self._loads: queue.SimpleQueue[Callable[[Store], None]] = queue.SimpleQueue()
        self._threads = 0
        self._left: dict[str, str] = {}  #: environments of which superseded images were in use, and the newest image
        self._held: dict[str, int] = {}  #: locks that say that attempts need these; the looking thread's
        self._stop = threading.Event()

    # -- what the runner calls

    def open(self) -> None:
        """Take away what a runner that died has left: it loads nothing any more."""
        threading.Thread(target=self._sweep, name="images-sweep", daemon=True).start()

    def close(self) -> None:
        """Try nothing again."""
        self._stop.set()

    def bring(self, package: str | None, image: str) -> str | None:
        """See `ImagePort`."""
        with self._lock:
            if image in self._wanted:
                return self._wanted[image]
            self._wanted[image] = None
        self._kept.add(image)
        self._begin()
        self._looks.put(lambda store: self._look(store, package, image))
        return None

    def stirred(self) -> bool:
        """See `ImagePort`."""
        return bool(self._news)

    def news(self) -> list[ImageNews]:
        """See `ImagePort`."""
        with self._lock:
            news, self._news = self._news, []
        return news

    def keep(self, images: set[str]) -> None:
        """See `ImagePort`."""
        if images != self._kept:
            self._kept = set(images)
            self._begin()
            self._looks.put(lambda store: self._hold(store, images))

    def problems(self) -> list[str]:
        """See `ImagePort`."""
        with self._lock:
            return sorted(set(self._problems.values()))

    # -- threads

    def _begin(self) -> None:
        if not self._threads:
            for kind, jobs in [("looks", self._looks), *[("loads", self._loads)] * LOADERS]:
                threading.Thread(target=self._work, args=(jobs,), name=f"images-{kind}", daemon=True).start()
                self._threads += 1

    def _work(self, jobs: queue.SimpleQueue[Callable[[Store], None]]) -> None:
        store: Store | None = None
        while True:
            job = jobs.get()
            try:
                store = store or self._make_store()
                job(store)
            except Stopped:
                return
            except Exception:
                log.exception("a fault in the program, while images were dealt with")

    def _tell(self, news: ImageNews) -> None:
        with self._lock:
            if news.state == "loading":
                self._wanted[news.wanted] = news.package
            else:
                self._wanted.pop(news.wanted, None)
                self._problems.pop(news.wanted, None)
            self._news.append(news)
        self._wake()

    def _again(self, image: str, call: Callable[[], Any]) -> Any:
        """Call until neither engine nor share is away."""
        from hakuriver.runner.store import EngineAway

        pause = PAUSE_S
        while True:
            try:
                done = call()
            except (EngineAway, ShareError) as error:
                with self._lock:
                    self._problems[image] = f"{error}; what needs its images waits"
            else:
                with self._lock:
                    self._problems.pop(image, None)
                return done
            self._pause(pause)
            pause = min(pause * 2, PAUSE_MOST_S)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    # -- jobs of the thread that looks

    def _look(self, store: Store, package: str | None, image: str) -> None:
        if self._again(image, lambda: self._there(store, image)):
            self._tell(ImageNews(image, "there", package, image))
            self._remove_left(store)
        else:
            self._loads.put(lambda own: self._bring(own, package, image))

    def _there(self, store: Store, image: str) -> bool:
        """Whether the engine has it; no runner of this engine removes it then, as long as it is kept."""
        if image not in self._held:
            lock = store.lock(image, "use", fcntl.LOCK_SH)
            if lock is not None:
                self._held[image] = lock
        return store.has(image)

    def _hold(self, store: Store, images: set[str]) -> None:
        for image in images:
            self._again(image, lambda image=image: self._there(store, image))  # type: ignore[misc]
        with self._lock:
            needed = images | set(self._wanted)
        for image in self._held.keys() - needed:
            os.close(self._held.pop(image))

    # -- jobs of the threads that load

    def _bring(self, store: Store, package: str | None, image: str) -> None:
        from hakuriver.runner.store import LoadFailed, NoRoom

        tried = 0
        while True:
            tried += 1
            try:
                found = self._again(image, lambda: self._load(store, package, image, image))
                self._tell(ImageNews(image, "there", *found))
                return
            except (Damaged, Gone, LoadFailed) as error:
                if isinstance(error, NoRoom) or tried == TRIES:
                    reason = f"package {package}: {error}" if isinstance(error, LoadFailed) else str(error)
                    self._tell(ImageNews(image, "failed", package, image, reason))
                    return
            self._pause(DAMAGED_PAUSE_S)

    def _load(self, store: Store, package: str | None, image: str, wanted: str) -> tuple[str | None, str]:
        """Load a package's image, unless another runner has done so; which package's image it is in the end."""
        if package is None:
            raise Gone(f"image {image} is not in this node's engine, and no package of it is named")
        self._tell(ImageNews(wanted, "loading", package, image))
        with self._packages.in_use(package), store.locked(image, "load", fcntl.LOCK_EX):
            if store.has(image):
                return package, image
            manifest = self._packages.find(package)
            if manifest is not None:
                self._load_package(store, manifest, image)
                return package, image
        newest = self._packages.newest(package)
        return self._load(store, newest.name, newest.image_id, wanted)

    def _load_package(self, store: Store, manifest: Manifest, image: str) -> None:
        if manifest.image_id != image:
            raise Damaged(manifest.name, f"its manifest names the image {manifest.image_id} instead of {image}")
        store.load(self._packages.checked(manifest), image)
        if manifest.name == self._packages.newest_name(manifest.environment):
            self._remove_superseded(store, manifest.environment, image)

    def _remove_superseded(self, store: Store, environment: str, kept: str) -> None:
        """Remove the images before this one; those that are in use are tried again as other tasks come."""
        if store.remove_superseded(environment, kept):
            self._left.pop(environment, None)
        else:
            self._left[environment] = kept

    def _remove_left(self, store: Store) -> None:
        from hakuriver.runner.store import EngineAway

        with suppress(EngineAway):  # then another time
            for environment, kept in list(self._left.items()):
                self._remove_superseded(store, environment, kept)

    def _sweep(self) -> None:
        try:
            self._packages.sweep()
        except ShareError as error:
            log.info("what an earlier runner may have left beside packages stays: %s", error)


class Packages:
    """The packages on the share, as one node reads them."""

    def __init__(self, disk: Disk, node: str, directory: str) -> None:
        self._disk = disk
        self._node = node
        self._directory = directory
        self._swept = False
        self._sweeping = threading.Lock()

    @contextmanager
    def in_use(self, package: str) -> Iterator[None]:
        """Have the host leave it alone meanwhile."""
        self.sweep()
        mark = layout.in_use(package, self._node, self._directory)
        files.publish(self._disk, mark, b"", replace=True)
        try:
            yield
        finally:
            self._disk.remove(mark)

    def sweep(self) -> None:
        """Remove this node's marks, once, before it makes any."""
        with self._sweeping:
            if self._swept:
                return
            ending = f".{self._node}.loading"
            for name in files.names(self._disk, self._directory):
                if name.endswith(ending) and layout.parse_package(name.removesuffix(ending)):
                    self._disk.remove(f"{self._directory}/{name}")
            self._swept = True

    def find(self, package: str) -> Manifest | None:
        """A package's manifest; None if it is not there. Raises Damaged."""
        if f"{package}.json" not in files.names(self._disk, self._directory):
            return None
        try:
            return Manifest.model_validate_json(self._disk.read(layout.manifest(package, self._directory)))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Damaged(package, f"its manifest cannot be read ({error.errors()[0]['msg']})") from None

    def newest(self, package: str) -> Manifest:
        """The newest package of the same environment, in place of one that is gone. Raises Gone, Damaged."""
        gone = layout.parse_package(package)
        environment = gone.environment if gone else package
        newest = self.newest_name(environment)
        manifest = self.find(newest) if newest and newest != package else None
        if manifest is None:
            raise Gone(f"package {package} is not there any more, and there is no other of {environment}: "
                       f"make one with `hakuriver docker create-tar {environment}`")  # fmt: skip
        return manifest

    def newest_name(self, environment: str) -> str | None:
        """Name of an environment's newest package; None if it has none."""
        names = [name[:-5] for name in files.names(self._disk, self._directory) if name.endswith(".json")]
        there = [found for name in names if (found := layout.parse_package(name)) and found.environment == environment]
        return max(there, key=lambda found: found.timestamp).name if there else None

    def checked(self, manifest: Manifest) -> Iterator[bytes]:
        """The tarball in parts; the last one comes only if all are as the manifest says. Raises Damaged, ShareError."""
        digest, size, held = hashlib.sha256(), 0, b""
        try:
            for part in files.parts(self._disk, layout.tarball(manifest.name, self._directory)):
                digest.update(part)
                size += len(part)
                if held:
                    yield held
                held = part
        except FileNotFoundError:
            raise Damaged(manifest.name, "its tarball is not there") from None
        if size != manifest.size_bytes:
            raise Damaged(manifest.name, f"its tarball has {size:,} bytes instead of {manifest.size_bytes:,}")
        if digest.hexdigest() != manifest.sha256:
            raise Damaged(manifest.name, f"its sha256 is {digest.hexdigest()} instead of {manifest.sha256}")
        yield held
