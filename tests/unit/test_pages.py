"""The pages: right, escaped, and written only when they change."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_index import row, snapshot

from hakuriver.host.index import Index
from hakuriver.pages.rendering import printable
from hakuriver.pages.teller import Teller
from hakuriver.records import EndingsIndex, EnvironmentsIndex, Load, NodesIndex, RecentIndex
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


class Counting(LocalDisk):
    """Counts what becomes visible under a final name."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.published: list[str] = []

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.published.append(target)

    def take(self) -> list[str]:
        found, self.published = sorted(self.published), []
        return found


@pytest.fixture
def disk(scratch: Path) -> Counting:
    root = scratch / "share"
    for directory in layout.TREE:
        os.makedirs(root / directory)
    (root / layout.SENTINEL).write_text("{}")
    return Counting(str(root))


@pytest.fixture
def teller(disk: Counting, scratch: Path) -> Iterator[Teller]:
    index = Index(str(scratch / "index.db"), "cluster")
    yield Teller(disk, index)
    index.close()


def nodes(at: float = 100.0, **changes: Any) -> dict[str, Any]:
    node = {
        "node": "n1", "state": "online", "epoch": 1, "hostname": "h", "cores": 8, "memory_bytes": 8 * 10**9,
        "cores_held": 2, "memory_held_bytes": 0, "tasks": 1, "executors": ["process"], "load": {}, "problems": [],
        "heartbeat": "1-1", "silent_s": 0.0, "version": "1",
    }  # fmt: skip
    found = {"format": 1, "at": at, "host": "h1", "term": 1, "seq": 1, "cut_off": False, "nodes": [{**node, **changes}]}
    NodesIndex.model_validate(found)
    return found


def load(percent: float) -> dict[str, Any]:
    return Load(cpu_percent=percent).model_dump()


def save(disk: Counting, *snapshots: dict[str, Any]) -> None:
    """Lay them where the host does."""
    for found in snapshots:
        tree = layout.ACTIVE if found["finished_at"] is None else layout.DONE
        path = layout.snapshot_path(tree, found["job"], found["term"], found["seq"])
        Path(disk.root, path).parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, json.dumps(found).encode())


def page(disk: Counting, name: str) -> str:
    return disk.read(f"www/{name}").decode()


def test_everything_is_written_and_readable_by_its_model(teller: Teller, disk: Counting) -> None:
    job = snapshot(1123)
    teller.tell([job], nodes(), (1, 1))
    assert RecentIndex.model_validate_json(disk.read("index/recent.json")).jobs[0].job == job["job"]
    assert EndingsIndex.model_validate_json(disk.read("index/endings/123.json")).jobs == [job["job"]]
    assert NodesIndex.model_validate_json(disk.read("index/nodes.json")).nodes[0].node == "n1"
    assert f'<a href="jobs/{job["job"]}.html">' in page(disk, "tasks.html")
    assert "name-1123" in page(disk, "index.html")
    assert "n1" in page(disk, "nodes.html")
    assert page(disk, "alive.js").startswith("window.riverAlive = 100;\nwindow.riverPages = {")


def test_only_what_changed_is_written(teller: Teller, disk: Counting) -> None:
    teller.tell([snapshot(1), snapshot(2)], nodes(), (1, 2))
    disk.take()
    teller.tell([], nodes(101.0), (1, 2))
    assert disk.take() == []
    teller.tell([], nodes(103.0, load=load(50.0)), (1, 2))
    assert disk.take() == []
    teller.tell([snapshot(2, seq=3, state="failed", exit_code=1)], nodes(104.0), (1, 3))
    assert disk.take() == [
        "index/recent.json", "www/index.html", f"www/jobs/{snapshot(2)['job']}.html", "www/tasks.html",
    ]  # fmt: skip
    teller.tell([], nodes(116.0), (1, 3))
    assert disk.take() == ["index/nodes.json", "www/alive.js"]
    teller.tell([], nodes(122.0, load=load(50.0)), (1, 3))
    assert disk.take() == []
    teller.tell([], nodes(131.0, load=load(50.0)), (1, 3))
    assert disk.take() == ["index/nodes.json", "www/alive.js", "www/index.html", "www/nodes.html"]


def test_what_users_control_is_escaped(teller: Teller, disk: Counting) -> None:
    spec = {"command": ["sh", "-c", HOSTILE], "env": {"TOKEN": "hunter2"}, "workdir": f"/{HOSTILE}"}
    job = snapshot(
        1, name=HOSTILE, owner=HOSTILE, spec=spec, state="failed", tasks=[row(state="failed", reason=HOSTILE)]
    )
    disk.write(layout.stdout_path(job["job"], None, 1), HOSTILE.encode() + b"\xff\x00\x1b[31mred")
    teller.tell([job], nodes(problems=[HOSTILE]), (1, 1))
    for name in ("index.html", "tasks.html", "nodes.html", f"jobs/{job['job']}.html"):
        text = page(disk, name)
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "hunter2" not in text
        assert len(re.findall("<script", text)) == 2  # alive.js and our own
    text = page(disk, f"jobs/{job['job']}.html")
    assert "TOKEN" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "\ufffdred" in text


def test_the_policy_names_the_script_that_is_there(teller: Teller, disk: Counting) -> None:
    import base64
    import hashlib

    teller.tell([snapshot(1)], nodes(), (1, 1))
    text = page(disk, "tasks.html")
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text


def test_attempts_waiting_and_rows_left_out(teller: Teller, disk: Counting) -> None:
    tasks = [row(k) for k in range(1500)]
    tasks[0] = row(0, attempt=2, earlier=[[1, "n7", "failed", "exit", 3, None, 1.0, 2.0]])
    job = snapshot(1, tasks=tasks, count=2000, state="running", finished_at=None, waiting="1500-1999")
    teller.tell([job], nodes(), (1, 1))
    text = page(disk, f"jobs/{job['job']}.html")
    assert text.count('<td class="id">') == 1000
    assert "500 more tasks are not shown" in text
    assert "waiting: 1500-1999" in text
    assert "n7" in text


def test_log_tails(teller: Teller, disk: Counting) -> None:
    job = snapshot(1)
    disk.write(layout.stdout_path(job["job"], None, 1), b"first\n" + b"x" * 100_000 + b"\nlast words\n")
    teller.tell([job], nodes(), (1, 1))
    text = page(disk, f"jobs/{job['job']}.html")
    assert "last words" in text
    assert "first" not in text
    assert f'href="../../{layout.stdout_path(job["job"], None, 1)}"' in text


def test_only_the_newest_thousand_have_pages(teller: Teller, disk: Counting) -> None:
    teller.tell([snapshot(1)], nodes(), (1, 1))
    assert disk.list("www/jobs")
    jobs = [snapshot(n) for n in range(2, 1002)]
    save(disk, *jobs)
    teller.tell(jobs, nodes(101.0), (1, 2))
    assert f"{snapshot(1)['job']}.html" not in [e.name for e in disk.list("www/jobs")]
    for at in range(102, 120):
        teller.tell([], nodes(float(at)), (1, 2))
    assert len(disk.list("www/jobs")) == 1000
    assert page(disk, "tasks.html").count("<tr data-state=") == 1000


def test_forgotten_jobs_leave_nothing(teller: Teller, disk: Counting) -> None:
    job = snapshot(1123)
    teller.tell([job], nodes(), (1, 1))
    teller.forget([job["job"]])
    assert not disk.list("www/jobs")
    assert json.loads(disk.read("index/endings/123.json"))["jobs"] == []


def test_cut_off_is_told(teller: Teller, disk: Counting) -> None:
    teller.tell([], {**nodes(), "cut_off": True}, (1, 1))
    assert "may be cut off" in page(disk, "index.html")


def test_rebuild_writes_all_again(teller: Teller, disk: Counting) -> None:
    teller.tell([snapshot(1), snapshot(2)], nodes(), (1, 2))
    disk.take()
    teller.rebuild(iter([snapshot(1), snapshot(2)]), (1, 2))
    assert disk.take() == ["index/endings/001.json", "index/endings/002.json", "index/recent.json"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"a\x00b\x08c", "abc"),
        (b"\xc3\xa9\xff", "é\ufffd"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        (b"10%\r90%\r100%\nend", "100%\nend"),
        (b"\x1b]0;title\x07text", "text"),
    ],
)
def test_logs_are_made_printable(data: bytes, text: str) -> None:
    assert printable(data) == text


# -- environments


def environments(**changes: Any) -> dict[str, Any]:
    package = {
        "environment": "my-env", "name": "my-env-5", "image_id": "sha256:" + "b" * 64, "size_bytes": 3_000_000,
        "sha256": "0" * 64, "created_at": 90.0, "source": "busybox:1", "request": "",
    }  # fmt: skip
    container = {"environment": "my-env", "state": "running", "image": "busybox:1", "created_at": 80.0}
    told = {
        "at": 100.0, "host": "aabbccddeeff", "engine": "20.10.24", "containers": [container], "packages": [package],
        **changes,
    }  # fmt: skip
    return EnvironmentsIndex(**told).model_dump()


def test_the_page_of_environments(disk: Counting, teller: Teller) -> None:
    teller.environments(environments())
    teller.tell([], nodes(), (1, 1))
    page = Path(disk.root, layout.page("docker.html")).read_text()
    for text in ("my-env-5.tar", "3.0M", "sha256:bbbbbbbbbbbb", "busybox:1", "running", "Docker 20.10.24"):
        assert text in page
    for name in ("index.html", "nodes.html", "tasks.html"):
        assert 'href="docker.html"' in Path(disk.root, layout.page(name)).read_text()


def test_the_page_of_environments_is_written_when_they_change(disk: Counting, teller: Teller) -> None:
    teller.environments(environments())
    teller.tell([], nodes(), (1, 1))
    disk.take()
    teller.environments(environments(at=200.0))
    teller.tell([], nodes(), (1, 1))
    assert layout.page("docker.html") not in disk.take()
    step = {"request": "1", "kind": "create-tar", "environment": "my-env", "step": "saving", "done_bytes": 5}
    teller.environments(environments(progress=[step]))
    teller.tell([], nodes(), (1, 1))
    assert layout.page("docker.html") in disk.take()
    assert "create-tar my-env: saving" in Path(disk.root, layout.page("docker.html")).read_text()


def test_without_docker_and_packages_the_page_is_not_linked(disk: Counting, teller: Teller) -> None:
    why = "docker unavailable on host: Cannot connect"
    teller.environments(environments(engine="", problem=why, containers=[], packages=[]))
    teller.tell([], nodes(), (1, 1))
    assert why in Path(disk.root, layout.page("docker.html")).read_text()
    assert "docker.html" not in Path(disk.root, layout.page("index.html")).read_text()
    teller.environments(environments(engine="", problem=why))
    teller.tell([], nodes(), (1, 1))
    assert 'href="docker.html"' in Path(disk.root, layout.page("index.html")).read_text()


def test_nothing_of_environments_is_taken_for_html(disk: Counting, teller: Teller) -> None:
    hostile = environments()
    hostile["containers"][0] |= {"environment": HOSTILE, "state": HOSTILE, "image": HOSTILE}
    hostile["packages"][0] |= {"environment": HOSTILE, "name": HOSTILE, "source": HOSTILE, "image_id": HOSTILE}
    step = {"request": HOSTILE, "kind": HOSTILE, "environment": HOSTILE, "step": HOSTILE}
    hostile |= {"problem": HOSTILE, "default_problem": HOSTILE, "host": HOSTILE, "progress": [step]}
    for engine in ("", HOSTILE):
        teller.environments({**hostile, "engine": engine})
        teller.tell([], nodes(), (1, 1))
        page = Path(disk.root, layout.page("docker.html")).read_text()
        assert "<img" not in page
        assert "alert(1)</script>" not in page
