"""`hakuriver init`: make a share's river, or a configuration file."""

from __future__ import annotations

import os

import click

from hakuriver import config
from hakuriver.cli.common import chosen_config, config_option, directory, note, out
from hakuriver.cli.frame import Command
from hakuriver.errors import Invalid


@click.command(cls=Command)
@click.option(
    "--shared-dir", required=True, metavar="DIR", help="Where the share is mounted here; made if it is not there."
)
@click.option("--name", metavar="CLUSTER", help="The cluster's name.  [the directory's]")
def share(shared_dir: str, name: str | None) -> None:
    """Make a river on a share, once for a cluster. Nothing else ever makes one.

    Whoever runs it owns the river. What is in DIR already stays as it is.

    \b
    Example:
      hakuriver init share --shared-dir /mnt/river --name lab
    """
    from hakuriver.cli.making import make_river

    root = directory(shared_dir)
    river = make_river(root, name)
    out(f"{root} is the river {river.cluster!r} now")
    note("next: `hakuriver host` on one machine, `hakuriver runner` on each, all with this shared_dir")


@click.command("config", cls=Command)
@click.option("--shared-dir", metavar="DIR", help="Where the share is mounted on this machine.")
@config_option
def config_(shared_dir: str | None) -> None:
    """Write a configuration file with every key, its default and meaning, in comments.

    It goes where --config or HAKURIVER_CONFIG says, else to ~/.hakuriver/config.toml; a file that is there is kept.

    \b
    Example:
      hakuriver init config --shared-dir /mnt/river
    """
    from hakuriver.cli.making import config_text, write_new

    named = chosen_config() or os.environ.get("HAKURIVER_CONFIG") or config.DEFAULT_FILE
    path = os.path.abspath(os.path.expanduser(named))
    if not write_new(path, config_text(directory(shared_dir) if shared_dir is not None else None)):
        raise Invalid("config", path, "there is such a file already, and it is kept: name another, or remove it")
    out(path)
