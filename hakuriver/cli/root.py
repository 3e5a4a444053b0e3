"""The group `hakuriver` and the groups below it: they know where their commands live, and load one when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from hakuriver import __version__
from hakuriver.cli.common import config_option


class LazyGroup(click.Group):
    """A group whose commands are `module:name` until they are needed."""

    def __init__(self, *args: object, lazy: dict[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order in which they are written down."""
        return list(self.lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load it."""
        if cmd_name not in self.lazy:
            return None
        module, _, name = self.lazy[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"hakuriver.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command if there is none of that name."""
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.lazy, n=1, cutoff=0.0)[0]
            ctx.fail(f"there is no command {args[0]!r}; the nearest is {near!r}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    lazy={
        "submit": "submit:submit",
        "task": "root:task",
        "node": "root:node",
        "docker": "root:docker",
        "docker-shell": "docker_shell:docker_shell",
        "up": "up:up",
        "init": "root:init",
        "host": "host:host",
        "runner": "runner:runner",
        "doctor": "doctor:doctor",
        "schema": "schema:schema",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="hakuriver %(version)s")
@config_option
def cli() -> None:
    """Make machines that mount the same directory behave like one computer.

    \b
    Example, all on one machine:
      hakuriver up --shared-dir ~/river                # in one terminal
      export HAKURIVER_SHARED_DIR=~/river              # in another
      hakuriver submit --wait -- echo hello
      hakuriver task list
    """


@click.group(
    cls=LazyGroup,
    lazy={
        "submit": "submit:submit",
        "list": "task_list:list_jobs",
        "status": "task_status:status",
        "why": "task_why:why",
        "logs": "task_logs:logs",
        "wait": "task_wait:wait",
        "kill": "task_control:kill",
        "pause": "task_control:pause",
        "resume": "task_control:resume",
        "requeue": "task_control:requeue",
    },
)
@config_option
def task() -> None:
    """Submit, see and control jobs and their tasks.

    An ID is a job's (20 digits), a task's (ID-7), several tasks' (ID-[0-9,12]), or an ending of four digits or
    more that only one job has.

    \b
    Example:
      hakuriver task list --state running
    """


@click.group(
    cls=LazyGroup,
    lazy={
        "list": "node:list_nodes",
        "show": "node:show",
        "drain": "node:drain",
        "resume": "node:resume",
        "forget": "node:forget",
    },
)
@config_option
def node() -> None:
    """See nodes, and take them out of service and back.

    \b
    Example:
      hakuriver node list
    """


@click.group(
    cls=LazyGroup,
    lazy={
        "list-containers": "docker:list_containers",
        "create-container": "docker:create_container",
        "start-container": "docker:start_container",
        "stop-container": "docker:stop_container",
        "delete-container": "docker:delete_container",
        "shell": "docker_shell:docker_shell",
        "list-tars": "docker:list_tars",
        "create-tar": "docker:create_tar",
        "delete-tar": "docker:delete_tar",
    },
)
@config_option
def docker() -> None:
    """Make environments on the host, and package them for tasks.

    
    Example:
      hakuriver docker create-container python:3.12-slim my-env
      hakuriver docker-shell my-env                    # on the host: pip install ...
      hakuriver docker create-tar my-env
      hakuriver submit --container my-env -- python train.py
    """


@click.group(cls=LazyGroup, lazy={"share": "init:share", "config": "init:config_"})
def init() -> None:
    """Make what has to be there once: the share of a cluster, a configuration file.

    \b
    Example:
      hakuriver init share --shared-dir /mnt/river --name lab
    """
