"""`hakuriver host`: run the host; ask it to delete what is old, or to rebuild its index."""

from __future__ import annotations

import sys
from typing import Any

import click

from hakuriver import config
from hakuriver.cli import main
from hakuriver.cli.common import (
    chosen_config,
    config_option,
    daemon_config_option,
    json_option,
    note,
    share,
    timeout_option,
)
from hakuriver.cli.frame import Command, LazyGroup
from hakuriver.cli.task_control import PATIENCE, ask, report


@click.group(
    cls=LazyGroup,
    lazy={"gc": "host:gc", "reindex": "host:reindex"},
    aliases={"rebuild-index": "reindex"},
    invoke_without_command=True,
)
@daemon_config_option
@click.pass_context
def host(context: click.Context) -> int | None:
    """Run the host: it accepts jobs, and decides which node runs what. One machine of the cluster does.

    Started while another leads, it stands by and takes over when that one falls silent. Ctrl-C or TERM stops it;
    running tasks go on.

    \b
    Example:
      hakuriver host
    """
    if context.invoked_subcommand is not None:
        return None
    settings = config.load_for_daemon(chosen_config())
    from hakuriver import memory

    memory.begin()
    for remark in config.remarks(chosen_config()):
        note(remark)
    from hakuriver.host.daemon import run

    return run(settings)


@click.command(cls=Command)
@click.option("--older-than", metavar="TIME", help="Whatever is older, as 30d, instead of the settings.")
@timeout_option(PATIENCE, "How long the answer is waited for.")
@json_option
@config_option
def gc(older_than: str | None, timeout: float, as_json: bool) -> int:
    """Delete finished jobs, their outputs and receipts that are older than their retention. For admins.

    The host does so by itself from time to time; jobs that are not over are never touched.

    \b
    Example:
      hakuriver host gc --older-than 7d
    """
    return _ask("gc", timeout, as_json, older_than=older_than)


@click.command(cls=Command)
@timeout_option(PATIENCE, "How long the answer is waited for.")
@json_option
@config_option
def reindex(timeout: float, as_json: bool) -> int:
    """Have the host rebuild its index and pages from the files. For admins.

    \b
    Example:
      hakuriver host reindex
    """
    return _ask("reindex", timeout, as_json)


def _ask(kind: str, timeout: float, as_json: bool, **more: Any) -> int:
    river = share()
    return report(river, kind, [ask(river, kind, [], timeout, **more)], as_json)


if __name__ == "__main__":  # as the units of earlier versions start it
    sys.argv[0] = "hakuriver.host"
    main()
