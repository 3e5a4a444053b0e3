"""Kill NFS-Ganesha 4.3 by file locks: `python ganesha_crash.py [SECONDS [MACHINES]]`, as root.

The exit status is 0 if the server died of SIGSEGV, 1 if it outlived SECONDS. One process on one client is enough: it
locks a file that nobody else uses and closes it, again and again. MACHINES has a letter for each process, each on a
file of its own: "a" is one, "ab" (the default) are two on two clients, which is sooner. Without
the lock, or with the file kept open, the server was not seen to die.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lab.base import Lab  # noqa: E402
from lab.ganesha import Ganesha  # noqa: E402

SCRATCH = HERE.parents[1] / "build" / "tmp"
#: No new file is opened for the first seconds of a server's life; a client may take that long once more to notice.
GRACE_S = 90.0
#: One process is enough, but once took 56 s; two took 20 s at most.
SECONDS, MACHINES = 60.0, "ab"

#: What kills the server: it says now and then how often it has locked.
TRIGGER = """
import fcntl, os, sys
count = 0
while True:
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.close(fd)
    count += 1
    if count % 50 == 0:
        print(count, flush=True)
"""


class Load:
    """The trigger, in a process for each letter of `machines`, each on a file of its own."""

    def __init__(self, lab: Lab, machines: str) -> None:
        self._said: list[IO[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for index, machine in enumerate(machines):
            path = f"{lab.root(machine)}/locked{index}"
            lab.run(machine, "touch", path, timeout=GRACE_S)
            said = tempfile.TemporaryFile()  # noqa: SIM115 - read again in `locks`
            argv = lab.command(machine, [sys.executable, "-I", "-S", "-c", TRIGGER, path])
            self._processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=said))
            self._said.append(said)

    def failed(self) -> bool:
        """Whether one has ended by itself."""
        return any(process.poll() is not None for process in self._processes)

    def locks(self) -> list[str]:
        """How many locks each has had, to 50, or what it said instead."""
        last = []
        for said in self._said:
            said.seek(0)
            last.append(said.read().decode().strip().rpartition("\n")[2] or "0")
        return last

    def end(self) -> None:
        """Let go of them; those that hang end with their guest."""
        for process in self._processes:
            process.kill()
            process.wait()


def endure(lab: Ganesha, machines: str, seconds: float) -> tuple[int | None, str]:
    """Load the server until it dies or the time is over: its status, and a line that tells how it went."""
    load = Load(lab, machines)
    begin = time.monotonic()
    while lab.server_status() is None and not load.failed() and time.monotonic() < begin + seconds:
        time.sleep(0.02)
    took = time.monotonic() - begin
    load.end()
    status = lab.server_status()
    told = "lives" if status is None else f"died ({named(status)})"
    return status, f"{told} after {took:.1f} s; locks by {'+'.join(machines)}: {' + '.join(load.locks())}"


def named(status: int) -> str:
    """A process's end, in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def faults() -> list[str]:
    """What the kernel says of Ganesha's faults so far; nothing if it may not be asked."""
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout
    return [line for line in said.splitlines() if "ganesha" in line and "segfault" in line]


def versions(lab: Lab) -> str:
    """Of what takes part."""
    form = "-f=${Package} ${Version}, "
    packages = subprocess.run(
        ["dpkg-query", "-W", form, "nfs-ganesha", "nfs-ganesha-vfs", "libntirpc*"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return f"{packages}clients' kernel {lab.run('a', 'uname', '-r').strip()}"


def main(seconds: float, machines: str) -> int:
    """One try, on a server of its own."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="labcrash-", dir=SCRATCH))
    lab = Ganesha(directory)
    try:
        lab.up()
        print(versions(lab), flush=True)
        before = len(faults())
        status, told = endure(lab, machines, seconds)
        print("\n".join([told, *faults()[before:]]))
    finally:
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if status == -signal.SIGSEGV else 1


if __name__ == "__main__":
    given = [*sys.argv[1:], *(str(SECONDS), MACHINES)[len(sys.argv) - 1 :]]
    sys.exit(main(float(given[0]), given[1]))
