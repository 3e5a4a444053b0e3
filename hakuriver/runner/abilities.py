"""How this node can run tasks: which executors, what they can do, and why something cannot be done.

Nothing here waits long: engines are asked with a time limit, on a thread that looks again and again. Sources: the
Docker Engine API; systemd-run(1), systemd.exec(5); sudo(8).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hakuriver.runner.tools import answer
from hakuriver.settings import Settings

#: Seconds that an engine may take to answer, and bytes of its answer.
ENGINE_S, ANSWER_MOST = 4.0, 4 * 1024 * 1024
#: Is there where systemd is PID 1, sd_booted(3); and the cgroup hierarchy.
SYSTEMD, CGROUPS = "/run/systemd/system", "/sys/fs/cgroup"
#: The first systemd with PrivatePIDs=.
PRIVATE_PIDS = 257
#: Programs of the NVIDIA Container Toolkit: the first is what an engine without a runtime of its own looks for.
TOOLKIT = ("nvidia-container-runtime-hook", "nvidia-ctk")

NO_NUMACTL = "the program numactl was not found: install it, or name it in paths.numactl_path"
NO_ENGINE = "there is no Docker engine: install one, or name its socket in docker.host"
NO_TOOLKIT = "the engine knows no NVIDIA runtime: install the NVIDIA Container Toolkit, and start the engine again"
NO_SYSTEMD = "systemd does not run this machine"
NO_SYSTEMD_RUN = "the program systemd-run was not found: it belongs to systemd"
NO_PRIVATE_PID = f"needs systemd {PRIVATE_PIDS}, or the program unshare: install util-linux"
NO_MEMORY_LIMIT = "the Docker engine cannot limit memory, so containers may use all: see `docker info`"


class Abilities(NamedTuple):
    """What a node can do, as of one look."""

    executors: tuple[str, ...] = ("process",)
    can: tuple[str, ...] = ()
    engines: Mapping[str, str] = {}  #: versions
    cannot: Mapping[str, str] = {}  #: executors, and what they might be able to do: why not
    away: Mapping[str, str] = {}  #: executors that cannot be used now, and why
    problems: tuple[str, ...] = ()


class Docker(NamedTuple):
    """A Docker engine."""

    version: str = ""
    nvidia: bool = False  #: containers can have GPUs
    limits_memory: bool = True


class Systemd(NamedTuple):
    """What runs units."""

    version: str = ""
    trouble: str = ""  #: why it cannot be used at all
    unshare: bool = False


# -- all of it


class Looker:
    """Looks at this machine: all of it once, then again at what comes and goes."""

    def __init__(self, settings: Settings) -> None:
        self._socket = settings.docker.socket
        self._user = settings.environment.runner_user
        self._numactl_path = settings.paths.numactl_path
        self.numactl = numactl(self._numactl_path)
        self._docker: Docker | None = None  #: as it was when it last answered
        self._answers = False  #: it did at the last look
        self._offered: set[str] = {"process"}
        self._systemd = look_at_systemd()

    def look(self, gpus: bool) -> Abilities:
        """What it can do now; `gpus`: whether it has any. What was offered once stays so, though it is away."""
        away = self._away()
        self._offered |= {name for name, there in self._there().items() if there}
        can = self._can()
        return Abilities(
            executors=tuple(sorted(self._offered)),
            can=tuple(name for name, why in can.items() if not why),
            engines=self._engines(),
            cannot={name: why for name, why in (self._missing() | can).items() if why and (gpus or "gpu" not in name)},
            away={name: why for name, why in away.items() if name in self._offered},
            problems=tuple(self._problems()),
        )

    def _there(self) -> dict[str, bool]:
        docker = os.path.exists(self._socket) or on_path("dockerd")  # the client alone may be for other machines
        return {"docker": docker, "systemd": not self._systemd.trouble}

    def _missing(self) -> dict[str, str]:
        """Why executors are not offered."""
        why = {"docker": NO_ENGINE, "systemd": self._systemd.trouble or NO_SYSTEMD}
        return {name: text for name, text in why.items() if name not in self._offered}

    def _away(self) -> dict[str, str]:
        away = {}
        told = look_at_docker(self._socket, self._docker if self._answers else None)
        self._answers = isinstance(told, Docker)
        if isinstance(told, Docker):
            self._docker = told
        else:
            away["docker"] = told
        trouble = self._user_trouble() or ("" if os.path.isdir(SYSTEMD) else NO_SYSTEMD)
        return away | ({"systemd": trouble} if trouble else {})

    def _user_trouble(self) -> str:
        if not self._user:
            return ""
        try:
            pwd.getpwnam(self._user)
            return ""
        except KeyError:
            return f"environment.runner_user = {self._user!r}: there is no such user here: make it, or correct the name"

    def _can(self) -> dict[str, str]:
        """What offered executors may be able to do -> why they cannot; empty: they can."""
        found = {}
        if "systemd" in self._offered:
            hides = self._systemd.unshare or number(self._systemd.version) >= PRIVATE_PIDS
            found["systemd-numa"] = "" if self.numactl else self._numactl_trouble() or NO_NUMACTL
            found["systemd-private-network"] = ""
            found["systemd-private-pid"] = "" if hides else NO_PRIVATE_PID
        if "docker" in self._offered:
            known = self._docker.nvidia if self._docker else has_toolkit()
            found["docker-gpus"] = "" if known else NO_TOOLKIT
        return found

    def _engines(self) -> dict[str, str]:
        versions = {
            "docker": self._docker.version if self._docker else "",
            "systemd": self._systemd.version,
            "numactl": self.numactl or "",
            "cgroup": cgroup_version(),
        }
        return {name: version for name, version in versions.items() if version}

    def _numactl_trouble(self) -> str:
        if not self._numactl_path or self.numactl:
            return ""
        return f"paths.numactl_path = {self._numactl_path!r}: there is no such program: correct it, or leave it empty"

    def _problems(self) -> Iterable[str]:
        memory = NO_MEMORY_LIMIT if self._docker and not self._docker.limits_memory else ""
        return filter(None, (self._numactl_trouble(), memory))


def on_path(program: str) -> bool:
    """Whether there is such a program on PATH."""
    return shutil.which(program) is not None


def number(version: str) -> int:
    """The number that a version begins with; 0: none."""
    digits = re.match(r"\d+", version)
    return int(digits[0]) if digits else 0


def numactl(path: str) -> str | None:
    """The program numactl: `path`, or else on PATH."""
    return shutil.which(path or "numactl")


def cgroup_version(root: str = CGROUPS) -> str:
    """Version of the cgroup hierarchy that limits are set in: 2, 1, or nothing."""
    if os.path.exists(f"{root}/cgroup.controllers"):
        return "2"
    return "1" if os.path.isdir(f"{root}/memory") else ""


# -- systemd


def look_at_systemd() -> Systemd:
    """Whether units can be started here, as root or by sudo."""
    if not os.path.isdir(SYSTEMD):
        return Systemd(trouble=NO_SYSTEMD)
    if not on_path("systemd-run"):
        return Systemd(trouble=NO_SYSTEMD_RUN)
    told = answer(["systemctl", "--version"])
    words = told.text.split() if told.ok else []
    return Systemd(words[1] if len(words) > 1 else "", _refusal(), on_path("unshare"))


def _refusal() -> str:
    """Why this user may not start units."""
    if os.geteuid() == 0:
        return ""
    for program in ("systemd-run", "systemctl"):
        told = answer(["sudo", "-n", program, "--version"])
        if not told.ok:
            return (
                f"Permission denied when executing {program}: sudo refuses it ({told.text}): allow it to this user"
                " without a password, see sudoers(5)"
            )
    return ""


# -- Docker


def has_toolkit() -> bool:
    """Whether a program of the NVIDIA Container Toolkit is on PATH."""
    return any(on_path(program) for program in TOOLKIT)


def look_at_docker(path: str, known: Docker | None) -> Docker | str:
    """The engine behind a socket, or why it cannot be reached. `known`: what it told before, if that holds."""
    try:
        ask(path, "/_ping")
        return known or describe_docker(json.loads(ask(path, "/version")), json.loads(ask(path, "/info")))
    except FileNotFoundError:
        why = f"there is no socket {path}: start the Docker engine, or name its socket in docker.host"
    except ConnectionRefusedError:
        why = f"nobody answers at {path}: start the Docker engine"
    except PermissionError:
        why = f"this user may not use {path}: put the user into the group that owns it, and start the runner again"
    except TimeoutError:
        why = f"the Docker engine at {path} does not answer within {ENGINE_S:.0f} s: see its log"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        why = f"the Docker engine at {path} does not answer as it should: {error}; see its log"
    return f"Cannot connect to Docker daemon: {why}"


def describe_docker(version: dict[str, Any], info: dict[str, Any]) -> Docker:
    """From what the engine tells of itself."""
    nvidia = "nvidia" in (info.get("Runtimes") or {}) or has_toolkit()
    return Docker(str(version.get("Version") or "unknown"), nvidia, info.get("MemoryLimit") is not False)


def ask(path: str, what: str, seconds: float = ENGINE_S) -> bytes:
    """The body of an answer of the engine's; HTTP 1.0, so that it ends with the connection. Raises OSError."""
    until = time.monotonic() + seconds
    received = bytearray()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(f"GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        while len(received) < ANSWER_MOST:
            connection.settimeout(max(0.001, until - time.monotonic()))
            part = connection.recv(65536)
            if not part:
                break
            received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode("latin-1")
    if not re.match(r"HTTP/1\.\d 200\b", status):
        raise OSError(f"it says {status[:100]!r} to {what}")
    return body
