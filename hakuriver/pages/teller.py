"""Writes what people read: the index files and the pages. All of it is derived, and replaced by rename.

Only what has changed is written. A page tells its reader when the host has fallen silent: `alive.js` bears the
host's newest stamp, and the script on each page compares it with the reader's clock.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from typing import Any

from hakuriver.host.index import Index
from hakuriver.pages.rendering import Renderer, job_view, shown_tasks
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk

#: Jobs in lists, and jobs that have a page.
RECENT = 1000
#: Bytes of a log's end on a job's page.
TAIL = 64 * 1024
#: Job pages written in one round at most; the rest follows in the next ones.
PAGES_MOST = 100
#: Seconds between two stamps, and between two writes of the nodes when only their load has changed.
ALIVE_S, NODES_S = 15.0, 5.0


class Teller:
    """Tells what the host knows."""

    def __init__(self, disk: Disk, index: Index) -> None:
        self._disk = disk
        self.index = index
        self._renderer: Renderer | None = None
        self._written: dict[str, bytes] = {}  #: path -> digest of what it holds
        self._due: dict[str, dict[str, Any]] = {}  #: snapshots whose pages are to be written
        self._recent: list[dict[str, Any]] = []
        self._paged: set[str] = set()
        self._stamped = self._nodes_at = float("-inf")
        self._nodes_kept: Any = None

    def tell(self, snapshots: list[dict[str, Any]], nodes: dict[str, Any], position: tuple[int, int]) -> None:
        """Take in changed jobs and the nodes as they are; write what follows from them."""
        if snapshots or not self._recent:
            self.index.apply(snapshots, position)
            self._recent = self.index.recent(RECENT)
            self._due.update((snapshot["job"], snapshot) for snapshot in snapshots)
            self._write_recent(nodes["at"])
            self._write_endings({snapshot["job"] for snapshot in snapshots})
        changed = self._write_nodes(nodes)
        if snapshots or changed:
            self._write_lists(nodes)
        self._write_jobs()
        self._stamp(nodes)

    def forget(self, jobs: Iterable[str]) -> None:
        """These jobs are no longer kept."""
        gone = list(jobs)
        self.index.remove(gone)
        self._recent = self.index.recent(RECENT)
        self._write_endings(set(gone))
        for job in gone:
            self._drop_page(job)

    def rebuild(self, snapshots: Iterable[dict[str, Any]], position: tuple[int, int]) -> None:
        """Make the index anew, and write everything again."""
        self.index.rebuild(snapshots, position)
        self._written.clear()
        self._recent = self.index.recent(RECENT)
        self._write_recent(time.time())
        for ending in self.index.all_endings():
            self._write_endings({ending})

    # -- index/

    def _write(self, path: str, data: bytes, *, same: bytes | None = None) -> bool:
        """Replace a file if it is to change; `same`: what counts for that, without stamps."""
        digest = hashlib.blake2b(data if same is None else same, digest_size=16).digest()
        if self._written.get(path) == digest:
            return False
        files.publish(self._disk, path, data, replace=True)
        self._written[path] = digest
        return True

    def _write_recent(self, at: float) -> None:
        data = json.dumps({"format": 1, "at": at, "jobs": self._recent}).encode()
        self._write(f"{layout.INDEX}/recent.json", data, same=json.dumps(self._recent).encode())

    def _write_endings(self, jobs: set[str]) -> None:
        for ending in {job[-3:] for job in jobs}:
            data = json.dumps({"format": 1, "jobs": self.index.endings(ending)}).encode()
            self._write(layout.ending_file(ending), data)

    def _write_nodes(self, nodes: dict[str, Any]) -> bool:
        """Tell whether anything but loads and stamps has changed."""
        kept = [{**row, "load": None, "heartbeat": None, "silent_s": None} for row in nodes["nodes"]]
        kept.append({"cut_off": nodes["cut_off"], "host": nodes["host"], "term": nodes["term"]})
        changed = bool(kept != self._nodes_kept)
        self._nodes_kept = kept
        if changed or nodes["at"] - self._nodes_at >= NODES_S:
            self._nodes_at = nodes["at"]
            files.publish(self._disk, f"{layout.INDEX}/nodes.json", json.dumps(nodes).encode(), replace=True)
            self._page("nodes.html", "nodes.html", nodes=nodes)
        return changed

    # -- www/

    def _page(self, template: str, name: str, **values: Any) -> None:
        self._renderer = self._renderer or Renderer()
        root = "../" * name.count("/")
        body = self._renderer.page(template, root=root, **values).encode()
        self._write(f"{layout.WWW}/{name}", body)

    def _write_lists(self, nodes: dict[str, Any]) -> None:
        counts = self.index.counts()
        self._page("index.html", "index.html", nodes=nodes, counts=counts, jobs=self._recent[:20])
        choices = {
            "node": sorted({node for job in self._recent for node in job["nodes"]}),
            "user": sorted({job["owner"] for job in self._recent}),
        }
        self._page("tasks.html", "tasks.html", jobs=self._recent, choices=choices, limit=RECENT)

    def _write_jobs(self) -> None:
        """Write the newest pages that are due; take away those of jobs that are no longer among the newest."""
        newest = {row["job"] for row in self._recent}
        for job in [job for job in self._due if job not in newest]:
            del self._due[job]
        for job in self._paged - newest:
            self._drop_page(job)
        for job in sorted(self._due, reverse=True)[:PAGES_MOST]:
            snapshot = self._due.pop(job)
            self._page("job.html", f"jobs/{job}.html", logs=self._logs(snapshot), **job_view(snapshot))
            self._paged.add(job)

    def _drop_page(self, job: str) -> None:
        self._disk.remove(f"{layout.WWW}/jobs/{job}.html")
        self._written.pop(f"{layout.WWW}/jobs/{job}.html", None)
        self._paged.discard(job)

    def _logs(self, snapshot: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for row in shown_tasks(snapshot):
            k = None if snapshot["count"] == 1 else row.k
            for stream, path in (
                ("stdout", layout.stdout_path(snapshot["job"], k, row.attempt)),
                ("stderr", layout.stderr_path(snapshot["job"], k, row.attempt)),
            ):
                data, size = files.tail(self._disk, path, TAIL)
                if size:
                    found.append({"k": k, "stream": stream, "path": path, "data": data, "size": size})
        return found

    def _stamp(self, nodes: dict[str, Any]) -> None:
        if nodes["at"] - self._stamped < ALIVE_S:
            return
        self._stamped = nodes["at"]
        data = f"window.riverAlive = {nodes['at']:.0f};\n".encode()
        files.publish(self._disk, f"{layout.WWW}/alive.js", data, replace=True)
