"""The child that calls a function: `call.py module:function '["arguments", 1]'`; run by its path, as a script.

The working directory counts for imports, as with `python -m`. What the function returns is not looked at; an exception
is told as Python does, without the frames of this file, and ends with 1.
"""

import importlib
import json
import os
import sys
import traceback

#: Files whose frames say nothing to whoever wrote the function.
_OURS = (__file__, importlib.__file__, "<frozen importlib")


def call(target: str, arguments: list) -> None:  # type: ignore[type-arg]
    """Import it and call it."""
    module, _, path = target.partition(":")
    function = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    function(*arguments)  # type: ignore[operator]


def _tell(kind: type, error: BaseException, trace) -> None:  # type: ignore[no-untyped-def]
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd()
    sys.excepthook = _tell
    sys.argv = [sys.argv[1], *map(str, values := json.loads(sys.argv[2]))]
    call(sys.argv[0], values)
