"""Bring a lab up, try each thing that it can do, take it down, and see that nothing is left: `check.py NAME [NAME...]`.

Prints a line for each: how long it took, and what was seen. The exit status is 1 if a lab does not do what it says.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.base import MACHINES, Lab, LabError
from lab.net import mount_points, tag

SCRATCH = Path(__file__).resolve().parents[2] / "build" / "tmp"

#: The module of a lab that is not called as the lab is.
MODULES = {"nfs": "uml", "cifs": "uml"}
#: All labs that there are.
NAMES = ("local", "gluster", "moosefs", "sshfs", "nfs", "cifs")

#: How long one look at the share may take before it counts as hung.
LOOK_S = 8.0
#: How long machines may take to read and write again once a fault is mended.
RECOVERY_S = 150.0
#: How old a cache may be: NFS's default for directories is the longest (acdirmax, nfs(5)).
FRESH_S = 60.0
#: How long a client may go on taking writes, or trying, before it says that there is no room: MooseFS, 122 s.
REFUSAL_S = 180.0

#: What a write may say on a full disk, and on a read-only one. SFTP cannot say more than that it failed.
FULL = ("No space left", "Input/output")
READ_ONLY = ("Read-only", "Permission denied", "not permitted")

WRITE = 'dd if=/dev/zero of="$1/$2" bs=64k count=1 conv=fsync status=none'
READ = 'cd "$1" && shift && for file; do cat "$file" | wc -c; done | xargs'


def lab_class(name: str) -> type[Lab]:
    """The lab of that name; its module is loaded now. Raises LabError."""
    module = importlib.import_module(f"lab.{MODULES.get(name, name)}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Lab) and value.name == name:
            return value
    raise LabError(f"no lab {name} in {module.__name__}")


class Check:
    """One run through a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.failures = 0
        self.numbers = itertools.count(1)
        self.hung: list[subprocess.Popen[str]] = []

    def all(self) -> None:
        """Every method, in an order in which each finds a sound lab."""
        if not self.step("up", self.up):
            return
        self.step("seen", self.seen)
        self.step("requests", self.requests)
        self.step("cut, mend", self.cut)
        self.step("mount_kill, remount", self.mount_kill)
        if self.lab.has_server:
            self.step("server_kill, server_start", self.server_kill)
        self.step("fill, unfill", self.fill)
        self.step("read_only, read_write", self.read_only)

    def step(self, what: str, action: Callable[[], str]) -> bool:
        """Do it, say how it went, and whether it went well."""
        begin = time.monotonic()
        try:
            told, well = action(), True
        except LabError as error:
            self.failures += 1
            told, well = f"FAILED: {error}", False
        print(f"{self.lab.name:8} {what:26} {time.monotonic() - begin:6.1f} s  {told}", flush=True)
        return well

    def up(self) -> str:
        self.lab.up()
        return "mounted at " + " ".join(self.lab.root(machine) for machine in MACHINES)

    def seen(self) -> str:
        """What one machine writes, all see."""
        return f"each reads what each wrote, {self.recovered()}"

    def requests(self) -> str:
        """The figure of a machine that asks grows."""
        before = {machine: self.lab.requests(machine) for machine in MACHINES}
        for _ in range(10):
            self.must(self.write("a", f"request{next(self.numbers)}"))
        after = {machine: self.lab.requests(machine) for machine in MACHINES}
        told = ", ".join(f"{machine} {before[machine]} -> {after[machine]}" for machine in MACHINES)
        asked, had = after["a"], before["a"]
        if asked is not None and had is not None and asked < had + 10:
            raise LabError(f"10 files written on a: {told}")
        return f"10 files written on a: {told}"

    def cut(self) -> str:
        """One machine loses the share, the others do not notice."""
        self.lab.cut("b")
        first = self.look("b")
        self.sound([machine for machine in MACHINES if machine != "b"])
        written = self.write("b", "cut")
        second = self.look("b")
        self.lab.mend("b")
        return f"b: {first}, then {written}, then {second}; others sound; all again {self.recovered()}"

    def mount_kill(self) -> str:
        self.lab.mount_kill("c")
        lost = self.look("c")
        self.sound([machine for machine in MACHINES if machine != "c"])
        self.lab.remount("c")
        return f"c: {lost}; others sound; all again {self.recovered()}"

    def server_kill(self) -> str:
        self.lab.server_kill()
        lost = self.look("a")
        written = self.write("d", "killed")
        time.sleep(5.0)
        begin = time.monotonic()
        self.lab.server_start()
        took = time.monotonic() - begin
        return f"a: {lost}; d: {written}; start {took:.1f} s; all again {self.recovered()}"

    def fill(self) -> str:
        return self.refusing(self.lab.fill, self.lab.unfill, FULL)

    def read_only(self) -> str:
        return self.refusing(self.lab.read_only, self.lab.read_write, READ_ONLY)

    def refusing(self, fault: Callable[[], None], mend: Callable[[], None], reasons: Sequence[str]) -> str:
        """Writes are refused while there is that fault; reads are not."""
        fault()
        try:
            told = self.refused(reasons)
            looks = " ".join(self.look(machine) for machine in MACHINES)
        finally:
            mend()
        return f"{told}; {looks}; all again {self.recovered()}"

    def down(self) -> str:
        """Nothing is left, not even of those that hung."""
        self.lab.down()
        self.lab.down()
        for process in self.hung:
            try:
                process.communicate(timeout=20.0)
            except subprocess.TimeoutExpired as error:
                raise LabError(f"still hangs: {process.args!r}") from error
        if left := leftovers(self.lab):
            raise LabError("left behind: " + "; ".join(left))
        return f"twice; {len(self.hung)} that hung have ended; nothing left"

    # -- looks at the share, each in a process of its own that may hang

    def shell(self, machine: str, script: str, *argv: str, timeout: float = LOOK_S) -> str:
        """What a shell on the machine says: "ok" and its output, an error, or that it hangs. `$1` is the share."""
        command = self.lab.command(machine, ["sh", "-c", script, "sh", self.lab.root(machine), *argv])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, error = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # It may be past killing until the fault is mended: nobody waits for it here.
            process.kill()
            self.hung.append(process)
            return f"hangs ({timeout:.0f} s)"
        if process.returncode == 0:
            return f"ok {out.strip()}".strip()
        return error.strip().rpartition(": ")[2] or f"exit status {process.returncode}"

    def look(self, machine: str) -> str:
        """Count the names in the share."""
        return "ls: " + self.shell(machine, 'ls "$1" >/dev/null && ls "$1" | wc -l')

    def write(self, machine: str, name: str, timeout: float = LOOK_S) -> str:
        """Write a file of 64 KiB, named after the machine, and sync it."""
        return "write: " + self.shell(machine, WRITE, f"{name}-{machine}", timeout=timeout)

    def read(self, machine: str, names: Sequence[str]) -> str:
        """The sizes of files, read whole."""
        return self.shell(machine, READ, *names)

    def sound(self, machines: Sequence[str]) -> None:
        """Each writes a file, and each sees those of all. Raises LabError."""
        number = f"sound{next(self.numbers)}"
        for machine in machines:
            self.must(self.write(machine, number))
        expected = "ok " + " ".join(["65536"] * len(machines))
        for machine in machines:
            told = self.eventually(machine, [f"{number}-{writer}" for writer in machines], expected)
            if told != expected:
                raise LabError(f"{machine} reads {told}")

    def eventually(self, machine: str, names: Sequence[str], expected: str) -> str:
        """What a machine reads in the end, once caches had their time."""
        end = time.monotonic() + FRESH_S
        while (told := self.read(machine, names)) != expected and time.monotonic() < end:
            time.sleep(0.2)
        return told

    def recovered(self, machines: Sequence[str] = MACHINES) -> str:
        """After how long all is sound. Raises LabError if it never is."""
        begin = time.monotonic()
        while True:
            try:
                self.sound(machines)
                return f"after {time.monotonic() - begin:.1f} s"
            except LabError:
                if time.monotonic() > begin + RECOVERY_S:
                    raise
                time.sleep(0.5)

    def refused(self, reasons: Sequence[str]) -> str:
        """Why writes are refused on each machine, all trying at once. Raises LabError if they are not."""
        with ThreadPoolExecutor() as pool:
            return ", ".join(pool.map(lambda machine: f"{machine}: {self.refusal(machine, reasons)}", MACHINES))

    def refusal(self, machine: str, reasons: Sequence[str]) -> str:
        """What a write says once it is refused. Raises LabError if it is not."""
        begin = time.monotonic()
        while time.monotonic() < begin + REFUSAL_S:
            said = self.write(machine, f"refused{next(self.numbers)}", REFUSAL_S)
            if any(reason in said for reason in reasons):
                return f"{said} after {time.monotonic() - begin:.1f} s"
            time.sleep(0.5)
        raise LabError(f"{machine}: {said}")

    def must(self, told: str) -> None:
        """Raises LabError for anything but success."""
        if "ok" not in told.split():
            raise LabError(told)


def leftovers(lab: Lab) -> list[str]:
    """Mounts, namespaces and processes that bear a lab's directory or its tag."""
    directory = str(lab.directory.resolve())
    name = tag(lab.name, lab.directory)
    found = [f"mount {point}" for point in mount_points() if point.startswith(directory + "/")]
    found += [f"namespace {path.name}" for path in Path("/run/netns").glob(f"{name}*")]
    for process in Path("/proc").glob("[0-9]*"):
        command = command_line(process)
        if int(process.name) != os.getpid() and (directory in command or name in command):
            found.append(f"process {process.name} {command}")
    return found


def command_line(process: Path) -> str:
    """A process's command line, its arguments parted by blanks; empty if it is gone."""
    try:
        return (process / "cmdline").read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def check(name: str) -> int:
    """Check one lab; how many things failed."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"labcheck-{name}-", dir=SCRATCH))
    checks = Check(lab_class(name)(directory))
    try:
        checks.all()
    finally:
        checks.step("down", checks.down)
    if checks.failures:
        print(f"{name}: {checks.failures} failed; logs are in {directory}")
    else:
        shutil.rmtree(directory)
    return checks.failures


def main(names: Sequence[str]) -> int:
    """Check the labs of these names."""
    if not names or not set(names) <= set(NAMES):
        print(f"usage: check.py NAME [NAME...]; labs: {' '.join(NAMES)}", file=sys.stderr)
        return 2
    return 1 if sum(check(name) for name in names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
