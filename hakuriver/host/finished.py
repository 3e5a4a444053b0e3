"""Finished jobs, as they lie in jobs/done/: found by listing their bucket, never by an index.

A listing may miss what lies there; what was missed once is looked for again.
"""

from __future__ import annotations

import json
from typing import Any

from hakuriver.host.jobs import Job
from hakuriver.ids import is_job_id
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk

#: Buckets whose names are remembered; and jobs that this host has finished, whose files a listing may miss for a while.
BUCKETS_MOST, RECENT_MOST = 16, 1000
#: Listings until a job that has finished is taken for deleted.
LOOKS = 3


class Finished:
    """Looks finished jobs up."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._buckets: dict[str, set[str]] = {}
        self._recent: dict[str, str] = {}  #: paths of their snapshots

    def known(self, job: str) -> bool:
        """Whether a job of this id had finished when its bucket was listed first; later ones are the host's own."""
        bucket = layout.bucket(job)
        jobs = self._buckets.get(bucket)
        if jobs is None:
            listed = (files.names(self._disk, layout.done_bucket(job)) for _ in range(2))
            jobs = {name[:20] for names in listed for name in names}
            if len(self._buckets) >= BUCKETS_MOST:
                self._buckets.pop(next(iter(self._buckets)))
            self._buckets[bucket] = jobs
        return job in jobs

    def add(self, job: str, path: str) -> None:
        """This host has just finished a job; `path`: of its snapshot."""
        jobs = self._buckets.get(layout.bucket(job))
        if jobs is not None:
            jobs.add(job)
        self._recent.pop(job, None)
        self._recent[job] = path
        if len(self._recent) > RECENT_MOST:
            self._recent.pop(next(iter(self._recent)))

    def read(self, job: str) -> tuple[Job, dict[str, Any]] | None:
        """A finished job, and its newest snapshot."""
        data = self._newest(job)
        return None if data is None else (Job.load(data), json.loads(data))

    def load(self, job: str) -> Job | None:
        """A finished job, to look at."""
        data = self._newest(job)
        return None if data is None else Job.load(data)

    def _newest(self, job: str) -> bytes | None:
        return self._read_recent(job) or self._read_listed(job) if is_job_id(job) else None

    def _read_recent(self, job: str) -> bytes | None:
        try:
            return self._disk.read(self._recent[job]) if job in self._recent else None
        except FileNotFoundError:
            del self._recent[job]  # collected meanwhile
            return None

    def _read_listed(self, job: str) -> bytes | None:
        for _ in range(LOOKS if self.known(job) else 1):
            places = sorted(
                place[1:]
                for name in files.names(self._disk, layout.done_bucket(job))
                if (place := layout.parse_snapshot(name)) and place[0] == job
            )
            if places:
                return self._disk.read(layout.snapshot_path(layout.DONE, job, *places[-1]))
        return None
