"""Sees every name that appears on the share, and remembers what may never change."""

from __future__ import annotations

import json
from typing import Any

from hakuriver.ids import is_job_id, parse_position
from hakuriver.records import FINAL
from hakuriver.spool import layout
from sim.share import File, Share, leaf, parent

Task = tuple[str, int | None]


class Watch:
    """What has been seen so far. `wrong`: laws that were broken, in words."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.asked: list[str] = []  #: file names of requests that were durably at the door
        self.receipts: dict[str, dict[str, Any]] = {}  #: request id -> receipt
        self.jobs: dict[str, dict[str, Any]] = {}  #: newest snapshot of each
        self.wrong: list[str] = []
        self._rescanning = False
        self.waited: list[str] = []  #: tasks that were not to wait, and did
        self._endings: dict[tuple[str, int | None, int], tuple[int, list[Any]]] = {}

    def name(self, owner: str, path: str, file: File) -> None:
        """A file has appeared under this name."""
        directory, name = parent(path), leaf(path)
        if directory == layout.RECEIPTS and is_job_id(name[:-5]):
            self._receipt(name[:-5], file.content)
        elif directory.startswith("jobs/"):
            self._snapshot(file.content)
        elif directory.endswith("/inbox"):
            self._dispatched(path)

    def _receipt(self, request: str, data: bytes) -> None:
        receipt = json.loads(data)
        known = self.receipts.setdefault(request, receipt)
        if known != receipt:
            self.wrong.append(f"request {request} was answered twice: {known} and {receipt}")
        if receipt["kind"] == "requeue" and not self._rescanning:
            self._shown(receipt)

    def _shown(self, receipt: dict[str, Any]) -> None:
        """Whoever reads this answer, and then the job, must not find it over."""
        for answer in receipt["answers"]:
            if answer["ok"] and self.jobs[answer["task"][:20]]["finished_at"] is not None:
                self.wrong.append(f"{answer['task']} was told as requeued while its job was shown as over")

    def _snapshot(self, data: bytes) -> None:
        found = json.loads(data)
        known = self.jobs.get(found["job"])
        if known is None or known["seq"] <= found["seq"]:
            self.jobs[found["job"]] = found
        if found["spec"].get("no_queue") and (found["waiting"] or any(row[1] == "pending" for row in found["tasks"])):
            self.waited.append(f"tasks of {found['job']} wait at {found['seq']}, and were not to: {found['counts']}")
        for row in found["tasks"]:
            self._ending(found["job"], found["seq"], row)

    def _ending(self, job: str, seq: int, row: list[Any]) -> None:
        """An attempt's ending that was told stays; a loss may be corrected."""
        k, state, attempt = row[0], row[1], row[2]
        known = self._endings.get((job, k, attempt))
        if known is not None and known[0] <= seq and state in FINAL and known[1] != row[7:10]:
            self.wrong.append(f"the ending of {job} {k}, attempt {attempt}, was overwritten: {known[1]} by {row[7:10]}")
        if state in FINAL and state != "lost":
            self._endings[(job, k, attempt)] = (seq, row[7:10])
        elif known is not None and known[0] <= seq and not self._requeued(row):
            self.wrong.append(f"the ending of {job} {k}, attempt {attempt}, was taken back: {known[1]}, now {row}")

    def _requeued(self, row: list[Any]) -> bool:
        return any(earlier[0] == row[2] for earlier in row[17])

    def _dispatched(self, path: str) -> None:
        """No record, no action: the entry that decided it is committed."""
        batons = [b for name in self._share.dirs[layout.HOST] if (b := layout.parse_baton(name))]
        place = parse_position(leaf(path)[:-5])
        if place is None or not batons or place[1] > batons[0].seq:
            self.wrong.append(f"{path} was sent before it was committed: {batons}")

    def rescan(self) -> None:
        """After a power cut: what stands there now."""
        self.receipts.clear()
        self.jobs.clear()
        self._rescanning = True
        for path in self._share.tree():
            if leaf(path)[0] != "." and not path.endswith(".tmp"):
                try:
                    self.name("", path, self._share.find(path))
                except ValueError:
                    pass  # torn by the power cut
        self._rescanning = False

    # -- whether all is over

    def accepted(self) -> list[str]:
        """Ids of all jobs that a receipt says are accepted."""
        return [job for receipt in self.receipts.values() for job in receipt.get("ids", [])]

    def done(self) -> bool:
        if len(self.receipts) < len(self.asked):
            return False
        return all(self.jobs.get(job, {}).get("finished_at") is not None for job in self.accepted())
