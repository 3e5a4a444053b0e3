"""`hakuriver docker-shell`: a terminal in an environment's container, on the host."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from hakuriver import config
from hakuriver.cli.common import chosen_config, config_option, note
from hakuriver.cli.frame import Command
from hakuriver.errors import HakuRiverError, Invalid
from hakuriver.spool import layout

#: What the container is asked for: what it does, and whose environment it is.
_FORMAT = '{{.State.Status}} {{index .Config.Labels "hakuriver.environment"}}'
#: bash where there is one.
_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"
EXIT_NO_PROGRAM = 127


@click.command(cls=Command)
@click.argument("environment", metavar="ENV")
@config_option
def docker_shell(environment: str) -> int:
    """Open a shell in an environment, on the host: bash if it is there, else sh.

    What is changed in it is kept in the container, and tasks get it with the next `hakuriver docker create-tar ENV`.
    Without a terminal, commands are read from stdin. Exit status: the shell's.

    \b
    Example:
      hakuriver docker-shell my-env
      echo 'pip install numpy' | hakuriver docker shell my-env
    """
    if not layout.ENVIRONMENT_NAME.fullmatch(environment):
        raise Invalid("ENV", environment, "no environment can have that name; `hakuriver docker list-containers`")
    docker = ["docker", "--host", f"unix://{config.load(chosen_config()).docker.socket}"]
    name = layout.environment_container(environment)
    try:
        _check(docker, name, environment)
        sys.stdout.flush()
        terminal = ["-it", "-e", f"TERM={os.environ.get('TERM', 'xterm')}"] if _has_terminal() else ["-i"]
        os.execvp("docker", [*docker, "exec", *terminal, name, "sh", "-c", _SHELL])
    except FileNotFoundError:
        note("the program docker is not on PATH: install Docker's command line here, or run this on the host")
        return EXIT_NO_PROGRAM


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _check(docker: list[str], name: str, environment: str) -> None:
    """Raise HakuRiverError unless the environment's container runs in this machine's engine."""
    inspect = [*docker, "container", "inspect", "-f", _FORMAT, name]
    asked = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if asked.returncode and "no such container" in asked.stderr.lower():
        raise HakuRiverError(
            f"this machine's engine has no container {name}: environments live on the host, so run this there; "
            f"or make it with `hakuriver docker create-container IMAGE {environment}`"
        )
    if asked.returncode:
        why = asked.stderr.strip().removeprefix("Error response from daemon: ")
        raise HakuRiverError(f"docker unavailable here: {why}; run this on the host")
    state, _, label = asked.stdout.strip().partition(" ")
    if label != environment:
        raise HakuRiverError(f"the container {name} is no environment of HakuRiver's: it is left alone")
    if state != "running":
        remedy = f"`hakuriver docker start-container {environment}` starts it"
        raise HakuRiverError(f"{environment} does not run, it is {state}: {remedy}")
