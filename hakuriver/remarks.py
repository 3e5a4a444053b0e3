"""What is worth knowing about a configuration that is right in form: keys without effect, places that are not there."""

from __future__ import annotations

import os
import pwd
import shutil
from typing import Any

from hakuriver.config import DEAD_KEYS, RELAY_KEYS
from hakuriver.doctor import machine
from hakuriver.doctor.findings import BROKEN, of_status
from hakuriver.errors import ShareProblem
from hakuriver.faults import Fault
from hakuriver.settings import Settings
from hakuriver.spool.access import Share
from hakuriver.tomltext import toml_value


def without_effect(table: dict[str, Any]) -> list[Fault]:
    """What a file says, a valid one, and what does nothing, or not what it seems to."""
    said = {f"{section}.{key}": value for section, keys in table.items() for key, value in keys.items()}
    found = [(key, _why_idle(key, said)) for key in said]
    return [Fault(key, toml_value(said[key]), why) for key, why in found if why]


def _why_idle(key: str, said: dict[str, Any]) -> str:
    if key == "network.runner_port":
        return "it has no effect: runners on one machine differ by node.name; it can be deleted"
    if key in DEAD_KEYS:
        return "it has no effect: there is no HTTP server, everything goes through the share; it can be deleted"
    if key in RELAY_KEYS:
        return "it has no effect yet: this version has no ssh relay; it can stay"
    if key == "timing.heartbeat_timeout_factor" and "timing.offline_after" in said:
        return "it has no effect, because timing.offline_after is set: delete one of the two"
    if key in _PATHS and said[key] and said[key][0] not in "/~":
        return "it is taken from whatever directory a command is started in: write the whole path"
    return ""


_PATHS = {
    "paths.shared_dir", "paths.state_dir", "paths.local_temp_dir", "paths.host_log_file", "paths.runner_log_file",
    "database.db_file",
}  # fmt: skip


def not_here(settings: Settings) -> list[Fault]:
    """What will not work on this machine. Looks at the share: may hang as long as its mount does."""
    paths = settings.paths
    found = [
        ("paths.shared_dir", paths.shared_dir, _about_share(paths.shared_dir)),
        ("paths.state_dir", paths.state_dir, _about_state(paths.state_dir)),
        ("paths.local_temp_dir", paths.local_temp_dir, _about_directory(paths.local_temp_dir)),
        ("paths.numactl_path", paths.numactl_path, _about_program(paths.numactl_path)),
        ("paths.host_log_file", paths.host_log_file, _about_file(paths.host_log_file)),
        ("paths.runner_log_file", paths.runner_log_file, _about_file(paths.runner_log_file)),
        ("database.db_file", settings.database.db_file, _about_file(settings.database.db_file)),
        ("environment.runner_user", settings.environment.runner_user, _about_user(settings.environment.runner_user)),
    ]
    return [Fault(key, toml_value(value), why) for key, value, why in found if why]


def _about_share(path: str) -> str:
    if not path:
        return "nothing says where the share is mounted: set it, or HAKURIVER_SHARED_DIR"
    if not os.path.isdir(path):
        return "there is no such directory: mount the share there, or correct the path"
    try:
        Share(path).check()
    except ShareProblem as problem:
        return str(problem)
    return ""


def _about_state(path: str) -> str:
    """Why daemons refuse to start with it."""
    return "; ".join(finding.text for finding in of_status(machine.state(path), BROKEN))


def _about_directory(path: str) -> str:
    """It is made when it is needed."""
    there = machine.existing(path)
    if not os.path.isdir(there):
        return f"{there} is no directory: name another place"
    if not os.access(there, os.W_OK | os.X_OK):
        return (
            f"{os.environ.get('USER') or os.getuid()} may not write in {there}: have it made for them, or name another"
        )
    return ""


def _about_file(path: str) -> str:
    """Its directory must be there."""
    directory = os.path.dirname(path)
    if path and not os.path.isdir(directory):
        return f"there is no directory {directory}: make it, or name another place"
    return _about_directory(directory) if path and not os.path.exists(path) else ""


def _about_program(path: str) -> str:
    if path and not shutil.which(path):
        return "there is no such program: correct it, or leave it empty"
    return ""


def _about_user(name: str) -> str:
    try:
        pwd.getpwnam(name or "root")
    except KeyError:
        return "there is no such user here: make it, or correct the name"
    return ""
