"""The keeper's only loop: it sleeps until a child, a timer, the runner or the spawner has something.

A turn: hear all of them, choose what starts, flush the record (one write), start it, tell the runner.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys

from hakuriver.keeper import kernel
from hakuriver.keeper.commands import COMMANDS
from hakuriver.keeper.core import Keeper
from hakuriver.keeper.record import encode
from hakuriver.keeper.wire import Wire

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from typing import Any

    from hakuriver.keeper.attendants import Link

SIGNALS = {signal.SIGCHLD, signal.SIGTERM}
GRACE_S = 2.0  #: how long a keeper with nothing to do waits for a runner
RETRY_RECORD_S = 1.0
LOCAL_PEER = struct.Struct("3i")  #: struct ucred: pid, uid, gid


def _log() -> None:
    """Write the exception at hand to keeper.log."""
    kind, problem, trace = sys.exc_info()
    if kind is not None and problem is not None:
        sys.excepthook(kind, problem, trace)
    sys.stderr.flush()


def peer_uid(sock: socket.socket) -> int:
    """Who is at the other end."""
    uid: int = LOCAL_PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, LOCAL_PEER.size))[1]
    return uid


class Loop:
    """Descriptors and turns."""

    def __init__(self, directory: str, listener: socket.socket, owner: str, output_limit: int, mode: str) -> None:
        self._listener = listener
        self._directory = directory
        self._connection: Wire | None = None
        self._greeted = False
        self._epoll = select.epoll()
        self._signals = kernel.signalfd({int(number) for number in SIGNALS})
        self._timer = kernel.BootTimer()
        self._armed: float | None = None
        self._event, self._event_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._awake = True  # the spawner need not wake us: we look before we sleep
        self._idle: Any = None
        self._stop = self._hello_due = False
        self.keeper = Keeper(directory, owner, output_limit, mode, self._wake, self._reach)
        for fd in (listener.fileno(), self._signals, self._timer.fd, self._event):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Until there is nothing to do."""
        self.keeper.begin()
        self._turn([])
        while not self._stop:
            self._turn(self._epoll.poll())

    def _wake(self) -> None:
        """Called from spawner threads."""
        try:
            os.write(self._event_write, b"!")
        except BlockingIOError:
            pass  # a full pipe wakes too

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        children = False
        for fd, _ in ready:
            if fd == self._signals:
                children = self._hear_signals()
            elif fd == self._timer.fd:
                os.read(fd, 8)
                self._armed = None
            elif fd == self._event:
                os.read(fd, 4096)
            elif fd == self._listener.fileno():
                self._accept()
            elif self._connection is not None and fd == self._connection.sock.fileno():
                self._hear_runner()
            else:
                self._hear_attendant(fd)
        keeper = self.keeper
        keeper.take_results()
        if children:
            keeper.reap()
        keeper.timers.run(kernel.boottime())
        self._finish_turn()

    def _finish_turn(self) -> None:
        keeper = self.keeper
        if not keeper.act():
            keeper.tick("record", RETRY_RECORD_S, lambda: False)
        elif keeper.record.grown:
            self._compact()
        self._tell()
        self._order()
        self._watch_idle()
        self._arm()

    def _compact(self) -> None:
        try:
            self.keeper.record.compact(self.keeper.known, self.keeper.boot)
        except OSError:
            _log()  # the old record goes on

    def _hear_signals(self) -> bool:
        data = os.read(self._signals, 128 * 16)
        numbers = {struct.unpack_from("I", data, at)[0] for at in range(0, len(data), 128)}
        if signal.SIGTERM in numbers:
            self.keeper.shut_down()
        return signal.SIGCHLD in numbers

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptors: the runner tries once more
        if peer_uid(sock) != os.geteuid():
            sock.close()
            return
        self._drop()
        self._connection, self._greeted = Wire(sock), False
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def _drop(self) -> None:
        if self._connection is not None:
            self._epoll.unregister(self._connection.sock.fileno())
            self._connection.sock.close()
            self._connection = None
            self._hello_due = False

    def _hear_runner(self) -> None:
        connection = self._connection
        assert connection is not None
        try:
            for line in connection.lines():
                self._obey(line)
        except OSError:
            self._drop()
        except Exception:  # a message that makes no sense must not cost the tasks their parent
            _log()
            self._drop()

    def _obey(self, line: bytes) -> None:
        message = json.loads(line)
        COMMANDS[message["op"]](self.keeper, message, line)
        if message["op"] == "hello":
            self._hello_due = True

    def _tell(self) -> None:
        """Tell the runner what happened. Without one the facts wait for its hello; answers do not."""
        events, self.keeper.events = self.keeper.events, []
        connection = self._connection
        if connection is None:
            return
        try:
            if self._hello_due:
                self._hello_due, self._greeted = False, True
                connection.send(encode(self._hello()))
                events = [event for event in events if event["kind"] == "answer"]
            if events and self._greeted:
                connection.send(encode({"ev": "events", "events": events}))
            self._push(connection)
        except OSError:
            self._drop()

    def _push(self, wire: Wire) -> None:
        waiting = bool(wire.unread)
        wire.push()
        if waiting:
            writable = select.EPOLLOUT if wire.unread else 0
            self._epoll.modify(wire.sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP | writable)

    # -- attendants

    def _reach(self, kind: str) -> Link:
        """Start an attendant. Raises OSError."""
        from hakuriver.keeper import attendants  # where no engine is used it is not loaded

        link = attendants.start(kind, f"{self._directory}/attendant-{kind}")
        self.keeper.trees.attendants.add(link.pid)
        self._epoll.register(link.sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        return link

    def _hear_attendant(self, fd: int) -> None:
        for attendant in self.keeper.held.attendants():
            link = attendant.link
            if link is None or link.sock.fileno() != fd:
                continue
            try:
                for line in link.lines():
                    self.keeper.held.hear(attendant, json.loads(line))
            except OSError:
                self.keeper.held.lost(attendant)
            except Exception:  # news that make no sense: the next attendant tells them again
                _log()
                self.keeper.held.lost(attendant)

    def _order(self) -> None:
        """Send attendants what was ordered of them."""
        for attendant in self.keeper.held.attendants():
            if attendant.link is not None and attendant.link.unread:
                try:
                    self._push(attendant.link)
                except OSError:
                    self.keeper.held.lost(attendant)

    # -- the runner

    def _hello(self) -> dict[str, Any]:
        keeper = self.keeper
        tasks = [task.state() for task in keeper.known.tasks.values()]
        return {"ev": "hello", "v": 1, "pid": os.getpid(), "boot_id": keeper.boot,
                "lease_until": keeper.lease_until, "tasks": tasks}  # fmt: skip

    def _watch_idle(self) -> None:
        """Stop when there is nothing to do and nobody to do it for."""
        keeper = self.keeper
        if keeper.closing:
            self._stop = not keeper.busy
            return
        idle = self._connection is None and keeper.live == 0
        if not idle:
            keeper.timers.cancel(self._idle)
            self._idle = None
        elif self._idle is None:
            self._idle = keeper.timers.at(kernel.boottime() + GRACE_S, self._leave)

    def _leave(self) -> None:
        self._stop = True

    def _arm(self) -> None:
        """Have the timer wake us no later than the next deadline; too early does no harm."""
        when = self.keeper.timers.next()
        if when is not None and (self._armed is None or when < self._armed):
            self._timer.arm(when)
            self._armed = when
