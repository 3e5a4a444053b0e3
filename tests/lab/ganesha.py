"""NFS 4.2 from NFS-Ganesha, a server in user space: on this machine, in the lab's namespace; the clients are guests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.base import LabError, install, run, wait_for
from lab.guest import DATA, inside, kill
from lab.uml import NFS, Machines, nfs_operations

#: How long it may take until it listens, and until it is gone after SIGKILL.
STARTING_S, ENDING_S = 60, 60
#: What serves a local filesystem is a package of its own, without a program to know it by.
MODULE = Path("/usr/lib/x86_64-linux-gnu/ganesha/libfsalvfs.so")


class Ganesha(Machines):
    """NFS-Ganesha, root not squashed, from a directory of the machine's own disk.

    BUGS: that disk is not the lab's own, so it can neither be filled nor be made read-only. Version 4.3 dies of file
    locks, of one client even, see ../share/ganesha_crash.py.
    """

    name = "ganesha"
    packages = {"mount.nfs4": "nfs-common", "ganesha.nfsd": "nfs-ganesha"}  # noqa: RUF012 - a constant
    client_role = NFS.client_role

    CONFIGURATION = """\
NFS_CORE_PARAM {{
  Protocols = 4; NFS_Port = 2049; Bind_addr = {address}; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSv4 {{
  Grace_Period = {grace}; Lease_Lifetime = {lease}; Minor_Versions = 0,1,2; Only_Numeric_Owners = true;
  RecoveryBackend = fs; RecoveryRoot = "{recovery}";
}}
EXPORT {{
  Export_Id = 7; Path = "{export}"; Pseudo = /lab; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Protocols = 4; FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""
    ADDRESS = f"{DATA}.1"

    def __init__(self, directory: Path, options: str = "", grace: int = 15, lease: int = 15) -> None:
        """`options`: more mount options; `grace`, `lease`: the server's, in seconds (it comes with 90 and 60)."""
        super().__init__(directory, options)
        self._times = {"grace": grace, "lease": lease}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "ganesha.log"

    @property
    def _configuration(self) -> Path:
        return self.directory / "ganesha.conf"

    def _serve(self) -> None:
        if not MODULE.exists():
            install({str(MODULE): "nfs-ganesha-vfs"})
        export, recovery = self.directory / "server-export", self.directory / "server-recovery"
        for path in (export, recovery):
            path.mkdir(exist_ok=True)
        text = self.CONFIGURATION.format(address=self.ADDRESS, export=export, recovery=recovery, **self._times)
        self._configuration.write_text(text)
        self.server_start()

    def _mounting(self) -> list[str]:
        options = self._options("vers=4.2", "retry=0")
        return ["mount", "-t", "nfs", "-o", options, f"{self.ADDRESS}:/lab"]

    def server_start(self) -> None:
        """As with the kernel's, for `grace` seconds clients only take back what they had open."""
        argv = ["ganesha.nfsd", "-F", "-f", str(self._configuration), "-L", str(self.log)]
        pid_file = str(self.directory / "ganesha.pid")
        with (self.directory / "ganesha.out").open("ab") as out:
            self._process = subprocess.Popen(
                [*inside(self.namespace), *argv, "-p", pid_file],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        wait_for(self._up_or_ended, STARTING_S, "ganesha.nfsd")
        if (status := self.server_status()) is not None:
            raise LabError(f"ganesha.nfsd ended with {status}, see {self.log}")

    def _up_or_ended(self) -> bool:
        return self.server_status() is not None or ":2049 " in run(*inside(self.namespace), "ss", "-Hltn")

    def server_status(self) -> int | None:
        """None while the server lives; else its exit status, or minus the signal that it died of."""
        if self._process is None:
            raise LabError("ganesha.nfsd was not started")
        return self._process.poll()

    def server_kill(self) -> None:
        self._must_be_up()
        assert self._process is not None
        kill([self._process.pid] if self._process.poll() is None else [])
        self._process.wait(ENDING_S)

    def down(self) -> None:
        super().down()
        if self._process is not None:
            self._process.wait(ENDING_S)  # killed with all in the namespace

    def fill(self) -> None:
        raise LabError("the export lies on this machine's own disk, which is not filled")

    def unfill(self) -> None:
        """Nothing: it is never filled."""

    def read_only(self) -> None:
        raise LabError("the export lies on this machine's own disk, which is not made read-only")

    def read_write(self) -> None:
        """Nothing: it always is."""

    def requests(self, machine: str) -> int:
        """Since it was mounted."""
        return nfs_operations(self.run(machine, "cat", "/proc/self/mountstats"), self.root(machine))
