"""Our commands in pieces of shell: found, and compared with those that there are, without running them.

Values are not looked at, but for those of a fixed set; words in capitals or in angle brackets are places for values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import click
from commandtree import entries

from hakuriver.cli.completion import PROGRAMS
from hakuriver.cli.frame import LazyGroup, load, noun_of
from hakuriver.cli.root import cli

_TOKEN = re.compile(
    r"""(?P<space>(?:\s(?<!\n)|\\\n)+)|(?P<comment>(?:(?<=\s)|^)\#[^\n]*)|(?P<operator>[;&|()<>\n]+)
    |(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s;&|()<>'"\\])+)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_HERE_DOCUMENT = re.compile(r"(<<-?\s*(['\"]?)(\w+)\2[^\n]*\n).*?\n\s*\3(?=\n|$)", re.DOTALL)
_PLACE = re.compile(r"[A-Z][A-Z0-9_]*|.*(\.\.\.|…).*|<.*")
#: Commands of which our programs' names are only arguments.
_OF_OTHERS = frozenset(
    {"apt", "apt-get", "cat", "echo", "grep", "journalctl", "ls", "man", "pgrep", "pip", "pipx", "printf", "systemctl"}
)


class Use(NamedTuple):
    """A command line of ours."""

    text: str
    command: click.Command | None
    options: frozenset[str]  #: parameters that it sets
    problems: list[str]


def uses(shell: str) -> Iterator[Use]:
    """Every command line of ours in a piece of shell."""
    shell = _HERE_DOCUMENT.sub(r"\1", shell)
    words: list[str] = []
    for token in [*_TOKEN.finditer(shell), None]:
        kind = token.lastgroup if token else "operator"
        if token and kind == "word":
            for inner in re.findall(r"\$\((.*)\)", token[0], re.DOTALL):
                yield from uses(inner)
            words.append(re.sub(r"['\"]", "", token[0]))
        elif kind == "operator":
            yield from _simple(words)
            words = []


def _simple(words: list[str]) -> Iterator[Use]:
    if words and words[0] in _OF_OTHERS:
        return
    for number, word in enumerate(words):
        directory, _, name = word.rpartition("/")
        if number and words[number - 1] == "-u":
            continue  # a user of that name, whom sudo is to run the next word as
        if is_ours(name) and directory.rpartition("/")[2] in ("", "bin"):
            yield read(name, words[number + 1 :])
            return


def is_ours(name: str) -> bool:
    """Whether a word is, or claims to be, one of our programs."""
    return name in PROGRAMS or re.fullmatch(r"hakuriver\.[a-z-]+", name) is not None


def read(program: str, words: list[str]) -> Use:
    """Compare one command line with what there is."""
    noun = noun_of(program)
    if program not in PROGRAMS:
        return Use(program, None, frozenset(), [f"there is no program {program}"])
    return _Reading(program, words).follow(load(cli.lazy[noun]) if noun else cli)


class _Reading:
    def __init__(self, program: str, words: list[str]) -> None:
        self.text = " ".join([program, *words])
        self.path = program
        self.words = [word.strip("[],") or word for word in words]
        self.all_words = tuple(self.words)
        self.options: set[str] = set()
        self.problems: list[str] = []

    def follow(self, command: click.Command) -> Use:
        """Go down from a group to the command that is named, reading options on the way."""
        while isinstance(command, click.Group):
            name = self._to_next_word(command)
            inner = self._member(command, name)
            if inner is None:
                return self._use(command)
            self.path, command = f"{self.path} {name}", inner
        stops = command.context_settings.get("allow_interspersed_args") is False
        while self._to_next_word(command) is not None and not stops:
            pass
        return self._use(command)

    def _use(self, command: click.Command) -> Use:
        return Use(self.text, command, frozenset(self.options), self.problems)

    def _member(self, group: click.Group, name: str | None) -> click.Command | None:
        if name is None or _PLACE.fullmatch(name):
            return None
        known = {*group.list_commands(click.Context(group)), *(group.aliases if isinstance(group, LazyGroup) else ())}
        if name in known:
            return group.get_command(click.Context(group), name)
        self.problems.append(f"`{self.text}`: {self.path} has no command {name}")
        return None

    def _to_next_word(self, command: click.Command) -> str | None:
        """Take options; the next word that is none, or None at the end of what is ours."""
        known = {name: p for p in self._parameters(command) for name in (*p.opts, *p.secondary_opts)}
        while self.words:
            word = self.words.pop(0)
            if word == "--":
                self.words = []
            elif word.startswith("--"):
                self._long(known, word)
            elif re.match(r"-[a-zA-Z]", word):
                self._short(known, word)
            else:
                return word
        return None

    def _parameters(self, command: click.Command) -> list[click.Parameter]:
        """Those of a command; `hakurun --submit`, and a submission as 0.1 had it, take what `submit` takes."""
        borrows = {"hakurun": {"--submit"}, "client": {"--target", "--"}}.get(command.name or "", set())
        submit = load(cli.lazy["submit"]).params if borrows & {*self.all_words} else []
        return [*submit, *command.params]

    def _long(self, known: dict[str, click.Parameter], word: str) -> None:
        name, equals, value = word.partition("=")
        parameter = self._option(known, name)
        if parameter is not None and _takes_value(parameter):
            self._value(parameter, value if equals else self._next())

    def _short(self, known: dict[str, click.Parameter], word: str) -> None:
        for at, letter in enumerate(word[1:], 2):
            parameter = self._option(known, f"-{letter}")
            if parameter is None:
                return
            if _takes_value(parameter):
                self._value(parameter, word[at:] or self._next())
                return

    def _option(self, known: dict[str, click.Parameter], name: str) -> click.Parameter | None:
        if name in ("-h", "--help"):
            return None
        if name not in known:
            self.problems.append(f"`{self.text}`: {self.path} has no option {name}")
            self.words = []  # whether the next word is its value nobody knows
            return None
        self.options.add(str(known[name].name))
        return known[name]

    def _next(self) -> str | None:
        return self.words.pop(0) if self.words else None

    def _value(self, parameter: click.Parameter, value: str | None) -> None:
        if value is None and not (parameter.metavar or "").startswith("["):
            self.problems.append(f"`{self.text}`: {parameter.opts[0]} is without a value")
        elif value is not None and isinstance(parameter.type, click.Choice) and not _fits(parameter.type, value):
            self.problems.append(f"`{self.text}`: {parameter.opts[0]} cannot be {value}")


def _fits(choice: click.Choice[str], value: str) -> bool:
    return _PLACE.fullmatch(value) is not None or "$" in value or value in {str(each) for each in choice.choices}


def _takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.count


def problems(shell: str) -> list[str]:
    """What is wrong with the command lines of ours in a piece of shell."""
    return [problem for use in uses(shell) for problem in use.problems]


def shown_in_help() -> list[Use]:
    """The command lines that the help texts show as examples."""
    return [use for each in entries() for use in uses((each.command.help or "").partition("Example")[2])]
