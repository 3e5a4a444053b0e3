"""Memory limits: a cgroup for each task where one can be made, else watching.

v1: any child of our own memory cgroup. v2: a child of a group whose subtree_control names memory and which holds no
processes of its own: our group's parent under ``Delegate=yes``. See cgroups(7) and the kernel's cgroup-v2.rst.
"""

from __future__ import annotations

import os

ROOT_ESCAPES = {"\\040": " ", "\\011": "\t", "\\134": "\\"}


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _mounts() -> list[tuple[str, str, str, str]]:
    """(root, mount point, type, options) of all mounts."""
    found = []
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        point = words[4]
        for escape, char in ROOT_ESCAPES.items():
            point = point.replace(escape, char)
        found.append((words[3], point, tail[0], tail[2]))
    return found


def _own_groups() -> dict[str, str]:
    """Our cgroup path by controller list; v2 under the empty name."""
    lines = (line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines())
    return {names: path for _, names, path in lines}


def _directory(root: str, point: str, path: str) -> str:
    """Where a cgroup path is found below a mount of ``root`` at ``point``."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return point + path.rstrip("/")


def _bases() -> list[tuple[int, str]]:
    """(version, directory) in which groups with a memory controller might be made."""
    own, bases = _own_groups(), []
    for root, point, kind, options in _mounts():
        if kind == "cgroup" and "memory" in options.split(","):
            path = next((path for names, path in own.items() if "memory" in names.split(",")), "/")
            bases.append((1, _directory(root, point, path)))
        elif kind == "cgroup2" and "" in own:
            directory = _directory(root, point, own[""])
            bases += [(2, group) for group in (directory, os.path.dirname(directory)) if _delegated(group)]
    return bases


def _delegated(group: str) -> bool:
    """Whether a v2 group hands memory to its children. A slice is systemd's own: not ours to make groups in."""
    return "memory" in _read(f"{group}/cgroup.subtree_control").split() and not group.endswith(".slice")


class Groups:
    """Makes and removes the memory cgroups of tasks. ``version`` 0: none can be made, memory is watched."""

    def __init__(self, owner: str, mode: str) -> None:
        self.version = 0
        self._prefix = ""
        if mode == "watch":
            return
        for version, base in _bases():
            if self._try(version, f"{base}/hakuriver-{owner}"):
                return
        if mode == "cgroup":
            raise OSError("no memory cgroup can be made here (--memory-mode cgroup)")

    def _try(self, version: int, prefix: str) -> bool:
        self.version, self._prefix = version, prefix
        try:
            self._sweep()
            self.remove(self.make("try", 1 << 30))
            return True
        except OSError:
            self.version = 0
            return False

    def _sweep(self) -> None:
        """Remove the groups that an earlier keeper of the same directory left."""
        base, _, prefix = self._prefix.rpartition("/")
        for name in os.listdir(base):
            if name.startswith(prefix + "-"):
                self.remove(f"{base}/{name}")

    def make(self, name: str, limit: int) -> str:
        """A group limited to ``limit`` bytes, swap included."""
        group = f"{self._prefix}-{name}"
        os.mkdir(group)
        try:
            _write(f"{group}/" + ("memory.limit_in_bytes" if self.version == 1 else "memory.max"), str(limit))
            swap = ("memory.memsw.limit_in_bytes", str(limit)) if self.version == 1 else ("memory.swap.max", "0")
            if os.path.exists(f"{group}/{swap[0]}"):
                _write(f"{group}/{swap[0]}", swap[1])
        except OSError:
            self.remove(group)
            raise
        return group

    def told(self, group: str) -> tuple[bool, int | None]:
        """Whether the kernel killed for memory in the group, and the most bytes it used."""
        events = "memory.oom_control" if self.version == 1 else "memory.events"
        words = [line.split() for line in _read(f"{group}/{events}").splitlines()]
        killed = any(line[0] == "oom_kill" and int(line[1]) > 0 for line in words)
        peak = _read(f"{group}/" + ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")).strip()
        return killed, int(peak) if peak.isdigit() else None

    def remove(self, group: str) -> None:
        """Remove a group; one that is still busy stays for the next sweep."""
        try:
            os.rmdir(group)
        except OSError:
            pass  # an unkillable process in it: nothing that we could do
