"""What an engine is to an attendant: Docker or systemd for real, and a stand-in in tests of every crash point.

Each call may block; each attempt has a thread of its own. Whatever is done is found again by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hakuriver.attendant.messages import Attend, Begin, Ended


class Away(Exception):
    """The engine cannot be reached: {why}. Trying again later may help."""


class Doubtful(Away):
    """The engine went away while it started something: it may have run, though the engine knows of no start."""


class CannotStart(Exception):
    """It cannot be started: {text}."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Engine(Protocol):
    """One engine. All methods raise Away if it cannot be reached, and may be called again."""

    def look(self, order: Begin | Attend) -> str:
        """What there is by that name: absent, made (never started), running, or ended (its ending can be read).

        The first that an engine hears of a name, unless it is in an answer of `names`.
        """

    def make(self, order: Begin) -> None:
        """Make it without starting anything. Raises CannotStart."""

    def start(self, order: Begin) -> None:
        """Start what was made; output is collected from its first byte on. Raises CannotStart, Doubtful."""

    def attend(self, order: Begin | Attend) -> tuple[int | None, float]:
        """Its pid and when it started (since 1970); its output is collected from where it ended, if it is not already.

        Called after `start` too. The pid is None of one that has ended meanwhile.
        """

    def wait(self, order: Begin | Attend) -> Ended:
        """Wait for the end of one that was started, and until its output is complete."""

    def signal(self, name: str, number: int) -> None:
        """Send TERM or KILL; one that has ended already is no error. What is frozen is thawed."""

    def freeze(self, name: str, on: bool) -> str:
        """Pause or go on; an empty text, also if it was so already, or why that cannot be."""

    def remove(self, name: str) -> None:
        """Remove it and all that is kept of it; what is not there is no error."""

    def names(self, owner: str) -> list[str]:
        """All that bear this owner's mark."""
