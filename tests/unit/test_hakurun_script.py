"""hakurun --submit: the script by which each task of a job finds its own combination."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.errors import Invalid
from hakuriver.hakurun import script
from hakuriver.hakurun.script import job_command
from hakuriver.hakurun.spans import Padded, Span, Sweep, parse

SHELLS = [["/bin/sh"], ["bash"], *([[*found, "sh"]] if (found := [p for p in [shutil.which("busybox")] if p]) else [])]
#: Prints its arguments so that nothing in them is lost.
SHOW = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
NASTY = st.text(st.sampled_from("a0 '\"$`\\\n\t*?[]{}~!#&;|<>()=-é→😀\x01\x7f"), max_size=8)
LISTS = st.lists(NASTY, min_size=1, max_size=3).map(tuple)
RANGES = st.builds(
    lambda first, count, step: range(first, first + count * step, step),
    st.integers(-(10**17), 10**17), st.integers(1, 3), st.sampled_from([1, -1, 7, -(10**15)]),
)  # fmt: skip
PADDED = st.builds(Padded, st.sampled_from([range(-2, 1), range(8, 11), range(3, 0, -2)]), st.integers(1, 6))
SPANS = st.builds(Span, st.sampled_from(["", "", "--x=", "$a'b="]), LISTS | RANGES | PADDED)


def own_values(span: Span) -> list[str]:
    return [f"{span.prefix}{value}" for value in span.values]


def said(shell: list[str], command: list[str], total: int) -> Iterator[list[str]]:
    """What the tasks of a job were called with."""
    for index in range(total):
        environment = {"HAKURIVER_TASK_INDEX": str(index), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        words = [*shell, *command[1:]] if total > 1 else command
        ran = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert ran.stderr == ""
        yield json.loads(ran.stdout)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[-1])
@settings(max_examples=8)
@given(st.lists(SPANS, max_size=3))
def test_each_task_gets_its_combination(shell: list[str], found: list[Span]) -> None:
    sweep = Sweep(found)
    command, array = job_command(SHOW, sweep, typed=False, at_once=None)
    assert array == (f"0-{sweep.total - 1}" if sweep.total > 1 else None)
    assert list(said(shell, command, sweep.total)) == [list(c) for c in product(*map(own_values, found))]


@settings(max_examples=10)
@given(st.lists(SPANS, max_size=3))
def test_functions_get_what_they_would_get_here(found: list[Span]) -> None:
    sweep = Sweep(found)
    command, _ = job_command(SHOW, sweep, typed=True, at_once=None)
    for index, words in enumerate(said(["/bin/sh"], command, sweep.total)):
        again = Sweep([parse(word) for word in words])
        assert again.total == 1
        assert again.combination(0) == sweep.combination(index)
        assert [*map(type, again.combination(0))] == [*map(type, sweep.combination(index))]


def test_the_program_may_be_one_of_several() -> None:
    sweep = Sweep([Span("", ("echo", "printf")), Span("", ("a b",))])
    command, _ = job_command([], sweep, typed=False, at_once=None)
    ran = [subprocess.run(command, env={"HAKURIVER_TASK_INDEX": i}, capture_output=True).stdout for i in "01"]
    assert ran == [b"a b\n", b"a b"]


def test_the_program_takes_the_place_of_the_shell() -> None:
    """Signals and exit statuses are those of the program itself."""
    command, _ = job_command(["sh", "-c", "kill -9 $$"], Sweep([parse("span:{1..2}")]), typed=False, at_once=None)
    assert subprocess.run(command, env={"HAKURIVER_TASK_INDEX": "1"}).returncode == -9


def test_nothing_is_added_to_its_environment() -> None:
    command, _ = job_command(["env"], Sweep([parse("span:[A=1,B=2]"), parse("span:[C=3,D=4]")]), False, None)
    ran = subprocess.run(command, env={"HAKURIVER_TASK_INDEX": "1"}, capture_output=True, text=True)
    assert set(ran.stdout.split()) - {"PWD", "SHLVL", "_"} >= {"A=1", "D=4", "HAKURIVER_TASK_INDEX=1"}
    assert "_hakurun" not in ran.stdout


def test_its_size_is_the_sum_of_the_spans_not_their_product() -> None:
    sweep = Sweep([parse("span:{1..1000}"), parse("span:[a,b]"), parse("span:{1..500}")])
    command, array = job_command(["x"], sweep, False, 7)
    assert array == "0-999999%7"
    assert len(command[-1]) < 300


def test_a_single_combination_needs_no_shell() -> None:
    assert job_command(["x"], Sweep([parse("a b"), parse("span:{3..3}")]), False, 5) == (["x", "a b", "3"], None)
    assert job_command(["x"], Sweep([parse("a b"), parse("span:{3..3}")]), True, 5)[0] == ["x", "a b", "span:{3..3}"]
    assert job_command(["x"], Sweep([]), False, None) == (["x"], None)


def test_too_many_and_too_long() -> None:
    with pytest.raises(Invalid, match=r"1,000,001 combinations.*may have 1,000,000 tasks"):
        job_command(["x"], Sweep([parse("span:{0..1000000}")]), False, None)
    with pytest.raises(Invalid, match="put the values into a file"):
        job_command(["x"], Sweep([Span("", ("é" * 70_000, ""))]), False, None)


def test_the_longest_script_can_be_started() -> None:
    short = len(script.script(["true"], Sweep([Span("", ("", "a"))]), False))
    sweep = Sweep([Span("", ("", "a" * (script.ARGUMENT_MAX - short)))])
    command, _ = job_command(["true"], sweep, False, None)
    assert len(command[-1]) == script.ARGUMENT_MAX - 1
    assert subprocess.run(command, env={"HAKURIVER_TASK_INDEX": "1", "PATH": "/bin"}).returncode == 0
    with pytest.raises(Invalid):
        job_command(["true"], Sweep([Span("", ("", "a" * (script.ARGUMENT_MAX - short + 1)))]), False, None)
