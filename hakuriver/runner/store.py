"""The image store of the node's Docker engine: is an image there, load one, remove those that it supersedes.

Only threads of `runner.images` call this, and import the SDK with it: it costs 85 ms and 15 MB. Nothing is ever pulled.
BUGS: an engine that hangs holds a load up for as long as it does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from hakuriver import units
from hakuriver.spool.layout import IMAGE_COMMENT

#: Seconds that the engine may take to answer a question; loading takes as long as it takes.
PATIENCE_S = 60


class EngineAway(Exception):
    """The engine cannot be reached: {why}."""


class LoadFailed(Exception):
    """The engine has not taken the image: {why}."""


class NoRoom(LoadFailed):
    """No space left for images in {directory}: {free} are free; {remedy}."""


class Store:
    """One engine's images, for one thread."""

    def __init__(self, socket: str, owner: str) -> None:
        """`socket`: path of the engine's; `owner`: id of the cluster, a label of what is removed."""
        import docker
        import requests

        self._socket = socket
        self._owner = owner
        self._docker: Any = docker
        self._lost = (requests.exceptions.RequestException, docker.errors.DockerException, OSError)
        self._api: Any = None
        self._id = ""

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """A client; what the engine itself answers is passed on, all else says that it is away."""
        try:
            if self._api is None:
                self._api = self._docker.APIClient(f"unix://{self._socket}", version="auto", timeout=PATIENCE_S)
            yield self._api
        except self._docker.errors.APIError as error:
            if error.response is not None and not error.is_server_error():
                raise
            raise self._away(error) from error
        except self._lost as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> EngineAway:
        self._api = None
        return EngineAway(f"Cannot connect to Docker daemon at {self._socket}: {_reason(error)}")

    @property
    def id(self) -> str:
        """Of the engine, whoever uses it and by whatever path. Raises EngineAway."""
        if not self._id:
            with self._asked() as api:
                self._id = str(api.info()["ID"])
        return self._id

    def has(self, image: str) -> bool:
        """Whether an image is there, by its id. Raises EngineAway."""
        return self._id_of(image) == image

    def _id_of(self, name: str) -> str | None:
        with self._asked() as api:
            try:
                return str(api.inspect_image(name)["Id"])
            except self._docker.errors.ImageNotFound:
                return None

    def _ids(self) -> set[str]:
        with self._asked() as api:
            return {str(row["Id"]) for row in api.images()}

    def load(self, parts: Iterable[bytes], image: str) -> None:
        """Load a tarball, which must hold that image. Raises EngineAway, LoadFailed, and what `parts` raises."""
        before = self._ids()
        loaded = self._send(parts)
        if self.has(image):
            return
        found = {name: self._id_of(name) for name in loaded}
        for name in loaded:
            if found[name] not in before:
                self._remove(name)
        held = ", ".join(str(value) for value in found.values()) or "no image"
        raise LoadFailed(
            f"its tarball holds {held} instead of {image}: make it anew with `hakuriver docker create-tar`, and if the "
            "host's engine keeps images in another kind of store (`docker info`), have both use the same"
        )

    def _send(self, parts: Iterable[bytes]) -> list[str]:
        """Have the engine read a tarball; names of the images that were in it."""
        client = self._docker.APIClient(f"unix://{self._socket}", version="auto", timeout=None)
        try:
            told = list(client.load_image(_Parts(parts)))
        except _Interrupted as error:
            raise error.why from None
        except self._lost as error:
            raise self._explained(_reason(error)) from error
        finally:
            client.close()
        wrong = next((row["error"] for row in told if "error" in row), None)
        if wrong is not None:
            raise self._explained(wrong)
        lines = "".join(row.get("stream", "") for row in told).splitlines()
        return [line.split(": ", 1)[1].strip() for line in lines if line.startswith("Loaded image")]

    def _explained(self, text: str) -> Exception:
        """What went wrong with a load; the engine itself may have gone."""
        with self._asked() as api:
            root = str(api.info()["DockerRootDir"])
        if "no space left" not in text:
            return LoadFailed(f"the engine cannot load it: {text}")
        return NoRoom(
            f"no space left for images in {root}, where {_free(root)}: while it is loaded an image needs twice the "
            "size of its tarball; free some, or name another directory (data-root in /etc/docker/daemon.json)"
        )

    def _remove(self, name: str) -> bool:
        """Remove an image that nothing uses; whether it is gone."""
        with self._asked() as api:
            try:
                api.remove_image(name, noprune=True)
                return True
            except self._docker.errors.APIError:
                return False  # a container, or another image, needs it

    def remove_superseded(self, environment: str, kept: str) -> bool:
        """Remove earlier images of an environment that no container uses and no runner has promised to a task.

        Whether all of them are gone.
        """
        labels = [f"hakuriver.environment={environment}", f"hakuriver.owner={self._owner}"]
        with self._asked() as api:
            rows = api.images(filters={"dangling": True, "label": labels})
        left = [image for image in {str(row["Id"]) for row in rows} - {kept} if not self._remove_unused(image)]
        return not left

    def _remove_unused(self, image: str) -> bool:
        with self.locked(image, "use", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            return not self._committed(image) or (lock is not None and self._remove(image))

    def _committed(self, image: str) -> bool:
        """Whether the host has committed it: images that people build from it inherit its labels."""
        with self._asked() as api:
            try:
                return bool(api.inspect_image(image)["Comment"] == IMAGE_COMMENT)
            except self._docker.errors.ImageNotFound:
                return False

    def lock(self, image: str, what: str, how: int) -> int | None:
        """Lock what all runners do with an image of this engine, whatever their nodes; None if that cannot be.

        `what`: load, or use; `how`: see flock(2). Closing the descriptor gives it up. It only spares work: two who both
        load an image do no harm, and what cannot be locked is not removed.
        """
        path = f"{tempfile.gettempdir()}/hakuriver-{_short(self.id)}-{_short(image)}.{what}"
        try:
            fd = _open(path)
        except OSError:
            return None
        try:
            fcntl.flock(fd, how)
        except OSError:
            os.close(fd)
            return None
        return fd

    @contextlib.contextmanager
    def locked(self, image: str, what: str, how: int) -> Iterator[int | None]:
        """The same for the time of a block."""
        fd = self.lock(image, what, how)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)


class _Interrupted(Exception):
    """What is to be sent has raised something: not to be taken for the engine's fault."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class _Parts:
    """An iterable whose exceptions can be told from those of a connection."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._parts
        except Exception as error:
            raise _Interrupted(error) from error


def _open(path: str) -> int:
    """A lock file, which another user may have made: it need not be written."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)


def _short(name: str) -> str:
    """Enough of an id to tell it from others, without what may not stand in a file's name."""
    return "".join(c for c in name.removeprefix("sha256:") if c.isalnum())[:16]


def _free(directory: str) -> str:
    try:
        status = os.statvfs(directory)
    except OSError as error:
        return f"the room cannot be told ({error.strerror})"
    return f"{units.format_size(status.f_bavail * status.f_frsize)} are free"


def _reason(error: Exception) -> str:
    """What lies at the bottom of the SDK's and requests' wrappings."""
    seen: BaseException | None = error
    said: Any = getattr(error, "explanation", None)
    while said is None and seen is not None:
        said = getattr(seen, "strerror", None)
        seen = seen.__cause__ or seen.__context__
    return str(said or error)
