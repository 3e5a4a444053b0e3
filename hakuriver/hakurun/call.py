"""The child that calls a function: `call.py module:function '["arguments", 1]'`; run by its path, as a script.

The working directory counts for imports, as with `python -m`. What the function returns is not looked at; an exception
is told as Python does, without the frames of this file, and ends with 1.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from operator import attrgetter
from types import TracebackType

#: Files whose frames say nothing to whoever wrote the function.
_OURS = (__file__, importlib.__file__, "<frozen importlib")


def call(target: str, arguments: list[object]) -> None:
    """Import `module:function` and call it; the function may lie in a class, as `module:Class.function`."""
    module, _, path = target.partition(":")
    attrgetter(path)(importlib.import_module(module))(*arguments)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd()
    sys.excepthook = _tell
    target, values = sys.argv[1], json.loads(sys.argv[2])
    sys.argv = [target, *map(str, values)]
    call(target, values)
