"""The runner's side of the keeper.

    client = KeeperClient(dir)
    hello = client.connect(cores=8, memory_bytes=16 << 30)   # starts the keeper if there is none
    client.lease(until); client.start(spec, tasks)
    select([client.fileno()], ...); for message in client.receive(): ...

Whenever KeeperLost is raised: ``connect`` again. What happened meanwhile stands in the new hello; answers to controls
do not, so controls that were not answered are sent again. Tell the lease before starting anything: without one nothing
starts, and what may be rerun elsewhere is fenced at once by a lease that is over.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from hakuriver.keeper.__main__ import OUTPUT_LIMIT, SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hakuriver.keeper.messages import Event, HelloReply, SpecMessage, TaskMessage

DEADLINE_S = 10.0  #: for connecting, the start of the keeper included
PAUSE_S = 0.02
SEND_S = 10.0  #: the keeper reads at once: one that has not for so long is lost
#: Variables that say how programs run on this machine at all: what its C library may not use of the processor.
MACHINES_OWN = ("GLIBC_TUNABLES",)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class KeeperLost(ConnectionError):
    """The connection to the keeper is gone. Connect again; if the keeper died, so did its processes."""


class KeeperUnavailable(RuntimeError):
    """No keeper could be started or spoken to."""


class KeeperClient:
    """A connection to the keeper of one directory. One at a time: a newer one takes over."""

    def __init__(self, directory: str, *, output_limit: int = OUTPUT_LIMIT, memory_mode: str = "auto",
                 python: str = sys.executable) -> None:  # fmt: skip
        self.directory = os.path.abspath(directory)
        self._command = [python, "-S", "-m", "hakuriver.keeper", "--dir", self.directory,
                         "--output-limit", str(output_limit), "--memory-mode", memory_mode]  # fmt: skip
        self._sock: socket.socket | None = None
        self._using = threading.Lock()  # the lease may be extended from another thread
        self._partial = bytearray()
        self._early: list[dict[str, Any]] = []

    def connect(self, cores: int, memory_bytes: int | None = None) -> HelloReply:
        """Connect, starting the keeper if none answers, and say hello. Raises KeeperUnavailable after 10 s."""
        deadline = time.monotonic() + DEADLINE_S
        problem = ""
        while time.monotonic() < deadline:
            try:
                return self._greet(cores, memory_bytes, deadline)
            except OSError as error:
                self.close()
                problem = str(error)
            self._start(deadline)
            time.sleep(PAUSE_S)
        raise KeeperUnavailable(f"no keeper in {self.directory}: {problem}; see {self.directory}/keeper.log")

    def _greet(self, cores: int, memory_bytes: int | None, deadline: float) -> HelloReply:
        self._sock = self._dial()
        self.send({"op": "hello", "v": 1, "cores": cores, "memory_bytes": memory_bytes})
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.01))
            messages = self._receive(self._sock)
            if messages:
                # The keeper tells nothing before it has answered the hello.
                self._early = messages[1:]
                return cast("HelloReply", messages[0])

    def _dial(self) -> socket.socket:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(SEND_S)
            sock.connect(f"/proc/self/fd/{fd}/{SOCKET}")
            return sock
        except OSError:
            sock.close()
            raise
        finally:
            os.close(fd)

    def _start(self, deadline: float) -> None:
        """Run the program, which does nothing if a keeper is there. Raises KeeperUnavailable if it fails."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": ROOT, "LANG": "C.UTF-8"}
        environment |= {name: os.environ[name] for name in MACHINES_OWN if name in os.environ}
        try:
            done = subprocess.run(
                self._command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=max(deadline - time.monotonic(), 0.1), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise KeeperUnavailable(
                f"the keeper of {self.directory} takes too long to start: perhaps an earlier task cannot be killed"
            ) from error
        except OSError as error:
            raise KeeperUnavailable(f"cannot run {self._command[0]}: {error}") from error
        if done.returncode:
            raise KeeperUnavailable(f"{done.stderr.strip()} {self._last_words()}".strip())

    def _last_words(self) -> str:
        """The last line of keeper.log."""
        try:
            with open(f"{self.directory}/keeper.log", errors="replace") as file:
                return file.readlines()[-1].strip()
        except (OSError, IndexError):
            return ""

    def close(self) -> None:
        """Leave the keeper, which goes on."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._partial, self._early = None, bytearray(), []

    def fileno(self) -> int:
        """For select. Raises KeeperLost without a connection."""
        return self._connected().fileno()

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise KeeperLost("not connected")
        return self._sock

    def send(self, message: Any) -> None:
        """Send one message."""
        with self._using:
            sock = self._connected()
            sock.settimeout(SEND_S)
            try:
                sock.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            except OSError as error:
                self.close()
                raise KeeperLost(f"the keeper is gone: {error}") from error

    def start(self, spec: SpecMessage, tasks: Iterable[TaskMessage]) -> None:
        """Queue tasks; those the keeper knows already are ignored."""
        self.send({"op": "start", "spec": spec, "tasks": list(tasks)})

    def _control(self, op: str, task: str, attempt: int, request: str | None, reason: str, **more: float) -> None:
        self.send({"op": op, "task": task, "attempt": attempt, "request": request, "reason": reason, **more})

    def kill(self, task: str, attempt: int, request: str | None = None, reason: str = "",
             grace_s: float | None = None) -> None:  # fmt: skip
        """SIGTERM to the task's tree, SIGKILL after so many seconds, else its own grace; answered when it has ended.

        Of several kills the one counts by which SIGKILL comes first.
        """
        self._control("kill", task, attempt, request, reason, **({} if grace_s is None else {"grace_s": grace_s}))

    def pause(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        """Stop the task's tree."""
        self._control("pause", task, attempt, request, reason)

    def resume(self, task: str, attempt: int, request: str | None = None, reason: str = "") -> None:
        """Continue the task's tree."""
        self._control("resume", task, attempt, request, reason)

    def lease(self, until: float) -> None:
        """Extend the lease to ``until``, seconds of CLOCK_BOOTTIME."""
        self.send({"op": "lease", "until": until})

    def forget(self, tasks: Iterable[tuple[str, int]]) -> None:
        """The endings of these are safe elsewhere: drop them and their output."""
        self.send({"op": "forget", "tasks": [list(key) for key in tasks]})

    def rerunnable(self, tasks: Iterable[tuple[str, int, bool]]) -> None:
        """Say whether the cluster may start these elsewhere."""
        self.send({"op": "rerunnable", "tasks": [list(entry) for entry in tasks]})

    def receive(self) -> list[dict[str, Any]]:
        """All messages that have come; never waits. Raises KeeperLost when the keeper has gone."""
        with self._using:
            sock = self._connected()
            early, self._early = self._early, []
            try:
                sock.setblocking(False)
                return early + self._receive(sock)
            except BlockingIOError:
                return early
            except OSError as error:
                self.close()
                raise KeeperLost(f"the keeper is gone: {error}") from error

    def events(self) -> list[Event]:
        """The events of all messages that have come; never waits."""
        return [event for message in self.receive() for event in message.get("events", ())]

    def _receive(self, sock: socket.socket) -> list[dict[str, Any]]:
        data = sock.recv(1 << 20)
        if not data:
            raise KeeperLost("the keeper closed the connection")
        self._partial += data
        if b"\n" not in data:
            return []
        *lines, rest = self._partial.split(b"\n")
        self._partial = rest
        return [json.loads(line) for line in lines]
