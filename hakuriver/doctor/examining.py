"""The whole examination: this machine, how the share is mounted, what it does, and how another node sees it.

It runs on a thread of its own, since any call may hang as long as the mount does; whoever waits for it stops after
MOST_S, and tells what was found until then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hakuriver.doctor import machine, mounts, probes, site
from hakuriver.doctor.findings import BROKEN, WARNING, Finding
from hakuriver.doctor.letters import Cancelled
from hakuriver.doctor.pair import NoAnswer, Pair
from hakuriver.doctor.probes import Bench
from hakuriver.ids import new_job_id
from hakuriver.spool.files import Disk, ShareError

#: Seconds after which nothing is begun any more, all answers have come, and nobody waits.
BEGIN_S, ANSWERED_S, MOST_S = 45.0, 54.0, 57.0
#: Seconds for one that was interrupted to remove its directory.
TIDY_S = 3.0


class Examination:
    """One run of the doctor."""

    def __init__(self, disk: Disk, node: str, state_dir: str, other: str | None, say: Callable[[str], None]) -> None:
        """`other`: a node to measure with; `say`: told what comes next."""
        self.findings: list[Finding] = []
        self.problem: str | None = None  #: why the other node could not be measured with
        self._disk, self._node, self._state_dir, self._other = disk, node, state_dir, other
        self._say = say
        self._doing = ""
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="examines", daemon=True)
        self._over = threading.Event()
        self._cancelled = threading.Event()
        self._fault: BaseException | None = None

    def run(self) -> None:
        """Examine, for MOST_S at most. What an interrupt leaves on the share is removed."""
        self._thread.start()
        try:
            in_time = self._over.wait(MOST_S)
        except BaseException:
            self._cancelled.set()
            self._thread.join(TIDY_S)
            raise
        if self._fault is not None:
            raise self._fault
        if not in_time:
            self.findings.append(self._hangs())

    def _hangs(self) -> Finding:
        return Finding(
            "share.hangs", WARNING, f"no end of {self._doing} within {MOST_S:.0f} s",
            "the share does not answer: daemons wait, tasks go on, but those with retries only until the lease ends",
            "see whether the file server is up and reached; on NFS `hard` waits for it for ever, which is right",
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
        self.findings += machine.examine(self._node, self._state_dir)
        self._begin("the mount")
        self.findings += mounts.judge(mounts.of(self._disk.root))
        run = new_job_id()
        try:
            with site.opened(self._disk, run) as at:
                site.sweep(self._disk, at)
                bench = Bench(self._disk, at)
                self._try_all(bench)
                if self._other is not None:
                    self._begin(f"the share together with {self._other}")
                    until = self._begun + ANSWERED_S
                    Pair(bench, self._other, run, until, self._cancelled.is_set).measure(self.findings.extend)
        except ShareError as error:
            self.findings.append(probes.unable("share.write", error))

    def _try_all(self, bench: Bench) -> None:
        found: list[Finding] = []
        for check, probe in probes.FULL.items():
            if self._begin(f"the share: {check.partition('.')[2]}"):
                found += probes.tried(check, probe, bench)
        self.findings += found if probes.still_there(bench) else [f for f in found if f.status != BROKEN]
