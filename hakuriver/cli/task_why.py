"""`hakuriver task why`."""

from __future__ import annotations

import time
from typing import Any

import click

from hakuriver import client, explaining, reading, units
from hakuriver.cli.common import clean, config_option, json_option, out, out_json, share
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import when
from hakuriver.explaining import NodeReasons
from hakuriver.reading import FINAL, Job, Task
from hakuriver.resolving import Target, resolve_one
from hakuriver.spool.access import Share

#: Seconds in which a living host gives a sign, though nothing happens: `timing.heartbeat_interval` and some.
SIGN_S = 7.0
#: Tasks of a job that are told one by one.
TASKS_TOLD = 20


@click.command(cls=Command)
@click.argument("name", metavar="ID")
@json_option
@config_option
def why(name: str, as_json: bool) -> None:
    """Say why a job or task waits, node by node; or how it ended, and why.

    \b
    Example:
      hakuriver task why 5678
    """
    river = share()
    target = resolve_one(river, name)
    job = reading.load(river, target.job)
    told = explain(river, target, job)
    if as_json:
        out_json(told)
        return
    out(f"{told['id']}: {clean(told['why'])}")
    for line in told["tasks"]:
        out(f"  {line['task']}: {clean(line['why'])}")
    for node in told["nodes"]:
        out(f"  {node['node']}: {'; '.join(node['reasons']) or 'has room'}")
    if told["as_of"]:
        out(f"  nodes as of {when(told['as_of'])}, by the host's clock")
    if told["host"]:
        out(f"  {told['host']}")


def explain(river: Share, target: Target, job: Job) -> dict[str, Any]:
    """As `--json` shows it: `hakuriver schema why`."""
    state, why_text, tasks = _state(river, target, job)
    waits = state in ("submitted", "pending")
    nodes: list[NodeReasons] = []
    index = None
    if state == "pending" and not job.spec:
        why_text = "accepted a moment ago: the host tells more in some seconds"
    elif state == "pending":
        index = reading.nodes_index(river)
        named = _waiting_targets(target, job)
        nodes = explaining.nodes(job.spec, index["nodes"] if index else [], explaining.river_of(index), named)
        reason = explaining.pending(job, nodes, index)
        why_text = f"{why_text}; {reason}" if why_text else reason
    return {
        "id": target.name,
        "state": state,
        "why": f"{state}: {why_text}" if waits and why_text else why_text,
        "tasks": [{"task": task.task, "state": task.state, "why": explaining.task(job, task)} for task in tasks],
        "nodes": [node._asdict() for node in nodes],
        "as_of": index["at"] if index else None,
        "host": _host(river) if waits else None,
    }


def _waiting_targets(target: Target, job: Job) -> list[str]:
    """Targets of the tasks that are meant and wait."""
    if target.ranges is not None and target.total == 1:
        one = reading.target_of(job.spec, target.ranges[0][0])
        return [one] if one else []
    never = units.parse_array(job.waiting)[0] if job.waiting else []
    again = [(task.k, task.k) for task in job.tasks if task.state == "pending" and task.k is not None]
    named: list[str] = job.spec.get("targets") or []
    ranges = reading.ranges_of(job)
    if len(named) < 2 or ranges is None:
        return named
    each = job.total // len(named)
    waiting = {k // each for low, high in [*never, *again] for k in (*range(low, high + 1, each), high)}
    return [text for number, text in enumerate(named) if number in waiting]


def _state(river: Share, target: Target, job: Job) -> tuple[str, str, list[Task]]:
    """State, a sentence, and the tasks to be told one by one."""
    if job.state == "submitted":
        return "submitted", "no host has read it yet", []
    if job.state == "refused":
        return "refused", "refused: " + "; ".join(str(p) for p in (job.receipt.errors if job.receipt else ())), []
    if target.ranges is None and job.total > 1:
        return _of_many(job)
    told = reading.task_of(job, target.ranges[0][0] if target.ranges else None)
    if told.state == "pending":
        return "pending", told.reason, []
    index = reading.nodes_index(river) if told.state == "assigning" else None
    return told.state, explaining.task(job, told, index["nodes"] if index else ()), []


def _of_many(job: Job) -> tuple[str, str, list[Task]]:
    counts = ", ".join(f"{number:,} {state}" for state, number in job.counts.items())
    bad = [task for task in job.tasks if task.state in FINAL - {"completed"}]
    state = "pending" if job.counts.get("pending") else job.state
    return state, counts if state == "pending" else f"{job.state}: {counts}", bad[:TASKS_TOLD]


def _host(river: Share) -> str | None:
    """What to say of the host if none moves."""
    if client.host_seen_lately(river, SIGN_S):
        return None
    sign = client.host_sign(river)
    end = time.monotonic() + SIGN_S
    while time.monotonic() < end:
        time.sleep(0.05)
        if client.host_sign(river) != sign:
            return None
    seen = client.host_last_seen(river)
    return f"host not responding ({f'last seen {seen}' if seen else 'none has ever been seen'}): start `hakuriver host`"
