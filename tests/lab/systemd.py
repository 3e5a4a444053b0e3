"""Machines whose first process is systemd: a container here (cgroup v1), and a User Mode Linux guest (cgroup v2).

    with Container("a", Path("build/tmp/a"), binds=[project]) as machine:     # or Virtual
        machine.run("systemctl", "is-system-running", "--wait")

Their root is a Debian tree of `trees`, read-only, with tmpfs for what is written; `binds` are directories of this
machine that they have at the same path. Users there: root, `river` (sudo for systemd-run and systemctl; the container
alone has a working sudo), `nobody`. As root.
"""

from __future__ import annotations

import abc
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from processes import alive

from lab import guest
from lab.base import LabError, install, run, wait_for
from lab.guest import CONTROL, NO_AVX, Guest
from lab.trees import SUITE, USER, tree

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "build" / "engines"
#: Of this checkout: another's machines, which may be on at the same time, have other cgroups, namespaces and sockets.
MARK = hashlib.sha256(os.fsencode(PROJECT)).hexdigest()[:6]
PACKAGES = {"linux.uml": "user-mode-linux", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_S = 180.0
GROUPS = Path("/sys/fs/cgroup")
MEMORY = "640M"
#: Where a tree gets tmpfs: all that is written to.
WRITTEN = ("run", "tmp", "var", "root", "home", "mnt")


class Machine(abc.ABC):
    """One such machine, on between `up` and `down`, or as a context manager."""

    #: 1 or 2
    cgroup: int
    #: What programs need in their environment there.
    environment: ClassVar[dict[str, str]] = {}
    _lock: int | None = None

    def __init__(self, name: str, directory: Path, binds: Sequence[Path] = (), suite: str = SUITE) -> None:
        """`name`: one word, unique in this checkout. `directory`: for logs and such, is made; it is bound as well."""
        self.suite = suite
        self.name = f"systemd-{name}-{MARK}"
        self.directory = directory.resolve()
        self.binds = unique([PROJECT, *interpreter(), self.directory, *(path.resolve() for path in binds)])

    def __enter__(self) -> Machine:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    def up(self) -> None:
        """Turn it on and wait until systemd is. Raises LabError."""
        self._claim()
        install(PACKAGES)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.root = tree(CACHE, self.suite)
        for path in self.binds:
            if path.relative_to("/").parts[0] not in WRITTEN:
                (self.root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        self._start()
        self.run("systemctl", "is-system-running", "--wait", timeout=READY_S)

    @abc.abstractmethod
    def _start(self) -> None:
        """Turn it on and wait until commands run there."""

    def down(self) -> None:
        """End all of it, in whatever state it is; may be called twice, and before `up` is done."""
        if self._lock is not None:  # else what has its name is another process's
            self._end()
            os.close(self._lock)
            self._lock = None

    def _claim(self) -> None:
        """Become the one who has a machine of this name on; the kernel forgets it when this process ends."""
        fd = os.open(f"/run/{self.name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise LabError(f"another {self.name} is on, of another process of this checkout") from None
        self._lock = fd

    @abc.abstractmethod
    def _end(self) -> None:
        """End what this machine or an earlier one of its name has left."""

    def shut_down(self) -> None:
        """Turn it off in good order."""
        subprocess.run(self.command(["systemctl", "poweroff"]), capture_output=True, check=False)  # is cut off itself
        wait_for(self._off, READY_S, f"the end of {self.name}")
        self.down()

    @abc.abstractmethod
    def _off(self) -> bool:
        """Whether it has turned itself off."""

    @abc.abstractmethod
    def command(self, argv: Sequence[str]) -> list[str]:
        """What to run here so that `argv` (no shell) runs there as root, with stdin, stdout and stderr."""

    def run(self, *argv: str, timeout: float = 180.0) -> str:
        """Run a command there; what it printed. Raises LabError if it fails or takes too long."""
        return run(*self.command(argv), timeout=timeout)


def interpreter() -> list[Path]:
    """Where this Python is installed, unless the tree has it: its virtual environment, and what that was made of."""
    places = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    return [place for place in places if place != Path("/usr")]


def unique(paths: Sequence[Path]) -> list[Path]:
    """These directories without those that lie in another of them."""
    return [path for path in dict.fromkeys(paths) if not any(other in path.parents for other in paths)]


def mounting(root: str, binds: Sequence[Path], bind: str) -> str:
    """Lines of shell: tmpfs for what is written below `root`, and the bound directories, by the command `bind`."""
    lines = [f"mount -t tmpfs -o mode={'1777' if name == 'tmp' else '755'} {name} {root}/{name}" for name in WRITTEN]
    lines += [f"mkdir -p {root}/home/river", f"chown 1500:1500 {root}/home/river"]
    for path in binds:
        place = shlex.quote(str(path))
        lines += [f"mkdir -p {root}{place}", bind.format(place=place, root=root)]
    return "\n".join(lines)


# -- cgroup v1: a container


#: Runs with namespaces of its own, in cgroups of its own: makes the root and becomes systemd there.
CONTAINER = """\
set -e
mount --make-rprivate /
mount --bind {tree} {tree}
cd {tree}
mount -o remount,bind,ro .
mount -t proc proc proc
mount -t sysfs -o ro sys sys
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do : >dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s /proc/self/${{name#*:}} dev/${{name%:*}}; done
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
for name in {controllers}; do
  mkdir sys/fs/cgroup/$name
  case $name in systemd) options=none,name=systemd;; *) options=$name;; esac
  mount -t cgroup -o $options cgroup sys/fs/cgroup/$name
done
{mounting}
hostname {name}
pivot_root . mnt
exec env -i container=lab PATH={path} sh -c 'umount -l /mnt; exec /lib/systemd/systemd --log-target=console' <dev/null
"""


#: Joins cgroups. systemd may remove one of them that is empty, just when it has been made.
JOIN = """\
while [ "$1" != -- ]; do
  tries=0
  until mkdir -p "$1" && echo $$ >"$1/cgroup.procs"; do tries=$((tries + 1)); [ $tries -lt 50 ]; done 2>/dev/null
  shift
done
shift
exec "$@"
"""


class Container(Machine):
    """Namespaces of its own but for the network, and a part of each of this machine's cgroup v1 hierarchies."""

    cgroup = 1
    _process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        if self._controllers() == []:
            raise LabError("this machine has no cgroup v1 hierarchies")
        self._clear()
        for group in self._groups():
            group.mkdir()
        script = CONTAINER.format(
            tree=shlex.quote(str(self.root)), name=self.name, path=PATH, controllers=" ".join(self._controllers()),
            mounting=mounting(shlex.quote(str(self.root)), self.binds, "mount --bind {place} {root}{place}"),
        )  # fmt: skip
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"]
        with (self.directory / "systemd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._joining(self._groups()), *apart, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._settled, READY_S, f"systemd in {self.name}")
        if self._process.poll() is not None:
            raise LabError((self.directory / "systemd.log").read_text(errors="replace")[-1500:])

    def _settled(self) -> bool:
        """Whether commands run there, or it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        try:
            # In its own root: until it has one, commands see this machine's, where systemd may be as well.
            self.run("test", "-S", "/run/systemd/private", "-a", "-e", str(Path("/etc/sudoers.d", USER)))
        except LabError:
            return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            # All others of its namespace go with its first process.
            guest.kill([pid for pid in (self._init(), self._process.pid) if pid])
            self._process.wait()
            self._process = None
        self._clear()

    def command(self, argv: Sequence[str]) -> list[str]:
        # The network and the user are this machine's; commands must not count as systemd's own.
        enter = ["nsenter", f"--target={self._init()}", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        commands = [group / "commands" for group in self._groups()]
        return [*self._joining(commands), *enter, "env", "--chdir=/", "-i", f"PATH={PATH}", "HOME=/root", *argv]

    def _off(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _joining(self, groups: Sequence[Path]) -> list[str]:
        """A command that moves itself into these groups, which it makes, and becomes what follows."""
        return ["sh", "-ec", JOIN, "sh", *map(str, groups), "--"]

    def _init(self) -> int:
        """The pid here of the container's first process; 0: there is none."""
        if self._process is None or self._process.poll() is not None:
            return 0
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _controllers(self) -> list[str]:
        """The v1 hierarchies here; not cpuset's, whose groups must be prepared, and systemd does not use it."""
        lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        found = {Path(words[1]).name for words in lines if words[2] == "cgroup" and words[1].startswith(str(GROUPS))}
        return sorted(found - {"cpuset"})

    def _groups(self) -> list[Path]:
        return [GROUPS / name / self.name for name in self._controllers()]

    def _clear(self) -> None:
        """Remove its cgroups, after the end of all in them."""
        for top in self._groups():
            for group in sorted((path.parent for path in top.rglob("cgroup.procs")), reverse=True):
                wait_for(lambda group=group: not _kill_in(group), READY_S, f"the end of all in {group}")  # type: ignore[misc]
                group.rmdir()


def _kill_in(group: Path) -> list[int]:
    """Kill all in a cgroup; whom."""
    pids = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    guest.kill([pid for pid in pids if alive(pid)])
    return pids


# -- cgroup v2: a virtual machine


#: The first program of a guest, which becomes systemd; what fails in it ends the guest, and its log tells.
VIRTUAL = """\
#!/bin/bash
set -e
export PATH={path}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null || true
mkdir -p /dev/pts /dev/shm
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  [ -e /dev/${{name%:*}} ] || ln -s /proc/self/${{name#*:}} /dev/${{name%:*}}
done
{mounting}
hostname {name}
ip link set lo up
ip addr add {control}/24 dev vec1
ip link set vec1 up
mkdir -p /run/systemd/system/multi-user.target.wants /run/systemd/system.conf.d
cat >/run/systemd/system.conf.d/lab.conf <<'END'
[Manager]
DefaultEnvironment={no_avx}
ManagerEnvironment={no_avx}
END
cat >/run/systemd/system/relay.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
Environment=PATH={path} HOME=/root {no_avx}
ExecStart=/usr/bin/python3 -I -S {relay} --serve {control}:{port} {ready}
KillMode=process
END
ln -s ../relay.service /run/systemd/system/multi-user.target.wants/
mount -o remount,ro /
exec env -i PATH={path} {no_avx} /lib/systemd/systemd
"""


class _Booted(Guest):
    """A guest with a tree for its root and systemd in it."""

    root: Path
    binds: Sequence[Path]

    @property
    def off(self) -> bool:
        """Whether its kernel has ended."""
        return self._process is None or self._process.poll() is not None

    def _kernel(self) -> list[str]:
        instead = {"rootflags=/": f"rootflags={self.root}", f"mem={guest.MEMORY}": f"mem={MEMORY}"}
        words = [instead.get(word, word) for word in super()._kernel() if not word.startswith(("init=", "vec0:"))]
        # The script lies in a directory that only the script binds, so it stands in the root for this boot.
        return [*words, f"init=/boot/{self.umid}.init", "systemd.unified_cgroup_hierarchy=1"]

    def _init(self) -> str:
        script = VIRTUAL.format(
            path=PATH, name=self.umid, control=f"{CONTROL}.{self.number}", port=guest.PORT, no_avx=" ".join(NO_AVX),
            relay=shlex.quote(str(guest.HERE / "relay.py")), ready=shlex.quote(str(self._ready)),
            mounting=mounting("", self.binds, "mount -t hostfs -o {place} none {place}"),
        )  # fmt: skip
        place = self.root / "boot" / f"{self.umid}.init"
        place.write_text(script)
        place.chmod(0o755)
        return script


class Virtual(Machine):
    """A kernel of its own. Processes start several times slower than here, and without AVX."""

    cgroup = 2
    environment: ClassVar = dict(setting.split("=", 1) for setting in NO_AVX)

    _guest: _Booted | None = None

    @property
    def _namespace(self) -> str:
        return f"lab-{self.name}"

    def _start(self) -> None:
        self._clear()
        run("ip", "netns", "add", self._namespace)
        port = "control-v"
        lines = [
            "link set lo up", f"tuntap add dev {port} mode tap", f"addr add {CONTROL}.1/24 dev {port}",
            f"link set {port} up",
        ]  # fmt: skip
        run(*guest.inside(self._namespace), "ip", "-batch", "-", input="\n".join(lines))
        sockets = Path("/run", self._namespace)
        self._guest = _Booted("v", 10, self._namespace, self.directory, sockets)
        self._guest.root, self._guest.binds = self.root, self.binds
        self._guest.boot()

    def _end(self) -> None:
        if self._guest is not None:
            self._guest.kill()
            self._guest.forget()
            (self.root / "boot" / f"{self._guest.umid}.init").unlink(missing_ok=True)
            self._guest = None
        self._clear()

    def _clear(self) -> None:
        """Remove what this machine or an earlier one of its name has left."""
        left = _Booted("v", 10, self._namespace, self.directory, Path("/run", self._namespace))
        left.kill()
        if Path("/run/netns", self._namespace).exists():
            run("ip", "netns", "del", self._namespace)
        shutil.rmtree(f"/run/{self._namespace}", ignore_errors=True)

    def _off(self) -> bool:
        return self._guest is None or self._guest.off

    def command(self, argv: Sequence[str]) -> list[str]:
        assert self._guest is not None, "it is off"
        return self._guest.command(argv)
