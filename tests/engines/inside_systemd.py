"""What the systemd engine must do, run inside of a machine of `lab.systemd`: `inside_systemd.py SCENARIO`, as root.

A scenario is a function `check_...`; it fails by an exception. Standard library only: the tree's Python runs it.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hakuriver.attendant.engine import Away, CannotStart
from hakuriver.attendant.systemd import Systemd
from hakuriver.attendant.systemd_watch import ASK_S

OWNER = f"keeper-{os.getpid()}"
CGROUP = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
#: What programs need on this machine (see lab.guest.NO_AVX)
NEEDED = {name: os.environ[name] for name in ("GLIBC_TUNABLES", "OPENSSL_ia32cap") if name in os.environ}
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
MIB = 1024 * 1024
PATIENCE_S = 60.0


class Bench:
    """An engine, and where one attempt writes."""

    def __init__(self, name: str, directory: str = "engine", base: str = "/var/lib/hakuriver-test") -> None:
        self.base = Path(base, name)
        self.base.mkdir(parents=True, exist_ok=True)
        self.directory = str(self.base / directory)
        self.engine = Systemd(self.directory)
        self.name = f"hakuriver-task-{name}"

    def order(self, *argv: str, name: str = "", env: dict[str, str] | None = None, **spec: Any) -> Any:
        """A begin order."""
        name = name or self.name
        full = {"cores": 0, "memory_bytes": None, "grace_s": 2.0, "cwd": "/", "user": "", "numa": None, **spec}
        full |= {"argv": list(argv), "env": {"PATH": PATH, **NEEDED, **(env or {})}}
        return {
            "op": "begin", "name": name, "task": name.removeprefix("hakuriver-task-"), "attempt": 1, "owner": OWNER,
            "spec": full, "out": str(self.base / f"{name}.out"), "err": str(self.base / f"{name}.err"),
            "start_before": 0.0,
        }  # fmt: skip

    def begin(self, *argv: str, **rest: Any) -> Any:
        order = self.order(*argv, **rest)
        assert self.engine.look(order) == "absent"
        self.engine.make(order)
        self.engine.start(order)
        return order

    def end(self, order: Any) -> Any:
        """Its ending; then nothing may be left."""
        ended = self.engine.wait(order)
        assert self.engine.look(order) == "ended"
        assert self.engine.names(OWNER) == [order["name"]]
        self.engine.remove(order["name"])
        assert self.engine.look(order) == "absent"
        assert self.engine.names(OWNER) == []
        assert not os.listdir(f"{self.directory}/made") and not os.listdir(f"{self.directory}/ended")
        unit = self.engine.shows(f"{order['name']}.service")[f"{order['name']}.service"]
        assert unit["LoadState"] == "not-found", unit
        return ended

    def run(self, *argv: str, **rest: Any) -> tuple[Any, str]:
        """Begin, wait and remove; the ending, and what it wrote to both files, which are new."""
        order = self.order(*argv, **rest)
        for path in (order["out"], order["err"]):
            Path(path).unlink(missing_ok=True)
        order = self.begin(*argv, **rest)
        ended = self.end(order)
        return ended, Path(order["out"]).read_text() + Path(order["err"]).read_text()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def refused(bench: Bench, *argv: str, **rest: Any) -> tuple[int, str]:
    """That it cannot be started, and why; nothing is left."""
    order = bench.order(*argv, **rest)
    try:
        bench.engine.make(order)
        bench.engine.start(order)
    except CannotStart as problem:
        assert bench.engine.look(order) == "absent"
        bench.engine.remove(order["name"])
        assert bench.engine.names(OWNER) == []
        return problem.code, problem.text
    raise AssertionError("it was started")


def text_of(path: str) -> str:
    return Path(path).read_text() if os.path.exists(path) else ""


def check_exit_codes() -> None:
    bench = Bench("exit")
    before = time.time()
    ended, said = bench.run("sh", "-c", "echo good; exit 0")
    assert (ended["exit_code"], ended["signal"], ended["oom"], ended["text"]) == (0, None, False, ""), ended
    assert said == "good\n"
    assert before <= ended["started_at"] <= ended["ended_at"] <= time.time() + 0.1, (before, ended)
    ended, _ = bench.run("sh", "-c", "exit 7")
    assert (ended["exit_code"], ended["signal"]) == (7, None), ended


def check_signals() -> None:
    bench = Bench("signal")
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL):
        ended, _ = bench.run("sh", "-c", f"kill -{int(number)} $$")
        assert (ended["exit_code"], ended["signal"], ended["oom"]) == (None, number, False), ended


def check_figures() -> None:
    program = (
        "x = bytearray(60 << 20)\nimport time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    )
    ended, _ = Bench("figures").run("python3", "-c", program, memory_bytes=200 * MIB)
    assert 0.5 <= ended["cpu_s"] < 10, ended
    assert 0.45 <= ended["wall_s"] < 30, ended
    assert 60 * MIB <= ended["peak_memory_bytes"] <= 200 * MIB, ended


def check_limits() -> None:
    quota = "/sys/fs/cgroup/cpu$(sed -n 's/.*:cpu:\\|.*:cpu,cpuacct://p' /proc/self/cgroup)/cpu.cfs_quota_us"
    memory = "/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' /proc/self/cgroup)/memory.limit_in_bytes"
    if CGROUP == 2:
        quota, memory = (
            f"/sys/fs/cgroup$(sed s/0:://  /proc/self/cgroup)/{name}" for name in ("cpu.max", "memory.max")
        )
    bench = Bench("limits")
    _, said = bench.run("sh", "-c", f"cat {quota} {memory}", cores=3, memory_bytes=123 * MIB)
    assert said.split() == (["300000", "100000"] if CGROUP == 2 else ["300000"]) + [str(123 * MIB)], said
    _, said = bench.run("sh", "-c", f"cat {quota} 2>/dev/null || echo max", cores=0)
    assert said.split()[0] == ("max" if CGROUP == 2 else "-1"), said


def check_environment() -> None:
    asked = {
        "HOME": "/somewhere", "EMPTY": "", "LINES_OF": "a\nb\n", "QUOTES": "\"double\" 'single' `back`",
        "SLASHES": "C:\\new \\$HOME \\", "DOLLAR": "$HOME ${PATH} $$", "PERCENT": "%n %% %i", "UNICODE": "日本語 – é",
        "ESCAPE": "\x1b[31m\r\t\x01", "LD_PRELOAD": "/nowhere/evil.so", "EQUALS": "a=b=c", "SPACES": "  a  b  ",
        "INVOCATION_ID": "mine", "LONG": "x" * 100_000, "name": "lower", "HAKURIVER_OWNER": "not the unit's",
    }  # fmt: skip
    program = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(k + b'=' + v for k, v in os.environb.items()))"
    bench = Bench("environment")
    # The dynamic linker complains of LD_PRELOAD on stderr, so look at stdout alone.
    order = bench.begin("python3", "-I", "-c", program, env=asked)
    ended = bench.end(order)
    assert ended["exit_code"] == 0, (ended, text_of(order["err"]))
    found = dict(entry.split("=", 1) for entry in Path(order["out"]).read_bytes().decode().split("\0"))
    expected = {"PATH": PATH, **NEEDED, **asked}
    assert {k: v for k, v in found.items() if k != "LC_CTYPE"} == expected, found  # LC_CTYPE: Python's own doing


def check_arguments() -> None:
    asked = [
        "$HOME",
        "${HOME}",
        "$$",
        "%n",
        "%%",
        '"quotes"',
        "'single'",
        "new\nline",
        "back\\slash\\",
        "",
        " ",
        "日本",
        ";",
        "-x",
    ]
    program = "import sys; print(ascii(sys.argv[1:]))"
    for more in ({}, {"private_pid": True}):
        _, said = Bench("arguments").run("python3", "-c", program, *asked, **more)
        assert said.strip() == ascii(asked), said


def check_user() -> None:
    bench = Bench("user")
    nobody = pwd.getpwnam("nobody")
    report = "id -u; id -g; id -G; grep ^Groups /proc/self/status; pwd"
    _, said = bench.run("sh", "-c", report, user="nobody", cwd="/tmp")
    words = said.split()
    assert words[:3] == [str(nobody.pw_uid), str(nobody.pw_gid), str(nobody.pw_gid)] and words[-1] == "/tmp", said
    _, said = bench.run("sh", "-c", report, user="river", private_pid=True)
    assert said.split()[0] == "1500", said
    _, said = bench.run("id", "-u")
    assert said == "0\n"
    assert refused(bench, "id", user="nosuchuser") == (
        126, "there is no user nosuchuser on this node (environment.runner_user)",
    )  # fmt: skip
    code, text = refused(bench, "true", user="nobody", cwd="/var/lib/hakuriver-test/user/engine")
    assert code == 126 and "cannot enter working directory" in text and "Permission denied" in text, text


def check_output() -> None:
    bench = Bench("output")
    order = bench.order("sh", "-c", "printf 'a\\0b\\377'; printf err >&2; sleep 1000")
    Path(order["out"]).write_bytes(b"before ")
    before = time.time()
    bench.engine.make(order)
    bench.engine.start(order)
    # Live: while it runs.
    wait_for(lambda: text_of(order["err"]) == "err", "stderr")
    wait_for(lambda: Path(order["out"]).read_bytes() == b"before a\0b\xff", "stdout")
    assert bench.engine.look(order) == "running"
    pid, at = bench.engine.attend(order)
    assert pid and os.path.exists(f"/proc/{pid}") and before <= at <= time.time()
    bench.engine.signal(order["name"], signal.SIGTERM)
    assert bench.end(order)["signal"] == signal.SIGTERM
    # All of a large output is there when the end is told.
    ended, said = bench.run("sh", "-c", "seq 200000", name=bench.name + ".2")
    assert ended["exit_code"] == 0 and said == "".join(f"{n}\n" for n in range(1, 200001))


def check_odd_place() -> None:
    """Directories with characters that mean something to systemd."""
    bench = Bench("odd $HOME %n \"q' \\ é", directory="my engine %i")
    bench.name = "hakuriver-task-odd"
    ended, said = bench.run("sh", "-c", "echo here; pwd; exit 3", cwd=str(bench.base))
    assert ended["exit_code"] == 3 and ended["started_at"] and said == f"here\n{bench.base}\n", (ended, said)


def check_signals_as_by_default() -> None:
    _, said = Bench("ignored").run("grep", "^Sig[IB]", "/proc/self/status")
    # 32 and 33 are the C library's own: nobody can set them, and whoever brought the machine up may have them ignored.
    assert [int(line.split()[1], 16) & ~(0b11 << 31) for line in said.splitlines()] == [0, 0], said


def check_memory() -> None:
    bench = Bench("memory")
    ended, _ = bench.run("tail", "/dev/zero", memory_bytes=40 * MIB)
    assert ended["oom"] and ended["signal"] == signal.SIGKILL, ended
    assert 20 * MIB < ended["peak_memory_bytes"] <= 40 * MIB, ended
    # A child is killed, its parent ends well: both are told.
    ended, _ = bench.run("sh", "-c", "tail /dev/zero; exit 0", memory_bytes=40 * MIB)
    assert ended["oom"] and ended["exit_code"] == 0, ended
    # What is left in the memory of a tmpfs takes the limit up, so that the last script has little or none.
    fill = "dd if=/dev/zero of=/dev/shm/filled bs=1M count=100 2>/dev/null; tail /dev/zero"
    order = bench.begin("sh", "-c", fill, memory_bytes=40 * MIB)
    ended = bench.engine.wait(order)
    os.unlink("/dev/shm/filled")
    bench.engine.remove(order["name"])
    assert ended["exit_code"] == 128 + signal.SIGKILL and ended["wall_s"] > 0, ended
    assert ended["oom"] or ended["text"] == "how much memory it used is not known", ended


def check_killing_a_tree() -> None:
    bench = Bench("tree")
    tree = "trap : TERM; (trap '' TERM; sleep 1000; :) & (sleep 1000; :) & sleep 1000; echo survived; "
    tree += "while :; do sleep 1000; done"  # or it could exit when KILL has ended another before it
    order = bench.begin("sh", "-c", f"{tree}")
    # What is only about to become a `sleep` may hear TERM as its parent does.
    wait_for(lambda: sorted(map(program, in_unit(order))) == ["sh"] * 3 + ["sleep"] * 3, "six processes")
    pids = in_unit(order)
    bench.engine.signal(order["name"], signal.SIGTERM)
    wait_for(lambda: text_of(order["out"]) == "survived\n", "one that ignores TERM")
    assert bench.engine.look(order) == "running"
    bench.engine.signal(order["name"], signal.SIGKILL)
    assert bench.end(order)["signal"] == signal.SIGKILL
    assert not any(map(lives, pids))
    bench.engine.signal(order["name"], signal.SIGTERM)  # no error


def in_unit(order: Any) -> list[int]:
    """The processes of its unit."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"/{order['name']}.service\n" in (entry / "cgroup").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def program(pid: int) -> str:
    """What a process runs; empty if it is gone."""
    return _status(pid)[0]


def lives(pid: int) -> bool:
    """Whether a process has not ended; whoever adopted it may yet have to hear of that."""
    return _status(pid)[1] not in "ZX"


def _status(pid: int) -> tuple[str, str]:
    """A process's program and its state; X if it is gone."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")
    except OSError:
        return "", "X"
    return name, rest[0]


def check_left_behind() -> None:
    """Children that outlive their parent are ended before the end is told."""
    bench = Bench("behind")
    order = bench.begin("sh", "-c", "(trap '' TERM; exec sleep 1000) & (exec sleep 1000) & exit 5", grace_s=0.5)
    assert bench.end(order)["exit_code"] == 5
    assert in_unit(order) == []


def check_pausing() -> None:
    bench = Bench("pause")
    order = bench.begin("sh", "-c", "(while :; do echo x >&2; sleep 0.05; done) & while :; do echo x; sleep 0.05; done")
    wait_for(lambda: text_of(order["out"]), "output")

    def size() -> int:
        return os.path.getsize(order["out"]) + os.path.getsize(order["err"])

    def quiet() -> bool:
        before = size()
        time.sleep(0.4)
        return size() == before

    for _ in range(2):
        assert bench.engine.freeze(order["name"], True) == ""
    wait_for(quiet, "silence")
    assert bench.engine.look(order) == "running"
    for _ in range(2):
        assert bench.engine.freeze(order["name"], False) == ""
    wait_for(lambda: not quiet(), "going on")
    for number in (signal.SIGTERM, signal.SIGKILL):
        assert bench.engine.freeze(order["name"], True) == ""
        bench.engine.signal(order["name"], number)
        assert bench.end(order)["signal"] == number
        order = bench.begin("sleep", "1000")
    # Killed by others, as the kernel does for memory, while it is paused: it ends now, or when it goes on.
    assert bench.engine.freeze(order["name"], True) == ""
    os.kill(bench.engine.attend(order)[0] or 0, signal.SIGKILL)
    bench.engine.freeze(order["name"], False)
    assert bench.end(order)["signal"] == signal.SIGKILL
    bench.engine.remove(order["name"])
    assert bench.engine.freeze(order["name"], True) != ""


def check_private_network() -> None:
    bench = Bench("network")
    script = "tail -n +3 /proc/net/dev | cut -d: -f1"
    _, said = bench.run("sh", "-c", script)
    assert len(said.split()) > 1, said
    _, said = bench.run("sh", "-c", f"{script}; ip -o addr", private_network=True)
    assert said.split()[0] == "lo" and "vec" not in said and "eth" not in said and "127.0.0.1" in said, said


def check_private_pids() -> None:
    bench = Bench("pids")
    ended, said = bench.run("sh", "-c", "ps -e -o pid=,comm=; exit 7", private_pid=True, user="nobody")
    assert ended["exit_code"] == 7 and ended["peak_memory_bytes"], ended
    assert len(said.splitlines()) == 3 and "systemd" not in said, said
    ended, _ = bench.run("sh", "-c", "kill -USR1 $$", private_pid=True)
    assert ended["signal"] == signal.SIGUSR1, ended
    # TERM reaches the program; it may take its time.
    script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    order = bench.begin("sh", "-c", script, private_pid=True)
    wait_for(lambda: text_of(order["out"]).endswith("ready\n"), "the trap")
    bench.engine.signal(order["name"], signal.SIGTERM)
    assert bench.end(order)["exit_code"] == 9
    assert text_of(order["out"]).endswith("ready\nbye\n")
    order = bench.begin("sh", "-c", "sleep 1000 & sleep 1000", private_pid=True)
    bench.engine.signal(order["name"], signal.SIGKILL)
    assert bench.end(order)["signal"] == signal.SIGKILL
    assert refused(bench, "nosuchprogram", private_pid=True)[0] == 127


def check_what_cannot_start() -> None:
    bench = Bench("cannot")
    assert refused(bench, "no-such-program") == (127, "cannot run no-such-program: No such file or directory")
    assert refused(bench, "/etc/passwd") == (126, "cannot run /etc/passwd: Permission denied")
    code, text = refused(bench, "true", cwd="/nowhere")
    assert (code, text) == (126, "cannot enter working directory /nowhere: No such file or directory"), text
    code, text = refused(bench, "true", env={"A": "b\0c"})
    assert code == 126 and "NUL" in text
    garbage = bench.base / "garbage"
    garbage.write_text("no program")
    garbage.chmod(0o755)
    code, text = refused(bench, str(garbage))
    assert code == 126 and "Exec format error" in text, text


def check_numa() -> None:
    """The lab's machines have one node, or no NUMA at all: then numactl says so."""
    numactl = "/usr/bin/numactl"
    bench = Bench("numa")
    has = subprocess.run([numactl, "--cpunodebind=0", "--membind=0", "true"], capture_output=True).returncode == 0
    ended, said = bench.run(
        "sh", "-c", "grep Mems_allowed_list /proc/self/status; numactl --show", numa=0, numactl=numactl
    )
    assert (ended["exit_code"] == 0 and "membind: 0" in said) if has else ended["exit_code"] == 1, (ended, said)
    assert refused(bench, "no-such-program", numa=0, numactl=numactl)[0] == 127
    print("numa here:", has)


def check_a_new_engine() -> None:
    """Whoever attends dies, and another tells the true ending: of one that runs, and of one that has ended."""
    bench = Bench("heir")
    order = bench.begin(
        "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 6", cwd=str(bench.base)
    )
    bench.engine = Systemd(bench.directory)
    assert bench.engine.look(order) == "running"
    pid, at = bench.engine.attend(order)
    assert pid in in_unit(order) and at < time.time()
    (bench.base / "go").touch()
    assert bench.end(order)["exit_code"] == 6
    assert text_of(order["out"]) == "one\ntwo\n"
    order = bench.begin("sh", "-c", "exit 8")
    wait_for(lambda: not in_unit(order), "its end")
    bench.engine = Systemd(bench.directory)
    wait_for(lambda: bench.engine.look(order) == "ended", "its result")
    assert bench.end(order)["exit_code"] == 8


def check_vanished() -> None:
    """Units whose end the script could not write, as its directory was lost: systemd is asked, in the end."""
    for code in (0, 4):
        bench = Bench(f"vanished{code}")
        order = bench.begin("sh", "-c", f"while [ ! -e go ]; do sleep 0.02; done; exit {code}", cwd=str(bench.base))
        subprocess.run(["rm", "-r", f"{bench.directory}/made/{order['name']}"], check=True)
        assert bench.engine.names(OWNER) == [order["name"]]
        (bench.base / "go").touch()
        ended = bench.engine.wait(order)
        assert ended["exit_code"] == (code or None), ended
        assert "gone" in ended["text"] if code == 0 else "not known" in ended["text"], ended
        bench.engine.remove(order["name"])


def check_manager_reexecuted() -> None:
    bench = Bench("reexec")
    order = bench.begin("sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 5", cwd=str(bench.base))
    subprocess.run(["systemctl", "daemon-reexec"], check=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert bench.engine.look(order) == "running"
    (bench.base / "go").touch()
    assert bench.end(order)["exit_code"] == 5


def check_name_taken() -> None:
    bench = Bench("taken")
    other = Bench("taken", directory="other")
    order = bench.begin("sleep", "1000")
    theirs = other.order("true")
    theirs["owner"] = "another keeper"
    assert other.engine.look(theirs) == "absent"
    other.engine.make(theirs)
    try:
        other.engine.start(theirs)
        raise AssertionError("started")
    except CannotStart as problem:
        assert problem.code == 125 and "another keeper" in problem.text, problem
    other.engine.remove(theirs["name"])
    assert other.engine.names("another keeper") == []
    assert bench.engine.look(order) == "running"
    bench.engine.remove(order["name"])
    assert bench.engine.look(order) == "absent" and bench.engine.names(OWNER) == []
    assert in_unit(order) == []


def check_many_at_once() -> None:
    count = 6 if NEEDED else 20  # where processes start slowly, or as many as it takes to be in each other's way
    bench = Bench("many")
    orders = [bench.order("sh", "-c", f"exit {n}", name=f"{bench.name}-{n}") for n in range(count)]

    def one(order: Any) -> Any:
        bench.engine.make(order)
        bench.engine.start(order)
        ended = bench.engine.wait(order)
        bench.engine.remove(order["name"])
        return ended["exit_code"]

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(one, orders)) == list(range(count))
    assert bench.engine.names(OWNER) == []


def check_noticed_soon() -> None:
    """By its result, not when systemd is asked the next time. How soon that is depends on how busy the machine is."""
    bench = Bench("soon")
    late = []
    for _ in range(5):
        order = bench.begin("sleep", "0.3")
        ended = bench.engine.wait(order)
        late.append(time.time() - ended["ended_at"])
        bench.engine.remove(order["name"])
    print("noticed after", sorted(late))
    assert sorted(late)[2] < ASK_S / 2, late


def check_sudo() -> None:
    """Not root: by sudo, and refused in plain words without."""
    if NEEDED:
        return  # a set-uid program is not given what programs need here
    for user, may in (("river", True), ("nobody", False)):
        home = Path(f"/var/lib/hakuriver-test/sudo-{user}")
        home.mkdir(parents=True)
        home.parent.chmod(0o755)
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
        command = ["setpriv", f"--reuid={user}", "--clear-groups", sys.executable, __file__, "as_user", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)
        if may:
            assert done.returncode == 0, done.stderr
        else:
            assert "needs sudo without a password for systemd-run and systemctl" in done.stderr, done.stderr


def as_user(home: str) -> None:
    bench = Bench("mine", base=home)
    ended, said = bench.run("sh", "-c", "id -u; exit 3", private_pid=True)
    assert ended["exit_code"] == 3 and said == f"{os.getuid()}\n", (ended, said)
    order = bench.begin("sleep", "1000")
    assert bench.engine.freeze(order["name"], True) == ""
    bench.engine.signal(order["name"], signal.SIGTERM)
    assert bench.end(order)["signal"] == signal.SIGTERM
    assert refused(bench, "nosuchprogram")[0] == 127


def before_the_end(base: str) -> None:
    """Leave one that runs on a disk that stays; its owner must be known again."""
    bench = Bench("lasting", base=base)
    order = bench.order("sh", "-c", "echo here; sleep 1000")
    Path(order["out"]).unlink(missing_ok=True)  # of the life before: output is appended
    bench.engine.make(order)
    bench.engine.start(order)
    wait_for(lambda: text_of(order["out"]) == "here\n", "output")
    (bench.base / "owner").write_text(order["owner"])


def after_shutdown(base: str) -> None:
    order, bench = _left(base)
    assert bench.engine.look(order) == "ended"
    ended = bench.engine.wait(order)
    assert (ended["signal"], ended["text"]) == (signal.SIGTERM, "the node was shutting down"), ended
    bench.engine.remove(order["name"])
    assert bench.engine.look(order) == "absent"


def after_power_cut(base: str) -> None:
    order, bench = _left(base)
    assert bench.engine.look(order) == "absent"
    assert bench.engine.names(order["owner"]) == [order["name"]]
    bench.engine.remove(order["name"])
    assert bench.engine.names(order["owner"]) == []


def _left(base: str) -> tuple[Any, Bench]:
    bench = Bench("lasting", base=base)
    order = bench.order("true")
    order["owner"] = (bench.base / "owner").read_text()
    return order, bench


def check_no_systemd() -> None:
    bench = Bench("none")
    script = 'mount -t tmpfs none /run; exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, __file__, "away", bench.directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def away(directory: str) -> None:
    bench = Bench("none")
    try:
        bench.engine.make(bench.order("true"))
        bench.engine.start(bench.order("true"))
    except Away as problem:
        assert "systemd" in str(problem), problem
        return
    raise AssertionError("it was started")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
