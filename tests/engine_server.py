"""An engine with real processes: a server in the test's own process, and as a program the attendant that talks to it.

Its tasks are the test's children, so that they outlive keeper, guard and attendant, as containers do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hakuriver.attendant import __main__ as program
from hakuriver.attendant.engine import Away, CannotStart

LOOK_S = 0.02


class Box:
    """One attempt."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.argv, self.log = argv, log
        self.process: subprocess.Popen[bytes] | None = None
        self.at = 0.0

    @property
    def state(self) -> str:
        if self.process is None:
            return "made"
        return "running" if self.process.poll() is None else "ended"

    def send(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)


class Server:
    """The engine. Removed from its directory's socket by `close`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.path = directory, str(directory / "s")
        self.boxes: dict[str, Box] = {}
        self.calls: list[str] = []
        self.begun: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                asked = json.loads(self.rfile.readline())
                answer = getattr(outer, asked["op"])(**asked["with"])
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(self.path, Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for box in self.boxes.values():
            box.send(signal.SIGKILL)

    def look(self, name: str) -> str:
        return self.boxes[name].state if name in self.boxes else "absent"

    def make(self, name: str, argv: list[str]) -> None:
        self.boxes[name] = Box(argv, self.directory / f"{name}.log")

    def start(self, name: str) -> str:
        box = self.boxes[name]
        self.begun.append(name)
        box.at = time.time()
        try:
            with box.log.open("wb") as log:
                box.process = subprocess.Popen(box.argv, stdin=subprocess.DEVNULL, stdout=log, start_new_session=True)
        except OSError as error:
            return str(error)
        return ""

    def attend(self, name: str) -> tuple[int | None, float]:
        box = self.boxes[name]
        return (box.process.pid if box.process else None), box.at

    def ended(self, name: str) -> dict[str, Any]:
        box = self.boxes[name]
        assert box.process is not None
        code = box.process.wait()
        return {
            "ev": "ended", "name": name, "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None, "oom": False, "text": "", "started_at": box.at,
            "ended_at": time.time(), "wall_s": time.time() - box.at, "cpu_s": 0.0, "peak_memory_bytes": None,
        }  # fmt: skip

    def output(self, name: str, have: int) -> str:
        return self.boxes[name].log.read_bytes()[have:].decode()

    def signal(self, name: str, number: int) -> None:
        if name in self.boxes:
            self.boxes[name].send(number)
            self.boxes[name].send(signal.SIGCONT)

    def freeze(self, name: str, on: bool) -> str:
        self.boxes[name].send(signal.SIGSTOP if on else signal.SIGCONT)
        return ""

    def remove(self, name: str) -> None:
        box = self.boxes.pop(name, None)
        if box is not None:
            box.send(signal.SIGKILL)

    def names(self) -> list[str]:
        return sorted(self.boxes)


class Client:
    """The engine as its attendant sees it; the socket is named in each order, and remembered."""

    def __init__(self, directory: str) -> None:
        self._note = Path(directory) / "socket"  #: a link, as that is made in one step: many threads read it

    def _call(self, op: str, **more: Any) -> Any:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(os.readlink(self._note))
                sock.sendall(json.dumps({"op": op, "with": more}).encode() + b"\n")
                return json.loads(sock.makefile().readline())
        except OSError as error:
            raise Away(str(error)) from error

    def look(self, order: Any) -> str:
        with contextlib.suppress(FileExistsError):
            self._note.symlink_to(order["spec"]["socket"])
        return str(self._call("look", name=order["name"]))

    def make(self, order: Any) -> None:
        self._call("make", name=order["name"], argv=order["spec"]["argv"])

    def start(self, order: Any) -> None:
        problem = self._call("start", name=order["name"])
        if problem:
            raise CannotStart(127, problem)

    def attend(self, order: Any) -> tuple[int | None, float]:
        self._collect(order)
        pid, at = self._call("attend", name=order["name"])
        return pid, at

    def _collect(self, order: Any) -> None:
        with open(order["out"], "ab") as file:
            file.write(self._call("output", name=order["name"], have=file.tell()).encode())

    def wait(self, order: Any) -> Any:
        while self.look(order) == "running":
            self._collect(order)
            time.sleep(LOOK_S)
        self._collect(order)
        return self._call("ended", name=order["name"])

    def signal(self, name: str, number: int) -> None:
        self._call("signal", name=name, number=number)

    def freeze(self, name: str, on: bool) -> str:
        return str(self._call("freeze", name=name, on=on))

    def remove(self, name: str) -> None:
        self._call("remove", name=name)

    def names(self, owner: str) -> list[str]:
        return list(self._call("names"))


if __name__ == "__main__":
    program.engine = lambda kind, directory: Client(directory)
    program.main(sys.argv[1:])
