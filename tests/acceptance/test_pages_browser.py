"""The pages in a real browser, opened from disk: filters, local times, and the notice of a host that fell silent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SCRATCH
from filelock import FileLock

from hakuriver.host.index import Index
from hakuriver.pages.teller import Teller
from hakuriver.spool import layout
from hakuriver.spool.files import LocalDisk

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from test_index import snapshot
from test_pages import nodes

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--dump-dom",
)  # fmt: skip

pytestmark = pytest.mark.timeout(600)  # the browser may have to be fetched
#: Nine hours ahead.
TIME_ZONE = "Etc/GMT-9"


@pytest.fixture(scope="module")
def browser() -> str:
    """Headless Chromium; installed where that is possible."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with FileLock(SCRATCH / "chromium.lock"):  # a test beside this one may be installing it just now
        found = chromium()
        if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
            subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False, capture_output=True)
            found = chromium()
    if found is None:
        pytest.skip("needs Chromium: install it, or run as root where apt-get is")
    return found


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def www(scratch: Path) -> Path:
    """Pages of four jobs, told just now."""
    root = scratch / "share"
    for directory in layout.TREE:
        os.makedirs(root / directory)
    (root / layout.SENTINEL).write_text("{}")
    index = Index(str(scratch / "index.db"), "cluster")
    jobs = [
        snapshot(1, owner="ada"),
        snapshot(2, owner="bob", state="failed", exit_code=3),
        snapshot(3, owner="ada", state="failed", exit_code=1, name="<b>bold</b>"),
        snapshot(4, owner="bob", state="running", exit_code=None, finished_at=None),
    ]
    Teller(LocalDisk(str(root)), index).tell(jobs, nodes(time.time()), (1, 4))
    index.close()
    return root / "www"


def dom(browser: str, page: str, profile: Path, virtual_ms: int = 3000) -> str:
    """The page's DOM after its scripts have run for so long by the browser's virtual clock."""
    command = [browser, *QUIET, f"--virtual-time-budget={virtual_ms}", f"--user-data-dir={profile}", page]
    here = {**os.environ, "TZ": TIME_ZONE, "LANGUAGE": "en"}
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=110, check=True)
    return done.stdout


def rows(text: str) -> list[str]:
    """Ids of the jobs whose rows are shown."""
    shown = [row for row in re.findall(r"<tr data-state.*?</tr>", text, re.DOTALL) if ' hidden=""' not in row[:200]]
    return [re.findall(r"jobs/(\d+)\.html", row)[0][-1] for row in shown]


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", ["4", "3", "2", "1"]),
        ("#state=failed", ["3", "2"]),
        ("#state=failed&user=ada", ["3"]),
        ("#text=bold", ["3"]),
        ("#text=BOLD+echo", ["3"]),
        ("#node=n1&state=running", ["4"]),
        ("#node=n9", []),
    ],
)
def test_filters_work_from_disk(browser: str, www: Path, scratch: Path, fragment: str, expected: list[str]) -> None:
    text = dom(browser, f"file://{www}/tasks.html{fragment}", scratch / "profile")
    assert rows(text) == expected
    assert f"{len(expected)} of 4 shown" in text
    assert "<b>bold</b>" not in text


def test_times_are_local_and_a_fresh_page_has_no_notice(browser: str, www: Path, scratch: Path) -> None:
    text = dom(browser, f"file://{www}/index.html", scratch / "profile")
    assert re.search(r'<time data-t="9.0" title="1970-01-01 00:00:09 UTC">[^<]*\b0?9:00:09\b', text)
    assert re.search(r'<div class="stale" id="stale"[^>]* hidden=""', text)


@pytest.mark.parametrize("page", ["index.html", f"jobs/{snapshot(1)['job']}.html"])
def test_a_silent_host_is_told_on_every_page(browser: str, www: Path, scratch: Path, page: str) -> None:
    (www / "alive.js").write_text(f"window.riverAlive = {time.time() - 3600:.0f};\n")
    text = dom(browser, f"file://{www}/{page}", scratch / "profile")
    notice = re.findall(r'<div class="stale" id="stale"([^>]*)>(.*?)</div>', text)[0]
    assert "hidden" not in notice[0]
    assert "told nothing since" in notice[1]


def test_what_a_user_wrote_is_never_run(browser: str, www: Path, scratch: Path) -> None:
    name = "</title><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    index = Index(str(scratch / "index.db"), "cluster")
    Teller(LocalDisk(str(www.parent)), index).tell([snapshot(5, name=name)], nodes(time.time()), (1, 5))
    index.close()
    for page in ("tasks.html", f"jobs/{snapshot(5)['job']}.html"):
        text = dom(browser, f"file://{www}/{page}", scratch / "profile")
        assert "owned" in text
        assert "<title>owned" not in text


def test_a_script_that_is_not_ours_is_not_run_either(browser: str, www: Path, scratch: Path) -> None:
    page = www / "tasks.html"
    page.write_text(page.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>"))
    text = dom(browser, f"file://{page}", scratch / "profile")
    assert "<title>Tasks" in text
    assert "4 of 4 shown" in text


ALIVE = """
window.riverAlive = Math.floor(Date.now() / 1000) + {skew};
document.documentElement.dataset.way = performance.getEntriesByType("navigation")[0].type;
window.riverPages = {{"tasks.html": document.documentElement.dataset.way === "reload" ? "{mine}" : "{version}"}};
"""


@pytest.mark.parametrize(("version", "way"), [("other", "reload"), ("same", "navigate")])
def test_an_open_page_is_renewed_when_its_content_is_new(
    browser: str, www: Path, scratch: Path, version: str, way: str
) -> None:
    mine = re.findall(r'data-version="(.*?)"', (www / "tasks.html").read_text())[0]
    (www / "alive.js").write_text(ALIVE.format(skew=0, mine=mine, version=mine if version == "same" else version))
    text = dom(browser, f"file://{www}/tasks.html#state=failed", scratch / "profile", virtual_ms=40_000)
    assert f'data-way="{way}"' in text
    assert rows(text) == ["3", "2"]


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_a_clock_that_is_off_does_not_make_a_living_host_look_dead(
    browser: str, www: Path, scratch: Path, skew: int
) -> None:
    mine = re.findall(r'data-version="(.*?)"', (www / "tasks.html").read_text())[0]
    (www / "alive.js").write_text(ALIVE.format(skew=skew, mine=mine, version=mine))
    text = dom(browser, f"file://{www}/tasks.html", scratch / "profile", virtual_ms=100_000)
    assert re.search(r'<div class="stale" id="stale"[^>]* hidden=""', text)


def test_a_stamp_that_no_longer_changes_is_noticed(browser: str, www: Path, scratch: Path) -> None:
    """Also if the host's clock is ahead, so that its last stamp lies in the future."""
    (www / "alive.js").write_text(f"window.riverAlive = {time.time() + 7200:.0f};\n")
    text = dom(browser, f"file://{www}/index.html", scratch / "profile", virtual_ms=100_000)
    assert not re.search(r'<div class="stale" id="stale"[^>]* hidden=""', text)
