"""`hakuriver config`: what applies here and why, and what is wrong with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hakuriver import config
from hakuriver.cli.common import chosen_config, config_option, json_option, note, out, out_json
from hakuriver.cli.frame import Command

if TYPE_CHECKING:
    from hakuriver.faults import Fault
from hakuriver.settings import Settings


class Origin(NamedTuple):
    """Where a value comes from."""

    source: str  #: file, environment, derived, default
    origin: str  #: the file, the variable, the keys


class Value(NamedTuple):
    """A key and what it is here."""

    key: str
    value: Any
    toml: str
    origin: Origin
    has_effect: bool


@click.command(cls=Command)
@json_option
@config_option
def show(as_json: bool) -> None:
    """Print each key, the value that it has here, and where that comes from.

    Values are written as in the file; - means that there is none, and what is found on the machine applies.

    \b
    Example:
      hakuriver config show
      hakuriver --config /etc/hakuriver/config.toml config show --json
    """
    settings = config.load(chosen_config())
    file = config.config_file(chosen_config())
    found = values(settings, config.read_table(file), file)
    if as_json:
        out_json({"file": file, "values": [_row(each) for each in found]})
        return
    from hakuriver.cli.tables import table

    for line in table(["KEY", "VALUE", "FROM"], [[each.key, each.toml, _told(each)] for each in found]):
        out(line)


def values(settings: Settings, table: dict[str, Any], file: str | None) -> list[Value]:
    """Every key in the order of the model. `table`: the content of `file`, a valid one."""
    from hakuriver.kinds import value_text
    from hakuriver.settings import settings_rows

    found = []
    for row in settings_rows():
        key = f"{row.section}.{row.key}"
        value = _effective(settings, key, getattr(getattr(settings, row.section), row.key))
        origin = _origin(key, table.get(row.section, {}), file)
        text = "" if value is None else value_text(row.kind, value)
        found.append(Value(key, value, text, origin, key not in config.DEAD_KEYS | config.RELAY_KEYS))
    return found


def _effective(settings: Settings, key: str, value: Any) -> Any:
    """The value that is used where the key's own is empty."""
    derived = {
        "database.db_file": settings.db_file,
        "timing.resource_check_interval": settings.timing.gpu_interval,
        "docker.host": f"unix://{settings.docker.socket}",
    }
    return derived.get(key, value)


#: Values that come from others if nothing says them.
_DERIVED = {
    "node.name": "the host name",
    "database.db_file": "paths.state_dir",
    "timing.offline_after": "timing.heartbeat_interval, timing.heartbeat_timeout_factor",
    "timing.resource_check_interval": "timing.heartbeat_interval",
}


def _origin(key: str, said: dict[str, Any], file: str | None) -> Origin:
    name = key.partition(".")[2]
    if key == "paths.shared_dir" and os.environ.get("HAKURIVER_SHARED_DIR"):
        return Origin("environment", "HAKURIVER_SHARED_DIR")
    # Empty text means that the file leaves it open.
    if name in said and not (said[name] == "" and (key in _DERIVED or key == "docker.host")):
        return Origin("file", str(file))
    if key == "docker.host" and os.environ.get("DOCKER_HOST", "").startswith("unix://"):
        return Origin("environment", "DOCKER_HOST")
    return Origin("derived", _DERIVED[key]) if key in _DERIVED else Origin("default", "")


def _told(value: Value) -> str:
    source, origin = value.origin
    text = f"derived from {origin}" if source == "derived" else origin or source
    return text if value.has_effect or source == "default" else f"{text} (no effect)"


def _row(value: Value) -> dict[str, Any]:
    return {
        "key": value.key, "value": value.value, "toml": value.toml or None, "source": value.origin.source,
        "origin": value.origin.origin or None, "has_effect": value.has_effect,
    }  # fmt: skip


@click.command(cls=Command)
@json_option
@config_option
def check(as_json: bool) -> int:
    """Look for faults in the configuration that applies here: all of them, and where each is.

    Notes tell of keys without effect, and of what is right in form but will not work on this machine. They change
    nothing about the exit status, which is 1 if there is a fault, else 0.

    \b
    Example:
      hakuriver config check
      hakuriver --config new.toml config check
    """
    try:
        file = config.config_file(chosen_config())
        table = config.read_table(file)
    except config.ConfigError as error:
        if not as_json:
            raise
        problem = {"key": None, "value": None, "text": str(error)}
        out_json({"file": None, "good": False, "problems": [problem], "notes": []})
        return 1
    faults, notes = _look(table)
    if as_json:
        rows = {"problems": [_fault(each) for each in faults], "notes": [_fault(each) for each in notes]}
        out_json({"file": file, "good": not faults, **rows})
    else:
        _say(file or "defaults", faults, notes)
    return 1 if faults else 0


def _look(table: dict[str, Any]) -> tuple[list[Fault], list[Fault]]:
    """Faults and notes; there are no notes on what is not valid."""
    from hakuriver.remarks import not_here, without_effect
    from hakuriver.settings import examine

    settings, faults = examine(table, os.environ.get("HAKURIVER_SHARED_DIR"))
    return faults, [] if faults else [*without_effect(table), *not_here(settings)]


def _say(file: str, faults: list[Fault], notes: list[Fault]) -> None:
    for fault in faults:
        note(f"{file}: {fault}")
    for each in notes:
        note(f"note: {each}")
    if not faults:
        out(f"{file}: good")


def _fault(fault: Fault) -> dict[str, Any]:
    return {"key": fault.key, "value": fault.value or None, "text": fault.text}
