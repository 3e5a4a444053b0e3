"""What the runner asks of the keeper: `keeper.client.KeeperClient` does it for real, tests put others in its place.

After a `KeeperLost` out of any of them the runner begins anew: it connects, learns what the keeper knows, and
tells the host everything once more in a new epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hakuriver.keeper.messages import HelloReply, SpecMessage, TaskMessage


class KeeperPort(Protocol):
    """The parent of the tasks, as the runner sees it."""

    def connect(self, cores: int, memory_bytes: int | None = None) -> HelloReply:
        """Say hello; return all that the keeper knows. Events that come later are in `receive`."""

    def start(self, spec: SpecMessage, tasks: Iterable[TaskMessage]) -> None:
        """Queue tasks; those it knows already are ignored."""

    def kill(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        """Stop a task."""

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
