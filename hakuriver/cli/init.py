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
@click.option("--path", metavar="FILE", help="Where to write it.  [as --config; else ~/.hakuriver/config.toml]")
@click.option("--force", is_flag=True, help="Replace a file that is there; it is kept as FILE.old.")
@config_option
def config_(shared_dir: str | None, path: str | None, force: bool) -> None:
    """Write a configuration file that tells every key, its default and meaning, in comments.

    It goes where --path says, else --config or HAKURIVER_CONFIG, else to ~/.hakuriver/config.toml. A file that is
    there is kept, unless --force is given.

    \b
    Example:
      hakuriver init config --shared-dir /mnt/river
      hakuriver init config --path runner2.toml --force
    """
    from hakuriver.cli.making import config_text, replace, write_new
    from hakuriver.settings import parse

    root = directory(shared_dir) if shared_dir is not None else None
    named = path if path is not None else chosen_config() or os.environ.get("HAKURIVER_CONFIG") or config.DEFAULT_FILE
    file = _file(named)
    text = config_text(root)
    parse({"paths": {"shared_dir": root}} if root else {}, file)
    if not write_new(file, text):
        if not force:
            raise Invalid(
                "path",
                file,
                "there is such a file already, and it is kept: `hakuriver init config --force` replaces it, "
                "with --path it goes elsewhere",
            )
        note(f"the file that was there is kept as {replace(file, text)}")
    out(file)


def _file(named: str) -> str:
    if not named.strip():
        raise Invalid("path", named, "it is empty: name a file")
    path = os.path.abspath(os.path.expanduser(named))
    if os.path.exists(path) and not os.path.isfile(path):
        raise Invalid("path", path, "this is no file: name one, as config.toml in a directory")
    return path
