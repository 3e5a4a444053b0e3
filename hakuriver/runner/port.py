"""What the runner asks of the keeper and of the engine's images; tests put others in their place.

`keeper.client.KeeperClient` and `runner.images.Images` do it for real. After a `KeeperLost` out of any of the keeper's
the runner begins anew: it connects, learns what the keeper knows, and tells the host everything once more in a new
epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from hakuriver.keeper.messages import HelloReply, SpecMessage, TaskMessage


class KeeperPort(Protocol):
    """The parent of the tasks, as the runner sees it."""

    def connect(self, cores: int, memory_bytes: int | None = None) -> HelloReply:
        """Say hello; return all that the keeper knows. Events that come later are in `receive`."""

    def start(self, spec: SpecMessage, tasks: Iterable[TaskMessage]) -> None:
        """Queue tasks; those it knows already are ignored."""

    def kill(
        self, task: str, attempt: int, request: str | None = None, reason: str = "", grace_s: float | None = None
    ) -> None:
        """Stop a task; `grace_s`: seconds between TERM and KILL, None: its own."""

    def pause(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        """Pause a task."""

    def resume(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        """Continue a task."""

    def lease(self, until: float) -> None:
        """Extend the lease to this second of CLOCK_BOOTTIME."""

    def forget(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Drop what it knows of these ended attempts, and their output."""

    def receive(self) -> list[dict[str, Any]]:
        """Messages that have come, `{"ev": "events", "events": [...]}`; never waits."""


class ImageNews(NamedTuple):
    """What has become of an image that was asked for."""

    wanted: str  #: id of the image that was asked for
    state: str  #: loading; there; or failed
    package: str | None  #: what is, or was, loaded; another one than asked for if that has been removed meanwhile
    image: str  #: id of its image: this one is to be run
    reason: str = ""  #: why it failed, for people


class ImagePort(Protocol):
    """The images of the node's engine, as the runner sees them. No method waits."""

    def bring(self, package: str | None, image: str) -> str | None:
        """See that the engine has an image; `news` tells what comes of it. The package that is being loaded already."""

    def stirred(self) -> bool:
        """Whether there are news."""

    def news(self) -> list[ImageNews]:
        """What has happened since the last call."""

    def keep(self, images: set[str]) -> None:
        """These are needed by attempts that do not run yet: nobody is to remove them; others may go."""

    def problems(self) -> list[str]:
        """What keeps images from coming, for people."""
