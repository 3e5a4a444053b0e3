"""Checks what lies at the door, and says what is wrong with it: field, value, remedy."""

from __future__ import annotations

import difflib
import json
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hakuriver.records import (
    JOB_FILE_MAX,
    NESTING_MAX,
    ControlRequest,
    EnvironmentRequest,
    HostRequest,
    JobSpec,
    NodeRequest,
    RunRequest,
)
from hakuriver.targets import Conflict

_MODELS: dict[str, type[BaseModel]] = {"run": RunRequest}
for _model in (ControlRequest, NodeRequest, HostRequest, EnvironmentRequest):
    _MODELS |= dict.fromkeys(get_args(_model.model_fields["request"].annotation), _model)

#: Characters of a value that are shown.
VALUE_MOST = 200
#: Problems told of one file at most.
PROBLEMS_MOST = 20


class Refusal(Exception):
    """A request that cannot be accepted: {problems}."""

    def __init__(self, problems: list[dict[str, Any]], *, kind: str = "run", unfinished: bool = False) -> None:
        super().__init__(problems)
        self.problems = problems
        self.kind = kind
        self.unfinished = unfinished  #: it may only be that the file is still being written


class Unfinished(Exception):
    """The file may still be growing."""


def problem(field: str, value: object, message: str, remedy: str | None = None) -> dict[str, Any]:
    """One thing that is wrong: records.Problem. What came from the file is cut short and made printable."""
    shown = None if value is None else _shown(str(value))
    return {"field": _shown(field), "value": shown, "message": _shown(message, 2000), "remedy": remedy}


def _shown(text: str, most: int = VALUE_MOST) -> str:
    """Half a surrogate pair can be written as JSON, and then the journal could not be read any more."""
    return text[:most].encode("utf-8", "backslashreplace").decode()


def document(data: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8, no NaN, no key twice, not nested too deep. Raises Refusal."""
    try:
        found = _STRICT.decode(data.decode("utf-8-sig"))  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise Refusal(
            [problem("file", None, f"it is not UTF-8: {error.reason} at byte {error.start}", "save it as UTF-8")],
            unfinished=True,
        ) from None
    except RecursionError:
        raise Refusal([_TOO_DEEP]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = f"it is no JSON: {error.msg.removesuffix(' at')} at {where}"
        remedy = "mend it there; `hakuriver schema job` shows a job"
        raise Refusal([problem("file", None, message, remedy)], unfinished=True) from None
    except NotStrict as error:
        raise Refusal([problem("file", None, error.message, error.remedy)]) from None
    except ValueError as error:
        raise Refusal([problem("file", None, str(error), "write a smaller number")]) from None
    if not isinstance(found, dict):
        raise Refusal([problem("file", None, "it must be a JSON object", 'write {"command": ["echo", "hi"]}')])
    if _depth(found) > NESTING_MAX:
        raise Refusal([_TOO_DEEP])
    return found


class NotStrict(ValueError):
    """JSON that some would read: {message}; {remedy}."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def _no_constant(name: str) -> None:
    raise NotStrict(f"{name} is no JSON number", "write a number, or leave the key out")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrict(f"the key {twice[:100]!r} stands in it twice", "leave one of the two out")
    return found


_TOO_DEEP = problem("file", None, f"it is nested deeper than {NESTING_MAX} levels", "flatten it")
_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= NESTING_MAX:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def request(data: bytes) -> Any:
    """Read one request: a records.Request. Raises Refusal."""
    return check(document(data))


def check(found: dict[str, Any]) -> Any:
    """Check a parsed request against its model. Raises Refusal."""
    kind = found.get("request", "run")
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    if isinstance(kind, str) and kind.startswith("vps"):
        raise Refusal([problem("request", kind, "this version has no VPS yet", "run a command: request = run")])
    if model is None:
        near = difflib.get_close_matches(str(kind)[:100], _MODELS, n=1, cutoff=0.0)[0]
        raise Refusal([problem("request", kind, "there is no such request", f"did you mean {near}?")])
    try:
        return model.model_validate(found)
    except ValidationError as error:
        problems = [_explain(e, model) for e in error.errors()[:PROBLEMS_MOST]]
        raise Refusal(problems, kind=kind) from None


def _explain(error: Any, model: type[BaseModel]) -> dict[str, Any]:
    field = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field[:100], model.model_fields, n=1, cutoff=0.0)
        return problem(field, error["input"], "there is no such key", f"the nearest known one is {near[0]}")
    if error["type"] == "missing":
        return problem(field, None, "it must be there", f"add {field!r}")
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, Conflict):
        return problem(raised.field, raised.value, raised.message, raised.remedy)
    info = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    value = None if error["loc"][:1] in ((), ("env",)) else error["input"]  # receipts are open to all, an env is not
    remedy = (info.description if info else None) or "`hakuriver schema job` shows what it may hold"
    return problem(field, value, error["msg"].removeprefix("Value error, "), remedy)


def batch(data: bytes, settled: bool) -> list[RunRequest]:
    """Read JSON Lines, one job a line, closed by {"end": N}. All or nothing. Raises Refusal, Unfinished."""
    lines = data.split(b"\n")
    whole = lines[-1] == b""
    if whole:
        lines.pop()
    closing = _closing(lines[-1]) if lines and (whole or settled) else None
    if closing is None and not settled:
        raise Unfinished
    if closing is not None:
        lines.pop()
        if closing != len(lines):
            message = f"the last line says {closing} jobs, {len(lines)} lines stand before it"
            raise Refusal([problem("end", closing, message, "write the file whole, then rename it")], kind="batch")
    jobs, problems = [], []
    ids: set[str | None] = {None}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            jobs.append(_line(line, ids))
        except Refusal as refusal:
            problems += [{**p, "field": f"line {number}: {p['field']}"} for p in refusal.problems]
    if not jobs and not problems:
        problems.append(problem("file", None, "there is no job in it", "write one a line"))
    if problems:
        raise Refusal(problems[:PROBLEMS_MOST], kind="batch")
    return jobs


def _closing(line: bytes) -> int | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    end = found.get("end") if isinstance(found, dict) and len(found) == 1 else None
    return end if type(end) is int else None


def _line(line: bytes, ids: set[str | None]) -> RunRequest:
    """A job of a batch, and of which no line before has the id."""
    if len(line) > JOB_FILE_MAX:
        message = f"a job may have {JOB_FILE_MAX:,} bytes at most"
        raise Refusal([problem("line", f"{len(line):,} bytes", message, "put its data into a file of its own")])
    body = request(line)
    if not isinstance(body, RunRequest):
        raise Refusal(
            [problem("request", body.request, "only jobs may stand in a batch", "drop it as a file of its own")]
        )
    if body.id is not None and body.id in ids:
        raise Refusal([problem("id", body.id, "this id stands in it twice", "leave it out")])
    ids.add(body.id)
    return body


def of_its_id(stem: str, given: str | None) -> list[dict[str, Any]]:
    """What is wrong if a file that is named by an id holds another one."""
    if given in (None, stem):
        return []
    return [problem("id", given, f"the file's name says {stem}", "name it so, or leave the id out")]


def touched(kind: str, stem: str) -> ControlRequest:
    """A request that is all in its name: `<job or task>.kill`. Raises Refusal."""
    try:
        return ControlRequest.model_validate({"request": kind, "targets": [stem]})
    except ValidationError:
        message = "its name must be a job id or a task"
        remedy = f"name it ID.{kind}; `hakuriver task list` shows ids"
        raise Refusal([problem("file", f"{stem}.{kind}", message, remedy)], kind=kind) from None


#: What is not kept of a job that does not ask for it: thousands of jobs lie in the journal.
_LEFT_OUT = ("gpus", "private_network", "private_pid", "no_queue")


def spec_of(body: RunRequest) -> dict[str, Any]:
    """What is kept of a request to run: records.JobSpec."""
    kept = body.model_dump(exclude={"request", "format", "id"}, exclude_none=True)
    for old, new in (("memory", "memory_bytes"), ("time_limit", "time_limit_s")):
        if old in kept:
            kept[new] = kept.pop(old)
    for name in _LEFT_OUT:
        if not kept[name]:
            del kept[name]
    assert not kept.keys() - JobSpec.model_fields.keys()
    return kept
