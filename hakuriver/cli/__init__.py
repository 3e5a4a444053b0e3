"""The command line: thin, one file a noun, each loaded when it is asked for.

Data goes to stdout, everything else to stderr. Exit status: 0 done; 1 refused, or something is in the way; 2 usage;
130 interrupted; 141 nobody reads the output any more; `wait` and `submit --wait` exit with what the task exited with
(see `hakuriver task wait --help`).
"""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of the program that was called, `hakuriver`, `hakuriver.task`, ..., and leave."""
    _open_streams()
    status = run(sys.argv[1:], os.path.basename(sys.argv[0]))
    # Taking the interpreter down in order costs 5 ms, a third of what `hakuriver submit` may take beyond its start.
    os._exit(status)


def _open_streams() -> None:
    """What was closed is empty, as /dev/null: a file opened later must not become our output, or that of children.

    What the encoding of the output does not have is written as \\u20ac.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
        sys.stdin = sys.stdin or os.fdopen(0)
        sys.stdout = sys.stdout or os.fdopen(1, "w")
        sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str], program: str = "hakuriver") -> int:
    """Run one command line of a program; return its exit status. No exception leaves this."""
    try:
        return _run(arguments, program)
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # below the ^C of a terminal
        return 130
    except BrokenPipeError:
        return _hushed()
    except Exception as error:
        from hakuriver.cli.failing import explain

        return explain(error)
    finally:
        _flush()


def _run(arguments: list[str], program: str) -> int:
    import click

    from hakuriver.cli.frame import SETTINGS, load, noun_of
    from hakuriver.cli.root import cli

    noun = noun_of(program)
    command, name = (load(cli.lazy[noun]), program) if noun else (cli, "hakuriver")
    if os.environ.get("_HAKURIVER_COMPLETE"):
        from hakuriver.cli.completing import complete

        return complete(command, name, arguments)
    try:
        # Not main(): it would leave with 1 when nobody reads the output.
        with command.make_context(name, list(arguments), **SETTINGS) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130


def _hushed() -> int:
    """Whoever read our output has gone: not an error of ours. The interpreter must not try to write the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 128 + 13


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody is left to tell
