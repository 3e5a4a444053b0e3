"""What is wrong with a key of the configuration, in words that say what to write instead."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic.fields import FieldInfo

from hakuriver.config import nearest_key, nearest_section
from hakuriver.kinds import must_be, shown_value
from hakuriver.tomltext import toml_time, toml_value

if TYPE_CHECKING:
    from hakuriver.settings import Settings, Timing


#: Characters of a value that a message quotes.
QUOTED_MOST = 100


class Fault(NamedTuple):
    """What is wrong with a key, or worth knowing."""

    key: str  #: as `timing.lease`; of a section that is wrong as a whole its name
    value: str  #: as TOML; empty: it is not about a value
    text: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.text}" if self.value else f"{self.key}: {self.text}"


def fault_of(error: Any, field: FieldInfo | None) -> Fault:
    """What a ValidationError says about one place in the configuration; `field`: the key's, if there is one."""
    section, *rest = error["loc"]
    key = ".".join(_as_written(part) for part in error["loc"][:2]) + "".join(f"[{part}]" for part in rest[1:])
    value = shown_value(error["input"])
    if error["type"] == "extra_forbidden" and not rest and isinstance(error["input"], dict):
        return Fault(f"[{key}]", "", f"there is no such section; {nearest_section(section)}")
    if error["type"] == "extra_forbidden":
        return Fault(key, "", f"there is no such key; {nearest_key('.'.join(error['loc']))}")
    if error["type"] == "model_type":
        return Fault(key, value, f"it must be a section: [{section}] on a line of its own, its keys below")
    if error["type"] == "value_error":
        return Fault(key, value, _cut(error["msg"].removeprefix("Value error, "), error["input"]))
    return Fault(key, value, f"it must be {must_be(field) if field else error['msg']}")


def _cut(message: str, value: object) -> str:
    """The message without most of what it quotes of a very long value: what to write instead stands behind that."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and len(text) > QUOTED_MOST:
            message = message.replace(repr(text), repr(f"{text[:QUOTED_MOST]}..."))
    return message


def _as_written(part: str) -> str:
    return part if re.fullmatch(r"[\w-]{1,100}", part, re.ASCII) else shown_value(part)


def contradictions(settings: Settings, mistaken: set[str]) -> list[Fault]:
    """Values that do not go together; nothing about sections that hold wrong values anyway."""
    times = [] if "timing" in mistaken else _faults_of_times(settings.timing)
    return times if mistaken & {"paths", "database"} else times + _faults_of_places(settings)


def _faults_of_times(times: Timing) -> list[Fault]:
    faults = []
    least = times.heartbeat_interval + times.kill_grace + 1
    if times.lease <= least:
        text = f"lease must be longer than heartbeat_interval + kill_grace + 1 s, which is {least:g} s"
        faults.append(Fault("timing.lease", toml_time(times.lease), text))
    if times.offline_after <= times.heartbeat_interval:
        text = f"offline_after must be longer than heartbeat_interval, which is {times.heartbeat_interval:g} s"
        faults.append(Fault("timing.offline_after", toml_time(times.offline_after), text))
    return faults


def _faults_of_places(settings: Settings) -> list[Fault]:
    shared, state, faults = settings.paths.shared_dir, settings.paths.state_dir, []
    for key, path in (("paths.state_dir", state), ("database.db_file", settings.database.db_file)):
        if shared and path and _inside(path, shared):
            text = f"it lies on the share {shared}; name a place on this machine's own disk"
            faults.append(Fault(key, toml_value(path), text))
    if any(_inside(state, directory) for directory in ("/tmp", "/var/tmp", "/dev/shm")):
        faults.append(
            Fault("paths.state_dir", toml_value(state), "it may be emptied at a reboot; name a lasting place")
        )
    return faults


def _inside(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory
