"""`hakuriver up`: a cluster of one machine, in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from hakuriver import config, reading
from hakuriver.cli.common import chosen_config, config_option, directory, note, out
from hakuriver.cli.frame import Command
from hakuriver.cli.live import View
from hakuriver.cli.supervising import Child, stop_all
from hakuriver.daemons import catch_signals
from hakuriver.errors import HakuRiverError
from hakuriver.ids import task_name
from hakuriver.reading import NODE, STATE, K
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: Seconds between two looks at the children.
MIND_S = 0.2
NODES_MOST = 64
#: Tasks that are named when they go on without us.
TASKS_NAMED = 10


class CannotStart(HakuRiverError):
    """{what is in the way}; {remedy}."""


class Size(NamedTuple):
    """How large the cluster is; kept in the state directory, so that `up` again takes up the same."""

    nodes: int
    cores: int  #: of each node


@click.command(cls=Command)
@click.option("--shared-dir", required=True, metavar="DIR", help="The river; made if there is no such directory.")
@click.option("--nodes", type=click.IntRange(1, NODES_MOST), metavar="N", help="Runners.  [as the last time, else 1]")
@click.option("--cores", type=click.IntRange(1), metavar="C", help="Cores of each node.  [this machine's, divided]")
@config_option
def up(shared_dir: str, nodes: int | None, cores: int | None) -> int:
    """Run a cluster of this machine alone: a host and N runners, with a view of what they do. Ctrl-C stops it.

    Tasks that run when it is stopped go on under their keepers; started again, it goes on where it was. A daemon
    that dies is started again. Tasks that do not say how are plain processes, unless the configuration has
    scheduling.executor.

    \b
    Example:
      hakuriver up --shared-dir ~/river --nodes 2 --cores 4
    """
    root = directory(shared_dir)
    table, state_dir = _configuration()
    river = _river(root)
    found = river.read_json(layout.SENTINEL) or {}
    base = os.path.join(state_dir, f"up-{found.get('cluster_id', 'unknown')}")
    os.makedirs(base, mode=0o700, exist_ok=True)
    with _only_one(base):
        size = _size(base, nodes, cores)
        children = _children(river, base, size, table)
        return _run(river, str(found.get("cluster")), children)


def _configuration() -> tuple[dict[str, Any], str]:
    """What the configuration says, checked before anything is made, and its state directory."""
    from hakuriver.settings import parse

    path = config.config_file(chosen_config())
    table = config.read_table(path)
    return table, parse(table, path or "defaults").paths.state_dir


def _river(root: str) -> Share:
    if not os.path.lexists(root):
        from hakuriver.cli.making import make_river

        make_river(root, None)
    elif layout.SENTINEL not in Share(root).names(""):
        raise CannotStart(
            f"{root} is there and is no river (it holds no {layout.SENTINEL}): name a directory that is not there "
            f"yet, or make a river in this one with `hakuriver init share --shared-dir {root}`"
        )
    return Share(root).check()


@contextlib.contextmanager
def _only_one(base: str) -> Iterator[None]:
    """Holds the state directory: a second `up` of the same river on this machine is refused."""
    fd = os.open(os.path.join(base, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart("`hakuriver up` runs for this river on this machine already: stop that one first") from None


def _size(base: str, nodes: int | None, cores: int | None) -> Size:
    path = os.path.join(base, "size.json")
    try:
        with open(path) as file:
            last = json.load(file)
    except (OSError, ValueError):
        last = {}
    count = nodes or last.get("nodes") or 1
    kept = last.get("cores") if count == last.get("nodes") else None
    size = Size(count, cores or kept or max(1, len(os.sched_getaffinity(0)) // count))
    with open(path, "w") as file:
        json.dump(size._asdict(), file)
    return size


def _children(river: Share, base: str, size: Size, table: dict[str, Any]) -> list[Child]:
    """The host and the runners, each with a configuration of its own, made from the table."""
    from hakuriver.settings import default_node_name

    given = table.get("node", {})
    stem = given.get("name") if isinstance(given, dict) and given.get("name") else default_node_name()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // size.nodes
    children = [_child("host", ["host"], river, base, table, {})]
    for number in range(1, size.nodes + 1):
        name = f"{str(stem)[:58]}-{number}"
        resources = {"memory": memory, **table.get("resources", {}), "cores": size.cores}
        children.append(_child(name, ["runner"], river, base, table, {"node": {"name": name}, "resources": resources}))
    return children


def _child(
    name: str, arguments: list[str], river: Share, base: str, table: dict[str, Any], more: dict[str, Any]
) -> Child:
    from hakuriver.settings import parse
    from hakuriver.tomltext import toml

    state = os.path.join(base, name)
    os.makedirs(state, mode=0o700, exist_ok=True)
    paths = {**table.get("paths", {}), "shared_dir": river.root, "state_dir": state}
    scheduling = {"executor": "process", **table.get("scheduling", {})}
    own = {**table, "paths": paths, "scheduling": scheduling, **more}
    parse(own, f"the configuration of {name}")
    path = os.path.join(state, "config.toml")
    with open(path, "w") as file:
        file.write("# Written anew by each `hakuriver up`.\n" + toml(own))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HAKURIVER_")}
    return Child(name, ["--config", path, *arguments], base, environment)


def _run(river: Share, cluster: str, children: list[Child]) -> int:
    # At a second signal the children get TERM from the kernel when we go.
    stop, _ = catch_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), 130)
    pages = f"file://{river.path(layout.WWW)}/index.html"
    view = View(river, f"river {cluster} at {river.root}   pages: {pages}   Ctrl-C stops")
    while True:
        now = time.monotonic()
        for child in children:
            child.mind(now, view.say)
        _look(view, now)
        if select.select([stop], [], [], MIND_S)[0]:
            break
    view.leave()
    note("stopping")
    for name in stop_all(children):
        note(f"{name} did not stop in time and was killed; nothing accepted is lost")
    _tell_what_goes_on(river, {child.name for child in children})
    return 0


def _look(view: View, now: float) -> None:
    try:
        view.look(now)
    except HakuRiverError as error:
        view.say(str(error))


def _tell_what_goes_on(river: Share, nodes: set[str]) -> None:
    try:
        tasks = sorted(_running(river, nodes))
    except HakuRiverError as error:
        note(str(error))
        return
    again = f"`hakuriver up --shared-dir {river.root}`"
    if not tasks:
        out(f"stopped; {again} goes on where it was")
        return
    named = ", ".join(tasks[:TASKS_NAMED]) + (
        f" and {len(tasks) - TASKS_NAMED} more" if len(tasks) > TASKS_NAMED else ""
    )
    out(f"stopped; {again} takes up again what goes on under its keeper: {named}")
    sys.stdout.flush()


def _running(river: Share, nodes: set[str]) -> set[str]:
    """Tasks that were running there, by the jobs' last snapshots."""
    found = set()
    for job, place in reading.unfinished(river):
        snapshot = reading.read_snapshot(river, job, place)
        for row in snapshot["tasks"] if snapshot else ():
            if row[STATE] in ("running", "paused") and row[NODE] in nodes:
                found.add(task_name(job, row[K]))
    return found
