"""`hakuriver submit`, which is `hakuriver task submit` too."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hakuriver import client
from hakuriver.cli.common import (
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    config_option,
    duration,
    json_option,
    no_answer,
    note,
    out,
    out_json,
    share,
)
from hakuriver.cli.frame import Command
from hakuriver.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hakuriver.client import Receipt
    from hakuriver.spool.access import Share

#: How long a receipt is waited for, seconds.
RECEIPT_S = 1.0
#: Options that are not a job's, and so go with --from.
_NOT_OF_A_JOB = {"from_file", "wait", "poll_interval", "as_json", "quiet", "no_receipt", "command"}


def _interval(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """--poll-interval in seconds; None: as long as waiting has it."""
    seconds = None if value is None else duration(context, parameter, value)
    if seconds == 0:
        raise click.BadParameter("it must be more than zero")
    return seconds


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.option(
    "-t", "--target", "targets", metavar="NODE[:NUMA][::GPUS]", multiple=True,
    help="Run one task there, as n1, n1:0, n1::0,1 or n1:0::1; repeatable.",
)  # fmt: skip
@click.option("-c", "--cores", type=int, metavar="N", default=1, help="Cores for each task; 0 reserves none.  [1]")
@click.option("-m", "--memory", metavar="SIZE", help="Limit of each task, as 512M, 4G (1000 based) or 4Gi.")
@click.option("-g", "--gpus", type=int, metavar="N", default=0, help="GPUs for each task; the host chooses which.  [0]")
@click.option("-e", "--env", metavar="K=V", multiple=True, help="Environment variable for the task; repeatable.")
@click.option("-n", "--name", metavar="S", help="A name for people.")
@click.option(
    "--priority", type=int, metavar="P", default=0, help="-100 to 100, higher first; above 0 for admins.  [0]"
)
@click.option("--time-limit", metavar="TIME", help="For each attempt, as 90s, 30m, 2h30m; pauses count.")
@click.option("--retries", type=int, metavar="N", default=0, help="Reruns after failures; never after a kill.  [0]")
@click.option("--array", metavar="INDICES", help="One task for each index: 0-199, 1,3,7-9; 0-199%8: at most 8 at once.")
@click.option("--no-queue", is_flag=True, help="A task that cannot be sent out at once fails instead of waiting.")
@click.option("--workdir", metavar="DIR", help="Absolute path on the node.  [shared_data on the share]")
@click.option("--executor", metavar="E", default="auto", help="auto, docker, systemd or process.  [auto]")
@click.option("--container", metavar="NAME", help="Environment to run in; NULL for none.  [the river's default]")
@click.option(
    "--privileged/--no-privileged",
    default=None,
    help="Containers: all rights on the node, or not.  [as the river is set]",
)
@click.option(
    "--mount", "mounts", metavar="HOST:INSIDE[:ro]", multiple=True,
    help="Containers: a directory of the node, in place of the river's mounts; repeatable.",
)  # fmt: skip
@click.option("--private-network", is_flag=True, help="No network but a loopback of its own.")
@click.option("--private-pid", is_flag=True, help="It sees its own processes alone.")
@click.option("--from", "from_file", metavar="FILE", help="Submit JSON Lines, one job a line, as one; - reads stdin.")
@click.option("--wait", is_flag=True, help="Wait until all is over, and exit as `hakuriver task wait` does.")
@click.option(
    "--poll-interval", callback=_interval, metavar="SEC",
    help="With --wait: at most so long between two looks; shorter after a change.  [1]",
)  # fmt: skip
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print the ids and errors alone.")
@click.option("--no-receipt", is_flag=True, help="Do not wait up to a second for the host's answer.")
@config_option
@click.argument("command", metavar="-- COMMAND [ARGS]...", nargs=-1, type=click.UNPROCESSED)
def submit(
    from_file: str | None, wait: bool, poll_interval: float | None, as_json: bool, quiet: bool, no_receipt: bool,
    command: tuple[str, ...], **job: Any,
) -> int:  # fmt: skip
    """Submit a job: COMMAND with its ARGS, which no shell reads. Write -- before it.

    Prints the job's id; for a job of several tasks their range, as ID-[0-199], which other commands understand;
    with --from one id a line. When it is printed, the job survives any crash. It is printed while no host runs, too.

    A task sees HAKURIVER_TASK_INDEX, _TASK_ID, _JOB_ID, _ATTEMPT, _NODE, _CORES, _MEMORY_BYTES, _GPUS,
    _TARGET_NUMA_NODE, _SHARED_DIR and _LOCAL_TEMP_DIR; in a container the last two are /shared and /local_temp.
    Exit status: 0 it lies safe; 1 refused; 2 usage; with --wait that of `hakuriver task wait`.

    \b
    Example:
      hakuriver submit --cores 4 --memory 8G -- python train.py --epochs 10
      hakuriver submit --array 0-199%8 -- sh -c 'process part-$HAKURIVER_TASK_INDEX'
      hakuriver submit --gpus 2 --container torch -- python train.py
      hakuriver submit --target n1:0 --target n1:1 --container NULL -- ./bound-to-memory
      hakuriver submit --priority -10 --time-limit 2h -- ./whenever-there-is-room
      hakuriver submit --no-queue --wait --cores 4 -- ./now-or-not-at-all
      hakuriver submit --from jobs.jsonl --wait --poll-interval 0.2
    """
    river = share()
    timeout = 0.0 if no_receipt else RECEIPT_S
    try:
        if from_file is not None:
            done, ids = _submit_lines(river, from_file, command, timeout)
        else:
            done, ids = _submit_one(river, command, job, timeout)
    except client.Refused as refusal:
        return _refused(refusal, as_json, wait)
    if not quiet:
        _comment(river, done["receipt"], done.pop("alive"), done["outcome"], len(ids))
    done.pop("alive", None)
    if not as_json:
        for name in ids:
            out(name)
    sys.stdout.flush()
    return _finish(river, done, wait, poll_interval, as_json, quiet)


def _submit_one(
    river: Share, command: tuple[str, ...], job: dict[str, Any], timeout: float
) -> tuple[dict[str, Any], list[str]]:
    if not command:
        raise click.UsageError("COMMAND is missing: write it after --, as in `hakuriver submit -- echo hi`")
    job["env"] = _environment(job["env"])
    job["mounts"] = job["mounts"] or None
    done = client.submit(command, shared_dir=river.root, receipt_timeout=timeout, **job)
    return {
        "jobs": [done.job],
        "tasks": done.tasks,
        "count": done.total,
        "alive": done.host_alive,
        **_outcome(done.receipt),
    }, [done.tasks]


def _submit_lines(
    river: Share, from_file: str, command: tuple[str, ...], timeout: float
) -> tuple[dict[str, Any], list[str]]:
    context = click.get_current_context()
    given = [
        p.opts[-1]
        for p in context.command.params
        if p.name
        and p.name not in _NOT_OF_A_JOB
        and context.get_parameter_source(p.name) == ParameterSource.COMMANDLINE
    ]
    if command or given:
        extra = given[0] if given else "COMMAND"
        raise click.UsageError(f"{extra} does not go with --from: its lines say all of each job")
    done = client.submit_lines(river, _lines(from_file), timeout)
    count = done.receipt.tasks if done.receipt else None
    return {
        "jobs": done.jobs,
        "tasks": None,
        "count": count,
        "alive": done.host_alive,
        **_outcome(done.receipt),
    }, done.jobs


def _lines(path: str) -> Iterable[bytes]:
    if path == "-":
        return sys.stdin.buffer
    try:
        return open(path, "rb")
    except OSError as error:
        raise Invalid("from", path, f"{error.strerror}: name a file of jobs, one a line, or - for stdin") from None


def _environment(items: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise Invalid("env", item, f"it must be K=V, as {name or 'MODE'}=fast")
        found[name] = value
    return found


def _outcome(receipt: Receipt | None) -> dict[str, Any]:
    if receipt is None:
        return {"outcome": "waiting", "receipt": None}
    return {"outcome": receipt.outcome, "receipt": receipt.raw}


def _comment(river: Share, receipt: dict[str, Any] | None, alive: bool | None, outcome: str, jobs: int) -> None:
    if outcome == "waiting" and alive is not None:
        note(no_answer(river, "the job waits" if jobs == 1 else f"all {jobs} jobs wait", alive))
    for problem in (receipt or {}).get("errors", ()):
        from hakuriver.cli.failing import option, shown

        remedy = f"; {problem['remedy']}" if problem.get("remedy") else ""
        note(f"left out: {option(problem['field'])} {shown(problem.get('value'))}: {problem['message']}{remedy}")


def _refused(refusal: client.Refused, as_json: bool, wait: bool) -> int:
    receipt = refusal.receipt
    if as_json:
        out_json({"jobs": [], "tasks": None, "count": 0, **_outcome(receipt), "outcomes": None})
    from hakuriver.cli.failing import option, shown

    for problem in receipt.errors:
        value = "" if problem.value is None else f" {shown(problem.value)}"
        remedy = f"; {problem.remedy}" if problem.remedy else ""
        note(f"refused: {option(problem.field)}{value}: {problem.message}{remedy}")
    return EXIT_UNKNOWN if wait else EXIT_REFUSED


def _finish(
    river: Share, done: dict[str, Any], wait: bool, poll_interval: float | None, as_json: bool, quiet: bool
) -> int:
    status, outcomes = 0, None
    if wait:
        from hakuriver.cli.task_wait import wait_for
        from hakuriver.resolving import Target
        from hakuriver.waiting import LONGEST_POLL

        jobs = [Target(job) for job in done["jobs"]]
        status, outcomes = wait_for(
            river, jobs, None, quiet or as_json, to_stderr=True, longest=poll_interval or LONGEST_POLL
        )
    if as_json:
        out_json({**done, "outcomes": outcomes})
    return status
