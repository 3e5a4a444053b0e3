"""Writes what people read: the index files and the pages. All of it is derived, and replaced by rename.

Only what has changed is written, and what could not be written (a share that is away or full) stays due. The
index notes up to where everything was told: after a crash in between, everything is looked at once more.

A page tells its reader when the host has fallen silent: `alive.js` bears the host's newest stamp and the versions
of the lists, and is written as long as the host lives. A page that nothing changes for a year is not stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from hakuriver.host.index import Index
from hakuriver.host.jobs import read_snapshot
from hakuriver.ids import JOB_ID_DIGITS
from hakuriver.pages.newest import Newest
from hakuriver.pages.rendering import Page, Renderer, joined
from hakuriver.pages.views import ROWS_MOST, Log, LogFile, gpu_rows, job_view, log_files, tails, without_loads
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk

log = logging.getLogger("hakuriver.host")

#: Jobs in lists, and jobs that have a page; jobs on the overview.
RECENT, OVERVIEW = 1000, 20
#: Job pages written in one round at most; the rest follows in the next ones.
PAGES_MOST = 100
#: Seconds between two stamps, and between two writes of the nodes when only their load has changed.
ALIVE_S = NODES_S = 15.0
#: Seconds between two looks at the logs of a job that runs, and jobs looked at in one round at most.
LOGS_S, LOGS_MOST = 10.0, 5


class Look(NamedTuple):
    """The last look at a running job's logs."""

    at: float
    files: list[LogFile]
    digest: bytes


class Teller:
    """Tells what the host knows. One thread owns it."""

    def __init__(self, disk: Disk, index: Index) -> None:
        self._disk = disk
        self.index = index
        self._renderer = Renderer()
        self._newest = Newest(index, RECENT, self._renderer.job_row)
        self._written: dict[str, bytes] = {}  #: path -> digest of what it holds
        self._versions: dict[str, str] = {}  #: of the lists, for alive.js
        self._begun = False
        self._told: tuple[int, int] | None = None
        self._endings_due: set[str] = set()
        self._lists_due = False
        self._pages_due: dict[str, None] = {}  #: jobs, in the order in which they became due
        self._paged: set[str] = set()  #: jobs that have a page
        self._looks: dict[str, Look] = {}  #: of jobs that run
        self._stamped = self._nodes_at = float("-inf")
        self._nodes_kept: Any = None
        self._environments: dict[str, Any] | None = None  #: to be told

    def tell(self, snapshots: list[dict[str, Any]], nodes: dict[str, Any], position: tuple[int, int]) -> None:
        """Take in changed jobs (records.JobSnapshot) and the nodes (records.NodesIndex); write what follows.

        Raises ShareError or FileNotFoundError if the share is not there; what was to be written stays due.
        """
        if not self._begun:
            self._begin()
        if snapshots or position != self._told:
            self.index.apply(snapshots, position)
        if snapshots:
            self._changed([snapshot["job"] for snapshot in snapshots])
        changed = self._write_nodes(nodes)
        self._write_index(nodes["at"])
        self._write_lists(nodes, changed)
        self._write_environments()
        self._write_pages({snapshot["job"]: snapshot for snapshot in snapshots}, nodes["at"])
        self._stamp(nodes)
        if not self._pages_due and position != self._told:
            self.index.note_told(position)
            self._told = position

    def environments(self, index: dict[str, Any]) -> None:
        """Take in the environments (records.EnvironmentsIndex); their page is written with the next telling."""
        self._environments = index
        useful = bool(index["engine"] or index["packages"])
        self._lists_due = self._renderer.link("docker.html", useful) or self._lists_due

    def _write_environments(self) -> None:
        if self._environments is not None:
            self._list("docker.html", self._environments["at"], environments=self._environments)
            self._environments = None

    def _begin(self) -> None:
        """See what an earlier run has left, and whether it had told everything. Pages of what runs are made anew."""
        self._paged = {name[:-5] for name in files.names(self._disk, layout.JOB_PAGES) if name.endswith(".html")}
        self._newest.refresh()
        self._lists_due = True
        self._pages_due.update((job, None) for job, line in self._newest.lines.items() if line.runs)
        if self.index.position() is None or self.index.told() != self.index.position():
            self._all_due()
        self._begun = True

    def _all_due(self) -> None:
        self._endings_due.update(self.index.all_endings())
        self._pages_due.update(dict.fromkeys(self._newest.lines))
        self._lists_due = True

    def _changed(self, jobs: list[str]) -> None:
        for job in jobs:
            self._newest.lines.pop(job, None)
            self._pages_due[job] = None
        self._newest.refresh()
        self._endings_due.update(job[-3:] for job in jobs)
        self._lists_due = True

    def forget(self, jobs: Iterable[str]) -> None:
        """These jobs are no longer kept: they leave the index and lose their pages."""
        gone = list(jobs)
        self.index.remove(gone)
        self._changed(gone)
        self.forget_pages(gone)
        self._write_endings()

    def forget_pages(self, jobs: Iterable[str]) -> None:
        """Remove the pages of these jobs."""
        for job in jobs:
            self._pages_due.pop(job, None)
            self._looks.pop(job, None)
            if job in self._paged:
                path = layout.job_page(job)
                self._disk.remove(path)
                self._written.pop(path, None)
                self._paged.discard(job)

    def rebuild(self, snapshots: Iterable[dict[str, Any]], position: tuple[int, int]) -> None:
        """Make the index anew, and write everything again."""
        self.index.rebuild(snapshots, position)
        self._written.clear()
        self._newest.lines.clear()
        self._told = None
        self._begin()
        self._all_due()
        self._write_index(time.time())

    # -- index/

    def _write(self, path: str, data: bytes, digest: bytes) -> None:
        """Replace a file unless it holds this already."""
        if self._written.get(path) != digest:
            files.publish(self._disk, path, data, replace=True)
            self._written[path] = digest

    def _write_index(self, at: float) -> None:
        if self._lists_due:
            jobs = self._newest.as_json()
            data = f'{{"format": 1, "at": {at}, "jobs": {jobs}}}'.encode()
            self._write(layout.RECENT_INDEX, data, _digest(jobs.encode()))
        self._write_endings()

    def _write_endings(self) -> None:
        for ending in sorted(self._endings_due):
            data = json.dumps({"format": 1, "jobs": self.index.endings(ending)}).encode()
            self._write(layout.ending_file(ending), data, _digest(data))
            self._endings_due.discard(ending)

    def _write_nodes(self, nodes: dict[str, Any]) -> bool:
        """Write the nodes if it is time; tell whether anything but loads and stamps has changed."""
        kept = [without_loads(row) for row in nodes["nodes"]]
        kept.append({"cut_off": nodes["cut_off"], "host": nodes["host"], "term": nodes["term"]})
        changed = bool(kept != self._nodes_kept)
        if changed or _past(self._nodes_at, nodes["at"], NODES_S):
            self._lists_due = self._lists_due or changed
            files.publish(self._disk, layout.NODES_INDEX, json.dumps(nodes).encode(), replace=True)
            gpus = gpu_rows(nodes["nodes"])
            self._lists_due = self._renderer.link("gpus.html", bool(gpus)) or self._lists_due
            self._list("nodes.html", nodes["at"], nodes=nodes)
            self._list("gpus.html", nodes["at"], gpus=gpus)
            self._nodes_at, self._nodes_kept = nodes["at"], kept
        return changed

    # -- www/

    def _page(self, page: Page, path: str, at: float) -> None:
        self._write(path, page.stamped(at), page.digest)

    def _list(self, name: str, at: float, **values: Any) -> None:
        page = self._renderer.page(name, name, **values)
        self._page(page, layout.page(name), at)
        self._versions[name] = page.version

    def _write_lists(self, nodes: dict[str, Any], changed: bool) -> None:
        """The overview shows loads, and is written with each stamp; the list of jobs when one has changed."""
        due, at = self._lists_due or changed, nodes["at"]
        if due or _past(self._stamped, at, ALIVE_S):
            newest = joined(line.html for line in islice(self._newest.lines.values(), OVERVIEW))
            gpus = gpu_rows(row for row in nodes["nodes"] if row["state"] != "offline")
            self._list("index.html", at, nodes=nodes, counts=self.index.counts(), rows=newest, gpus=gpus)
        if due:
            rows = joined(line.html for line in self._newest.lines.values())
            self._list("tasks.html", at, rows=rows, choices=self._newest.choices(), limit=RECENT)
            self._lists_due = False

    def _stamp(self, nodes: dict[str, Any]) -> None:
        if _past(self._stamped, nodes["at"], ALIVE_S):
            data = f"window.riverAlive = {nodes['at']:.0f};\nwindow.riverPages = {json.dumps(self._versions)};\n"
            files.publish(self._disk, layout.page("alive.js"), data.encode(), replace=True)
            self._stamped = nodes["at"]

    # -- www/jobs/

    def _write_pages(self, fresh: dict[str, dict[str, Any]], at: float) -> None:
        """Write pages that are due, newest first; take away those of jobs that are no longer among the newest."""
        newest = self._newest.lines
        self.forget_pages([job for job in {*self._paged, *self._pages_due} if job not in newest])
        due = sorted(self._pages_due, reverse=True)[:PAGES_MOST]
        saved = self._saved([job for job in due if job not in fresh])
        for job in due:
            self._write_page(job, fresh.get(job) or self._read(saved.get(job, ())), at)
            del self._pages_due[job]
        self._look_at_logs(at)

    def _write_page(self, job: str, snapshot: dict[str, Any] | None, at: float) -> None:
        if snapshot is None:
            return
        try:
            outputs = log_files(snapshot)
            logs = tails(self._disk, outputs)
            page = self._renderer.page("job.html", f"jobs/{job}.html", logs=logs, **job_view(snapshot, at))
        except Exception:
            log.exception("the page of job %s cannot be made", job)  # it holds up no other
            return
        self._page(page, layout.job_page(job), at)
        self._paged.add(job)
        if snapshot["state"] == "running" and snapshot["count"] <= ROWS_MOST:
            self._looks[job] = Look(at, outputs, _digest_of(logs))
        else:
            self._looks.pop(job, None)

    def _look_at_logs(self, at: float) -> None:
        """Of jobs that run, write those pages anew whose logs have grown; a few a round, in turn."""
        due = [(look.at, job) for job, look in self._looks.items() if _past(look.at, at, LOGS_S)]
        grown = [job for _, job in sorted(due)[:LOGS_MOST] if self._look(job, at)]
        saved = self._saved(grown)
        for job in grown:
            self._write_page(job, self._read(saved.get(job, ())), at)

    def _look(self, job: str, at: float) -> bool:
        """Whether the job's logs have changed since the last look."""
        look = self._looks[job]
        seen = _digest_of(tails(self._disk, look.files))
        self._looks[job] = Look(at, look.files, seen)
        return seen != look.digest

    def _saved(self, jobs: list[str]) -> dict[str, list[tuple[int, str]]]:
        """Where snapshots of these jobs lie, with their seq. Each bucket is listed once: it may hold 100,000 jobs."""
        wanted = set(jobs)
        found: dict[str, list[tuple[int, str]]] = {}
        for bucket in sorted({layout.bucket(job) for job in wanted}):
            for directory in (f"{layout.ACTIVE}/{bucket}", f"{layout.DONE}/{bucket}"):
                for name in files.names(self._disk, directory):
                    if name[:JOB_ID_DIGITS] in wanted and (place := layout.parse_snapshot(name)):
                        found.setdefault(place[0], []).append((place[2], f"{directory}/{name}"))
        return found

    def _read(self, places: Iterable[tuple[int, str]]) -> dict[str, Any] | None:
        """The newest of a job's snapshots; None if it has none."""
        for _, path in sorted(places, reverse=True):
            try:
                return read_snapshot(self._disk.read(path))
            except (FileNotFoundError, ValueError):
                continue  # replaced just now
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _digest_of(logs: list[Log]) -> bytes:
    return _digest(b"".join(b"%d\0%b" % (found.size, found.data) for found in logs))


def _past(then: float, now: float, seconds: float) -> bool:
    """Whether so much time lies between, also when the clock was set back."""
    return abs(now - then) >= seconds
