"""What was measured, beside its floor and what it must reach."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

#: How each unit is printed.
_DIGITS = {"ms": 1, "s": 2, "/s": 0, "MB": 1, "x": 2, "%": 1, "times": 0}


@dataclass
class Figure:
    """One row of the table. `reached` is what the requirement is about: a ratio, or the value itself."""

    measure: str
    value: float
    unit: str
    reached: float
    required: float | None = None  #: None: told for information
    more_is_better: bool = False
    reached_unit: str = "x"
    floor: str = ""  #: what the floor is
    floor_value: float | None = None
    samples: dict[str, Any] = field(default_factory=dict)
    caveat: str = ""  #: what to think of when it is missed

    @property
    def passed(self) -> bool | None:
        """Whether it reaches what it must; None if nothing is required."""
        if self.required is None:
            return None
        return self.reached >= self.required if self.more_is_better else self.reached <= self.required

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**asdict(self), "passed": self.passed}


def against_floor(
    measure: str, unit: str, values: list[float], floor: str, floors: list[float], required: float | None
) -> Figure:
    """Medians of alternating rounds. A rate (`/s`) must reach at least `required` times its floor, a time at most."""
    value, floor_value = statistics.median(values), statistics.median(floors)
    ratio = value / floor_value
    samples = {"values": values, "floors": floors}
    return Figure(measure, value, unit, ratio, required, unit == "/s", "x", floor, floor_value, samples)


def bounded(measure: str, unit: str, value: float, at_most: float | None, **samples: Any) -> Figure:
    """A value that stands for itself."""
    return Figure(measure, value, unit, value, at_most, reached_unit=unit, samples=samples)


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-percent * len(ordered) // 100) - 1))]


def table(figures: list[Figure]) -> str:
    """All figures as text, with a mark each."""
    rows = [("measure", "figure", "floor", "reached", "required", "")]
    rows += [_row(figure) for figure in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths[:5]))
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, str, str, str, str, str]:
    floor = f"{_shown(figure.floor_value, figure.unit)} {figure.floor}" if figure.floor_value is not None else ""
    sign = ">=" if figure.more_is_better else "<="
    required = "" if figure.required is None else f"{sign} {_shown(figure.required, figure.reached_unit)}"
    mark = {True: "ok", False: f"MISSED {figure.caveat}".rstrip(), None: ""}[figure.passed]
    reached = _shown(figure.reached, figure.reached_unit)
    return (figure.measure, _shown(figure.value, figure.unit), floor, reached, required, mark)


def _shown(value: float, unit: str) -> str:
    return f"{value:,.{_DIGITS[unit]}f} {unit}".replace(" /s", "/s").replace(" x", "x").replace(" %", "%")
