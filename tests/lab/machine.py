"""The near end of `agent.py`: one machine of a lab, as the tests use it."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lab.base import Lab

AGENT = Path(__file__).with_name("agent.py")


class MachineError(Exception):
    """What was asked of the machine failed there: {error}."""


class Hung(MachineError):
    """It did not answer in time, as a machine whose mount hangs."""


class Machine:
    """One machine."""

    def __init__(self, lab: Lab, name: str, share: str) -> None:
        """`share`: the river's root as that machine sees it."""
        self.name = name
        self.share = share
        self.state = lab.state(name)
        self._lab = lab
        self._ids = itertools.count()
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._begin()

    def _begin(self) -> None:
        command = self._lab.command(self.name, [sys.executable, str(AGENT), self.share])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._synchronise()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"], None)
            if waiting is not None:
                waiting.put(answer)

    def _synchronise(self) -> None:
        """Find what to add to that machine's CLOCK_BOOTTIME for ours: by the quickest of some round trips."""
        best = (float("inf"), 0.0)
        for _ in range(8):
            before = time.clock_gettime(time.CLOCK_BOOTTIME)
            there = self.do("boottime")
            after = time.clock_gettime(time.CLOCK_BOOTTIME)
            best = min(best, (after - before, (before + after) / 2 - there))
        self.offset_s = best[1]

    def do(self, what: str, patience: float = 90.0, **arguments: Any) -> Any:
        """Have the agent do something, and wait for so many seconds. Raises MachineError, Hung."""
        number = next(self._ids)
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._waiting[number] = waiting
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"id": number, "do": what, "with": arguments}) + "\n")
            self._process.stdin.flush()
            answer = waiting.get(timeout=patience)
        except queue.Empty:
            raise Hung(f"{self.name}: no answer to {what} {str(arguments)[:500]} in {patience} s") from None
        except OSError as error:
            raise MachineError(f"{self.name} is down: {error}") from error
        if "error" in answer:
            raise MachineError(f"{self.name}: {what}: {answer['error']}")
        return answer["is"]

    def close(self) -> None:
        """End the agent and what it has started."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def path(self, path: str) -> str:
        """A path on the share."""
        return f"{self.share}/{path}"
