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
#: A file that is longer is something else.
MOST_BYTES = 1 << 20
#: Every key by its section: those of `settings.Settings`, whose import would take longer than a client's whole start.
KEYS = {
    section: frozenset(keys.split())
    for section, keys in {
        "paths": "shared_dir state_dir local_temp_dir numactl_path host_log_file runner_log_file",
        "node": "name",
        "database": "db_file",
        "timing": "heartbeat_interval heartbeat_timeout_factor offline_after lease lease_margin kill_grace "
        "poll_interval cleanup_check_interval resource_check_interval",
        "resources": "cores memory gpus",
        "limits": "output_local reserve_after",
        "retention": "jobs outputs receipts lost_keep",
        "cluster": "admins",
        "scheduling": "executor strategy",
        "environment": "runner_user",
        "docker": "host container_dir default_container_name initial_base_image tasks_privileged additional_mounts "
        "network user",
        "policy": "privileged_users allowed_mounts allow_null require_target tasks_per_user cores_per_user "
        "memory_per_user gpus_per_user",
        "network": "host_reachable_address host_bind_ip host_ssh_proxy_port runner_address host_port runner_port",
    }.items()
}
#: Documented before, without meaning now: accepted, with a note.
DEAD_KEYS = {"network.host_port", "network.runner_port"}
#: For the ssh relay: accepted, without effect before there is one.
RELAY_KEYS = {
    "network.host_reachable_address", "network.host_bind_ip", "network.host_ssh_proxy_port", "network.runner_address",
}  # fmt: skip


def nearest_key(key: str) -> str:
    """Name the known key that looks most like `key`."""
    key = key[:100]
    known = (f"{section}.{name}" for section, names in KEYS.items() for name in sorted(names))
    near = max(known, key=lambda each: _likeness(key, each))
    section, _, name = near.partition(".")
    where = "" if key.startswith(f"{section}.") and key != near else f": write {name} = ... below [{section}]"
    return f"the nearest known one is {near}{where}"


def _likeness(key: str, known: str) -> tuple[float, float]:
    """By the name alone, as of a key in the wrong section, or by the whole."""
    from difflib import SequenceMatcher

    whole = SequenceMatcher(None, key, known).ratio()
    name = SequenceMatcher(None, key.rpartition(".")[2], known.partition(".")[2]).ratio()
    return max(whole, name), whole


def nearest_section(section: str) -> str:
    """Name the known section that looks most like `section`."""
    from difflib import get_close_matches

    return f"the nearest known one is [{get_close_matches(section[:100], KEYS, n=1, cutoff=0.0)[0]}]"


class ConfigError(HakuRiverError):
    """{file}: {key} = {value}: {what is wrong}; {remedy}."""


def config_file(chosen: str | None, option: str = "--config") -> str | None:
    """The file that applies, or None for defaults alone. Raises ConfigError if it cannot be one.

    `option`: which has named `chosen`.
    """
    named = chosen or os.environ.get("HAKURIVER_CONFIG")
    path = os.path.abspath(os.path.expanduser(named or DEFAULT_FILE))
    if os.path.isfile(path):
        return path
    if not named and not os.path.lexists(path):
        return None
    origin = option if chosen else "HAKURIVER_CONFIG" if named else "this place"
    what = "this is a directory" if os.path.isdir(path) else "there is no such file"
    what = "this is no regular file" if os.path.exists(path) and not os.path.isdir(path) else what
    raise ConfigError(f"{path}: {what}; {origin} must name a configuration file")


def read_table(path: str | None) -> dict[str, Any]:
    """The file's content as nested tables. Raises ConfigError, with the line, if it is no TOML."""
    if path is None:
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(_text(path))
        return table
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: this is no TOML: {error}") from None


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; see whose it is, and its mode") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: this is no configuration file: it has more than {MOST_BYTES} bytes")
    try:
        return data.decode().removeprefix("\ufeff")  # some editors begin UTF-8 with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: this is no TOML: line {line} is no UTF-8; save the file as UTF-8") from None


def shared_dir(chosen: str | None = None) -> str:
    """The share's path on this machine. Raises ConfigError if nothing names one, or for a key that does not exist."""
    path = config_file(chosen)
    override = os.environ.get("HAKURIVER_SHARED_DIR")
    if override:
        return os.path.abspath(os.path.expanduser(override))
    table = read_table(path)
    known = all(_known(section, keys) for section, keys in table.items())
    value = table.get("paths", {}).get("shared_dir", "") if known else None
    if not isinstance(value, str) or "\0" in value:
        load(chosen)  # it knows what to say
    elif value:
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


def load_for_daemon(chosen: str | None = None) -> Settings:
    """As `load`, for who works on a share; raises ConfigError also if nothing names one."""
    settings = load(chosen)
    if not settings.paths.shared_dir:  # which would be the working directory
        shared_dir(chosen)
    return settings


def remarks(chosen: str | None = None) -> list[str]:
    """What the file says, a valid one, that does nothing, or not what it seems to."""
    from hakuriver.remarks import without_effect

    path = config_file(chosen)
    return [f"{path}: {remark}" for remark in without_effect(read_table(path))]
