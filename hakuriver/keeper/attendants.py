"""Attendants as processes: children of the keeper, spoken to over a socket that is their stdin and stdout."""

from __future__ import annotations

import os
import signal
import socket
import sys

from hakuriver.keeper import kernel, proc
from hakuriver.keeper.record import encode
from hakuriver.keeper.wire import Wire

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from typing import Any

MODULE = "hakuriver.attendant"


class Link(Wire):
    """The keeper's end, and the attendant's pid."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        super().__init__(sock)
        self.pid = pid

    def order(self, order: dict[str, Any]) -> None:
        """Queue an order; the loop pushes it."""
        self.send(encode(order))

    def end(self) -> None:
        """End the attendant. It keeps nothing, so it need not be asked."""
        self.sock.close()
        proc.send(self.pid, signal.SIGKILL)


def start(kind: str, directory: str) -> Link:
    """Start the attendant of an engine, which can be spoken to later. ``directory``: its own, on this node's disk.

    fork(2) and not posix_spawn(3), which returns only when the program has been loaded: it may lie on a share.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become([sys.executable, "-m", MODULE, kind, "--dir", directory], theirs, parent)
    theirs.close()
    return Link(ours, pid)


def _become(command: list[str], sock: socket.socket, parent: int) -> None:
    """In the child: be the attendant."""
    try:
        kernel.die_with_parent()
        if os.getppid() == parent:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(sock.fileno(), 0)
            os.dup2(sock.fileno(), 1)
            os.execv(command[0], command)
    finally:
        os._exit(127)
