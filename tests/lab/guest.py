"""A machine of its own: a User Mode Linux guest, whose kernel runs as a process here, without KVM or modules.

Its root is this machine's `/` through hostfs, so that it has the same programs and files; /run, /dev/shm and the disks
given to it are its own. It has two network interfaces: vec0 to the file server, vec1 for `relay`, which runs commands.
Without power (`kill`) it keeps what its disks hold.

BUGS: processes start several times slower than here, without AVX; x86-64 only. /tmp is everybody's.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import alive

from lab.base import LabError, run, wait_for

HERE = Path(__file__).resolve().parent
#: Where relay listens, in each guest.
PORT = 7700
#: The networks of guests to the file server and to this machine; each lab has both in its own namespace.
DATA, CONTROL = "198.18.79", "198.18.179"
MEMORY = "320M"
#: Seconds to boot and to end; a guest boots in 20 on two cores that ten other processes use.
BOOT_S, END_S = 180.0, 60.0
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What keeps programs from registers that are not kept for them (see uml_exec.py): glibc's and OpenSSL's choices.
NO_AVX = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps="
    "-XSAVE,-XSAVEC,-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load",
    "OPENSSL_ia32cap=0x0",
)  # fmt: skip

#: The first process of a guest: bash, which also collects orphans. What fails in it ends the guest; its log tells.
INIT = """\
#!/bin/bash
set -e
export PATH={path} HOME=/root {more}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null || true
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount --bind /usr/lib/uml/modules /lib/modules
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  [ -e /dev/${{name%:*}} ] || ln -s /proc/self/${{name#*:}} /dev/${{name%:*}}
done
hostname lab-{name}
date -s '+{ahead_s} seconds' >/dev/null
ip link set lo up
ip addr add {data}/24 dev vec0
ip link set vec0 up
ip addr add {control}/24 dev vec1
ip link set vec1 up
{disk_lines}
{role}
cd /
{python} -I -S {relay} --serve {control}:{port} {ready} </dev/null || true
exec sleep infinity
"""


@dataclass(frozen=True)
class Disk:
    """An ext4 image that a guest mounts: at what it is called, without `.img`."""

    image: Path
    #: As truncate takes it; it costs only what is written.
    size: str

    @property
    def place(self) -> Path:
        """Where the guest has it mounted."""
        return self.image.with_suffix("")

    def make(self) -> None:
        """Make it, empty and without reserved blocks, unless it is there."""
        if not self.image.exists():
            run("truncate", "-s", self.size, str(self.image))
            run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))


@dataclass
class Guest:
    """One guest of the lab whose namespace is `namespace`, on when `boot` has returned."""

    name: str
    #: The last part of its addresses.
    number: int
    namespace: str
    #: Where its files lie: image, log, init script.
    directory: Path
    #: Where UML has its sockets; their paths must be short.
    sockets: Path
    #: Lines of shell by which it becomes what it is for.
    role: str = ""
    disks: Sequence[Disk] = ()
    #: How far its clock is ahead of this machine's.
    ahead_s: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def umid(self) -> str:
        """Its name among all guests of this machine."""
        return f"{self.namespace}-{self.name}"

    @property
    def relay(self) -> str:
        """Where it listens for commands."""
        return f"{CONTROL}.{self.number}:{PORT}"

    @property
    def log(self) -> Path:
        """What its kernel and its init said."""
        return self.directory / f"guest-{self.name}.log"

    @property
    def _ready(self) -> Path:
        """Made by the guest when it takes commands."""
        return self.directory / f"guest-{self.name}.ready"

    def command(self, argv: Sequence[str]) -> list[str]:
        """What to run here so that `argv` runs there."""
        relay = [sys.executable, "-I", "-S", str(HERE / "relay.py")]
        return [*inside(self.namespace), *relay, self.relay, self.umid, "--", *argv]

    # -- power

    def start(self) -> None:
        """Turn it on, and do not wait."""
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*inside(self.namespace), sys.executable, "-I", "-S", str(HERE / "uml_exec.py"), *self._kernel()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH, "HOME": "/root"},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it takes commands. Raises LabError with the end of its log."""
        process = self._process

        def settled() -> bool:
            return self._ready.exists() or process is None or process.poll() is not None

        try:
            wait_for(settled, BOOT_S, f"guest {self.name}")
            if self._ready.exists():
                return
        except LabError:
            pass
        said = self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""
        raise LabError(f"guest {self.name} did not start: {said}")

    def boot(self) -> None:
        """Turn it on and wait until it takes commands. Raises LabError."""
        self.start()
        self.wait()

    def kill(self) -> None:
        """Cut its power, and with it the commands that run there."""
        # UML has a host process for each address space of the guest; all have the kernel's command line.
        wait_for(lambda: not kill_by_words(f"umid={self.umid}", self._uml_dir), END_S, f"the end of guest {self.name}")
        kill_by_words(str(HERE / "relay.py"), self.umid)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def forget(self) -> None:
        """Remove its disks and scripts; its log stays."""
        for path in (*(disk.image for disk in self.disks), self._init_script, self._ready):
            path.unlink(missing_ok=True)

    @property
    def _init_script(self) -> Path:
        return self.directory / f"guest-{self.name}.init"

    @property
    def _uml_dir(self) -> str:
        return f"uml_dir={self.sockets}"

    def _kernel(self) -> list[str]:
        """The kernel and its command line."""
        self._init_script.write_text(self._init())
        self._init_script.chmod(0o755)
        self.sockets.mkdir(parents=True, exist_ok=True)
        return [
            "linux.uml", f"mem={MEMORY}", "rootfstype=hostfs", "rootflags=/", "rw", f"init={self._init_script}",
            f"umid={self.umid}", self._uml_dir, "con=null", "con0=null,fd:2", "ssl=null", "quiet", "panic=-1", *NO_AVX,
            *(f"ubd{index}={disk.image}" for index, disk in enumerate(self.disks)),
            self._interface(0, "data"), self._interface(1, "control"),
        ]  # fmt: skip

    def _interface(self, index: int, network: str) -> str:
        """Without gro large frames are lost; a lasting address spares others to learn it again after a boot."""
        mac = f"02:00:00:00:{index:02x}:{self.number:02x}"
        return f"vec{index}:transport=tap,ifname={network}-{self.name},depth=64,gro=1,mac={mac}"

    def _init(self) -> str:
        """The init script; paths are quoted for it."""
        more = "PYTHONDONTWRITEBYTECODE=1" if os.environ.get("PYTHONDONTWRITEBYTECODE") else ""
        # noinit_itable: or the first minute would go into zeroing what a new image has as zeros anyway.
        mounts = [
            f"mkdir -p {place}\nmount -o noinit_itable /dev/ubd{'abcd'[index]} {place}"
            for index, place in enumerate(shlex.quote(str(disk.place)) for disk in self.disks)
        ]
        return INIT.format(
            path=shlex.quote(PATH), more=more, name=self.name, ahead_s=self.ahead_s, disk_lines="\n".join(mounts),
            data=f"{DATA}.{self.number}", control=f"{CONTROL}.{self.number}", port=PORT, role=self.role,
            python=shlex.quote(sys.executable), relay=shlex.quote(str(HERE / "relay.py")),
            ready=shlex.quote(str(self._ready)),
        )  # fmt: skip


def inside(namespace: str) -> list[str]:
    """How a command starts that runs in a network namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def by_words(*words: str) -> list[int]:
    """The processes that have all of these words on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if all(os.fsencode(word) in line for word in words) and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def kill_by_words(*words: str) -> list[int]:
    """Kill those processes; which they were."""
    found = by_words(*words)
    kill(found)
    return found


def kill(pids: Sequence[int]) -> None:
    """Kill processes that are there or not."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
