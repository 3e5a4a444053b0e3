"""`hakuriver task list`."""

from __future__ import annotations

import sys
from typing import Any

import click

from hakuriver import listing, resolving, units
from hakuriver.cli.common import config_option, duration, json_option, out, out_json, share
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import is_terminal, states, table, terminal_width, when
from hakuriver.listing import Wanted

_STATES = (
    "submitted",
    "pending",
    "assigning",
    "running",
    "paused",
    "completed",
    "failed",
    "killed",
    "killed_oom",
    "lost",
)
_HEADINGS = ["JOB", "NAME", "STATE", "TASKS", "NODE", "CORES", "MEMORY", "USER", "SUBMITTED", "COMMAND"]
#: Columns after the memory where some job runs in an environment, has GPUs or names a NUMA node.
_ENGINES = ["GPUS", "EXECUTOR", "ENVIRONMENT", "TARGETS"]
#: Nodes of a job that are named in a table.
NODES_SHOWN = 3


@click.command("list", cls=Command)
@click.option(
    "--state", "--status", multiple=True, type=click.Choice(_STATES), metavar="STATE",
    help=f"The job's, or that of any of its tasks: {', '.join(_STATES)}.",
)  # fmt: skip
@click.option("--node", multiple=True, metavar="NODE", help="Jobs that have run there.")
@click.option("--user", multiple=True, metavar="USER", help="Whose they are.")
@click.option("--name", multiple=True, metavar="PATTERN", help="Their names; * and ? stand for others.")
@click.option("--since", callback=duration, metavar="TIME", help="Submitted not longer ago than so, as 90m or 2d.")
@click.option("--batch", multiple=True, metavar="ID", help="That job alone, or the job of that task.")
@click.option("--limit", type=click.IntRange(0), default=50, help="The newest so many; 0: all.  [50]")
@json_option
@config_option
def list_jobs(
    state: tuple[str, ...], node: tuple[str, ...], user: tuple[str, ...], name: tuple[str, ...], since: float | None,
    batch: tuple[str, ...], limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List jobs, newest first: a line for each, with its tasks by state.

    Comes from the host's index, which is some seconds behind. SUBMITTED is when the host accepted a job, by
    its clock. Options given twice mean either.

    \b
    Example:
      hakuriver task list --state failed --state killed_oom --since 1d
      hakuriver task list --batch 5678
    """
    river = share()
    jobs = tuple(target.job for target in resolving.resolve(river, batch))
    rows = listing.rows(river, Wanted(state, node, user, name, since, jobs), limit or None)
    if as_json:
        out_json({"jobs": rows})
        return
    width = terminal_width() if is_terminal(sys.stdout) else None
    engines = any(_has_engine(row) for row in rows)
    headings = [*_HEADINGS[:7], *_ENGINES, *_HEADINGS[7:]] if engines else _HEADINGS
    for line in table(headings, [_cells(row, engines) for row in rows], width):
        out(line)


def _has_engine(row: dict[str, Any]) -> bool:
    """Whether there is more to tell than a node. An index that an earlier version wrote has no such keys."""
    named = any(":" in target for target in row.get("targets", ()))
    return bool(row.get("gpus") or row.get("environments") or row.get("phase") or named)


def _engine(row: dict[str, Any]) -> list[object]:
    return [row.get("gpus") or None, ",".join(row.get("executors", ())), ",".join(row.get("environments", ())),
            " ".join(row.get("targets", ())[:NODES_SHOWN])]  # fmt: skip


def _cells(row: dict[str, Any], engines: bool) -> list[object]:
    nodes = row["nodes"]
    more = f",+{len(nodes) - NODES_SHOWN}" if len(nodes) > NODES_SHOWN else ""
    return [
        row["job"], row["name"], _state(row), states(row["counts"]) if row["count"] > 1 else 1,
        ",".join(nodes[:NODES_SHOWN]) + more, row["cores"], units.format_size(row["memory_bytes"]),
        *(_engine(row) if engines else ()), row["owner"], when(row["accepted_at"]), row["command"],
    ]  # fmt: skip


def _state(row: dict[str, Any]) -> str:
    code = row["exit_code"]
    if row.get("phase"):
        return f"{row['state']} ({row['phase']})"
    return f"{row['state']} ({code})" if row["state"] == "failed" and code else str(row["state"])
