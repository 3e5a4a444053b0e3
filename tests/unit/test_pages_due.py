"""What is to be told stays due until it is told: over failures of the share, crashes, and rounds."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_index import row, snapshot
from test_pages import Counting, load, nodes, page, save

from hakuriver.host.index import Index
from hakuriver.pages.teller import Teller
from hakuriver.pages.views import job_view
from hakuriver.spool import layout
from hakuriver.spool.files import ShareError


class Failing(Counting):
    """Refuses to publish what `bad` names; tells what stood under a final name while it was written."""

    bad = ""

    def rename(self, source: str, target: str) -> None:
        if self.bad and self.bad in target:
            raise ShareError("rename", target, OSError(errno.ENOSPC, "No space left on device"))
        super().rename(source, target)


@pytest.fixture
def disk(scratch: Path) -> Failing:
    root = scratch / "share"
    for directory in layout.TREE:
        os.makedirs(root / directory)
    (root / layout.SENTINEL).write_text("{}")
    return Failing(str(root))


@pytest.fixture
def index(scratch: Path) -> Iterator[Index]:
    index = Index(str(scratch / "index.db"), "cluster")
    yield index
    index.close()


def contents(disk: Counting) -> dict[str, bytes]:
    """Every file that the teller wrote, stamps taken out."""
    root = Path(disk.root)
    found = {str(p.relative_to(root)): p.read_bytes() for d in ("index", "www") for p in (root / d).rglob("*.*")}
    times = re.compile(rb'<time data-t="[^"]*">[^<]*</time>|"at": [0-9.]+')
    return {path: times.sub(b"", data) for path, data in found.items()}


@pytest.mark.parametrize(
    "bad", ["recent.json", "endings/001", "index.html", "tasks.html", "www/jobs", "nodes", "alive"]
)
def test_a_failure_leaves_it_due(disk: Failing, index: Index, bad: str) -> None:
    teller = Teller(disk, index)
    job = snapshot(1001)
    save(disk, job)
    disk.bad = bad
    with pytest.raises(ShareError):
        teller.tell([job], nodes(), (1, 1))
    assert index.told() is None
    disk.bad = ""
    teller.tell([], nodes(101.0), (1, 1))
    assert index.told() == (1, 1)
    assert "name-1001" in page(disk, "tasks.html")
    assert "name-1001" in page(disk, "index.html")
    assert "name-1001" in page(disk, f"jobs/{job['job']}.html")
    assert json.loads(disk.read("index/endings/001.json"))["jobs"] == [job["job"]]
    assert json.loads(disk.read("index/recent.json"))["jobs"][0]["job"] == job["job"]


@pytest.mark.parametrize("crash_at", ["nodes.json", "recent.json", "endings", "index.html", "tasks.html", "www/jobs"])
def test_a_crash_in_between_is_made_up_for(disk: Failing, index: Index, crash_at: str) -> None:
    before = snapshot(1001, state="running", finished_at=None, exit_code=None, tasks=[row(state="running")])
    after = snapshot(1001, seq=2000)
    Teller(disk, index).tell([before], nodes(), (1, 1))
    save(disk, before, after)
    crashed = Teller(disk, index)
    disk.bad = crash_at
    with pytest.raises(ShareError):
        crashed.tell([after], nodes(120.0), (1, 2))
    disk.bad = ""
    Teller(disk, index).tell([], nodes(140.0), (1, 2))
    assert '<span class="tag completed">' in page(disk, f"jobs/{after['job']}.html")
    assert json.loads(disk.read("index/recent.json"))["jobs"][0]["state"] == "completed"


def test_a_restart_after_everything_was_told_writes_lists_alone(disk: Failing, index: Index) -> None:
    jobs = [snapshot(n) for n in range(1, 30)]
    save(disk, *jobs)
    Teller(disk, index).tell(jobs, nodes(), (1, 29))
    disk.take()
    Teller(disk, index).tell([], nodes(101.0), (1, 29))
    written = disk.take()
    assert not [path for path in written if "jobs/" in path or "endings" in path]
    assert "www/index.html" in written


def test_pages_of_an_earlier_run_are_known(disk: Failing, index: Index) -> None:
    Path(disk.root, "www/jobs").mkdir(parents=True, exist_ok=True)
    disk.write("www/jobs/00000000000000000001.html", b"of a job that is gone")
    Teller(disk, index).tell([], nodes(), (1, 1))
    assert disk.list("www/jobs") == []


def test_rebuilt_tells_the_same_as_live(disk: Failing, index: Index, scratch: Path) -> None:
    jobs = [snapshot(n, state="failed" if n % 3 else "completed") for n in range(1, 60)]
    save(disk, *jobs)
    live = Teller(disk, index)
    for n in range(0, 59, 10):
        live.tell(jobs[n : n + 10], nodes(100.0 + n), (1, n))
    told, known = contents(disk), index.dump()
    for path in told:
        os.unlink(f"{disk.root}/{path}")
    again = Index(str(scratch / "again.db"), "cluster")
    anew = Teller(disk, again)
    anew.rebuild(iter(jobs), (1, 50))
    anew.tell([], nodes(200.0), (1, 50))
    assert again.dump() == known
    again.close()
    rebuilt = contents(disk)
    assert rebuilt.keys() == told.keys()
    assert [path for path in told if told[path] != rebuilt[path] and path != "www/alive.js"] == []


def test_readers_see_whole_files_only(disk: Failing, index: Index) -> None:
    """Every name is written under another one and renamed: nothing final is ever opened to be written."""
    opened: list[str] = []
    write = disk.write

    def note(path: str, data: bytes, *, durable: bool = True) -> None:
        opened.append(path)
        write(path, data, durable=durable)

    disk.write = note  # type: ignore[method-assign]
    Teller(disk, index).tell([snapshot(1)], nodes(), (1, 1))
    assert len(opened) >= 7
    assert all(path.rpartition("/")[2].startswith(".") for path in opened)
    assert not [name for name in os.listdir(f"{disk.root}/www") if name.startswith(".")]


def test_one_page_that_cannot_be_made_holds_up_no_other(
    disk: Failing, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(found: dict[str, Any], now: float) -> dict[str, Any]:
        if found["job"].endswith("2"):
            raise ZeroDivisionError
        return job_view(found, now)

    monkeypatch.setattr("hakuriver.pages.teller.job_view", broken)
    jobs = [snapshot(n) for n in (1, 2, 3)]
    Teller(disk, index).tell(jobs, nodes(), (1, 3))
    assert len(disk.list("www/jobs")) == 2
    assert index.told() == (1, 3)


def test_a_log_that_grows_renews_its_page(disk: Failing, index: Index) -> None:
    job = snapshot(1, state="running", finished_at=None, exit_code=None, tasks=[row(state="running", ended_at=None)])
    save(disk, job)
    teller = Teller(disk, index)
    teller.tell([job], nodes(), (1, 1))
    disk.write(layout.stdout_path(job["job"], None, 1), b"epoch 1\n")
    teller.tell([], nodes(102.0), (1, 1))
    assert "epoch 1" not in page(disk, f"jobs/{job['job']}.html")
    teller.tell([], nodes(111.0), (1, 1))
    assert "epoch 1" in page(disk, f"jobs/{job['job']}.html")
    disk.take()
    teller.tell([], nodes(122.0, load=load(1.0)), (1, 1))
    assert not [path for path in disk.take() if "jobs/" in path]


def test_a_clock_set_back_stops_no_stamp(disk: Failing, index: Index) -> None:
    teller = Teller(disk, index)
    teller.tell([], nodes(10_000.0), (1, 1))
    teller.tell([], nodes(100.0), (1, 1))
    assert page(disk, "alive.js").startswith("window.riverAlive = 100;")


def test_the_stamp_names_the_versions_of_the_lists(disk: Failing, index: Index) -> None:
    Teller(disk, index).tell([snapshot(1)], nodes(), (1, 1))
    versions = json.loads(page(disk, "alive.js").partition("window.riverPages = ")[2].rstrip(";\n"))
    assert sorted(versions) == ["gpus.html", "index.html", "nodes.html", "tasks.html"]
    for name, version in versions.items():
        assert f'data-page="{name}" data-version="{version}"' in page(disk, name)


def test_memory_does_not_grow_with_history(disk: Failing, index: Index) -> None:
    teller = Teller(disk, index)
    for n in range(0, 3000, 500):
        teller.tell([snapshot(k) for k in range(n + 1, n + 501)], nodes(100.0 + n), (1, n))
    assert len(teller._newest.lines) == 1000
    assert len(teller._pages_due) <= 1000
    assert len(teller._written) <= 2010  # endings, lists, pages


def test_a_broken_database_is_replaced_when_it_is_rebuilt(disk: Failing, index: Index) -> None:
    teller = Teller(disk, index)
    teller.tell([snapshot(1)], nodes(), (1, 1))
    index._db.execute("drop table tasks")
    with pytest.raises(sqlite3.DatabaseError):
        teller.tell([snapshot(2)], nodes(101.0), (1, 2))
    with pytest.raises(sqlite3.DatabaseError):
        teller.rebuild(iter([snapshot(1), snapshot(2)]), (1, 2))
    teller.rebuild(iter([snapshot(1), snapshot(2)]), (1, 2))
    assert len(index.recent()) == 2


def test_a_rebuild_that_fails_leaves_what_was_there(index: Index) -> None:
    index.apply([snapshot(1)], (1, 1))
    before = index.dump()

    def away() -> Iterator[dict[str, Any]]:
        yield snapshot(2)
        raise ShareError("read", "jobs", OSError(errno.EIO, "Input/output error"))

    with pytest.raises(ShareError):
        index.rebuild(away(), (1, 2))
    assert index.dump() == before
    assert index.position() == (1, 1)
