"""A plain local disk: one tmpfs, bind-mounted once for each machine."""

from __future__ import annotations

import os
from pathlib import Path

from lab.base import MACHINES, Lab, LabError, run
from lab.net import cover_read_only, mounted, shrink, tag, uncover, unmount_below

SIZE = "512m"


class Local(Lab):
    """A local disk. Without root it is one directory for all machines, and has no faults.

    Nothing lies between a machine and its disk: a machine that is cut off, or has lost its mount, sees an empty
    directory at once, and nothing hangs.
    """

    name = "local"
    has_server = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory.resolve())
        self.disk = self.directory / "disk"
        self.is_root = os.geteuid() == 0

    def up(self) -> None:
        self.disk.mkdir(parents=True)
        if not self.is_root:
            return
        run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", tag(self.name, self.directory), str(self.disk))
        for machine in MACHINES:
            Path(self.root(machine)).mkdir(parents=True)
            self._bind(machine)

    def down(self) -> None:
        if self.is_root:
            unmount_below(self.directory)

    def root(self, machine: str) -> str:
        return str(self.directory / "mnt" / machine if self.is_root else self.disk)

    def server_kill(self) -> None:
        raise LabError("a local disk has no server")

    def server_start(self) -> None:
        raise LabError("a local disk has no server")

    def cut(self, machine: str) -> None:
        """Unmount the machine's mount: it finds an empty directory in place of the share."""
        self._as_root()
        unmount_below(Path(self.root(machine)))

    def mend(self, machine: str) -> None:
        self._as_root()
        self._bind(machine)

    def mount_kill(self, machine: str) -> None:
        self.cut(machine)

    def remount(self, machine: str) -> None:
        self.cut(machine)
        self._bind(machine)

    def fill(self) -> None:
        """Shrink the disk to what lies on it. As on most disks, an empty file can still be made; a byte cannot."""
        self._as_root()
        shrink(self.disk)

    def unfill(self) -> None:
        self._as_root()
        run("mount", "-o", f"remount,size={SIZE}", str(self.disk))

    def read_only(self) -> None:
        """EROFS for whatever is opened from now on; what is open for writing stays so."""
        self._as_root()
        for machine in MACHINES:
            cover_read_only(self.disk, Path(self.root(machine)))

    def read_write(self) -> None:
        self._as_root()
        for machine in MACHINES:
            uncover(Path(self.root(machine)))

    def requests(self, machine: str) -> int | None:
        return None

    def _bind(self, machine: str) -> None:
        if not mounted(Path(self.root(machine))):
            run("mount", "--bind", str(self.disk), self.root(machine))

    def _as_root(self) -> None:
        if not self.is_root:
            raise LabError("needs root")
