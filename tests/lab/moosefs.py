"""MooseFS: a master and a chunkserver, mounted by mfsmount with its default options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

from lab.base import MACHINES, LabError, run, wait_for
from lab.net import MOUNT_S, SERVER_ADDRESS, UserSpaceLab, figure, mounted, shrink

MASTER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {directory}/master
EXPORTS_FILENAME = {directory}/mfsexports.cfg
TOPOLOGY_FILENAME = {directory}/mfstopology.cfg
LOCK_MEMORY = 0
MATOML_LISTEN_HOST = {address}
MATOCS_LISTEN_HOST = {address}
MATOCL_LISTEN_HOST = {address}
"""

CHUNKSERVER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {directory}/chunkserver
HDD_CONF_FILENAME = {directory}/mfshdd.cfg
MASTER_HOST = {address}
CSSERV_LISTEN_HOST = {address}
"""

EXPORTS = "* / {mode},alldirs,admin,maproot=0:0\n"


#: What a chunkserver leaves free (HDD_LEAVE_SPACE_DEFAULT), and a little: with a size of 0 it would count as gone.
LEFT_FREE = (256 + 16) * 2**20
#: A whole that is smaller has no room for chunks; 300 MiB were seen not to have.
FULL = 2**30
#: How often a chunkserver looks at its disk (30 s were seen), and then some.
REFRESH_S = 120.0


class MooseFS(UserSpaceLab):
    """MooseFS. A server that is killed means master and chunkserver."""

    name = "moosefs"
    packages: ClassVar[dict[str, str]] = {
        "mfsmaster": "moosefs-master",
        "mfschunkserver": "moosefs-chunkserver",
        "mfsmount": "moosefs-client",
    }
    #: A chunkserver that has a few GiB free counts as full. As a tmpfs it takes only what is written.
    disk_size = "32g"

    def __init__(self, directory: Path, options: str = "") -> None:
        """`options`: mount options, parted by commas; mfsioretries=N, for one, shortens what is told at `fill`."""
        super().__init__(directory)
        self.options = options

    def prepare(self) -> None:
        for path in (self.directory / "master", self.directory / "chunkserver", self.disk / "chunks"):
            path.mkdir()
        (self.directory / "master" / "metadata.mfs").write_text("MFSM NEW")
        texts = {
            "mfsmaster.cfg": MASTER,
            "mfschunkserver.cfg": CHUNKSERVER,
            "mfsexports.cfg": EXPORTS,
            "mfstopology.cfg": "",
            "mfshdd.cfg": "~{directory}/disk/chunks\n",
        }
        for name, text in texts.items():
            content = text.format(directory=self.directory, address=SERVER_ADDRESS, mode="rw")
            (self.directory / name).write_text(content)

    def server_start(self) -> None:
        # -a: after a crash, metadata come from the last image and the change logs.
        self.start("server", "mfsmaster", "-c", str(self.directory / "mfsmaster.cfg"), "-a", "start")
        self.start("server", "mfschunkserver", "-c", str(self.directory / "mfschunkserver.cfg"), "start")

    def mount(self, machine: str) -> None:
        options = ",".join(filter(None, (f"mfsmaster={SERVER_ADDRESS}", self.options)))
        self.start(machine, "mfsmount", "-o", options, self.root(machine))
        wait_for(lambda: mounted(Path(self.root(machine))), MOUNT_S, f"the mount of {machine}")

    def fill(self) -> None:
        """Leave as much as a chunkserver leaves free: no more chunks, while files can still grow in those they have.

        With default options a write then hangs for two minutes (30 retries), before ENOSPC comes with fsync or close.
        """
        shrink(self.disk, spare=LEFT_FREE)
        wait_for(lambda: self._reported() < FULL, REFRESH_S, "the chunkserver's report that it is full")

    def unfill(self) -> None:
        super().unfill()
        wait_for(lambda: self._reported() > FULL, REFRESH_S, "the chunkserver's report that it has room")

    def read_only(self) -> None:
        """Clients see EROFS."""
        self._export("ro")

    def read_write(self) -> None:
        self._export("rw")

    def requests(self, machine: str) -> int | None:
        """Packets that the client has sent to the master; those to the chunkserver, which are data, are not counted."""
        counter = figure(Path(self.root(machine)) / ".stats", r"(?m)^master\.packets_sent: (\d+)")
        return self.odometer.read(machine, counter)

    def _export(self, mode: str) -> None:
        (self.directory / "mfsexports.cfg").write_text(EXPORTS.format(mode=mode))
        run(*self.net.inside("server"), "mfsmaster", "-c", str(self.directory / "mfsmaster.cfg"), "reload")

    def _reported(self) -> float:
        """The size of the whole in bytes, from the first machine that is told it; nan if none is."""
        for machine in MACHINES:
            if mounted(Path(self.root(machine))):
                try:
                    blocks, size = run("stat", "-f", "-c", "%b %S", self.root(machine), timeout=2.0).split()
                    return int(blocks) * int(size)
                except LabError:
                    continue
        return math.nan
