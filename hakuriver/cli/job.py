"""`hakuriver job validate`: what the door would say of a file, without a share.

The checks are the door's own (`host/checking.py`, which needs no host and no share), so that both say the same.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from hakuriver.cli.common import EXIT_REFUSED, clean, json_option, note, out, out_json
from hakuriver.cli.frame import Command
from hakuriver.client import Problem

if TYPE_CHECKING:
    from hakuriver.records import RunRequest

STDIN = "-"
#: What names a batch; of a file with neither ending, and of stdin, its content tells.
BATCH, SINGLE = ".jsonl", ".json"


@click.command(cls=Command)
@click.argument("paths", metavar="FILE...", nargs=-1, required=True)
@json_option
def validate(paths: tuple[str, ...], as_json: bool) -> int:
    """Check job files as the host will when they are dropped into incoming/; needs neither a host nor a share.

    A FILE is a job as JSON, or a batch as JSON Lines (FILE.jsonl); - reads stdin. What is wrong is told with field,
    value and remedy. Exit status: 0 all good; 1 something is wrong.

    Only the host can tell, when the file is there: whether the targets, the GPUs and the environment that it names
    exist, whether its policy and the user's rights allow it, and whether the file is a plain one of the user's own.

    \b
    Example:
      hakuriver job validate job.json
      hakuriver job validate --json jobs.jsonl
      python3 make_jobs.py | hakuriver job validate -
    """
    told = [examine(path) for path in paths]
    if as_json:
        out_json({"files": told})
    else:
        for file in told:
            tell(file)
    return 0 if all(file["good"] for file in told) else EXIT_REFUSED


def examine(path: str) -> dict[str, Any]:
    """What is to be said of one file: `hakuriver schema validate`."""
    from hakuriver.host.checking import Refusal, problem

    name = os.path.basename(path)
    try:
        data = _read(path)
        kind, jobs = _parse(name, data)
    except OSError as error:
        why = problem("file", None, f"it cannot be read: {error.strerror or error}", "see whether it is there")
        return _told(path, "run", [], [why])
    except Refusal as refusal:
        return _told(path, refusal.kind, [], refusal.problems)
    return _told(path, kind, jobs, [] if path == STDIN else _of_the_name(name, kind, jobs))


def _told(path: str, kind: str, jobs: list[RunRequest], problems: list[dict[str, Any]]) -> dict[str, Any]:
    from hakuriver.records import task_count

    tasks = sum(task_count(job.array, len(job.targets)) for job in jobs)
    return {
        "file": path, "good": not problems, "kind": kind, "jobs": len(jobs), "tasks": tasks, "problems": problems
    }  # fmt: skip


def _read(path: str) -> bytes:
    """All of it, or a byte more than any file may have. Raises OSError."""
    from hakuriver.records import BATCH_FILE_MAX

    def whole(file: BinaryIO) -> bytes:
        return file.read(BATCH_FILE_MAX + 1)

    if path == STDIN:
        return whole(sys.stdin.buffer)
    with open(path, "rb") as file:
        return whole(file)


def _parse(name: str, data: bytes) -> tuple[str, list[RunRequest]]:
    """Its kind and its jobs; of another request none. Raises Refusal."""
    from hakuriver.host import checking
    from hakuriver.records import BATCH_FILE_MAX, JOB_FILE_MAX, RunRequest

    batch = name.endswith(BATCH) or (not name.endswith(SINGLE) and _is_lines(data))
    if len(data) > (most := BATCH_FILE_MAX if batch else JOB_FILE_MAX):
        why = f"it has more than {most:,} bytes, which are the most"
        raise checking.Refusal([checking.problem("file", None, why, "put data into files of their own, or split it")])
    if batch:
        return "batch", checking.batch(data, settled=True)
    body = checking.request(data)
    return body.request, [body] if isinstance(body, RunRequest) else []


def _is_lines(data: bytes) -> bool:
    """Whether the first line is a whole document, and not the only one."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def _of_the_name(name: str, kind: str, jobs: list[RunRequest]) -> list[dict[str, Any]]:
    """What the door would find wrong with its name."""
    from hakuriver.host import checking
    from hakuriver.ids import is_job_id
    from hakuriver.spool import layout

    stem, ending = os.path.splitext(name)
    if ending in (SINGLE, BATCH) and not layout.DOOR_NAME.fullmatch(name):
        why = "the host leaves a file of this name alone"
        return [checking.problem("name", name, why, "letters, digits, '.', '_' and '-', no dot first, 100 at most")]
    return checking.of_its_id(stem, jobs[0].id) if kind == "run" and ending == SINGLE and is_job_id(stem) else []


def tell(file: dict[str, Any]) -> None:
    """For people: that it is good, or each problem."""
    where = "stdin" if file["file"] == STDIN else clean(file["file"])
    for each in file["problems"]:
        note(f"{where}: {clean(Problem(**each))}")
    if not file["good"]:
        return
    if file["jobs"]:
        jobs = f"{_counted(file['jobs'], 'job')}, " if file["kind"] == "batch" else ""
        out(f"{where}: good, {jobs}{_counted(file['tasks'], 'task')}")
    else:
        out(f"{where}: good, a request to {file['kind']}")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
