"""A host that stops itself (SIGSTOP) in the middle of one of its verbs: `python halting.py VERB TRIGGER`.

It is the host as it is, but its disk halts before the first such operation that comes after the file TRIGGER is there:
what was about to be done is done when the process is let go on, however late.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from hakuriver import cli
from hakuriver.spool.files import LocalDisk

#: Verb -> the operation of the seam, and the paths that it is about.
VERBS = {
    "take": ("rename", r"incoming/"),
    "write the entry": ("write", r"host/journal/"),
    "commit": ("rename", r"host/leader\."),
    "answer": ("rename", r"receipts/"),
    "dispatch": ("rename", r"nodes/[^/]*/inbox/"),
    "clear away": ("remove", r"host/taken/"),
    "snapshot": ("rename", r"jobs/"),
    "tell": ("rename", r"index/"),
}


def halt_at(verb: str, trigger: str) -> None:
    """Have the disk stop this process before the first such operation."""
    operation, pattern = VERBS[verb]
    real: Callable[..., Any] = getattr(LocalDisk, operation)
    halted: list[str] = []

    def halting(disk: LocalDisk, path: str, *rest: Any, **named: Any) -> Any:
        if not halted and re.match(pattern, path) and os.path.exists(trigger):
            halted.append(path)
            # To this thread: one to the process may be taken by another thread, and this one go on until that is done.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return real(disk, path, *rest, **named)

    setattr(LocalDisk, operation, halting)


if __name__ == "__main__":
    halt_at(sys.argv[1], sys.argv[2])
    sys.argv = ["hakuriver", "host"]
    cli.main()
