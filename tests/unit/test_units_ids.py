"""Sizes, durations, arrays; names of jobs, tasks, positions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver import ids, units


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512M", 512_000_000), ("4G", 4_000_000_000), ("4Gi", 4 << 30), ("4GiB", 4 << 30), ("2kb", 2000),
     ("1T", 10**12), (" 3 k", None), ("4 G", None), ("", None), ("0", None), ("0G", None), ("-1", None), ("1.5G", None),
     ("4i", None), ("4P", None), ("٤G", None), ("4G\n", 4_000_000_000)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="is no size"):
            units.parse_size(text)
    else:
        assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5h", 5400), ("2h30m", 9000), ("7d", 604_800), ("250ms", 0.25), ("1w", 604_800),
     ("1h30", 5400 - 1770), ("", None), ("0", None), ("0s", None), ("h", None), ("1x", None), ("30 m", None),
     ("-1s", None), ("1e3s", None), ("nan", None), ("inf", None), ("30m2", 1802)],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="is no duration"):
            units.parse_duration(text)
    else:
        assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.85, "850ms"), (12.9, "12s"), (184, "3m04s"), (7500, "2h05m"), (522_000, "6d01h")],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, "-"), (0, "0"), (999, "999"), (4 * 10**9, "4.0G"), (1.2e6, "1.2M"), (3e15, "3000.0T")]
)
def test_sizes_for_people(size: float | None, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("text", "ranges", "most"),
    [("0-199", [(0, 199)], None), ("7", [(7, 7)], None), ("7-9,1,3", [(1, 1), (3, 3), (7, 9)], None),
     ("0-199%8", [(0, 199)], 8), (" 1,2 ", [(1, 1), (2, 2)], None)],
)  # fmt: skip
def test_arrays(text: str, ranges: list[tuple[int, int]], most: int | None) -> None:
    assert units.parse_array(text) == (ranges, most)


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1,1", "1-5,3", "-1", "1-", "1--2", "1,,2", "0-3%", "0-3%0", "0-3%x", "0-3%8%8", "1 - 2",
             "٣", "99999999999", "0-3%" + "9" * 5000],
)  # fmt: skip
def test_what_is_no_array(text: str) -> None:
    with pytest.raises(ValueError):  # of the last case the interpreter itself tells
        units.parse_array(text)


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=50))
def test_ranges_are_written_as_they_are_read(numbers: set[int]) -> None:
    text = ",".join(map(str, numbers))
    ranges, _ = units.parse_array(text)
    assert units.parse_array(units.format_ranges(ranges)) == (ranges, None)
    assert {n for low, high in ranges for n in range(low, high + 1)} == numbers


@given(st.text(max_size=30))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (units.parse_size, units.parse_duration, units.parse_array):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


# --- ids


def test_ids_sort_by_time_and_do_not_meet() -> None:
    made = [ids.new_job_id(1_700_000_000 + n) for n in range(100)]
    assert sorted(made) == made
    assert len({ids.new_job_id(5) for _ in range(200)}) > 190  # of ten million: two meet now and then, more never
    at_once = [ids.new_job_id() for _ in range(2000)]
    assert at_once == sorted(set(at_once))
    assert all(ids.is_job_id(job) for job in made)
    assert ids.job_time(made[7]) == 1_700_000_007


@pytest.mark.parametrize("text", ["", "1" * 19, "1" * 21, "1" * 19 + "a", "1" * 20 + "\n", "١" * 20, " " + "1" * 19])
def test_what_is_no_job_id(text: str) -> None:
    assert not ids.is_job_id(text)


@given(st.integers(0, 10**20 - 1), st.none() | st.integers(0, 10**10 - 1))
def test_task_names_are_taken_apart_as_they_were_made(number: int, k: int | None) -> None:
    job = f"{number:020d}"
    assert ids.parse_task(ids.task_name(job, k)) == (job, k)


@pytest.mark.parametrize("tail", ["-", "-01", "--1", "-1-2", "-x", "-1\n", "x"])
def test_what_is_no_task(tail: str) -> None:
    assert ids.parse_task("1" * 20 + tail) is None


@given(st.integers(0, 10**6 - 1), st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_positions_sort_as_text(term: int, first: int, second: int) -> None:
    one, two = ids.position(term, first), ids.position(term, second)
    assert ids.parse_position(one) == (term, first)
    assert (one < two) == (first < second)
    assert ids.seq_of(one) == first
    assert re.fullmatch(r"[0-9]{6}-[0-9]{12}", one)


def test_what_is_no_position_has_seq_0() -> None:
    assert [ids.seq_of(text) for text in ("", "x", "1", "1-", "1-2-3", "runner.1.x")] == [0] * 6
