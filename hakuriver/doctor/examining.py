"""The whole examination: this machine, how the share is mounted, what it does, and how another node sees it.

It runs on a thread of its own, since any call may hang as long as the mount does; whoever waits for it stops after
MOST_S, and tells what was found until then, and what was not tried. All that touches the share is done there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from hakuriver.doctor import machine, mounts, probes, site
from hakuriver.doctor.findings import BROKEN, NOTE, WARNING, Finding, of_status
from hakuriver.doctor.letters import Cancelled
from hakuriver.doctor.pair import NoAnswer, Pair
from hakuriver.doctor.probes import Bench, Probe
from hakuriver.errors import NotFound
from hakuriver.ids import new_job_id
from hakuriver.spool import layout
from hakuriver.spool.access import Share
from hakuriver.spool.files import Disk, ShareError

#: Seconds after which nothing is begun any more, all answers have come, and nobody waits.
BEGIN_S, ANSWERED_S, MOST_S = 45.0, 54.0, 57.0
#: Seconds for one that was interrupted to remove its directory.
TIDY_S = 3.0


class Examination:
    """One run of the doctor."""

    def __init__(
        self, root: str, find: Callable[[str], Disk], node: str, state_dir: str, other: str | None,
        say: Callable[[str], None], engines: Callable[[], list[Finding]] = list,
    ) -> None:  # fmt: skip
        """`find`: looks for the share at `root`; `other`: a node to measure with; `say`: told what comes next.

        `engines`: tells what this machine has to run tasks with.
        """
        self.findings: list[Finding] = []  #: when `run` has returned
        self.problem: str | None = None  #: why the other node could not be measured with
        self._root, self._find, self._node, self._state_dir, self._other = root, find, node, state_dir, other
        self._say, self._engines = say, engines
        self._doing = ""
        self._found: list[Finding] = []  # the thread's: it may go on when nobody waits any more
        self._untried = [*probes.BEFORE, *probes.FULL, *([f"pair ({other})"] if other else ())]
        self._late = False
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="examines", daemon=True)
        self._over = threading.Event()
        self._cancelled = threading.Event()
        self._fault: BaseException | None = None

    def run(self) -> None:
        """Examine, for MOST_S at most. What an interrupt leaves on the share is removed.

        Raises what looking for the share raises, and NotFound if it knows no such other node.
        """
        try:
            self._thread.start()
            in_time = self._over.wait(MOST_S)
        except BaseException:
            self._cancelled.set()
            with suppress(RuntimeError):  # it has not begun, and will see that it need not
                self._thread.join(TIDY_S)
            raise
        if self._fault is not None:
            raise self._fault
        self.findings = list(self._found)
        if not in_time:
            self._cancelled.set()
            self.findings.append(self._hangs())
        if self._untried and (self._late or not in_time):
            self.findings.append(self._not_tried())

    def _hangs(self) -> Finding:
        return Finding(
            "share.hangs", WARNING, f"no end of {self._doing} within {MOST_S:.0f} s",
            "the share does not answer: daemons wait, tasks go on, but those with retries only until the lease ends",
            "see whether the file server is up and reached; on NFS `hard` waits for it for ever, which is right",
        )  # fmt: skip

    def _not_tried(self) -> Finding:
        names = ", ".join(check.removeprefix("share.") for check in self._untried)
        return Finding(
            "share.untried", NOTE, f"not tried: {names}",
            f"no time was left: nothing is begun after {BEGIN_S:.0f} s, and nobody waits for more than {MOST_S:.0f} s",
            "run it again when the share answers, or is less busy",
        )  # fmt: skip

    def _run(self) -> None:
        try:
            self._examine()
        except Cancelled:
            pass  # whoever cancelled it knows
        except NoAnswer as error:
            self.problem = str(error)
        except BaseException as error:
            self._fault = error
        finally:
            self._over.set()

    def _begin(self, what: str) -> bool:
        """Say what comes next; tell whether there is time for it. Raises Cancelled."""
        if self._cancelled.is_set():
            raise Cancelled
        self._doing = what
        self._say(what)
        return time.monotonic() < self._begun + BEGIN_S

    def _examine(self) -> None:
        self._begin("this machine")
        self._found += machine.examine(self._node, self._state_dir)
        self._begin("engines and GPUs")
        self._found += self._engines()
        self._begin("the mount")
        self._found += mounts.judge(mounts.of(self._root))
        self._begin("the share: river.json")
        disk = self._find(self._root)
        self._look(disk)
        self._try(probes.BEFORE, Bench(disk, ""))
        try:
            self._work(disk, new_job_id())
        except ShareError as error:
            self._found.append(probes.unable("share.write", error))
            self._untried.clear()  # for want of a place, not of time

    def _look(self, disk: Disk) -> None:
        if layout.SENTINEL not in Share(disk.root).names(""):
            self._found.append(_no_river(disk.root))
        if self._other is not None:
            known = sorted(Share(disk.root).names(layout.NODES))
            if self._other not in known:
                told = f"nodes known: {', '.join(known) or 'none'}"
                raise NotFound(f"there is no node {self._other!r} on {disk.root}; {told}")

    def _work(self, disk: Disk, run: str) -> None:
        """All that takes a directory. Raises ShareError."""
        self._begin("the share: whether anything can be made there")
        with site.opened(disk, run) as at:
            site.sweep(disk, at)
            bench = Bench(disk, at)
            self._try(probes.FULL, bench)
            if of_status(self._found, BROKEN) and not probes.still_there(bench):
                self._found[:] = [f for f in self._found if f.group != "share" or f.status != BROKEN]
            if self._other is not None:
                self._begin(f"the share together with {self._other}")
                self._untried.remove(f"pair ({self._other})")
                until = self._begun + ANSWERED_S
                Pair(bench, self._other, run, until, self._cancelled.is_set).measure(self._found.extend)

    def _try(self, wanted: dict[str, Probe], bench: Bench) -> None:
        for check, probe in wanted.items():
            if self._begin(f"the share: {check.partition('.')[2]}"):
                self._untried.remove(check)
                self._found += probes.tried(check, probe, bench)
            else:
                self._late = True


def _no_river(root: str) -> Finding:
    return Finding(
        "mount.river", WARNING, f"{root} holds no {layout.SENTINEL}",
        "it is no river yet, or what should be mounted there is not: then all below is about another filesystem",
        f"mount it; for a new river: hakuriver init share --shared-dir {root}",
    )  # fmt: skip
