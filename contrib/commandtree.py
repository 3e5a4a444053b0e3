"""The commands as they are: walked for the reference, the man pages, and the tests over the documents.

Everything comes from click's objects, never from rendered help, which depends on click's version and on the terminal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import click

from hakuriver.cli.frame import LazyGroup, other_spelling
from hakuriver.cli.root import cli

#: A line of an example, or of any text that is kept as it is written, that is a command.
COMMAND_LINE = re.compile(r"\bhakur(iver|un)\b")


class Entry(NamedTuple):
    """A command or group under its name."""

    path: str  #: hakuriver task list
    command: click.Command

    @property
    def other(self) -> str | None:
        """Its other name: hakuriver.task list."""
        return other_spelling(self.path)

    @property
    def spellings(self) -> list[str]:
        """Both names."""
        return [self.path, *([self.other] if self.other else [])]


class Part(NamedTuple):
    """A piece of a help text."""

    kind: str  #: text: one paragraph; lines: kept as written; example: commands
    text: str


def entries(command: click.Command = cli, path: str = "hakuriver") -> Iterator[Entry]:
    """Every command, groups before what is in them, in the order in which `--help` lists them."""
    yield Entry(path, command)
    for name, inner in members(command):
        yield from entries(inner, f"{path} {name}")


def members(command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """What is in a group, by name; nothing of what is no group."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (inner := command.get_command(context, name)) and not inner.hidden:
                yield name, inner


def aliases(command: click.Command) -> dict[str, str]:
    """Other names of what is in a group."""
    return command.aliases if isinstance(command, LazyGroup) else {}


def options(command: click.Command) -> list[click.Option]:
    """The options that are shown, without --help."""
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def option_label(option: click.Option) -> list[str]:
    """The names of an option, with its value: -t NODE, --target NODE as ["-t", "--target NODE"]."""
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag or option.count else f" {metavar(option)}"
    return [*names[:-1], names[-1] + value]


def metavar(parameter: click.Parameter) -> str:
    """What stands for a value."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(str(choice) for choice in parameter.type.choices)
    if isinstance(parameter, click.Argument):
        return str(parameter.name).upper()
    return "N" if isinstance(parameter.type, click.types.IntParamType) else parameter.type.name.upper()


def arguments(command: click.Command) -> str:
    """What follows a command's name: [OPTIONS] [ID]..."""
    words = ["[OPTIONS]"] if options(command) else []
    words += [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    if isinstance(command, click.Group):
        words.append("[COMMAND [ARGS]...]" if command.invoke_without_command else "COMMAND [ARGS]...")
    return " ".join(words)


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    name = metavar(argument) if argument.required else f"[{metavar(argument)}]"
    return f"{name}..." if argument.nargs == -1 else name


def parts(text: str | None) -> Iterator[Part]:
    r"""A help text in pieces: click keeps the lines of those that begin with \b."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc((text or "").partition("\f")[0])):
        mark, _, rest = paragraph.partition("\n")
        if mark.strip() != "\b":
            yield Part("text", " ".join(paragraph.split()))
        elif rest.startswith("Example"):
            yield Part("example", rest)
        else:
            yield Part("lines", _dedented(rest))


def _dedented(text: str) -> str:
    lines = text.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:].rstrip() for line in lines)


def example(part: Part) -> tuple[str, str]:
    """The heading of an example, and its lines."""
    heading, _, lines = part.text.partition("\n")
    return heading.strip(), _dedented(lines)


def first_sentence(command: click.Command) -> str:
    """What a command does, in a line."""
    text = next(parts(command.help)).text
    return text.partition(". ")[0].partition(": ")[0].rstrip(".:")
