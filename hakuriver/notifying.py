"""Tells the service manager how a daemon is, if one started it: sd_notify(3), systemd.service(5), Type=notify.

    manager = notifying.manager()      # once, at the start: what this process starts must not speak for it
    manager.doing("leading, term 3")   # what `systemctl status` shows
    manager.up(); manager.feed()

Without a manager all of it does nothing. What cannot be delivered is dropped: nothing waits long for a manager that
hangs.
"""

from __future__ import annotations

import os
import socket

#: Seconds that a message may take to be delivered, and characters of a status: a message has at most 4096 bytes.
SEND_S, STATUS_MOST = 0.2, 900
#: Where a manager says how it can be reached; and how often it wants to hear from which process.
SOCKET, WATCHDOG, WATCHDOG_OF = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Manager:
    """The service manager."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address`: as in NOTIFY_SOCKET, `@` for an abstract socket; of other kinds none is known.

        `watchdog_s`: seconds after which the manager ends a process that is up and does not feed its watchdog.
        """
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(SEND_S)
        self._doing = ""
        self._up = False

    def doing(self, text: str) -> None:
        """What the daemon does now."""
        self._doing = text
        self._show(text)

    def hindered(self, text: str) -> None:
        """What keeps it from that for the moment."""
        self._show(text)

    def goes_on(self) -> None:
        """What hindered it is over."""
        self._show(self._doing)

    def up(self) -> None:
        """The start is over. May be called again and again."""
        if not self._up:
            self._up = self._tell("READY=1")

    def takes_longer(self, seconds: float) -> None:
        """The start, if it is not over, may take so many seconds from now."""
        if not self._up:
            self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def feed(self) -> None:
        """All is well: the watchdog begins to count anew."""
        self._tell("WATCHDOG=1")

    def stopping(self, text: str) -> None:
        """The daemon ends of its own accord, or because it was told to."""
        self._tell("STOPPING=1")
        self.doing(text)

    def _show(self, text: str) -> None:
        self._tell("STATUS=" + " ".join(text.split())[:STATUS_MOST])

    def _tell(self, line: str) -> bool:
        """Send one message; tell whether it was delivered."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto(line.encode("utf-8", "replace"), self._address)
            return True
        except OSError:
            return False


def manager() -> Manager:
    """The manager that started this process. The environment forgets it: children are not to speak to it."""
    address, every, pid = (os.environ.pop(name, "") for name in (SOCKET, WATCHDOG, WATCHDOG_OF))
    watched = every.isdecimal() and int(every) > 0 and pid in ("", str(os.getpid()))
    return Manager(address, int(every) / 1e6 if watched else None)
