"""`hakuriver task kill`, `pause`, `resume`, `requeue`: one request each, and its receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hakuriver import client, reading
from hakuriver.cli.choosing import choosing_options, chosen
from hakuriver.cli.common import (
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    clean,
    config_option,
    duration,
    json_option,
    no_answer,
    note,
    out,
    out_json,
    share,
    timeout_option,
)
from hakuriver.cli.frame import Command
from hakuriver.client import Answer
from hakuriver.ids import parse_task
from hakuriver.spool.access import Share

#: Seconds in which a living host gives a sign.
SIGN_S = 2.0
#: Jobs and tasks of one request of which is looked where they are.
LOOKED_AT_MOST = 100
#: States of a task that its node has to hear of a control for.
WAITING = frozenset({"assigning", "running", "paused", "lost"})
#: How long an answer is waited for if nothing else is said.
PATIENCE = "30s"


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        config_option,
        click.option("--no-receipt", is_flag=True, help="Ask, and do not wait for the answer."),
        timeout_option(PATIENCE, "How long the answer is waited for."),
        json_option,
        choosing_options,
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@click.option("--now", is_flag=True, help="KILL at once, without TERM: a grace of 0.")
@click.option("--grace", callback=duration, metavar="TIME", help="Between TERM and KILL: 0 to 1h.  [kill_grace, 10s]")
@_options
def kill(ids: tuple[str, ...], all_jobs: bool, mine: bool, grace: float | None, now: bool, **how: Any) -> int:
    """Kill jobs or tasks: TERM to the whole tree, KILL after the grace. Waiting ones are over at once.

    What is being killed already can be killed again, and sooner. Says for each what came of it. Exit status: 0 all
    done; 1 some not (they were over already, or yours they are not); 125 no host has answered in time, or a task's node
    is offline: the request stays and will be carried out.

    \b
    Example:
      hakuriver task kill 5678-17
      hakuriver task kill --grace 2m 5678
      hakuriver task kill --now 5678
      hakuriver task kill --all --mine
    """
    if now and grace is not None:
        raise click.UsageError("give --grace TIME or --now, not both")
    return control("kill", ids, all_jobs, mine, **how, grace=0.0 if now else grace)


@click.command(cls=Command)
@_options
def pause(ids: tuple[str, ...], all_jobs: bool, mine: bool, **how: Any) -> int:
    """Pause running tasks. They keep their cores and memory, and their time limits run on.

    \b
    Example:
      hakuriver task pause 5678
    """
    return control("pause", ids, all_jobs, mine, **how)


@click.command(cls=Command)
@_options
def resume(ids: tuple[str, ...], all_jobs: bool, mine: bool, **how: Any) -> int:
    """Let paused tasks go on.

    \b
    Example:
      hakuriver task resume 5678
    """
    return control("resume", ids, all_jobs, mine, **how)


@click.command(cls=Command)
@_options
def requeue(ids: tuple[str, ...], all_jobs: bool, mine: bool, **how: Any) -> int:
    """Run tasks that are over once more; of a whole job those that did not complete.

    \b
    Example:
      hakuriver task requeue 5678
    """
    return control("requeue", ids, all_jobs, mine, **how)


def control(
    kind: str,
    ids: tuple[str, ...],
    all_jobs: bool,
    mine: bool,
    as_json: bool,
    no_receipt: bool,
    timeout: float,
    **more: Any,
) -> int:
    """Ask, and report the answer. `more`: see `client.request`."""
    river = share()
    names = [name for target in chosen(river, ids, all_jobs, mine) for name in target.tasks()]
    if not names:
        note(f"nothing to {kind}: no job is unfinished")
    answers = [
        ask(river, kind, names[at : at + client.TARGETS_MAX], None if no_receipt else timeout, **more)
        for at in range(0, len(names), client.TARGETS_MAX)
    ]
    return report(river, kind, answers, as_json, no_receipt)


def ask(river: Share, kind: str, targets: list[str], timeout: float | None, **more: Any) -> Answer:
    """Make the request; wait while a host lives, for so many seconds (None: not at all). A refusal is an answer."""
    first = 0.0 if timeout is None else min(SIGN_S, timeout)
    try:
        answer = client.request(kind, targets, shared_dir=river.root, timeout=first, **more)
    except client.Refused as refusal:
        return Answer(refusal.receipt.request, refusal.receipt)
    if answer.receipt is None and answer.host_alive:
        for line in absent(river, kind, targets):
            note(line)
    if answer.receipt or not answer.host_alive or timeout is None or timeout <= first:
        return answer
    return Answer(answer.request, *client.await_receipt(river, answer.request, timeout - first))


def absent(river: Share, kind: str, targets: list[str]) -> list[str]:
    """For people: which nodes cannot carry it out now. Only the first of many targets are looked at."""
    index = reading.nodes_index(river)
    offline = {row["node"] for row in index["nodes"] if row["state"] == "offline"} if index else set()
    meant: dict[str, list[str]] = {}
    for name in targets[:LOOKED_AT_MOST] if offline else ():
        for task in _tasks_of(river, name):
            if task.node is not None and task.node in offline and task.state in WAITING:
                meant.setdefault(task.node, []).append(task.task)
    return [
        f"node {node} is offline: the {kind} of {tasks[0]}{f' and {len(tasks) - 1:,} more' if len(tasks) > 1 else ''}"
        " is queued, and carried out when the node returns"
        for node, tasks in sorted(meant.items())
    ]


def _tasks_of(river: Share, name: str) -> list[reading.Task]:
    """Tasks that have been sent out, of a job or by name."""
    job, k = parse_task(name) or (name, None)
    snapshot = reading.read_snapshot(river, job)
    tasks = reading.as_job(snapshot).tasks if snapshot else []
    return [task for task in tasks if k is None or task.k == k]


def report(river: Share, kind: str, answers: list[Answer], as_json: bool, no_receipt: bool = False) -> int:
    """Print what came of requests of one kind; return the exit status. `no_receipt`: none was waited for."""
    if as_json:
        out_json({"requests": [_row(kind, answer) for answer in answers]})
    return max((_tell(river, kind, answer, as_json, no_receipt) for answer in answers), default=0)


def _row(kind: str, answer: Answer) -> dict[str, Any]:
    """As `--json` shows it: `hakuriver schema control`."""
    receipt = answer.receipt
    return {
        "request": answer.request,
        "kind": kind,
        "outcome": receipt.outcome if receipt else "waiting",
        "answers": [each._asdict() for each in receipt.answers] if receipt else [],
        "text": receipt.text if receipt else "",
        "receipt": receipt.raw if receipt else None,
    }


def _tell(river: Share, kind: str, answer: Answer, as_json: bool, no_receipt: bool) -> int:
    """Say what came of it; return the exit status."""
    if answer.receipt is None:
        if no_receipt:
            return 0
        note(no_answer(river, f"the request ({kind}) waits", answer.host_alive))
        return EXIT_UNKNOWN
    if answer.receipt.outcome == "refused":
        note(clean(client.Refused(answer.receipt)))
        return EXIT_REFUSED
    for each in answer.receipt.answers:
        if not as_json:
            (out if each.ok else note)(f"{each.task} {clean(each.outcome)}")
    if answer.receipt.text and not as_json:
        out(clean(answer.receipt.text))
    return 0 if all(each.ok for each in answer.receipt.answers) else EXIT_REFUSED
