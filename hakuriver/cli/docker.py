"""`hakuriver docker`: environments on the host, and packages of them on the share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import click

from hakuriver import client, units
from hakuriver.cli.common import (
    clean,
    config_option,
    json_option,
    note,
    out,
    out_json,
    share,
    timeout_option,
)
from hakuriver.cli.frame import Command
from hakuriver.cli.tables import is_terminal, table, terminal_width, when
from hakuriver.cli.task_control import report
from hakuriver.client import Answer
from hakuriver.errors import Invalid
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: Seconds between two looks at how far a request is, and without a sign of a host before none is waited for.
LOOK_S, SIGN_S = 0.5, 30.0
#: Seconds in which a host that is there takes a request.
FIRST_S = 2.0


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        config_option,
        click.option("--no-receipt", is_flag=True, help="Ask, and do not wait for the answer."),
        timeout_option(None, "How long the answer is waited for; else as long as a host is at work."),
        json_option,
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("image", metavar="IMAGE")
@click.argument("environment", metavar="ENV")
@_options
def create_container(image: str, environment: str, **how: Any) -> int:
    """Make an environment: a container on the host, from an image that the host's engine has or can pull.

    Work in it with `hakuriver docker-shell ENV` on the host, then package it with `create-tar ENV`. For admins.

    \b
    Example:
      hakuriver docker create-container python:3.12-slim my-env
    """
    return _ask("create-container", environment, image=image, **how)


@click.command(cls=Command)
@click.argument("environment", metavar="ENV")
@_options
def start_container(environment: str, **how: Any) -> int:
    """Start an environment's container. For admins.

    \b
    Example:
      hakuriver docker start-container my-env
    """
    return _ask("start-container", environment, **how)


@click.command(cls=Command)
@click.argument("environment", metavar="ENV")
@_options
def stop_container(environment: str, **how: Any) -> int:
    """Stop an environment's container; what was changed in it stays. For admins.

    \b
    Example:
      hakuriver docker stop-container my-env
    """
    return _ask("stop-container", environment, **how)


@click.command(cls=Command)
@click.argument("environment", metavar="ENV")
@_options
def delete_container(environment: str, **how: Any) -> int:
    """Delete an environment's container, running or not; its packages stay. For admins.

    \b
    Example:
      hakuriver docker delete-container my-env
    """
    return _ask("delete-container", environment, **how)


@click.command(cls=Command)
@click.argument("environment", metavar="ENV")
@_options
def create_tar(environment: str, **how: Any) -> int:
    """Package an environment: tasks with `--container ENV` run in what it is now. For admins.

    The container goes on as it was. The newest package and the one before are kept. Ctrl-C leaves the request going.

    \b
    Example:
      hakuriver docker create-tar my-env
    """
    return _ask("create-tar", environment, **how)


@click.command(cls=Command)
@click.argument("package", metavar="ENV|PACKAGE")
@_options
def delete_tar(package: str, **how: Any) -> int:
    """Delete one package (ENV-TIMESTAMP), or all of an environment; its container stays. For admins.

    \b
    Example:
      hakuriver docker delete-tar my-env-1792345679
    """
    return _ask("delete-tar", package, **how)


@click.command(cls=Command)
@json_option
@config_option
def list_containers(as_json: bool) -> None:
    """List the environments' containers on the host, as the host told last.

    \b
    Example:
      hakuriver docker list-containers
    """
    index = _index(as_json)
    if index is None:
        return
    if as_json:
        out_json({key: index[key] for key in ("at", "host", "engine", "problem", "containers")})
        return
    if not index["engine"]:
        note(clean(index["problem"]))
    _table(
        ["ENVIRONMENT", "STATE", "IMAGE", "CREATED", "AGE"],
        [[row["environment"], row["state"], row["image"], when(row["created_at"]), _age(row["created_at"])]
         for row in index["containers"]],
    )  # fmt: skip


@click.command(cls=Command)
@json_option
@config_option
def list_tars(as_json: bool) -> None:
    """List the packages on the share: of each environment the newest first, which is what tasks run in.

    \b
    Example:
      hakuriver docker list-tars
    """
    index = _index(as_json)
    if index is None:
        return
    if as_json:
        out_json({key: index[key] for key in ("at", "host", "default_problem", "packages")})
        return
    if index["default_problem"]:
        note(f"the default environment is not there yet: {clean(index['default_problem'])}")
    newest = sorted(index["packages"], key=lambda row: (row["environment"], -row["created_at"]))
    _table(
        ["ENVIRONMENT", "PACKAGE", "SIZE", "CREATED", "AGE", "SOURCE", "IMAGE"],
        [[row["environment"], row["name"], units.format_size(row["size_bytes"]), when(row["created_at"]),
          _age(row["created_at"]), row["source"], row["image_id"][:19]] for row in newest],
    )  # fmt: skip


def _index(as_json: bool) -> dict[str, Any] | None:
    """index/environments.json; if no host has ever written it that is said, and None returned."""
    index = share().read_json(layout.ENVIRONMENTS_INDEX)
    if index is None:
        if as_json:
            out_json({"at": None, "host": None, "containers": [], "packages": []})
        else:
            note("no host has told of any environment yet: start `hakuriver host`")
        return None
    return {"problem": "", "default_problem": "", **index}


def _table(headings: list[str], rows: list[list[object]]) -> None:
    width = terminal_width() if is_terminal(sys.stdout) else None
    for line in table(headings, rows, width):
        out(line)


def _age(created_at: float | None) -> str | None:
    return None if created_at is None else units.format_duration(max(0.0, time.time() - created_at))


# -- asking


def _ask(
    kind: str, environment: str, as_json: bool, timeout: float | None, no_receipt: bool, image: str | None = None
) -> int:
    package = kind == "delete-tar" and layout.parse_package(environment)
    if not package and not layout.ENVIRONMENT_NAME.fullmatch(environment):
        message = (
            "an environment's name is of a-z, 0-9, '.', '_' and '-', at most 63, and begins and ends alphanumerical"
        )
        raise Invalid("ENV", environment, message)
    river = share()
    answer = client.request(kind, environment=environment, image=image, shared_dir=river.root, timeout=0)
    try:
        answer = answer if no_receipt else _await(river, answer.request, timeout)
    except KeyboardInterrupt:
        note(f"the request goes on; its answer will be {river.path(layout.receipt(answer.request))}")
        return 130
    return report(river, kind, [answer], as_json, no_receipt)


def _await(river: Share, request: str, timeout: float | None) -> Answer:
    """Wait for the receipt, for so long or as long as a host is at work; show meanwhile how far it is."""
    end = float("inf") if timeout is None else time.monotonic() + timeout
    alive: bool | None = None
    with Bar() as bar:
        sign, moved = client.host_sign(river), time.monotonic()
        wait = FIRST_S
        while True:
            receipt, _ = client.await_receipt(river, request, min(LOOK_S, max(0.01, end - time.monotonic())))
            now = time.monotonic()
            if (seen := client.host_sign(river)) != sign:
                sign, moved, alive, wait = seen, now, True, SIGN_S
            if receipt or now >= end or now - moved > wait:
                break
            bar.show(_progress(river, request) if bar.wanted else None)
    return Answer(request, receipt, alive and time.monotonic() - moved <= wait)


def _progress(river: Share, request: str) -> dict[str, Any] | None:
    index = river.read_json(layout.ENVIRONMENTS_INDEX) or {}
    return next((step for step in index.get("progress", ()) if step.get("request") == request), None)


class Bar:
    """How far a request is, on a terminal: a bar for each step that is counted in bytes. Nothing otherwise."""

    def __init__(self) -> None:
        self.wanted = is_terminal(sys.stderr)
        self._step = ""
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self._close(whole=kind is None)

    def show(self, progress: dict[str, Any] | None) -> None:
        """Show a records.EnvironmentProgress; None: not known."""
        if progress is None or progress.get("total_bytes") is None:
            return
        done, total = progress["done_bytes"] or 0, max(1, progress["total_bytes"])
        if progress["step"] != self._step or self._bar is None:
            self._open(progress["step"], total)
        self._bar.length = total
        self._bar.update(min(done, total) - self._bar.pos)

    def _open(self, step: str, total: int) -> None:
        self._close(whole=True)
        self._step = step
        self._bar = click.progressbar(
            length=total, label=clean(step), file=sys.stderr, item_show_func=lambda _: units.format_size(total)
        )
        self._bar.__enter__()

    def _close(self, *, whole: bool) -> None:
        if self._bar is not None:
            if whole:
                self._bar.update(self._bar.length - self._bar.pos)
            self._bar.__exit__(None, None, None)
            self._bar = None
