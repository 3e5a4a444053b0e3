"""What README and docs/ tell to type, typed: each page in a shell of its own, on a river of real processes.

Pages begin with a cluster of a host and the nodes n1 and n2, or, those that are marked so, with none, and make it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import documents
import pytest
from cluster import CALM, Cluster
from daemons import toml
from documents import FRESH, Page
from pageruns import EXAMPLES, Site, left_of, put_examples, run_page

from hakuriver import reading
from hakuriver.spool.access import Share

PAGES = {page.name: page for page in documents.pages() if documents.PLAIN.takes(page)}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def river(module_scratch: Path) -> Iterator[Cluster]:
    """A host and two nodes of four cores."""
    with Cluster(module_scratch) as made:
        made.start_host()
        made.start_runners({"n1": "m1", "n2": "m1"})
        put_examples(made.share / "shared_data")
        yield made


@pytest.fixture
def site(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Where a page with a cluster is read."""
    river: Cluster = request.getfixturevalue("river")
    yield Site(scratch, river.share, toml({"paths": {"shared_dir": river.share}, "timing": CALM}))
    share = Share(str(river.share))
    if jobs := [job for job, _ in reading.unfinished(share)]:
        river.ask("kill", *jobs)
    for name in ("n1", "n2"):
        river.ask("undrain", node=name)


@pytest.fixture
def fresh(scratch: Path) -> Site:
    """Where there is nothing yet."""
    return Site(scratch, scratch / "river")


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if not page.fresh])
def test_what_a_page_tells_to_type_works(site: Site, name: str) -> None:
    failure = run_page(PAGES[name], site)
    assert failure is None, str(failure)


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.fresh])
def test_what_a_page_that_begins_with_nothing_tells_to_type_works(fresh: Site, name: str) -> None:
    failure = run_page(PAGES[name], fresh)
    assert failure is None, str(failure)
    assert left_of(fresh) == []


# -- the harness itself


def page_of(directory: Path, text: str) -> Page:
    (directory / "page.md").write_text(text)
    return Page(directory / "page.md")


def blocks(*texts: str) -> str:
    return "\n".join(f"Text.\n\n```sh\n{text}\n```\n" for text in texts)


def test_blocks_share_a_shell_a_home_a_directory_and_a_river(site: Site) -> None:
    text = blocks(
        'id=$(hakuriver submit --wait -- ./run.sh a b)\nexport X=1; cd "$HOME"',
        '[ "$(hakuriver task logs "$id")" = "ran a b" ]   # as it ran\n[ "$X" = 1 ] && cd - >/dev/null',
        "hakuriver submit --from jobs.jsonl --wait",
        "cp job.json /mnt/river/incoming/\n! hakuriver task why \\\n  nonsense",
        "[ -d /mnt/river/incoming ] && [ ! -e /mnt/river-of-others ]",
        'hakuriver submit --wait --target n1 --target n2 --cores 4 -- python3 train.py; rm -r "$HOME/.hakuriver"',
    )
    program = "```python\nfrom hakuriver import submit\n\nassert submit(['true'], cores=4).job\n```\n"
    not_run = "```sh needs=docker\nexit 3\n```\n```text\nexit 4\n```\n"
    failure = run_page(page_of(site.directory, not_run + program + text), site)
    assert failure is None, str(failure)


def test_blocks_that_need_something_run_where_that_is(site: Site) -> None:
    site.has = frozenset({"docker", "terminal"})
    site.places["/scratch"] = site.directory / "scratch"
    shell = site.work / "hakuriver"
    shell.write_text('#!/bin/sh\n[ -t 0 ] && printf "# " && read -r typed && echo "$2: $typed" >>typed\n')
    shell.chmod(0o755)
    for package in ("my-env-99", "my-env-100", "my-env-too-200"):
        (site.share / f"hakuriver-containers/{package}.json").touch()
    terminal = "hakuriver docker-shell a\nhakuriver docker-shell b   # there: make; exit"
    page = page_of(
        site.directory,
        "```sh\nexport PATH=$PWD:$PATH\n```\n"
        f"```sh needs=docker,terminal\n{terminal}\n```\n```sh needs=docker,gpu\nexit 3\n```\n"
        "```sh needs=docker\n"
        "[ \"$(cat typed)\" = $'a: exit\\nb: make; exit' ]\n"
        "[ my-env-1792345679 = my-env-100 ]\n"
        f"[ --mount=/scratch:/scratch = --mount={site.places['/scratch']}:/scratch ]\n```\n",
    )
    failure = run_page(page, site)
    for file in site.share.glob("hakuriver-containers/my-env-*"):
        file.unlink()
    assert failure is None, str(failure)


def test_a_command_that_fails_on_a_terminal_is_told(site: Site) -> None:
    site.has = frozenset({"terminal"})
    block = "```sh needs=terminal\nhakuriver docker-shell No-Environment\n```\n"
    failure = run_page(page_of(site.directory, block), site)
    assert failure is not None
    assert failure.what == "`hakuriver docker-shell No-Environment` ended with 1"
    assert "no environment can have that name" in failure.output


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("hakuriver task lst", "`hakuriver task lst` ended with 2"),
        ("id=$(hakuriver submit --corse 4 -- x)", "ended with 2"),
        ("hakuriver submit --wait -- false", "`hakuriver submit --wait -- false` ended with 1"),
        ("! hakuriver task list --limit 1", "`what should fail did not` ended with 1"),
        ("! hakuriver task list \\\n  --limit 3   # which works", "`what should fail did not` ended with 1"),
        ("exit 0", "`exit` ended with 0"),
    ],
)
def test_a_command_that_fails_is_told_with_its_place(site: Site, last: str, told: str) -> None:
    page = page_of(site.directory, blocks("echo before", f"echo here\n{last}", "echo after"))
    failure = run_page(page, site)
    assert failure is not None
    assert failure.place == f"{page.name}:10"
    assert told in failure.what
    assert failure.output.startswith("here\n")
    assert "before" not in failure.output


def test_a_page_that_does_not_end_is_ended(site: Site) -> None:
    failure = run_page(page_of(site.directory, blocks("true", "sleep 1000")), site, patience_s=5.0)
    assert failure is not None
    assert "it did not end within 5 s" in failure.what
    assert failure.place.endswith(":10")


def daemon_page(fresh: Site, daemons: str, *texts: str) -> Page:
    prepare = "hakuriver init share --shared-dir /mnt/river\nhakuriver init config --shared-dir /mnt/river"
    return page_of(
        fresh.directory, f"{FRESH}\n{blocks(prepare)}\n```sh daemon\n{daemons}\n```\n{blocks(*(texts or ['true']))}"
    )


def test_a_page_makes_its_own_cluster(fresh: Site) -> None:
    daemons = "hakuriver host   # on one machine\nhakuriver.runner --name n7"
    used = "hakuriver submit --wait --target n7 -- ./run.sh\nhakuriver submit -- sleep 1000"
    failure = run_page(daemon_page(fresh, daemons, used), fresh)
    assert failure is None, str(failure)
    assert left_of(fresh) == []
    assert set(EXAMPLES) <= {path.name for path in (fresh.share / "shared_data").iterdir()}


def test_a_daemon_that_never_begins_is_told(fresh: Site) -> None:
    failure = run_page(daemon_page(fresh, "hakuriver host\nhakuriver runner --nam n1"), fresh)
    assert failure is not None
    assert failure.what == "`hakuriver runner --nam n1` ended with 1"
    assert "No such option" in failure.output


def test_a_daemon_that_dies_is_told(fresh: Site) -> None:
    dies = 'pid=$(cat "$PAGE_LOGS/1.pid"); kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done'
    failure = run_page(daemon_page(fresh, "hakuriver host", dies), fresh)
    assert failure is not None
    assert "`hakuriver host` has ended before the page did" in failure.what
