"""`hakuriver init service`: units for systemd."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

from hakuriver import config
from hakuriver.cli.common import check_node_name, chosen_config, config_option, directory, note, out
from hakuriver.cli.frame import Command
from hakuriver.cli.unit_files import PLACE, Role, Unit
from hakuriver.errors import HakuRiverError, Invalid
from hakuriver.settings import Settings


class CannotInstall(HakuRiverError):
    """Cannot {do what}: {why}; {remedy}."""


@click.command(cls=Command)
@click.option("--host", is_flag=True, help="Write hakuriver-host.service.")
@click.option("--runner", is_flag=True, help="Write hakuriver-runner.service.")
@click.option("--all", "both", is_flag=True, help="Write both.")
@config_option
@click.option("--host-config", metavar="FILE", help="The host's configuration, instead of --config.")
@click.option("--runner-config", metavar="FILE", help="The runner's configuration, instead of --config.")
@click.option("--output-dir", metavar="DIR", default=".", help="Where to write, made if it is not there.  [.]")
@click.option("--name", metavar="NODE", help="The runner's node, and part of its unit's name: several on one machine.")
@click.option("--install", is_flag=True, help=f"Copy them to {PLACE}, by sudo, and have systemd read them.")
def service(
    host: bool, runner: bool, both: bool, host_config: str | None, runner_config: str | None, output_dir: str,
    name: str | None, install: bool,
) -> None:  # fmt: skip
    """Write units with which systemd starts the host or a runner with the machine, and again when it has died.

    They run as you, or as whoever called sudo, with the Python that runs this command. A file of the same name is
    replaced. Nothing is enabled or started: the lines that do so are printed.

    \b
    Example:
      hakuriver init service --all --output-dir units
      hakuriver init service --host --host-config /etc/hakuriver/host.toml
      hakuriver init service --runner --name n1 --runner-config ~/n1.toml --install
    """  # fmt: skip
    asked: dict[Role, bool] = {"host": host or both, "runner": runner or both}
    roles = [role for role, wanted in asked.items() if wanted]
    _refuse_what_is_unused(roles, host_config, runner_config, name)
    chosen = {"host": host_config, "runner": runner_config}
    account = caller()
    units = [_unit(role, account, chosen[role], name) for role in roles]
    installing = Installing() if install else None
    paths = [_write(directory(output_dir, "output_dir"), unit.file, unit.text()) for unit in units]
    for path in paths:
        out(installing.install(path) if installing else path)
    if installing:
        installing.reload()
    _say_what_is_next(paths, installed=install)
    if "runner" in roles and account.uid != 0:
        _say_sudoers(account.name)


def _refuse_what_is_unused(roles: list[Role], host_config: str | None, runner_config: str | None,
                           name: str | None) -> None:  # fmt: skip
    if not roles:
        raise click.UsageError("say which: --host, --runner, or --all for both")
    if host_config is not None and "host" not in roles:
        raise click.UsageError("--host-config goes with --host or --all")
    if runner_config is not None and "runner" not in roles:
        raise click.UsageError("--runner-config goes with --runner or --all")
    if name is not None and "runner" not in roles:
        raise click.UsageError("--name is a runner's: it goes with --runner or --all")
    if name is not None:
        check_node_name(name)
    for field, file in (("host_config", host_config), ("runner_config", runner_config)):
        if file is not None and not file.strip():  # as of a variable that is not set: another must not stand in for it
            raise Invalid(field, file, "it is empty: name a file")


# -- who and what


class Account(NamedTuple):
    """Whom the services run as."""

    uid: int
    name: str
    group: str  #: the primary one
    home: str
    by_sudo: bool  #: it is not who runs this command


def caller() -> Account:
    """Who calls: by sudo, who called that. A user or group without a name goes by its number."""
    by_sudo = os.getuid() == 0 and os.environ.get("SUDO_USER", "root") != "root"
    try:
        user = pwd.getpwnam(os.environ["SUDO_USER"]) if by_sudo else pwd.getpwuid(os.getuid())
    except KeyError:
        return Account(os.getuid(), str(os.getuid()), _group(os.getgid()), os.path.expanduser("~"), False)
    return Account(user.pw_uid, user.pw_name, _group(user.pw_gid), user.pw_dir, by_sudo)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _unit(role: Role, account: Account, chosen: str | None, node: str | None) -> Unit:
    own = f"--{role}-config"
    file, settings = _settings(account, chosen or chosen_config(), own if chosen else "--config")
    return Unit(
        role, account.name, account.group, sys.executable, file, settings.paths.shared_dir, settings.paths.state_dir,
        (node or "") if role == "runner" else "",
    )  # fmt: skip


def _settings(account: Account, chosen: str | None, option: str) -> tuple[str, Settings]:
    """The configuration that a service will read, as it will: in its own home, and without variables of this shell."""
    with _environment(**{"HOME": account.home} if account.by_sudo else {}):
        file = config.config_file(chosen, option)
    if file is None:
        raise config.ConfigError(
            f"{config.DEFAULT_FILE}: there is no such file, and a service needs one: write it with `hakuriver init "
            "config --shared-dir DIR`, or name another with --config"
        )
    file = os.path.abspath(file)
    _refuse_relative(file)
    with _environment(HOME=account.home, HAKURIVER_SHARED_DIR=None):
        settings = config.load(file)
    if not settings.paths.shared_dir:
        raise config.ConfigError(
            f"{file}: paths.shared_dir is not set; set it there: a service does not know HAKURIVER_SHARED_DIR"
        )
    return file, settings


def _refuse_relative(file: str) -> None:
    """Such paths are those of whoever starts something where that one is: a service starts elsewhere."""
    paths = config.read_table(file).get("paths")
    for key in ("shared_dir", "state_dir", "local_temp_dir"):
        path = paths.get(key) if isinstance(paths, dict) else None
        if isinstance(path, str) and path and not path.startswith(("/", "~")):
            raise config.ConfigError(
                f"{file}: paths.{key} = {json.dumps(path)} depends on the directory in which a program is started, and "
                "a service is started in another: write the whole path"
            )


@contextmanager
def _environment(**changes: str | None) -> Iterator[None]:
    """With these variables, or without those that are None."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    for name in [name for name, value in changes.items() if value is None]:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# -- files


def _write(place: str, name: str, text: str) -> str:
    """Write a unit; where."""
    os.makedirs(place, exist_ok=True)
    path = os.path.join(place, name)
    if _content(path) not in (None, text):
        note(f"{path} was there and read otherwise: it is replaced")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


class Installing:
    """Copies units to where systemd reads them, as root. Raises CannotInstall where that cannot be."""

    def __init__(self) -> None:
        self._systemctl = self._found("systemctl", "systemd does not run this machine")
        self._install = self._found("install", "it belongs to coreutils")
        self._sudo = [] if os.geteuid() == 0 else [self._found("sudo", "run this as root, or install sudo")]

    @staticmethod
    def _found(program: str, otherwise: str) -> str:
        path = shutil.which(program)
        if path is None:
            raise CannotInstall(f"cannot install: the program {program} was not found: {otherwise}")
        return path

    def install(self, path: str) -> str:
        """Copy one; where to."""
        self._run([self._install, "-m", "644", "--", path, PLACE])
        return f"{PLACE}/{os.path.basename(path)}"

    def reload(self) -> None:
        """Have systemd read them."""
        self._run([self._systemctl, "daemon-reload"])

    def _run(self, words: list[str]) -> None:
        command = [*self._sudo, *words]
        status = subprocess.run(command, stdout=2, check=False).returncode
        if status != 0:
            why = "sudo refused it, or it failed" if self._sudo else "it failed"
            raise CannotInstall(f"cannot install: `{shlex.join(command)}` exited with {status}: {why}; see above, "
                                "or leave --install out and have an administrator copy the files")  # fmt: skip


# -- what is said


def _say_what_is_next(paths: list[str], installed: bool) -> None:
    names = [os.path.basename(path) for path in paths]
    copy = [f"sudo cp {shlex.join(paths)} {PLACE}/", "sudo systemctl daemon-reload"]
    lines = [
        *([] if installed else copy),
        f"sudo systemctl enable --now {shlex.join(names)}",
        *(f"journalctl -u {shlex.quote(name)} -f" for name in names),
    ]
    note("\n  ".join(["next:", *lines]))


def _say_sudoers(user: str) -> None:
    """What a runner that is not root needs for `--executor systemd`."""
    programs = [shutil.which(program) or f"/usr/bin/{program}" for program in ("systemd-run", "systemctl")]
    note(
        "for tasks as systemd units the runner needs sudo; whoever has this may become root (sudo visudo -f "
        f"/etc/sudoers.d/hakuriver):\n  {user} ALL=(ALL) NOPASSWD: {', '.join(programs)}"
    )
