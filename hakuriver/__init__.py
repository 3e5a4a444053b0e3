"""HakuRiver: a few Linux machines that share a directory behave like one computer.

from hakuriver import submit, wait
job = submit(["echo", "hi"]).job
print(wait(job)[0].state)
"""

from __future__ import annotations

__version__ = "0.4.0"

#: Public names and the modules that they are loaded from when first used: a keeper or a shell loop pays for none.
_HOME = {
    "submit": "client",
    "submit_many": "client",
    "request": "client",
    "Submission": "client",
    "BatchSubmission": "client",
    "Answer": "client",
    "Receipt": "client",
    "Problem": "client",
    "TaskAnswer": "client",
    "Refused": "client",
    "wait": "waiting",
    "exit_code": "waiting",
    "Outcome": "waiting",
    "TimedOut": "waiting",
    "status": "reading",
    "Job": "reading",
    "Task": "reading",
    "Attempt": "reading",
    "read_logs": "logs",
    "HakuRiverError": "errors",
    "Invalid": "errors",
    "NotFound": "errors",
    "Ambiguous": "errors",
    "ShareProblem": "errors",
    "ConfigError": "config",
}

__all__ = [  # noqa: RUF022 - in the order in which one meets them
    "submit", "submit_many", "request", "wait", "exit_code", "status", "read_logs",
    "Submission", "BatchSubmission", "Answer", "Receipt", "Problem", "TaskAnswer",
    "Outcome", "TimedOut", "Job", "Task", "Attempt",
    "HakuRiverError", "Refused", "Invalid", "NotFound", "Ambiguous", "ShareProblem", "ConfigError",
]  # fmt: skip

TYPE_CHECKING = False  # known by this name to type checkers; importing typing for it would cost more than all else here
if TYPE_CHECKING:
    from hakuriver.client import (
        Answer,
        BatchSubmission,
        Problem,
        Receipt,
        Refused,
        Submission,
        TaskAnswer,
        request,
        submit,
        submit_many,
    )
    from hakuriver.config import ConfigError
    from hakuriver.errors import Ambiguous, HakuRiverError, Invalid, NotFound, ShareProblem
    from hakuriver.logs import read_logs
    from hakuriver.reading import Attempt, Job, Task, status
    from hakuriver.waiting import Outcome, TimedOut, exit_code, wait


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'hakuriver' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"hakuriver.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
