"""Sizes, durations and index lists as people write them."""

from __future__ import annotations

import itertools
import re

_SIZE = re.compile(r"([0-9]+)([KMGT]?)(i?)B?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Read a size in bytes: `4G` is 4,000,000,000, `4Gi` is 4,294,967,296, a bare number is bytes.

    Raises ValueError for anything else and for zero.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size: write 512M, 4G or 4Gi")
    size: int = int(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2].upper()]
    if size <= 0:
        raise ValueError(f"{text!r} is no size: it must be more than zero")
    return size


def format_size(size: float | None) -> str:
    """Write bytes for people, in powers of 1000: `4.0G`."""
    if size is None:
        return "-"
    for unit in ("", "K", "M", "G"):
        if abs(size) < 1000:
            return f"{size:.0f}" if not unit else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}T"


def parse_duration(text: str) -> float:
    """Read a duration in seconds: `90`, `90s`, `1.5h`, `2h30m`, `7d`.

    Raises ValueError for anything else and for zero.
    """
    total, rest = 0.0, text.strip().lower()
    while rest:
        match = _DURATION.match(rest)
        if not match or (match[2] is None and match.end() != len(rest)):
            raise ValueError(f"{text!r} is no duration: write 90s, 30m, 2h or 2h30m")
        total += float(match[1]) * _SECONDS[match[2] or "s"]
        rest = rest[match.end() :]
    if total <= 0:
        raise ValueError(f"{text!r} is no duration: it must be more than zero")
    return total


def format_duration(seconds: float | None) -> str:
    """Write a duration for people: `850ms`, `12s`, `3m04s`, `2h05m`, `6d01h`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def parse_array(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Read an array: `0-199`, `1,3,7-9`, `0-199%8` (at most 8 at once).

    Returns inclusive index ranges, ascending and disjoint, and the most at once (None: no bound).
    Raises ValueError for anything else.
    """
    body, percent, most = text.strip().partition("%")
    if percent and not (most.isascii() and most.isdigit() and int(most) > 0):
        raise ValueError(f"{text!r} is no array: after % comes the most tasks at once, as in 0-199%8")
    ranges: list[tuple[int, int]] = []
    for part in body.split(","):
        first, dash, last = part.partition("-")
        if not _whole(first) or (dash and not _whole(last)):
            raise ValueError(f"{text!r} is no array: write 0-199, 1,3,7-9 or 0-199%8")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"{text!r} is no array: {part!r} runs backwards")
        ranges.append((low, high))
    ranges.sort()
    if any(b[0] <= a[1] for a, b in itertools.pairwise(ranges)):
        raise ValueError(f"{text!r} is no array: an index stands in it twice")
    return ranges, int(most) if percent else None


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def format_ranges(ranges: list[tuple[int, int]]) -> str:
    """Write index ranges as `parse_array` reads them."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
