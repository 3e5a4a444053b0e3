"""Runs a command in a guest: `relay.py ADDRESS:PORT GUEST -- ARGV` here; there `relay.py --serve ADDRESS:PORT READY`.

GUEST is for those who look for the callers of a guest: addresses are the same in all labs.

A connection is one command. It carries frames: a byte for the kind, four for the length (big-endian), the bytes.

    A   to the guest, first   working directory and argv, with a NUL between each two
    I   to the guest          stdin; empty: the end of stdin
    O   from the guest        stdout
    E   from the guest        stderr
    S   from the guest, last  exit status in decimal; 128 + the signal's number if one ended the command

The command leads a session of its own. If the connection breaks, because `relay.py` was killed here, the command's
stdin is closed and its process group gets SIGHUP. It has ended when its first process has: what others that it left
behind write later goes nowhere. Standard library only, and little of it: a call starts in milliseconds.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a call does without; it would take longer to import than all the rest
    import subprocess

ARGV, STDIN, STDOUT, STDERR, STATUS = b"A", b"I", b"O", b"E", b"S"
HEAD = struct.Struct("!cI")
CHUNK = 65536
#: The relay's own failures: the guest cannot be reached, or has gone before the command ended.
NO_GUEST = 255
#: A guest without power says nothing more; its silence is noticed after 10 + 4 * 5 s.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


def send(connection: socket.socket, kind: bytes, data: bytes) -> None:
    """Send one frame."""
    connection.sendall(HEAD.pack(kind, len(data)) + data)


def frames(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """The frames that arrive, until the connection ends, in order or not."""
    with connection.makefile("rb") as stream:
        while True:
            try:
                head = stream.read(HEAD.size)
                if len(head) < HEAD.size:
                    return
                kind, length = HEAD.unpack(head)
                data = stream.read(length)
            except OSError:
                return
            if len(data) < length:
                return
            yield kind, data


def write(fd: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(fd, data) :]


def _tune(connection: socket.socket) -> None:
    """Frames leave at once, and a dead end is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


# -- here


def call(address: tuple[str, int], argv: list[str]) -> int:
    """Run it there; its exit status."""
    try:
        connection = socket.create_connection(address, timeout=10)
        connection.settimeout(None)
        _tune(connection)
        send(connection, ARGV, b"\0".join(os.fsencode(word) for word in (os.getcwd(), *argv)))
    except OSError as error:
        print(f"relay: {address[0]}: {error}", file=sys.stderr)
        return NO_GUEST
    threading.Thread(target=_pass_stdin, args=(connection,), daemon=True).start()
    for kind, data in frames(connection):
        if kind == STATUS:
            return int(data)
        write(1 if kind == STDOUT else 2, data)
    print(f"relay: {address[0]} is gone", file=sys.stderr)
    return NO_GUEST


def _pass_stdin(connection: socket.socket) -> None:
    """Send what comes to stdin, and last that it has ended."""
    data = b"first"
    while data:
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        try:
            send(connection, STDIN, data)
        except OSError:
            return


# -- in the guest


def serve(address: tuple[str, int], ready: str) -> None:
    """Answer calls for ever. `ready`: a file to make when the first can come."""
    import subprocess  # noqa: F401 - now, so that the first call need not wait for it

    listener = socket.create_server(address, backlog=64)
    os.close(os.open(ready, os.O_CREAT | os.O_WRONLY))
    while True:
        connection, _ = listener.accept()
        # In a thread: to fork takes 100 ms in a guest, as it copies pages by system calls of the host.
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Run one command and tell what comes of it."""
    _tune(connection)
    heard = frames(connection)
    with connection:
        process = _start(connection, heard)
        if process is not None:
            threading.Thread(target=_tell, args=(connection, process), daemon=True).start()
            _feed(heard, process)
        # To close with frames unread would take from the caller what was sent and not yet received.
        for _ in heard:
            pass


def _start(connection: socket.socket, heard: Iterator[tuple[bytes, bytes]]) -> subprocess.Popen[bytes] | None:
    """Start what the first frame says; None if it cannot be started, which is then told."""
    import subprocess

    kind, data = next(heard, (b"", b""))
    if kind != ARGV:
        return None
    directory, *argv = data.split(b"\0")
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(argv, cwd=directory, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        send(connection, STDERR, f"relay: {os.fsdecode(argv[0])}: {error}\n".encode())
        send(connection, STATUS, b"127")
        return None


def _feed(heard: Iterator[tuple[bytes, bytes]], process: subprocess.Popen[bytes]) -> None:
    """Pass stdin on until the connection ends, and the command with it, if it has not before."""
    import signal

    assert process.stdin is not None
    for _, data in heard:
        try:
            if data:
                write(process.stdin.fileno(), data)
            else:
                process.stdin.close()
        except (OSError, ValueError):
            pass  # the command reads no more; keep listening for the connection's end
    process.stdin.close()
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGHUP)
        except ProcessLookupError:
            pass


def _tell(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Send the output, and last the status."""
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with process.stdout as stdout, process.stderr as stderr:
            _send_output(connection, process.pid, {stdout.fileno(): STDOUT, stderr.fileno(): STDERR})
        status = process.wait()
        send(connection, STATUS, b"%d" % (status if status >= 0 else 128 - status))
    except OSError:
        process.wait()  # nobody listens any more


def _send_output(connection: socket.socket, pid: int, kinds: dict[int, bytes]) -> None:
    """Send what comes until the process has ended and all that it wrote is sent. `kinds`: of its pipes."""
    import select

    for fd in kinds:
        os.set_blocking(fd, False)
    end = os.pidfd_open(pid)
    ended = False
    try:
        while not ended:
            ready, _, _ = select.select([*kinds, end], [], [])
            ended = end in ready
            for fd in list(kinds):
                if (fd in ready or ended) and not _send_from(fd, connection, kinds[fd], whole=ended):
                    del kinds[fd]
    finally:
        os.close(end)


def _send_from(fd: int, connection: socket.socket, kind: bytes, whole: bool) -> bool:
    """Send what there is to read now, a chunk or all of it; whether more may come."""
    while True:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        send(connection, kind, data)
        if not whole:
            return True


def main(argv: list[str]) -> None:
    """Serve, or call and exit with the command's status."""
    if argv[0] == "--serve":
        serve(_address(argv[1]), argv[2])
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        status = call(_address(argv[0]), argv[3:])
    except OSError:
        status = NO_GUEST  # nobody reads our output any more
    sys.stderr.flush()
    os._exit(status)  # the thread that reads stdin would keep us


if __name__ == "__main__":
    main(sys.argv[1:])
