"""What pages tell to type where there is Docker, typed: on a river whose host and nodes have engines.

As in tests/acceptance/test_documents_run.py, each page in a shell of its own, from top to bottom. Stand-ins: the image
`python:3.12-slim` is made here and pulled from nowhere, and the packages that pip finds for it are in it
(lab/python_image.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import documents
import pytest
from daemons import toml
from documents import DOCKER, ROOT
from lab.dockerd import Dockerd
from lab.python_image import add_python
from lab.systemd import CACHE
from pageruns import EXAMPLES, Site, put_examples, run_page

from engines.river import LONG_S, DockerRiver, clear
from hakuriver import reading
from hakuriver.spool import layout
from hakuriver.spool.access import Share

PAGES = {page.name: page for page in documents.pages() if DOCKER.takes(page)}
IMAGE = "python:3.12-slim"
#: What tasks in containers find in shared_data.
STUDY = {
    "study/train.py": EXAMPLES["train.py"],
    "study/untrusted.py": "import os\nassert os.listdir('/sys/class/net') == ['lo']\n",
    "needs-all-rights": "#!/bin/sh\nset -e\nmount -t tmpfs none /mnt\n",
    "does-not": "#!/bin/sh\n! mount -t tmpfs none /mnt 2>/dev/null\n",
}
#: What a node says whose engine may not do that itself, as one in a container.
NO_RIGHTS = "Docker engine has not the rights itself that a privileged container is to have"
#: Seconds that a page may take: images are packaged and loaded.
PAGE_S = 400.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def host_engine(module_scratch: Path) -> Iterator[Dockerd]:
    """The one of the machine at which the reader sits."""
    with Dockerd(module_scratch / "host") as engine:
        add_python(engine, IMAGE, CACHE)
        yield engine


@pytest.fixture(scope="module")
def nodes_engine(module_scratch: Path) -> Iterator[Dockerd]:
    """That of the machine of both nodes."""
    with Dockerd(module_scratch / "nodes") as engine:
        yield engine


@pytest.fixture
def river(scratch: Path, host_engine: Dockerd, nodes_engine: Dockerd) -> Iterator[DockerRiver]:
    """A host and two nodes of four cores."""
    with DockerRiver(scratch, {"n1": nodes_engine, "n2": nodes_engine}, host_engine) as made:
        made.start_all()
        put_examples(made.share / layout.SHARED_DATA)
        put_examples(made.share / layout.SHARED_DATA, STUDY)
        yield made
    clear(host_engine, but=IMAGE)


@pytest.fixture
def site(river: DockerRiver) -> Site:
    """Where a page is read, on the host's machine."""
    directory = river.directory / "reader"
    made = Site(directory, river.share, toml({"paths": {"shared_dir": river.share}}), DOCKER.has)
    made.variables["DOCKER_HOST"] = f"unix://{river.maker.socket}"
    for name in ("/data/sets", "/scratch"):
        made.places[name] = river.directory / "node" / name.lstrip("/")
        made.places[name].mkdir(parents=True)
    return made


def put_sources(river: DockerRiver) -> None:
    """Those that docs/environments.md installs into an environment."""
    sources = river.share / layout.SHARED_DATA / "hakuriver-src"
    for name in ("hakuriver", "docs/man", "docs/completions"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)


def put_old_tarball(river: DockerRiver) -> None:
    """One of an earlier version, for docs/coming-from-old.md."""
    name = layout.environment_image("my-env")
    river.maker.add_image("shell", name)
    river.maker.cli("save", "--output", str(river.packages / "my-env-1746000000.tar"), name)
    river.maker.cli("rmi", name)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_tells_to_type_works_with_docker(river: DockerRiver, site: Site, name: str) -> None:
    put_sources(river)
    put_old_tarball(river)
    failure = run_page(PAGES[name], site, PAGE_S)
    assert failure is None, str(failure)
    assert [line for job, _ in reading.newest(Share(str(river.share))) if (line := bad_end(river, job))] == []


def bad_end(river: DockerRiver, job: str) -> str | None:
    """How a job in a container ended, if not well: pages do not wait for all."""
    if not river.job(job).spec.get("container"):
        return None
    found = river.ended(job, LONG_S)
    [task] = found.tasks
    if found.state == "completed" or (found.spec.get("privileged") and NO_RIGHTS in task.reason):
        return None
    return f"{found.spec['command']}: {found.state}: {task.reason}: {river.out(job, stream='err')}"
