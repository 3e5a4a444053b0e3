"""What commands and groups have in common: they load when used, and show under which names they can be called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

#: For every program.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

#: Characters of a first sentence.
SENTENCE_MOST = 200
#: Groups and commands that are programs of their own, too: `hakuriver.task` is `hakuriver task`.
DOTTED = ("host", "runner", "client", "task", "vps", "docker", "docker-shell", "ssh", "init")
#: Programs whose name is none of these.
OTHER_PROGRAMS = {"hakurun": "hakurun"}


def noun_of(program: str) -> str | None:
    """What `hakuriver` calls what this program runs; None: it is `hakuriver` itself, under whatever name."""
    first, _, noun = program.partition(".")
    return noun if first == "hakuriver" and noun in DOTTED else OTHER_PROGRAMS.get(program)


def load(place: str) -> click.Command:
    """Import the command at `module:name`."""
    module, _, name = place.partition(":")
    command: click.Command = getattr(import_module(f"hakuriver.cli.{module}"), name)
    return command


def other_spelling(path: str) -> str | None:
    """The other name of a command: `hakuriver.task list` of `hakuriver task list`, and back. None: it has no other."""
    program, _, rest = path.partition(" ")
    if own := noun_of(program):
        return _joined("hakuriver", own, rest)
    if rest.split(" ")[0] == "submit":
        return _joined("hakuriver.task", rest)
    noun, _, more = rest.partition(" ")
    by_noun = {noun: program for program, noun in OTHER_PROGRAMS.items()}
    if noun in by_noun:
        return _joined(by_noun[noun], more)
    return _joined(f"hakuriver.{noun}", more) if noun in DOTTED else None


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _write_usage(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    arguments = " ".join(command.collect_usage_pieces(context))
    formatter.write_usage(context.command_path, arguments)
    if other := other_spelling(context.command_path):
        formatter.write_usage(other, arguments, prefix="   or: ")


class Command(click.Command):
    """A command that shows both of its names."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A line for each name."""
        _write_usage(self, ctx, formatter)


class LazyGroup(click.Group):
    """A group whose commands are `module:name` until they are needed; it shows both of its names.

    `aliases`: other names of its commands, which work and are not listed.
    """

    def __init__(
        self, *args: object, lazy: dict[str, str], aliases: dict[str, str] | None = None, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lazy = lazy
        self.aliases = aliases or {}

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A line for each name."""
        _write_usage(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of each, whole."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(SENTENCE_MOST)) for name, each in commands if each])

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order in which they are written down."""
        return list(self.lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load it."""
        place = self.lazy.get(self.aliases.get(cmd_name, cmd_name))
        return load(place) if place else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command if there is none of that name."""
        known = (*self.lazy, *self.aliases)
        if args and args[0] not in known and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], known, n=1, cutoff=0.0)[0]
            ctx.fail(f"there is no command {args[0]!r}; the nearest is {near!r}")
        return super().resolve_command(ctx, args)
