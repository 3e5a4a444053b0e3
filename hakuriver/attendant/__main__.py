"""``python -m hakuriver.attendant docker|systemd --dir DIR``

Started by the keeper: orders on stdin, news on stdout, both the same socket. It ends with its keeper, at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from hakuriver.attendant.loop import Attendant

if TYPE_CHECKING:
    from hakuriver.attendant.engine import Engine
    from hakuriver.attendant.messages import News


def engine(kind: str, directory: str) -> Engine:
    """The engine of that name; only its own libraries are loaded."""
    if kind == "docker":
        from hakuriver.attendant.docker import Docker

        return Docker()
    if kind == "systemd":
        from hakuriver.attendant.systemd import Systemd

        return Systemd(directory)
    raise ValueError(f"there is no engine {kind}: docker and systemd are")


class Teller:
    """Writes news, one after the other. Its end is ours: then the keeper is gone."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)  # whatever a library prints is no news
        self._lock = threading.Lock()

    def tell(self, news: News) -> None:
        """Send it."""
        data = json.dumps(news, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                os._exit(1)


def serve(made: Engine, teller: Teller) -> None:
    """Obey until the keeper is gone."""
    orders = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # nor does any child read our orders
    attendant = Attendant(made, teller.tell)
    teller.tell({"ev": "ready"})
    for line in orders:
        attendant.obey(json.loads(line))


def main(arguments: list[str]) -> None:
    """Be an attendant."""
    kind, _, directory = arguments
    signal.signal(signal.SIGTERM, lambda *_: None)  # a machine that shuts down tells everybody; the keeper decides
    teller = Teller()
    try:
        serve(engine(kind, directory), teller)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)  # no thread is waited for


if __name__ == "__main__":
    main(sys.argv[1:])
