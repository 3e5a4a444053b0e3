"""`hakuriver client`: what users of earlier versions type, by commands that are there under other names, too.

0.2 and 0.3 had commands (`client status ID`), 0.1 and 0.2 options alone (`hakuriver.client --status ID`). The latter
are translated before anything is parsed, and a hint names the present form.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

import click

from hakuriver import reading
from hakuriver.cli.common import clean, config_option, json_option, note, out, out_json, share
from hakuriver.cli.frame import Command, LazyGroup

#: Of each option that is a command by itself: the command of this group, and the present form.
_FORMS = {
    "--list-nodes": (["nodes"], ["node", "list"]),
    "--health": (["health"], ["client", "health"]),
    "--status": (["status"], ["task", "status"]),
    "--kill": (["kill"], ["task", "kill"]),
}
#: Options that the flat form of a submission had: with one of them, or with --, something is submitted.
_SUBMITS = (
    "--target", "--cores", "--memory", "--env", "--container", "--privileged", "--mount", "--wait", "--poll-interval",
    "--private-network", "--private-pid",
)  # fmt: skip
_ONE_OF = "give one of --list-nodes, --health, --status, --kill, or -- COMMAND with options of `hakuriver submit`"


class Present(NamedTuple):
    """What an old form is now."""

    words: list[str]  #: for the group `client`
    form: list[str]  #: as it is to be typed from now on


def translate(typed: Sequence[str]) -> Present | None:
    """Arguments of `hakuriver.client` in the form of 0.1, made into present ones; None: they are not in that form.

    Raises UsageError for what never went together.
    """
    end = typed.index("--") if "--" in typed else len(typed)
    head, command = list(typed[:end]), list(typed[end:])
    if not _begins_with_option(head) and not (command and _first(head) is None):
        return None
    found, rest = _split(head)
    used = [option for option, _ in found] + [option for option in _SUBMITS if _has(rest, option)][:1]
    if command and not (used and used[-1] in _SUBMITS):
        used.append("-- COMMAND")
    if len(used) > 1:
        raise click.UsageError(f"{used[0]} and {used[1]} do not go together: {_ONE_OF}")
    if found:
        words, form = _FORMS[found[0][0]]
        more = _value(*found[0]) + rest
        return Present(words + more, ["hakuriver", *form, *more])
    return Present(["submit", *rest, *command], ["hakuriver", "submit", *rest, *command]) if used else None


def _first(head: list[str]) -> str | None:
    """The first word but for --config and its value."""
    words = iter(head)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("--config="):
            return word
    return None


def _begins_with_option(head: list[str]) -> bool:
    first = _first(head)
    return first is not None and first.startswith("-") and first not in ("-h", "--help")


def _split(head: list[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The options that are commands by themselves, each with its value if it has one; and all other words."""
    found: list[tuple[str, str | None]] = []
    rest: list[str] = []
    at = 0
    while at < len(head):
        option, equals, value = head[at].partition("=")
        at += 1
        if option not in _FORMS:
            rest.append(head[at - 1])
        elif equals:
            found.append((option, value))
        elif option != "--list-nodes" and at < len(head) and not head[at].startswith("-"):
            found.append((option, head[at]))
            at += 1
        else:
            found.append((option, None))
    return found, rest


def _value(option: str, value: str | None) -> list[str]:
    if option == "--list-nodes" and value is not None:
        raise click.UsageError("--list-nodes takes no value")
    if option in ("--status", "--kill") and value is None:
        raise click.UsageError(f"{option} needs an ID, as {option} 5678")
    return [] if value is None else [value]


def _has(words: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)


class _OldForms(LazyGroup):
    """Understands the options of 0.1 as the commands that they are now."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Translate, and hint at the present form."""
        try:
            present = None if ctx.resilient_parsing else translate(args)
        except click.UsageError as error:
            error.ctx = ctx
            raise
        if present:
            note(f"hint: the present form is `{clean(shlex.join(present.form))}`")
        return super().parse_args(ctx, present.words if present else args)


@click.group(
    cls=_OldForms,
    lazy={
        "nodes": "node:list_nodes",
        "health": "old_client:health",
        "submit": "submit:submit",
        "status": "task_status:status",
        "kill": "task_control:kill",
        "command": "old_task:command",
    },
)
@click.option("--list-nodes", is_flag=True, expose_value=False, help="Of 0.1: now `hakuriver node list`.")
@click.option("--health", metavar="[NODE]", expose_value=False, help="Of 0.1: now `hakuriver client health`.")
@click.option("--status", metavar="ID", expose_value=False, help="Of 0.1: now `hakuriver task status`.")
@click.option("--kill", metavar="ID", expose_value=False, help="Of 0.1: now `hakuriver task kill`.")
@click.option(
    "--target", metavar="NODE", expose_value=False,
    help="Of 0.1, with all that `hakuriver submit` takes and -- COMMAND: now that.",
)  # fmt: skip
@config_option
def client() -> None:
    """What earlier versions had: nodes, tasks and jobs under the names that scripts still use.

    The options below, but for --config, are commands of 0.1 and 0.2; each works, and says what it is called now.

    \b
    Example:
      hakuriver client nodes
      hakuriver client --list-nodes
      hakuriver client --target n1 --cores 2 -- ./part.sh
    """


@click.command(cls=Command)
@click.argument("name", metavar="[NODE]", required=False)
@json_option
@config_option
def health(name: str | None, as_json: bool) -> None:
    """Show all that is known of one node or of each, and the tasks that run there, as `hakuriver node show` does.

    \b
    Example:
      hakuriver client health
      hakuriver client health n1
    """
    from hakuriver.cli import node

    river = share()
    index = reading.nodes_index(river)
    names = [name] if name is not None else node.known(river, index)
    found = {each: node.facts(river, index, each) for each in names}
    if as_json:
        out_json({"nodes": [{"node": each, **facts} for each, facts in found.items()]})
        return
    for number, (each, facts) in enumerate(found.items()):
        for line in [""] * bool(number) + node.lines(each, facts):
            out(line)
    if not found:
        note(node.NONE_YET)
    elif index:
        note(node.as_of(index["at"]))
