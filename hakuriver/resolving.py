"""What somebody typed, made into jobs and tasks: whole names, ranges, and unique endings.

00123456789012345678            a job, all its tasks
00123456789012345678-7          one task of it
00123456789012345678-[0-9,12]   some, as `hakuriver submit` prints them
5678, 5678-7, 5678-[0-9]        the same by an ending, if only one job has it
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hakuriver import reading, units
from hakuriver.client import read_receipt
from hakuriver.errors import Ambiguous, Invalid, NotFound
from hakuriver.ids import ENDING_MIN, JOB_ID_DIGITS, is_job_id, job_time, task_name
from hakuriver.spool import layout
from hakuriver.spool.access import Share

_NAME = re.compile(r"([0-9]+)(?:-(?:(0|[1-9][0-9]{0,9})|\[([0-9,-]+)\]))?")
#: Jobs that an error about an ambiguous ending lists at most.
LISTED_MOST = 10
#: Seconds for which a receipt is looked at that may be ahead of its job's snapshot.
LATELY_S = 600.0
_HELP = "give a job id, a task as ID-7, or an ending of four digits or more; `hakuriver task list` shows ids"


class Target(NamedTuple):
    """A job, or some of its tasks."""

    job: str
    ranges: tuple[tuple[int, int], ...] | None = None  #: None: the whole job

    @property
    def name(self) -> str:
        """As it is written in short."""
        if self.ranges is None:
            return self.job
        if len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1]:
            return task_name(self.job, self.ranges[0][0])
        return f"{self.job}-[{units.format_ranges(list(self.ranges))}]"

    def covers(self, k: int | None) -> bool:
        """Whether a task of the job is meant."""
        return self.ranges is None or (k is not None and any(low <= k <= high for low, high in self.ranges))

    @property
    def total(self) -> int:
        """How many tasks the ranges have; 0 for a whole job."""
        return sum(high - low + 1 for low, high in self.ranges or ())

    def tasks(self) -> Iterator[str]:
        """Names as a control request takes them."""
        if self.ranges is None:
            yield self.job
        for low, high in self.ranges or ():
            yield from (task_name(self.job, k) for k in range(low, high + 1))


def resolve(share: Share, texts: Iterable[str]) -> list[Target]:
    """What each text means, in order. Raises Invalid, NotFound, Ambiguous. Whole ids are not looked up."""
    return [resolve_one(share, text) for text in texts]


def resolve_one(share: Share, text: str) -> Target:
    """See `resolve`."""
    match = _NAME.fullmatch(text.strip())
    if not match or len(match[1]) > JOB_ID_DIGITS:
        raise Invalid("ID", text, f"this names no job: {_HELP}")
    ranges = _ranges(text, match[2], match[3])
    if len(match[1]) == JOB_ID_DIGITS:
        return Target(match[1], ranges)
    if len(text) < ENDING_MIN:
        raise Invalid("ID", text, f"an ending has four characters or more: {_HELP}")
    return Target(_only(text, match[1], jobs_ending(share, match[1])), ranges)


def _ranges(text: str, single: str | None, many: str | None) -> tuple[tuple[int, int], ...] | None:
    if single is not None:
        return ((int(single), int(single)),)
    try:
        return tuple(units.parse_array(many)[0]) if many else None
    except ValueError as error:
        raise Invalid("ID", text, str(error)) from None


def _only(text: str, ending: str, jobs: list[str]) -> str:
    if not jobs:
        raise NotFound(f"no job ends in {ending}; `hakuriver task list` shows ids")
    if len(jobs) > 1:
        shown = "\n  ".join(jobs[-LISTED_MOST:])
        more = f"\n  and {len(jobs) - LISTED_MOST} more" if len(jobs) > LISTED_MOST else ""
        raise Ambiguous(f"{text} may be any of {len(jobs)} jobs; give more digits:\n  {shown}{more}")
    return jobs[0]


def jobs_ending(share: Share, ending: str) -> list[str]:
    """Every job that ends like this, in order: from the index, and what the index may not have yet."""
    found = {request for _, request in reading.at_door(share) if request.endswith(ending)}
    found.update(job for job in _just_accepted(share) if job.endswith(ending))
    indexed = _indexed(share, ending)
    if indexed is None:
        indexed = [job for job, _ in reading.newest(share) if job.endswith(ending)]
    return sorted({*found, *indexed})


def _indexed(share: Share, ending: str) -> list[str] | None:
    """Jobs of the index that end like this; None if there is no index."""
    files = share.names(layout.ENDINGS)
    if not files:
        return None
    last = [name[:3] for name in files if name.endswith(".json") and (ending[-3:].endswith(name[:3][-len(ending) :]))]
    return [job for three in last for job in reading.endings(share, three) if job.endswith(ending)]


def _just_accepted(share: Share) -> Iterator[str]:
    """Jobs of the newest bucket of either tree: a host indexes them a moment later."""
    for tree in (layout.ACTIVE, layout.DONE):
        bucket = reading.newest_bucket(share, tree)
        yield from (name[:JOB_ID_DIGITS] for name in (share.names(bucket) if bucket else ()))


def unfinished(share: Share, mine: bool) -> list[Target]:
    """Every job that is not over, oldest first; `mine`: those that this user asked for.

    A job goes from the door to its receipt and on to its snapshot, two seconds later at most: looked for in this order,
    none slips through that moves on meanwhile.
    """
    waiting = [
        job
        for path, request in reading.at_door(share)
        if not mine or _is_mine(share, path)
        for job in reading.jobs_asked(share, path, request)
    ]
    answered = set(_answered_lately(share, mine))
    found = [
        job
        for job, place in reading.unfinished(share)
        if not mine or (reading.read_snapshot(share, job, place) or {}).get("uid") == os.getuid()
    ]
    answered -= reading.find(share, answered).keys()
    return [Target(job) for job in sorted({*waiting, *answered, *found})]


def _answered_lately(share: Share, mine: bool) -> Iterator[str]:
    """Jobs that were accepted so lately that they may have no snapshot yet. Clients' clocks may differ by LATELY_S."""
    for name in share.names(layout.RECEIPTS):
        request = name.removesuffix(".json")
        if not is_job_id(request) or abs(time.time() - job_time(request)) > LATELY_S:
            continue
        receipt = read_receipt(share, request)
        if receipt and receipt.outcome == "accepted" and not (mine and receipt.raw.get("uid") != os.getuid()):
            yield from receipt.ids


def _is_mine(share: Share, path: str) -> bool:
    try:
        return os.lstat(share.path(path)).st_uid == os.getuid()
    except OSError:
        return False  # gone on meanwhile; its receipt tells
