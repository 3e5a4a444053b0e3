"""What this machine brings along: tools, a place for local state, a clock. Engines and GPUs: engines.py."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from typing import NamedTuple

from hakuriver import __version__
from hakuriver.doctor import mounts
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding
from hakuriver.doctor.probes import judge_room

#: From adjtimex(2): the clock is not synchronised. Bytes of struct timex, and where its status is, on 64-bit Linux.
TIME_ERROR, STA_UNSYNC = 5, 0x40
TIMEX_SIZE, TIMEX_STATUS = 208, 40


class Tool(NamedTuple):
    """A program that is of use where it is found."""

    name: str
    use: str  #: what the river does with it


TOOLS = (
    Tool("bash", "commands of yours that are shell scripts"),
    Tool("ssh", "tasks that are reached by SSH, which this version does not have yet"),
)


def examine(node: str, state_dir: str) -> list[Finding]:
    """Everything about this machine; `node`: its name in the river."""
    return [
        Finding("machine.node", OK, f"{node}: hakuriver {__version__}, Python {platform.python_version()}, "
                f"Linux {platform.release()}"),
        *state(state_dir),
        *room(state_dir),
        clock(),
        *(tool(each) for each in TOOLS),
    ]  # fmt: skip


# -- the place for local state


def state(path: str) -> list[Finding]:
    """Whether local state can lie there; the directory may not be there yet."""
    there = existing(path)
    if not os.path.isdir(there):
        return [Finding("machine.state", BROKEN, f"{there} is no directory", "host and runner cannot start",
                        "name another place in paths.state_dir")]  # fmt: skip
    found = judge_state(path, mounts.of(there))
    if not os.access(there, os.W_OK | os.X_OK):
        found.append(Finding("machine.state", BROKEN, f"{there} may not be written", "host and runner cannot start",
                             "give it to the user who runs them, or name another in paths.state_dir"))  # fmt: skip
    return found


def room(path: str) -> list[Finding]:
    """How much is left where local state is to lie; nothing where it cannot."""
    there = existing(path)
    return judge_room("machine", os.statvfs(there)) if os.path.isdir(there) else []


def existing(path: str) -> str:
    """What is there of a path, whole: itself, or the nearest above it. What is no directory stands in the way."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def judge_state(path: str, mount: mounts.Mount | None) -> list[Finding]:
    """What is to be said of a state directory on such a mount."""
    value = f"{path} on {mount.type if mount else 'an unknown filesystem'}"
    if mount and mount.type in mounts.NETWORK:
        return [Finding(
            "machine.state", BROKEN, value,
            "when the network is away the keeper hangs with it and cannot stop tasks in time: they could run twice; "
            "and machines that share it take one another's identity",
            "name a directory of this machine's own disk in paths.state_dir",
        )]  # fmt: skip
    if mount and mount.type in mounts.PASSING:
        return [Finding(
            "machine.state", WARNING, value,
            "it is empty after a reboot: this machine is no longer known as its node, and how its tasks ended is lost",
            "name a directory of a lasting disk in paths.state_dir",
        )]  # fmt: skip
    return [Finding("machine.state", OK, value)]


# -- the clock


def clock() -> Finding:
    """Whether somebody keeps this machine's clock in step."""
    return judge_clock(synchronised())


def judge_clock(in_step: bool | None) -> Finding:
    """None: it cannot be told."""
    if in_step:
        return Finding("machine.clock", OK, "kept in step")
    if in_step is None:
        return Finding("machine.clock", NOTE, "whether the clock is kept in step cannot be told here")
    meaning = (
        "the river compares no clocks, but the time in a job's id decides how long it is kept, and people read times"
    )
    return Finding("machine.clock", NOTE, "nothing keeps it in step", meaning, "run chrony or systemd-timesyncd")


def synchronised() -> bool | None:
    """What the kernel says, adjtimex(2); None if it does not."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    buffer = ctypes.create_string_buffer(TIMEX_SIZE)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[TIMEX_STATUS : TIMEX_STATUS + 4], "little")
    return state != TIME_ERROR and not status & STA_UNSYNC


# -- tools


def tool(wanted: Tool) -> Finding:
    """Whether a tool is there."""
    check = f"machine.{wanted.name}"
    if shutil.which(wanted.name) is None:
        return Finding(check, NOTE, "not found", f"for {wanted.use}")
    return Finding(check, OK, f"found, for {wanted.use}")
