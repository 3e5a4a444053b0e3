"""`hakuriver task status`."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from hakuriver import reading, units
from hakuriver.cli.common import config_option, json_option, out, out_json, share
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import is_terminal, pairs, span, states, table, terminal_width, when
from hakuriver.errors import NotFound
from hakuriver.reading import Job, Task
from hakuriver.resolving import Target, resolve
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: Tasks of a job that a terminal is shown.
TASKS_SHOWN = 40
_HEADINGS = ["TASK", "STATE", "NODE", "ATTEMPT", "STARTED", "TIME", "CPU", "MEMORY", "REASON"]
#: Columns after the attempt where some task has an environment or GPUs.
_ENGINES = ["EXECUTOR", "ENVIRONMENT", "GPUS"]


@click.command(cls=Command)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@config_option
def status(ids: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known of jobs or single tasks, at most some seconds old.

    Of a job of several tasks a line for each that has been sent out; a terminal is shown the first 40.

    \b
    Example:
      hakuriver task status 5678
      hakuriver task status --json 5678-17
    """
    river = share()
    found = [(target, reading.load(river, target.job)) for target in resolve(river, ids)]
    if as_json:
        out_json({"jobs": [job_json(river, target, job) for target, job in found]})
        return
    for number, (target, job) in enumerate(found):
        if number:
            out("")
        for line in _lines(river, target, job):
            out(line)


def tasks_meant(target: Target, job: Job) -> list[Task]:
    """The job's tasks that are known, or those that were named. Raises NotFound for one that is not there."""
    if target.ranges is None:
        return job.tasks if job.tasks or job.total > 1 else [reading.task_of(job, None)]
    if target.total == 1:
        return [reading.task_of(job, target.ranges[0][0])]
    found = [task for task in job.tasks if target.covers(task.k)]
    if not found and job.spec and not _has_some(target, job):
        raise NotFound(f"job {job.job} has none of these tasks: {reading.tasks_there(job)}")
    return found


def _has_some(target: Target, job: Job) -> bool:
    has = reading.ranges_of(job) or []
    return any(low <= last and first <= high for low, high in target.ranges or () for first, last in has)


def job_json(river: Share, target: Target, job: Job) -> dict[str, Any]:
    """As `--json` shows it: `hakuriver schema status`."""
    tasks = [_task_json(river, job, task) for task in tasks_meant(target, job)]
    told = {"count" if key == "total" else key: value for key, value in job._asdict().items()}
    return {**told, "tasks": tasks, "receipt": job.receipt.raw if job.receipt else None}


def _task_json(river: Share, job: Job, task: Task) -> dict[str, Any]:
    attempt = max(1, task.attempt)
    return {
        **task._asdict(),
        "earlier": [earlier._asdict() for earlier in task.earlier],
        "out": river.path(layout.stdout_path(job.job, task.k, attempt)),
        "err": river.path(layout.stderr_path(job.job, task.k, attempt)),
    }


def _lines(river: Share, target: Target, job: Job) -> list[str]:
    tasks = tasks_meant(target, job)
    lines = pairs(_job_pairs(job))
    if len(tasks) == 1:
        return [*lines, *pairs(_task_pairs(river, job, tasks[0])), *_attempts(tasks[0])]
    if not tasks:
        return lines
    terminal = is_terminal(sys.stdout)
    shown = tasks[:TASKS_SHOWN] if terminal else tasks
    engines = any(task.gpus or task.environment for task in tasks)
    rows = [_cells(task, engines) for task in shown]
    lines += ["", *table(_headings(engines), rows, terminal_width() if terminal else None)]
    if len(shown) < len(tasks):
        lines.append(f"and {len(tasks) - len(shown)} more; name one, or read all with --json or in a pipe")
    return lines


def _job_pairs(job: Job) -> list[tuple[str, object]]:
    spec = job.spec
    memory, limit = spec.get("memory_bytes", spec.get("memory")), spec.get("time_limit_s", spec.get("time_limit"))
    rows: list[tuple[str, object]] = [
        ("job", job.job),
        ("name", job.name),
        ("state", job.state),
        ("exit code", job.exit_code),
        ("tasks", states(job.counts)),
        ("user", job.owner),
        ("command", shlex.join(spec["command"]) if spec.get("command") else None),
        ("cores", "0 (no limit)" if spec.get("cores") == 0 else spec.get("cores", 1)),
        ("memory", units.format_size(memory) if isinstance(memory, int) else memory),
        ("targets", " ".join(spec.get("targets") or ()) or "any one node"),
        ("executor", spec.get("executor", "auto")),
        ("container", spec.get("container")),
        ("GPUs", spec.get("gpus") or None),
        ("privileged", _said(spec.get("privileged"))),
        ("mounts", " ".join(spec.get("mounts") or ())),
        ("apart", " ".join(word for word in ("private_network", "private_pid") if spec.get(word)).replace("_", "-")),
        ("workdir", spec.get("workdir")),
        ("environment", " ".join(sorted(spec.get("env") or ()))),
        ("array", spec.get("array")),
        ("priority", spec.get("priority", 0)),
        ("time limit", units.format_duration(limit) if isinstance(limit, int | float) else limit),
        ("retries", spec.get("retries", 0)),
        ("no queue", _said(spec.get("no_queue") or None)),
        ("accepted", when(job.accepted_at)),
        ("finished", when(job.finished_at)),
        ("never sent", job.waiting if job.total > 1 else None),
    ]
    rows += [("refused", str(problem)) for problem in (job.receipt.errors if job.receipt else ())]
    return [(label, value) for label, value in rows if value not in (None, "", "-")]


def _task_pairs(river: Share, job: Job, task: Task) -> list[tuple[str, object]]:
    attempt = max(1, task.attempt)
    rows: list[tuple[str, object]] = [
        ("task", task.task),
        ("task state", task.state),
        ("node", task.node),
        ("attempt", task.attempt or None),
        ("target", task.target if job.total > 1 else None),
        ("chosen executor", task.executor),
        ("package", task.environment),
        ("GPUs held", ", ".join(map(str, task.gpus))),
        ("phase", task.phase),
        ("started", when(task.started_at)),
        ("ended", when(task.ended_at)),
        ("exited with", task.exit_code),
        ("signal", task.signal),
        ("cause", task.cause),
        ("reason", task.reason),
        ("wall time", units.format_duration(task.wall_s) if task.wall_s else None),
        ("CPU time", units.format_duration(task.cpu_s) if task.cpu_s else None),
        ("peak memory", units.format_size(task.peak_memory_bytes)),
        ("stdout", river.path(layout.stdout_path(job.job, task.k, attempt))),
        ("stderr", river.path(layout.stderr_path(job.job, task.k, attempt))),
    ]
    return [(label, value) for label, value in rows if value not in (None, "", "-")]


def _said(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _attempts(task: Task) -> list[str]:
    if not task.earlier:
        return []
    rows: list[list[object]] = [
        [a.attempt, a.node, a.state, a.exit_code, a.signal, a.cause, when(a.started_at), span(a.started_at, a.ended_at)]
        for a in task.earlier
    ]
    headings = ["ATTEMPT", "NODE", "STATE", "EXIT", "SIGNAL", "CAUSE", "STARTED", "TIME"]
    return ["", "earlier attempts:", *table(headings, rows)]


def _headings(engines: bool) -> list[str]:
    return [*_HEADINGS[:4], *_ENGINES, *_HEADINGS[4:]] if engines else _HEADINGS


def _cells(task: Task, engines: bool) -> list[object]:
    where: list[object] = [task.executor, task.environment, ",".join(map(str, task.gpus))] if engines else []
    return [
        task.task, task.state, task.node, task.attempt, *where, when(task.started_at),
        units.format_duration(task.wall_s) if task.wall_s else None,
        units.format_duration(task.cpu_s) if task.cpu_s else None,
        units.format_size(task.peak_memory_bytes), task.phase or task.reason,
    ]  # fmt: skip
