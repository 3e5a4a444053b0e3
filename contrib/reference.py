"""``reference.py [ROOT]``: write what is made from the code: reference pages, man pages, files for shell completion.

ROOT is the directory that holds docs/, this project's if nothing else is said. Nothing of the machine at hand, of the
day, or of the version of any library goes into the files. `make docs` runs it; a test fails when they are out of date.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from commandtree import (
    COMMAND_LINE,
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
from manpages import ENVIRONMENT, EXIT_STATUS, man_pages, sentence

from hakuriver.cli.completion import PROGRAMS, script
from hakuriver.settings import SettingsRow, section_text, settings_rows

#: The first line of generated pages.
GENERATED = "<!-- Made from the code by `make docs`: change the code, not this. -->"
#: Directories in which every file is made.
WHOLE = ("docs/man", "docs/completions")


def documents() -> dict[str, str]:
    """Every generated file, by its path."""
    return {
        "docs/reference-commands.md": commands_page(),
        "docs/reference-configuration.md": configuration_page(),
        **{f"docs/man/man{name[-1]}/{name}": text for name, text in man_pages().items()},
        **completion_files(),
    }


# -- commands


def commands_page() -> str:
    """docs/reference-commands.md."""
    everything = list(entries())
    lines = [GENERATED, "# Commands", "", *COMMANDS_INTRODUCTION]
    seen: dict[int, Entry] = {}
    for each in everything:
        lines += ["", *_section(each, seen.get(id(each.command)))]
        seen.setdefault(id(each.command), each)
    lines += ["", "## Exit status", "", *_definitions("Status", EXIT_STATUS)]
    lines += ["", "## Environment variables", "", *_definitions("Variable", ENVIRONMENT)]
    return "\n".join(lines) + "\n"


COMMANDS_INTRODUCTION = """
Every command has `-h` and `--help`, which show what stands here. Many have a second name, with a dot: both are the
same program. `--config FILE` may stand before the command's name as well as after it. Words in capitals stand for
values, what is in brackets may be left out, and `...` says that more may follow. Times are written as `90`, `90s`,
`30m`, `2h30m` or `7d`, sizes as `512M`, `4G` (1000 based) or `4Gi`.
""".strip().splitlines()


def _link(each: Entry) -> str:
    return f"[`{each.path}`](#{each.path.replace(' ', '-')})"


def _section(each: Entry, twin: Entry | None) -> Iterator[str]:
    level = "##" if each.path.count(" ") < 2 else "###"
    yield from (f"{level} {each.path}", "", "```text")
    yield from (f"{name} {arguments(each.command)}".rstrip() for name in each.spellings)
    yield "```"
    if twin:
        yield from ("", f"The same command as {_link(twin)}.")
        return
    for part in parts(each.command.help):
        yield from ("", *_part(part))
    yield from _members(each)
    yield from _options(each.command)


def _part(part: Part) -> Iterator[str]:
    if part.kind == "text":
        yield markdown(part.text)
        return
    heading, lines = example(part) if part.kind == "example" else ("", part.text)
    if heading:
        yield from (heading, "")
    yield from ("```sh example" if COMMAND_LINE.search(lines) else "```text", lines, "```")


def _members(each: Entry) -> Iterator[str]:
    if isinstance(each.command, click.Group):
        yield from ("", "| Command | What it does |", "|--|--|")
        for name, inner in members(each.command):
            yield f"| {_link(Entry(f'{each.path} {name}', inner))} | {cell(first_sentence(inner))} |"
        for alias, name in aliases(each.command).items():
            yield f"| `{each.path} {alias}` | another name of `{name}` |"


def _options(command: click.Command) -> Iterator[str]:
    if found := options(command):
        yield from ("", "| Option | Meaning |", "|--|--|")
        for option in found:
            names = ", ".join(f"`{name}`" for name in option_label(option)).replace("|", "\\|")
            yield f"| {names} | {cell(option.help or '')} |"


def _definitions(heading: str, rows: dict[str, str]) -> list[str]:
    return [f"| {heading} | Meaning |", "|--|--|", *(f"| `{key}` | {cell(text)} |" for key, text in rows.items())]


def markdown(text: str) -> str:
    """Plain text in which only code between backticks means something."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*<]|\b_|_\b)", r"\\\1", p) for p in pieces)


def cell(text: str) -> str:
    """The same in a table."""
    return markdown(text).replace("|", "\\|")


# -- configuration


def configuration_page() -> str:
    """docs/reference-configuration.md."""
    lines = [GENERATED, "# Configuration", "", *CONFIGURATION_INTRODUCTION]
    section = None
    for row in settings_rows():
        if row.section != section:
            section = row.section
            lines += ["", f"## {section}", "", f"{markdown(sentence(section_text(section)))}", ""]
            lines += ["| Key | Value | Default | Meaning |", "|--|--|--|--|"]
        lines.append(_setting(row))
    return "\n".join(lines) + "\n"


def _setting(row: SettingsRow) -> str:
    default = f"`{row.default}`" if row.default else ""
    example = f" Example: `{row.example}`." if row.example else ""
    return f"| `{row.key}` | {cell(row.kind)} | {default} | {cell(row.description)}.{example} |"


CONFIGURATION_INTRODUCTION = """
The file is `--config FILE`, else what `HAKURIVER_CONFIG` names, else `~/.hakuriver/config.toml`; without any there are
the defaults. `HAKURIVER_SHARED_DIR` goes over `paths.shared_dir` in all of them. Unknown keys are refused, with the
nearest known one. `hakuriver init config` writes a file in which every key is explained; `hakuriver config show` tells
each value that applies here and where it comes from.
""".strip().splitlines()


def completion_files() -> dict[str, str]:
    """Files that shells find in share/ by the name of a program; the others lead to that of `hakuriver`."""
    bash, fish = "docs/completions/bash-completion/completions", "docs/completions/fish/vendor_completions.d"
    found = {
        "docs/completions/zsh/site-functions/_hakuriver": script("zsh"),
        f"{bash}/hakuriver": script("bash"),
        f"{fish}/hakuriver.fish": script("fish"),
    }
    for program in PROGRAMS[1:]:
        found[f"{bash}/{program}"] = '. "${BASH_SOURCE[0]%/*}/hakuriver"\n'
        found[f"{fish}/{program}.fish"] = "source (dirname (status filename))/hakuriver.fish\n"
    return found


# -- writing


def write(root: Path) -> None:
    """Write everything; what is no longer made goes."""
    made = documents()
    for directory in WHOLE:
        shutil.rmtree(root / directory, ignore_errors=True)
    for name, text in made.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
