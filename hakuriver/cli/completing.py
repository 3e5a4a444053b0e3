"""What a shell is told when Tab is pressed.

It calls the program with _HAKURIVER_COMPLETE set and the words as arguments, the one to be completed last. For each
completion a line comes back: `plain`, a value and a word about it, with tabs between them; or `file`, `dir`, `command`,
where the shell knows best. No error is ever told, and a share that does not answer is not waited for.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, _resolve_context, _resolve_incomplete

from hakuriver.spool.access import Share

#: Seconds after which the kernel ends us: somebody waits at a keyboard.
PATIENCE_S = 2.0
#: Jobs that are offered.
JOBS_MOST = 100

if TYPE_CHECKING:
    Items = Iterator[CompletionItem[str]]  # not subscriptable before click 8.2


def complete(command: click.Command, program: str, words: list[str]) -> int:
    """Print the completions of the last word."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    *before, unfinished = words or [""]
    try:
        for item in completions(command, program, before, unfinished):
            sys.stdout.write(f"{item.type}\t{item.value}\t{_one_line(item.help or '')}\n")
    except Exception:
        pass  # whoever presses Tab wants no message in the middle of a line; running the command tells it
    return 0


def completions(command: click.Command, program: str, before: list[str], unfinished: str) -> list[CompletionItem[str]]:
    """What the unfinished word may become after those before it."""
    context = _resolve_context(command, {}, program, before)
    wanted, unfinished = _resolve_incomplete(context, list(before), unfinished)
    finder = _finder(wanted) if isinstance(wanted, click.Parameter) else None
    if finder is None:
        return wanted.shell_complete(context, unfinished)
    if finder is _program and not unfinished and "--" not in before:
        return context.command.shell_complete(context, "--")  # every program there is would be of no help
    return [item for item in finder(context) if item.type != "plain" or str(item.value).startswith(unfinished)]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _finder(parameter: click.Parameter) -> Callable[[click.Context], Items] | None:
    for name in parameter.opts:
        if name in BY_OPTION:
            return BY_OPTION[name]
    return BY_METAVAR.get(parameter.metavar or "")


# -- what there is


def _river(context: click.Context) -> Share:
    from hakuriver import config

    return Share(config.shared_dir(context.find_root().meta.get("hakuriver.config"))).check()


def _nodes(context: click.Context) -> Items:
    from hakuriver import reading

    for row in (reading.nodes_index(_river(context)) or {}).get("nodes", ()):
        yield CompletionItem(row["node"], help=row["state"])


def _jobs(context: click.Context) -> Items:
    """Those that are not over first, each newest first; only those of which the command can make something."""
    from hakuriver import listing, reading

    rows = listing.rows(_river(context), listing.Wanted(), JOBS_MOST)
    over = [row for row in rows if row["state"] in (*reading.FINAL, "refused")]
    going = [row for row in rows if row not in over]
    chosen = {"kill": going, "pause": going, "resume": going, "requeue": over}
    for row in chosen.get(context.info_name or "", [*going, *over]):
        yield CompletionItem(row["job"], help=f"{row['state']}  {row['name'] or row['command']}"[:60])


def _environments_index(context: click.Context) -> dict[str, Any]:
    from hakuriver.spool import layout

    return _river(context).read_json(layout.ENVIRONMENTS_INDEX) or {}


def _containers(context: click.Context) -> Items:
    for row in _environments_index(context).get("containers", ()):
        yield CompletionItem(row["environment"], help=row["state"])


def _packages(context: click.Context) -> Items:
    rows = _environments_index(context).get("packages", ())
    for name in dict.fromkeys([row["environment"] for row in rows] + [row["name"] for row in rows]):
        yield CompletionItem(name)


def _environments(context: click.Context) -> Items:
    yield CompletionItem("NULL", help="no container")
    for name in dict.fromkeys(row["environment"] for row in _environments_index(context).get("packages", ())):
        yield CompletionItem(name)


def _executors(_context: click.Context) -> Items:
    from hakuriver.checks import EXECUTORS

    for name in EXECUTORS:
        yield CompletionItem(name)


def _files(_context: click.Context) -> Items:
    yield CompletionItem("", type="file")


def _directories(_context: click.Context) -> Items:
    yield CompletionItem("", type="dir")


def _program(context: click.Context) -> Items:
    """The first word of a command is a program, what follows may be files."""
    begun = any(context.params.get(str(p.name)) for p in context.command.params if isinstance(p, click.Argument))
    yield CompletionItem("", type="file" if begun else "command")


BY_OPTION = {"--container": _environments, "--executor": _executors}
#: What the name of a value says.
BY_METAVAR = {
    "NODE": _nodes,
    "[NODE]": _nodes,
    "NODE[:NUMA][::GPUS]": _nodes,
    "ID": _jobs,
    "ID...": _jobs,
    "[ID]...": _jobs,
    "ENV": _containers,
    "ENV|PACKAGE": _packages,
    "FILE": _files,
    "FILE...": _files,
    "DIR": _directories,
    "-- COMMAND [ARGS]...": _program,
    "[--] TARGET [ARGS]...": _program,
}
