"""The units of host and runner under a real systemd, as a user of their own, on a share that comes and goes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SCRATCH, eventually
from lab.base import LabError
from lab.systemd import PROJECT, Container, Machine, Virtual

from hakuriver.cli.unit_files import Unit

HOST, RUNNER = "hakuriver-host.service", "hakuriver-runner.service"
#: Processes start slowly in a virtual machine, and more so on a busy one.
LONG_S = 120.0
HOME, SHARE, UNITS = "/home/river", "/mnt/river", "/etc/systemd/system"
#: Where what is at SHARE lies: mounting fails without it.
SERVER = "/mnt/server"
MOUNT = f"[Mount]\nWhat={SERVER}/store\nWhere={SHARE}\nType=none\nOptions=bind\n"
CONFIGURATION = f"""\
[paths]
shared_dir = "{SHARE}"
state_dir = "{HOME}/state"
[node]
name = "n1"
[resources]
cores = 4
memory = "2G"
[timing]
kill_grace = 2
"""
#: Shorter than what the units say, so that tests need not wait for minutes.
QUICK = "[Service]\nRestartSec=1\n"
#: But longer than a busy machine needs to start a daemon: with 15 processes for 2 cores, 4.6 s were seen.
WATCHDOG_S, START_S = 10, 20
IMPATIENT = f"[Service]\nWatchdogSec={WATCHDOG_S}\nTimeoutStartSec={START_S}\n"
#: A task that ends well when it is told to, and shows that nothing interrupted it.
PATIENT = "echo pid $$; i=0; while [ ! -e /home/river/go ]; do i=$((i+1)); sleep 0.2; done; echo end"


class Site:
    """A machine with a share below a mount unit, and the services of a river installed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.source = [f"PYTHONPATH={PROJECT}"] if os.environ.get("PYTHONPATH") else []
        self.shell(f"mount -t tmpfs -o mode=755 units {UNITS}; mount -t tmpfs -o mode=755 opt /opt")
        self.shell(f"mkdir -p {SERVER}/store {SHARE}; chown river:river {SERVER}/store")
        self.write(f"{UNITS}/mnt-river.mount", MOUNT)
        self.write(f"{HOME}/.hakuriver/config.toml", CONFIGURATION)
        self.shell(f"systemctl daemon-reload; systemctl start mnt-river.mount; chown -R river:river {HOME}")
        self.river("init", "share", "--shared-dir", SHARE)
        self.root("init", "service", "--all", "--install", "--output-dir", f"{HOME}/units")
        for unit in (HOST, RUNNER, "hakuriver-runner@.service"):
            self.drop_in(unit, "lab", QUICK + "".join(f"Environment={setting}\n" for setting in self.source))

    def drop_in(self, unit: str, name: str, text: str) -> None:
        """Change a unit as `systemctl edit` does."""
        self.write(f"/run/systemd/system/{unit}.d/{name}.conf", text)
        self.shell("systemctl daemon-reload")

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Watchdogs and starts have little time."""
        for unit in (HOST, RUNNER):
            self.drop_in(unit, "impatient", IMPATIENT)
        try:
            self.systemctl("restart", HOST, RUNNER)
            yield
        finally:
            self.shell("rm /run/systemd/system/*.d/impatient.conf")
            self.systemctl("daemon-reload")
            self.systemctl("restart", HOST, RUNNER)

    def write(self, path: str, text: str) -> None:
        self.shell(f"mkdir -p {shlex.quote(os.path.dirname(path))}; printf %s {shlex.quote(text)} >{shlex.quote(path)}")

    def shell(self, script: str) -> str:
        return self.machine.run("bash", "-ec", script, timeout=LONG_S)

    def root(self, *arguments: str) -> str:
        """The command line, as the user river by sudo."""
        called = ["env", "SUDO_USER=river", *self.source, sys.executable, "-m", "hakuriver"]
        return self.machine.run(*called, *arguments, timeout=LONG_S)

    def river(self, *arguments: str) -> str:
        """The command line, as the user river."""
        called = [
            "runuser",
            "-u",
            "river",
            "--",
            "env",
            f"HOME={HOME}",
            *self.source,
            sys.executable,
            "-m",
            "hakuriver",
        ]
        return self.machine.run(*called, *arguments, timeout=LONG_S)

    def systemctl(self, *arguments: str) -> str:
        return self.machine.run("systemctl", *arguments, timeout=LONG_S)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", unit, "-P", name).strip()

    def waits(self, unit: str, why: str) -> bool:
        """Whether a unit is on its way up and says why it is not further, both at the same moment."""
        told = self.systemctl("show", unit, "-p", "ActiveState", "-p", "StatusText")
        return "ActiveState=activating" in told and why in told

    def active(self, unit: str) -> bool:
        return self.show(unit, "ActiveState") == "active"

    def begin(self) -> None:
        """Everything is there and runs."""
        self.shell(f"[ ! -f {SERVER} ] || {{ rm {SERVER}; mv {SERVER}.away {SERVER}; }}; rm -f {HOME}/go")
        self.systemctl("start", "mnt-river.mount")
        self.systemctl("start", HOST, RUNNER)

    def take_server_away(self) -> None:
        self.shell(f"mv {SERVER} {SERVER}.away; touch {SERVER}")

    def submit(self, script: str, *options: str) -> str:
        return self.river("submit", "-q", "--executor", "process", *options, "--", "sh", "-c", script).strip()

    def waiting_task(self) -> tuple[str, str]:
        """Start a task that waits to be released: its job, and its pid there."""
        job = self.submit(PATIENT)
        eventually(lambda: self.output(job).endswith("\n"), LONG_S)
        return job, self.output(job).split()[1]

    def finishes(self, job: str, pid: str) -> None:
        """Release such a task: it is the one that was started, and ends well."""
        self.shell(f"kill -0 {pid}; touch {HOME}/go")
        self.river("task", "wait", job)
        assert self.output(job) == f"pid {pid}\nend\n"

    def nodes(self) -> set[str]:
        return {row["node"] for row in json.loads(self.river("node", "list", "--json"))["nodes"]}

    def output(self, job: str) -> str:
        return self.shell(f"cat {SHARE}/task_outputs/{job}.out 2>/dev/null || true")

    def verify(self, *units: str) -> None:
        """systemd has nothing to say against them."""
        done = subprocess.run(
            self.machine.command(["systemd-analyze", "verify", *units]), capture_output=True, text=True, timeout=LONG_S
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture(scope="module")
def machines() -> Iterator[Site]:
    directory = SCRATCH / f"units-{os.getpid()}"
    with Container("units", directory) as machine:
        yield Site(machine)
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.fixture
def site(machines: Site) -> Site:
    machines.begin()
    return machines


def test_services_start_and_tell_how_they_are(site: Site) -> None:
    site.verify(HOST, RUNNER)
    site.systemctl("restart", HOST, RUNNER)
    # It returns when they are up.
    for unit, doing in ((HOST, "leading, term "), (RUNNER, "node n1 is up, epoch ")):
        assert site.active(unit)
        assert doing in site.show(unit, "StatusText")
        assert f'Status: "{doing}' in site.systemctl("status", "--no-pager", unit)
        assert site.shell(f"ps -o user= -p {site.show(unit, 'MainPID')}").strip() == "river"
    assert site.show(HOST, "Group") == "river"


def test_tasks_outlive_restarts_stops_and_kills(site: Site) -> None:
    job, pid = site.waiting_task()
    site.systemctl("restart", RUNNER)
    site.systemctl("restart", HOST, RUNNER)
    restarts = [int(site.show(unit, "NRestarts")) for unit in (HOST, RUNNER)]
    for unit in (HOST, RUNNER):
        site.shell(f"kill -9 {site.show(unit, 'MainPID')}")
    for unit, before in zip((HOST, RUNNER), restarts, strict=True):
        eventually(lambda u=unit, b=before: site.active(u) and int(site.show(u, "NRestarts")) > b, LONG_S)  # type: ignore[misc]
    site.systemctl("stop", RUNNER)
    site.shell(f"kill -0 {pid}")
    site.systemctl("start", RUNNER)
    site.finishes(job, pid)


def test_nobody_else_speaks_for_a_service(site: Site) -> None:
    job = site.submit("env")
    site.river("task", "wait", job)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & {x.split("=")[0] for x in site.output(job).split()}


def test_stopping_goes_in_order(site: Site) -> None:
    # In one go, as when the machine goes down; `systemctl stop A B` stops one and then the other.
    site.write("/run/systemd/system/river.target", "[Unit]\n")
    for unit in (HOST, RUNNER):
        site.drop_in(unit, "target", "[Unit]\nPartOf=river.target\n")
    site.systemctl("start", "river.target")
    asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    site.systemctl("stop", "river.target")
    for unit in (HOST, RUNNER):
        eventually(lambda u=unit: site.show(u, "ActiveState") == "inactive", LONG_S)  # type: ignore[misc]
        found = [site.show(unit, name) for name in ("ActiveState", "SubState", "Result", "ExecMainStatus")]
        assert found == ["inactive", "dead", "success", "0"]
    # In microseconds: the runner has ended before the host is told to.
    ended = int(site.show(RUNNER, "InactiveEnterTimestampMonotonic"))
    told = int(site.show(HOST, "ActiveExitTimestampMonotonic"))
    assert asked < ended <= told
    assert {"mnt-river.mount", "network-online.target"} <= set(site.show(HOST, "After").split())
    assert "mnt-river.mount" in site.show(RUNNER, "After").split()


@pytest.fixture
def impatient(site: Site) -> Iterator[Site]:
    with site.impatient():
        yield site
        site.begin()


def test_a_loop_that_does_not_turn_is_begun_anew(impatient: Site) -> None:
    job, pid = impatient.waiting_task()
    mains = {unit: impatient.show(unit, "MainPID") for unit in (HOST, RUNNER)}
    impatient.shell(f"kill -STOP {' '.join(mains.values())}")
    for unit, main in mains.items():
        eventually(lambda u=unit, m=main: impatient.active(u) and impatient.show(u, "MainPID") != m, LONG_S)  # type: ignore[misc]
    impatient.finishes(job, pid)


def test_a_share_that_goes_and_comes(impatient: Site) -> None:
    site = impatient
    job, pid = site.waiting_task()
    before = {unit: site.show(unit, "MainPID") for unit in (HOST, RUNNER)}
    site.take_server_away()
    site.shell(f"umount -l {SHARE}")
    for unit in (HOST, RUNNER):
        eventually(lambda u=unit: "holds no river.json" in site.show(u, "StatusText"), LONG_S)  # type: ignore[misc]
    # The watchdogs starve; what starts instead waits.
    eventually(lambda: site.show(HOST, "MainPID") not in (before[HOST], "0"), LONG_S)
    eventually(lambda: site.waits(HOST, "holds no river.json"), LONG_S)
    # Longer than a start may take, so that it is begun anew; and each time systemd tries to mount the share.
    restarts = int(site.show(HOST, "NRestarts"))
    eventually(lambda: int(site.show(HOST, "NRestarts")) > restarts, LONG_S)
    eventually(lambda: site.show("mnt-river.mount", "ActiveState") == "failed", LONG_S)
    site.shell(f"kill -0 {pid}; rm {SERVER}; mv {SERVER}.away {SERVER}")
    eventually(lambda: all(site.active(unit) for unit in before), LONG_S)
    assert site.active("mnt-river.mount")
    site.finishes(job, pid)


@contextmanager
def small_share(site: Site) -> Iterator[None]:
    """With a share of 8 MB in place of the other."""
    site.systemctl("stop", HOST, RUNNER, "mnt-river.mount")
    small = f"mount -t tmpfs -o size=8M,uid=1500,gid=1500 small {SERVER}/store"
    site.shell(f"{small}; systemctl start mnt-river.mount")
    site.river("init", "share", "--shared-dir", SHARE)
    try:
        yield
    finally:
        site.systemctl("stop", HOST, RUNNER, "mnt-river.mount")
        site.shell(f"umount {SERVER}/store")
        site.begin()


def test_a_share_that_is_full_is_no_reason_to_begin_anew(site: Site) -> None:
    with small_share(site), site.impatient():
        before = {unit: site.show(unit, "MainPID") for unit in (HOST, RUNNER)}
        site.shell(f"dd if=/dev/zero of={SHARE}/fill bs=1M 2>/dev/null || true")
        for unit in before:
            eventually(lambda u=unit: "file system is full" in site.show(u, "StatusText"), LONG_S)  # type: ignore[misc]
        fed = {unit: int(site.show(unit, "WatchdogTimestampMonotonic")) for unit in before}
        longer = 2 * WATCHDOG_S * 1_000_000
        for unit in before:  # than a watchdog waits
            eventually(lambda u=unit: int(site.show(u, "WatchdogTimestampMonotonic")) > fed[u] + longer, LONG_S)  # type: ignore[misc]
        assert before == {unit: site.show(unit, "MainPID") for unit in before}
        for unit in before:  # still, or again: to clear old files away makes room for some that are new
            eventually(lambda u=unit: "file system is full" in site.show(u, "StatusText"), LONG_S)  # type: ignore[misc]
        site.shell(f"rm {SHARE}/fill")
        for unit in before:
            eventually(lambda u=unit: "full" not in site.show(u, "StatusText"), LONG_S)  # type: ignore[misc]


def test_a_share_that_is_not_there_at_the_start(site: Site) -> None:
    site.systemctl("stop", HOST, RUNNER, "mnt-river.mount")
    site.take_server_away()
    site.systemctl("start", "--no-block", HOST, RUNNER)
    eventually(lambda: site.waits(HOST, "holds no river.json"), LONG_S)
    eventually(lambda: site.show("mnt-river.mount", "ActiveState") == "failed", LONG_S)
    site.shell(f"rm {SERVER}; mv {SERVER}.away {SERVER}")
    site.systemctl("start", "mnt-river.mount")
    eventually(lambda: site.active(HOST) and site.active(RUNNER), LONG_S)


def test_memory_is_a_tasks_own(site: Site) -> None:
    main = site.show(RUNNER, "MainPID")
    job = site.submit("exec tail /dev/zero", "--memory", "60M")
    with pytest.raises(LabError, match="killed_oom"):
        site.river("task", "wait", job)
    assert (site.active(RUNNER), site.show(RUNNER, "MainPID")) == (True, main)


def test_two_more_runners_by_the_template(site: Site) -> None:
    text = (PROJECT / "contrib/systemd/hakuriver-runner@.service").read_text()
    for old, new in (
        ("/opt/hakuriver/bin/python", sys.executable), ("/opt/hakuriver/bin", str(Path(sys.executable).parent)),
        ("=hakuriver\n", "=river\n"), ("/etc/hakuriver", f"{HOME}/runners"), ("/var/lib/hakuriver", f"{HOME}/state"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    site.write(f"{UNITS}/hakuriver-runner@.service", text)
    names = ("n-2", "n3")
    for name in names:
        configuration = CONFIGURATION.replace("cores = 4", "cores = 1")
        site.write(f"{HOME}/runners/{name}.toml", configuration)
    units = [f"hakuriver-runner@{name}.service" for name in names]
    site.systemctl("daemon-reload")
    site.verify(*units)
    site.systemctl("start", *units)
    eventually(lambda: {"n1", *names} <= site.nodes(), LONG_S)
    for name in names:
        assert f"node {name} is up" in site.show(f"hakuriver-runner@{name}.service", "StatusText")
        job = site.submit("echo $HAKURIVER_NODE", "--target", name)
        site.river("task", "wait", job)
    site.systemctl("stop", *units)
    assert all(site.show(unit, "Result") == "success" for unit in units)


def test_files_of_contrib(site: Site) -> None:
    site.shell(f"mkdir -p /opt/hakuriver/bin; ln -sf {sys.executable} /opt/hakuriver/bin/python")
    place = PROJECT / "contrib" / "systemd"
    site.verify(*(str(place / name) for name in (HOST, RUNNER)), str(place / "hakuriver-runner@.service"))
    assert "parsed OK" in site.shell(f"visudo -cf {place}/hakuriver.sudoers")


def test_who_may_not_install_is_told(site: Site) -> None:
    with pytest.raises(LabError, match="sudo refused it"):
        site.river("init", "service", "--host", "--install", "--output-dir", f"{HOME}/mine")
    assert site.shell(f"ls {HOME}/mine").split() == [HOST]


@pytest.mark.parametrize("name", ["a b", "per%cent%n", "dol$lar ${HOME}", "#hash;x", "日本"])
def test_strange_paths_reach_the_program(site: Site, name: str) -> None:
    place = f"/opt/{name}"
    program = f"{place}/python"
    site.write(program, f"#!{sys.executable}\nimport json, os, sys\n"
               "print(json.dumps([sys.argv, os.getcwd(), os.environ['PATH']]))\n")  # fmt: skip
    site.shell(f"chmod 755 {shlex.quote(program)}; mkdir -p {shlex.quote(place)}/state")
    unit = Unit("runner", "river", "river", program, f"{place}/c\"\\t'.toml", f"{place}/share", f"{place}/state", "odd")
    text = (
        unit.text().replace("Type=notify", f"Type=oneshot\nStandardOutput=file:{HOME}/told").replace("on-failure", "no")
    )
    site.write(f"{UNITS}/{unit.file}", text)
    site.verify(unit.file)
    site.shell(f"systemctl daemon-reload; systemctl start {unit.file}")
    argv, directory, path = json.loads(site.shell(f"cat {HOME}/told; rm {HOME}/told"))
    assert argv == [program, "-m", "hakuriver", "runner", "--config", unit.config, "--name", "odd"]
    assert (directory, path.split(":")[0]) == (f"{place}/state", place)
    shown = shlex.split(site.show(unit.file, "RequiresMountsFor"))
    assert [path.replace("\\$", "$") for path in shown] == [f"{place}/state"]


def test_on_cgroup_v2(scratch: Path) -> None:
    with Virtual("units-v2", scratch) as machine:
        site = Site(machine)
        site.begin()
        site.verify(HOST, RUNNER)
        job, pid = site.waiting_task()
        site.systemctl("restart", RUNNER)
        main = site.show(RUNNER, "MainPID")
        # The kernel kills a task that has filled the whole unit's memory, and the rest stays.
        site.systemctl("set-property", "--runtime", RUNNER, "MemoryMax=150M", "MemorySwapMax=0")
        greedy = site.submit("exec tail /dev/zero")
        with pytest.raises(LabError, match="SIGKILL"):
            site.river("task", "wait", greedy)
        assert "oom_kill 1" in site.shell(f"cat /sys/fs/cgroup/system.slice/{RUNNER}/memory.events")
        assert (site.active(RUNNER), site.show(RUNNER, "MainPID")) == (True, main)
        site.systemctl("set-property", "--runtime", RUNNER, "MemoryMax=infinity")
        limited = site.submit("exec tail /dev/zero", "--memory", "60M")
        with pytest.raises(LabError, match="killed_oom"):
            site.river("task", "wait", limited)
        site.finishes(job, pid)
        complaints = site.shell(f"journalctl -q --no-pager -p warning -o cat -u {HOST} -u {RUNNER}").splitlines()
        expected = ("left-over process", "This usually indicates", "lies in memory", "sudo", "PAM", "pam_", "river :")
        assert [line for line in complaints if not any(words in line for words in expected)] == []
        # A task holds the share, and does not heed TERM: it has ended before the share is unmounted all the same.
        site.submit("trap '' TERM; while :; do sleep 0.2; done")
        eventually(lambda: "trap" in site.shell("ps -e -o args="), LONG_S)
        machine.shut_down()
        said = (scratch / "guest-v.log").read_text(errors="replace")
        assert "Failed unmounting" not in said and "System halted" in said
