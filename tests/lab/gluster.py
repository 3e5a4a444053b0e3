"""GlusterFS: a volume of one brick, mounted by the FUSE client with its default options."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from lab.base import LabError, run, wait_for
from lab.net import MOUNT_S, SERVER_ADDRESS, UserSpaceLab, figure, mounted

VOLUME = "labvol"

GLUSTERD = """\
volume management
    type mgmt/glusterd
    option working-directory {state}
    option run-directory {run}
    option logging-directory {log}
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address {address}
    option transport.socket.listen-port 24007
    option glusterd-sockfile {run}/glusterd.socket
    option ping-timeout 0
    option max-port 60999
end-volume
"""


class Gluster(UserSpaceLab):
    """GlusterFS. A server that is killed means glusterd and the brick; a volume has the default options."""

    name = "gluster"
    packages: ClassVar[dict[str, str]] = {
        "glusterd": "glusterfs-server",
        "gluster": "glusterfs-cli",
        "mount.glusterfs": "glusterfs-client",
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        #: A socket's path has at most 107 bytes: too few for some directories.
        self.sockets = Path("/run") / self.tag
        #: Bricks' sockets, which have a place of their own and stay there after SIGKILL.
        self.litter: set[Path] = set()

    def prepare(self) -> None:
        places = {"state": self.directory / "glusterd", "run": self.sockets, "log": self.directory / "log"}
        for path in (*places.values(), self.disk / "brick"):
            path.mkdir(parents=True)
        configuration = GLUSTERD.format(**places, address=SERVER_ADDRESS)
        (self.directory / "glusterd.vol").write_text(configuration)

    def server_start(self) -> None:
        volfile, log = self.directory / "glusterd.vol", self.directory / "log" / "glusterd.log"
        self.start("server", "glusterd", "-f", str(volfile), "-l", str(log), "-p", str(self.sockets / "glusterd.pid"))
        wait_for(self._answers, MOUNT_S, "an answer from glusterd")
        if not self._volume("list").strip():
            # "force": a brick may not be a mount's root, nor lie on the root filesystem, without it.
            self._volume("create", VOLUME, f"{SERVER_ADDRESS}:{self.disk / 'brick'}", "force")
            self._volume("start", VOLUME)
        wait_for(self._online, MOUNT_S, "the brick")
        self.litter.update(self._brick_sockets())

    def mount(self, machine: str) -> None:
        log, export = self.directory / "log" / f"client-{machine}.log", f"{SERVER_ADDRESS}:/{VOLUME}"
        self.start(machine, "mount", "-t", "glusterfs", "-o", f"log-file={log}", export, self.root(machine))
        wait_for(lambda: mounted(Path(self.root(machine))), MOUNT_S, f"the mount of {machine}")

    def down(self) -> None:
        super().down()
        shutil.rmtree(self.sockets, ignore_errors=True)
        for socket in self.litter:
            socket.unlink(missing_ok=True)

    def read_only(self) -> None:
        """Clients see EROFS, from the brick's read-only translator: a tmpfs in use cannot be remounted read-only."""
        self._volume("set", VOLUME, "features.read-only", "on")

    def read_write(self) -> None:
        self._volume("set", VOLUME, "features.read-only", "off")

    def requests(self, machine: str) -> int | None:
        """Messages that the client has sent to the brick; pings, one in some seconds, are among them."""
        private = Path(self.root(machine)) / f".meta/graphs/active/{VOLUME}-client-0/private"
        return self.odometer.read(machine, figure(private, r"(?m)^msgs_sent = (\d+)"))

    def _answers(self) -> bool:
        try:
            self._volume("list")
        except LabError:
            return False
        return True

    def _online(self) -> bool:
        try:
            status = ElementTree.fromstring(self._volume("status", VOLUME, "--xml"))
        except (LabError, ElementTree.ParseError):
            return False
        return any(node.findtext("status") == "1" for node in status.iter("node"))

    def _brick_sockets(self) -> Iterator[Path]:
        for pid in self.net.pids("server"):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # a helper, which has just ended
            if "-S" in words:
                yield Path(words[words.index("-S") + 1])

    def _volume(self, *argv: str) -> str:
        options = ("--mode=script", f"--glusterd-sock={self.sockets / 'glusterd.socket'}", "--log-file=/dev/null")
        return run(*self.net.inside("server"), "gluster", *options, "volume", *argv)
