"""Deletes what retention has passed: finished jobs with their outputs, receipts."""

from __future__ import annotations

from typing import NamedTuple

from hakuriver.ids import JOB_ID_DIGITS, is_job_id, job_time
from hakuriver.settings import Retention
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk


class Collected(NamedTuple):
    """What was deleted."""

    jobs: list[str]
    receipts: int
    outputs: int

    def text(self) -> str:
        """For people."""
        return f"deleted {len(self.jobs)} jobs, {self.outputs} outputs, {self.receipts} receipts"


class Housekeeping:
    """Goes by the time in a job's id: its bucket's name is all that is looked at until it is old enough."""

    def __init__(self, disk: Disk, retention: Retention) -> None:
        self._disk = disk
        self._retention = retention

    def collect(self, now: float, older_than: float | None, active: set[str]) -> Collected:
        """Delete what is older than the settings say, or than `older_than` seconds. `active` jobs are kept."""
        keep = self._retention
        jobs = self._jobs(now - (keep.jobs if older_than is None else older_than), active)
        outputs = self._outputs(now - (keep.outputs if older_than is None else older_than), active)
        receipts = self._receipts(now - (keep.receipts if older_than is None else older_than), active)
        return Collected(jobs, receipts, outputs)

    def _jobs(self, before: float, active: set[str]) -> list[str]:
        gone: list[str] = []
        for day in files.names(self._disk, layout.DONE):
            if _bucket_time(day, "") > before:
                continue
            for bucket in files.names(self._disk, f"{layout.DONE}/{day}"):
                if _bucket_time(day, bucket) <= before:
                    gone += self._bucket(f"{layout.DONE}/{day}/{bucket}", before, active)
            self._disk.rmdir(f"{layout.DONE}/{day}")
        return gone

    def _bucket(self, directory: str, before: float, active: set[str]) -> list[str]:
        gone = []
        for name in files.names(self._disk, directory):
            found = layout.parse_snapshot(name)
            if found and job_time(found[0]) < before and found[0] not in active:
                self._disk.remove(f"{directory}/{name}")
                gone.append(found[0])
        self._disk.rmdir(directory)
        return gone

    def _outputs(self, before: float, active: set[str]) -> int:
        gone = 0
        for tree in (layout.OUTPUTS, layout.ERRORS):
            for entry in self._list(tree):
                job = entry.name[:20]
                if not is_job_id(job) or job in active or job_time(job) >= before:
                    continue
                if entry.is_dir:
                    gone += self._empty(f"{tree}/{entry.name}")
                else:
                    self._disk.remove(f"{tree}/{entry.name}")
                    gone += 1
        return gone

    def _list(self, tree: str) -> list[files.Entry]:
        try:
            return self._disk.list(tree)
        except FileNotFoundError:
            return []

    def _empty(self, directory: str) -> int:
        names = files.names(self._disk, directory)
        for name in names:
            self._disk.remove(f"{directory}/{name}")
        self._disk.rmdir(directory)
        return len(names)

    def _receipts(self, before: float, active: set[str]) -> int:
        gone = 0
        for name in files.names(self._disk, layout.RECEIPTS):
            request = name[:JOB_ID_DIGITS]  # of a copy too, as <id>.kill.json
            if is_job_id(request) and request not in active and job_time(request) < before:
                self._disk.remove(f"{layout.RECEIPTS}/{name}")
                gone += 1
        return gone


def _bucket_time(day: str, bucket: str) -> float:
    """The earliest time of ids in a bucket, seconds since 1970."""
    return int((day + bucket).ljust(13, "0")) / 1000 if (day + bucket).isdigit() else float("inf")
