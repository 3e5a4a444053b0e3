"""Pages in Markdown, as far as tests look at them: blocks, code in lines, links, headings.

What stands behind the backticks of a block decides what tests do with it, and nothing else does:

    ```sh                        is run, with all others of the page, in one shell from top to bottom
    ```sh daemon                 is run, and goes on in the background (pages that begin with FRESH)
    ```sh needs=docker,internet  is run where a stage has all that; elsewhere it is read: its commands and options exist
    ```sh example                is read (pages that are made from the code)
    ```python                    is run with the sh blocks; ```toml, json, json any, ini and text are looked at
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: A page whose `sh daemon` blocks make the cluster begins so.
FRESH = "<!-- test: fresh -->"
#: What a block may need that a test machine may lack.
NEEDS = {
    "desktop": "somebody who looks at it, and ends it",
    "docker": "Docker engines, of the host and of the nodes",
    "gpu": "an NVIDIA GPU",
    "internet": "images and packages that others have made",
    "machines": "several machines",
    "numa": "several NUMA nodes, or programs that bind to them",
    "root": "root, and a machine that may be changed",
    "share": "a shared filesystem on which there is no river yet",
    "sources": "the directory of the sources, to build in it or to test them",
    "systemd": "systemd as process 1",
    "terminal": "somebody who types into it",
}

_NEEDS = re.compile(r"^sh needs=(\S+)$")
_FENCE = re.compile(r"(?P<indent> *)(?P<mark>```+|~~~+) *(?P<info>.*?) *$")
_ITEM = re.compile(r" *([-*+]|\d+[.)]) +")
_CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^)\s]*)(?: \"[^\"]*\")?\)")
_NAMED = re.compile(r"<a (?:name|id)=\"([^\"]+)\">")
_HEADING = re.compile(r"(#{1,6}) +(.*?) *#*$")


class Block(NamedTuple):
    """A fenced block."""

    line: int  #: of its first line of content, from 1
    info: str  #: what stands behind the backticks
    text: str

    @property
    def kind(self) -> str:
        """The first word of the info string."""
        return self.info.partition(" ")[0]

    @property
    def needs(self) -> frozenset[str]:
        """What it needs that a test machine may lack."""
        return frozenset(word for found in _NEEDS.findall(self.info) for word in found.split(","))

    def runs(self, has: frozenset[str] = frozenset()) -> bool:
        """Whether it is run where there is all that."""
        return self.info in ("sh", "sh daemon", "python") or (bool(self.needs) and self.needs <= has)


class Place(NamedTuple):
    """Something in a line."""

    line: int
    text: str


class Page:
    """A page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.blocks: list[Block] = []
        self.prose: list[Place] = []  #: lines outside blocks
        self.indented: list[int] = []  #: lines of indented code
        self._read()

    @property
    def fresh(self) -> bool:
        """Whether it makes its cluster itself."""
        return self.lines[:1] == [FRESH]

    def codes(self) -> Iterator[Place]:
        """Code within lines."""
        for line, text in self._paragraphs():
            for found in _CODE.finditer(text):
                code = " ".join(found[2].replace("\\|", "|").split())
                yield Place(line + text.count("\n", 0, found.start()), code)

    def links(self) -> Iterator[Place]:
        """Targets of links."""
        for line, text in self._paragraphs():
            plain = _CODE.sub(lambda code: re.sub(r"[^\n]", "x", code[0]), text)
            for found in _LINK.finditer(plain):
                yield Place(line + plain.count("\n", 0, found.start()), found[1])

    def _paragraphs(self) -> Iterator[Place]:
        """What stands between empty lines and blocks: code and links may go over the end of a line."""
        held: list[Place] = []
        for place in [*self.prose, Place(0, "")]:
            if place.text.strip() and (not held or place.line == held[-1].line + 1):
                held.append(place)
                continue
            if held:
                yield Place(held[0].line, "\n".join(text for _, text in held))
            held = [place] if place.text.strip() else []

    def anchors(self) -> set[str]:
        """What a link may name behind its #: headings, by the rules of GitHub."""
        seen: dict[str, int] = {}
        found: set[str] = set()
        for _, text in self.prose:
            found.update(_NAMED.findall(text))
            if heading := _HEADING.fullmatch(text):
                slug = slug_of(heading[2])
                seen[slug] = seen.get(slug, -1) + 1
                found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        return found

    def _read(self) -> None:
        number, item = 0, 0
        while number < len(self.lines):
            text = self.lines[number]
            if fence := _FENCE.fullmatch(text):
                number = self._block(number, fence)
                continue
            number += 1
            self.prose.append(Place(number, text))
            if entry := _ITEM.match(text):
                item = entry.end()
            elif text.strip():
                indent = len(text) - len(text.lstrip(" "))
                item = item if indent else 0
                if indent >= item + 4 and not self.lines[max(number - 2, 0)].strip():
                    self.indented.append(number)

    def _block(self, number: int, fence: re.Match[str]) -> int:
        """Read a block that begins there; the number of the line behind it."""
        end = number + 1
        while end < len(self.lines) and not self.lines[end].strip().startswith(fence["mark"]):
            end += 1
        content = [line.removeprefix(fence["indent"]) for line in self.lines[number + 1 : end]]
        self.blocks.append(Block(number + 2, fence["info"], "\n".join(content) + "\n"))
        return end + 1


class Stage(NamedTuple):
    """A test that runs pages."""

    test: str  #: its file
    has: frozenset[str]  #: what it has of NEEDS

    def takes(self, page: Page) -> bool:
        """Whether it runs that page: what it can of it, if some of that needs what it has. Fresh pages have nothing."""
        if not self.has:
            return any(block.runs() for block in page.blocks)
        return not page.fresh and any(block.needs and block.runs(self.has) for block in page.blocks)

    def runs(self, page: Page, block: Block) -> bool:
        """Whether it runs that block."""
        return self.takes(page) and block.runs(self.has)


PLAIN = Stage("tests/acceptance/test_documents_run.py", frozenset())
DOCKER = Stage("tests/engines/test_documents_docker.py", frozenset({"docker", "internet", "terminal"}))
SYSTEMD = Stage("tests/engines/test_documents_systemd.py", frozenset({"systemd", "root", "share", "terminal"}))
STAGES = (PLAIN, DOCKER, SYSTEMD)


def slug_of(heading: str) -> str:
    """The anchor of a heading."""
    plain = re.sub(r"[`*]|\]\([^)]*\)", "", heading).lower()
    kept = (c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).replace(" ", "-")


def pages() -> list[Page]:
    """Those for users."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "contrib").rglob("README.md"))]
    return [Page(path) for path in found]
