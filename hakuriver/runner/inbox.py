"""The node's inbox: documents are taken strictly in the order of their chain, one after the other.

Each names the one before it. A listing may miss an entry, so a document whose predecessor has not been dealt with
is left lying until that is seen: in the inbox, among the revoked (then its own predecessor counts), or among the
claimed. Documents that start or control something are claimed by rename; others are read where they lie.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from pydantic import ValidationError

from hakuriver.ids import parse_position, seq_of
from hakuriver.records import FORMAT, Dispatch, Heartbeat
from hakuriver.runner.baton import seen
from hakuriver.spool import files
from hakuriver.spool.files import Disk
from hakuriver.spool.layout import NodePaths

#: Seconds that a document which is no JSON may take to become whole; it also lets those before it be seen.
PATIENCE_S = 2.0
#: Seconds between two looks at claimed/ for what was claimed without this runner's knowing.
LOOK_EVERY_S = 5.0
#: Seconds between two looks for the predecessor of a document that cannot be seen.
MEND_EVERY_S = 0.5
#: How many heartbeats are read for the place that the runner before this one had reached.
HEARTBEATS_READ = 20


class Letter(NamedTuple):
    """A document as it was read."""

    place: str
    previous: str | None
    dispatch: Dispatch | None
    refusal: str  #: why it cannot be carried out
    whole: bool = True  #: false: it is no JSON (yet)

    @property
    def light(self) -> bool:
        """Whether it starts and controls nothing: then it need not be claimed."""
        return self.dispatch is not None and not (self.dispatch.starts or self.dispatch.controls)


class Taken(NamedTuple):
    """A document in its turn."""

    letter: Letter
    void: bool  #: found claimed, but not by this runner: what the keeper does not know is not started


def read_letter(data: bytes, node: str, place: str) -> Letter:
    """Read a document; one that is broken, of another format or for another node is refused."""
    try:
        dispatch = Dispatch.model_validate_json(data)
        if (dispatch.format, dispatch.node, dispatch.place) == (FORMAT, node, place):
            return Letter(place, dispatch.previous, dispatch, "")
        problem = f"it is dispatch {dispatch.place} of format {dispatch.format} for node {dispatch.node}"
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    refusal = f"the runner of {node} (format {FORMAT}) cannot read dispatch {place}: {problem}"
    try:
        raw = json.loads(data)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        return Letter(place, None, None, refusal, whole=False)
    previous = raw.get("previous")
    return Letter(place, previous if isinstance(previous, str) else None, None, refusal)


class Inbox:
    """What has come, and how far this node is."""

    def __init__(self, disk: Disk, paths: NodePaths) -> None:
        self._disk = disk
        self._paths = paths
        self.cursor: str | None = None  #: last document dealt with
        self.settled: str | None = None  #: the same, durably: what a heartbeat may tell
        self.claimed: set[str] = set()  #: files in claimed/ that are known
        self.listing: list[str] = []  #: all in inbox/ when it was last listed, in order
        self.gap: str | None = None  #: a document that is waited for
        self._letters: dict[str, Letter] = {}
        self._garbage: dict[str, float] = {}
        self._tried: set[str] = set()  #: claims of this runner that may have succeeded
        self._unsettled: list[Taken] = []
        self._look_at = self._mend_at = 0.0

    # -- at the start of an epoch

    def restore(self) -> list[Taken]:
        """Find how far the runner before this one was; return what it had claimed."""
        revoked = seen(self._disk, self._paths.dir("revoked"))
        self.claimed = self._places(seen(self._disk, self._paths.dir("claimed")))
        self.cursor = max([*self.claimed, *self._told_cursors()], key=seq_of, default=None)
        self.settled = self.cursor
        found = []
        for place in sorted(self.claimed, key=seq_of):
            letter = self._read("claimed", place)
            if letter is None:
                self.claimed.discard(place)  # just removed; should it appear again, it is found like any other
            else:
                found.append(Taken(letter, f"{place}.json" in revoked))
        # Claimed by rename, perhaps not durably yet: what follows builds on it.
        self._disk.sync([self._paths.dir("inbox"), self._paths.dir("claimed")])
        return found

    def _places(self, names: set[str]) -> set[str]:
        return {name[:-5] for name in names if name.endswith(".json") and parse_position(name[:-5])}

    def _told_cursors(self) -> list[str]:
        """Places that heartbeats of earlier epochs tell."""
        told = []
        beats = sorted(
            p for n in self._places(seen(self._disk, self._paths.dir("heartbeat"))) if (p := parse_position(n))
        )
        for epoch, seq in beats[-HEARTBEATS_READ:]:
            try:
                beat = Heartbeat.model_validate_json(self._disk.read(self._paths.numbered("heartbeat", epoch, seq)))
            except (FileNotFoundError, ValidationError):
                continue  # removed meanwhile, or torn by a power cut
            if beat.inbox is not None:
                told.append(beat.inbox)
        return told

    # -- in every round

    @property
    def reached(self) -> int:
        """Number of the last document dealt with; 0: none."""
        return seq_of(self.cursor) if self.cursor else 0

    def stirs(self, now: float) -> bool:
        """Whether there is something to take, or to look for. `now`: CLOCK_BOOTTIME, seconds."""
        if self._tried or now >= self._look_at:
            return True
        return any(seq_of(place) > self.reached for place in self._list("inbox"))

    def take(self, now: float) -> list[Taken]:
        """Take all documents whose turn it is. `now`: CLOCK_BOOTTIME, seconds."""
        self.listing = self._list("inbox")
        self.gap = None
        waiting = {place: "inbox" for place in self.listing if seq_of(place) > self.reached}
        if self._tried or now >= self._look_at:
            self._look(waiting, now)
        while waiting and self._take_next(waiting, now):
            pass
        return self._settle()

    def _sync(self) -> None:
        self._disk.sync([self._paths.dir("claimed"), self._paths.dir("inbox")])

    def _settle(self) -> list[Taken]:
        if any(not taken.letter.light for taken in self._unsettled):
            self._sync()
        taken, self._unsettled = self._unsettled, []
        self.settled = self.cursor
        return taken

    def _list(self, part: str) -> list[str]:
        return sorted(self._places(set(files.names(self._disk, self._paths.dir(part)))), key=seq_of)

    def _look(self, waiting: dict[str, str], now: float) -> None:
        """Add what lies in claimed/ unknown: a claim that was reported as failed, or landed late."""
        self._look_at = now + LOOK_EVERY_S
        for place in self._list("claimed"):
            if place not in self.claimed:
                waiting[place] = "claimed"

    def _take_next(self, waiting: dict[str, str], now: float) -> bool:
        """Take the first document that waits; False if it must go on waiting."""
        place = min(waiting, key=seq_of)
        letter = self._letter(waiting[place], place, now)
        if letter is None:
            return False
        late = seq_of(place) <= self.reached
        if not late and not self._follows(letter.previous):
            self.gap = letter.previous
            self._mend(now)
            return False
        return self._accept(waiting, letter)

    def _mend(self, now: float) -> None:
        """Have the next round look where what is missing may be."""
        if now < self._mend_at:
            return
        self._mend_at, self._look_at = now + MEND_EVERY_S, now
        self.cursor = max([place for place in (self.cursor, *self._told_cursors()) if place], key=seq_of, default=None)

    def _accept(self, waiting: dict[str, str], letter: Letter) -> bool:
        place, ours = letter.place, letter.place in self._tried
        if waiting[place] == "inbox" and not letter.light and not self._claim(place):
            return False
        self._unsettled.append(Taken(letter, waiting[place] == "claimed" and not ours))
        if not letter.light:
            self.claimed.add(place)
        if seq_of(place) > self.reached:
            self.cursor = place
        del waiting[place]
        self._tried = {tried for tried in self._tried if seq_of(tried) > self.reached}
        self._letters.pop(place, None)
        self._garbage.pop(place, None)
        return True

    def _claim(self, place: str) -> bool:
        """Claim by rename; an outcome that cannot be seen is looked for in the next round."""
        self._tried.add(place)
        return files.move(self._disk, self._paths.named("inbox", place), self._paths.named("claimed", place)) is True

    def _follows(self, previous: str | None) -> bool:
        """Whether all before a document have been dealt with, or were taken back."""
        while previous is not None and seq_of(previous) > self.reached:
            letter = self._read("revoked", previous)
            if letter is None or not letter.whole:
                return False
            previous = letter.previous
        return True

    # -- reading

    def _letter(self, part: str, place: str, now: float) -> Letter | None:
        """None if it cannot be read yet."""
        letter = self._letters.get(place) or self._read(part, place)
        if letter is None:
            return None
        if not letter.whole:
            return letter if now - self._garbage.setdefault(place, now) >= PATIENCE_S else None
        self._letters[place] = letter
        return letter

    def _read(self, part: str, place: str) -> Letter | None:
        """None if it is not there."""
        try:
            data = self._disk.read(self._paths.named(part, place))
        except FileNotFoundError:
            return None
        return read_letter(data, self._paths.node, place)
