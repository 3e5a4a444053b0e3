"""What can go wrong for whoever uses HakuRiver: one base class, and each message says what, where and what to do."""

from __future__ import annotations


class HakuRiverError(Exception):
    """Base of all errors of the client library."""


class ShareProblem(HakuRiverError):
    """Cannot {operation} {path}: {error}; {remedy}."""


class NotFound(HakuRiverError):
    """No job, task, node or output of that name."""


class Ambiguous(HakuRiverError):
    """An ending that several jobs have; the message lists them."""


class Invalid(HakuRiverError, ValueError):
    """A value that no host would accept: {field}: {value}: {message}."""

    def __init__(self, field: str, value: object, message: str) -> None:
        self.field = field  #: parameter of `submit`, as `time_limit`
        self.value = value
        self.message = message  #: what is wrong, and what to write instead
        super().__init__(f"{field} = {value!r}: {message}")
