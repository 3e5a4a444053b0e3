"""How two mounts of the share see each other: measured between this machine and a node, through the share itself.

A file in the node's directory asks its runner for a process that answers (`answering.py`). All else is told by letters:
what is measured is measured on this side's clock, from the writing of a letter or file to the answer.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from hakuriver import __version__
from hakuriver.doctor import mounts, probes, rivalry
from hakuriver.doctor.answering import LATE_S
from hakuriver.doctor.findings import NOTE, OK, WARNING, Finding
from hakuriver.doctor.letters import ANSWER, ASK, POLL_S, Cancelled, Letters, NoLetter
from hakuriver.doctor.probes import Bench
from hakuriver.errors import HakuRiverError
from hakuriver.spool import files
from hakuriver.spool.files import ShareError
from hakuriver.spool.layout import NodePaths

#: Seconds until the node answers at all: its runner lists once a second, and sshfs shows it up to 20 s late.
HELLO_S = 20.0
#: Seconds until any later answer, beyond what it takes by itself.
REPLY_S = 6.0
#: Seconds in which the other side says that it has heard that it is over.
OVER_S = 1.0
#: Letters there and back, and seconds after which these are enough; files that both sides race for.
PINGS, PINGS_S, RACED = 12, 8.0, 100
RATE_SECONDS, RATE_MOST = 0.7, 200
#: Seconds above which seeing one another's files is called slow.
SLOW_S = 2.0


class NoAnswer(HakuRiverError):
    """The node does not answer: {what to look at}."""


class OtherFails(Exception):
    """{node}: {what it could not do}."""


class Pair:
    """One measurement."""

    def __init__(self, bench: Bench, node: str, run: str, until: float, cancelled: Callable[[], bool]) -> None:
        """`until`: time.monotonic() at which all is over."""
        self._bench, self._node, self._until = bench, node, until
        self._ask = NodePaths(node).doctor_ask(run)
        self._letters = Letters(bench.disk, bench.at, ASK, ANSWER, cancelled)

    def measure(self, tell: Callable[[list[Finding]], None]) -> None:
        """Ask the node, and tell findings as they are made. Raises NoAnswer, ShareError, Cancelled."""
        files.publish(self._bench.disk, self._ask, b"")
        try:
            tell(self._hello())
            for check, part in self._parts().items():
                tell(self._tried(check, part))
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self._bench.disk.remove(self._ask)
            self._letters.send(do="over")
            self._letters.receive(OVER_S)  # on SMB nothing can be removed that the other side is looking at
        except (ShareError, OSError, NoLetter, Cancelled):
            pass  # the share is away, or nobody answers: the other side ends by itself

    def _parts(self) -> dict[str, Callable[[], list[Finding]]]:
        return {
            "pair.visibility": self._visibility, "pair.rename": self._race, "pair.locks": self._lock,
            "pair.owner": self._owner, "pair.rate": self._rate, "pair.replaced": self._replaced,
            "pair.by_name": self._by_name,
        }  # fmt: skip

    def _tried(self, check: str, part: Callable[[], list[Finding]]) -> list[Finding]:
        no_time = Finding(check, NOTE, "not measured: no time was left", "the share is slow", "run it again")
        if time.monotonic() > self._until - REPLY_S:
            return [no_time]
        try:
            return part()
        except NoLetter:
            if time.monotonic() > self._until:
                return [no_time]
            raise NoAnswer(
                f"{self._node} has stopped answering in the middle of {check}: see whether its machine and the share "
                "are well, and run it again"
            ) from None
        except (OSError, ShareError, OtherFails) as error:
            return [Finding(check, WARNING, f"not measured: {error}", "the share fails at times", "run it again")]

    def _reply(self, longer_s: float = 0.0) -> dict[str, Any]:
        left = max(0.0, self._until - time.monotonic())
        body = self._letters.receive(min(REPLY_S + longer_s, left)).body
        if "error" in body:
            raise OtherFails(f"{self._node}: {body['error']}")
        return body

    def _asked(self, **ask: Any) -> dict[str, Any]:
        self._letters.send(**ask)
        return self._reply()

    # -- who is there

    def _hello(self) -> list[Finding]:
        begin = time.monotonic()
        try:
            letter = self._letters.receive(min(HELLO_S, max(0.0, self._until - begin)))
        except NoLetter:
            raise NoAnswer(self._silent()) from None
        told, took = letter.body, time.monotonic() - begin
        self._uid = int(told["uid"])
        who = f"{self._node} on {told['hostname']}: hakuriver {told['version']}, Python {told['python']}"
        found = [Finding("other.node", OK, f"{who}; answers after {took:.1f} s")]
        if told["version"] != __version__:
            found.append(Finding("other.version", NOTE, f"{told['version']} there, {__version__} here",
                                 "versions may mix while machines are upgraded", "upgrade the older one"))  # fmt: skip
        return found + [Finding(*map(str, fields)) for fields in told["mount"]]

    def _silent(self) -> str:
        mount = mounts.of(self._bench.disk.root)
        late = " (on sshfs listings are up to 20 s late: mount with `dcache_timeout=1`)" if (
            mount and mount.type == "fuse.sshfs") else ""  # fmt: skip
        return (
            f"{self._node} does not answer within {HELLO_S:.0f} s: see whether its runner is up (`hakuriver node show "
            f"{self._node}`), is of this version, and has this same share as its shared_dir{late}"
        )

    # -- what one side sees of the other

    def _visibility(self) -> list[Finding]:
        trips: list[tuple[float, float]] = []
        unlisted = 0
        end = time.monotonic() + PINGS_S
        while len(trips) < PINGS and (not trips or time.monotonic() < end):
            sent = time.time()
            begin = time.monotonic()
            self._letters.send(do="ping")
            letter = self._letters.receive(min(REPLY_S * 4, max(0.0, self._until - time.monotonic())))
            trip = time.monotonic() - begin
            trips.append((trip, letter.body["time"] - (sent + trip / 2)))
            unlisted += not letter.listed
        times = [trip / 2 for trip, _ in trips]
        return [judge_visibility(times, unlisted), judge_clocks(*min(trips))]

    def _by_name(self) -> list[Finding]:
        """A name that the other side asks for before it is there."""
        at = self._bench.path("late")
        self._bench.disk.mkdir(at)
        took = self._until_seen(
            {"do": "await", "name": "late/x"}, lambda: files.publish(self._bench.disk, f"{at}/x", b"x")
        )
        return [judge_by_name(took)]

    def _replaced(self) -> list[Finding]:
        """A file that the other side has read, and that is replaced."""
        path = self._bench.path("replaced")
        files.publish(self._bench.disk, path, b"old")
        ask = {"do": "reread", "name": "replaced", "until": "new"}
        took = self._until_seen(ask, lambda: files.publish(self._bench.disk, path, b"new", replace=True))
        return [judge_replaced(took)]

    def _until_seen(self, ask: dict[str, Any], act: Callable[[], None]) -> float | None:
        """Seconds from what we do until the other side's answer that it sees it; None: later than LATE_S."""
        self._asked(**ask)
        act()
        begin = time.monotonic()
        seen = self._reply(LATE_S)["seen"]
        return time.monotonic() - begin if seen else None

    # -- what must be exclusive

    def _race(self) -> list[Finding]:
        at = self._bench.path("race")
        rivalry.lay_out(self._bench.disk, at, RACED)
        self._letters.send(do="race", name="race", count=RACED)
        seen = self._reply(LATE_S)["seen"]
        if seen < RACED:
            return [Finding("pair.rename", NOTE, f"not measured: {self._node} sees {seen} of {RACED} files",
                            "its listings are late", "see what is said of its mount")]  # fmt: skip
        self._letters.send(do="go")
        time.sleep(POLL_S / 2)  # so that both begin at about the same time
        mine = rivalry.race(self._bench.disk, at, "ask", rivalry.at_random(RACED))
        theirs = self._reply(LATE_S)["won"]
        stand = rivalry.standing(self._bench.disk, at, ("ask", "answer"), RACED, probes.LISTED_WITHIN_S)
        return [rivalry.judge("pair.rename", {"ask": set(mine), "answer": set(theirs)}, stand, RACED)]

    def _lock(self) -> list[Finding]:
        held = rivalry.hold(self._bench.full("pair-lock"))
        try:
            seen = self._asked(do="lock", name="pair-lock")["lock"]
        finally:
            if held is not None:
                os.close(held)
        return [rivalry.judge_lock("pair.locks", seen, "the two machines")]

    # -- whose files, and how fast

    def _owner(self) -> list[Finding]:
        """A file of ours as the other side sees it, and one of theirs as we do."""
        path = self._bench.path("pair-owner")
        self._bench.disk.write(path, b"", durable=False)
        try:
            os.chmod(self._bench.full("pair-owner"), 0o640)
        except OSError:
            pass  # the mount gives all files one mode
        there = self._asked(do="owner", name="pair-owner")
        here = os.stat(self._bench.full(f"{ANSWER}-0.json")).st_uid
        return judge_owners(os.geteuid(), there["uid"], there["mode"], self._uid, here)

    def _rate(self) -> list[Finding]:
        self._letters.send(do="rate", name="pair-rate", seconds=RATE_SECONDS, most=RATE_MOST)
        return [probes.judge_rate("other.rate", self._reply(LATE_S)["rate"])]


# -- what it means


def judge_visibility(times: list[float], unlisted: int) -> Finding:
    """`times`: seconds one way, half of there and back; `unlisted`: letters that only their names showed."""
    median, worst = statistics.median(times), max(times)
    value = f"{median * 1000:.0f} ms, at most {worst * 1000:.0f} ms, listed every {POLL_S * 1000:.0f} ms"
    if unlisted:
        return Finding(
            "pair.visibility", WARNING, f"{unlisted} of {len(times)} new names are there, but not listed",
            "the river finds work by listing: dispatches and endings come as late as the listing",
            "sshfs: mount with `-o dcache_timeout=1` or `-o dir_cache=no`; SMB: `actimeo=1`; NFS: without `nocto`",
        )  # fmt: skip
    if median <= SLOW_S:
        return Finding("pair.visibility", OK, value)
    return Finding("pair.visibility", WARNING, value, "every step of a task, from submit to its ending, takes so long",
                   "shorten what the mount remembers of directories: sshfs `dcache_timeout=1`, SMB `actimeo=1`, NFS "
                   "`acdirmax=1`; or see what keeps the server busy")  # fmt: skip


def judge_by_name(took: float | None) -> Finding:
    """`took`: seconds; None: later than LATE_S."""
    value = f"later than {LATE_S:.0f} s" if took is None else f"within {took * 1000:.0f} ms, its answer included"
    if took is not None and took <= SLOW_S:
        return Finding("pair.by_name", OK, value)
    return Finding(
        "pair.by_name", NOTE, value,
        "a name that was asked for before it is there is seen so late; the river lists instead, but your own scripts "
        "that test for one file wait", "NFS: mount with `lookupcache=positive`, if that matters to you",
    )  # fmt: skip


def judge_replaced(took: float | None) -> Finding:
    """`took`: seconds; None: later than LATE_S."""
    value = f"later than {LATE_S:.0f} s" if took is None else f"within {took * 1000:.0f} ms, its answer included"
    if took is not None and took <= SLOW_S:
        return Finding("pair.replaced", OK, value)
    meaning = (
        "a replaced file reads old so long: indexes and pages may be that old elsewhere; nothing is decided by them"
    )
    return Finding("pair.replaced", NOTE, value, meaning)


def judge_clocks(trip: float, off: float) -> Finding:
    """`trip`: seconds there and back of the quickest letter; `off`: how far their clock is ahead, by half of it."""
    error = trip / 2
    value = f"{abs(off):.2f} s {'ahead of' if off > 0 else 'behind'} this machine's, give or take {error:.2f} s"
    if abs(off) <= error + 2:
        return Finding("pair.clock", OK, value)
    meaning = "the river compares no clocks; times that people read do not fit together"
    return Finding("pair.clock", NOTE, value, meaning, "keep both in step (chrony)")


def judge_owners(mine: int, mine_there: int, mode_there: int, theirs: int, theirs_here: int) -> list[Finding]:
    """Uids of those who made a file on each side, and as the other side sees them; the mode 0640 as seen there."""
    if mine != theirs:
        return [Finding("pair.owner", WARNING, f"uid {mine} here, uid {theirs} there",
                        "a river belongs to one user: what one machine writes the other may not change",
                        "run it as the same user, with the same uid, on all machines")]  # fmt: skip
    found = [probes.judge_owner("pair.owner", uid, mine) for uid in dict.fromkeys((mine_there, theirs_here))]
    worst = next((f for f in found if f.status != OK), found[0])
    if mode_there == 0o640:
        return [worst]
    meaning = "permissions are the mount's there: others on that machine may read what lies here"
    return [worst, Finding("pair.mode", NOTE, f"0640 appears as {mode_there:04o}", meaning, "restrict it in its mount: "
                           "`file_mode=0600,dir_mode=0700` (SMB)")]  # fmt: skip
