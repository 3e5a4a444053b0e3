"""Where settings come from: `--config` > HAKURIVER_CONFIG > ~/.hakuriver/config.toml > defaults.

HAKURIVER_SHARED_DIR overrides `shared_dir` in all of them. Finding the share alone imports little, because
`hakuriver submit` is run in shell loops; the whole model stands in `settings.py`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    from hakuriver.settings import Settings

DEFAULT_FILE = "~/.hakuriver/config.toml"
#: Every key by its section: those of `settings.Settings`, whose import would take longer than a client's whole start.
KEYS = {
    section: frozenset(keys.split())
    for section, keys in {
        "paths": "shared_dir state_dir local_temp_dir numactl_path host_log_file runner_log_file",
        "node": "name",
        "database": "db_file",
        "timing": "heartbeat_interval offline_after lease lease_margin kill_grace poll_interval",
        "resources": "cores memory gpus",
        "limits": "output_local reserve_after",
        "retention": "jobs outputs receipts lost_keep",
        "cluster": "admins",
        "scheduling": "executor strategy",
        "environment": "runner_user",
        "docker": "host container_dir default_container_name initial_base_image tasks_privileged additional_mounts "
        "network user",
        "policy": "privileged_users allowed_mounts allow_null tasks_per_user cores_per_user memory_per_user "
        "gpus_per_user",
        "network": "host_port runner_port",
    }.items()
}
#: Documented before, without meaning now: accepted, with a note.
DEAD_KEYS = {"network.host_port", "network.runner_port"}


class ConfigError(HakuRiverError):
    """{file}: {key} = {value}: {what is wrong}; {remedy}."""


def config_file(chosen: str | None) -> str | None:
    """The file that applies, or None for defaults alone. Raises ConfigError if a named file is not there."""
    named = chosen or os.environ.get("HAKURIVER_CONFIG")
    if named:
        path = os.path.expanduser(named)
        if not os.path.isfile(path):
            origin = "--config" if chosen else "HAKURIVER_CONFIG"
            raise ConfigError(f"{path}: there is no such file; {origin} must name a configuration file")
        return path
    path = os.path.expanduser(DEFAULT_FILE)
    return path if os.path.isfile(path) else None


def read_table(path: str | None) -> dict[str, Any]:
    """The file's content as nested tables. Raises ConfigError if it is no TOML."""
    if path is None:
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            table: dict[str, Any] = tomllib.load(file)
            return table
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is no TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def shared_dir(chosen: str | None = None) -> str:
    """The share's path on this machine. Raises ConfigError if nothing names one, or for a key that does not exist."""
    override = os.environ.get("HAKURIVER_SHARED_DIR")
    if override:
        return os.path.abspath(os.path.expanduser(override))
    path = config_file(chosen)
    table = read_table(path)
    if not all(_known(section, keys) for section, keys in table.items()):
        load(chosen)  # it knows what to say
    value = table.get("paths", {}).get("shared_dir")
    if isinstance(value, str) and value:
        return os.path.abspath(os.path.expanduser(value))
    if path is None:
        raise ConfigError(
            f"where the share is mounted is not known: set HAKURIVER_SHARED_DIR, or write {DEFAULT_FILE} with "
            "`hakuriver init config --shared-dir DIR`"
        )
    raise ConfigError(
        f"{path}: paths.shared_dir is not set; "
        "set it there, or HAKURIVER_SHARED_DIR, to where the share is mounted here"
    )


def _known(section: str, keys: object) -> bool:
    return section in KEYS and isinstance(keys, dict) and keys.keys() <= KEYS[section]


def load(chosen: str | None = None) -> Settings:
    """All settings, checked. Raises ConfigError naming file, key, value and the nearest known key."""
    from hakuriver.settings import parse

    path = config_file(chosen)
    return parse(read_table(path), path or "defaults", os.environ.get("HAKURIVER_SHARED_DIR"))
