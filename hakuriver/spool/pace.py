"""How often to list: quickly while things happen, ever more slowly when nothing does."""

from __future__ import annotations

#: Seconds between two listings right after something has happened.
QUICK_S = 0.05
#: The pause is this part of the time for which nothing has happened.
PART = 0.1


class Pace:
    """The pause between two rounds; a notice (inotify) may end any of them."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._since = float("-inf")  #: when something last happened

    def note(self, happened: bool, now: float) -> None:
        """A round is over. `now`: CLOCK_BOOTTIME, seconds."""
        if happened:
            self._since = now

    def pause_s(self, now: float) -> float:
        """Seconds until the next round, if no notice comes before."""
        return min(self._longest_s, max(QUICK_S, PART * (now - self._since)))
