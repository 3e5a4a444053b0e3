"""`hakuriver runner`: run tasks on this machine."""

from __future__ import annotations

import sys

import click

from hakuriver import config
from hakuriver.cli import main
from hakuriver.cli.common import check_node_name, chosen_config, daemon_config_option, note
from hakuriver.cli.frame import Command


@click.command(cls=Command)
@click.option("--name", metavar="NODE", help="This node's name.  [node.name of the configuration, else the host name]")
@daemon_config_option
def runner(name: str | None) -> int:
    """Make this machine a node: run the tasks that the host sends here.

    Several may run on one machine under different names; a second one of the same name is refused. Ctrl-C or TERM
    stops it; its tasks go on under their keeper, and are reported when it runs again.

    \b
    Example:
      hakuriver runner --name n1
    """
    if name is not None:
        check_node_name(name)
    settings = config.load_for_daemon(chosen_config())
    if name is not None:
        settings.node.name = name
    from hakuriver import memory

    memory.begin()
    for remark in config.remarks(chosen_config()):
        note(remark)
    from hakuriver.runner.daemon import run

    return run(settings)


if __name__ == "__main__":  # as the units of earlier versions start it
    sys.argv[0] = "hakuriver.runner"
    main()
