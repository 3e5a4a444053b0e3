"""A river of real processes for tests: made, killed, cut off, asked and looked at.

    with Cluster(scratch) as river:
        river.start_host()
        river.start_runner("n1", cores=4)
        job = river.submit("echo hi")
        assert river.ended(job).state == "completed"

Each *machine* is a state directory and a mount path of its own; several daemons may live on one. Everything that was
started is ended by its pid when the cluster is closed, keepers and tasks too, and the daemons' logs are printed
(pytest shows them for a test that failed).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from conftest import eventually
from daemons import MIB, PATIENCE_S, Daemon, Machine, end_keepers, toml

from hakuriver import client, reading
from hakuriver.errors import HakuRiverError
from hakuriver.ids import is_job_id
from hakuriver.spool import layout
from hakuriver.spool.access import Share
from hakuriver.spool.layout import Baton, NodePaths

#: Times for tests in which no lease may run out by chance, however slow the machine is.
CALM = {
    "heartbeat_interval": 0.3, "offline_after": 60.0, "lease": 120.0, "lease_margin": 60.0,
    "kill_grace": 1.0, "poll_interval": 0.1,
}  # fmt: skip
#: Times for tests that wait for a lease to run out.
SHORT = {
    "heartbeat_interval": 0.25, "offline_after": 1.5, "lease": 6.0, "lease_margin": 1.0,
    "kill_grace": 0.3, "poll_interval": 0.1,
}  # fmt: skip
#: Seconds after which the share may be used elsewhere, and some for a busy machine.
LOST_AFTER = SHORT["lease"] + SHORT["lease_margin"]


def ticking(path: Path, before: str = ":") -> str:
    """A script that notes node, attempt and CLOCK_BOOTTIME in a file every 50 ms, for ever."""
    note = f'read up _ </proc/uptime; echo "$HAKURIVER_NODE $HAKURIVER_ATTEMPT $up" >>{shlex.quote(str(path))}'
    return f"{before}; while :; do {note}; sleep 0.05; done"


def status_of(path: Path) -> os.stat_result | None:
    """stat(2); None if it has been removed since somebody listed it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def ticks(path: Path) -> list[tuple[str, int, float]]:
    """What `ticking` has noted: (node, attempt, seconds of CLOCK_BOOTTIME)."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(node, int(attempt), float(at)) for node, attempt, at in map(str.split, lines)]


class Cluster:
    """A share and the daemons on it."""

    def __init__(self, directory: Path, *, share: Path | None = None, timing: dict[str, float] = CALM,
                 **sections: dict[str, Any]) -> None:  # fmt: skip
        self.directory = directory
        self.share = share or directory / "share"
        self._sections: dict[str, dict[str, Any]] = {
            "timing": timing,
            "scheduling": {"executor": "process"},
            **sections,
        }
        self.machines: dict[str, Machine] = {}
        self.daemons: list[Daemon] = []
        self._undo: list[Callable[[], object]] = []
        self._shown: dict[Path, int] = {}
        self.work = directory / "work"  #: where tasks may write: not on the share
        self.work.mkdir()
        init_share(self.share)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, by pid: the rest also if one does not end."""
        with contextlib.ExitStack() as ends:  # the last is called first
            ends.callback(self.show_logs)
            for undo in self._undo:
                ends.callback(undo)
            for machine in self.machines.values():
                ends.callback(end_keepers, machine)
            for daemon in self.daemons:
                if daemon.process is not None:
                    ends.callback(daemon.stop)

    def undo(self, call: Callable[[], object]) -> None:
        """Have something called when the cluster is closed."""
        self._undo.append(call)

    def show_logs(self) -> None:
        """Print what the daemons have logged since the last time."""
        for daemon in self.daemons:
            text = daemon.log
            print(f"--- {daemon.log_file.name} ---\n{text[self._shown.get(daemon.log_file, 0) :][-20000:]}")
            self._shown[daemon.log_file] = len(text)

    # -- daemons

    def machine(self, name: str = "m1", mount: Path | None = None) -> Machine:
        """A machine by name, made if need be; `mount`: where it sees the share, if elsewhere."""
        if name not in self.machines:
            self.machines[name] = Machine(self.directory, name, mount or self.share)
        return self.machines[name]

    def host(self, machine: str = "m1", **sections: dict[str, Any]) -> Daemon:
        """A host on a machine, not started."""
        return self._daemon(f"host-{machine}", "host", self.machine(machine), [], sections)

    def runner(self, node: str, machine: str = "m1", cores: int = 4, **sections: dict[str, Any]) -> Daemon:
        """A runner on a machine, not started."""
        offered: dict[str, Any] = {"cores": cores, "memory": 4096 * MIB}
        return self._daemon(
            f"{node}-{machine}", "runner", self.machine(machine), ["--name", node], {"resources": offered, **sections}
        )

    def _daemon(self, name: str, role: str, machine: Machine, arguments: list[str], more: dict[str, Any]) -> Daemon:
        name = f"{len(self.daemons)}-{name}"
        config = self.directory / f"{name}.toml"
        paths = {"shared_dir": machine.mount, "state_dir": machine.state, "local_temp_dir": self.directory / "temp"}
        config.write_text(toml({"paths": paths, **self._sections, **more}))
        daemon = Daemon(role, machine, config, self.directory / f"{name}.log", arguments)
        self.daemons.append(daemon)
        return daemon

    def start_host(self, machine: str = "m1", **sections: dict[str, Any]) -> Daemon:
        """Start a host and wait until it leads."""
        before = self.baton().term
        daemon = self.host(machine, **sections).start()
        eventually(lambda: self.baton().term > before, PATIENCE_S)
        return daemon

    def start_runner(self, node: str, machine: str = "m1", cores: int = 4, **sections: dict[str, Any]) -> Daemon:
        """Start a runner and wait until the host says that it is online."""
        daemon = self.runner(node, machine, cores, **sections).start()
        self.online(node)
        return daemon

    def start_runners(self, machines: dict[str, str], cores: int = 4) -> dict[str, Daemon]:
        """Start a runner for each node, on the machine named, and wait until all are online."""
        started = {node: self.runner(node, machine, cores).start() for node, machine in machines.items()}
        for node in started:
            self.online(node)
        return started

    def online(self, node: str) -> None:
        """Wait until the host has heard a node's newest runner: the events of its beginning are acknowledged."""
        paths = NodePaths(node)

        def heard() -> bool:
            epochs = [b[0] for name in self.names(paths.root) if (b := layout.parse_runner_baton(name))]
            beats = [place[0] for name in self.names(paths.dir("heartbeat")) if (place := layout.parse_entry(name))]
            told = bool(epochs) and max(epochs) in beats and not self.names(paths.dir("events"))
            return told and self._knows(node, max(epochs))  # no events: also before the first are published

        eventually(heard, PATIENCE_S)

    def _knows(self, node: str, epoch: int) -> bool:
        """Whether the host's journal speaks of that runner."""
        for name in sorted(self.names(layout.JOURNAL), reverse=True):
            try:
                entry = json.loads(self.path(f"{layout.JOURNAL}/{name}").read_text())
            except FileNotFoundError:
                continue  # removed by a checkpoint just now
            if any(change[0] in ("node", "events") and change[1:3] == [node, epoch] for change in entry["changes"]):
                return True
            saved = ((entry.get("checkpoint") or {}).get("nodes") or {}).get(node)
            if saved:
                return bool(epoch in (saved["epoch"], saved["cursor"][0]))
        return False

    # -- what lies on the share

    def path(self, path: str) -> Path:
        """A path on the share."""
        return self.share / path

    def names(self, path: str) -> list[str]:
        """The names in a directory of the share, but of what is being written; none if it is not there."""
        try:
            return [name for name in os.listdir(self.path(path)) if name[0] != "."]
        except FileNotFoundError:
            return []

    def baton(self) -> Baton:
        """The host's baton."""
        while True:
            found = [b for name in self.names(layout.HOST) if (b := layout.parse_baton(name))]
            if found:
                return max(found)

    def beats(self, count: int) -> None:
        """Wait until the host has shown so many times that it goes round."""
        for _ in range(count):
            before = self.baton()
            eventually(lambda before=before: self.baton() != before, PATIENCE_S)  # type: ignore[misc]

    def nodes(self) -> dict[str, Any]:
        """index/nodes.json, by node."""
        index = reading.nodes_index(Share(str(self.share)))
        return {row["node"]: row for row in index["nodes"]} if index else {}

    def node(self, name: str) -> dict[str, Any]:
        """A node as the host tells it; empty if it does not."""
        found: dict[str, Any] = self.nodes().get(name, {})
        return found

    def out(self, job: str, k: int | None = None, attempt: int = 1, stream: str = "out") -> str:
        """What an attempt wrote, as it lies on the share; '' if there is no file."""
        path = layout.stdout_path if stream == "out" else layout.stderr_path
        file = self.path(path(job, k, attempt))
        return file.read_text(errors="replace") if file.exists() else ""

    def receipts(self, kind: str = "run") -> list[dict[str, Any]]:
        """All receipts of a kind, by request id."""
        names = [name for name in self.names(layout.RECEIPTS) if is_job_id(name.removesuffix(".json"))]
        found = [json.loads(self.path(f"{layout.RECEIPTS}/{name}").read_text()) for name in names]
        return [receipt for receipt in found if receipt["kind"] == kind]

    # -- what a user does

    def submit(self, script: str | Sequence[str], **fields: Any) -> str:
        """Submit a shell script, or a command; the job's id. It may be that no host has answered yet."""
        command = ["/bin/sh", "-c", script] if isinstance(script, str) else list(script)
        fields.setdefault("receipt_timeout", 0.0)
        return client.submit(command, shared_dir=str(self.share), **fields).job

    def ask(self, kind: str, *targets: str, timeout: float = PATIENCE_S, **fields: Any) -> client.Receipt:
        """Ask for something and wait for the receipt."""
        answer = client.request(kind, targets, shared_dir=str(self.share), timeout=timeout, **fields)
        assert answer.receipt is not None, f"no answer to {kind} {targets} in {timeout} s"
        return answer.receipt

    def begin(self, kind: str, *targets: str, **fields: Any) -> str:
        """Ask for something without waiting; the request's id."""
        return client.request(kind, targets, shared_dir=str(self.share), timeout=0, **fields).request

    def receipt(self, request: str, deadline_s: float = PATIENCE_S) -> client.Receipt:
        """Wait for the receipt of a request."""
        share = Share(str(self.share))
        eventually(lambda: client.read_receipt(share, request) is not None, deadline_s)
        found = client.read_receipt(share, request)
        assert found is not None
        return found

    def job(self, job: str) -> reading.Job:
        """The job as it stands on the share."""
        return reading.load(Share(str(self.share)), job)

    def task(self, name: str) -> reading.Task:
        """A task that has been dispatched."""
        return next(task for task in self.job(name[:20]).tasks if task.task == name)

    def until(self, job: str, what: Callable[[reading.Job], object], deadline_s: float = PATIENCE_S) -> reading.Job:
        """Wait until a job is so."""
        last: list[Any] = [None]

        def holds() -> bool:
            try:
                last[0] = self.job(job)
            except HakuRiverError as error:  # a share that is away, or a job not listed yet
                last[0] = error
                return False
            return bool(what(last[0]))

        try:
            eventually(holds, deadline_s, every_s=0.05)
        except AssertionError:
            raise AssertionError(f"not within {deadline_s} s: {last[0]}") from None
        found: reading.Job = last[0]
        return found

    def ended(self, job: str, deadline_s: float = PATIENCE_S) -> reading.Job:
        """Wait until a job is over."""
        return self.until(job, lambda found: found.over, deadline_s)

    def all_ended(self, jobs: Iterable[str], deadline_s: float = PATIENCE_S) -> dict[str, reading.Job]:
        """Wait until all these are over."""
        end = time.monotonic() + deadline_s
        return {job: self.ended(job, max(end - time.monotonic(), 0.1)) for job in jobs}

    def in_state(self, job: str, state: str, deadline_s: float = PATIENCE_S) -> reading.Job:
        """Wait until all tasks of a job are in a state."""
        return self.until(job, lambda found: found.counts.get(state) == found.total, deadline_s)


def init_share(root: Path) -> None:
    """What `hakuriver init share` does."""
    for directory in layout.TREE:
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / Baton(0, "none", 0, 0).path).touch()
    river = {"format": 1, "cluster": "test", "cluster_id": "0123456789ab", "created_at": time.time()}
    (root / layout.SENTINEL).write_text(json.dumps(river))
