"""`hakuriver task command`, `stdout`, `stderr`: names of earlier versions for what other commands do."""

from __future__ import annotations

import click

from hakuriver.cli.common import config_option, json_option, timeout_option
from hakuriver.cli.frame import Command
from hakuriver.cli.task_control import PATIENCE, control
from hakuriver.cli.task_logs import print_output, reading_options


@click.command(cls=Command)
@click.argument("name", metavar="ID")
@click.argument("what", metavar="pause|resume", type=click.Choice(["pause", "resume"]))
@json_option
@timeout_option(PATIENCE, "How long the answer is waited for.")
@click.option("--no-receipt", is_flag=True, help="Ask, and do not wait for the answer.")
@config_option
def command(name: str, what: str, as_json: bool, timeout: float, no_receipt: bool) -> int:
    """Pause a job or task, or let it go on: `hakuriver task pause` and `resume` under their old name.

    \b
    Example:
      hakuriver task command 5678 pause
      hakuriver client command 5678 resume
    """
    return control(what, (name,), all_jobs=False, mine=False, as_json=as_json, no_receipt=no_receipt, timeout=timeout)


@click.command(cls=Command)
@reading_options
def stdout(name: str, follow: bool, attempt: int | None, tail: int | None, as_json: bool) -> None:
    """Print what a task wrote to stdout: `hakuriver task logs` under its old name.

    \b
    Example:
      hakuriver task stdout --tail 20 5678
      hakuriver task stdout --follow --attempt 2 5678-17
    """
    print_output(name, follow, attempt, False, tail, as_json)


@click.command(cls=Command)
@reading_options
def stderr(name: str, follow: bool, attempt: int | None, tail: int | None, as_json: bool) -> None:
    """Print what a task wrote to stderr: `hakuriver task logs --err` under its old name.

    \b
    Example:
      hakuriver task stderr --follow 5678
      hakuriver task stderr --tail 20 --attempt 1 5678-17
    """
    print_output(name, follow, attempt, True, tail, as_json)
