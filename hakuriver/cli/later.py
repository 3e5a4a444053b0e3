"""What earlier versions had and this one does not: each says so, and what serves meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hakuriver.cli.common import EXIT_REFUSED, note
from hakuriver.cli.frame import Command

_VPS = "VPS tasks (containers to log in to) are not in this version of HakuRiver"
_SSH = "the SSH relay is not in this version of HakuRiver"
_IN_ENVIRONMENTS = (
    "meanwhile: `hakuriver submit --container ENV -- COMMAND` runs work in an environment, "
    "and `hakuriver docker-shell ENV` on the host opens a shell in one"
)
_TO_NODES = (
    "meanwhile: `hakuriver task status ID` names the node, `hakuriver task logs -f ID` shows the output; "
    "log in to the node as to any machine"
)


def _whatever(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take all words and options that there may be."""
    return click.argument("words", metavar="[WORDS]...", nargs=-1, type=click.UNPROCESSED)(command)


def _answer(*lines: str) -> int:
    for line in lines:
        note(line)
    return EXIT_REFUSED


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@_whatever
def vps(words: tuple[str, ...]) -> int:  # noqa: ARG001 - the answer is the same
    """VPS tasks (containers to log in to) are not in this version: it says so, and exits with 1.

    \b
    Example:
      hakuriver vps submit                             # says what serves meanwhile:
      hakuriver submit --container my-env -- ./work    # work in an environment
      hakuriver docker-shell my-env                    # a shell in one, on the host
    """
    return _answer(_VPS, _IN_ENVIRONMENTS)


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@_whatever
def ssh(words: tuple[str, ...]) -> int:  # noqa: ARG001 - the answer is the same
    """The SSH relay to VPS tasks is not in this version: it says so, and exits with 1.

    \b
    Example:
      hakuriver ssh 5678                               # says what serves meanwhile:
      hakuriver task status 5678                       # names the node; log in to it as usual
    """
    return _answer(_SSH, _TO_NODES)


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@_whatever
def check_vps(words: tuple[str, ...]) -> int:  # noqa: ARG001 - the answer is the same
    """Whether an environment is fit for VPS tasks; these are not in this version: it says so, and exits with 1.

    \b
    Example:
      hakuriver docker check-vps my-env
    """
    return _answer(_VPS, _IN_ENVIRONMENTS)
