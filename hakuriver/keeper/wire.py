"""Lines over a socket, to the runner and to attendants."""

from __future__ import annotations

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    import socket

MAX_LINE = 64 << 20  #: bytes; who sends a longer line is cut off
MAX_UNREAD = 64 << 20  #: bytes; who leaves more unread is cut off


class Wire:
    """One end of a socket. Never blocks: what the other does not read waits here."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unread = bytearray()
        self._partial = bytearray()

    def lines(self) -> list[bytes]:
        """The complete lines that have come. Raises OSError at the end of the connection."""
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return []
        if not data or len(self._partial) > MAX_LINE:
            raise ConnectionError("closed")
        self._partial += data
        if b"\n" not in data:
            return []
        *complete, rest = self._partial.split(b"\n")
        self._partial = rest
        return [bytes(line) for line in complete]

    def send(self, text: str) -> None:
        """Queue a line."""
        self.unread += text.encode() + b"\n"
        if len(self.unread) > MAX_UNREAD:
            raise ConnectionError("the other end does not read")

    def close(self) -> None:
        """Leave the other end."""
        self.sock.close()

    def push(self) -> None:
        """Send what the socket takes."""
        try:
            while self.unread:
                del self.unread[: self.sock.send(self.unread)]
        except BlockingIOError:
            pass  # the rest goes when the loop hears that there is room
