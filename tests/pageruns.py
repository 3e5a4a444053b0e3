"""Runs the `sh` blocks of a page in one bash, as a reader would type them from top to bottom."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conftest import eventually
from documents import Block, Page
from processes import alive, processes

#: What pages write in place of where the share is.
SHARE = "/mnt/river"
#: What pages write in place of the newest package of an environment.
PACKAGE = re.compile(r"\b([a-z0-9][a-z0-9-]*)-1792345679\b")
#: A shell in an environment, with what its reader types there: what its comment says, behind a colon if there is one.
TYPED = re.compile(r"(hakuriver docker-shell \S+)(?: +#(?:.*: )?(.+))?")
#: How long a page may take, and a daemon to end after TERM: seconds.
PAGE_S, END_S = 150.0, 20.0
BIN = Path(sys.executable).parent
#: What lies in the working directory, and beside the outputs where tasks begin: all succeed at once.
EXAMPLES = {
    "train.py": "import sys\nprint('trained', *sys.argv[1:])\n",
    "part.sh": '#!/bin/sh\necho "part ${HAKURIVER_TASK_INDEX:-} $*"\n',
    "run.sh": '#!/bin/sh\necho "ran $*"\n',
    "jobs.jsonl": '{"command": ["./run.sh", "a"], "name": "a"}\n{"command": ["./run.sh", "b"], "name": "b"}\n',
    "job.json": '{"command": ["./run.sh", "by", "hand"], "name": "by-hand"}\n',
}
_HEAD = """
set -eE -o pipefail
trap 'echo "@@ failed: $BASH_COMMAND"' ERR
begin_daemon() {
    echo "$1" >"$PAGE_LOGS/$2.command"
    { trap - ERR; set +e
      bash -c 'echo $$ >"$1"; eval "exec $2"' - "$PAGE_LOGS/$2.pid" "$1" >"$PAGE_LOGS/$2.log" 2>&1 </dev/null
      echo $? >"$PAGE_LOGS/$2.status"; } &
    until [ -s "$PAGE_LOGS/$2.pid" ]; do sleep 0.02; done
    local share
    share=$(eval "$PAGE_PYTHON $PAGE_UNTIL_UP $(cat "$PAGE_LOGS/$2.pid") $1") ||
        { echo "@@ failed: $1"; exit 1; }
    cp -n -- "$PAGE_WORK"/* "$share/shared_data/"
}
newest_package() {
    ls "$PAGE_SHARE/hakuriver-containers" | grep -xE "$1-[0-9]+[.]json" | sort -V | tail -n 1 | sed 's/[.]json$//'
}
on_terminal() {
    eval "$PAGE_PYTHON $PAGE_ON_TERMINAL" '"$@"' || { echo "@@ failed: ${*:2}"; exit 1; }
}
"""


class Site:
    """What a reader has: a home, a working directory, a share, our programs on PATH."""

    def __init__(
        self, directory: Path, share: Path, configuration: str | None = None, has: frozenset[str] = frozenset()
    ) -> None:
        """`has`: what it has of what blocks may need."""
        self.directory, self.share, self.has = directory, share, has
        #: What pages write in place of where something is, and where it is.
        self.places = {SHARE: share}
        self.variables: dict[str, str] = {}  #: more of them for the shell
        self.home, self.work, self.logs = directory / "home", directory / "work", directory / "logs"
        for made in (self.home, self.work, self.logs):
            made.mkdir(parents=True)
        put_examples(self.work)
        if configuration is not None:
            file = self.home / ".hakuriver" / "config.toml"
            file.parent.mkdir()
            file.write_text(configuration)

    def environment(self) -> dict[str, str]:
        """Of the shell."""
        kept = {key: os.environ[key] for key in ("LANG", "PYTHONPATH") if key in os.environ}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        own = {"HOME": str(self.home), "PATH": path, "TERM": "dumb", "USER": "reader"}
        page = {
            "PAGE_LOGS": str(self.logs), "PAGE_WORK": str(self.work), "PAGE_SHARE": str(self.share),
            "PAGE_PYTHON": shlex.quote(sys.executable), "PAGE_UNTIL_UP": _beside("until_up.py"),
            "PAGE_ON_TERMINAL": _beside("on_terminal.py"),
        }  # fmt: skip
        return {**kept, **own, **page, **self.variables}

    def placed(self, text: str) -> str:
        """What a page writes, with the places as they are here."""
        for written, place in self.places.items():
            text = str(place).join(re.split(rf"(?<![\w:]){re.escape(written)}(?![\w-])", text))
        return text


def _beside(name: str) -> str:
    return shlex.quote(str(Path(__file__).with_name(name)))


def put_examples(directory: Path, examples: dict[str, str] = EXAMPLES) -> None:
    """Write the files that pages speak of."""
    for name, text in examples.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


class Failure(NamedTuple):
    """What did not go as the page says."""

    place: str  #: page:line of the block
    what: str
    output: str  #: of that block

    def __str__(self) -> str:
        return f"{self.place}: {self.what}\n{self.output}"


def run_page(page: Page, site: Site, patience_s: float = PAGE_S) -> Failure | None:
    """Run what the site has the needs for. The page's daemons have been stopped afterwards."""
    log = site.logs / "page.log"
    (site.logs / "page.sh").write_text(script_of(page, site))
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", str(site.logs / "page.sh")], cwd=site.work, env=site.environment(), stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        status = shell.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        return _failure(page, log, f"it did not end within {patience_s:.0f} s", site)
    else:
        text = log.read_text(errors="replace")
        if status or not text.endswith("@@ end\n"):
            failed = re.findall(r"^@@ failed: (.*)$", text, re.MULTILINE)
            return _failure(page, log, f"`{failed[0] if failed else 'exit'}` ended with {status}", site)
        return next(_ill_daemons(page, site), None)
    finally:
        _clear(site)


def script_of(page: Page, site: Site) -> str:
    """All blocks of a page that run there as one script, with marks that tell whose output it is."""
    lines, number = [_HEAD], 0
    for block in page.blocks:
        if not block.runs(site.has):
            continue
        lines.append(f"echo {shlex.quote(f'@@ {page.name}:{block.line}')}")
        text = PACKAGE.sub(r"$(newest_package \1)", site.placed(block.text))
        if block.info == "sh daemon":
            for command in filter(None, (line.partition(" #")[0].strip() for line in text.splitlines())):
                number += 1
                lines.append(f"begin_daemon {shlex.quote(command)} {number}")
        else:
            lines.append(_python(text) if block.kind == "python" else "\n".join(_statements(block, text)))
    return "\n".join([*lines, "echo '@@ end'", ""])


def _python(text: str) -> str:
    return f"python - <<'END_OF_PROGRAM'\n{text}END_OF_PROGRAM"


def _statements(block: Block, text: str) -> Iterator[str]:
    """The lines. bash -e lets `! command` pass whatever it does: what is to fail must fail."""
    expected = False
    for line in text.splitlines():
        yield _on_terminal(line) if "terminal" in block.needs else line
        expected = expected or line.startswith("! ")
        if expected and not line.endswith("\\"):
            yield "[ $? = 0 ] || { echo '@@ failed: what should fail did not'; exit 1; }"
            expected = False


def _on_terminal(line: str) -> str:
    shell = TYPED.fullmatch(line)
    return f"on_terminal {shlex.quote(shell[2] or 'exit')} {shell[1]}" if shell else line


def _failure(page: Page, log: Path, what: str, site: Site) -> Failure:
    text = log.read_text(errors="replace")
    place, output = page.name, text
    for mark in re.finditer(r"^@@ (\S+:\d+)$", text, re.MULTILINE):
        place, output = mark[1], text[mark.end() + 1 :]
    daemons = [f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in site.logs.glob("*.log")]
    return Failure(place, what, output[-5000:] + "".join(d for d in daemons if not d.startswith("--- page.log")))


def _ill_daemons(page: Page, site: Site) -> Iterator[Failure]:
    """Daemons that have ended by themselves, or do not end well when they are told to."""
    for file in sorted(site.logs.glob("*.pid"), reverse=True):
        pid, status = int(file.read_text()), file.with_suffix(".status")
        command, log = file.with_suffix(".command").read_text().strip(), file.with_suffix(".log")
        if not alive(pid):
            yield Failure(page.name, f"`{command}` has ended before the page did", log.read_text()[-5000:])
            continue
        _send(pid, signal.SIGTERM)
        try:
            eventually(status.exists, END_S)
            eventually(status.read_text, END_S)
        except AssertionError:
            yield Failure(page.name, f"`{command}` does not end within {END_S:.0f} s of TERM", log.read_text()[-5000:])
            continue
        if status.read_text().strip() != "0":
            yield Failure(page.name, f"`{command}` ended with {status.read_text().strip()}", log.read_text()[-5000:])


def _clear(site: Site) -> None:
    """End what is left: keepers outlive runners, which is their purpose."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(3):  # a keeper's guard makes another
            for pid in left_of(site):
                _send(pid, number)
            try:
                eventually(lambda: not left_of(site), 5.0)
                return
            except AssertionError:
                continue


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was quicker


def left_of(site: Site) -> list[int]:
    """Processes of ours whose command line names the page's own directory, or that were begun by it."""
    begun = [int(file.read_text()) for file in site.logs.glob("*.pid") if file.read_text().strip()]
    return [*processes("hakuriver", str(site.directory)), *(pid for pid in begun if alive(pid))]
