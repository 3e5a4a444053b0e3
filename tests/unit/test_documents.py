"""README and docs/ keep what they say: links lead somewhere, commands and options exist, examples are valid.

Blocks are run by the stages of documents.py, each those of which it has the needs.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commandlines
import documents
import pytest
from commandtree import entries, options
from documents import NEEDS, ROOT, STAGES, Block, Page
from pydantic import ValidationError
from reference import GENERATED

from hakuriver.cli.completion import PROGRAMS
from hakuriver.config import ConfigError
from hakuriver.records import RunRequest
from hakuriver.settings import parse, settings_rows

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = {page.name: page for page in documents.pages()}
#: Looked at for their links alone.
OTHERS = {name: Page(ROOT / name) for name in ("CHANGELOG.md", "spool_layout.md")}
#: Options of many commands, which are shown once.
SHARED = {"--json", "--config", "--timeout", "--no-receipt", "--all", "--mine"}

#: Of the configuration, as section.key; and what looks like one: a word of a section, without what ends as a file does.
KEYS = {f"{row.section}.{row.key}" for row in settings_rows()}
_SECTIONS = "|".join(sorted({row.section for row in settings_rows()}))
_KEY = re.compile(rf"((?:{_SECTIONS})\.(?!(?:html|json|service|sock)\b)[a-z_]+)(?: = .*)?")
_HOME = re.compile(r"(?<![\w/.~-])/(root|work)(?![\w-])")
_ADDRESS = re.compile(r"\b(https?|ftp)://")


# -- links


def broken_links(page: Page) -> Iterator[str]:
    """Links that lead nowhere."""
    for line, target in page.links():
        file, _, anchor = target.partition("#")
        place = page.path.parent / file if file else page.path
        if not place.exists():
            yield f"{page.name}:{line}: there is no {target}"
        elif anchor and place.suffix == ".md" and anchor not in Page(place).anchors():
            yield f"{page.name}:{line}: there is no heading {target}"


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken_links({**PAGES, **OTHERS}[name])) == []


def test_every_page_is_in_the_contents() -> None:
    contents = ROOT / "docs" / "README.md"
    linked = {(contents.parent / target.partition("#")[0]).resolve() for _, target in Page(contents).links()}
    missing = [name for name in PAGES if name.startswith("docs/") and (ROOT / name) not in {*linked, contents}]
    assert missing == []


# -- form


def bad_form(page: Page) -> Iterator[str]:
    """Blocks whose info string is none of ours, code without a block, what must not stand in a page at all."""
    for line in page.indented:
        yield f"{page.name}:{line}: code is indented: put it between lines of ```"
    for block in page.blocks:
        if problem := _bad_info(page, block) or _bad_text(page, block):
            yield f"{page.name}:{block.line}: {problem}"
    for number, text in enumerate(page.lines, 1):
        if found := _HOME.search(text):
            yield f"{page.name}:{number}: {found[0]} is somebody's own directory"
        if _ADDRESS.search(text):
            yield f"{page.name}:{number}: it names an address on the network"


def _bad_info(page: Page, block: Block) -> str | None:
    words = block.info.split(" ")
    if block.info in ("sh", "text", "toml", "json", "json any", "ini", "python"):
        return None
    if block.info == "sh daemon":
        return None if page.fresh else f"`sh daemon` is for pages that begin with {documents.FRESH}"
    if block.info == "sh example":
        return None if page.lines[0] == GENERATED else "`sh example` is for generated pages: sh blocks are run"
    if len(words) == 2 and block.needs:
        unknown = block.needs - NEEDS.keys()
        return f"needs={', '.join(sorted(unknown))} is none of {', '.join(sorted(NEEDS))}" if unknown else None
    return f"```{block.info} is no kind of block that is known here"


def _bad_text(page: Page, block: Block) -> str | None:
    if re.search(r"^\s*\$ ", block.text, re.MULTILINE):
        return "it shows a prompt: commands stand in sh blocks without one, output in text blocks"
    if block.kind == "text" and page.lines[0] != GENERATED:
        for line in block.text.splitlines():
            program, _, rest = line.partition(" ")
            if commandlines.is_ours(program) and rest and not commandlines.problems(line):
                return f"it holds a command: {line}"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_in_form(name: str) -> None:
    assert list(bad_form(PAGES[name])) == []


# -- stages


def test_every_block_is_run_or_needs_what_no_stage_has() -> None:
    nowhere = []
    for page in PAGES.values():
        for block in (block for block in page.blocks if block.runs(block.needs)):
            stages = [stage.test for stage in STAGES if stage.runs(page, block)]
            print(f"{page.name}:{block.line}  {block.info}  ->  {', '.join(stages) or 'read'}")
            if not stages and any(block.runs(stage.has) for stage in STAGES):
                nowhere.append(f"{page.name}:{block.line}: {block.info}")
    assert nowhere == []


def test_every_stage_is_there_and_has_pages() -> None:
    assert [stage.test for stage in STAGES if not (ROOT / stage.test).is_file()] == []
    assert [stage.test for stage in STAGES if not any(map(stage.takes, PAGES.values()))] == []


def test_every_need_is_somebody_s() -> None:
    assert {need for page in PAGES.values() for block in page.blocks for need in block.needs} == NEEDS.keys()
    assert {need for stage in STAGES for need in stage.has} <= NEEDS.keys()


# -- commands


def shell_of(page: Page) -> Iterator[documents.Place]:
    """Every piece of shell: blocks, commands of units, code in lines that begins with one of our programs."""
    for block in page.blocks:
        if block.kind == "sh":
            yield documents.Place(block.line, block.text)
        if block.kind == "ini":
            yield documents.Place(
                block.line, "\n".join(re.findall(r"^Exec\w+=[-@:+!]*(.*)$", block.text, re.MULTILINE))
            )
    for line, code in page.codes():
        if commandlines.is_ours(code.split(" ")[0]) and not is_module(code):
            yield documents.Place(line, re.sub(r"(?<=\S)\|(?=\S)", " ", code) + " ...")


def is_module(code: str) -> bool:
    """Whether it is the name of a module, not of a program."""
    place = ROOT / code.replace(".", "/")
    return code not in PROGRAMS and (place.is_dir() or place.with_suffix(".py").exists())


def bad_commands(page: Page) -> Iterator[str]:
    """Command lines of ours that do not exist so."""
    for line, shell in shell_of(page):
        for problem in commandlines.problems(shell):
            yield f"{page.name}:{line}: {problem}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_are_shown_exist(name: str) -> None:
    assert list(bad_commands(PAGES[name])) == []


def test_commands_in_help_exist() -> None:
    assert [problem for use in commandlines.shown_in_help() for problem in use.problems] == []


def test_every_option_is_shown_at_work() -> None:
    shown = [*commandlines.shown_in_help()]
    for page in PAGES.values():
        shown += [use for _, shell in shell_of(page) for use in commandlines.uses(shell)]
    at_work = {(id(use.command), option) for use in shown for option in use.options}
    anywhere = {option for use in shown for option in use.options}
    every = {id(each.command): each for each in reversed([*entries()])}.values()  # under the first of its names
    missing = [
        f"{each.path} {option.opts[-1]}"
        for each in reversed(every)
        for option in options(each.command)
        if option.opts[-1] != "--version"
        and (id(each.command), option.name) not in at_work
        and not (option.opts[-1] in SHARED and option.name in anywhere)
    ]
    assert missing == [], "show each of them in an example of its help, or on a page"


def unknown_keys(page: Page) -> Iterator[str]:
    """Keys of the configuration that are named and do not exist."""
    for line, code in page.codes():
        if (found := _KEY.fullmatch(code)) and found[1] not in KEYS:
            yield f"{page.name}:{line}: there is no key {found[1]}"


@pytest.mark.parametrize("name", PAGES)
def test_keys_that_are_named_exist(name: str) -> None:
    assert list(unknown_keys(PAGES[name])) == []


# -- what else is written as an example


def _toml(text: str) -> None:
    parse(tomllib.loads(text), "it")


def _jobs(text: str) -> None:
    try:
        jobs = [json.loads(text)]
    except ValueError:
        jobs = [json.loads(line) for line in text.splitlines() if line.strip()]
    for job in jobs:
        RunRequest.model_validate(job)


#: By the info string of a block.
VALID: dict[str, Callable[[str], Any]] = {"toml": _toml, "json": _jobs, "json any": json.loads, "python": ast.parse}


def invalid(page: Page) -> Iterator[str]:
    """Configurations, job files and programs that would be refused."""
    for block in page.blocks:
        if check := VALID.get(block.info):
            try:
                check(block.text)
            except (ConfigError, ValidationError, ValueError, SyntaxError) as error:
                yield f"{page.name}:{block.line}: {error}"


@pytest.mark.parametrize("name", PAGES)
def test_examples_of_files_are_valid(name: str) -> None:
    assert list(invalid(PAGES[name])) == []


# -- the checks themselves


def page_of(directory: Path, text: str) -> Page:
    (directory / "page.md").write_text(text)
    return Page(directory / "page.md")


def block(info: str, text: str) -> str:
    return f"```{info}\n{text}\n```\n"


@pytest.mark.parametrize(
    "text",
    [
        "See [there](gone.md).",
        "See [one\ntwo](#nowhere).",
        "# A heading\n\n[x](page.md#a-headin)",
    ],
)
def test_a_broken_link_is_found(scratch: Path, text: str) -> None:
    assert len(list(broken_links(page_of(scratch, text)))) == 1


@pytest.mark.parametrize("text", ["Raise `timing.leese`.", '`docker.usr = "1000:1000"`'])
def test_a_key_that_does_not_exist_is_found(scratch: Path, text: str) -> None:
    assert len(list(unknown_keys(page_of(scratch, text)))) == 1


@pytest.mark.parametrize("text", ['`timing.lease`, `docker.user = "1:1"`', "`docker.html`, `docker.service`, `a.b`"])
def test_keys_that_exist_are_let_be(scratch: Path, text: str) -> None:
    assert list(unknown_keys(page_of(scratch, text))) == []


def test_anchors_are_those_of_github(scratch: Path) -> None:
    text = "# `a_b` & c: What's *new*?\n\n## Two\n\n## Two\n\n```text\n# no heading\n```\n### 7. Größe – x\n"
    assert page_of(scratch, text).anchors() == {"a_b--c-whats-new", "two", "two-1", "7-größe--x"}


@pytest.mark.parametrize(
    "text",
    [
        "Text:\n\n    indented code\n",
        "- item\n\n      code below it\n",
        block("", "x"),
        block("bash", "x"),
        block("sh needs=luck", "x"),
        block("sh needs=docker, gpu", "x"),
        block("sh daemon", "hakuriver host"),
        block("sh example", "hakuriver host"),
        block("text", "$ ls"),
        block("sh", "$ ls"),
        block("text", "hakuriver task list"),
        "Look at https" + "://example.org.",
        block("sh", "cat /root/x"),
        "It lies in `/root`.",
    ],
)
def test_bad_form_is_found(scratch: Path, text: str) -> None:
    assert len(list(bad_form(page_of(scratch, text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "- item\n\n  more of it\n\n  ```text\n  x\n  ```\n",
        block("sh needs=docker,gpu", "x"),
        documents.FRESH + "\n" + block("sh daemon", "hakuriver host"),
        block("text", "hakuriver: the job waits\nhakuriver 0.4.0"),
        "`~/river` and `/srv/homework` and a/root and `/home/ann/x`",
    ],
)
def test_good_form_is_let_be(scratch: Path, text: str) -> None:
    assert list(bad_form(page_of(scratch, text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "hakuriver task lst",
        "hakuriver.tsk list",
        "hakuriver submit --corse 4 -- x",
        "hakuriver submit -z -- x",
        "id=$(hakuriver submit --nothing -- x)",
        'hakuriver task wait "$(hakuriver submit --nothing -- x)"',
        "true && sudo -u river hakuriver runner --nam n1",
        "sudo -u hakuriver /opt/hakuriver/bin/hakuriver runner --nam n1",
        "! .venv/bin/hakuriver task list --state no-such-state",
        "for n in n1 n2; do hakuriver node darin $n; done",
        "hakuriver \\\n  task list --limt 3",
        "hakuriver task list --limit",
        "cat <<EOF\nhakuriver no check here\nEOF\nhakuriver task lst",
        "hakuriver.task lst",
        "hakuriver --cnofig x task list",
        "echo hakuriver nothing; hakuriver nothing",
    ],
)
@pytest.mark.parametrize("info", ["sh", "sh needs=docker"])
def test_a_command_that_does_not_exist_is_found(scratch: Path, info: str, text: str) -> None:
    assert len(list(bad_commands(page_of(scratch, block(info, text))))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "hakuriver task list --state failed --since 1d   # what's wrong?",
        "hakuriver submit --cores 4 -- python train.py --epochs 10",
        "hakuriver submit -qc 4 -t n1 sh -c 'x' --any",
        "hakuriver task list | grep --count x; hakuriver --version",
        "hakuriver task logs -f --tail=10 ID",
        "hakuriver task list --state STATE",
        "hakuriver task batch 4711",
        "pip install hakuriver; man hakuriver; pip install 'hakuriver[gpu]' --quiet",
        "for state in failed lost; do hakuriver task list --state $state --limit 3; done",
        "echo \"$(hakuriver task list --limit 3)\" 'hakuriver $(x)'",
        "hakuriver.task list --help",
        "hakurun -h",
        "sudo -u hakuriver /opt/hakuriver/bin/hakuriver task list",
        "useradd --home-dir /var/lib/hakuriver --shell /usr/sbin/nologin river",
    ],
)
def test_a_command_that_exists_is_let_be(scratch: Path, text: str) -> None:
    assert list(bad_commands(page_of(scratch, block("sh", text)))) == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("hakuriver task lst", 1),
        ("hakuriver task list\n--limt 3", 1),
        ("hakuriver.tsk", 1),
        ("hakuriver doctor --with", 0),
        ("hakuriver task ...", 0),
        ("hakuriver node COMMAND", 0),
        ("hakuriver task pause|resume ID", 0),
        ("hakuriver.keeper", 0),
        ("hakuriver.records", 0),
        ("hakuriver-task.service", 0),
    ],
)
def test_code_in_lines_is_read_too(scratch: Path, code: str, wrong: int) -> None:
    assert len(list(bad_commands(page_of(scratch, f"Type `{code}` there.")))) == wrong


def test_commands_of_units_are_read_too(scratch: Path) -> None:
    unit = "[Service]\nExecStart=-/opt/hakuriver/bin/hakuriver runner --nam n1"
    assert len(list(bad_commands(page_of(scratch, block("ini", unit))))) == 1


@pytest.mark.parametrize(
    ("info", "text", "wrong"),
    [
        ("toml", "[timing]\nlease = '90s'", 0),
        ("toml", "[timing]\nleese = '90s'", 1),
        ("toml", "[timing", 1),
        ("json", '{"command": ["x"]}\n{"command": ["y"], "cores": 2}', 0),
        ("json", '{"command": ["x"], "corse": 2}', 1),
        ("json", "{", 1),
        ("json any", '{"x": 1}', 0),
        ("json any", "{", 1),
        ("python", "from x import (", 1),
    ],
)
def test_examples_of_files_are_read(scratch: Path, info: str, text: str, wrong: int) -> None:
    assert len(list(invalid(page_of(scratch, block(info, text))))) == wrong
