"""Sets of task indices as ranges: an array of 100,000 waiting tasks is one pair of numbers."""

from __future__ import annotations

import bisect
from collections.abc import Iterator


class Ranges:
    """A set of whole numbers kept as ascending, disjoint, inclusive [low, high] pairs."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[int, int]] | None = None) -> None:
        self.pairs: list[list[int]] = [list(pair) for pair in pairs or []]

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.pairs)

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def __iter__(self) -> Iterator[int]:
        for low, high in self.pairs:
            yield from range(low, high + 1)

    def _find(self, number: int) -> int:
        return bisect.bisect_right(self.pairs, number, key=lambda pair: pair[0]) - 1

    def __contains__(self, number: int) -> bool:
        at = self._find(number)
        return at >= 0 and number <= self.pairs[at][1]

    @property
    def first(self) -> int:
        """The smallest member."""
        return self.pairs[0][0]

    def discard(self, number: int) -> bool:
        """Take a number out; tell whether it was in."""
        at = self._find(number)
        if at < 0 or number > self.pairs[at][1]:
            return False
        low, high = self.pairs[at]
        self.pairs[at : at + 1] = [[a, b] for a, b in ((low, number - 1), (number + 1, high)) if a <= b]
        return True

    def add(self, number: int) -> None:
        """Put a number in."""
        if number in self:
            return
        at = self._find(number) + 1
        self.pairs.insert(at, [number, number])
        self._join(at)
        if at:
            self._join(at - 1)

    def _join(self, at: int) -> None:
        if at + 1 < len(self.pairs) and self.pairs[at][1] + 1 == self.pairs[at + 1][0]:
            self.pairs[at][1] = self.pairs.pop(at + 1)[1]

    def tuples(self) -> list[tuple[int, int]]:
        """The pairs."""
        return [(low, high) for low, high in self.pairs]
