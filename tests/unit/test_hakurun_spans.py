"""hakurun: what an argument stands for."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.errors import Invalid
from hakuriver.hakurun import spans
from hakuriver.hakurun.spans import Sweep, literal, parse

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def values(text: str) -> list[int | str]:
    span = parse(text)
    return [span.at(index) for index in range(len(span.values))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("span:{1..4}", [1, 2, 3, 4]),
        ("span:{4..1}", [4, 3, 2, 1]),
        ("span:{-1..1}", [-1, 0, 1]),
        ("span:{+1..2}", [1, 2]),
        ("span:{3..3}", [3]),
        ("span:{1..10..4}", [1, 5, 9]),
        ("span:{10..1..4}", [10, 6, 2]),
        ("span:{10..1..-4}", [10, 6, 2]),
        ("span:{1..10..-4}", [1, 5, 9]),
        ("span: { 1 .. 3 } ", [1, 2, 3]),
        ("span:{08..10}", ["08", "09", "10"]),
        ("span:{1..003}", ["001", "002", "003"]),
        ("span:{-01..1}", ["-01", "000", "001"]),
        ("span:{-0..1}", [0, 1]),
        ("span:{a..e..2}", ["a", "c", "e"]),
        ("span:{Z..X}", ["Z", "Y", "X"]),
        ("span:[x]", ["x"]),
        ("span:[ alpha , b b ]", ["alpha", "b b"]),
        ("span:[1,2]", ["1", "2"]),
        ("span:[a,,]", ["a", "", ""]),
        ("span:[\"a, b\" , 'c\\'d', e\\,f]", ["a, b", "c'd", "e,f"]),
        ('span:["  ", ""]', ["  ", ""]),
        ("span:[don't,5\"]", ["don't", '5"']),
        ("span:[C:\\new,\\d+\\\\]", ["C:\\new", "\\d+\\"]),
        ("span:[a\\]", ["a\\"]),
        ("span:[a],[b]", ["a]", "[b"]),
        ("span:[a\nb,c]", ["a\nb", "c"]),
        ("--rate=span:[0.1,0.01]", ["--rate=0.1", "--rate=0.01"]),
        ("n=span:{1..2}", ["n=1", "n=2"]),
        ("n=span:{01..2}", ["n=01", "n=02"]),
        # what is none
        ("span:xyz", ["xyz"]),
        ("span:1", ["1"]),
        ("span:", [""]),
        ("", [""]),
        ("3", ["3"]),
        ("aspan:{1..2}", ["aspan:{1..2}"]),
        ("--rate=span:3", ["--rate=span:3"]),
        ("print(1, x = span:[3])", ["print(1, x = span:[3])"]),
        ("x-span:[1]", ["x-span:[1]"]),
    ],
)
def test_values(text: str, expected: list[int | str]) -> None:
    assert values(text) == expected
    assert [type(value) for value in values(text)] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("span:{1..x}", "it is no range"),
        ("span:{1}", "it is no range"),
        ("span:{a,b}", "a list is span:[x,y]"),
        ("span:{1..3", "it is no range"),
        ("span:{1..3}.txt", "with nothing after it"),
        ("span:{a..E}", "it is no range"),
        ("span:{a..3}", "it is no range"),
        ("span:{é..ü}", "it is no range"),
        ("span:{1..٣}", "it is no range"),
        ("span:{1..3..0}", "a step of 0"),
        ("span:{1..10000000000000000000}", "it is no range"),
        ("span:[]", "the list is empty"),
        ("span:[ ]", "the list is empty"),
        ("span:[a,b", "the list is not closed"),
        ("span:[a]b", "the list is not closed"),
        ("span:['a,b]", "must end with that quote"),
        ('span:["a"b,c]', "must end with that quote"),
        ("--x=span:{1..x}", "it is no range"),
        ("--x=span:[]", "the list is empty"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(Invalid, match="argument") as caught:
        parse(text)
    assert says in caught.value.message
    assert caught.value.value == text


ENDS = st.one_of(st.integers(-30, 30).map(str), st.integers(0, 30).map(lambda n: f"0{n}"), st.just("-007"))


@settings(max_examples=30)
@given(st.lists(st.tuples(ENDS, ENDS, st.sampled_from(["", "..1", "..2", "..-3", "..7"])), min_size=20, max_size=20))
def test_ranges_are_those_of_bash(ranges: list[tuple[str, str, str]]) -> None:
    braces = [f"{{{first}..{last}{step}}}" for first, last, step in ranges]
    said = subprocess.run(["bash", "-c", "\n".join(f"echo {b}" for b in braces)], capture_output=True, text=True)
    for brace, line in zip(braces, said.stdout.splitlines(), strict=True):
        assert [str(value) for value in values(f"span:{brace}")] == line.split(), brace


@given(st.lists(TEXTS, min_size=1))
def test_quoted_items_may_have_any_text(items: list[str]) -> None:
    quoted = ['"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items]
    assert values(f"span:[{', '.join(quoted)}]") == items


@given(st.one_of(st.integers(-(10**17), 10**17), TEXTS, TEXTS.map("span:".__add__), TEXTS.map("a=span:[".__add__)))
def test_literals_mean_themselves(value: int | str) -> None:
    assert values(literal(value)) == [value]
    assert type(values(literal(value))[0]) is type(value)


@given(TEXTS.map("span:[{}]".format) | TEXTS.map("span:{{{}}}".format) | TEXTS.map("x=span:{}".format))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        assert len(parse(text).values) > 0
    except Invalid as error:
        assert error.value == text


@given(st.lists(st.lists(st.text("ab"), min_size=1, max_size=4), max_size=4))
def test_combinations_are_in_the_order_of_nested_loops(lists: list[list[str]]) -> None:
    sweep = Sweep([spans.Span("", tuple(items)) for items in lists])
    expected = [list(combination) for combination in itertools.product(*lists)]
    assert sweep.total == len(expected)
    assert [sweep.combination(index) for index in range(sweep.total)] == expected


def test_a_sweep_of_any_size_costs_nothing() -> None:
    sweep = Sweep([parse("span:{1..1000000000000000}")] * 3)
    assert sweep.total == 10**45
    assert sweep.combination(10**45 - 2) == [10**15, 10**15, 10**15 - 1]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["span:1", "span:2", "x"], ["span:{1..2}"]),
        (["span:3", "span:2", "span:1"], ["span:{3..1}"]),
        (["span:08", "span:09", "span:10"], ["span:{08..10}"]),
        (["span:a", "span:b"], ["span:{a..b}"]),
        (["span:1", "span:5"], ["span:[1,5]"]),
        (["span:input_a", "span:input_b"], ["span:[input_a,input_b]"]),
        (["--n=span:1", "--n=span:2"], ["--n=span:{1..2}"]),
        (["span:1", "span:2", "--n=span:1", "--n=span:2"], ["span:{1..2}", "--n=span:{1..2}"]),
        (["--m=span:1", "--n=span:1"], []),
        (["span:1", "x", "span:2"], []),
        (["span:{1..2}", "span:{1..2}"], []),
        (["span:[a]", "span:[b]"], []),
        ([], []),
    ],
)
def test_what_a_shell_leaves_of_a_brace_is_recognised(arguments: list[str], meant: list[str]) -> None:
    assert [span for _, span in spans.expanded_by_shell(arguments)] == meant
