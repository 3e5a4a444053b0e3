"""Every command line that users of earlier versions know, in both spellings, against a live cluster.

A line is written as it is documented, with a dot; its other spelling has a space there. Both must exit alike and say
the same, but for ids, times and measurements. `rows`: the promises that a line stands for, by their numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from _pytest.mark.structures import ParameterSet
from conftest import eventually
from live_river import PATIENCE_S, Ran, River

#: Tasks that run until they are killed: one for each spelling of each line that needs one, and some to try again.
SLEEPERS = 40
#: How often a line is tried while the river's answer is late, or another for each spelling.
TRIES = 5


class Line(NamedTuple):
    """A command line and what comes of it."""

    rows: str
    line: str  #: for bash; in braces: what `Live.fill` knows
    status: int | None = 0  #: None: it depends on the machine
    out: str = ""  #: a pattern of stdout
    err: str = ""  #: a pattern of stderr


def hint(form: str) -> str:
    """A pattern of the line that names the present form."""
    return f"^hakuriver: hint: the present form is `hakuriver {form}"


LATER = "not in this version of HakuRiver\nhakuriver: meanwhile: "
ID, TWO, THREE = r"^\d{20}$", r"^\d{20}-\[0-1\]$", r"^\d{20}-\[0-2\]$"
NO_DOCKER = "docker unavailable on host: Cannot connect to Docker daemon"
NO_HOST = "host not responding .* waits"
LATE = re.compile(f"{NO_HOST}|a host is at work but has not answered yet")

INIT = [
    Line("53", "HOME={new} hakuriver.init", out=r"/\.hakuriver/config\.toml$"),
    Line("54", "HOME={new} hakuriver.init config", out=r"/\.hakuriver/config\.toml$"),
    Line("27 54", "hakuriver.init config", None, err=r"config\.toml.*(kept|not touched)"),
    Line("29 54", "hakuriver.init --config {new}/c.toml config", out=r"/c\.toml$"),
    Line("54", "hakuriver.init config --path {new}/c.toml && hakuriver.init config --path {new}/c.toml --force",
         out=r"/c\.toml"),
    Line("29", "hakuriver config show", out=r"shared_dir"),
    Line("29", "HAKURIVER_CONFIG={config} hakuriver config check"),
    Line("30", "hakuriver.client --config /nowhere/c.toml nodes", 1, err="there is no such file"),
    Line("58", "hakuriver.init service", 2, err="--all"),
    Line("55", "hakuriver.init service --host --output-dir {new}", out="hakuriver-host.service"),
    Line("56", "hakuriver.init service --runner --output-dir {new}", out="hakuriver-runner.service"),
    Line("57 59 61", "hakuriver.init service --all --config {config} --output-dir {new} && ls {new}",
         out="hakuriver-host.service(.|\n)*hakuriver-runner.service"),
    Line("60", "hakuriver.init service --all --host-config {config} --runner-config {config} --output-dir {new}"),
    Line("72", "hakuriver.init service --runner --name n1 --output-dir {new}", out="hakuriver-runner-n1.service"),
]  # fmt: skip

NODES = [
    Line("99 103", "hakuriver.client nodes", out=r"^n1 +online(.|\n)*^n2 +online"),
    Line("104", "hakuriver.client --list-nodes", out=r"^n1 +online", err=hint("node list`")),
    Line("273", "hakuriver.client --config {config} --list-nodes", out="^n2", err=hint("node list --config")),
    Line("105", "hakuriver.client health", out=r"^node +n1(.|\n)*^node +n2"),
    Line("105", "hakuriver.client health n2", out=r"^node +n2"),
    Line("105", "hakuriver.client health --json n1", out=r'"node": "n1"'),
    Line("106", "hakuriver.client --health", out=r"^node +n1(.|\n)*^node +n2", err=hint("client health`")),
    Line("106", "hakuriver.client --health n1", out=r"^node +n1", err=hint("client health n1`")),
    Line("107", "hakuriver.client health n9", 1, err="unknown node 'n9'; nodes known: n1, n2"),
    Line("107", "hakuriver.client --health n9", 1, err="unknown node 'n9'"),
]

SUBMIT = [
    Line("110", "hakuriver.task submit -- echo hi", out=ID),
    Line("110", "hakuriver.task submit echo hi", out=ID),
    Line("110", "hakuriver.task submit", 2, err="COMMAND is missing"),
    Line("111", "hakuriver.client --target n1 -- echo hi", out=ID, err=hint("submit --target n1 -- echo hi`")),
    Line("111", "hakuriver.client --target n1 --target n2 --cores 2 --memory 512M --env A=1 --container NULL --wait "
         "--poll-interval 0.1 -- sh -c 'exit $((A + 1))'", 2, TWO, r"^\d{20} failed: exit code 2"),
    Line("111", "hakuriver.client -- true", out=ID, err=hint("submit -- true`")),
    Line("112 133 28", "hakuriver.task submit --target n1 --target n2 --target n1 -- true", out=THREE),
    Line("112", "hakuriver.task submit --wait -- true", out=ID, err=r"^\d{20} completed$"),
    Line("113", "hakuriver.task submit --cores 2 -- true", out=ID),
    Line("113 152", "hakuriver.task submit --cores 0 -- true", out=ID),
    Line("149", "hakuriver.task submit --cores 99 -- true", 1, err="the largest has 4"),
    Line("114", "hakuriver.task submit --memory 4G -- true", out=ID),
    Line("115", "hakuriver.task submit --memory 4X -- true", 2, err="--memory 4X: it is no size"),
    Line("115", "hakuriver.task submit --memory 0 -- true", 2, err="it must be more than zero"),
    Line("116", "hakuriver.task submit --wait --env A=3 -- sh -c 'exit $A'", 3, ID, "exit code 3"),
    Line("116", "hakuriver.task submit --env A -- true", 2, err="--env A: it must be K=V"),
    Line("117 179", "hakuriver.task submit --container NULL -- true", out=ID),
    Line("117 338", "hakuriver.task submit --container my-env -- true", 1, err="no package for environment my-env"),
    Line("118", "hakuriver.task submit --privileged --container my-env -- true", 1, err="no package for"),
    Line("119", "hakuriver.task submit --mount /a:/b --mount /c:/d:ro --container my-env -- true", 1, err="no package"),
    Line("119", "hakuriver.task submit --mount a:b -- true", 2, err="--mount a:b: it is no mount"),
    Line("120 121", "hakuriver.task submit --wait --poll-interval 0.5 -- true", out=ID, err="completed$"),
    Line("121", "hakuriver.task submit --poll-interval 0 -- true", 2, err="--poll-interval.*more than zero"),
    Line("122 189", "hakuriver.task submit --private-network -- true", None, f"({ID})?", "^$|refused"),
    Line("123 190", "hakuriver.task submit --private-pid -- true", None, f"({ID})?", "^$|refused"),
    Line("111 122 123", "hakuriver.client --target n1 --private-network --private-pid -- true", None,
         err=hint("submit --target n1 --private-network")),
    Line("127 213", "hakuriver.task submit --target n1::0 --container NULL -- true", 2, err="in a container only"),
    Line("128", "echo '{\"command\": [\"true\"]}' >{new}.json && hakuriver job validate {new}.json"),
    Line("407", "hakuriver schema job", out='"properties"'),
    Line("271", "hakuriver.task submit --frobnicate -- true", 2, err="No such option"),
]  # fmt: skip

TARGETS = [
    Line("129", "hakuriver.task submit --target n1 -- true", out=ID),
    Line("130 201 208", "hakuriver.task submit --target n1:0 -- true", None, f"({ID})?", "^$|n1 cannot run it"),
    Line("148", "hakuriver.task submit --target n1:77 -- true", 1, err="n1:77: n1 cannot run it"),
    Line("131", "hakuriver.task submit --target n1::0 -- true", 1, err="^hakuriver: refused: "),
    Line(
        "131 212", "hakuriver.task submit --target n1::0,1 --container my-env -- true", 1, err="^hakuriver: refused: "
    ),
    Line("132", "hakuriver.task submit --target n1:0::1 --container my-env -- true", 1, err="^hakuriver: refused: "),
    Line("134", "hakuriver.task submit --target ../n1 -- true", 2, err="it is no target"),
    Line(
        "135 82",
        "hakuriver.task submit --target n1 --target n9 -- true",
        out=ID,
        err="left out: --target n9",
    ),
    Line("136 82", "hakuriver.task submit --target n9 -- true", 1, err="no such node; nodes known: n1, n2"),
    Line("137", "hakuriver.task submit --target n1::0,0 -- true", 2, err="GPU 0 stands in it twice"),
    Line("138", "hakuriver.task submit --gpus 1 --container my-env -- true", 1, err="^hakuriver: refused: "),
]

TASKS = [
    Line("156", "hakuriver.task batch {done}", out=r"^job +\d{20}\nstate +completed"),
    Line("159 157", "hakuriver.task status {missing}", 1, err="there is no job"),
    Line("159", "hakuriver.task status x", 2, err="ID x: this names no job"),
    Line("231", "hakuriver.task stdout {done}", out=r"\Aone\ntwo\n\Z"),
    Line("231", "hakuriver.task stderr {done}", out=r"\Athree\n\Z"),
    Line("231", "hakuriver.task stdout {done} --tail 1", out=r"\Atwo\n\Z"),
    Line("231", "hakuriver.task stderr --follow {done}", out=r"\Athree\n\Z"),
    Line("231", "hakuriver.task stdout {missing}", 1, err="there is no job"),
    Line("251 268 155", "hakuriver.client status {done}", out=r"^state +completed"),
    Line("268", "hakuriver.client --status {done}", out=r"^state +completed", err=hint(r"task status \d{20}`")),
    Line("270 157", "hakuriver.client status --json {done}", out=r'"job": "\d{20}"'),
    Line("268", "hakuriver.client --status {missing}", 1, err="there is no job"),
    Line("253", "hakuriver.task list --status completed --node n1 --limit 3", out=r"^\d{20} .* completed"),
    Line("253", "hakuriver.task list --batch {done}", out=r"\AJOB.*\n\d{20} .* completed .*\n\Z"),
    Line("253", "hakuriver.task list --state running --batch {done} --json", out=r'\A\{\n  "jobs": \[\]\n\}'),
    Line("253 159", "hakuriver.task list --batch {missing}", 1, err="there is no job"),
    Line("272", "HAKURIVER_SHARED_DIR={silent} hakuriver.task submit -- true", 0, ID, NO_HOST),
    Line("272", "HAKURIVER_SHARED_DIR={silent} hakuriver.client --kill {missing}", 125, err=NO_HOST),
    Line("103", "HAKURIVER_SHARED_DIR={silent} hakuriver.client health", err="no host has told of any node yet"),
    Line("274", "hakuriver.client --status {done} --kill {done}", 2, err="--status and --kill do not go together"),
    Line("274", "hakuriver.client --list-nodes --target n1 -- true", 2, err="--list-nodes and --target do not go"),
    Line("274", "hakuriver.client --health --list-nodes", 2, err="--health and --list-nodes do not go together"),
    Line("274", "hakuriver.client --kill", 2, err="--kill needs an ID"),
    Line("275", "hakuriver.client", 2, err="Usage: hakuriver.client(.|\n)*--list-nodes(.|\n)*Commands:"),
    Line("275", "hakuriver.task", 2, err="Commands:"),
    Line("16", "hakuriver.task --help", out="Usage: hakuriver.task"),
]  # fmt: skip

CONTROLS = [
    Line("254", "hakuriver.client kill {task}", out=r"^\d{20}-\d+ killed"),
    Line("254", "hakuriver.client --kill {task}", out=r"^\d{20}-\d+ killed", err=hint(r"task kill \d{20}-\d+`")),
    Line("254", "hakuriver.client kill {missing}", 1, err="no such|there is no"),
    Line("255", "hakuriver.client command {task} pause && hakuriver.client kill {task}", out="paused\n.*killed"),
    Line("256", "hakuriver.task kill --grace 1s {task}", out=r"killed"),
    Line("256", "hakuriver.task kill --now {task}", out=r"killed"),
    Line("258", "hakuriver.client command {task} pause && hakuriver.client command {task} resume",
         out=r"^\d{20}-\d+ paused\n\d{20}-\d+ resumed"),
    Line("259", "hakuriver.task command {task} pause && hakuriver.task command {task} resume", out="resumed"),
    Line("259", "hakuriver.task kill {task}", out=r"^\d{20}-\d+ killed"),
    Line("259", "hakuriver.vps command {done} pause", 1, err=LATER),
    Line("259", "hakuriver.vps kill {done}", 1, err=LATER),
    Line("262", "hakuriver.client command {done} pause", 1, err="already completed|cannot pause: completed"),
    Line("262", "hakuriver.client --kill {done}", 1, err="already completed"),
    Line("271", "hakuriver.client command {done} stop", 2, err="'stop' is not one of"),
    Line("271", "hakuriver.task command {done}", 2, err="Missing argument"),
    Line("77", "hakuriver.host rebuild-index", out="the index is being rebuilt"),
    Line("233 410", "hakuriver.host gc --older-than 30d", out="^deleted 0 jobs"),
    Line("379", "hakuriver doctor --peer N9", 2, err="no node can have that name"),
]  # fmt: skip

LATERS = [
    Line("276 280 288", "hakuriver.vps submit", 1, err=LATER),
    Line("277 139 288", "hakuriver.vps submit --target n1:1", 1, err=LATER),
    Line("278", "hakuriver.vps submit --public-key-string 'ssh-ed25519 AAAA me@x' --target n1::0,1", 1, err=LATER),
    Line("279", "hakuriver.vps submit --public-key-file ~/.ssh/id_ed25519.pub", 1, err=LATER),
    Line("283 284", "hakuriver.vps submit --cores 0 --memory 4G", 1, err=LATER),
    Line("285 286", "hakuriver.vps submit --container my-env --privileged --mount /a:/b", 1, err=LATER),
    Line("269 301", "hakuriver.vps status", 1, err=LATER),
    Line("306", "hakuriver.ssh {missing}", 1, err=LATER),
    Line("307", "hakuriver.ssh --host h --proxy-port 8002 --local-port 0 --user root {missing} -- -v", 1, err=LATER),
    Line("313", "hakuriver.ssh config", 1, err=LATER),
    Line("276", "hakuriver.vps submit --help", out="not in this version(.|\n)*Example:"),
    Line("306", "hakuriver.ssh --help", out="not in this version(.|\n)*Example:"),
]

DOCKER = [
    Line("315", "hakuriver.docker list-containers", out="^ENVIRONMENT", err=NO_DOCKER),
    Line("316", "hakuriver.docker create-container python:3.12-slim my-env", 1, err=NO_DOCKER),
    Line("316", "hakuriver.docker create-container python:3.12-slim /x", 2, err="an environment's name is of a-z"),
    Line("317", "hakuriver.docker start-container my-env", 1, err=NO_DOCKER),
    Line("317", "hakuriver.docker stop-container my-env", 1, err=NO_DOCKER),
    Line("318", "hakuriver.docker delete-container my-env", 1, err=NO_DOCKER),
    Line("319", "hakuriver.docker-shell my-env", None, err="docker unavailable here|docker is not on PATH"),
    Line("319", "hakuriver.docker shell my-env", None, err="docker unavailable here|docker is not on PATH"),
    Line("326", "hakuriver.docker check-vps my-env", 1, err=LATER),
    Line("328", "hakuriver.docker create-tar my-env", 1, err=NO_DOCKER),
    Line("332", "hakuriver.docker list-tars", out="^ENVIRONMENT"),
    Line("340", "hakuriver.docker delete-tar my-env", 1, err="there is no such package"),
]

SWEEPS = [
    Line("343 350", "hakurun echo 'span:{1..2}' 'span:[a,b]'", out=r"\A1 a\n1 b\n2 a\n2 b\n\Z"),
    Line("344", "hakurun echo 'span:{A..C}'", out=r"\AA\nB\nC\n\Z"),
    Line("346", "hakurun echo 'span:[]'", 2),
    Line("347", "hakurun echo 'span:{1..x}'", None),
    Line("348", "hakurun echo span:xyz", out="^xyz$"),
    Line("349", "hakurun echo span:{1..2}", err="shell"),
    Line("351", "hakurun --parallel -j 2 echo 'span:{1..4}'", out="4"),
    Line("353", "hakurun json.tool --help", out="usage"),
    Line("353", "hakurun math:sqrt 'span:{4..4}'"),
    Line("355", "hakurun sh -c 'exit 4'", None),
    Line("125", "hakurun hakuriver.client --target n1 -- echo 'span:{1..3}'",
         out=r"\A\d{20}\n\d{20}\n\d{20}\n\Z", err=hint("submit --target n1 -- echo 1")),
    Line("125", "hakurun echo \"hakuriver.task submit -- echo\" 'span:{1..2}' | bash", out=r"\A\d{20}\n\d{20}\n\Z"),
    Line("126", "hakuriver.task submit --wait --env PATH=$PATH -- hakurun --parallel echo 'span:{1..3}'", out=ID,
         err="completed"),
]  # fmt: skip

LINES = [*INIT, *NODES, *SUBMIT, *TARGETS, *TASKS, *CONTROLS, *LATERS, *DOCKER, *SWEEPS]
#: The daemons' lines, and what they log when they are at work, on a share of their own.
DAEMONS = [
    Line("76", "hakuriver.host --config {own}", err="leading, term"),
    Line("76", "hakuriver.host -c {own}", err="leading, term"),
    Line("85", "hakuriver.runner --config {own} --name {node}", err="is up, epoch 1"),
    Line("72", "hakuriver.runner -c {own} --name {node}", err="is up, epoch 1"),
    Line("29", "HAKURIVER_CONFIG={own} hakuriver.runner --name {node}", err="is up, epoch 1"),
]


class Live(River):
    """A cluster with a job that is over, tasks that run, and another share that is never served."""

    def prepare(self) -> None:
        """Make them."""
        self.start()
        self._made = 0
        self._silent = self.directory / "silent"
        self.shell(f"hakuriver init share --shared-dir {self._silent}")
        self._done = self.shell(
            "hakuriver submit -q --wait --target n1 -- sh -c 'echo one; echo two; echo three >&2'"
        ).out.strip()
        self._sleeping = self.shell(f"hakuriver submit -q --cores 0 --array 0-{SLEEPERS - 1} -- sleep 600").out[:20]
        running = f"{SLEEPERS} running"
        eventually(lambda: running in self.shell(f"hakuriver task list --batch {self._sleeping}").out, PATIENCE_S)
        self._tasks = iter(range(SLEEPERS))

    def fill(self, line: str) -> str:
        """Put in what is to be had once, or anew for each line."""
        self._made += 1
        values: dict[str, object] = {
            "config": self.config, "done": self._done, "silent": self._silent, "missing": "1" * 20,
            "new": self.directory / f"new-{self._made}", "node": f"m{self._made}",
        }  # fmt: skip
        if "{own}" in line:
            values["own"] = own = self.directory / f"own-{self._made}.toml"
            share = self.directory / f"share-{self._made}"
            assert self.shell(f"hakuriver init share --shared-dir {share}").status == 0
            self.configure(own, share, f"state-{self._made}")
        if "{task}" in line:
            values["task"] = f"{self._sleeping}-{next(self._tasks)}"
        for name, value in values.items():
            line = line.replace(f"{{{name}}}", str(value))
        return line


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    made = Live()
    try:
        made.prepare()
        yield made
    finally:
        made.stop()


def spaced(line: str) -> str:
    """The other spelling."""
    line = re.sub(r"\bhakuriver\.(?=[a-z])", "hakuriver ", line)
    return re.sub(r"(?<![\w.])hakurun(?= )", "hakuriver hakurun", line)


def alike(text: str) -> list[str]:
    """What both spellings say: words without digits; programs by one name."""
    words = re.sub(r"\bhakuriver\.(?=[a-z])", "hakuriver ", text).split()
    return ["N" if re.search(r"\d", word) or word == "-" else word for word in words]


def parameter(each: Line) -> ParameterSet:
    return pytest.param(each, id=f"{each.rows}: {each.line}".replace("[", "(").replace("]", ")"))


def check(each: Line, ran: Ran) -> None:
    assert each.status in (None, ran.status), ran
    assert re.search(each.out, ran.out, re.MULTILINE), ran
    assert re.search(each.err, ran.err, re.MULTILINE), ran
    assert "Traceback" not in ran.err
    assert "fault in HakuRiver" not in ran.err


def typed(live: Live, each: Line) -> tuple[Ran, Ran]:
    """Both spellings, at the same time."""
    begun = [live.begin(live.fill(line)) for line in dict.fromkeys((each.line, spaced(each.line)))]
    done = [live.ended(process) for process in begun]
    return done[0], done[-1]


def comparable(each: Line, one: Ran, other: Ran) -> bool:
    """Whether the river was the same for both: a busy host answers late, and jobs go on between two looks."""
    late = any(LATE.search(ran.err) for ran in (one, other)) and "{silent}" not in each.line
    return not late and alike(one.out) == alike(other.out) and alike(one.err) == alike(other.err)


@pytest.mark.parametrize("each", [parameter(each) for each in LINES])
def test_both_spellings(live: Live, each: Line) -> None:
    for _ in range(TRIES):
        one, other = typed(live, each)
        if comparable(each, one, other):
            break
    for ran in (one, other):
        check(each, ran)
    assert one.status == other.status
    assert alike(one.out) == alike(other.out)
    assert alike(one.err) == alike(other.err)


@pytest.mark.parametrize("spelled", [str, spaced])
@pytest.mark.parametrize("each", [parameter(each) for each in DAEMONS])
def test_daemons(live: Live, each: Line, spelled: Callable[[str], str]) -> None:
    """Each starts by both of its names, and stops on TERM."""
    log = live.daemon(live.fill(spelled(each.line)))
    process = live.daemons.pop()
    try:
        eventually(lambda: each.err in log.read_text(), PATIENCE_S)
    finally:
        print(log.read_text())
        process.terminate()
    assert process.wait(PATIENCE_S) == 0


def test_a_target_without_room_fails_at_once_if_that_is_asked(live: Live) -> None:
    """So it was with every target; now the others wait."""
    full = live.shell("hakuriver submit --target n2 --cores 4 -- sleep 600").out.strip()
    eventually(lambda: "running" in live.shell(f"hakuriver task status {full}").out, PATIENCE_S)
    ran = live.shell("hakuriver submit --no-queue --wait --json --target n2 -- true")
    told = json.loads(ran.out)
    (outcome,) = told["outcomes"]
    why = json.loads(live.shell(f"hakuriver task why --json {told['jobs'][0]}").out)
    waits = live.shell("hakuriver submit --target n2 -- true").out.strip()
    assert live.shell(f"hakuriver task kill --now {full}").status == 0
    assert (ran.status, told["outcome"], outcome["state"], outcome["exit_code"]) == (125, "accepted", "failed", 125)
    assert "n2: 0 of 4 cores free, 1 are asked for" in outcome["reason"]
    assert outcome["reason"] in why["why"]
    assert live.shell(f"hakuriver task wait {waits}").status == 0
    assert live.shell("hakuriver submit --no-queue --wait --target n2 -- true").status == 0
