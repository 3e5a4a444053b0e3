"""The journal and the baton: what the host knows durably, and who may add to it.

An entry is written under its final name, then the baton, one file in host/ whose name is its content, is
renamed to the entry's seq. *At that instant the entry is committed*; before it, nobody acts on it. The rename
fails if somebody has taken over, and then this host stops. Of several entries with one seq the one of the
highest term counts, and those beyond the baton are void: a host that has been succeeded wrote them.
"""

from __future__ import annotations

import json
from typing import Any

from hakuriver.ids import position
from hakuriver.records import Entry
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import Baton


class Superseded(Exception):
    """Another host leads now: {baton}. This one stops."""


class NotYet(Exception):
    """{what} cannot be seen yet; it is looked for again."""


def find_baton(disk: Disk) -> Baton:
    """The baton as it lies. Raises NotYet if a listing shows none, or two while one is being renamed."""
    found = [b for name in files.names(disk, layout.HOST) if (b := layout.parse_baton(name))]
    if len(found) != 1:
        raise NotYet(f"{len(found)} batons in {layout.HOST}/")
    return found[0]


class Journal:
    """The journal of the leading host."""

    def __init__(self, disk: Disk, baton: Baton) -> None:
        self.disk = disk
        self.baton = baton
        self.entries: list[tuple[int, int]] = []  #: (term, seq) of those that lie there
        self.previous: str | None = None
        self._pending: Baton | None = None  #: what the baton becomes with the commit under way
        self._published = False  #: whether that entry lies there

    @property
    def next_seq(self) -> int:
        """Seq of the entry to come."""
        return (self._pending or self.baton).seq + (self._pending is None)

    @classmethod
    def take(cls, disk: Disk, baton: Baton, host: str) -> Journal:
        """Become leader by renaming the baton seen. Raises NotYet if it cannot be told who won."""
        mine = Baton(baton.term + 1, host, baton.seq, 0)
        won = files.move(disk, baton.path, mine.path)
        if not won:
            raise NotYet(f"the baton {baton.name} was renamed by another" if won is False else "the baton's rename")
        disk.sync([layout.HOST])
        return cls(disk, mine)

    def load(self) -> list[Entry]:
        """Read all committed entries that are kept, oldest first; void ones, of earlier terms, are removed.

        Raises NotYet while one of them cannot be seen or read: a listing may miss an entry.
        """
        best: dict[int, int] = {}
        void = []
        for term, seq in files.positions(self.disk, layout.JOURNAL):
            if seq > self.baton.seq:
                if term < self.baton.term:  # later ones are a successor's: this host may have been succeeded by now
                    void.append((term, seq))
            elif seq in best:
                void.append((best[seq], seq))
                best[seq] = term
            else:
                best[seq] = term
        entries = self._read_chain(best)
        for term, seq in void:
            self.disk.remove(layout.journal(term, seq))
        older = [(term, seq) for seq, term in sorted(best.items()) if entries and seq < entries[0].seq]
        self.entries = [*older, *((e.term, e.seq) for e in entries)]
        self.previous = position(entries[-1].term, entries[-1].seq) if entries else None
        return entries

    def _read_chain(self, best: dict[int, int]) -> list[Entry]:
        """Back from the baton's entry to the last checkpoint that is followed by all the rest."""
        entries: list[Entry] = []
        wanted = self.baton.seq
        while wanted > 0:
            if wanted not in best:
                raise NotYet(f"journal entry {wanted}")
            entry = self._read(best[wanted], wanted)
            entries.append(entry)
            if entry.checkpoint is not None:
                break
            wanted -= 1
        return entries[::-1]

    def _read(self, term: int, seq: int) -> Entry:
        try:
            return Entry.model_validate_json(self.disk.read(layout.journal(term, seq)))
        except FileNotFoundError:
            raise NotYet(f"journal entry {seq}") from None
        except ValueError as error:
            raise NotYet(f"journal entry {seq}: {error}") from error

    def commit(self, data: bytes) -> None:
        """Write the next entry and rename the baton to it.

        Raises Superseded, or ShareError: then it is called again with the same data and goes on where it was.
        """
        if self._pending is None:
            self._pending, self._published = self.baton._replace(seq=self.baton.seq + 1, beat=0), False
        target = self._pending
        if not self._published:
            files.publish(self.disk, layout.journal(target.term, target.seq), data)
            self._published = True
        if self.baton.seq < target.seq:
            self._published = False  # if this fails, the share may have gone, and what was written not be on it
            self._rename(target)
        self.disk.sync([layout.HOST])
        self.entries.append((target.term, target.seq))
        self.previous, self._pending = position(target.term, target.seq), None

    def beat(self) -> None:
        """Show a standby that this host lives. Raises Superseded if it has been succeeded."""
        self._rename(self.baton._replace(beat=self.baton.beat + 1))

    def release(self) -> None:
        """Lead no longer: whoever comes first takes the baton. Raises as `beat`."""
        self._rename(self.baton._replace(host=layout.NOBODY, beat=self.baton.beat + 1))

    def _rename(self, baton: Baton) -> None:
        won = files.move(self.disk, self.baton.path, baton.path)
        if won is None:
            raise ShareError("rename", self.baton.path, OSError(5, "the baton stays where it is"))
        if not won:
            self._lost()
        self.baton = baton

    def _lost(self) -> None:
        """The baton is gone: by another host, by an earlier rename of ours, or a listing has missed it."""
        found = find_baton(self.disk)
        if found.term > self.baton.term or found.host != self.baton.host:
            raise Superseded(f"{found.name} has taken over from {self.baton.name}")
        if found > self.baton:  # never back: an old listing may show a name that is gone
            self.baton = found
        raise ShareError("rename", self.baton.path, OSError(5, "the baton cannot be seen"))

    def prune(self, seq: int) -> None:
        """Remove the entries before `seq`, which must be a checkpoint."""
        while self.entries and self.entries[0][1] < seq:
            self.disk.remove(layout.journal(*self.entries[0]))
            self.entries.pop(0)


def encode(entry: dict[str, Any]) -> bytes:
    """An entry as it is written: records.Entry."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
