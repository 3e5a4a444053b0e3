"""From values to HTML. Everything that a user controls is escaped, and control characters are taken out.

A page is rendered with marks where its own stamps go, so that what counts as a change is everything else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from hakuriver import __version__, units
from hakuriver.records import STATES

#: What a terminal would act on (CSI, OSC and two-character sequences of ECMA-48), and bare control characters.
_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: Marks that no content can hold: `clean` takes them out of everything else.
STAMP, VERSION = Markup("\x00"), Markup("\x01")


class Page(NamedTuple):
    """A rendered page."""

    body: str  #: with marks
    digest: bytes  #: of the body: equal if nothing but the stamp would change

    @property
    def version(self) -> str:
        """A short name for this content."""
        return self.digest.hex()[:12]

    def stamped(self, at: float) -> bytes:
        """The page as of `at`, seconds since 1970."""
        body = self.body.replace(VERSION, self.version).replace(STAMP, when(at))
        return body.encode("utf-8", "replace")


def clean(value: object) -> object:
    """A value of a template without control characters; half surrogate pairs are replaced when it is written."""
    return _CONTROL.sub("", value) if type(value) is str else value


def printable(data: bytes) -> str:
    """A log's bytes as text: as a terminal would leave it, of lines that were overwritten the last version."""
    text = _CODES.sub("", data.decode("utf-8", "replace"))
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROL.sub("", "\n".join(lines))


def when(seconds: float | None) -> Markup:
    """A time: UTC for all, which the script turns into the reader's own."""
    if seconds is None:
        return Markup("–")
    try:
        text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return Markup("–")  # a clock that was far out
    return Markup('<time data-t="{}">{} UTC</time>').format(round(seconds, 3), text)


def number(value: float) -> str:
    """A whole number for people."""
    return f"{value:,.0f}"


class Renderer:
    """The templates."""

    def __init__(self) -> None:
        self._unlinked = {"docker.html", "gpus.html"}  #: pages that others do not link yet
        self._jinja = jinja2.Environment(
            loader=jinja2.PackageLoader("hakuriver.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined, finalize=clean, auto_reload=False,
        )  # fmt: skip
        style, script = _asset("style.css"), _asset("script.js")
        self._jinja.filters.update(
            when=when, size=units.format_size, duration=units.format_duration, printable=printable, number=number
        )
        self._jinja.globals.update(
            style=Markup(style), script=Markup(script), policy=_policy(style, script), stamp=STAMP, version=VERSION,
            states=STATES, program=__version__,
            unlinked=self._unlinked,
        )  # fmt: skip
        self._row: Any = None

    def link(self, page: str, on: bool) -> bool:
        """Have pages link one of those that not every river needs, or not; tell whether that is new."""
        before = page not in self._unlinked
        (self._unlinked.discard if on else self._unlinked.add)(page)
        return before != on

    def page(self, template: str, name: str, **values: Any) -> Page:
        """One page; `name`: its path below www/."""
        root = "../" * name.count("/")
        body = self._jinja.get_template(template).render(root=root, page=name, **values)
        return Page(body, hashlib.blake2b(body.encode("utf-8", "replace"), digest_size=16).digest())

    def job_row(self, row: dict[str, Any]) -> Markup:
        """A job's line in lists (records.JobRow)."""
        if self._row is None:
            self._row = self._jinja.get_template("macros.html").module.job_row  # type: ignore[attr-defined]
        return Markup(self._row(row))


def joined(rows: Iterable[Markup]) -> Markup:
    """Lines of a list, rendered before."""
    return Markup("").join(rows)


def _asset(name: str) -> str:
    return resources.files("hakuriver.pages").joinpath("templates").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _policy(style: str, script: str) -> str:
    """Content Security Policy: our own style and script, and alive.js beside the page (`file:` when from disk)."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)} 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
