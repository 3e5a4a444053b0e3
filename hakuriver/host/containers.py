"""The host's Docker engine, as environments need it: containers and images that bear our labels, and no others.

An environment's container is made from an image, worked in with `hakuriver docker shell`, and committed to
`hakuriver/<env>:base`. It is labelled with the cluster it belongs to: two rivers may use one engine.
Only the thread that carries out orders calls this, and imports the SDK when it makes an `Engine`, because that costs
85 ms and 15 MB. BUGS: an engine that hangs holds that thread up for as long as the limits below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hakuriver.host.checking import problem
from hakuriver.spool.layout import IMAGE_COMMENT, environment_container, environment_image

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

#: Seconds that the engine may take for what is quick, and for what depends on how large an image is.
QUICK_S, LONG_S = 60, 3600
#: Seconds between TERM and KILL for an environment's container.
STOP_S = 10
#: Bytes read of a tarball at once.
PART = 2 << 20

OWNER, KIND, ENVIRONMENT = "hakuriver.owner", "hakuriver.kind", "hakuriver.environment"
#: Begins the names of images that are ours: no registry is ever asked for one, whoever has taken the name there.
OUR_IMAGES = "hakuriver/"
#: Waits for ever in any image with a shell: not all know `sleep infinity`, and `sleep` as process 1 hears no TERM.
IDLE = ["sh", "-c", "trap 'exit 0' TERM INT QUIT HUP; while :; do sleep 3600 & wait $!; done"]

#: After a reboot it is as it was left: running, unless it was stopped.
RESTART: Any = {"Name": "unless-stopped"}

#: Called with (step, bytes done, bytes in all); None: not known.
Note = Callable[[str, "int | None", "int | None"], None]


class Cannot(Exception):
    """An order that cannot be carried out: {message}; {remedy}."""

    def __init__(self, field: str, value: object, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.problem = problem(field, value, message, remedy)


class Unavailable(Cannot):
    """The engine cannot be reached."""

    def __init__(self, socket: str, why: str) -> None:
        message = f"docker unavailable on host: Cannot connect to Docker daemon at unix://{socket}: {why}"
        super().__init__("docker.host", f"unix://{socket}", message, "start it there, or correct docker.host there")
        self.why = message


class Found(NamedTuple):
    """An environment's container."""

    environment: str
    state: str  #: as the engine says: running, exited, created, paused ...
    image: str  #: as it was named when the container was made
    created_at: float
    names: list[str]


class Engine:
    """A connection. Raises Unavailable when it cannot be made."""

    def __init__(self, socket: str, owner: str) -> None:
        from http.client import HTTPException

        import docker
        import urllib3

        self._socket = socket
        self._owner = owner
        #: What the SDK raises when the engine is not there, or goes away: what is below it comes through bare.
        self.errors = (docker.errors.DockerException, urllib3.exceptions.HTTPError, HTTPException, OSError)
        self._errors = docker.errors
        try:
            self._docker: docker.DockerClient = docker.DockerClient(
                base_url=f"unix://{socket}", version="auto", timeout=QUICK_S
            )
            self.version: str = self._docker.version().get("Version", "")
        except self.errors as error:
            raise Unavailable(socket, _reason(error)) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._docker.close()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What the engine refuses becomes Cannot, in its own words; that it has gone, Unavailable."""
        try:
            yield
        except self._errors.APIError as error:
            remedy = "`docker` on the host tells more"
            raise Cannot("docker", None, str(error.explanation or error), remedy) from error
        except self.errors as error:
            raise Unavailable(self._socket, _reason(error)) from error

    @contextlib.contextmanager
    def _patiently(self) -> Iterator[None]:
        self._docker.api.timeout = LONG_S
        try:
            yield
        finally:
            self._docker.api.timeout = QUICK_S

    # -- containers

    def containers(self) -> list[Found]:
        """All containers of environments of this river."""
        with self.told():
            rows = self._docker.api.containers(all=True, filters={"label": self._filters()})
        found = (Found(r["Labels"][ENVIRONMENT], r["State"], r["Image"], float(r["Created"]), r["Names"]) for r in rows)
        # Whoever runs a committed image by hand gets its labels with it.
        return sorted(c for c in found if f"/{environment_container(c.environment)}" in c.names)

    def _filters(self) -> list[str]:
        return [f"{OWNER}={self._owner}", f"{KIND}=environment", ENVIRONMENT]

    def labels(self, environment: str) -> dict[str, str]:
        """What a container or image of ours bears."""
        return {OWNER: self._owner, KIND: "environment", ENVIRONMENT: environment}

    def find(self, environment: str) -> Container | None:
        """The environment's container; raises Cannot if something else has its name."""
        name = environment_container(environment)
        with self.told():
            try:
                found = self._docker.containers.get(name)
            except self._errors.NotFound:
                return None
        if not self.labels(environment).items() <= found.labels.items():
            message = f"the container {name} on the host is not this river's"
            raise Cannot("environment", environment, message, "rename or remove that one, or take another name")
        return found

    def get(self, environment: str) -> Container:
        """The environment's container; raises Cannot if there is none."""
        found = self.find(environment)
        if found is None:
            known = ", ".join(c.environment for c in self.containers()) or "none"
            message = "there is no such environment's container on the host"
            remedy = f"`hakuriver docker create-container IMAGE {environment}` makes it; there are: {known}"
            raise Cannot("environment", environment, message, remedy)
        return found

    def create(self, environment: str, image: str, network: str, note: Note) -> str:
        """Make and start the container, unless it is there; return what to say. Pulls the image if it must."""
        found = self.find(environment)
        if found is not None:
            return self._adopt(found, environment, image)
        self.have(image, note)
        note("starting", None, None)
        with self.told():
            made = self._docker.containers.create(
                image, IDLE, entrypoint=[""], name=environment_container(environment), labels=self.labels(environment),
                network=network,
                restart_policy=RESTART,
            )  # fmt: skip
        self._start_or_remove(made, image)
        return f"{environment} is made from {image}, and runs"

    def _adopt(self, found: Container, environment: str, image: str) -> str:
        """There already: the same is what was asked for."""
        made_from = found.attrs["Config"]["Image"]
        if image != made_from and self.image_id(image) != found.attrs["Image"]:
            message = f"it is there already, made from {made_from}"
            remedy = f"`hakuriver docker delete-container {environment}` first, or take another name"
            raise Cannot("image", image, message, remedy)
        if found.status == "created":  # a host died before it was started
            self._start_or_remove(found, image)
        return f"{environment} is there already, made from {made_from}"

    def _start_or_remove(self, made: Container, image: str) -> None:
        try:
            with self.told():
                made.start()
        except Cannot as error:
            with contextlib.suppress(Cannot), self.told():
                made.remove(force=True, v=True)
            message = f"its container cannot be started: {error.problem['message']}"
            raise Cannot("image", image, message, "an environment needs an image with sh and sleep") from error

    def start(self, environment: str) -> str:
        """Start it, or let it go on; return what to say."""
        found = self.get(environment)
        with self.told():
            if found.status == "paused":
                found.unpause()
            else:
                found.start()  # one that runs stays as it is
        return f"{environment} runs"

    def stop(self, environment: str) -> str:
        """Stop it; return what to say."""
        found = self.get(environment)
        with self.told():
            if found.status == "paused":
                found.unpause()
            found.stop(timeout=STOP_S)
        return f"{environment} is stopped"

    def delete(self, environment: str, again: bool) -> str:
        """Remove it, running or not; return what to say. `again`: that it is gone may be our own doing."""
        found = self.find(environment) if again else self.get(environment)
        if found is not None:
            with self.told():
                found.remove(force=True, v=True)
        return f"{environment} is deleted; its packages stay"

    # -- images

    def image_id(self, image: str) -> str | None:
        """An image's id as this engine names it; None if it has none of that name."""
        with self.told():
            try:
                return str(self._docker.images.get(image).id)
            except self._errors.ImageNotFound:
                return None

    def have(self, image: str, note: Note) -> None:
        """Pull an image unless it is there: nowhere but here is anything ever pulled."""
        if self.image_id(image) is not None:
            return
        if image.startswith(OUR_IMAGES):
            message = "the host's engine has no such image, and no registry is asked for those that begin so"
            raise Cannot("image", image, message, "name the image that it was made from")
        note(f"pulling {image}", None, None)
        try:
            with self._patiently(), self.told():
                self._pull(image, note)
        except Unavailable:
            raise
        except Cannot as error:
            message = f"it is not in the host's engine and cannot be pulled: {error.problem['message']}"
            raise Cannot("image", image, message, "load or import it there, or name another") from error

    def _pull(self, image: str, note: Note) -> None:
        layers: dict[str, tuple[int, int]] = {}
        for line in self._docker.api.pull(image, stream=True, decode=True):
            if "error" in line:
                raise Cannot("image", image, str(line["error"]), "")
            detail = line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and "total" in detail:
                layers[line["id"]] = (detail.get("current", 0), detail["total"])
                done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                note(f"pulling {image}", done, total)

    def commit(self, found: Container, environment: str) -> Any:
        """Commit the container, paused for the moment if it runs, to the environment's image; return that."""
        tag = environment_image(environment)
        self._refuse_foreign(environment, tag)
        changes = ["ENTRYPOINT []", 'CMD ["/bin/sh"]']
        changes += [f"LABEL {key}={value}" for key, value in self.labels(environment).items()]
        repository, _, version = tag.rpartition(":")
        with self._patiently(), self.told():
            return found.commit(repository, version, pause=True, message=IMAGE_COMMENT, changes=changes)

    def _refuse_foreign(self, environment: str, tag: str) -> None:
        """The tag would be taken from an image that somebody else has given it."""
        with self.told():
            try:
                there = self._docker.images.get(tag).labels
            except self._errors.ImageNotFound:
                return
        if there.get(KIND) != "environment" or there.get(ENVIRONMENT) != environment:
            message = f"the host's engine has an image {tag} that is no environment's"
            raise Cannot("environment", environment, message, f"give that image another name: `docker tag {tag} NAME`")

    def save(self, image: Any, environment: str) -> Iterator[bytes]:
        """The image under its tag as a tarball, in parts. Raises Cannot if it is cut short."""
        last = b""
        with self._patiently(), self.told():
            for part in image.save(chunk_size=PART, named=environment_image(environment)):
                last = (last + part)[-1024:]
                yield part
        if last != bytes(1024):  # two empty blocks end every tarball (pax(1)); an engine may end with an error's text
            message = "the host's engine broke off while saving the image"
            raise Cannot("environment", environment, message, "see its log and the room on its disk, and ask again")

    def remove_superseded(self, environment: str, keep: set[str]) -> None:
        """Remove images that earlier packages were made from: untagged, ours, used by nothing, and not to be kept."""
        labels = [f"{key}={value}" for key, value in self.labels(environment).items()]
        with contextlib.suppress(Cannot), self.told():
            for image in self._docker.images.list(filters={"dangling": True, "label": labels}):
                if image.attrs.get("Comment") == IMAGE_COMMENT and image.id not in keep:
                    with contextlib.suppress(self._errors.APIError):  # a container or another image needs it
                        self._docker.api.remove_image(str(image.id))


def _reason(error: Exception) -> str:
    """What lies at the bottom of the SDK's and requests' wrappings."""
    seen: BaseException = error
    while (below := seen.__cause__ or seen.__context__) is not None:
        seen = below
    return getattr(seen, "strerror", None) or str(seen).strip()
