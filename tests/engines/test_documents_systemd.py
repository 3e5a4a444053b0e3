"""What pages tell to type where systemd runs, typed there: each page on a machine of its own, from top to bottom.

Blocks that need systemd, root, a share or a terminal are typed as root, or by the river's user; those that need nothing
as well, on pages where the others build on them. Docker, GPUs, NUMA, more machines, the internet and a desktop are not
there: such blocks are only read, by tests/unit/test_documents.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import documents
import pytest
from conftest import SCRATCH, eventually
from documents import ROOT, SYSTEMD, Block, Page
from lab.systemd import CACHE, Container, Machine
from lab.systemd import PATH as SYSTEM_PATH
from lab.wheels import wheels_of_hakuriver
from pageruns import EXAMPLES, put_examples

PAGES = {page.name: page for page in documents.pages()}
HOST, RUNNER = "hakuriver-host", "hakuriver-runner"
#: A page's longest block makes a virtual environment and installs into it.
BLOCK_S, LONG_S = 90.0, 90.0
#: The number of the services' user where a page makes it, and of the one who is there where it does not.
MADE_UID, FOUND_UID = 870, 1500
SHARE, PROGRAMS = "/mnt/river", "/opt/hakuriver"
CONFIGURATION = f'[paths]\nshared_dir = "{SHARE}"\n'

#: A machine as an administrator has it: /etc and /opt can be written, and there is a group for Docker.
PREPARE = """
hostname n1
cp -a /etc /run/etc
mount --bind /run/etc /etc
mount -t tmpfs -o mode=755 opt /opt
echo 127.0.0.1 localhost n1 >/etc/hosts
groupadd docker
mkdir {share}
mount --bind {directory}/share {share}
"""
#: Whoever works as the river's user may become root, as who administers a machine may.
PERSON = "/etc/sudoers.d/person"
HEAD = r"""
set -eE -o pipefail
trap 'echo "@@ failed: $BASH_COMMAND"' ERR
until_read() {
    coproc SAID { exec "$@"; }
    IFS= read -r -t 30 line <&"${SAID[0]}"
    echo "$line"
    kill "$SAID_PID"
}
"""
#: What goes on until its reader, who has read something, ends it.
ENDLESS = re.compile(r"^(journalctl .*-f)$", re.MULTILINE)
#: For `systemctl edit`: puts what the page shows where the file says that it belongs.
EDITOR = '#!/bin/sh\nfor file; do :; done\nsed -i "/^### Anything between here/r {text}" "$file"\n'
pytestmark = pytest.mark.timeout(400)


def needs_this(block: Block) -> bool:
    """Whether it is one of those for whose sake such a machine is made."""
    return bool(block.needs) and block.runs(SYSTEMD.has)


def typed_by_root(block: Block) -> bool:
    """Who asks sudo to become root is not root."""
    return "root" in block.needs and not re.search(r"\bsudo (?!-u )", block.text)


class Site:
    """A machine where pages are read."""

    def __init__(self, directory: Path, machine: Machine, fetched: Path) -> None:
        self.machine, self.directory, self.fetched = machine, directory, fetched
        self.sources = self.work = directory / "sources"
        (directory / "share").mkdir()
        copy_sources(self.sources)
        self.shell(PREPARE.format(share=SHARE, directory=directory))

    def shell(self, script: str) -> str:
        """What the test itself does there, as root."""
        return self.machine.run("bash", "-ec", script, timeout=LONG_S)

    def write(self, path: str, text: str) -> None:
        self.shell(f'mkdir -p "$(dirname {path})"; printf %s {shlex.quote(text)} >{path}')

    # -- what pages take for granted

    def own(self, uid: int) -> None:
        """The share and the sources belong to that number, as its user's."""
        self.shell(f"chown -R {uid}:{uid} {self.directory}/share {self.sources}")

    def without_user(self) -> None:
        """Nobody has made the river's user yet."""
        self.shell("userdel river; rm /etc/sudoers.d/river")
        self.own(MADE_UID)

    def installed(self) -> None:
        """HakuRiver is there, and the river's user with a configuration."""
        self.shell(f"ln -s {sys.prefix} {PROGRAMS}")
        self.own(FOUND_UID)
        self.write("/home/river/.hakuriver/config.toml", CONFIGURATION)

    def up(self) -> None:
        """A river runs."""
        self.installed()
        self.river(f"hakuriver init share --shared-dir {SHARE}")
        self.river("hakuriver init service --all --output-dir units")
        self.shell(f"cp {self.sources}/units/*.service /etc/systemd/system/; systemctl daemon-reload")
        self.shell(f"systemctl enable --now {HOST} {RUNNER}")

    # -- typing

    def command(self, program: list[str], user: str) -> list[str]:
        """What to run here so that a user there runs it, in the directory where the page is read."""
        home = self.shell(f"getent passwd {user} | cut -d: -f6").strip()
        python = [] if sys.base_prefix == "/usr" else [f"{sys.base_prefix}/bin"]
        settings = {
            "HOME": home, "USER": user, "TERM": "dumb", "PATH": ":".join([f"{PROGRAMS}/bin", *python, SYSTEM_PATH]),
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.fetched), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore", "SYSTEMD_EDITOR": f"{self.directory}/editor",
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in settings.items()]
        as_user = ["runuser", "-u", user, "--"] if user != "root" else []
        return self.machine.command([*as_user, "env", f"--chdir={self.work}", *words, *program])

    def river(self, script: str, user: str = "river") -> str:
        """What the test asks the river, as its user."""
        done = subprocess.run(
            self.command(["bash", "-ec", script], user), capture_output=True, text=True, timeout=LONG_S
        )
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def type(self, page: Page, blocks: Iterable[Block], user: str = "river") -> None:
        """Type blocks as they stand; what fails fails the test, with its place."""
        for block in blocks:
            script = self.directory / "block.sh"
            script.write_text(HEAD + ENDLESS.sub(r"until_read \1", block.text))
            program = ["timeout", "--foreground", str(BLOCK_S), "bash", str(script)]
            if "terminal" in block.needs:
                program = ["script", "--quiet", "--return", "--command", shlex.join(program), "/dev/null"]
            done = subprocess.run(
                self.command(program, "root" if typed_by_root(block) else user), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BLOCK_S + LONG_S,
            )  # fmt: skip
            place = f"{page.name}:{block.line}"
            assert done.returncode == 0, f"{place}: status {done.returncode}\n{done.stdout}{self.said()}"

    def said(self) -> str:
        """The last of the machine's journal."""
        return "--- journal\n" + self.shell("journalctl --quiet --no-pager --lines 60 --output cat")

    # -- what has become of it

    def runs(self, *nodes: str, units: Iterable[str] = (HOST, RUNNER), user: str = "river") -> None:
        """These units are enabled and active, as that user's; the river has these nodes, and they are online."""
        for unit in units:
            state = self.shell(f"systemctl show {unit} --property ActiveState,UnitFileState,User").split()
            assert sorted(state) == ["ActiveState=active", "UnitFileState=enabled", f"User={user}"], self.said()
        eventually(lambda: self.nodes(user) == dict.fromkeys(nodes, "online"), LONG_S, f"{nodes} are online")

    def nodes(self, user: str = "river") -> dict[str, str]:
        listed = json.loads(self.river(f"HAKURIVER_SHARED_DIR={SHARE} hakuriver node list --json", user))
        return {row["node"]: row["state"] for row in listed["nodes"]}


def copy_sources(place: Path) -> None:
    """A checkout, which pages are read in."""
    place.mkdir()
    for name in ("hakuriver", "docs", "contrib"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, place)


def parts_of_venv() -> list[Path]:
    """What Debian keeps apart from its Python, and `python3 -m venv` needs."""
    bundled = sysconfig.get_config_var("WHEEL_PKG_DIR")
    standard = Path(sysconfig.get_path("stdlib"))
    return [standard / "ensurepip", Path(bundled)] if bundled and sys.base_prefix == "/usr" else []


@pytest.fixture
def site() -> Iterator[Site]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=SCRATCH, prefix="documents"))
    directory.chmod(0o755)  # the river's user reads there
    with Container("documents", directory, binds=parts_of_venv()) as machine:
        yield Site(directory, machine, wheels_of_hakuriver(CACHE))
    shutil.rmtree(directory)


def edit(path: Path, old: str, new: str) -> None:
    """Change a file, as the page tells."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def shown(page: Page, kind: str, words: str) -> str:
    """The page's example of a file that has these words."""
    return next(block.text for block in page.blocks if block.kind == kind and words in block.text)


def test_services_on_a_machine_that_has_no_river_yet(site: Site) -> None:
    page = PAGES["docs/systemd.md"]
    site.without_user()
    site.write(PERSON, "river ALL=(ALL) NOPASSWD: ALL\n")
    edit(site.sources / "contrib/systemd/hakuriver.sudoers", "hakuriver ALL", "river ALL")
    edit(site.sources / "contrib/systemd/hakuriver-runner@.service", "=hakuriver\n", "=river\n")
    site.write("/etc/hakuriver/big-gpu.toml", shown(page, "toml", 'name = "big-gpu"'))
    site.write("/etc/hakuriver/big-cpu.toml", CONFIGURATION + "[resources]\ncores = 1\n")
    changes = shown(page, "ini", "CPUWeight=50")
    (site.directory / "changes.conf").write_text(changes)
    (site.directory / "editor").write_text(EDITOR.format(text=site.directory / "changes.conf"))
    (site.directory / "editor").chmod(0o755)
    # The user whom all other blocks take for granted is made further down.
    blocks = [block for block in page.blocks if block.info == "sh" or needs_this(block)]
    site.type(page, sorted(blocks, key=lambda block: "useradd " not in block.text))
    instances = [f"{RUNNER}@{name}" for name in ("big-gpu", "big-cpu")]
    site.runs("n1", "big-gpu", "big-cpu", units=(HOST, RUNNER, *instances))
    assert all(line in site.shell(f"systemctl cat {RUNNER}") for line in changes.splitlines())
    # The line that the page installs is enough for tasks in units.
    site.shell(f"rm {PERSON}; systemctl restart {RUNNER}")
    assert site.river("hakuriver submit --wait --executor systemd --target n1 -- true")


def test_units_by_hand(site: Site) -> None:
    page = PAGES["contrib/systemd/README.md"]
    site.without_user()
    site.work = site.sources / "contrib" / "systemd"
    for name in ("n1", "n2"):
        site.write(f"/etc/hakuriver/{name}.toml", shown(page, "toml", "n1.toml").replace("n1", name))
    install, template, stop = filter(needs_this, page.blocks)
    # A machine that had one runner, which is stopped with its tasks, becomes one that has two.
    site.type(page, [install], "hakuriver")
    site.runs("n1", user="hakuriver")
    site.type(page, [stop], "hakuriver")
    eventually(lambda: site.nodes("hakuriver") == {"n1": "draining"}, LONG_S)
    site.river("hakuriver node resume n1 --config /etc/hakuriver/config.toml", "hakuriver")
    site.type(page, [template], "hakuriver")
    site.runs("n1", "n2", units=[f"{RUNNER}@{name}" for name in ("n1", "n2")], user="hakuriver")


def test_moving_a_cluster_over(site: Site) -> None:
    page = PAGES["docs/coming-from-old.md"]
    site.installed()
    site.shell(f"mkdir {SHARE}/shared_data; chown -R root: {SHARE}")
    for unit in (HOST, RUNNER):  # the old ones
        old = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
        site.write(f"/etc/systemd/system/{unit}.service", old)
    site.shell(f"systemctl daemon-reload; systemctl enable --now {HOST} {RUNNER}")
    site.type(page, [block for block in page.blocks if block.info == "sh" or needs_this(block)])
    site.runs("n1")


def test_a_share_step_by_step(site: Site) -> None:
    page = PAGES["docs/shared-storage.md"]
    site.installed()
    site.shell("rm -r /home/river/.hakuriver; chown river: /home/river")
    site.type(page, [block for block in page.blocks if block.info == "sh" or needs_this(block)])
    assert json.loads(site.shell(f"cat {SHARE}/river.json"))["cluster"] == "lab"


def test_a_river_that_runs(site: Site) -> None:
    site.up()
    put_examples(site.directory / "share" / "shared_data")
    site.write(f"{SHARE}/shared_data/untrusted", EXAMPLES["run.sh"])
    site.shell(f"chmod 755 {SHARE}/shared_data/*")
    for name in ("docs/security.md", "docs/tasks.md"):
        site.type(PAGES[name], filter(needs_this, PAGES[name].blocks))
    site.runs("n1")
    printed = f"cat {SHARE}/task_outputs/* 2>/dev/null || true"
    eventually(lambda: site.shell(printed) == "ran \n", LONG_S)


def test_what_fails_is_told_with_its_place(site: Site) -> None:
    text = "```sh needs=systemd,root\ntrue\nsystemctl enable --now hakuriver-hots\ntrue\n```\n"
    (site.directory / "page.md").write_text(text)
    page = Page(site.directory / "page.md")
    with pytest.raises(AssertionError, match=r"page\.md:2: status 1\n.*hots(?s:.*)@@ failed: systemctl enable --now"):
        site.type(page, page.blocks)


def test_every_page_is_typed() -> None:
    typed = re.findall(r'"((?:docs|contrib)/[^"]+\.md)"', Path(__file__).read_text())
    assert {name for name, page in PAGES.items() if any(map(needs_this, page.blocks))} == {*typed}
