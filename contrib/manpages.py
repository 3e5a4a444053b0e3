"""Man pages from the commands and the settings: one for each command of `hakuriver`, with all that is below it.

click-man makes a page for each subcommand, with the date of the day, one name, and no examples, files, environment or
exit status; so the pages are written here. The macros are those of man(7) (groff_man(7)).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click
from commandtree import (
    Entry,
    Part,
    aliases,
    arguments,
    entries,
    example,
    first_sentence,
    members,
    option_label,
    options,
    parts,
)

from hakuriver import __version__
from hakuriver.cli.frame import DOTTED, OTHER_PROGRAMS
from hakuriver.cli.root import cli
from hakuriver.settings import section_text, settings_rows

CONFIG_PAGE = "hakuriver-config.toml"
#: What every command exits with, unless its text says more.
EXIT_STATUS = {
    "0": "done",
    "1": "refused, or something is in the way; the message on stderr says what, and what to do",
    "2": "the command line is wrong",
    "124": "waiting: a task was over its time limit",
    "125": "no host has answered in time, the request stays; waiting: a task was lost, refused, never launched, or "
    "without room and not to wait (--no-queue)",
    "other": "waiting: of the first that did not complete the task's own, or 128 + the signal that ended it",
    "130": "interrupted by Ctrl-C; what was asked for goes on",
    "137": "waiting: a task was over its memory limit",
}
ENVIRONMENT = {
    "HAKURIVER_CONFIG": "the configuration file, where --config names none",
    "HAKURIVER_SHARED_DIR": "where the share is mounted here; it goes over paths.shared_dir of the configuration",
    "HAKURIVER_CORES": "in a task: how many cores it has; hakurun --parallel starts no more at a time",
    "HAKURIVER_DEBUG": "if set, a fault in HakuRiver itself is shown with its traceback",
}
FILES = {
    "~/.hakuriver/config.toml": f"the configuration, where nothing else is named; see {CONFIG_PAGE}(5)",
    "~/.local/state/hakuriver": "local state of hosts and runners, unless paths.state_dir names another place",
    "SHARED_DIR/river.json": "what makes a directory on the share a river",
    "SHARED_DIR/incoming/": "job files and requests; a copy of a job file to here submits it",
    "SHARED_DIR/task_outputs/": "what tasks have written to stdout and stderr",
    "SHARED_DIR/www/index.html": "pages for a browser",
}


def man_pages() -> dict[str, str]:
    """Every page, by its file's name."""
    pages = {"hakuriver.1": _page(Entry("hakuriver", cli))}
    for noun, command in members(cli):
        name = page_name(noun)
        pages[f"{name}.1"] = _page(Entry(f"hakuriver {noun}", command))
        if noun in DOTTED:
            pages[f"hakuriver.{noun}.1"] = f".so man1/{name}.1\n"
    pages[f"{CONFIG_PAGE}.5"] = _configuration()
    return pages


def page_name(noun: str) -> str:
    """hakuriver-task; hakurun is called by its own name."""
    own = {noun: program for program, noun in OTHER_PROGRAMS.items()}
    return own.get(noun, f"hakuriver-{noun}")


# -- a page


def _page(page: Entry) -> str:
    command, noun = page.command, page.path.partition(" ")[2]
    name = page_name(noun) if noun else "hakuriver"
    what = first_sentence(command)
    examples = [part for part in parts(command.help) if part.kind == "example"]
    lines = [
        *_head(name, 1, what[0].lower() + what[1:]),
        *_section("Synopsis", _synopsis(page)),
        *_section("Description", _parts(part for part in parts(command.help) if part.kind != "example")),
        *_section("Options", _options(command)),
        *_section("Commands", _overview(page) if page.command is cli else _members(page)),
        *_section("Exit status", _terms(EXIT_STATUS)),
        *_section("Environment", _terms(ENVIRONMENT)),
        *_section("Files", _terms(FILES)),
        *_section("Examples", _parts(examples)),
        *_section("See also", _see_also(name)),
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, number: int, what: str) -> list[str]:
    title = f'.TH "{escaped(name.upper())}" "{number}" "" "HakuRiver {escaped(__version__)}" "HakuRiver"'
    return [title, ".nh", ".ad l", ".SH NAME", f"{escaped(name)} \\- {roff(what)}"]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return [f".SH {title.upper()}", *found] if found else []


def _synopsis(page: Entry) -> Iterator[str]:
    for number, name in enumerate(page.spellings):
        if number:
            yield ".br"
        yield f"\\fB{escaped(name)}\\fR {_italic(arguments(page.command))}".rstrip()


def _parts(found: Iterable[Part]) -> Iterator[str]:
    for part in found:
        yield ".PP"
        if part.kind == "text":
            yield _safe(roff(part.text))
            continue
        heading, lines = example(part) if part.kind == "example" else ("", part.text)
        if heading:
            yield from (_safe(roff(heading)), ".PP")
        yield from (".RS 4", ".EX", *(_safe(escaped(line)) for line in lines.splitlines()), ".EE", ".RE")


def _options(command: click.Command) -> Iterator[str]:
    for option in options(command):
        yield from (".TP", ", ".join(_option(name) for name in option_label(option)), _safe(roff(option.help or "")))
    yield from (".TP", f"{_option('-h')}, {_option('--help')}", "Show the help, and exit.")


def _option(label: str) -> str:
    name, _, value = label.partition(" ")
    return f"\\fB{escaped(name)}\\fR {_italic(value)}".rstrip()


def _overview(page: Entry) -> Iterator[str]:
    for noun, command in members(page.command):
        text = _safe(f"{roff(first_sentence(command))}; see {_reference(page_name(noun), 1)}.")
        yield from (".TP", f"\\fB{escaped(noun)}\\fR", text)


def _members(page: Entry) -> Iterator[str]:
    submit = next(command for name, command in members(cli) if name == "submit")
    for each in list(entries(page.command, page.path))[1:]:
        yield f'.SS "{escaped(each.path)}"'
        yield from _synopsis(each)
        if each.command is submit:
            yield from (".PP", f"The same command as {_reference('hakuriver-submit', 1)}.")
            continue
        yield from _parts(parts(each.command.help))
        yield from _options(each.command)
    others = aliases(page.command)
    for alias, name in others.items():
        yield from (".PP", f"\\fB{escaped(alias)}\\fR is another name of \\fB{escaped(name)}\\fR.")


def _terms(rows: dict[str, str]) -> Iterator[str]:
    for term, meaning in rows.items():
        yield from (".TP", f"\\fB{escaped(term)}\\fR", _safe(roff(sentence(meaning))))


def _see_also(own: str) -> Iterator[str]:
    names = ["hakuriver", *(page_name(noun) for noun, _ in members(cli))]
    pages = [_reference(name, 1) for name in names if name != own]
    yield ",\n".join([*pages, _reference(CONFIG_PAGE, 5)] if own != CONFIG_PAGE else pages)


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _reference(name: str, number: int) -> str:
    return f"\\fB{escaped(name)}\\fR({number})"


# -- the configuration's page


def _configuration() -> str:
    lines = _head(CONFIG_PAGE, 5, "configuration of HakuRiver")
    lines += _section("Synopsis", ["\\fB~/.hakuriver/config.toml\\fR"])
    lines += _section("Description", [".PP", _safe(roff(_ABOUT))])
    section = None
    for row in settings_rows():
        if row.section != section:
            section = row.section
            lines += [f'.SS "[{escaped(section)}]"', _safe(roff(sentence(section_text(section))))]
        lines += [".TP", f"\\fB{escaped(row.key)}\\fR = {_italic(row.kind)}", _safe(roff(sentence(row.description)))]
        lines += [f"Default: {escaped(row.default)}."] if row.default else []
    lines += _section("Environment", _terms(ENVIRONMENT))
    lines += _section("Files", _terms(FILES))
    lines += _section("See also", _see_also(CONFIG_PAGE))
    return "\n".join(lines) + "\n"


_ABOUT = (
    "A file in TOML, of sections in brackets and of keys with values. Every key may be left out. Unknown keys are "
    "refused. Times are seconds, or text such as 90s, 30m or 7d; sizes are bytes, or text such as 4G or 4Gi. "
    "`hakuriver init config` writes a file in which every key is explained, `hakuriver config show` tells what applies."
)


# -- roff


def escaped(text: str) -> str:
    """Text in which no character means anything to roff, but at the beginning of a line."""
    special = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
    return "".join(special.get(c, c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text)


def roff(text: str) -> str:
    """A paragraph; what stands between backticks in bold."""
    return re.sub(r"\\\(ga(.*?)\\\(ga", r"\\fB\1\\fR", escaped(text))


def _safe(line: str) -> str:
    return f"\\&{line}" if line.startswith(".") else line


def _italic(text: str) -> str:
    """Words that stand for something; brackets, bars and dots are no part of them."""
    pieces = re.split(r"([A-Za-z][\w-]*)", text)
    return "".join(f"\\fI{escaped(p)}\\fR" if number % 2 else escaped(p) for number, p in enumerate(pieces))
