"""The group `hakuriver` and the groups below it: they know where their commands live, and load one when it is used."""

from __future__ import annotations

import click

from hakuriver import __version__
from hakuriver.cli.common import config_option
from hakuriver.cli.frame import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "submit": "submit:submit",
        "task": "root:task",
        "node": "root:node",
        "docker": "root:docker",
        "docker-shell": "docker_shell:docker_shell",
        "client": "old_client:client",
        "vps": "later:vps",
        "ssh": "later:ssh",
        "hakurun": "hakurun:hakurun",
        "up": "up:up",
        "init": "root:init",
        "config": "root:config",
        "host": "host:host",
        "runner": "runner:runner",
        "doctor": "doctor:doctor",
        "job": "root:job",
        "schema": "schema:schema",
        "completion": "completion:completion",
    },
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
        "command": "old_task:command",
        "stdout": "old_task:stdout",
        "stderr": "old_task:stderr",
    },
    aliases={"batch": "status"},
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
        "check-vps": "later:check_vps",
    },
)
@config_option
def docker() -> None:
    """Make environments on the host, and package them for tasks.

    \b
    Example:
      hakuriver docker create-container python:3.12-slim my-env
      hakuriver docker-shell my-env                    # on the host: pip install ...
      hakuriver docker create-tar my-env
      hakuriver submit --container my-env -- python train.py
    """


@click.group(
    cls=LazyGroup,
    lazy={"share": "init:share", "config": "init:config_", "service": "init_service:service"},
    invoke_without_command=True,
)
@config_option
@click.pass_context
def init(context: click.Context) -> None:
    """Make what has to be there once: the share of a cluster, a configuration file, units for systemd.

    Without a command it is `init config`.

    \b
    Example:
      hakuriver init share --shared-dir /mnt/river --name lab
    """
    if context.invoked_subcommand is None:
        from hakuriver.cli.init import config_

        context.invoke(config_)


@click.group(cls=LazyGroup, lazy={"show": "config:show", "check": "config:check"})
@config_option
def config() -> None:
    """See the configuration that applies here, and where each value comes from.

    \b
    Example:
      hakuriver config show
    """


@click.group(cls=LazyGroup, lazy={"validate": "job:validate"})
def job() -> None:
    """Check job files that were written by hand.

    \b
    Example:
      hakuriver job validate job.json
    """
