"""A river over a lab's machines: daemons on a, b, c; clients and a standby host on d. Everything goes through agents.

What tasks do is noted on their node's own disk with CLOCK_BOOTTIME, and put on one scale here: so that it can be told
whether two attempts ever ran at once, on whatever machines and with whatever clocks.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from conftest import eventually
from lab.base import Lab
from lab.machine import Hung, Machine, MachineError

from hakuriver.reading import Attempt, Job, Task
from hakuriver.spool import layout
from hakuriver.spool.layout import Baton, NodePaths

#: The river lies below the mount's root: an unmounted share is an empty directory, and so is this then not there.
RIVER = "river"
#: Where nodes run, and where clients are.
NODES = {"n1": "b", "n2": "c"}
HOST, CLIENT, STANDBY = "a", "d", "d"

#: Seconds of the river's clocks on a local disk, and on a network filesystem, where a round may take a second.
LOCAL_TIMING = {
    "heartbeat_interval": 0.3, "offline_after": 1.8, "lease": 10.0, "lease_margin": 1.0, "kill_grace": 0.5,
    "poll_interval": 0.1,
}  # fmt: skip
NETWORK_TIMING = {
    "heartbeat_interval": 2.0, "offline_after": 8.0, "lease": 20.0, "lease_margin": 6.0, "kill_grace": 2.0,
    "poll_interval": 1.0,
}  # fmt: skip


class Run(NamedTuple):
    """What one attempt has noted of itself: first and last sign, in seconds of this machine's CLOCK_BOOTTIME."""

    task: str
    attempt: int
    node: str
    began: float
    last: float
    ended: bool


class Daemon:
    """A host or a runner on a machine: at most one process at a time."""

    def __init__(self, machine: Machine, role: str, config: str, log: str, arguments: list[str]) -> None:
        self.machine, self.role, self.config, self._log = machine, role, config, log
        self.argv = [sys.executable, "-m", "hakuriver", role, *arguments]
        self.pid: int | None = None

    def start(self) -> Daemon:
        """Start a process; it does not wait until it works."""
        self.pid = self.machine.do("start", argv=self.argv, log=self._log, env={"HAKURIVER_CONFIG": self.config})
        return self

    def send(self, number: int) -> None:
        """A signal."""
        self.machine.do("signal", pid=self.pid, number=number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)
        self.wait(60.0)

    def stop_if_running(self) -> None:
        """The same as `stop`, of one that may not be up."""
        if self.running:
            self.stop()

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        self.wait(60.0)

    def wait(self, seconds: float) -> None:
        """Until it has ended."""
        eventually(lambda: not self.running, seconds, f"the end of {self}")

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.pid is not None and self.machine.do("status", pid=self.pid) is None

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.machine.do("read", path=self._log) or ""

    def __repr__(self) -> str:
        return f"{self.role} on {self.machine.name}"


class River:
    """A share and the daemons on it."""

    def __init__(self, lab: Lab, timing: dict[str, float]) -> None:
        self.lab = lab
        self.timing = timing
        self.machines = {name: Machine(lab, name, f"{lab.root(name)}/{RIVER}") for name in ("a", "b", "c", "d")}
        self.client = self.machines[CLIENT]
        self.submitted: list[str] = []
        self._put_up()
        self.host = self._daemon(HOST, "host")
        self.standby = self._daemon(STANDBY, "host")
        self.third = self._daemon(NODES["n2"], "host")
        self.runners = {node: self._daemon(machine, "runner", node) for node, machine in NODES.items()}

    def _put_up(self) -> None:
        status, _, said = self.client.do(
            "cli", argv=["init", "share", "--shared-dir", self.client.share, "--name", "lab"]
        )
        assert status == 0, said
        for machine in self.machines.values():
            eventually(partial(self._sees, machine), 60, "river.json is seen")

    def _daemon(self, machine_name: str, role: str, node: str = "") -> Daemon:
        machine = self.machines[machine_name]
        config = f"{machine.state}/{role}.toml"
        temp = f"{machine.state}/temp"
        machine.do("write", path=config, text=_toml({
            "paths": {"shared_dir": machine.share, "state_dir": f"{machine.state}/state", "local_temp_dir": temp},
            "timing": self.timing,
            "scheduling": {"executor": "process"},
            **({"resources": {"cores": 4, "memory": 4 << 30}} if node else {}),
        }))  # fmt: skip
        arguments = ["--name", node] if node else []
        return Daemon(machine, role, config, f"{machine.state}/{role}.log", arguments)

    def start(self) -> None:
        """Start the host and both runners, and wait until both are online."""
        self.host.start()
        for runner in self.runners.values():
            runner.start()
        self.online(*self.runners)

    def close(self) -> None:
        """End every daemon, keeper and task."""
        for daemon in self.daemons:
            if daemon.pid is not None:
                try:
                    daemon.send(signal.SIGCONT)
                    daemon.send(signal.SIGKILL)
                except MachineError:
                    continue  # the machine is down
        for machine in self.machines.values():
            try:
                for pid in machine.do("processes", words=["hakuriver.keeper", machine.state]):
                    machine.do("signal", pid=pid, number=signal.SIGKILL)
            except MachineError:
                pass  # the machine is down
            machine.close()

    @property
    def daemons(self) -> list[Daemon]:
        """All that there are."""
        return [self.host, self.standby, self.third, *self.runners.values()]

    def all_work(self, deadline_s: float = 180.0) -> None:
        """Wait until every machine can read and write the share: clients and servers take their time after a fault."""
        for machine in self.machines.values():
            eventually(partial(self._works, machine), deadline_s, f"{machine.name} can use the share", 0.5)

    def _sees(self, machine: Machine) -> bool:
        try:
            return "river.json" in machine.do("names", path=machine.share, patience=30.0)
        except MachineError:
            return False

    def _works(self, machine: Machine) -> bool:
        probe = f"{machine.share}/shared_data/probe-{machine.name}"
        try:
            status, _, _ = machine.do("shell", script=f"echo x >{probe} && rm {probe}", patience=60.0)
        except MachineError:
            return False
        return bool(status == 0 and self._sees(machine))

    def heal(self) -> None:
        """Have every daemon up, the host alone leading, and nothing left to do."""
        self.all_work()
        for other in (self.standby, self.third):
            other.stop_if_running()
        if not self.host.running:
            since = len(self.host.log)
            self.host.start()
            eventually(lambda: self._seen_leading(self.host.log[since:]), 120, "the host leads, and clients see it")
        for runner in self.runners.values():
            if not runner.running:
                runner.start()
        self.online(*self.runners)
        for job in self.submitted:
            if not self.job(job).over:
                self.ask("kill", job)
                self.ended(job)
        self.submitted.clear()

    def _seen_leading(self, log: str) -> bool:
        terms = re.findall(r"leading, term (\d+)", log)
        return bool(terms) and self.baton().term >= int(terms[-1])

    def mark_logs(self) -> dict[str, int]:
        """How long every daemon's log is now."""
        return {repr(daemon): len(daemon.log) for daemon in self.daemons}

    def logs(self, since: dict[str, int] | None = None) -> str:
        """What all of them have logged, from a mark on."""
        parts = []
        for daemon in self.daemons:
            try:
                said = daemon.log[(since or {}).get(repr(daemon), 0) :][-6000:]
            except MachineError as error:
                said = str(error)
            parts.append(f"--- {daemon} ---\n{said}")
        return "\n".join(parts)

    # -- looking, as a client

    def names(self, path: str) -> list[str]:
        """Names in a directory of the share."""
        found: list[str] = self.client.do("names", path=self.client.path(path))
        return found

    def baton(self) -> Baton:
        """The host's baton."""
        while True:
            found = [b for name in self.names(layout.HOST) if (b := layout.parse_baton(name))]
            if found:
                return max(found)

    def node(self, name: str) -> dict[str, Any]:
        """A node as the host tells it; empty if it does not."""
        index = self.client.do("nodes")
        rows = {row["node"]: row for row in index["nodes"]} if index else {}
        found: dict[str, Any] = rows.get(name, {})
        return found

    def online(self, *nodes: str, deadline_s: float = 120.0) -> None:
        """Wait until the host tells that the newest runner of each is online."""
        for node in nodes:
            eventually(partial(self._is_online, node), deadline_s, f"{node} online", 0.3)

    def _is_online(self, node: str) -> bool:
        epochs = [b[0] for name in self.names(NodePaths(node).root) if (b := layout.parse_runner_baton(name))]
        row = self.node(node)
        return bool(epochs and row) and row["state"] == "online" and row["epoch"] == max(epochs)

    def beats(self, count: int) -> None:
        """Wait until the host has shown so many times that it goes round."""
        for _ in range(count):
            eventually(partial(self._moved_from, self.baton()), 90, "another beat of the host", 0.2)

    def _moved_from(self, before: Baton) -> bool:
        return self.baton() != before

    # -- asking, as a client

    def submit(self, script: str, **fields: Any) -> str:
        """Submit a shell script; the job's id, which is remembered for `check`."""
        fields = {"workdir": "/", "env": self.lab.environment, **fields}
        job: str = self.client.do("submit", command=["/bin/sh", "-c", script], fields=fields)
        self.submitted.append(job)
        return job

    def submit_argv(self, script: str) -> list[str]:
        """The same as a command line, after `hakuriver`."""
        settings = [part for name, value in self.lab.environment.items() for part in ("--env", f"{name}={value}")]
        return ["submit", "--no-receipt", "--workdir", "/", *settings, "--", "/bin/sh", "-c", script]

    def ask(self, kind: str, *targets: str, **fields: Any) -> str:
        """Ask for something without waiting; the request's id."""
        request: str = self.client.do("request", kind=kind, targets=list(targets), fields=fields)
        return request

    def receipt(self, request: str, deadline_s: float = 90.0) -> dict[str, Any]:
        """Wait for a receipt."""
        found: list[Any] = []

        def there() -> bool:
            found[:] = [self.client.do("receipt", request=request)]
            return found[0] is not None

        eventually(there, deadline_s, f"the receipt of {request}", 0.2)
        receipt: dict[str, Any] = found[0]
        return receipt

    def job(self, job: str) -> Job:
        """The job as it stands."""
        raw = self.client.do("job", job=job)
        tasks = [Task(**{**task, "earlier": [Attempt._make(a) for a in task["earlier"]]}) for task in raw["tasks"]]
        return Job(**{**raw, "tasks": tasks})

    def until(self, job: str, what: Callable[[Job], object], deadline_s: float = 90.0) -> Job:
        """Wait until a job is so."""
        last: list[Any] = [None]

        def holds() -> bool:
            try:
                last[0] = self.job(job)
            except Hung:
                raise
            except MachineError as error:  # a share that is away
                last[0] = error
                return False
            return bool(what(last[0]))

        try:
            eventually(holds, deadline_s, "", 0.2)
        except AssertionError:
            raise AssertionError(f"not within {deadline_s} s: {last[0]}") from None
        found: Job = last[0]
        return found

    def ended(self, job: str, deadline_s: float = 90.0) -> Job:
        """Wait until a job is over."""
        return self.until(job, lambda found: found.over, deadline_s)

    def in_state(self, job: str, state: str, deadline_s: float = 90.0) -> Job:
        """Wait until all tasks of a job are in a state."""
        return self.until(job, lambda found: found.counts.get(state) == found.total, deadline_s)

    def out(self, job: str, k: int | None = None, attempt: int = 1) -> str:
        """What an attempt wrote, as the client sees it; '' if there is no file."""
        return self.client.do("read", path=self.client.path(layout.stdout_path(job, k, attempt))) or ""

    # -- what has really happened

    def runs(self) -> list[Run]:
        """Every attempt that has noted anything, on whatever machine."""
        found = []
        for name in NODES.values():
            machine = self.machines[name]
            directory = f"{machine.state}/temp/runs"
            texts = {
                file: machine.do("read", path=f"{directory}/{file}") for file in machine.do("names", path=directory)
            }
            found += [_run(machine, file, text) for file, text in texts.items() if text]
        return found

    def runs_of(self, job: str) -> list[Run]:
        """Those of one job, in order of their attempts."""
        return sorted(run for run in self.runs() if run.task[:20] == job)

    def check(self, jobs: list[str] | None = None) -> None:
        """Of jobs that are over: every task ran once, or again only after the attempt before; each has one ending."""
        runs: dict[str, list[Run]] = {}
        for run in self.runs():
            runs.setdefault(run.task, []).append(run)
        for job in self.submitted if jobs is None else jobs:
            found = self.job(job)
            if found.over:
                for task in found.tasks:
                    check_task(task, sorted(runs.get(task.task, ()), key=lambda run: run.attempt))


def check_task(task: Task, runs: list[Run]) -> None:
    """What must hold of a task that is over."""
    told = {attempt.attempt for attempt in task.earlier} | {task.attempt}
    numbers = [run.attempt for run in runs]
    assert numbers == sorted(set(numbers)), f"an attempt ran twice: {task} {runs}"
    assert {run.attempt for run in runs} <= told, f"an attempt that nobody told of: {task} {runs}"
    for earlier, later in itertools.pairwise(runs):
        assert earlier.last < later.began, f"two attempts at once: {task} {runs}"
    if task.state == "completed":
        assert runs, f"completed, and never ran: {task}"
        assert runs[-1].attempt == task.attempt, f"it is not the last attempt that completed: {task} {runs}"
        assert runs[-1].ended, f"completed, and did not come to its end: {task} {runs}"


def _run(machine: Machine, file: str, text: str) -> Run:
    task, _, attempt = file.rpartition(".")
    lines = [line.split() for line in text.splitlines()]
    stamps = [float(line[1]) + machine.offset_s for line in lines]
    return Run(task, int(attempt), lines[0][0], stamps[0], stamps[-1], lines[-1][2:] == ["end"])


# -- scripts of tasks: each notes that it runs, on its node's own disk

_NOTE = """
runs=$HAKURIVER_LOCAL_TEMP_DIR/runs; mkdir -p $runs
note() { read up _ </proc/uptime; echo "$HAKURIVER_NODE $up $1" >>$runs/$HAKURIVER_TASK_ID.$HAKURIVER_ATTEMPT; }
note began
"""


def noted(script: str) -> str:
    """A script that notes its beginning and its end."""
    return f"{_NOTE}(\n{script}\n)\nstatus=$?\nnote end\nexit $status"


def ticking(before: str = ":") -> str:
    """Notes that it runs ten times a second, until it is killed."""
    return f"{_NOTE}{before}\nwhile :; do note; sleep 0.1; done"


def counting() -> str:
    """Prints 0, 1, 2 ... five times a second until its node's `finish-<task>` is there; then `end`."""
    return noted("""
n=0; while [ ! -e $HAKURIVER_LOCAL_TEMP_DIR/finish-$HAKURIVER_JOB_ID ]; do echo $n; n=$((n + 1)); note; sleep 0.2; done
echo end; (exit 7)""")


def finish(river: River, job: str) -> None:
    """Let `counting` tasks of a job come to their end, wherever they run."""
    for name in NODES.values():
        machine = river.machines[name]
        machine.do("write", path=f"{machine.state}/temp/finish-{job}", text="")


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
