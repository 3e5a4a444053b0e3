"""What was found, what it means here, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OK = "ok"
NOTE = "note"
WARNING = "warning"
BROKEN = "broken"
#: From good to bad.
STATUSES = (OK, NOTE, WARNING, BROKEN)


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str  #: `<group>.<name>`, as share.rename
    status: str  #: ok; note: good to know; warning: works, but; broken: the promises cannot hold
    value: str  #: what was seen
    meaning: str = ""  #: what that means for the river
    remedy: str = ""  #: what to change; never empty where something is to be changed

    @property
    def group(self) -> str:
        """What kind of thing it is: mount, share, machine, pair."""
        return self.check.partition(".")[0]

    @property
    def text(self) -> str:
        """All that is to be said of what is not well, on one line."""
        return f"{self.value}: {self.meaning}; {self.remedy}"

    @property
    def name(self) -> str:
        """Which of that kind."""
        return self.check.partition(".")[2]


def of_status(findings: Iterable[Finding], status: str) -> list[Finding]:
    """Those of one status."""
    return [finding for finding in findings if finding.status == status]
