"""Pages in Markdown, as far as tests look at them: blocks, code in lines, links, headings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: A page whose `sh daemon` blocks make the cluster begins so.
FRESH = "<!-- test: fresh -->"
#: What a test machine may lack.
NEEDS = frozenset({"root", "docker", "systemd", "gpu", "numa", "share", "machines", "internet", "terminal", "desktop"})

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
    def runs(self) -> bool:
        """Whether it is run in a test."""
        return self.info in ("sh", "sh daemon", "python")


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


def slug_of(heading: str) -> str:
    """The anchor of a heading."""
    plain = re.sub(r"[`*]|\]\([^)]*\)", "", heading).lower()
    kept = (c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).replace(" ", "-")


def pages() -> list[Page]:
    """Those for users."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "contrib").rglob("README.md"))]
    return [Page(path) for path in found]
