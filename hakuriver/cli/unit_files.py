"""Unit files for systemd: what stands in them, and how systemd wants it written.

Sources: systemd.syntax(7); systemd.service(5), COMMAND LINES; systemd.unit(5), SPECIFIERS and STRING ESCAPING FOR
INCLUSION IN UNIT NAMES.
"""

from __future__ import annotations

import os
import re
import string
from typing import Literal, NamedTuple

import jinja2

from hakuriver.errors import Invalid

Role = Literal["host", "runner"]

#: Where administrators put unit files.
PLACE = "/etc/systemd/system"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DESCRIPTIONS: dict[Role, str] = {"host": "HakuRiver Host Server", "runner": "HakuRiver Runner Agent"}
_OVER: dict[Role, str] = {"host": "the host leads, or stands by", "runner": "the node is up"}
#: Words that need no quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+-]+")
#: What the path of a program must not have, `string_is_safe` of systemd's sources.
_NO_PROGRAMS = frozenset("\"'\\")
_IN_UNIT_NAMES = frozenset((string.ascii_letters + string.digits + ":_.").encode())
_NAME_MOST = 255


class Unit(NamedTuple):
    """A daemon as a service. Paths are absolute, and as they are: escaping happens here."""

    role: Role
    user: str
    group: str
    python: str
    config: str
    shared_dir: str
    state_dir: str
    node: str = ""  #: of a runner; else the configuration names it

    @property
    def file(self) -> str:
        """The unit's name."""
        return f"hakuriver-{self.role}{'-' + self.node if self.node else ''}.service"

    def text(self) -> str:
        """The file's content. Raises Invalid for a path that no unit file can hold."""
        node = ["--name", self.node] if self.node else []
        return self._render(self.file, _DESCRIPTIONS[self.role], self._command(word(self.config), node))

    def template(self) -> str:
        """A template's: the instance is the node's name, and that of its configuration, beside `config`."""
        config = word(os.path.dirname(self.config)) + "/%i.toml"
        name = f"hakuriver-{self.role}@.service"
        return self._render(name, f"{_DESCRIPTIONS[self.role]} %i", self._command(config, ["--name", "%i"]))

    def _command(self, config: str, arguments: list[str]) -> str:
        return " ".join([program(self.python), "-m", "hakuriver", self.role, "--config", config, *arguments])

    def _render(self, file: str, description: str, command: str) -> str:
        for path in (self.python, self.config, self.shared_dir, self.state_dir):
            check(path)
        if not _NO_PROGRAMS.isdisjoint(self.python):
            raise Invalid("path", self.python, "systemd starts no program with a quote or backslash in its path: use "
                          "another, or a link to it")  # fmt: skip
        bin_directory = os.path.dirname(self.python)
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("hakuriver.cli", "units"), trim_blocks=True, keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        return environment.get_template("daemon.service.j2").render(
            file=file, role=self.role, description=description, command=command, over=_OVER[self.role],
            user=specified(self.user), group=specified(self.group),
            mounts="".join(f" {unit}" for unit in mount_units(self.shared_dir)),
            after=" hakuriver-host.service" if self.role == "runner" else "",
            state_word=word(self.state_dir, variables=False), state_line=specified(self.state_dir),
            path=word(f"PATH={bin_directory}:{SYSTEM_PATH}", variables=False),
        )  # fmt: skip


def check(path: str) -> None:
    """Raise Invalid for a path that cannot be written into a unit file."""
    trouble = ""
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        trouble = "it has a control character"
    elif path.encode("utf-8", "replace") != path.encode("utf-8", "surrogateescape"):
        trouble = "it is no UTF-8"
    elif path.endswith((" ", "\\")):
        trouble = "it ends in a blank or a backslash"
    if trouble:
        raise Invalid("path", path, f"{trouble}, which no unit file can hold: use another, or a link to it")


def specified(text: str) -> str:
    """A value that is taken as it stands, but for specifiers."""
    return text.replace("%", "%%")


def word(text: str, variables: bool = True) -> str:
    """One word of a line of several. `variables`: whether `$` names some there, as in a command."""
    escaped = specified(text).replace("\\", "\\\\").replace('"', '\\"')
    if variables:
        escaped = escaped.replace("$", "$$")
    return escaped if _PLAIN.fullmatch(escaped) else f'"{escaped}"'


def program(path: str) -> str:
    """The first word of a command: variables stand in what the program is told as its own name, not in its path."""
    if "$" not in path:
        return word(path)
    return f"{word('@' + path, variables=False)} {word(path)}"


def mount_units(path: str) -> list[str]:
    """Names of the units that mount something on the way there, if there are such."""
    parts = [_escape(part, first=not before) for before, part in enumerate(filter(None, path.split("/")))]
    names = ["-".join(parts[:most]) + ".mount" for most in range(1, len(parts) + 1)]
    return [name for name in names if len(name) <= _NAME_MOST]


def _escape(part: str, first: bool) -> str:
    """One component of a path as in the name of its unit."""
    data = os.fsencode(part)
    return "".join(
        chr(byte) if byte in _IN_UNIT_NAMES and not (first and at == 0 and byte == ord(".")) else f"\\x{byte:02x}"
        for at, byte in enumerate(data)
    )
