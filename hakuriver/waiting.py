"""Wait until jobs and tasks are over: by listing their buckets, one poll for all of them.

Exit codes (`hakuriver task wait`): 0 completed; else, of the first in the order named that did not complete, its own;
128+signal; 137 over its memory; 124 over its time; 125 lost, refused, or told by no host.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hakuriver import reading
from hakuriver.client import host_sign, open_share, read_receipt
from hakuriver.errors import HakuRiverError
from hakuriver.reading import EXIT_UNKNOWN, FINAL, STATE, K, Place, exit_code_of
from hakuriver.resolving import Target, resolve
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: Seconds between two polls: the first, and the longest while nothing changes.
FIRST_POLL, LONGEST_POLL = 0.02, 1.0
#: A poll takes at most this share of the time.
POLL_SHARE = 0.2
#: Up to so many jobs, their snapshots are read for counts while they run.
COUNTED_MOST = 50
#: Receipts looked for one by one; more are found by listing.
RECEIPTS_MOST = 16
#: Seconds for which a job may lie nowhere before it is given up: one never answered, and one accepted. The snapshot
#: of the latter may be one of a hundred thousand that the host still has to write.
GONE_S, ACCEPTED_GONE_S = 10.0, 60.0


class Outcome(NamedTuple):
    """How something that was waited for ended."""

    target: str  #: as `Target.name`
    state: str  #: of a whole job: that of its first task that did not complete; also refused, unknown
    exit_code: int
    reason: str  #: for people; empty if it completed
    counts: dict[str, int]  #: its tasks by state

    @property
    def completed(self) -> bool:
        """Whether all of it did."""
        return self.state == "completed"


class TimedOut(HakuRiverError):
    """It is not over yet. `outcomes`: of what is."""

    def __init__(self, outcomes: list[Outcome], left: int) -> None:
        self.outcomes = outcomes
        super().__init__(f"{left} not over yet")


class Waiter:
    """Polls for the endings of some targets."""

    def __init__(self, share: Share, targets: Iterable[Target]) -> None:
        self._share = share
        self.targets = list(dict.fromkeys(targets))
        self._outcomes: dict[Target, Outcome] = {}
        self._open: dict[str, list[Target]] = {}
        for target in self.targets:
            self._open.setdefault(target.job, []).append(target)
        self._seen: dict[str, int] = {}  #: seq of the last snapshot that was read
        self._accepted: set[str] = set()
        self._missing: dict[str, tuple[float, str]] = {}  #: job: since when it lies nowhere, and the host's sign then
        self.counts: dict[str, dict[str, int]] = {}  #: of each job that was read

    @property
    def outcomes(self) -> list[Outcome]:
        """Of what is over, in the order named."""
        return [self._outcomes[target] for target in self.targets if target in self._outcomes]

    @property
    def left(self) -> int:
        """How many targets are not over."""
        return len(self.targets) - len(self._outcomes)

    def poll(self) -> bool:
        """Look once; tell whether anything has changed."""
        before = (len(self._outcomes), dict(self._seen))
        places = reading.find(self._share, self._open.keys())
        for job in list(self._open):
            if job in places:
                self._missing.pop(job, None)
                self._look(job, places[job])
        self._look_behind([job for job in self._open if job not in places])
        return before != (len(self._outcomes), self._seen)

    def _look(self, job: str, place: Place) -> None:
        if place.seq == self._seen.get(job) or not (place.done or self._wants_rows(job)):
            return
        snapshot = reading.read_snapshot(self._share, job, place)
        if snapshot is None:
            return
        self._seen[job] = place.seq
        self.counts[job] = snapshot["counts"]
        for target in list(self._open[job]):
            outcome = _job_outcome(snapshot) if target.ranges is None else _task_outcome(target, snapshot)
            if outcome:
                self._close(target, outcome)

    def _wants_rows(self, job: str) -> bool:
        return len(self._open) <= COUNTED_MOST or any(target.ranges is not None for target in self._open[job])

    def _close(self, target: Target, outcome: Outcome) -> None:
        self._outcomes[target] = outcome
        self._open[target.job].remove(target)
        if not self._open[target.job]:
            del self._open[target.job]

    # -- jobs without a snapshot

    def _look_behind(self, jobs: list[str]) -> None:
        for job in self._accepted.intersection(jobs):
            self._lies_nowhere(job)
        unanswered = [job for job in jobs if job not in self._accepted]
        if not unanswered:
            return
        door = list(reading.at_door(self._share))
        lying = {request for _, request in door}
        batches = any(path.endswith(".jsonl") for path, _ in door)
        for job in self._with_receipt(unanswered):
            self._answered(job)
        for job in unanswered:
            if job in lying or batches or job in self._accepted:
                self._missing.pop(job, None)
            elif job in self._open:
                self._lies_nowhere(job)

    def _with_receipt(self, jobs: list[str]) -> list[str]:
        if len(jobs) <= RECEIPTS_MOST:
            return jobs
        names = set(self._share.names(layout.RECEIPTS))
        return [job for job in jobs if f"{job}.json" in names]

    def _answered(self, job: str) -> None:
        receipt = read_receipt(self._share, job)
        if receipt is None or receipt.kind != "run":
            return
        if receipt.outcome != "refused":
            self._accepted.add(job)
            return
        reason = "; ".join(str(problem) for problem in receipt.errors)
        for target in list(self._open[job]):
            self._close(target, Outcome(target.name, "refused", EXIT_UNKNOWN, reason, {}))

    def _lies_nowhere(self, job: str) -> None:
        since, sign = self._missing.setdefault(job, (time.monotonic(), host_sign(self._share)))
        if time.monotonic() - since <= (ACCEPTED_GONE_S if job in self._accepted else GONE_S):
            return
        if job not in self._accepted or host_sign(self._share) != sign:  # a host that lives would have shown it
            reason = "it lies nowhere on the share: never submitted, or older than its retention"
            for target in list(self._open[job]):
                self._close(target, Outcome(target.name, "unknown", EXIT_UNKNOWN, reason, {}))


def _job_outcome(snapshot: dict[str, Any]) -> Outcome | None:
    if snapshot.get("exit_code") is None:
        return None
    reason = "" if snapshot["exit_code"] == 0 else _first_reason(snapshot["tasks"])
    return Outcome(snapshot["job"], snapshot["state"], snapshot["exit_code"], reason, snapshot["counts"])


def _task_outcome(target: Target, snapshot: dict[str, Any]) -> Outcome | None:
    rows = sorted((row for row in snapshot["tasks"] if target.covers(row[K])), key=lambda row: row[K])
    if not rows or any(row[STATE] not in FINAL for row in rows):
        return _no_such_task(target, snapshot)
    if len(rows) < target.total:
        return _no_such_task(target, snapshot)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[STATE]] = counts.get(row[STATE], 0) + 1
    bad = next((row for row in rows if row[STATE] != "completed"), None)
    if bad is None:
        return Outcome(target.name, "completed", 0, "", counts)
    return Outcome(target.name, bad[STATE], exit_code_of(bad), _first_reason([bad]), counts)


def _no_such_task(target: Target, snapshot: dict[str, Any]) -> Outcome | None:
    """A job that is over and has no such task will never have it."""
    if snapshot.get("exit_code") is None:
        return None
    return Outcome(target.name, "unknown", EXIT_UNKNOWN, f"job {target.job} has no such task", {})


def _first_reason(rows: list[list[Any]]) -> str:
    bad = min((row for row in rows if row[STATE] not in ("completed",)), key=lambda row: row[K] or 0, default=None)
    return str(bad[reading.REASON]) if bad else ""


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """What `hakuriver task wait` exits with."""
    return next((outcome.exit_code for outcome in outcomes if not outcome.completed), 0)


def wait(
    ids: str | Iterable[str],
    timeout: float | None = None,
    *,
    shared_dir: str | None = None,
    on_poll: Callable[[Waiter], None] | None = None,
) -> list[Outcome]:
    """Wait until all these jobs and tasks are over; return how each ended, in the order named.

    `ids`: whole ids, task names, ranges as `submit` gives them, or unique endings. `timeout`: seconds; None waits as
    long as it takes. `on_poll` is called after each look. Raises TimedOut, NotFound, Ambiguous, Invalid, ShareProblem.
    """
    share = open_share(shared_dir)
    waiter = Waiter(share, resolve(share, [ids] if isinstance(ids, str) else ids))
    return run(waiter, timeout, on_poll)


def run(
    waiter: Waiter,
    timeout: float | None,
    on_poll: Callable[[Waiter], None] | None = None,
    longest: float = LONGEST_POLL,
) -> list[Outcome]:
    """Poll until all is over: soon after a change, ever more seldom without one. Raises TimedOut.

    `longest`: seconds between two looks at most, unless the looks themselves take long.
    """
    end = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_POLL
    while True:
        began = time.monotonic()
        changed = waiter.poll()
        if on_poll:
            on_poll(waiter)
        now = time.monotonic()
        if not waiter.left:
            return waiter.outcomes
        if end is not None and now >= end:
            raise TimedOut(waiter.outcomes, waiter.left)
        pause = min(FIRST_POLL * 5 if changed else pause * 1.3, longest)
        pause = max(pause, (now - began) / POLL_SHARE)
        time.sleep(pause if end is None else max(0.0, min(pause, end - now)))
