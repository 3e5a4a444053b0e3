"""`hakuriver node`: see nodes, take them out of service and back."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from hakuriver import reading, units
from hakuriver.cli import hardware
from hakuriver.cli.common import clean, config_option, json_option, note, out, out_json, share, timeout_option
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import is_terminal, pairs, rounded, table, terminal_width, when
from hakuriver.cli.task_control import PATIENCE, ask, report
from hakuriver.errors import Invalid, NotFound
from hakuriver.ids import task_name
from hakuriver.spool import layout
from hakuriver.spool.access import Share
from hakuriver.spool.layout import NodePaths

NONE_YET = "no host has told of any node yet: start `hakuriver host`, and `hakuriver runner` on each node"


@click.command("list", cls=Command)
@json_option
@config_option
def list_nodes(as_json: bool) -> None:
    """List nodes: cores, memory and GPUs held of all there are, load, and how long each has been silent.

    Comes from the host, which writes it when a node changes, and loads every 15 seconds.

    \b
    Example:
      hakuriver node list
    """
    index = reading.nodes_index(share())
    if as_json:
        out_json(index or {"at": None, "host": None, "cut_off": False, "nodes": []})
        return
    if index is None:
        note(NONE_YET)
        return
    if index.get("cut_off"):
        note("the host may be cut off from the share itself: it takes no silent node's tasks for lost")
    width = terminal_width() if is_terminal(sys.stdout) else None
    for line in table(*_columns(index["nodes"]), width):
        out(line)
    note(as_of(index["at"]))


def _columns(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Headings and cells; GPUs and NUMA nodes stand there only if some node has them."""
    cells = [_cells(row) for row in rows]
    shown = [
        name for name in (cells[0] if cells else ()) if name not in ("GPUS", "NUMA") or any(c[name] for c in cells)
    ]
    return shown, [[row[name] for name in shown] for row in cells]


def _cells(row: dict[str, Any]) -> dict[str, object]:
    load = row["load"]
    temperature = load.get("temperature_c")
    numa = len(row.get("numa", ()))
    return {
        "NODE": row["node"],
        "STATE": row["state"],
        "CORES": f"{row['cores_held']}/{row['cores']}",
        "MEMORY": f"{units.format_size(row['memory_held_bytes'])}/{units.format_size(row['memory_bytes'])}",
        "GPUS": hardware.gpus_held(row),
        "NUMA": numa if numa > 1 else None,
        "TASKS": row["tasks"],
        "LOAD": rounded(load.get("load_1m")),
        "CPU": f"{load.get('cpu_percent', 0):.0f}%",
        "TEMP": None if temperature is None else f"{temperature:.0f}C",
        "EXECUTORS": hardware.executors(row),
        "SILENT": units.format_duration(row.get("silent_s")),
        "PROBLEMS": "; ".join(hardware.troubles(row, briefly=True)),
    }


@click.command(cls=Command)
@click.argument("name", metavar="NODE")
@json_option
@config_option
def show(name: str, as_json: bool) -> None:
    """Show all that is known of one node, and the tasks that run there.

    \b
    Example:
      hakuriver node show n1
    """
    river = share()
    found = facts(river, reading.nodes_index(river), name)
    if as_json:
        out_json(found)
        return
    for line in lines(name, found):
        out(line)
    if found["at"]:
        note(as_of(found["at"]))


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """The `facts` of a node, for people."""
    row, what = found["row"] or {}, found["description"] or {}
    load = row.get("load", {})
    rows: list[tuple[str, object]] = [
        ("node", name),
        ("state", row.get("state", "not heard of by a host yet")),
        ("host name", what.get("hostname")),
        ("version", what.get("version")),
        ("cores", f"{row.get('cores_held', 0)} held of {what.get('cores', row.get('cores', '?'))}"),
        ("memory", _of(row.get("memory_held_bytes", 0), what.get("memory_bytes"))),
        ("executors", " ".join(what.get("executors", ()))),
        ("can", " ".join(what.get("can", ()))),
        *(("cannot", f"{name}: {why}") for name, why in what.get("cannot", {}).items()),
        ("engines", ", ".join(f"{name} {version}" for name, version in what.get("engines", {}).items())),
        *((f"NUMA {numa['id']}", hardware.numa_line(numa)) for numa in what.get("numa", ())),
        *((f"GPU {gpu['index']}", hardware.gpu_line(gpu)) for gpu in row.get("gpus") or what.get("gpus", ())),
        ("CPU", f"{load.get('cpu_percent', 0):.0f}%"),
        ("load", rounded(load.get("load_1m"))),
        ("temperature", _temperature(load)),
        ("disk free", units.format_size(load.get("disk_free_bytes"))),
        ("runner since", when(what.get("started_at"))),
        ("silent for", units.format_duration(row.get("silent_s"))),
        *(("problem", text) for text in hardware.troubles(row)),
    ]  # fmt: skip
    rows += [("runs", task) for task in found["tasks"]]
    return pairs([(label, value) for label, value in rows if value not in (None, "", "-")])


def _temperature(load: dict[str, Any]) -> str | None:
    highest, average = load.get("temperature_c"), load.get("temperature_average_c")
    if highest is None or average is None:
        return None if highest is None else f"{highest:.0f}C"
    return f"{highest:.0f}C, {average:.0f}C on average"


def as_of(at: float) -> str:
    """When the host told, for people."""
    return f"as of {when(at)}, by the host's clock"


def _of(held: int, total: int | None) -> str:
    return f"{units.format_size(held)} held of {units.format_size(total)}"


def known(river: Share, index: dict[str, Any] | None) -> list[str]:
    """Names of all nodes, whether a host has heard of them or not."""
    return sorted({row["node"] for row in (index or {}).get("nodes", ())} | set(river.names(layout.NODES)))


def facts(river: Share, index: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """What index/nodes.json and the node's own files tell: `hakuriver schema node`. Raises NotFound."""
    row = next((row for row in (index or {}).get("nodes", ()) if row["node"] == name), None)
    names = known(river, index)
    if name not in names:
        raise NotFound(f"unknown node {clean(name)!r}; nodes known: {', '.join(names) or 'none'}")
    paths = NodePaths(name)
    epochs = [int(n[5:-5]) for n in river.names(paths.root) if n.startswith("node.") and n[5:-5].isdigit()]
    description = river.read_json(paths.description(max(epochs))) if epochs else None
    return {
        "at": index["at"] if index else None,
        "row": row,
        "description": description,
        "tasks": running_on(river, name),
    }


def running_on(river: Share, name: str) -> list[str]:
    """Tasks that the node's newest heartbeat tells."""
    directory = NodePaths(name).dir("heartbeat")
    beats = sorted(place for n in river.names(directory) if (place := layout.parse_entry(n)))
    data = river.open_listed(NodePaths(name).numbered("heartbeat", *beats[-1])) if beats else None
    try:
        tasks = json.loads(data)["tasks"] if data else []
    except (ValueError, KeyError, TypeError):
        return []
    return [task_name(job, k) for job, k, _ in tasks]


@click.command(cls=Command)
@click.argument("name", metavar="NODE")
@timeout_option(PATIENCE, "How long the answer is waited for.")
@json_option
@config_option
def drain(name: str, timeout: float, as_json: bool) -> int:
    """Take a node out of service: its tasks finish, nothing new starts there. For admins.

    \b
    Example:
      hakuriver node drain n1
    """
    return _ask("drain", name, timeout, as_json)


@click.command(cls=Command)
@click.argument("name", metavar="NODE")
@timeout_option(PATIENCE, "How long the answer is waited for.")
@json_option
@config_option
def resume(name: str, timeout: float, as_json: bool) -> int:
    """Take a drained node back. For admins.

    \b
    Example:
      hakuriver node resume n1
    """
    return _ask("undrain", name, timeout, as_json)


@click.command(cls=Command)
@click.argument("name", metavar="NODE")
@timeout_option(PATIENCE, "How long the answer is waited for.")
@json_option
@config_option
def forget(name: str, timeout: float, as_json: bool) -> int:
    """Forget a node that is gone for good: it must be offline and hold no task. For admins.

    \b
    Example:
      hakuriver node forget n1
    """
    return _ask("forget", name, timeout, as_json)


def _ask(kind: str, name: str, timeout: float, as_json: bool) -> int:
    if not layout.NODE_NAME.fullmatch(name):
        raise Invalid("NODE", name, "no node can have that name; `hakuriver node list` shows them")
    river = share()
    return report(river, kind, [ask(river, kind, [], timeout, node=name)], as_json)
