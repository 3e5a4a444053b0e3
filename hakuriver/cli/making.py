"""Makes what has to be there once: a river's tree and sentinel, a configuration file."""

from __future__ import annotations

import errno
import os
import secrets
import time
import types
import typing
from typing import Any

from pydantic import BaseModel

from hakuriver.errors import HakuRiverError, Invalid
from hakuriver.records import River
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk
from hakuriver.spool.layout import Baton

#: What lies there may hold values of environment variables; a river is its user's own.
_PRIVATE = {layout.INCOMING, layout.HOST, "jobs", layout.NODES}
#: Characters of a cluster's name.
NAME_MOST = 100
_OPEN_MODE, _PRIVATE_MODE = 0o755, 0o700


class CannotMake(HakuRiverError):
    """{directory}: {why it can be no river}; {remedy}."""


def make_river(root: str, name: str | None) -> River:
    """Make the tree, the first baton, and last of all the sentinel, durably. Raises CannotMake.

    A river that was begun and not finished (no sentinel) is finished.
    """
    if os.path.lexists(f"{root}/{layout.SENTINEL}"):
        raise CannotMake(f"{root} is a river already: it is kept as it is; use it, or name another directory")
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= NAME_MOST):
        raise Invalid("name", name, f"a cluster's name has 1 to {NAME_MOST} printable characters")
    river = River(
        cluster=name or os.path.basename(root) or "river", cluster_id=secrets.token_hex(8), created_at=time.time()
    )
    try:
        _make_tree(root)
        disk = LocalDisk(root)
        if not any(layout.parse_baton(entry) for entry in files.names(disk, layout.HOST)):
            files.publish(disk, Baton(0, layout.NOBODY, 0, 0).path, b"")
        disk.sync(["", *layout.TREE])
        files.publish(disk, layout.SENTINEL, river.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise CannotMake(f"{error.filename or root}: {error.strerror}; {_remedy(error)}") from None
    except files.ShareError as error:
        raise CannotMake(str(error)) from None
    return river


def _make_tree(root: str) -> None:
    os.makedirs(root, mode=_OPEN_MODE, exist_ok=True)
    for directory in layout.TREE:
        path = f"{root}/{directory}"
        try:
            os.mkdir(path)
            os.chmod(path, _PRIVATE_MODE if directory in _PRIVATE else _OPEN_MODE)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "something else stands where a directory must be: name another"
    return "name a directory that this user may write"


def write_new(path: str, text: str) -> bool:
    """Write a file that is not there yet, readable by its owner alone; tell whether it was not."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as file:
        file.write(text)
    return True


def config_text(shared_dir: str | None) -> str:
    """config.toml with every key in comments, made from the settings' model."""
    lines = ["# HakuRiver. Keys that begin with # have the default that they show.", ""]
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        lines += [f"# {(model.__doc__ or '').partition(': ')[2]}", f"[{section}]"]
        for key, info in model.model_fields.items():
            lines += [f"# {info.description}", _setting(section, key, info, shared_dir), ""]
    return "\n".join(lines)


def _setting(section: str, key: str, info: Any, shared_dir: str | None) -> str:
    if (section, key) == ("paths", "shared_dir") and shared_dir:
        return f"{key} = {toml_value(shared_dir)}"
    default = info.get_default(call_default_factory=True)
    return f"#{key} = {toml_value(default)}" if default is not None else f"#{key} = {_example(info.annotation)}"


def _example(annotation: Any) -> str:
    """What may stand where there is no default."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if list[int] in kinds:
        return "[0, 1]"
    return "8" if int in kinds else '"8G"'


def toml_value(value: object) -> str:
    """A value as TOML writes it: text, numbers, truth values, lists."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'


def toml(table: dict[str, dict[str, object]]) -> str:
    """A configuration of sections and plain values."""
    lines = []
    for section, values in table.items():
        lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
