"""What systemd is told of a unit, and what it and the unit's last script say: texts made and read, nothing done."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hakuriver.attendant.messages import Begin

#: Marks a unit as its keeper's, in the unit's own environment; the task does not see it.
OWNER = "HAKURIVER_OWNER"
#: Properties that `systemctl show` is asked for.
SHOWN = (
    "Id", "LoadState", "ActiveState", "Result", "MainPID", "ExecMainCode", "ExecMainStatus", "CPUUsageNSec",
    "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic", "Environment",
)  # fmt: skip
#: ActiveState of units whose program runs, or whose last script does.
ALIVE = frozenset({"active", "activating", "deactivating", "reloading"})
DESCRIPTION_MAX = 200
#: waitid(2): ExecMainCode of a program that exited by itself
CLD_EXITED = 1
#: Results that exit code, signal or the count of kills for memory tell as well.
PLAIN_RESULTS = frozenset({"success", "exit-code", "signal", "core-dump", "oom-kill", ""})
#: What sudo says though it goes on, before whatever else is said.
WARNING = "sudo: unable to resolve host "
#: What sudo and systemd say to those who may not, and if there is no systemd to speak of.
DENIED = ("sudo:", "Sorry, user", "Access denied", "authentication required")
AWAY = ("not been booted with systemd", "Failed to connect to bus", "Connection", "Transport endpoint")


class Unit:
    """Where things of one attempt are: the unit's name, its private directory, and where its result will lie."""

    def __init__(self, directory: str, name: str) -> None:
        """`directory`: the engine's."""
        self.name = f"{name}.service"
        self.directory = f"{directory}/made/{name}"
        self.result = f"{directory}/ended/{name}"


def word(text: str) -> str:
    """One word of a command line as unit files have them (systemd.service(5)): quoted, variables not expanded."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "$$")
    return f'"{escaped}"'


def description(order: Begin) -> str:
    """A line for people who look at the unit."""
    text = f"HakuRiver task {order['task']}: {' '.join(order['spec']['argv'])}"
    return "".join(char if char.isprintable() else " " for char in text)[:DESCRIPTION_MAX]


def properties(order: Begin, unit: Unit, script: str, version: int) -> list[str]:
    """The unit's properties. `script`: ended.sh, `version`: systemd's."""
    spec = order["spec"]
    last = " ".join(map(word, ("/bin/sh", script, unit.directory, unit.name, unit.result)))
    return [
        "CPUAccounting=yes", "MemoryAccounting=yes", "TasksMax=infinity", *_limits(spec),
        "StandardInput=null", f"StandardOutput=append:{order['out']}", f"StandardError=append:{order['err']}",
        "KillMode=control-group", "SendSIGKILL=yes", f"TimeoutStopSec={spec.get('grace_s', 10.0):f}",
        "IgnoreSIGPIPE=no", *_private(spec, version), f"ExecStopPost=+{last}",
    ]  # fmt: skip


def _limits(spec: dict[str, Any]) -> list[str]:
    limits = [f"CPUQuota={100 * spec['cores']}%"] if spec.get("cores") else []
    if spec.get("memory_bytes") is not None:
        limits += [f"MemoryMax={spec['memory_bytes']}", "MemorySwapMax=0"]
    return limits


def _private(spec: dict[str, Any], version: int) -> list[str]:
    """The sandbox; and that a child killed for memory does not end the whole, as elsewhere."""
    private = ["PrivateNetwork=yes"] if spec.get("private_network") else []
    if spec.get("private_pid") and version >= 257:
        private.append("PrivatePIDs=yes")
    return private + (["OOMPolicy=continue"] if version >= 243 else [])


def alone(spec: dict[str, Any], version: int) -> list[str]:
    """What comes before the launcher so that it is the first process of a pid namespace.

    TERM is for the task; unshare(1) of some versions would die of it, and all with it.
    """
    if not spec.get("private_pid") or version >= 257:
        return []
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", *unshare]


def without_warnings(said: str) -> str:
    """What was said but for what sudo says of the machine's name, which keeps nothing from being done."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith(WARNING))


def why_denied(said: str) -> str:
    """For people, that and why systemd may not be used, of what was said; empty: that is not what was said."""
    if not any(words in said for words in DENIED):
        return ""
    return (
        "Permission denied when executing systemd-run: the runner's user needs sudo without a password for systemd-run"
        f" and systemctl ({_last(said)})"
    )


def why_away(said: str) -> str:
    """The same, that systemd cannot be reached."""
    return f"systemd cannot be reached ({_last(said)})" if any(words in said for words in AWAY) else ""


def _last(said: str) -> str:
    return said.strip().splitlines()[-1]


def read_shows(text: str) -> dict[str, dict[str, str]]:
    """What `systemctl show` says of units, by their names."""
    blocks = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n"))
    return {block["Id"]: block for block in blocks if "Id" in block}


def owner(show: dict[str, str]) -> str:
    """Whose unit it is."""
    for assignment in show.get("Environment", "").split():
        name, _, value = assignment.partition("=")
        if name == OWNER:
            return value
    return ""


class Result:
    """How a unit ended. `wall_end`: on CLOCK_BOOTTIME, or else how long it ran is `wall_s`; seconds."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.oom = False
        self.text = ""
        self.cpu_s = 0.0
        self.peak: int | None = None
        self.wall_end: float | None = None
        self.wall_s = 0.0


def read_result(text: str) -> Result:
    """What ended.sh wrote."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in ("memory.events", "memory.oom_control", "cpu.stat"):
            name, _, value = f"{name} {value}".rpartition(" ")
        facts[name] = value
    result = Result()
    _ending(result, facts)
    kills = facts.get("memory.events oom_kill") or facts.get("memory.oom_control oom_kill") or "0"
    result.oom = int(kills) > 0 or facts.get("service_result") == "oom-kill"
    peak = facts.get("memory.peak") or facts.get("memory.max_usage_in_bytes")
    result.peak = int(peak) if peak else None
    result.cpu_s = int(facts.get("cpu.stat usage_usec", 0)) / 1e6 or int(facts.get("cpuacct.usage", 0)) / 1e9
    result.wall_end = float(facts["uptime"].split()[0]) if "uptime" in facts else None
    result.text = _unusual(facts.get("service_result", ""))
    if facts.get("system") == "stopping":
        result.text = "the node was shutting down"
    return result


def _ending(result: Result, facts: dict[str, str]) -> None:
    """Exit code or signal: what a first process of its own pid namespace noted, or else systemd."""
    code, status = facts.get("exit_code", ""), facts.get("exit_status", "")
    if "signal" in facts:
        result.signal = int(facts["signal"])
    elif code == "exited":
        result.exit_code = int(status)
    elif code in ("killed", "dumped"):
        result.signal = signal_number(status)


def signal_number(name: str) -> int | None:
    """Of a signal as systemd writes it: KILL, RTMIN+3."""
    base, _, more = name.partition("+")
    try:
        return signal.Signals[f"SIG{base}"] + int(more or 0)
    except (KeyError, ValueError):
        return None


def _unusual(result: str) -> str:
    return "" if result in PLAIN_RESULTS else f"systemd ended it: {result}"


def of_show(show: dict[str, str]) -> Result:
    """The ending of a unit whose script could not tell: of what systemd remembers of it, if anything."""
    result = Result()
    code, status = show.get("ExecMainCode", "0"), show.get("ExecMainStatus", "")
    if show.get("ActiveState") != "failed" or code == "0":
        result.text = "its unit is gone, and what notes its end could not"
        return result
    if int(code) == CLD_EXITED:
        result.exit_code = int(status)
    else:
        result.signal = int(status)
    result.oom = show.get("Result") == "oom-kill"
    result.cpu_s = _number(show, "CPUUsageNSec") / 1e9
    began, ended = _number(show, "ExecMainStartTimestampMonotonic"), _number(show, "ExecMainExitTimestampMonotonic")
    result.wall_s = max(0, ended - began) / 1e6
    result.text = _unusual(show.get("Result", "")) or "how much memory it used is not known"
    return result


def _number(show: dict[str, str], name: str) -> int:
    """A property's value; 0 if systemd has none."""
    value = show.get(name, "")
    return int(value) if value.isdigit() and int(value) < 2**63 else 0
