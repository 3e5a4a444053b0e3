"""What the page of a job picks from a snapshot, and what never gets onto it."""

from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_index import row, snapshot

from hakuriver.host import checking
from hakuriver.pages.rendering import Renderer, clean, printable, when
from hakuriver.pages.views import LANES_MOST, Lane, job_view, log_files, shown_rows
from hakuriver.pages.views import timeline as timeline_of
from hakuriver.records import TaskRow
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk, tail

RENDERER = Renderer()


def timeline(rows: list[list[Any]], now: float) -> list[Lane]:
    return timeline_of(snapshot(1, tasks=rows, count=100), [TaskRow(*found) for found in rows], now)


def html(job: dict[str, Any]) -> str:
    return RENDERER.page("job.html", "jobs/1.html", logs=[], **job_view(job, 100.0)).stamped(5.0).decode()


def test_of_too_many_tasks_those_that_failed_are_shown() -> None:
    tasks = [row(k) for k in range(3000)]
    tasks[2500] = row(2500, state="failed")
    shown = shown_rows(snapshot(1, tasks=tasks, count=3000))
    assert len(shown) == 1000
    assert shown[-1].k == 2500
    assert [task.k for task in shown[:3]] == [0, 1, 2]


def test_a_hundred_thousand_tasks_make_a_page_of_a_thousand() -> None:
    job = snapshot(1, tasks=[row(k) for k in range(100_000)], count=100_000)
    text = html(job)
    assert "99,000 more tasks are not shown" in text
    assert text.count('<td class="id">') == 1000
    assert len(text) < 1_500_000


def test_values_of_the_environment_stop_here() -> None:
    job = snapshot(1, spec={"command": ["x"], "env": {"B": "hunter2", "A": "swordfish"}})
    view = job_view(job, 0.0)
    assert view["spec"]["env"] == ["A", "B"]
    assert "hunter2" not in str(view)
    assert "swordfish" not in html(job)


def test_logs_of_what_failed_come_first_then_of_what_runs() -> None:
    states = ["completed", "running", "completed", "failed", "completed", "completed"]
    tasks = [row(k, state=state) for k, state in enumerate(states)] + [row(9, state="pending", attempt=0)]
    job = snapshot(1, tasks=tasks, count=10)
    assert [file.task.rpartition("-")[2] for file in log_files(job)] == ["3", "3", "1", "1", "0", "0", "2", "2"]
    assert {file.stream for file in log_files(job)} == {"stdout", "stderr"}


def test_few_tasks_have_a_lane_each_and_many_share_those_of_their_nodes() -> None:
    few = [row(k, node=f"n{k % 3}") for k in range(LANES_MOST)]
    assert len(timeline(few, 20.0)) == LANES_MOST
    many = [row(k, node=f"n{k % 3}") for k in range(LANES_MOST + 1)]
    assert [lane.label for lane in timeline(many, 20.0)] == ["n0", "n1", "n2"]


def test_attempts_stand_one_behind_the_other() -> None:
    first = [1, "n7", "lost", "lost", None, None, 10.0, 15.0]
    (lane,) = timeline([row(0, attempt=2, started_at=20.0, ended_at=30.0, earlier=[first])], 99.0)
    assert [(bar.state, bar.x, bar.width) for bar in lane.bars] == [("lost", 0.0, 250.0), ("completed", 500.0, 500.0)]
    assert lane.bars[0].title.endswith("attempt 1 on n7: lost")


def test_what_runs_is_drawn_up_to_now() -> None:
    (done, runs) = timeline([row(0), row(1, state="running", started_at=10.0, ended_at=None)], 40.0)
    assert (done.bars[0].width, runs.bars[0].width) == (50.0, 1000.0)


times = st.one_of(st.none(), st.floats(-1e18, 1e18), st.floats(1e9, 2e9))


@given(
    st.lists(st.tuples(times, times, st.sampled_from(["running", "completed", "pending", "lost"])), max_size=40), times
)
@settings(max_examples=60)
def test_a_timeline_stays_inside_whatever_the_clocks_say(found: list[Any], now: float | None) -> None:
    rows = [row(k, started_at=a, ended_at=b, state=state) for k, (a, b, state) in enumerate(found)]
    for lane in timeline(rows, now or 0.0):
        assert all(0 <= bar.x <= 1000 and 0 < bar.width <= 1000 for bar in lane.bars)


@given(st.one_of(st.floats(), st.integers(), st.none()))
def test_any_time_can_be_shown(seconds: float | None) -> None:
    assert "<script" not in when(seconds)
    assert when(seconds)


@given(st.text(), st.text())
@settings(max_examples=60)
def test_any_text_is_escaped_and_bears_no_control_characters(name: str, reason: str) -> None:
    job = {**snapshot(1), "name": name + "<i>", "tasks": [row(reason=reason + "</td><script>x", state="failed")]}
    text = html(job)
    assert "<i>" not in text
    assert "<script>x" not in text
    assert not set(text) & set(map(chr, [*range(9), *range(11, 32), 127]))


@given(st.binary())
def test_any_bytes_are_printable(data: bytes) -> None:
    text = printable(data)
    assert not set(text) & set(map(chr, [*range(9), *range(11, 32), 127, *range(128, 160)]))
    assert text.count("\n") <= data.count(b"\n")


def test_clean_leaves_what_is_no_text() -> None:
    assert clean("a\x00\x1bb\tc\n") == "ab\tc\n"
    assert clean(3) == 3


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing"])
def test_only_a_regular_file_is_shown_as_a_log(scratch: Path, kind: str) -> None:
    (scratch / "secret").write_bytes(b"secret")
    path = scratch / "log"
    if kind == "link":
        path.symlink_to(scratch / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    assert tail(LocalDisk(str(scratch)), "log", 100) == (b"", 0)
    assert tail(LocalDisk(str(scratch)), "secret", 3) == (b"ret", 6)


def copies_of(job: dict[str, Any]) -> list[str]:
    """What the page has to be copied."""
    return [unescape(text) for text in re.findall(r'<code class="copy">(.*?)</code>', html(job))]


@pytest.mark.parametrize(
    ("state", "counts", "commands"),
    [
        ("pending", {"pending": 3}, ["status", "why", "kill"]),
        ("running", {"running": 1, "completed": 2}, ["status", "why", "kill", "pause"]),
        ("running", {"running": 1, "paused": 2}, ["status", "why", "kill", "pause", "resume"]),
        ("failed", {"failed": 1, "completed": 2}, ["status", "requeue"]),
    ],
)
def test_what_can_be_asked_of_a_job_stands_there_to_be_copied(
    state: str, counts: dict[str, int], commands: list[str]
) -> None:
    job = snapshot(1, state=state, counts=counts, tasks=[row(k) for k in range(3)], count=3)
    copies = copies_of(job)
    asked = [kind for kind in commands if kind not in ("status", "why")]
    assert copies[: len(commands)] == [f"hakuriver task {verb} {job['job']}" for verb in commands]
    assert copies[len(commands) : -1] == [f"touch incoming/{job['job']}.{kind}" for kind in asked]
    assert all(layout.DOOR_NAME.fullmatch(copy.rpartition("/")[2]) for copy in copies[len(commands) : -1])
    body = checking.request(copies[-1].encode())
    assert (body.request, body.targets) == (asked[0], [f"{job['job']}-2"])
    assert copies_of(snapshot(1))[-1].endswith(f'"targets": ["{job["job"]}"]}}')


def test_what_a_job_asks_of_engines_and_what_its_tasks_got() -> None:
    spec = {"command": ["x"], "container": "torch", "gpus": 2, "privileged": False, "mounts": ["/a:/b:ro"],
            "private_network": True, "targets": ["n1:0"]}  # fmt: skip
    held = [*row(0, state="assigning", executor="docker", ended_at=None), [0, 3], "torch-7", "syncing torch-7"]
    text = html(snapshot(1, spec=spec, tasks=[held], count=1, counts={"assigning": 1}, state="running"))
    for words in ("2 GPUs", "private network", "<dt>Privileged</dt><dd>no</dd>", "/a:/b:ro", "GPU 0, 3", "torch-7",
                  "syncing torch-7", "n1:0"):  # fmt: skip
        assert words in text
    plain = html(snapshot(1))
    assert "GPU" not in plain
    assert "Privileged" not in plain
