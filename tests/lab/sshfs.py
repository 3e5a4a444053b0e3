"""SSHFS: a directory served by an sshd of the lab's own, with keys of its own; nobody's ~/.ssh is used."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lab.base import run, wait_for
from lab.net import MOUNT_S, SERVER_ADDRESS, UserSpaceLab, cover_read_only, mounted, uncover

SFTP_SERVER = "/usr/lib/openssh/sftp-server"

SSHD = """\
ListenAddress {address}
HostKey {keys}/host
PidFile none
AuthorizedKeysFile {keys}/user.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
AllowTcpForwarding no
Subsystem sftp {sftp_server}
"""

LISTENING = "Server listening"

#: What makes a mount of several users that comes back by itself, and whose listings are a second old at most, not 20.
OPTIONS = "allow_other,default_permissions,reconnect,ServerAliveInterval=5,ServerAliveCountMax=2,dcache_timeout=1"


class SSHFS(UserSpaceLab):
    """SSHFS. With the server, every machine's session dies; clients come back by themselves, with their next call."""

    name = "sshfs"
    keeps_owners = False
    packages: ClassVar[dict[str, str]] = {
        "sshfs": "sshfs",
        "sshd": "openssh-server",
        "ssh-keygen": "openssh-client",
        SFTP_SERVER: "openssh-sftp-server",
    }

    def __init__(self, directory: Path, options: str = OPTIONS) -> None:
        """`options`: mount options, parted by commas, beside those for keys."""
        super().__init__(directory)
        self.options = options
        self.keys = self.directory / "keys"
        self.export = self.disk / "export"

    def prepare(self) -> None:
        self.keys.mkdir()
        self.export.mkdir()
        for key in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.keys / key))
        kind, public = (self.keys / "host.pub").read_text().split()[:2]
        (self.keys / "known_hosts").write_text(f"{SERVER_ADDRESS} {kind} {public}\n")
        configuration = SSHD.format(address=SERVER_ADDRESS, keys=self.keys, sftp_server=SFTP_SERVER)
        (self.directory / "sshd_config").write_text(configuration)

    def server_start(self) -> None:
        # sshd wants an absolute path of itself, and the directory for those who are not yet who they will be.
        Path("/run/sshd").mkdir(exist_ok=True)
        log = self.directory / "sshd.log"
        before = log.read_text().count(LISTENING) if log.exists() else 0
        self.start("server", "/usr/sbin/sshd", "-f", str(self.directory / "sshd_config"), "-E", str(log))
        wait_for(lambda: log.read_text().count(LISTENING) > before, MOUNT_S, "sshd")

    def mount(self, machine: str) -> None:
        keys = f"IdentityFile={self.keys}/user,IdentitiesOnly=yes,UserKnownHostsFile={self.keys}/known_hosts"
        options = f"{keys},GlobalKnownHostsFile=/dev/null,{self.options}"
        export = f"root@{SERVER_ADDRESS}:{self.export}"
        self.start(machine, "sshfs", "-F", "/dev/null", "-o", options, export, self.root(machine))
        wait_for(lambda: mounted(Path(self.root(machine))), MOUNT_S, f"the mount of {machine}")

    def fill(self) -> None:
        """As elsewhere, but clients see EIO, with fsync or close: SFTP (version 3) has one code for all failures."""
        super().fill()

    def read_only(self) -> None:
        """Clients see EPERM, for the reason told at `fill`. What is open for writing stays so."""
        cover_read_only(self.export, self.export)

    def read_write(self) -> None:
        uncover(self.export)

    def requests(self, machine: str) -> int | None:
        """Packets that the machine has sent: about one for each request, and one for each long answer it took."""
        return self.net.sent(machine)
