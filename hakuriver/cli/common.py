"""What all commands share: options, where output goes, the note that no host answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from hakuriver import config
from hakuriver.client import host_last_seen
from hakuriver.errors import Invalid
from hakuriver.spool import layout
from hakuriver.spool.access import Share

F = TypeVar("F", bound=Callable[..., Any])

EXIT_REFUSED = 1
EXIT_UNKNOWN = 125


def _keep(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        if not value.strip():  # as of a variable that is not set: the usual file must not stand in for it
            raise Invalid("config", value, "it is empty: name a file")
        context.find_root().meta["hakuriver.config"] = value


def _config_option(*names: str) -> Callable[[F], F]:
    return click.option(
        *names,
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_keep,
        is_eager=True,
        help="Configuration file; else HAKURIVER_CONFIG, else ~/.hakuriver/config.toml.",
    )


#: --config, before or after the subcommand.
config_option = _config_option()
#: The same for daemons, which know it by a letter, too.
daemon_config_option = _config_option("-c")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; see `hakuriver schema`.")


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A time as people write it (90, 90s, 2h30m), in seconds; 0 is allowed."""
    from hakuriver import units

    try:
        return None if value is None else 0.0 if value == "0" else units.parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def timeout_option(default: str | None, text: str) -> Callable[[F], F]:
    """--timeout TIME."""
    shown = f"{text}  [{default}]" if default else text
    return click.option("--timeout", callback=duration, metavar="TIME", default=default, help=shown)


def chosen_config() -> str | None:
    """The file that --config names."""
    chosen: str | None = click.get_current_context().find_root().meta.get("hakuriver.config")
    return chosen


def directory(text: str, field: str = "shared_dir") -> str:
    """The whole path of an option like --shared-dir. An empty one, as of an unset variable, is not the working one."""
    if not text.strip():
        raise Invalid(field, text, "it is empty: name a directory")
    return os.path.abspath(os.path.expanduser(text))


def check_node_name(text: str) -> None:
    """Raises Invalid if no node can have this name."""
    if not layout.NODE_NAME.fullmatch(text):
        raise Invalid(
            "name",
            text,
            "a node's name is of a-z, 0-9, '.', '_' and '-', at most 63, and begins and ends alphanumerical",
        )


def share() -> Share:
    """The share that the configuration names, looked at."""
    return Share(config.shared_dir(chosen_config())).check()


def out(text: str) -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line for people."""
    sys.stdout.flush()
    sys.stderr.write(f"hakuriver: {text}\n")
    sys.stderr.flush()


def out_json(document: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def clean(text: object) -> str:
    """Text of others, fit for a terminal: control characters are shown as such, on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def no_answer(share: Share, what: str, alive: bool | None) -> str:
    """Why there is no receipt yet. `what`: as `the job waits`."""
    seen = host_last_seen(share)
    if alive:
        return f"a host is at work but has not answered yet; {what} in {share.root}"
    last = f"a host was last seen {seen}" if seen else "none has ever been seen"
    return f"host not responding ({last}); {what} in {share.root} until `hakuriver host` runs"
