"""Docker engines side by side on this machine, each with its own images, containers, socket and bridge. As root.

    with Dockerd(Path("build/tmp/engine-a")) as engine:
        engine.add_image("shell")
        engine.client.containers(all=True)      # or: engine.cli("ps", "-a")

No registry is asked for anything: images are made here, of busybox. A stand-in for NVIDIA's hook makes an engine accept
requests for GPUs; what was asked for is then in the container's NVIDIA_VISIBLE_DEVICES. Containers reach nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from types import TracebackType

import docker
from docker.errors import DockerException
from processes import alive, halted, processes

from lab.base import LabError, install, run, wait_for
from lab.net import mounted, unmount_below

PACKAGES = {
    "dockerd": "docker.io", "docker": "docker.io", "ip": "iproute2", "iptables": "iptables",
    "busybox": "busybox-static",
}  # fmt: skip
#: Name of NVIDIA's hook; dockerd knows GPUs if it finds such a program as it starts.
HOOK = "nvidia-container-runtime-hook"
READY_S = 60.0
END_S = 60.0
#: Images that `add_image` can make: what of a container's settings each brings along.
IMAGES: dict[str, list[str]] = {
    "shell": [],
    "entrypoint": ['ENTRYPOINT ["/bin/echo", "the entrypoint was run"]', 'CMD ["the image\'s command"]'],
    "workdir": ["WORKDIR /srv", "ENV FROM_IMAGE=yes PATH=/opt/tools:/bin:/usr/bin", "USER worker"],
}
#: uid and gid of the user `worker` in those images.
WORKER = 1234


class Dockerd:
    """One engine, up between `up` and `down`, or as a context manager."""

    def __init__(self, directory: Path, *, size: str = "", gpus: bool = True, options: tuple[str, ...] = ()) -> None:
        """`directory`: for its data, an empty one or none yet. `size`, as 64m: its disk is no larger (a tmpfs).

        `gpus`: with the stand-in for NVIDIA's hook. `options`: more of them for dockerd, as --live-restore.
        """
        self.directory = directory.resolve()
        self.size = size
        self.gpus = gpus
        self.options = options
        self.tag = "hk" + hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]
        self.data = self.directory / "data"
        self.log = self.directory / "dockerd.log"
        #: Sockets have short names only, so what has any lies in /run.
        self.run_directory = Path("/run", self.tag)
        self.socket = str(self.run_directory / "docker.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Dockerd:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -- up and down

    def up(self) -> None:
        """Install what is missing, make disk and bridge, start it. Raises LabError."""
        if os.geteuid() != 0:
            raise LabError("a Docker engine needs root")
        install(PACKAGES)
        self._clear()
        self.data.mkdir(parents=True)
        if self.size:
            run("mount", "-t", "tmpfs", "-o", f"size={self.size},mode=711", self.tag, str(self.data))
        self._add_bridge()
        self._add_hook()
        self.start()

    def down(self) -> None:
        """End it, its containers and all that it leaves behind; may be called twice, and before `up` is done."""
        self._clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start dockerd on what it has, and wait until it answers. Raises LabError with what it logged."""
        self.run_directory.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"},
            )  # fmt: skip
        wait_for(lambda: self.answers() or self._process_ended(), READY_S, f"dockerd ({self.log})")
        if self._process_ended():
            raise LabError(f"dockerd has ended: {self.log.read_text()[-1500:]}")

    def stop(self) -> None:
        """Stop dockerd as a machine does that is shut down: it stops its containers. Raises LabError."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill dockerd; its containers run on until another dockerd is started."""
        containerd = self._containerd()
        self._signal(signal.SIGKILL)
        wait_for(lambda: containerd is None or not alive(containerd), END_S, "the end of containerd, with dockerd")
        # A containerd that nobody has reaped yet would be taken for one that runs.
        self._containerd_file.unlink(missing_ok=True)

    def hang(self, on: bool) -> None:
        """Have dockerd answer nobody, or again."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if on else signal.SIGCONT)
        if on:
            wait_for(lambda: self._process is None or halted(self._process.pid), END_S, "dockerd stands still")

    def answers(self) -> bool:
        try:
            return bool(self._client(timeout=2).ping())
        except (DockerException, OSError):
            return False

    def _command(self) -> list[str]:
        return [
            "dockerd", "--data-root", str(self.data), "--exec-root", str(self.run_directory / "exec"),
            "--pidfile", str(self.run_directory / "docker.pid"), "--host", f"unix://{self.socket}",
            "--bridge", self.tag, "--iptables=false", "--ip-masq=false", "--cgroup-parent", f"/{self.tag}",
            *self.options,
        ]  # fmt: skip

    @property
    def _containerd_file(self) -> Path:
        return self.run_directory / "exec" / "containerd" / "containerd.pid"

    def _containerd(self) -> int | None:
        text = _read(self._containerd_file)
        return int(text) if text else None

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"dockerd {self._process.pid} does not end") from None

    def _add_bridge(self) -> None:
        number = int(self.tag[2:4], 16)
        run("ip", "link", "add", self.tag, "type", "bridge")
        run("ip", "addr", "add", f"198.19.{number}.1/24", "dev", self.tag)
        run("ip", "link", "set", self.tag, "up")

    def _add_hook(self) -> None:
        hook = self.directory / "bin" / HOOK
        hook.parent.mkdir(exist_ok=True)
        if self.gpus:
            hook.write_text("#!/bin/sh\nexit 0\n")
            hook.chmod(0o755)

    # -- clearing

    def _clear(self) -> None:
        """End what is left of it, or of an earlier one in the same directory, by pid."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        wait_for(lambda: not self._kill_all(), END_S, f"the end of all processes of {self.tag}")
        for place in (self.data, self.run_directory):
            unmount_below(place)
            shutil.rmtree(place, ignore_errors=True)
        wait_for(self._without_cgroups, END_S, f"the end of the cgroups of {self.tag}")
        if Path("/sys/class/net", self.tag).exists():
            run("ip", "link", "del", self.tag)

    def _kill_all(self) -> list[int]:
        """Kill dockerd, containerd, its shims and what runs in containers; which are left."""
        # containerd and shims have the name of the directory in their command lines, containers are in its cgroup.
        found = {pid for pid in processes(f"{self.run_directory}/") if _is_engine(pid)} | self._contained()
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return [pid for pid in found if alive(pid)]

    def _cgroups(self) -> list[Path]:
        top = Path("/sys/fs/cgroup")
        return [group for parent in (top, *top.iterdir()) for group in (parent / self.tag,) if group.is_dir()]

    def _contained(self) -> set[int]:
        pids: set[int] = set()
        for group in self._cgroups():
            for directory in _tree(group):
                pids.update(int(pid) for pid in _read(directory / "cgroup.procs").split() if int(pid) > 0)
                # What is frozen dies only then. A shim that lives yet may be removing the cgroup at this moment.
                with contextlib.suppress(OSError):
                    (directory / "freezer.state").write_text("THAWED")
        return pids

    def _without_cgroups(self) -> bool:
        """Remove its cgroups; whether there are none. One that was left by its last process just now is busy yet."""
        for group in self._cgroups():
            for directory in reversed(_tree(group)):
                with contextlib.suppress(OSError):
                    directory.rmdir()
        return not self._cgroups()

    # -- what it holds

    @property
    def client(self) -> docker.APIClient:
        """A new client of it."""
        return self._client()

    def _client(self, timeout: int = 60) -> docker.APIClient:
        return docker.APIClient(f"unix://{self.socket}", version="auto", timeout=timeout)

    def cli(self, *argv: str, timeout: float = 60.0, input: str | None = None) -> str:
        """What `docker ARGV` prints. Raises LabError."""
        return run("docker", "--host", f"unix://{self.socket}", *argv, timeout=timeout, input=input)

    def add_image(self, kind: str, name: str = "", extra: dict[str, bytes] | None = None) -> str:
        """Make one of IMAGES, under a name (its kind, if none is given); its id. `extra`: path -> contents."""
        name = name or f"{kind}:latest"
        repository, _, tag = name.rpartition(":")
        self.client.import_image_from_data(
            busybox_tree(extra or {}), repository=repository, tag=tag, changes=IMAGES[kind] or None
        )
        return self.cli("image", "inspect", "--format", "{{.Id}}", name).strip()

    def containers(self) -> list[str]:
        """Names of all containers, running or not."""
        return sorted(row["Names"][0].lstrip("/") for row in self.client.containers(all=True))

    def images(self) -> list[str]:
        """Names of all images."""
        return sorted(tag for row in self.client.images() for tag in row["RepoTags"] or [])

    # -- faults; each is mended by the one below it

    def fill(self) -> None:
        """Leave not a block free on its disk, which must be one of its own (`size`). Raises LabError."""
        if not mounted(self.data):
            raise LabError("this engine has no disk of its own: give it a size")
        with open(self._filling, "wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                return

    def unfill(self) -> None:
        self._filling.unlink(missing_ok=True)

    @property
    def _filling(self) -> Path:
        return self.data / "filling"

    def away(self, on: bool) -> None:
        """Have nobody reach it, though it and its containers run on: its socket is gone, or there again."""
        hidden = self.socket + ".away"
        os.rename(*((self.socket, hidden) if on else (hidden, self.socket)))


def busybox_tree(extra: dict[str, bytes]) -> bytes:
    """A small root filesystem as a tar archive: busybox, /etc/passwd, /tmp."""
    program = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    passwd = f"root:x:0:0:root:/root:/bin/sh\nworker:x:{WORKER}:{WORKER}:worker:/srv:/bin/sh\n".encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("bin", "etc", "root", "srv", "opt", "opt/tools", "usr", "usr/bin", "proc", "sys", "dev"):
            _add(tar, name, tarfile.DIRTYPE, 0o755)
        _add(tar, "tmp", tarfile.DIRTYPE, 0o1777)
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, program)
        for applet in run("busybox", "--list").split():
            if applet != "busybox":
                _add(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        for path, data in {"etc/passwd": passwd, "etc/group": b"root:x:0:\nworker:x:1234:\n", **extra}.items():
            _add(tar, path.lstrip("/"), tarfile.REGTYPE, 0o644, data)
    return made.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname, entry.mtime = kind, mode, len(data), link, int(time.time())
    tar.addfile(entry, io.BytesIO(data) if data else None)


def _is_engine(pid: int) -> bool:
    """Whether it is a part of an engine: others may name its socket as well."""
    return _read(Path(f"/proc/{pid}/comm")).strip().startswith(("dockerd", "containerd", "docker-proxy", "runc"))


def _tree(top: Path) -> list[Path]:
    """A directory and all below it, each before what it holds; what goes meanwhile may be left out."""
    return [Path(directory) for directory, _, _ in os.walk(top)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it has just ended
