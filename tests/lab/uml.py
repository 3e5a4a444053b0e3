"""Labs of machines with kernels of their own: NFS with Linux's server, and SMB with Samba; the clients are Linux's.

Each machine is a User Mode Linux guest (see `guest`), with its own page cache, clock and disk. All lives in a network
namespace named after the lab, with a bridge for what the mounts say and one for commands; only the former is ever cut.
"""

from __future__ import annotations

import abc
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from processes import alive

from lab.base import AHEAD, AHEAD_S, MACHINES, Lab, LabError, install, run, wait_for
from lab.guest import BOOT_S, CONTROL, DATA, END_S, NO_AVX, Disk, Guest, inside, kill, kill_by_words

PACKAGES = {
    "linux.uml": "user-mode-linux", "modprobe": "kmod", "mkfs.ext4": "e2fsprogs", "ip": "iproute2",
    "bridge": "iproute2", "nsenter": "util-linux",
}  # fmt: skip
#: This machine's address in both networks ends in 1, the server's guest's in 10.
SERVER_NUMBER = 10
#: A mount waits that long at most, and is tried again for as long.
MOUNT_S, MOUNTING_S = 15, 60.0
#: bridge(8): a port's states
DISABLED, FORWARDING = "0", "3"

#: Takes all free blocks of the disk that a file lies on: in big pieces, then in smaller ones; and again, as blocks of
#: files removed just now are free only when the journal has written so.
FILLER = """
import os, sys
if not os.path.ismount(os.path.dirname(sys.argv[1])):
    sys.exit("nothing is mounted there; this would fill the test machine's own disk")
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
size, before = 0, -1
while size > before:
    before, piece = size, 1 << 30
    while piece >= 4096:
        try:
            os.posix_fallocate(fd, size, piece)
            size += piece
        except OSError:
            piece //= 2
    os.fsync(fd)
"""

#: Takes a mount away. To let go of a server that does not answer can take minutes after the mount has gone, so this
#: does not wait for umount's end. -i, -c: straight to the kernel, without a look at a filesystem that may not answer.
UNMOUNTER = """
setsid umount -i -c -f -l "$1" >/dev/null 2>&1 &
for _ in $(seq 100); do
  grep -qE ' (nfs4?|cifs) ' /proc/mounts || exit 0
  sleep 0.1
done
exit 1
"""


class Machines(Lab):
    """Four guests that mount what a server has; what server is for others to say."""

    own_clocks = True
    environment: ClassVar = dict(setting.split("=", 1) for setting in NO_AVX)
    #: Packages of this lab alone: program -> package
    packages: dict[str, str]
    #: Lines of shell that make a guest a client.
    client_role: str

    def __init__(self, directory: Path, options: str = "") -> None:
        """`options`: more mount options, comma separated."""
        super().__init__(Path(directory).resolve())
        self.options = options
        self.guests = {name: self._client(name, SERVER_NUMBER + 1 + index) for index, name in enumerate(MACHINES)}
        self._lock: int | None = None

    @property
    def namespace(self) -> str:
        """The network namespace, and the first part of other names that this machine has for the lab."""
        return f"lab-{self.name}"

    def _client(self, name: str, number: int) -> Guest:
        disk = Disk(self.directory / f"disk-{name}.img", "2G")
        ahead_s = AHEAD_S if name == AHEAD else 0
        # The mount point is on a tmpfs, or all machines would share also what lies below a mount that is gone.
        role = f"{self.client_role}\nmount -t tmpfs below {shlex.quote(self.root(name))}"
        return self._guest(name, number, role, [disk], ahead_s)

    def _guest(self, name: str, number: int, role: str, disks: Sequence[Disk], ahead_s: int = 0) -> Guest:
        return Guest(name, number, self.namespace, self.directory, self._sockets, role, disks, ahead_s)

    @property
    def _sockets(self) -> Path:
        return Path("/run", self.namespace)

    # -- up and down

    def up(self) -> None:
        if not self._claim():
            raise LabError(f"another {self.namespace} is up on this machine")
        install({**PACKAGES, **self.packages})
        self._clear()
        self.directory.mkdir(parents=True, exist_ok=True)
        Path(self.root("")).mkdir(exist_ok=True)
        self._network()
        for guest in self.guests.values():
            for disk in guest.disks:
                disk.make()
            guest.start()
        self._serve()
        for guest in self.guests.values():
            guest.wait()
        with ThreadPoolExecutor(len(MACHINES)) as pool:
            list(pool.map(self.remount, MACHINES))

    def down(self) -> None:
        if not self._claim():
            return  # another process has a lab of this name up, and this one has none
        self._clear()
        for guest in self.guests.values():
            guest.forget()
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None

    def _claim(self) -> bool:
        """Become the one who has this lab up; the kernel forgets it when this process ends."""
        if self._lock is not None:
            return True
        fd = os.open(f"/run/{self.namespace}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock = fd
        return True

    def _must_be_up(self) -> None:
        if self._lock is None:
            raise LabError(f"{self.namespace} has not been brought up by this process")

    def _clear(self) -> None:
        """End what this lab or an earlier one of its name has left: processes, network, mounts."""
        if Path("/run/netns", self.namespace).exists():
            wait_for(lambda: not self._kill_all(), END_S, f"the end of all in {self.namespace}")
            run("ip", "netns", "del", self.namespace)
        for guest in self.guests.values():
            guest.kill()
        for line in Path("/proc/mounts").read_text().splitlines():
            source, where = line.split()[:2]
            if source == self.namespace:
                run("umount", "-l", where.replace("\\040", " "))
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _kill_all(self) -> list[int]:
        """Kill all processes in the namespace; which they were."""
        pids = [int(pid) for pid in run("ip", "netns", "pids", self.namespace).split()]
        kill(pids)
        return [pid for pid in pids if alive(pid)]

    def _network(self) -> None:
        """Two bridges, with this machine on both, and a port in each for every guest."""
        run("ip", "netns", "add", self.namespace)
        lines = ["link set lo up"]
        for network, prefix in (("data", DATA), ("control", CONTROL)):
            bridge = f"br-{network}"
            lines += [f"link add {bridge} type bridge", f"addr add {prefix}.1/24 dev {bridge}", f"link set {bridge} up"]
            for name in self.guests:
                port = f"{network}-{name}"
                lines += [f"tuntap add dev {port} mode tap", f"link set {port} master {bridge} up"]
        run(*inside(self.namespace), "ip", "-batch", "-", input="\n".join(lines))

    # -- machines

    def root(self, machine: str) -> str:
        return str(self.directory / "mount")

    def state(self, machine: str) -> str:
        return str(self.directory / f"disk-{machine}")

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        """As in Lab. Raises LabError if this lab is not up: what has its name may be another's, in another process."""
        self._must_be_up()
        return self.guests[machine].command(argv)

    def cut(self, machine: str) -> None:
        self._port(machine, DISABLED)

    def mend(self, machine: str) -> None:
        self._port(machine, FORWARDING)

    def _port(self, machine: str, state: str) -> None:
        """The guest's port in the bridge; its interface stays up, so that it sees nothing but silence."""
        self._must_be_up()
        run(*inside(self.namespace), "bridge", "link", "set", "dev", f"data-{machine}", "state", state)

    def mount_kill(self, machine: str) -> None:
        """Unmount by force; what is seen there then is an empty directory, the machine's own."""
        self.run(machine, "sh", "-c", UNMOUNTER, "sh", self.root(machine))

    def remount(self, machine: str) -> None:
        end = time.monotonic() + MOUNTING_S
        while True:
            try:
                self.run(machine, "timeout", str(MOUNT_S), *self._mounting(), self.root(machine))
                return
            except LabError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _serve(self) -> None:
        """Start the server, if it is none of the guests."""

    @abc.abstractmethod
    def _mounting(self) -> list[str]:
        """The command that mounts, up to where."""

    def _options(self, *options: str) -> str:
        return ",".join(filter(None, (*options, self.options)))


class NFS(Machines):
    """Kernel NFS 4.2, sync, root not squashed, from an ext4 disk of a guest of its own, whose power can be cut."""

    name = "nfs"
    packages = {"mount.nfs4": "nfs-common", "rpc.nfsd": "nfs-kernel-server"}  # noqa: RUF012 - a constant
    client_role = "modprobe -a nfs nfsv4\nmount -t tmpfs n /var/lib/nfs"

    SERVER_ROLE = """\
modprobe nfsd
mkdir -p {disk}/export
cd {state}
mkdir -p nfsdcld v4recovery rpc_pipefs
touch etab rmtab
mount --bind {state} /var/lib/nfs
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
mkdir -p /run/rpc_pipefs
mount --bind /var/lib/nfs/rpc_pipefs /run/rpc_pipefs
nfsdcld
rpc.mountd -N 2 -N 3
{export}
rpc.nfsd -N 3 -G {grace} -L {lease} 8
"""

    def __init__(self, directory: Path, options: str = "", grace: int = 15, lease: int = 15) -> None:
        """`grace`, `lease`: the server's, in seconds (servers come with 90)."""
        super().__init__(directory, options)
        # What the server must remember of its clients lies on another disk, which does not fill up.
        self._disk = Disk(self.directory / "server-export.img", "1G")
        state = Disk(self.directory / "server-state.img", "256M")
        role = self.SERVER_ROLE.format(
            disk=shlex.quote(str(self._disk.place)), state=shlex.quote(str(state.place)),
            export=shlex.join(self._exporting("rw")), grace=grace, lease=lease,
        )  # fmt: skip
        self.server = self._guest("s", SERVER_NUMBER, role, [self._disk, state])
        self.guests["s"] = self.server

    def _exporting(self, access: str) -> list[str]:
        options = f"{access},no_root_squash,no_subtree_check,fsid=0,sync"
        return ["exportfs", "-i", "-o", options, f"*:{self._disk.place}/export"]

    def _mounting(self) -> list[str]:
        options = self._options("vers=4.2", "retry=0")
        return ["mount", "-t", "nfs", "-o", options, f"{DATA}.{SERVER_NUMBER}:/"]

    def server_kill(self) -> None:
        """Cut the server's power."""
        self._must_be_up()
        self.server.kill()

    def server_start(self) -> None:
        """Boot it again; for `grace` seconds from then it only takes back what clients had open."""
        self._must_be_up()
        self.server.boot()

    def fill(self) -> None:
        self.run("s", sys.executable, "-I", "-S", "-c", FILLER, str(self._filling))

    def unfill(self) -> None:
        self.run("s", "sh", "-c", 'rm -f "$1"; sync', "sh", str(self._filling))

    @property
    def _filling(self) -> Path:
        return self._disk.place / "filling"

    def read_only(self) -> None:
        """By exporting it anew; clients get EROFS at once. A new start of the server ends it."""
        self.run("s", *self._exporting("ro"))

    def read_write(self) -> None:
        self.run("s", *self._exporting("rw"))

    def requests(self, machine: str) -> int:
        """Since it was mounted; what the kernel asks of itself to keep its lease is not counted."""
        return nfs_operations(self.run(machine, "cat", "/proc/self/mountstats"), self.root(machine))


def nfs_operations(mountstats: str, place: str) -> int:
    """How many operations a mount has asked for, of what /proc/self/mountstats says. Raises LabError: not mounted."""
    for part in re.split(r"^device ", mountstats, flags=re.MULTILINE):
        if f" mounted on {place} with fstype nfs" in part:
            _, _, operations = part.partition("per-op statistics")
            return sum(int(line.split()[1]) for line in operations.splitlines() if ":" in line)
    raise LabError(f"{place} is not mounted")


class CIFS(Machines):
    """SMB 3.0 from Samba on this machine, in the lab's namespace, and from a tmpfs. All files are root's."""

    name = "cifs"
    keeps_owners = False
    packages = {"mount.cifs": "cifs-utils", "smbd": "samba"}  # noqa: RUF012 - a constant
    client_role = "modprobe -a hmac md5 sha512_generic cmac ccm gcm ctr ecb cifs"

    CONFIGURATION = """[global]
 interfaces = {address}/24
 bind interfaces only = yes
 smb ports = 445
 disable netbios = yes
 server role = standalone server
 map to guest = Bad User
 guest account = root
 private dir = {smb}
 lock directory = {smb}
 state directory = {smb}
 cache directory = {smb}
 pid directory = {smb}
 ncalrpc dir = {smb}/ncalrpc
 log file = {smb}/log.%m
 load printers = no
[lab]
 path = {tmpfs}/export
 guest ok = yes
 read only = no
 create mask = 0777
 directory mask = 0777
"""
    ADDRESS = f"{DATA}.1"

    def __init__(self, directory: Path, options: str = "") -> None:
        """`options`: more mount options, comma separated."""
        super().__init__(directory, options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _tmpfs(self) -> Path:
        return self.directory / "server-export"

    @property
    def _smb(self) -> Path:
        """Where smbd has its own files."""
        return self.directory / "smb"

    @property
    def _configuration(self) -> Path:
        return self.directory / "smb.conf"

    def _serve(self) -> None:
        self._tmpfs.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "size=512m,mode=755", self.namespace, str(self._tmpfs))
        (self._tmpfs / "export").mkdir()
        (self._tmpfs / "export").chmod(0o777)
        self._smb.mkdir(exist_ok=True)
        self._configuration.write_text(
            self.CONFIGURATION.format(address=self.ADDRESS, smb=self._smb, tmpfs=self._tmpfs)
        )
        self.server_start()

    def _mounting(self) -> list[str]:
        options = self._options("vers=3.0", "guest", "uid=0", "gid=0", "port=445")
        return ["mount", "-t", "cifs", "-o", options, f"//{self.ADDRESS}/lab"]

    def server_kill(self) -> None:
        self._must_be_up()
        wait_for(lambda: not kill_by_words("smbd", str(self._configuration)), END_S, "the end of smbd")
        self._reap()

    def server_start(self) -> None:
        with (self.directory / "smbd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*inside(self.namespace), "smbd", "-F", "--no-process-group", "-s", str(self._configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: ":445 " in run(*inside(self.namespace), "ss", "-Hltn"), BOOT_S, "smbd")

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def fill(self) -> None:
        run(sys.executable, "-I", "-S", "-c", FILLER, str(self._filling))

    def unfill(self) -> None:
        self._filling.unlink(missing_ok=True)

    @property
    def _filling(self) -> Path:
        return self._tmpfs / "filling"

    def read_only(self) -> None:
        """By remounting what Samba serves; clients get EROFS."""
        self._remount_export("ro")

    def read_write(self) -> None:
        self._remount_export("rw")

    def _remount_export(self, access: str) -> None:
        """Refused by the kernel while smbd has a file open for writing, so it is tried for a while."""
        end = time.monotonic() + END_S
        while True:
            try:
                run("mount", "-o", f"remount,{access}", str(self._tmpfs))
                return
            except LabError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def requests(self, machine: str) -> int:
        """SMB messages since it was mounted."""
        said = self.run(machine, "cat", "/proc/fs/cifs/Stats")
        return sum(int(number) for number in re.findall(r"^SMBs: (\d+)", said, re.MULTILINE))
