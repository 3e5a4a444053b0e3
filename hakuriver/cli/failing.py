"""What is said when something went wrong: one message, no traceback (but with HAKURIVER_DEBUG=1)."""

from __future__ import annotations

import os
import re
import sys

from hakuriver.errors import HakuRiverError, Invalid

#: Parameters of `submit` whose option has another name.
_OPTIONS = {
    "targets": "--target",
    "mounts": "--mount",
    "command": "COMMAND",
    "ID": "ID",
    "ENV": "ENV",
    "NODE": "NODE",
    "argument": "argument",
    "from": "--from",
    "executor": "--executor",
}


def explain(error: Exception) -> int:
    """Say what was wrong; return the exit status."""
    if os.environ.get("HAKURIVER_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, Invalid):
        return _say(f"{option(error.field)} {shown(error.value)}: {error.message}", 2)
    if isinstance(error, HakuRiverError):
        return _say(str(error), 1)
    if isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        if isinstance(error, FileExistsError):
            return _say(f"{error.strerror}{place}: something else stands where a directory must be: name another", 1)
        return _say(f"{error.strerror or error}{place}: see whether it exists, may be written, and has room", 1)
    what = f"{type(error).__name__}: {error}"
    return _say(f"a fault in HakuRiver itself: {what}; set HAKURIVER_DEBUG=1 to see where, and report it", 1)


def option(field: str) -> str:
    """The option that sets a field of a job; `line N: field` stays as it is."""
    if ":" in field:
        return field
    return _OPTIONS.get(field, "--" + field.replace("_", "-"))


def shown(value: object) -> str:
    """A value fit for a message: on one line, not too long, with nothing that a terminal obeys."""
    text = str(value)
    text = text if len(text) <= 200 else text[:200] + "…"
    return repr(text) if not text or re.search(r"[^\w.,:=/%+@~\[\]-]", text) else text


def _say(text: str, status: int) -> int:
    try:
        sys.stdout.flush()  # what was printed before the error comes first
    except (OSError, ValueError):
        pass  # perhaps that is what the message is about
    sys.stderr.write(f"hakuriver: {text}\n")
    return status
