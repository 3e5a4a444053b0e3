"""What no host would take is told before it is sent: field, value, and what to write instead.

The rules are those of `records.RunRequest`, written by hand because pydantic takes longer to import than all of
`hakuriver submit` may take. The host checks everything again; a test holds the two against each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hakuriver.errors import Invalid
from hakuriver.spool import layout

TASKS_MAX = 1_000_000  #: of one job
EXECUTORS = ("auto", "docker", "systemd", "process")
#: Fields that may not go together.
_TOGETHER = {
    "targets", "executor", "container", "gpus", "privileged", "mounts", "private_network", "private_pid", "no_queue",
}  # fmt: skip


def task_ranges(array: str | None, targets: int) -> list[tuple[int, int]] | None:
    """Inclusive ranges of k in `<job>-<k>`; None for a job of one task, which bears the job's own id."""
    from hakuriver import units

    ranges = units.parse_array(array)[0] if array else [(0, 0)]
    indices = sum(high - low + 1 for low, high in ranges)
    count = indices * max(1, targets)
    if count == 1:
        return None
    return ranges if count == indices else [(0, count - 1)]


def task_range(job: str, array: str | None, targets: int) -> tuple[str, int]:
    """How the job's tasks are written in short, and how many there are."""
    ranges = task_ranges(array, targets) if array or targets > 1 else None
    if ranges is None:
        return job, 1
    from hakuriver import units

    return f"{job}-[{units.format_ranges(ranges)}]", sum(high - low + 1 for low, high in ranges)


def check(job: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Check what can be told here of a job, and write sizes and durations as numbers. Raises Invalid."""
    try:
        for field, rule in _RULES.items():
            if job.get(field) is not None:
                job[field] = rule(field, job[field])
        _check_count(job)
        _check_together(job)
    except Invalid as error:
        raise Invalid(where + error.field, error.value, error.message) if where else error from None
    if not job.get("command"):
        raise Invalid(f"{where}command", "", "there is none: name a program and its arguments")
    return job


def _check_count(job: dict[str, Any]) -> None:
    array, targets = job.get("array"), len(job.get("targets") or ())
    if array and (count := task_range("", array, targets)[1]) > TASKS_MAX:
        raise Invalid(
            "array", array, f"array and targets make {count:,} tasks; {TASKS_MAX:,} are the most: split the job"
        )


def _check_together(job: dict[str, Any]) -> None:
    if not _TOGETHER.isdisjoint(job):
        from hakuriver import targets

        try:
            targets.check_together(job)
        except targets.Conflict as conflict:
            raise Invalid(conflict.field, conflict.value, f"{conflict.message}; {conflict.remedy}") from None


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid(field, value, "it must be text")
    if "\0" in value:
        raise Invalid(field, value, "a NUL character cannot be passed to a program")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid(field, value, "it is not UTF-8: pass such bytes in a file") from None
    return value


def _texts(field: str, value: Any) -> list[str]:
    if isinstance(value, str | bytes):
        raise Invalid(field, value, "it must be a list, one word each")
    return [_text(field, os.fspath(part) if isinstance(part, os.PathLike) else part) for part in value]


def _command(field: str, value: Any) -> list[str]:
    words = _texts(field, value)
    if words and not words[0]:
        raise Invalid(field, "", "the program's name is empty")
    return words


def _targets(field: str, value: Any) -> list[str]:
    from hakuriver import targets

    return [_parsed(field, target, targets.parse) for target in _texts(field, value)]


def _mounts(field: str, value: Any) -> list[str]:
    from hakuriver import targets

    return [_parsed(field, mount, targets.parse_mount) for mount in _texts(field, value)]


def _parsed(field: str, text: str, parse: Callable[[str], object]) -> str:
    """The text as it is, if it can be parsed."""
    try:
        parse(text)
    except ValueError as error:
        raise Invalid(field, text, _reason(error)) from None
    return text


def _container(field: str, value: Any) -> str:
    if _text(field, value) != "NULL" and not layout.ENVIRONMENT_NAME.fullmatch(value):
        raise Invalid(field, value, "no environment can have that name: a-z, 0-9, '.', '_', '-', 63 at most; or NULL")
    return str(value)


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(field, value, "it must be true or false")
    return value


def _env(field: str, value: Any) -> dict[str, str]:
    for name, text in value.items():
        plain = name.replace("_", "a")
        if not (plain.isascii() and plain.isalnum()) or name[0].isdigit():
            raise Invalid(field, name, "no variable can have that name: letters, digits and _, no digit first")
        if name.startswith("HAKURIVER_"):
            raise Invalid(field, name, "names that begin with HAKURIVER_ are set by HakuRiver itself: choose another")
        _text(field, text)
    return dict(value)


def _size(field: str, value: Any) -> int:
    from hakuriver import units

    try:
        size = units.parse_size(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Invalid(field, value, _reason(error)) from None
    return _whole(field, size, 1, 2**60)


def duration(field: str, value: Any) -> float:
    """Seconds, given as a number or as text. Raises Invalid."""
    from hakuriver import units

    if isinstance(value, bool):
        raise Invalid(field, value, "it must be seconds, or text as 90s")
    try:
        seconds = float(units.parse_duration(value) if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise Invalid(field, value, _reason(error)) from None
    if not 0 <= seconds <= 10**9 or (field == "time_limit" and seconds == 0):
        raise Invalid(field, value, "it must be more than zero, and less than 30 years")
    return seconds


def _array(field: str, value: Any) -> str:
    from hakuriver import units

    try:
        units.parse_array(_text(field, value))
    except ValueError as error:
        raise Invalid(field, value, _reason(error)) from None
    return str(value)


def _reason(error: Exception) -> str:
    """The units' texts begin with the value, which is told already."""
    return error.message if isinstance(error, Invalid) else "it " + str(error).partition("' ")[2].strip()


def _whole(field: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Invalid(field, value, f"it must be a whole number from {low:,} to {high:,}")
    return value


def _workdir(field: str, value: Any) -> str:
    path = _text(field, os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not path.startswith("/"):
        raise Invalid(field, value, "it must be an absolute path on the node, as /data/run1")
    return path


def _executor(field: str, value: Any) -> str:
    if value not in EXECUTORS:
        raise Invalid(field, value, f"it must be one of {', '.join(EXECUTORS)}")
    return str(value)


def _name(field: str, value: Any) -> str:
    if len(_text(field, value)) > 200:
        raise Invalid(field, value, "200 characters are the most")
    return str(value)


_RULES = {
    "command": _command,
    "name": _name,
    "targets": _targets,
    "cores": lambda field, value: _whole(field, value, 0, 100_000),
    "memory": _size,
    "env": _env,
    "workdir": _workdir,
    "executor": _executor,
    "container": _container,
    "gpus": lambda field, value: _whole(field, value, 0, 64),
    "privileged": _flag,
    "mounts": _mounts,
    "private_network": _flag,
    "private_pid": _flag,
    "priority": lambda field, value: _whole(field, value, -100, 100),
    "time_limit": duration,
    "retries": lambda field, value: _whole(field, value, 0, 1000),
    "array": _array,
    "no_queue": _flag,
}
