"""Network namespaces for labs: one for the server, with a bridge in it, and one for each machine, wired to that bridge.

Only the processes of a filesystem live in them, put there by `nsenter --net`: their mounts are seen from everywhere. So
whatever runs in a namespace is the lab's own, and is ended by asking which processes are in it, not by their names.
"""

from __future__ import annotations

import abc
import hashlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from processes import alive

from lab.base import MACHINES, Lab, LabError, install, run, wait_for

#: The server's address on the bridge, and the machines' (RFC 2544 test addresses; the namespaces lead nowhere else).
SERVER_ADDRESS = "198.18.77.1"
ADDRESSES = {machine: f"198.18.77.{number}" for number, machine in enumerate(MACHINES, start=11)}

#: Bridge port states (linux/if_bridge.h).
DISABLED, FORWARDING = "0", "3"

#: How long a wire may take to carry, and a client to mount.
WIRE_S, MOUNT_S = 30.0, 60.0
#: How long processes may take to go after SIGKILL; longer than any core dump or exit of a FUSE client was seen to take.
KILL_S = 60.0


def tag(name: str, directory: Path) -> str:
    """A short name for what a lab makes outside its directory; the same for the same directory, so `down` finds it."""
    return f"lab-{name}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:6]}"


class Network:
    """The namespaces of one lab. Places in it are "server" and the machines."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def up(self) -> None:
        """Make all namespaces. Raises LabError."""
        install({"ip": "iproute2", "bridge": "iproute2", "nsenter": "util-linux"})
        self._add("server")
        self._ip("server", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self._ip("server", "link", "set", "br0", "address", _mac(1), "up")
        self._ip("server", "addr", "add", f"{SERVER_ADDRESS}/24", "dev", "br0")
        for machine in MACHINES:
            self._wire(machine)

    def down(self) -> None:
        """Kill whatever runs in the namespaces and remove them; the wires go with them."""
        for place in ("server", *MACHINES):
            self.kill(place)
            if self._path(place).exists():
                run("ip", "netns", "del", self._name(place))

    def inside(self, place: str) -> list[str]:
        """What to put before a command so that it runs in that namespace."""
        return ["nsenter", f"--net={self._path(place)}"]

    def pids(self, place: str) -> list[int]:
        """The processes in a namespace."""
        try:
            wanted = self._path(place).stat().st_ino
        except FileNotFoundError:
            return []
        return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _namespace(process) == wanted]

    def kill(self, place: str) -> None:
        """SIGKILL all processes in a namespace, and wait until they are gone. Raises LabError."""

        def gone() -> bool:
            for pid in self.pids(place):
                _signal(pid)
            return not self.pids(place)

        wait_for(gone, KILL_S, f"the end of all processes in {self._name(place)}")

    def cut(self, machine: str) -> None:
        """Drop every packet from and to a machine. Links stay up and no address is forgotten: no error tells of it."""
        self._port(machine, DISABLED)

    def mend(self, machine: str) -> None:
        """Let packets pass again."""
        self._port(machine, FORWARDING)

    def sent(self, machine: str) -> int:
        """Packets that a machine has sent so far."""
        (link,) = json.loads(self._ip(machine, "-json", "-stats", "link", "show", "dev", "eth0"))
        return int(link["stats64"]["tx"]["packets"])

    def _wire(self, machine: str) -> None:
        number = int(ADDRESSES[machine].rpartition(".")[2])
        peer = ("peer", "name", "eth0", "address", _mac(number), "netns", self._name(machine))
        self._add(machine)
        self._ip("server", "link", "add", f"to-{machine}", "type", "veth", *peer)
        self._ip("server", "link", "set", f"to-{machine}", "master", "br0", "up")
        self._ip(machine, "link", "set", "eth0", "up")
        self._ip(machine, "addr", "add", f"{ADDRESSES[machine]}/24", "dev", "eth0")
        # With ARP, a machine that is cut off would soon hear EHOSTUNREACH; behind a router it would not.
        self._ip(machine, "neigh", "add", SERVER_ADDRESS, "lladdr", _mac(1), "dev", "eth0", "nud", "permanent")
        self._ip("server", "neigh", "add", ADDRESSES[machine], "lladdr", _mac(number), "dev", "br0", "nud", "permanent")
        wait_for(lambda: self._forwards(machine), WIRE_S, f"the wire to {machine}")

    def _forwards(self, machine: str) -> bool:
        (link,) = json.loads(self._bridge("-json", "link", "show", "dev", f"to-{machine}"))
        return bool(link["state"] == "forwarding")

    def _port(self, machine: str, state: str) -> None:
        self._bridge("link", "set", "dev", f"to-{machine}", "state", state)

    def _bridge(self, *argv: str) -> str:
        return run("bridge", "-netns", self._name("server"), *argv)

    def _ip(self, place: str, *argv: str) -> str:
        return run("ip", "-netns", self._name(place), *argv)

    def _add(self, place: str) -> None:
        run("ip", "netns", "add", self._name(place))
        self._ip(place, "link", "set", "lo", "up")

    def _name(self, place: str) -> str:
        return f"{self.tag}-{place}"

    def _path(self, place: str) -> Path:
        return Path("/run/netns") / self._name(place)


class Odometer:
    """Makes one figure per machine that only grows of counters that begin again with each mount."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def read(self, machine: str, counter: int) -> int:
        """The machine's total, given its counter now."""
        last = self._last.get(machine, 0)
        if counter < last:
            self._before[machine] = self._before.get(machine, 0) + last
        self._last[machine] = counter
        return self._before.get(machine, 0) + counter


class UserSpaceLab(Lab):
    """A filesystem whose client is a process (FUSE): one per machine, in that machine's network namespace."""

    #: What it needs: a program -> the Debian package that has it.
    packages: ClassVar[dict[str, str]]
    #: The size of the export's disk, a tmpfs that takes memory only for what is written.
    disk_size = "512m"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory.resolve())
        self.tag = tag(self.name, self.directory)
        self.net = Network(self.tag)
        #: The disk that the served data lies on.
        self.disk = self.directory / "disk"
        self.odometer = Odometer()

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write the configuration, once, before the server is first started."""

    @abc.abstractmethod
    def mount(self, machine: str) -> None:
        """Start the machine's client, and return when the export is mounted. Raises LabError."""

    def up(self) -> None:
        if os.geteuid() != 0 or not Path("/dev/fuse").exists():
            raise LabError(f"{self.name} needs root and /dev/fuse")
        install(self.packages)
        self.net.up()
        self.disk.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self.disk_size},mode=755", self.tag, str(self.disk))
        self.prepare()
        self.server_start()
        for machine in MACHINES:
            Path(self.root(machine)).mkdir(parents=True)
            self.mount(machine)

    def down(self) -> None:
        # Clients first: with its client gone, no call on a mount can hang, not even that of a machine that is cut off.
        self.net.down()
        unmount_below(self.directory)

    def root(self, machine: str) -> str:
        return str(self.directory / "mnt" / machine)

    def server_kill(self) -> None:
        self.net.kill("server")

    def cut(self, machine: str) -> None:
        self.net.cut(machine)

    def mend(self, machine: str) -> None:
        self.net.mend(machine)

    def mount_kill(self, machine: str) -> None:
        self.net.kill(machine)

    def remount(self, machine: str) -> None:
        self.net.kill(machine)
        unmount_below(Path(self.root(machine)))
        self.mount(machine)

    def fill(self) -> None:
        """Shrink the disk to what lies on it. As on most disks, an empty file can still be made; a byte cannot."""
        shrink(self.disk)

    def unfill(self) -> None:
        run("mount", "-o", f"remount,size={self.disk_size}", str(self.disk))

    def start(self, place: str, *argv: str, timeout: float = 60.0) -> None:
        """Run a command that leaves a daemon behind in a namespace; what both print goes to a log. Raises LabError."""
        log = self.directory / f"{place}.log"
        with log.open("ab") as output:
            command = [*self.net.inside(place), *argv]
            try:
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout, check=True
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise LabError(f"{error}: {log.read_text(errors='replace')[-2000:]}") from error


def figure(path: Path, pattern: str) -> int:
    """The number that a file tells of, as the pattern's first group. Raises LabError."""
    try:
        found = re.search(pattern, path.read_text())
    except OSError as error:
        raise LabError(f"no figures: {error}") from error
    if not found:
        raise LabError(f"no {pattern} in {path}")
    return int(found[1])


def mount_points() -> list[str]:
    """Where something is mounted in this mount namespace, in order of mounting."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [line.split(" ")[4].replace("\\040", " ").replace("\\134", "\\") for line in lines]


def mounted(path: Path) -> bool:
    """Whether something is mounted there. Unlike `os.path.ismount` it asks no server."""
    return str(path) in mount_points()


def unmount_below(path: Path) -> None:
    """Unmount, lazily, whatever is mounted there and below, the last first. Raises LabError."""
    top = str(path.resolve()) if not mounted(path) else str(path)
    for point in reversed(mount_points()):
        if point == top or point.startswith(top + "/"):
            run("umount", "--lazy", point)


def shrink(disk: Path, spare: int = 0, tries: int = 20) -> None:
    """Make a tmpfs as small as what lies on it, and `spare` bytes more. Raises LabError."""
    for attempt in range(tries):
        figures = os.statvfs(disk)
        used = (figures.f_blocks - figures.f_bfree) * figures.f_frsize + spare
        try:
            # 0 would mean "no limit".
            run("mount", "-o", f"remount,size={max(used, figures.f_frsize)}", str(disk))
            return
        except LabError:
            # Refused if more has been written since.
            if attempt == tries - 1:
                raise


def cover_read_only(source: Path, point: Path) -> None:
    """Mount `source` read-only over `point`: unlike a remount, this can be done while files are open for writing."""
    run("mount", "--bind", "-o", "ro", str(source), str(point))


def uncover(point: Path) -> None:
    """Take the uppermost mount off `point`; what is open there stays open."""
    run("umount", "--lazy", str(point))


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _namespace(process: Path) -> int | None:
    """The inode of a process's network namespace; None if it is gone or a zombie."""
    try:
        return (process / "ns" / "net").stat().st_ino if alive(int(process.name)) else None
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
