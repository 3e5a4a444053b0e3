"""From records to HTML. Everything that a user controls is escaped; values of the environment are never shown."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from datetime import datetime, timezone
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from hakuriver import __version__, units
from hakuriver.ids import task_name
from hakuriver.records import STATES, TaskRow

#: Rows of a job's page at most.
ROWS_MOST = 1000
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _asset(name: str) -> str:
    return resources.files("hakuriver.pages").joinpath("templates").joinpath(name).read_text()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def printable(data: bytes) -> str:
    """A log's bytes as text: what is no UTF-8 is replaced, terminal codes are taken out."""
    return _CONTROL.sub("", data.decode("utf-8", "replace"))


def when(seconds: float | None) -> Markup:
    """A time: UTC for all, which the script turns into the reader's own."""
    if seconds is None:
        return Markup("–")
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time data-t="{}">{} UTC</time>').format(round(seconds, 3), text)


class Renderer:
    """The templates."""

    def __init__(self) -> None:
        self._jinja = jinja2.Environment(
            loader=jinja2.PackageLoader("hakuriver.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        style, script = _asset("style.css"), _asset("script.js")
        self._jinja.filters.update(
            when=when, size=units.format_size, duration=units.format_duration, printable=printable
        )
        self._jinja.globals.update(
            style=Markup(style), script=Markup(script), states=STATES, version=__version__,
            policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}' 'self' file:",
        )  # fmt: skip

    def page(self, name: str, **values: Any) -> str:
        """One page."""
        return self._jinja.get_template(name).render(**values)


def job_view(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What a job's page shows of its snapshot."""
    single = snapshot["count"] == 1
    rows = sorted((TaskRow(*row) for row in snapshot["tasks"]), key=lambda row: row.k or 0)
    tasks = [
        {**row._asdict(), "task": task_name(snapshot["job"], None if single else row.k)} for row in rows[:ROWS_MOST]
    ]
    return {
        "job": snapshot,
        "spec": {**snapshot["spec"], "env": sorted(snapshot["spec"].get("env", {}))},
        "command": shlex.join(snapshot["spec"]["command"]),
        "tasks": tasks,
        "left_out": max(0, len(rows) - ROWS_MOST),
    }


def shown_tasks(snapshot: dict[str, Any], most: int = 4) -> list[TaskRow]:
    """Tasks whose log tails stand on the job's page: those that did not complete first."""
    rows = [row for row in (TaskRow(*row) for row in snapshot["tasks"]) if row.attempt]
    return sorted(rows, key=lambda row: (row.state == "completed", row.k or 0))[:most]
