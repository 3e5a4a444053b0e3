"""`hakuriver task kill`, `pause`, `resume`, `requeue`: one request each, and its receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hakuriver import client
from hakuriver.cli.choosing import choosing_options, chosen
from hakuriver.cli.common import (
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    clean,
    config_option,
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
from hakuriver.spool.access import Share

#: Seconds in which a living host gives a sign.
SIGN_S = 2.0
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
@_options
def kill(ids: tuple[str, ...], all_jobs: bool, mine: bool, **how: Any) -> int:
    """Kill jobs or tasks: TERM to the whole tree, KILL after ten seconds. Waiting ones are over at once.

    Says for each what came of it. Exit status: 0 all done; 1 some not (they were over already, or yours they are
    not); 125 no host has answered in time: the request stays and will be carried out.

    \b
    Example:
      hakuriver task kill 5678-17
      hakuriver task kill --all --mine
    """
    return control("kill", ids, all_jobs, mine, **how)


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
    kind: str, ids: tuple[str, ...], all_jobs: bool, mine: bool, as_json: bool, no_receipt: bool, timeout: float
) -> int:
    """Ask, and tell the answer."""
    river = share()
    names = [name for target in chosen(river, ids, all_jobs, mine) for name in target.tasks()]
    if not names:
        note(f"nothing to {kind}: no job is unfinished")
    answers = [
        ask(river, kind, names[at : at + client.TARGETS_MAX], None if no_receipt else timeout)
        for at in range(0, len(names), client.TARGETS_MAX)
    ]
    if as_json:
        out_json({"requests": [answer_json(kind, answer) for answer in answers]})
    return max((tell(river, kind, answer, as_json, no_receipt) for answer in answers), default=0)


def ask(river: Share, kind: str, targets: list[str], timeout: float | None, **more: Any) -> Answer:
    """Make the request; wait while a host lives, for so many seconds (None: not at all)."""
    first = 0.0 if timeout is None else min(SIGN_S, timeout)
    answer = client.request(kind, targets, shared_dir=river.root, timeout=first, **more)
    if answer.receipt or not answer.host_alive or timeout is None or timeout <= first:
        return answer
    receipt, alive = client.await_receipt(river, answer.request, timeout - first)
    if receipt and receipt.outcome == "refused":
        raise client.Refused(receipt)
    return Answer(answer.request, receipt, alive)


def answer_json(kind: str, answer: Answer) -> dict[str, Any]:
    """As `--json` shows it: `hakuriver schema control`."""
    receipt = answer.receipt
    return {
        "request": answer.request,
        "kind": kind,
        "outcome": receipt.outcome if receipt else "waiting",
        "answers": [each._asdict() for each in receipt.answers] if receipt else [],
        "text": receipt.text if receipt else "",
    }


def tell(river: Share, kind: str, answer: Answer, as_json: bool, no_receipt: bool) -> int:
    """Say what came of it; return the exit status."""
    if answer.receipt is None:
        if no_receipt:
            return 0
        note(no_answer(river, f"the request ({kind}) waits", answer.host_alive))
        return EXIT_UNKNOWN
    for each in answer.receipt.answers:
        if not as_json:
            (out if each.ok else note)(f"{each.task} {clean(each.outcome)}")
    if answer.receipt.text and not as_json:
        out(clean(answer.receipt.text))
    return 0 if all(each.ok for each in answer.receipt.answers) else EXIT_REFUSED
