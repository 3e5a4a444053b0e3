"""One command for all tasks of a job: each computes its own combination from HAKURIVER_TASK_INDEX.

The command is a script for /bin/sh, so that it works wherever tasks do, without hakurun or Python. Its size is the sum
of the spans, not their product: ranges are computed, lists looked up. Only what POSIX has is used (dash, busybox).
"""

from __future__ import annotations

import os
import shlex
from typing import NamedTuple

from hakuriver.errors import Invalid
from hakuriver.hakurun.spans import Padded, Span, Sweep, literal

TASKS_MAX = 1_000_000  #: of one job
#: What the kernel takes as one argument (MAX_ARG_STRLEN, execve(2)), its end included.
ARGUMENT_MAX = 128 * 1024


class JobCommand(NamedTuple):
    """What to submit."""

    command: list[str]
    array: str | None  #: None: a job of one task


def job_command(before: list[str], sweep: Sweep, typed: bool, at_once: int | None) -> JobCommand:
    """One job for all combinations; at most `at_once` of its tasks run at a time (None: as many as have room).

    `before`: words that the command begins with. `typed`: hakurun reads its arguments again, as spans of one value.
    Raises Invalid if the combinations are too many, or their values too long.
    """
    if sweep.total > TASKS_MAX:
        message = f"a job may have {TASKS_MAX:,} tasks: narrow a span, or submit it in parts"
        raise Invalid("argument", f"{sweep.total:,} combinations", message)
    if sweep.total == 1:
        return JobCommand([*before, *(literal(value) if typed else str(value) for value in sweep.combination(0))], None)
    text = script(before, sweep, typed)
    if (size := len(os.fsencode(text)) + 1) > ARGUMENT_MAX:
        message = f"a command may have {ARGUMENT_MAX:,}: put the values into a file, and let each task read its line"
        raise Invalid("argument", f"{size:,} bytes of values", message)
    most = f"%{at_once}" if at_once else ""
    return JobCommand(["sh", "-c", text], f"0-{sweep.total - 1}{most}")


def script(before: list[str], sweep: Sweep, typed: bool) -> str:
    """The script for the tasks 0 to `sweep.total` - 1."""
    lookups, words = [], [shlex.quote(word) for word in before]
    stride = sweep.total
    for number, span in enumerate(sweep.spans):
        count = len(span.values)
        stride //= count
        if isinstance(span.values, tuple) and count > 1:
            lookups.append(_lookup(f"_hakurun_{number}", _place(stride, count), span, typed))
            words.append(f'"$_hakurun_{number}"')
        else:
            words.append(_word(span, stride, typed))
    return "\n".join([*lookups, f"exec {' '.join(words)}", ""])


def _place(stride: int, count: int) -> str:
    """Which of an argument's values it is, from 0."""
    return f"HAKURIVER_TASK_INDEX / {stride} % {count}"


def _lookup(variable: str, place: str, span: Span, typed: bool) -> str:
    values = [str(span.at(index)) for index in range(len(span.values))]
    cases = [
        f"{index}) {variable}={shlex.quote(literal(value) if typed else value)};;" for index, value in enumerate(values)
    ]
    return "\n".join([f"case $(({place})) in", *cases, "esac"])


def _word(span: Span, stride: int, typed: bool) -> str:
    values = span.values
    if len(values) == 1:
        return shlex.quote(literal(span.at(0)) if typed else str(span.at(0)))
    prefix = shlex.quote(span.prefix) if span.prefix else ""
    if isinstance(values, Padded):
        return f'{prefix}"$(printf %0{values.width}d {_number(values.numbers, stride)})"'
    assert isinstance(values, range)
    number = _number(values, stride)
    if typed and not span.prefix:
        return f'"span:{{{number}..{number}}}"'
    return f'{prefix}"{number}"'


def _number(numbers: range, stride: int) -> str:
    return f"$(({numbers.start} + {_place(stride, len(numbers))} * ({numbers.step})))"
