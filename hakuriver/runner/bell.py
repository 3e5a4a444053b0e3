"""The node's bell: renamed when there is something to hear, so that the host need not list every node's directories.

A hint, and not durable: the host lists a node's directories all the same when its bell is missing or silent, and now
and then. It says no more than what is on the share already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import Bell


class Ringer:
    """Rings the bell of one node, in one epoch."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._rung: Bell | None = None
        self._ringing = threading.Lock()  # a heartbeat may come from another thread

    def ring(self, tell: Callable[[], Bell]) -> None:
        """Have the bell bear the name that is told, unless it does."""
        with self._ringing:
            self._ring(tell())

    def _ring(self, bell: Bell) -> None:
        if bell == self._rung:
            return
        try:
            if self._rung is None or not files.move(self._disk, self._rung.path, bell.path):
                self._hang_up(bell)
            self._rung = bell
        except (FileNotFoundError, ShareError):
            self._rung = None  # the host does without; the next ring begins anew

    def _hang_up(self, bell: Bell) -> None:
        """Give the node the one bell that it is to have: an earlier epoch's is used again."""
        self._disk.mkdir(layout.BELLS)
        old = [found.path for found in files.bells(self._disk) if found.node == bell.node]
        if bell.path in old:
            old.remove(bell.path)
        elif not (old and files.move(self._disk, old.pop(), bell.path)):
            try:
                self._disk.write(bell.path, b"", durable=False)
            except FileExistsError:
                pass  # an earlier try that was reported as failed
        for path in old:
            self._disk.remove(path)
