"""`hakuriver schema`: JSON Schemas of what is written to the share, and of what --json prints."""

from __future__ import annotations

from typing import Any

import click

from hakuriver.cli.common import out, out_json
from hakuriver.cli.frame import Command

#: name: (module, model, what it is of)
SCHEMAS = {
    "job": ("hakuriver.records", "RunRequest", "a job file in incoming/, and a line of `hakuriver submit --from`"),
    "request": ("hakuriver.records", "Request", "any file in incoming/"),
    "receipt": ("hakuriver.records", "Receipt", "a file in receipts/"),
    "snapshot": ("hakuriver.records", "JobSnapshot", "a file in jobs/"),
    "river": ("hakuriver.records", "River", "river.json"),
    "submit": ("hakuriver.cli.schemas", "SubmitOutput", "`hakuriver submit --json`"),
    "list": ("hakuriver.cli.schemas", "ListOutput", "`hakuriver task list --json`"),
    "status": ("hakuriver.cli.schemas", "StatusOutput", "`hakuriver task status --json`"),
    "why": ("hakuriver.cli.schemas", "WhyOutput", "`hakuriver task why --json`"),
    "logs": ("hakuriver.cli.schemas", "LogsOutput", "`hakuriver task logs --json`"),
    "wait": ("hakuriver.cli.schemas", "WaitOutput", "`hakuriver task wait --json`"),
    "validate": ("hakuriver.cli.schemas", "ValidateOutput", "`hakuriver job validate --json`"),
    "control": ("hakuriver.cli.schemas", "ControlOutput", "--json of kill, pause, resume, requeue, drain, forget, gc"),
    "nodes": ("hakuriver.cli.schemas", "NodesOutput", "`hakuriver node list --json`"),
    "node": ("hakuriver.cli.schemas", "NodeOutput", "`hakuriver node show --json`"),
    "health": ("hakuriver.cli.schemas", "HealthOutput", "`hakuriver client health --json`"),
    "containers": ("hakuriver.cli.schemas", "ContainersOutput", "`hakuriver docker list-containers --json`"),
    "packages": ("hakuriver.cli.schemas", "PackagesOutput", "`hakuriver docker list-tars --json`"),
    "doctor": ("hakuriver.cli.schemas", "DoctorOutput", "`hakuriver doctor --json`"),
    "config": ("hakuriver.cli.schemas", "ConfigOutput", "`hakuriver config show --json`"),
    "config-check": ("hakuriver.cli.schemas", "ConfigCheckOutput", "`hakuriver config check --json`"),
}


@click.command(cls=Command)
@click.argument("name", required=False, type=click.Choice(list(SCHEMAS)), metavar="[NAME]")
def schema(name: str | None) -> None:
    """Print the JSON Schema of NAME; without it, the names that there are.

    \b
    Example:
      hakuriver schema job
    """
    if name is None:
        for each, (_, _, what) in SCHEMAS.items():
            out(f"{each.ljust(14)}{what}")
        return
    out_json(json_schema(name))


def json_schema(name: str) -> dict[str, Any]:
    """The schema, with its own address of the draft."""
    from importlib import import_module

    from pydantic import TypeAdapter

    module, model, what = SCHEMAS[name]
    found = TypeAdapter(getattr(import_module(module), model)).json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": what, **_untitled(found)}


def _untitled(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "title"}
