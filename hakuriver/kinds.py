"""The kinds of values that keys of the configuration have: how they are read, told and written."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from hakuriver import units
from hakuriver.tomltext import toml_size, toml_time, toml_value


def _seconds(value: object) -> object:
    return units.parse_duration(value) if isinstance(value, str) else value


def _bytes(value: object) -> object:
    return units.parse_size(value) if isinstance(value, str) else value


def _whole_path(value: str) -> str:
    return os.path.abspath(os.path.expanduser(value)) if value else value


def _program(value: str) -> str:
    return _whole_path(value) if "/" in value else value


def _address(value: str) -> str:
    import ipaddress

    try:
        ipaddress.ip_address(value)
    except ValueError:
        if value and not (_HOST_NAME.fullmatch(value) and re.search("[a-z]", value, re.IGNORECASE)):
            raise ValueError("must be a host name or an IP address, without a port") from None
    return value


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class Kind(NamedTuple):
    """What a key's value is, for people, where its type does not tell."""

    text: str


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False), Kind("time")]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0), Kind("size")]
Path = Annotated[str, AfterValidator(_whole_path), Kind("path")]
Program = Annotated[str, AfterValidator(_program), Kind("path, or name of a program")]
Indices = Annotated[list[Annotated[int, Field(ge=0)]], Kind("list of whole numbers")]
Address = Annotated[str, AfterValidator(_address), Kind("host name or IP address")]


def kind_text(field: FieldInfo) -> str:
    """What a key's value is, for people."""
    kinds = [part for part in _parts(field) if isinstance(part, Kind)]
    base = _base(field)
    if kinds:
        return kinds[0].text
    if get_origin(base) is Literal:
        return f"one of {', '.join(get_args(base))}"
    number = {int: "whole number", float: "number"}.get(base)
    if number:
        return number + _range(field)
    return {bool: "true or false", list[str]: "list of texts"}.get(base, "text")


def _base(field: FieldInfo) -> Any:
    """The type of the value, if there is one."""
    annotation = field.annotation
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _parts(field: FieldInfo) -> list[Any]:
    """What is said about the value beyond its type."""
    inner = [part for each in get_args(field.annotation) for part in getattr(each, "__metadata__", ())]
    return [*field.metadata, *inner]


def _range(field: FieldInfo) -> str:
    found = {name: getattr(part, name) for part in field.metadata for name in ("gt", "ge", "le") if hasattr(part, name)}
    if "le" in found:
        return f", {found['ge']} to {found['le']}"
    return "".join(f" {sign} {found[name]}" for name, sign in (("ge", "≥"), ("gt", ">")) if name in found)


def value_text(field: FieldInfo, value: Any) -> str:
    """A value of this key as TOML, times and sizes with their units."""
    writers: dict[str, Callable[[Any], str]] = {"time": toml_time, "size": toml_size}
    return writers.get(kind_text(field), toml_value)(value)


#: What is asked for where another type was found.
_WANTED = {
    "time": 'a time of more than 0: seconds, or text such as "90s" or "2h30m"',
    "size": 'a size of more than 0: whole bytes, or text such as "512M", "4G" or "4Gi"',
    "path": "a path in quotes",
    "path, or name of a program": "a path or the name of a program, in quotes",
    "text": "text in quotes",
    "true or false": "true or false, without quotes",
    "host name or IP address": "a host name or an IP address, in quotes",
    "list of texts": 'a list of texts, as ["a", "b"]',
    "list of whole numbers": "a list of whole numbers, as [0, 1]",
}


def must_be(field: FieldInfo) -> str:
    """What the value of a key must be, as one is told who wrote something else."""
    kind = kind_text(field)
    return _WANTED.get(kind) or (kind if kind.startswith("one of") else f"a {kind}, without quotes")


def shown_value(value: object) -> str:
    """A value of any type as TOML, cut to what fits a message."""
    text = toml_value(value) if not isinstance(value, dict) else "{...}"
    return text if len(text) <= 100 else f"{text[:100]}..."
