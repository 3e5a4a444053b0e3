"""Arguments that stand for several values, and their combinations.

    span:{1..4}  span:{10..1..3}  span:{08..12}  span:{a..e}      ranges, both ends included
    span:[adam,sgd]  span:["a, b", 'c', d\\,e]                     lists of text
    --rate=span:[0.1,0.01]                                        all of the text after NAME=

Numbers of a range are int, everything else is text: also the range's that is padded with zeros, and what stands after
NAME=. As in bash, one end with a leading zero pads all, and a step's sign does not matter. Nothing is expanded before
it is used: a sweep of 10**18 combinations costs as much memory as one of ten.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, overload

from hakuriver.errors import Invalid

PREFIX = "span:"
#: 18 digits stay within 64 bits, for a shell that computes with them too.
_END = r"\s*([+-]?[0-9]{1,18})\s*"
_NUMBERS = re.compile(rf"\{{{_END}\.\.{_END}(?:\.\.{_END})?\}}")
_LETTERS = re.compile(rf"\{{\s*([a-z])\s*\.\.\s*([a-z])\s*(?:\.\.{_END})?\}}|"
                      rf"\{{\s*([A-Z])\s*\.\.\s*([A-Z])\s*(?:\.\.{_END})?\}}")  # fmt: skip
_PADDED = re.compile(r"[+-]?0[0-9]+")
#: One item of a list: in double quotes, in single ones, or bare; then a comma or the end.
_ITEM = re.compile(
    r"""\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|(?!["'])((?:\\.|\\\Z|[^,\\])*))\s*(,|\Z)""", re.DOTALL
)
_ESCAPE = re.compile(r"""\\([\\,"'])""")
_NAMED = re.compile(r"([^\s=]+=)span:(\s*[{\[].*)", re.DOTALL)
#: What a shell leaves of a brace that nobody quoted: span:1 span:2.
_LEFTOVER = re.compile(r"((?:[^\s=]+=)?)span:([^\s{\[].*)", re.DOTALL)

RANGES = "write span:{1..10}, span:{10..1..3} or span:{a..e}"


class Padded(Sequence[str]):
    """Numbers as text, padded with zeros to one width."""

    def __init__(self, numbers: range, width: int) -> None:
        self.numbers = numbers
        self.width = width  #: of the longest end, its sign included

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Padded: ...
    def __getitem__(self, index: int | slice) -> str | Padded:
        if isinstance(index, slice):
            return Padded(self.numbers[index], self.width)
        return f"{self.numbers[index]:0{self.width}d}"


class Span(NamedTuple):
    """One argument: what it begins with, and the values that may follow. Plain arguments have one value."""

    prefix: str
    values: range | Padded | tuple[str, ...]

    def at(self, index: int) -> int | str:
        """One of its values, as a function gets it."""
        value = self.values[index]
        return f"{self.prefix}{value}" if self.prefix else value


class Sweep:
    """All combinations of some arguments' values, in the order of nested loops: the last argument varies fastest."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = list(spans)
        self.total = math.prod(len(span.values) for span in spans)

    def combination(self, index: int) -> list[int | str]:
        """The values of one combination, `index` from 0."""
        values = []
        for span in reversed(self.spans):
            index, own = divmod(index, len(span.values))
            values.append(span.at(own))
        return values[::-1]


def parse(text: str) -> Span:
    """Read an argument. `span:` before anything but a brace or a bracket is dropped: a shell has expanded it already.

    Raises Invalid for a range or a list that is none, and for an empty one.
    """
    if text.startswith(PREFIX):
        body = text[len(PREFIX) :].strip()
        return Span("", _values(text, body) if body[:1] in ("{", "[") else (body,))
    if named := _NAMED.fullmatch(text):
        return Span(named[1], _values(text, named[2].strip()))
    return Span("", (text,))


def _values(text: str, body: str) -> range | Padded | tuple[str, ...]:
    if body[0] == "{":
        return _range(text, body)
    if not body.endswith("]"):
        raise Invalid("argument", text, "the list is not closed: write span:[x,y], as a whole argument or after NAME=")
    if not body[1:-1].strip():
        raise Invalid("argument", text, 'the list is empty: write span:[x,y], or span:[""] for one empty text')
    return _items(text, body[1:-1])


def _range(text: str, body: str) -> range | Padded | tuple[str, ...]:
    if numbers := _NUMBERS.fullmatch(body):
        ends = numbers[1], numbers[2]
        found = _steps(text, int(ends[0]), int(ends[1]), numbers[3])
        padded = any(_PADDED.fullmatch(end) for end in ends)
        return Padded(found, max(len(end.lstrip("+")) for end in ends)) if padded else found
    if letters := _LETTERS.fullmatch(body):
        first, last, step = letters.groups()[:3] if letters[1] else letters.groups()[3:]
        return tuple(map(chr, _steps(text, ord(first), ord(last), step)))
    raise Invalid("argument", text, f"it is no range, with nothing after it: {RANGES}; a list is span:[x,y]")


def _steps(text: str, first: int, last: int, step: str | None) -> range:
    by = abs(int(step or 1))
    if by == 0:
        raise Invalid("argument", text, "a step of 0 never ends: write span:{1..10..3}")
    return range(first, last + 1, by) if first <= last else range(first, last - 1, -by)


def _items(text: str, body: str) -> tuple[str, ...]:
    items, at, comma = [], 0, ","
    while comma:
        item = _ITEM.match(body, at)
        if item is None:
            raise Invalid("argument", text, f"what begins with {body[at:].strip()[:20]!r} must end with that quote")
        quoted = next((part for part in item.groups()[:2] if part is not None), None)
        items.append(_ESCAPE.sub(r"\1", item[3].strip() if quoted is None else quoted))
        at, comma = item.end(), item[4]
    return tuple(items)


def literal(value: int | str) -> str:
    """An argument that `parse` reads as this one value and type."""
    if isinstance(value, int):
        return f"{PREFIX}{{{value}..{value}}}"
    if value.startswith(PREFIX) or _NAMED.fullmatch(value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{PREFIX}["{escaped}"]'
    return value


def expanded_by_shell(arguments: Sequence[str]) -> list[tuple[list[str], str]]:
    """Neighbours that look as if a shell had expanded an unquoted brace, and the span that was probably meant."""
    found = []
    for prefix, group in groupby(arguments, _leftover_prefix):
        words = list(group)
        if prefix is not None and len(words) > 1:
            found.append((words, prefix + _meant([word[len(prefix) + len(PREFIX) :] for word in words])))
    return found


def _leftover_prefix(argument: str) -> str | None:
    match = _LEFTOVER.fullmatch(argument)
    return match[1] if match else None


def _meant(values: list[str]) -> str:
    """The range of these values, or else their list."""
    try:
        span = parse(f"{PREFIX}{{{values[0]}..{values[-1]}}}")
        if len(span.values) == len(values) and [str(value) for value in span.values] == values:
            return f"{PREFIX}{{{values[0]}..{values[-1]}}}"
    except Invalid:
        pass  # no range, then
    return f"{PREFIX}[{','.join(values)}]"
