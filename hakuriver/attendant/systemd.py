"""systemd as an engine: each attempt is a transient service, `hakuriver-task-<task>.service`.

A service and not a scope: scopes refuse the sandbox properties, do not drop the user by User=, and their exit code is
lost when whoever made them dies. A service is a child of systemd. At its end a script (`systemd_ended.sh`), run by it,
writes how it ended into a file, so that it is known whoever has died meanwhile; if even that fails, systemd remembers
failed units until they are removed. The program is started by `systemd_launch.py`, which tells why neither User= nor
EnvironmentFile= serves.

The engine's directory, on the node's disk and nobody else's (0700):

    ended.sh        a copy, so that units do not depend on where HakuRiver is installed
    made/NAME/      one attempt: `launch` (what to start, with its environment), `owner`, the pipe `told`, `begun`
    ended/NAME      how it ended; remains until `remove`

Not root: systemd-run and systemctl are called by `sudo -n`. BUGS: the launcher (a Python, 8 MB) counts for the task's
limit and peak of memory until it has become the program. On cgroup v1 systemd cannot limit swap.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

from hakuriver.attendant import systemd_units as units
from hakuriver.attendant.engine import Away, CannotStart
from hakuriver.attendant.systemd_launch import Launch
from hakuriver.attendant.systemd_units import Unit
from hakuriver.attendant.systemd_watch import LOOK_S, PATTERN, Watch

if TYPE_CHECKING:
    from hakuriver.attendant.messages import Attend, Begin, Ended

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CALL_S = 60.0  #: a call of systemctl or systemd-run that takes longer has failed
END_S = 10.0  #: within which a unit has ended that was killed


class Denied(Away):
    """Neither root nor allowed to ask sudo: {text}. Somebody may allow it yet, to whoever waits for that."""


class Systemd:
    """The systemd of this machine."""

    def __init__(self, directory: str) -> None:
        """`directory`: for this engine alone, on the node's disk. Made if missing."""
        self.directory = os.path.abspath(directory)
        self._script = f"{self.directory}/ended.sh"
        for path in (self.directory, f"{self.directory}/made", f"{self.directory}/ended"):
            os.makedirs(path, 0o700, exist_ok=True)
        _write(self._script, resources.files("hakuriver.attendant").joinpath("systemd_ended.sh").read_bytes())
        self._watch = Watch(self)
        self._owners: dict[str, str] = {}  #: by name, of all that orders and `names` have told: others' are not removed
        self._known_version = 0

    # -- the protocol of engines

    def look(self, order: Begin | Attend) -> str:
        """As in Engine; never `made`. A unit that is another owner's counts as absent."""
        unit = self._unit(order["name"])
        self._owners[order["name"]] = order["owner"]
        show = self.shows(unit.name).get(unit.name, {})
        if os.path.exists(unit.result):
            return "ended"
        if units.owner(show) != order["owner"]:
            return "absent"
        if show["ActiveState"] in units.ALIVE:
            return "running"
        return "ended" if show["ActiveState"] == "failed" else "absent"

    def make(self, order: Begin) -> None:
        """As in Engine."""
        unit = self._unit(order["name"])
        self._owners[order["name"]] = order["owner"]
        self._forget(unit)
        try:
            packed = self._launch(order["spec"]).pack()
        except ValueError as error:
            raise CannotStart(126, str(error)) from None
        os.mkdir(unit.directory, 0o700)
        _write(f"{unit.directory}/launch", packed)
        _write(f"{unit.directory}/owner", order["owner"].encode())
        os.mkfifo(f"{unit.directory}/told", 0o600)

    def start(self, order: Begin) -> None:
        """As in Engine."""
        unit = self._unit(order["name"])
        told = os.open(f"{unit.directory}/told", os.O_RDONLY | os.O_NONBLOCK)
        try:
            self._run(order, unit)
            said = self._hear(unit, told)
        finally:
            os.close(told)
        if said:
            self._settle(unit)
            self.remove(order["name"])
            code, _, text = said.partition(" ")
            raise CannotStart(int(code), text)

    def attend(self, order: Begin | Attend) -> tuple[int | None, float]:
        """As in Engine; systemd itself writes the output."""
        unit = self._unit(order["name"])
        pid = int(self.shows(unit.name).get(unit.name, {}).get("MainPID", 0))
        begun = _begun(unit)
        return pid or None, begun[0] if begun else time.time()

    def wait(self, order: Begin | Attend) -> Ended:
        """As in Engine; a systemd that is away is waited for."""
        unit = self._unit(order["name"])
        show = self._watch.wait(unit)
        return self._ended(order["name"], unit, show)

    def signal(self, name: str, number: int) -> None:
        """As in Engine."""
        unit = self._unit(name)
        self._thaw(unit)  # before: a systemd that starts ended.sh in a frozen cgroup waits for it, or hangs
        self._kill(unit, number)

    def freeze(self, name: str, on: bool) -> str:
        """As in Engine: by cgroup v2, or by STOP and CONT to all processes."""
        unit = self._unit(name)
        if self._can_freeze():
            done = self._call("systemctl", "freeze" if on else "thaw", unit.name)
        else:
            done = self._kill(unit, signal.SIGSTOP if on else signal.SIGCONT)
        return done.stderr.strip() if done.returncode else ""

    def remove(self, name: str) -> None:
        """As in Engine; waits a while for the end of one that runs."""
        unit = self._unit(name)
        show = self.shows(unit.name).get(unit.name, {})
        if units.owner(show) == self._owners.get(name):
            if show["ActiveState"] in units.ALIVE:
                self.signal(name, signal.SIGKILL)
                show = self._settle(unit)
            if show.get("ActiveState") == "failed":
                self._call("systemctl", "reset-failed", unit.name)
        self._forget(unit)
        self._owners.pop(name, None)

    def names(self, owner: str) -> list[str]:
        """As in Engine."""
        made = os.listdir(f"{self.directory}/made")
        ours = {name for name in made if _read(f"{self.directory}/made/{name}/owner") == owner}
        there = {unit for unit, show in self.shows(PATTERN).items() if units.owner(show) == owner}
        found = ours | {unit.removesuffix(".service") for unit in there}
        self._owners.update(dict.fromkeys(found, owner))
        return sorted(found)

    # -- starting

    def _launch(self, spec: dict[str, Any]) -> Launch:
        """What the launcher is told. Raises CannotStart."""
        bind = []
        if spec.get("numa") is not None:
            bind = [spec["numactl"], f"--cpunodebind={spec['numa']}", f"--membind={spec['numa']}", "--"]
        env = [os.fsencode(f"{name}={value}") for name, value in spec.get("env", {}).items()]
        return Launch(
            _user(spec.get("user", "")),
            os.fsencode(spec.get("cwd") or "/"),
            [os.fsencode(argument) for argument in spec["argv"]],
            env,
            [os.fsencode(argument) for argument in bind],
            bool(spec.get("private_pid")),
        )

    def _run(self, order: Begin, unit: Unit) -> None:
        """Have systemd start the launcher. Raises Away, and then it may start yet; CannotStart: nothing is left."""
        kind = "exec" if self._version() >= 240 else "simple"
        settings = [f"--property={each}" for each in units.properties(order, unit, self._script, self._version())]
        launcher = str(resources.files("hakuriver.attendant").joinpath("systemd_launch.py"))
        command = [*units.alone(order["spec"], self._version()), sys.executable, "-I", "-S", launcher, unit.directory]
        try:
            done = self._call(
                "systemd-run", "--quiet", f"--unit={unit.name}", f"--description={units.description(order)}",
                f"--service-type={kind}", f"--setenv={units.OWNER}={order['owner']}", *settings,
                "--", *(argument.replace("$", "$$") for argument in command),
            )  # fmt: skip
        except Denied as denied:
            self._forget(unit)
            raise CannotStart(125, str(denied)) from None
        # One that fails at once may have run all the same: systemd can hear of its end before it hears of its start.
        if done.returncode and _begun(unit) is None:
            self._refused(order, unit, done.stderr.strip())

    def _refused(self, order: Begin, unit: Unit, said: str) -> None:
        """systemd-run has failed: raise CannotStart, and leave nothing of ours."""
        show = self.shows(unit.name).get(unit.name, {})
        if units.owner(show) not in ("", order["owner"]):
            said = f"{unit.name} is a unit of another keeper on this machine"
        self.remove(order["name"])
        if show.get("ExecMainStatus") == "203":
            said = f"systemd cannot run {sys.executable}"
        raise CannotStart(125, said or f"systemd could not start it: {show.get('Result') or 'it does not say why'}")

    def _hear(self, unit: Unit, told: int) -> str:
        """Wait until the program runs, or the unit has ended; what the launcher says was wrong."""
        poll = select.poll()
        poll.register(told, select.POLLIN)
        while not poll.poll(1000):
            if self._watch.over(unit):
                return ""
        return os.fsdecode(os.read(told, 65536))

    def _settle(self, unit: Unit) -> dict[str, str]:
        """Wait for the end of a unit; what systemd remembers of it."""
        end = time.monotonic() + END_S
        show = self.shows(unit.name).get(unit.name, {})
        while show.get("ActiveState") in units.ALIVE and time.monotonic() < end:
            time.sleep(LOOK_S / 2)
            show = self.shows(unit.name).get(unit.name, {})
        return show

    # -- endings

    def _ended(self, name: str, unit: Unit, show: dict[str, str]) -> Ended:
        text = _read(unit.result)
        result = units.read_result(text) if text else units.of_show(show)
        begun = _begun(unit)
        return {
            "ev": "ended",
            "name": name,
            "exit_code": result.exit_code,
            "signal": result.signal,
            "oom": result.oom,
            "text": result.text,
            "started_at": begun[0] if begun else None,
            "ended_at": os.stat(unit.result).st_mtime if text else time.time(),
            "wall_s": max(0.0, result.wall_end - begun[1]) if begun and result.wall_end else result.wall_s,
            "cpu_s": result.cpu_s,
            "peak_memory_bytes": result.peak,
        }

    def _forget(self, unit: Unit) -> None:
        """Remove its files; the directory first, without which no result is written."""
        shutil.rmtree(unit.directory, ignore_errors=True)
        try:
            os.unlink(unit.result)
        except FileNotFoundError:
            pass

    # -- systemd

    def shows(self, *names: str) -> dict[str, dict[str, str]]:
        """What systemd says of units (patterns are taken), by name. Raises Away."""
        asked = ",".join(units.SHOWN)
        done = _call(["systemctl", "show", f"--property={asked}", "--", *names])
        if done.returncode:
            raise Away(units.why_away(done.stderr) or done.stderr.strip())
        return units.read_shows(done.stdout)

    def _kill(self, unit: Unit, number: int) -> subprocess.CompletedProcess[str]:
        return self._call("systemctl", "kill", "--kill-who=all", f"--signal={int(number)}", unit.name)

    def _thaw(self, unit: Unit) -> None:
        """Whether it is frozen or not; that it has ended is no error."""
        if self._can_freeze():
            self._call("systemctl", "thaw", unit.name)
        else:
            self._kill(unit, signal.SIGCONT)

    def _can_freeze(self) -> bool:
        """Whether to freeze by cgroup v2, else units are stopped by signals.

        A systemd that spawns into the cgroup itself (seen with 257; by posix_spawn since 255) hangs as a whole if the
        program of a frozen unit is killed, which the kernel may do for memory: it waits for ended.sh to be executed.
        """
        return os.path.exists("/sys/fs/cgroup/cgroup.controllers") and 246 <= self._version() < 255

    def _version(self) -> int:
        """systemd's."""
        if not self._known_version:
            self._known_version = int(_call(["systemctl", "--version"]).stdout.split()[1].split(".")[0])
        return self._known_version

    def _call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Call systemd-run or systemctl with root's rights. Raises Away."""
        argv = (argv[0], "--no-ask-password", *argv[1:])
        done = _call([*(["sudo", "-n"] if os.geteuid() else []), *argv])
        done.stderr = units.without_warnings(done.stderr)
        if done.returncode and (denied := units.why_denied(done.stderr)):
            raise Denied(denied)
        if done.returncode and (away := units.why_away(done.stderr)):
            raise Away(away)
        return done

    def _unit(self, name: str) -> Unit:
        return Unit(self.directory, name)


def _user(name: str) -> list[int]:
    """uid, gid and groups of a user; of ourselves if the name is empty. Raises CannotStart."""
    if not name:
        return [os.getuid(), os.getgid(), *os.getgroups()]
    try:
        found = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise CannotStart(126, f"there is no user {name} on this node (environment.runner_user)") from None
    return [found.pw_uid, found.pw_gid, *os.getgrouplist(found.pw_name, found.pw_gid)]


def _begun(unit: Unit) -> tuple[float, float] | None:
    """When it was started: since 1970, and on CLOCK_BOOTTIME."""
    times = _read(f"{unit.directory}/begun").split()
    return (float(times[0]), float(times[1])) if times else None


def _call(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of the system's. Raises Away if it is missing or hangs."""
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape", timeout=CALL_S,
            env={**os.environ, "PATH": PATH, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}, check=False,
        )  # fmt: skip
    except OSError as error:
        raise Away(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Away(f"{argv[0]} did not end within {CALL_S:.0f} s") from None


def _read(path: str) -> str:
    """A small file; empty if it is not there."""
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, data: bytes) -> None:
    """Write a file of ours alone, whole at once."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.rename(f"{path}.new", path)
