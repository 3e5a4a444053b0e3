"""Does on a machine what the tests ask: JSON lines in, JSON lines out, each request on a thread of its own.

A request is {"id": N, "do": NAME, "with": {...}}, its answer {"id": N, "is": RESULT} or {"id": N, "error": TEXT}. What
touches the share may hang as long as the mount does: only that request waits. When stdin ends, whatever was started
here is killed. Started as `python agent.py SHARE`, where SHARE is the river's root as this machine sees it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from processes import processes


class Agent:
    """One machine."""

    def __init__(self, share: str) -> None:
        self.share = share
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Answer until stdin ends, then end what was started."""
        for line in sys.stdin:
            threading.Thread(target=self._answer, args=(json.loads(line),), daemon=True).start()
        for child in self._children.values():
            child.kill()
        os._exit(0)  # a thread may hang on the share

    def _answer(self, request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["is"] = getattr(self, request["do"])(**request["with"])
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        with self._writing:
            print(json.dumps(answer), flush=True)

    # -- processes

    def start(self, argv: list[str], log: str, env: dict[str, str]) -> int:
        """Start a process in a session of its own; its pid."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HAKURIVER_", "PYTEST_"))}
        with open(log, "ab") as file:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd="/",
                env={**inherited, **env},
            )  # fmt: skip
        self._children[child.pid] = child
        return child.pid

    def signal(self, pid: int, number: int) -> None:
        """Send a signal; the process may be gone."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it was quicker

    def status(self, pid: int) -> int | None:
        """Exit status of a process started here; None: it runs."""
        return self._children[pid].poll()

    def processes(self, words: list[str]) -> list[int]:
        """Living processes whose command line holds all these words."""
        return processes(*words)

    def cpu_s(self, pid: int) -> float:
        """CPU time that a process has used, seconds."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def shell(self, script: str, timeout: float = 60.0) -> list[Any]:
        """Run a shell script; its exit status, stdout and stderr."""
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=timeout, check=False, cwd="/")
        return [done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]

    def cli(self, argv: list[str], timeout: float = 60.0) -> list[Any]:
        """Run the hakuriver command; its exit status, stdout and stderr."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAKURIVER_")}
        done = subprocess.run(
            [sys.executable, "-m", "hakuriver", *argv], capture_output=True, timeout=timeout, check=False, cwd="/",
            env={**env, "HAKURIVER_SHARED_DIR": self.share}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return [done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]

    # -- clocks

    def boottime(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Seconds since 1970, by this machine's clock."""
        return time.time()

    # -- files of this machine or of the share, by absolute path

    def names(self, path: str) -> list[str]:
        """A directory's names; none if it is not there."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def read(self, path: str) -> str | None:
        """A file's text, after a listing of its directory; None if it is not there."""
        if os.path.basename(path) not in self.names(os.path.dirname(path)):
            return None
        try:
            return Path(path).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def write(self, path: str, text: str) -> None:
        """Write a file in place, making its directory."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)

    # -- what clients do

    def submit(self, command: list[str], fields: dict[str, Any]) -> str:
        """Submit a job; its id. No receipt is waited for."""
        from hakuriver import client

        return client.submit(command, shared_dir=self.share, receipt_timeout=0.0, **fields).job

    def request(self, kind: str, targets: list[str], fields: dict[str, Any]) -> str:
        """Ask for something else; the request's id."""
        from hakuriver import client

        return client.request(kind, targets, shared_dir=self.share, timeout=0.0, **fields).request

    def receipt(self, request: str) -> dict[str, Any] | None:
        """A receipt's document, if it can be seen."""
        from hakuriver import client
        from hakuriver.spool.access import Share

        found = client.read_receipt(Share(self.share), request)
        return found.raw if found else None

    def job(self, job: str) -> dict[str, Any]:
        """A job as it stands."""
        from hakuriver import reading
        from hakuriver.spool.access import Share

        found = reading.load(Share(self.share), job)
        return {**found._asdict(), "receipt": None, "tasks": [task._asdict() for task in found.tasks]}

    def nodes(self) -> dict[str, Any] | None:
        """index/nodes.json."""
        from hakuriver import reading
        from hakuriver.spool.access import Share

        return reading.nodes_index(Share(self.share))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted closes stdin
    Agent(sys.argv[1]).serve()
