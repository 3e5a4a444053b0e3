"""The door: reads, checks and answers what people and programs drop into incoming/.

The host takes a file by renaming it into host/taken/, so that its writer cannot replace it and the same name
may be dropped again. There it is waited for until it is whole: JSON that ends is; a file that does not
parse is refused once it has not changed for SETTLE_S.
"""

from __future__ import annotations

import functools
import math
import pwd
from collections.abc import Callable
from typing import Any, NamedTuple

from hakuriver.host import checking
from hakuriver.host.checking import Refusal
from hakuriver.ids import is_job_id
from hakuriver.records import BATCH_FILE_MAX, JOB_FILE_MAX
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, DoorFile, ShareError
from hakuriver.spool.layout import Taken

#: Seconds without a change after which a file that is no whole request is taken for finished.
SETTLE_S = 2.0
#: Seconds after which a file that is not whole yet is read again.
AGAIN_S = 0.2
#: Bytes for which a file is left alone for so long once more.
LARGE = 4 << 20
#: Looks in a row, one each few seconds, that may miss an answered request before it counts as removed.
UNSEEN_MOST = 5
#: Files taken in one tick at most, so that nodes are heard between.
TAKE_MOST = 2000


class Asked(NamedTuple):
    """A request that has been read and checked, or refused."""

    entry: str  #: its name in host/taken/
    taken: Taken
    uid: int
    kind: str
    body: Any  #: a records.Request, a list of RunRequest, or task name for a touched file
    refusal: list[dict[str, Any]] | None


class Door:
    """Takes and reads requests."""

    def __init__(self, disk: Disk, new_id: Callable[[], str], boottime: Callable[[], float]) -> None:
        self._disk = disk
        self._new_id = new_id
        self._boottime = boottime
        self._settling: dict[str, tuple[tuple[int, int], float]] = {}
        self._next_try: dict[str, float] = {}
        self._waiting: set[str] = set()  #: names in host/taken/ that are not answered yet
        self._postponed: set[str] = set()  #: those of them that named an unknown job
        self._answered: dict[str, int] = {}  #: names that may still lie there -> looks since they were seen

    @property
    def busy(self) -> bool:
        """Whether something taken is not whole yet."""
        return bool(self._waiting)

    def find_taken(self, answered: set[str] | None = None) -> set[str]:
        """Look for what was taken and not answered: by an earlier run, whose rename may land after its death.

        `answered`: what the journal answers; returned is what of it still lies there.
        """
        lying = {name for name in files.names(self._disk, layout.TAKEN) if layout.parse_taken(name)}
        known = {**dict.fromkeys(answered or (), 0), **self._answered}
        # One listing may miss what the next shows again, and nothing is answered twice.
        looks = {name: 0 if name in lying else unseen + 1 for name, unseen in known.items()}
        self._answered = {name: unseen for name, unseen in looks.items() if unseen <= UNSEEN_MOST}
        self._waiting |= lying - self._answered.keys()
        return lying & self._answered.keys()

    def take(self, term: int, seq: int) -> int:
        """Take what lies at the door; tell how many. The renames are durable on return."""
        taken = 0
        for entry in sorted(self._disk.list(layout.INCOMING)):
            match = layout.DOOR_NAME.fullmatch(entry.name)
            if match and not entry.is_dir and taken < TAKE_MOST:
                taken += self._take_one(entry.name, match[1], match[2], term, seq)
        if taken:
            self._disk.sync([layout.TAKEN, layout.INCOMING])
        return taken

    def _take_one(self, name: str, stem: str, ending: str, term: int, seq: int) -> int:
        own = ending in ("json", "jsonl") and is_job_id(stem)
        target = layout.taken_name(term, seq, stem if own else self._new_id(), name)
        if own and target in self._waiting:
            return 0  # dropped again within a tick: the one before is answered first
        if files.move(self._disk, layout.incoming(name), f"{layout.TAKEN}/{target}"):
            self._waiting.add(target)
            return 1
        return 0

    def read(self) -> list[Asked]:
        """Read what is whole; the rest stays."""
        now = self._boottime()
        due = [entry for entry in sorted(self._waiting) if self._next_try.get(entry, 0.0) <= now]
        return [found for entry in due if (found := self._read_one(entry)) is not None]

    def answered(self, entry: str) -> None:
        """A request needs no more attention: its answer is in the journal."""
        self._waiting.discard(entry)
        self._answered[entry] = 0
        self._settling.pop(entry, None)
        self._next_try.pop(entry, None)
        self._postponed.discard(entry)

    def set_aside(self, entry: str) -> None:
        """A request is being carried out, and `answered` when that is done: it is read no more."""
        self._next_try[entry] = math.inf

    def postpone(self, asked: Asked, jobs: set[str]) -> bool:
        """Leave a request that names unknown jobs for later; False if these are not to be expected any more.

        A listing may show the request before a job's own file, and that may not be whole or readable yet.
        """
        if asked.entry in self._postponed and not self._expects(jobs, asked):
            self.find_taken()  # a listing may have missed what an earlier run took
            if not self._expects(jobs, asked):
                return False
        self._postponed.add(asked.entry)
        self._next_try[asked.entry] = self._boottime() + SETTLE_S
        return True

    def _expects(self, jobs: set[str], asked: Asked) -> bool:
        """Whether another request that is not answered yet may hold one of these jobs."""
        return any(_may_hold(entry, jobs) for entry in self._waiting if entry != asked.entry)

    def _read_one(self, entry: str) -> Asked | None:
        taken = layout.parse_taken(entry)
        assert taken is not None
        match = layout.DOOR_NAME.fullmatch(taken.name)
        assert match is not None
        ending = match[2]
        limit = BATCH_FILE_MAX if ending == "jsonl" else JOB_FILE_MAX
        try:
            file = self._disk.inspect(f"{layout.TAKEN}/{entry}", limit)
        except FileNotFoundError:
            files.present(self._disk)  # where the share is not, nothing can be seen
            self._waiting.discard(entry)  # gone, or not to be seen yet: then a later look finds it
            return None
        except ShareError:
            self._look_later(entry)  # the others are read all the same
            return None
        if file.refusal:
            return self._refuse(
                entry, taken, ending, file, file.refusal, "drop a plain file of your own, as cp makes it"
            )
        if file.size > limit or len(file.data) > limit:
            why = f"it has {file.size:,} bytes; at most {limit:,} are read"
            return self._refuse(entry, taken, ending, file, why, "put data into files of their own, or split it")
        try:
            kind, body = self._parse(entry, match[1], ending, file)
        except Refusal as refusal:
            if refusal.unfinished and not self._settled(entry, file):
                self._look_later(entry, file.size)
                return None
            return Asked(entry, taken, file.uid, refusal.kind, None, refusal.problems)
        except checking.Unfinished:
            self._look_later(entry, file.size)
            return None
        return Asked(entry, taken, file.uid, kind, body, None)

    def _look_later(self, entry: str, size: int = 0) -> None:
        """Look again in a moment: reading a large file over and over would hold up the rest."""
        self._next_try[entry] = self._boottime() + min(SETTLE_S, AGAIN_S * (1 + size / LARGE))

    def _refuse(self, entry: str, taken: Taken, ending: str, file: DoorFile, why: str, remedy: str) -> Asked:
        kind = {"json": "run", "jsonl": "batch"}.get(ending, ending)
        return Asked(entry, taken, file.uid, kind, None, [checking.problem("file", taken.name, why, remedy)])

    def _parse(self, entry: str, stem: str, ending: str, file: DoorFile) -> tuple[str, Any]:
        if ending == "jsonl":
            return "batch", checking.batch(file.data, self._settled(entry, file))
        if ending == "json":
            body = checking.request(file.data)
            if is_job_id(stem) and (wrong := checking.of_its_id(stem, getattr(body, "id", None))):
                raise Refusal(wrong)
            return body.request, body
        return ending, checking.touched(ending, stem)

    def _settled(self, key: str, file: DoorFile) -> bool:
        """Whether the file has not changed for SETTLE_S on this machine's clock."""
        now = self._boottime()
        stamp, since = self._settling.get(key, (None, now))
        if stamp != file.stamp:
            self._settling[key] = (file.stamp, now)
            return False
        return now - since >= SETTLE_S


def _may_hold(entry: str, jobs: set[str]) -> bool:
    taken = layout.parse_taken(entry)
    return taken is not None and (taken.request in jobs or taken.name.endswith(".jsonl"))


def user_name(uid: int) -> str:
    """The user's name on this machine, or the number."""
    try:
        return _known_user(uid)
    except KeyError:
        return str(uid)


@functools.lru_cache(maxsize=1024)
def _known_user(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name
