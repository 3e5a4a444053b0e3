"""What earlier versions let people type: translated, answered, or told to be gone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from riverfiles import RiverFiles, answered, job_row, node_row, refusal, row

from hakuriver import client, waiting
from hakuriver.cli import run, submit, task_control
from hakuriver.cli.old_client import client as client_group
from hakuriver.cli.old_client import translate
from hakuriver.cli.schema import json_schema
from hakuriver.client import open_share
from hakuriver.resolving import Target

A = "16999999990001111234"
B = "17000000000002225678"
C = "17000000000012229999"


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


class Hakuriver:
    """Runs command lines on a prepared river."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str) -> Ran:
        program, *arguments = shlex.split(line)
        status = run(arguments, program)
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "fault in HakuRiver" not in captured.err
        assert "\x1b" not in captured.err
        return Ran(status, captured.out, captured.err)


@pytest.fixture
def river(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    monkeypatch.setattr(submit, "RECEIPT_S", 0.05)
    monkeypatch.setattr(task_control, "SIGN_S", 0.05)
    return river


@pytest.fixture
def hakuriver(river: RiverFiles, capsys: pytest.CaptureFixture[str]) -> Hakuriver:
    return Hakuriver(capsys)


# -- the forms of options alone


@pytest.mark.parametrize(
    ("typed", "words", "form"),
    [
        ("--list-nodes", "nodes", "node list"),
        ("--list-nodes --json", "nodes --json", "node list --json"),
        ("--config f --list-nodes", "nodes --config f", "node list --config f"),
        ("--config=f --list-nodes", "nodes --config=f", "node list --config=f"),
        ("--list-nodes --config f", "nodes --config f", "node list --config f"),
        ("--health", "health", "client health"),
        ("--health n1", "health n1", "client health n1"),
        ("--health=n1", "health n1", "client health n1"),
        ("--health --json", "health --json", "client health --json"),
        ("--health ''", "health ''", "client health ''"),
        ("--status 5678", "status 5678", "task status 5678"),
        ("--status=5678-1", "status 5678-1", "task status 5678-1"),
        ("--json --status 5678", "status 5678 --json", "task status 5678 --json"),
        ("--status ''", "status ''", "task status ''"),
        ("--kill 5678 --timeout 3s", "kill 5678 --timeout 3s", "task kill 5678 --timeout 3s"),
        ("--target n1 -- echo hi", "submit --target n1 -- echo hi", "submit --target n1 -- echo hi"),
        ("--target=n1:0 -- a --status b -- c", "submit --target=n1:0 -- a --status b -- c",
         "submit --target=n1:0 -- a --status b -- c"),
        ("--config f --target n1 --wait -- x", "submit --config f --target n1 --wait -- x",
         "submit --config f --target n1 --wait -- x"),
        ("--cores 2 x y", "submit --cores 2 x y", "submit --cores 2 x y"),
        ("-- x", "submit -- x", "submit -- x"),
        ("--config f -- x", "submit --config f -- x", "submit --config f -- x"),
        ("--name old -- x", "submit --name old -- x", "submit --name old -- x"),
        ("--target n1", "submit --target n1", "submit --target n1"),
    ],
)  # fmt: skip
def test_an_old_form_has_a_present_one(typed: str, words: str, form: str) -> None:
    present = translate(shlex.split(typed))
    assert present is not None
    assert present.words == shlex.split(words)
    assert present.form == ["hakuriver", *shlex.split(form)]


@pytest.mark.parametrize(
    "typed",
    ["", "--help", "-h", "nodes", "status 5678", "status -- 5678", "--config f status 5678", "--config f", "--config",
     "--frobnicate", "submit --target n1 -- echo --kill 5", "health n1", "submit -- --list-nodes", "command 5 pause"],
)  # fmt: skip
def test_what_is_no_old_form_is_left_alone(typed: str) -> None:
    assert translate(shlex.split(typed)) is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--status", "--status needs an ID, as --status 5678"),
        ("--kill --json", "--kill needs an ID"),
        ("--list-nodes=5", "--list-nodes takes no value"),
        ("--status 1 --kill 2", "--status and --kill do not go together: give one of --list-nodes"),
        ("--status 1 --status 2", "--status and --status do not"),
        ("--list-nodes --target n1", "--list-nodes and --target do not"),
        ("--kill 1 -- echo", "--kill and -- COMMAND do not"),
        ("--target n1 git --status", "--status and --target do not"),
    ],
)
def test_what_never_went_together(typed: str, said: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        translate(shlex.split(typed))
    assert caught.value.message.startswith(said)


@given(st.lists(st.sampled_from(["--", "--status", "--health=", "--target", "--config", "5", "-h", "", "é\x00", "-"])))
def test_nothing_that_is_typed_is_run_otherwise(typed: list[str]) -> None:
    """What is translated keeps every word; what comes after -- keeps its order."""
    try:
        present = translate(typed)
    except click.UsageError:
        return
    if present:
        end = typed.index("--") if "--" in typed else len(typed)
        kept = [word for word in typed[:end] if word not in ("--status", "--health=", "")]
        begin = len(present.words) - len(typed[end:])
        assert sorted(filter(None, present.words[1:begin])) == sorted(kept)
        assert present.words[begin:] == typed[end:]


@pytest.mark.parametrize("program", ["hakuriver.client", "hakuriver client"])
def test_both_spellings_hint_at_the_present_form(river: RiverFiles, hakuriver: Hakuriver, program: str) -> None:
    river.nodes(node_row("n1"))
    present = hakuriver("hakuriver node list")
    old = hakuriver(f"{program} --list-nodes")
    assert (old.status, old.out) == (0, present.out)
    assert old.err == "hakuriver: hint: the present form is `hakuriver node list`\n" + present.err
    assert hakuriver(f"{program} nodes") == present


def test_a_hint_is_one_line_that_a_terminal_does_not_obey(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("hakuriver.client --target n1 -- $'\n' '\x1b[2J' é")
    assert ran.status == 0
    assert ran.err.splitlines()[0].endswith(r"-- '$\n' '\x1b[2J' 'é'`")
    assert "it is not UTF-8" in hakuriver("hakuriver.client --target n1 -- '\udcff'").err


def test_an_old_submission_is_one(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("hakuriver.client --target n1 --cores 2 --env A=1 --poll-interval 2 -- echo --kill 5")
    assert ran.out == f"{river.dropped()[0].stem}\n"
    assert river.asked() == [{"command": ["echo", "--kill", "5"], "targets": ["n1"], "cores": 2, "env": {"A": "1"}}]


def test_nothing_typed_is_help_and_a_usage_error(hakuriver: Hakuriver) -> None:
    ran = hakuriver("hakuriver.client")
    assert (ran.status, ran.out) == (2, "")
    assert "--list-nodes" in ran.err
    assert "now `hakuriver submit" not in ran.err
    assert hakuriver("hakuriver.client --help").out.count("Of 0.1") == 5


@pytest.mark.parametrize("line", ["--status 1 --kill 2", "--status", "--target n1", "--frobnicate", "status", "nod"])
def test_usage_errors_show_the_usage(hakuriver: Hakuriver, line: str) -> None:
    ran = hakuriver(f"hakuriver.client {line}")
    assert (ran.status, ran.out) == (2, "")
    assert "Usage: hakuriver.client" in ran.err


def test_completion_sees_the_options(hakuriver: Hakuriver) -> None:
    context = client_group.make_context("client", ["--status", "5"], resilient_parsing=True)
    assert context.command is client_group


# -- health


def test_health_shows_what_node_show_does(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.nodes(node_row("n1"), node_row("n2", state="offline"))
    river.describe("n1", [(A, None, 1)])
    one, two = hakuriver("hakuriver node show n1"), hakuriver("hakuriver node show n2")
    assert hakuriver("hakuriver client health n1") == one
    both = hakuriver("hakuriver client health")
    assert both == Ran(0, f"{one.out}\n{two.out}", one.err)


def test_health_as_json(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.nodes(node_row("n1"), node_row("n2"))
    for line, nodes in (("", ["n1", "n2"]), (" n2", ["n2"])):
        told = json.loads(hakuriver(f"hakuriver.client health --json{line}").out)
        jsonschema.validate(told, json_schema("health"))
        assert [node["node"] for node in told["nodes"]] == nodes


def test_health_of_nodes_that_no_host_has_told_of(river: RiverFiles, hakuriver: Hakuriver) -> None:
    ran = hakuriver("hakuriver client health")
    assert (ran.status, ran.out) == (0, "")
    assert "no host has told of any node yet" in ran.err
    river.describe("n1", [])
    assert "state         not heard of by a host yet\n" in hakuriver("hakuriver client health").out


@pytest.mark.parametrize("name", ["n9", "''", "../n1", "½", "'\x1b[2J'"])
def test_an_unknown_node(river: RiverFiles, hakuriver: Hakuriver, name: str) -> None:
    river.nodes(node_row("n1"))
    for line in ("client health", "client --health", "node show"):
        ran = hakuriver(f"hakuriver {line} {name}")
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.splitlines()[-1].startswith("hakuriver: unknown node ")
        assert ran.err.endswith("; nodes known: n1\n")


# -- tasks


@pytest.mark.parametrize("noun", ["client", "task"])
@pytest.mark.parametrize("what", ["pause", "resume"])
def test_command_asks_for_what_it_names(
    river: RiverFiles, hakuriver: Hakuriver, noun: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = client.await_receipt

    def at_once(share: Any, request: str, timeout: float) -> Any:
        river.receipt(request, **answered(what, (A, True, f"{what}d")))
        return real(share, request, 5.0)

    monkeypatch.setattr(client, "await_receipt", at_once)
    assert hakuriver(f"hakuriver.{noun} command {A} {what}") == Ran(0, f"{A} {what}d\n", "")
    assert river.asked() == [{"request": what, "targets": [A]}]


@pytest.mark.parametrize(
    ("line", "said"),
    [("x pause", "this names no job"), ("5678", "Missing argument"), (f"{A} stop", "is not one of"),
     (f"pause {A}", "is not one of"), (f"{A} pause pause", "unexpected extra argument")],
)  # fmt: skip
def test_command_wants_an_id_and_one_of_two_words(hakuriver: Hakuriver, line: str, said: str) -> None:
    ran = hakuriver(f"hakuriver.task command {line}")
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err


def test_outputs_by_their_old_names(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row())
    river.put(f"task_outputs/{A}.out", "1\n2\n3\n")
    river.put(f"task_errors/{A}.err", "4\n5\n")
    assert hakuriver(f"hakuriver.task stdout {A}") == Ran(0, "1\n2\n3\n", "")
    assert hakuriver(f"hakuriver.task stdout --tail 1 {A}").out == "3\n"
    assert hakuriver(f"hakuriver.task stderr --follow {A}") == Ran(0, "4\n5\n", "")
    assert hakuriver(f"hakuriver.task stderr -f --tail 0 {A}").out == ""
    assert hakuriver(f"hakuriver.task stdout --json {A}").out == hakuriver(f"hakuriver task logs --json {A}").out
    assert hakuriver(f"hakuriver.task stdout --err {A}").status == 2
    assert hakuriver(f"hakuriver.task stdout --tail -1 {A}").status == 2


def test_batch_is_status(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.snapshot(A, row(state="failed", exit_code=3))
    assert hakuriver(f"hakuriver.task batch {A}") == hakuriver(f"hakuriver task status {A}")
    assert hakuriver("hakuriver.task batch").status == 2


# -- lists


def jobs(ran: Ran) -> list[str]:
    assert ran.status == 0, ran
    return [line.split()[0] for line in ran.out.splitlines()[1:]]


def test_status_is_another_name_of_state(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.recent(job_row(B, "running"), job_row(A, "failed"))
    assert jobs(hakuriver("hakuriver.task list --status failed")) == [A]
    assert jobs(hakuriver("hakuriver.task list --status failed --state running")) == [B, A]


def test_a_batch_is_listed_alone_however_old_it_is(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.recent(job_row(C, "running"))
    river.snapshot(A, row(0, "failed"), row(1))
    river.put(f"incoming/{B}.json", '{"command": ["x"], "array": "0-4"}')
    assert jobs(hakuriver(f"hakuriver.task list --batch {A}-1")) == [A]
    assert jobs(hakuriver(f"hakuriver.task list --batch {A} --batch 5678 --batch {A}")) == [B, A]
    assert jobs(hakuriver(f"hakuriver.task list --batch {A} --status failed")) == [A]
    assert jobs(hakuriver(f"hakuriver.task list --batch {A} --status running")) == []
    assert "5 submitted" in hakuriver(f"hakuriver.task list --batch {B}").out


def test_batches_without_a_snapshot(river: RiverFiles, hakuriver: Hakuriver) -> None:
    river.receipt(A, **refusal())
    river.receipt(B, tasks=3)
    assert hakuriver(f"hakuriver.task list --batch {A}").out.split("\n")[1].split()[2] == "refused"
    assert "3 pending" in hakuriver(f"hakuriver.task list --batch {B}").out
    told = hakuriver(f"hakuriver.task list --json --batch {A} --batch {B}").out
    jsonschema.validate(json.loads(told), json_schema("list"))


@pytest.mark.parametrize(("name", "status"), [(A, 1), ("9999", 1), ("x", 2), ("''", 2), ("½", 2), ("1" * 21, 2)])
def test_batches_that_are_not_there(river: RiverFiles, hakuriver: Hakuriver, name: str, status: int) -> None:
    ran = hakuriver(f"hakuriver.task list --batch {name}")
    assert (ran.status, ran.out) == (status, "")


# -- submit --poll-interval


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "''", "x", "0s", "1e3"])
def test_intervals_that_are_none(river: RiverFiles, hakuriver: Hakuriver, value: str) -> None:
    ran = hakuriver(f"hakuriver submit --poll-interval {value} -- x")
    assert (ran.status, ran.out) == (2, "")
    assert "--poll-interval" in ran.err
    assert river.dropped() == []


def test_an_interval_goes_with_jobs_of_a_file(river: RiverFiles, hakuriver: Hakuriver, scratch: Path) -> None:
    (scratch / "jobs").write_text('{"command": ["x"]}\n')
    assert hakuriver(f"hakuriver submit --no-receipt --poll-interval 2 --from {scratch / 'jobs'}").status == 0


def test_looks_are_no_further_apart_than_asked_for(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without news the pause grows to the interval, and to a second if none is given."""
    river.snapshot(A, row(state="running"))
    now = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    waiter = waiting.Waiter(open_share(), [Target(A)])
    with pytest.raises(waiting.TimedOut):
        waiting.run(waiter, 20.0, longest=0.03)
    assert max(pauses) == 0.03
    pauses.clear()
    with pytest.raises(waiting.TimedOut):
        waiting.run(waiter, 20.0)
    assert max(pauses) == 1.0
    assert pauses[:-1] == sorted(pauses[:-1])  # the last ends with the time


# -- what is not there


@pytest.mark.parametrize(
    "line",
    ["vps", "vps submit", "vps submit --target n1 --public-key-file ~/x -- a", "vps status --json", "vps kill 5",
     "vps command 5 pause", "ssh", "ssh 5678", "ssh --user root 5678 -- -v", "ssh config", "docker check-vps e",
     "docker check-vps"],
)  # fmt: skip
def test_it_says_that_it_is_not_there_and_what_serves(hakuriver: Hakuriver, line: str) -> None:
    ran = hakuriver(f"hakuriver {line}")
    assert (ran.status, ran.out) == (1, "")
    first, second = ran.err.splitlines()
    assert first.endswith("not in this version of HakuRiver")
    assert second.startswith("hakuriver: meanwhile: `hakuriver ")
    program, _, rest = line.partition(" ")
    assert hakuriver(f"hakuriver.{program} {rest}") == ran
    shown = hakuriver(f"hakuriver {program} {rest.partition(' -- ')[0]} --help")
    assert (shown.status, shown.err) == (0, "")
    assert "not in this version" in " ".join(shown.out.split())


# -- letters


@pytest.mark.parametrize("program", ["host", "runner"])
def test_daemons_know_the_configuration_by_a_letter(hakuriver: Hakuriver, scratch: Path, program: str) -> None:
    for spelling in (f"hakuriver.{program}", f"hakuriver {program}"):
        ran = hakuriver(f"{spelling} -c {scratch / 'none.toml'}")
        assert ran.status == 1
        assert "there is no such file; --config must name" in ran.err
