"""hakurun: real runs as real processes; signals, closed pipes, what cannot start."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from hakuruns import COMMAND, environment, hakurun, processes

from hakuriver.hakurun.running import Tally


@pytest.fixture
def word() -> str:
    """Seconds that nobody else sleeps."""
    return f"3{random.randrange(10**9):09d}"


@contextmanager
def begin(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """It and what it has started are gone in the end."""
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(), start_new_session=True, **options)
    try:
        yield process
        process.wait(60)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # as it should be
        with process:
            pass  # closes its pipes, and reaps it


# -- exit statuses


def test_all_succeeded() -> None:
    ran = hakurun("echo", "span:{1..3}")
    assert (ran.returncode, ran.stdout) == (0, "1\n2\n3\n")
    assert ran.stderr.splitlines() == [
        "hakurun: 3 runs, one after the other", "hakurun: Task 1/3: echo 1", "hakurun: Task 2/3: echo 2",
        "hakurun: Task 3/3: echo 3", "hakurun: 3 of 3 runs succeeded",
    ]  # fmt: skip


def test_a_single_run_is_as_if_there_were_no_hakurun() -> None:
    ran = hakurun("sh", "-c", "cat; exit 41", text="input")
    assert (ran.returncode, ran.stdout, ran.stderr) == (41, "input", "")


def test_failures_are_told_and_counted() -> None:
    ran = hakurun("sh", "-c", "exit $(($0 % 2 * $0))", "span:{0..20}")
    assert ran.returncode == 1
    assert "hakurun: Task 4/21 exited with 3: sh -c" in ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        "hakurun: 11 of 21 runs succeeded; failed: 2 (1), 4 (3), 6 (5), 8 (7), 10 (9) and 5 more"
    )


def test_runs_that_are_killed() -> None:
    one = hakurun("sh", "-c", "kill -9 $$")
    assert (one.returncode, one.stderr) == (
        137, "hakurun: Task 1/1 was killed by signal 9 (SIGKILL): sh -c 'kill -9 $$'\n"
    )  # fmt: skip
    many = hakurun("sh", "-c", "kill -$0 $$", "span:[SEGV,40]")
    assert many.returncode == 1
    assert "was killed by signal 11 (SIGSEGV)" in many.stderr
    assert "was killed by signal 40 (a real-time signal)" in many.stderr
    assert many.stderr.endswith("0 of 2 runs succeeded; failed: 1 (139), 2 (168)\n")


def test_what_cannot_start(scratch: Path) -> None:
    (scratch / "bare").write_text("echo no interpreter\n")
    (scratch / "bare").chmod(0o755)
    ran = hakurun("./bare", cwd=scratch)
    assert ran.returncode == 126
    assert "its first line must name an interpreter, as #!/bin/sh: ./bare" in ran.stderr
    long = hakurun("sh", "-c", f"{COMMAND[0]} -c 'import os; print(len(os.environ))'", "span:[1,2]", X="x" * 130_000)
    assert long.returncode == 0
    (scratch / "gone").write_text("#!/no/such/interpreter\n")
    (scratch / "gone").chmod(0o755)
    ran = hakurun("./gone", "span:{1..2}", cwd=scratch)
    assert ran.returncode == 1
    assert ran.stderr.count("could not start: No such file or directory") == 2


@pytest.mark.parametrize(
    ("statuses", "total", "stopped", "expected"),
    [
        ([0, 0], 2, 0, 0), ([0, 3], 2, 0, 1), ([3], 1, 0, 3), ([-15], 1, 0, 143), ([0], 1, 0, 0), ([], 0, 0, 0),
        ([-2], 1, signal.SIGINT, 130), ([0, 0], 9, signal.SIGTERM, 143), ([5], 9, signal.SIGPIPE, 141),
    ],
)  # fmt: skip
def test_the_exit_status(statuses: list[int], total: int, stopped: int, expected: int) -> None:
    tally = Tally()
    tally.signal = stopped
    for number, status in enumerate(statuses, 1):
        tally.count(number, status)
    assert tally.exit_status(total) == expected


# -- several at a time


def test_no_more_than_asked_for_run_at_a_time(scratch: Path) -> None:
    """Each run leaves a mark while it is there, and counts the marks; all slots are used."""
    code = """
        touch on-$0
        until [ -e full ]; do [ "$(ls -d on-* | wc -l)" -lt 3 ] || touch full; sleep 0.01; done
        ls -d on-* | wc -l >> counts; sleep 0.05; rm on-$0
    """
    ran = hakurun("-j", "3", "sh", "-c", code, "span:{1..12}", cwd=scratch)
    assert ran.returncode == 0
    assert "hakurun: 12 runs, 3 at a time" in ran.stderr
    counts = [int(line) for line in (scratch / "counts").read_text().split()]
    assert len(counts) == 12
    assert (scratch / "full").exists()
    assert max(counts) <= 3


def test_parallel_uses_the_cores_of_the_task_that_it_is() -> None:
    cpus = len(os.sched_getaffinity(0))
    for cores, at_once in (("5", 5), ("0", cpus), ("", cpus), ("x", cpus)):
        ran = hakurun("--parallel", "true", "span:{1..100}", HAKURIVER_CORES=cores)
        how = f"{at_once} at a time" if at_once > 1 else "one after the other"
        assert f"hakurun: 100 runs, {how}\n" in ran.stderr
    assert "100 runs, 2 at a time" in hakurun("--parallel", "-j2", "true", "span:{1..100}", HAKURIVER_CORES="5").stderr


def test_input_is_for_runs_one_after_the_other() -> None:
    assert hakurun("sh", "-c", "read line; echo $line", "span:[a,b]", text="1\n2\n").stdout == "1\n2\n"
    assert hakurun("-j2", "cat", "-", "span:[-,-]", text="1\n2\n").stdout == ""


def test_many_runs_leave_nothing_behind() -> None:
    """No more children at any time than run at once, and no memory for what is over."""
    sizes, known = [], []
    with begin("-j", "4", "true", "span:{1..3000}", stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with stopped(process):  # or one may be counted, end, and have its successor counted too
                sizes.append(resident_kb(process.pid))
                known.append(len(children(process.pid)))
            time.sleep(0.05)
    assert process.returncode == 0
    sizes = [size for size in sizes if size]
    assert sizes[-1] - sizes[len(sizes) // 2] < 300
    assert max(known) <= 4


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Meanwhile it does nothing, or it has ended."""
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: state.read_text().rpartition(")")[2].split()[0] in "TZ")
    yield
    process.send_signal(signal.SIGCONT)


def resident_kb(pid: int) -> int:
    """0 of one that is over."""
    return int((Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split() or ["0"])[0])


def children(pid: int) -> list[str]:
    return subprocess.run(["ps", "-o", "stat=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()


# -- nobody reads


def test_it_ends_when_nobody_reads_its_output() -> None:
    pipe = f"{sys.executable} -c \"$0\" seq 1000000 'span:{{1000000..1999999}}' | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", pipe, COMMAND[2]], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "1000000\n141\n"
    assert ran.stderr.splitlines()[-1].startswith("hakurun: stopped (nobody reads the output): ")
    assert "killed" not in ran.stderr
    assert "failed" not in ran.stderr


def test_a_single_run_that_nobody_reads_ends_like_the_program_itself() -> None:
    pipe = f'{sys.executable} -c "$0" yes | head -1; echo ${{PIPESTATUS[0]}}'
    ran = subprocess.run(
        ["bash", "-c", pipe, COMMAND[2]], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("y\n141\n", "")


def test_closed_output_is_empty_output() -> None:
    line = f"exec {sys.executable} -c \"$0\" sh -c '[ /proc/$$/fd/1 -ef /dev/null ]' 'span:[a,b]' >&-"
    ran = subprocess.run(["bash", "-c", line, COMMAND[2]], env=environment(), capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (0, "hakurun: 2 of 2 runs succeeded")


def test_a_dry_run_of_any_size_ends_when_nobody_reads(scratch: Path) -> None:
    pipe = f"{sys.executable} -c \"$0\" --dry-run echo 'span:{{1..1000000000000}}' | head -2"
    ran = subprocess.run(
        ["bash", "-c", pipe, COMMAND[2]], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("echo 1\necho 2\n", "")


def test_nothing_goes_on_when_nobody_reads_its_messages(word: str, scratch: Path) -> None:
    code = f"[ $0 = 1 ] || exec sleep {word}; until [ -e closed ]; do sleep 0.02; done; exit 1"
    with begin("-j2", "sh", "-c", code, "span:[1,2]", stderr=subprocess.PIPE, cwd=scratch) as process:
        assert process.stderr is not None
        while b"Task 2/2" not in process.stderr.readline():
            pass
        process.stderr.close()
        (scratch / "closed").touch()
        assert process.wait(60) == 141
    gone(word)


# -- signals


@pytest.mark.parametrize("options", [(), ("-j", "3")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_a_process_reaches_all_of_the_tree(
    number: signal.Signals, options: tuple[str, ...], word: str
) -> None:
    with begin(*options, "sh", "-c", f"sleep {word}; echo no", "span:{1..9}", stderr=subprocess.PIPE) as process:
        running = 2 * int(options[-1] if options else 1)
        eventually(lambda: len(processes(word)) == running + 1)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr is not None
        assert f"stopped ({number.name})".encode() in process.stderr.read()
    gone(word)


def test_ctrl_c_reaches_each_run_once(scratch: Path) -> None:
    """From the terminal all get it: passed on as well, it would break the cleaning up that the first has begun."""
    code = "trap 'echo got >> got; sleep 0.5; exit 3' INT; touch ready; while :; do sleep 0.05; done"
    status = at_a_terminal(scratch, "sh", "-c", code, "span:{1..3}")
    assert status == 130
    assert (scratch / "got").read_text() == "got\n"


def at_a_terminal(directory: Path, *arguments: str) -> int:
    """Press Ctrl-C once it is ready; return the exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execve(COMMAND[0], [*COMMAND, *arguments], environment())
    eventually((directory / "ready").exists)
    os.write(terminal, b"\x03")
    return ended(pid, terminal)


def ended(pid: int, terminal: int) -> int:
    os.set_blocking(terminal, False)
    until = time.monotonic() + 60
    while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < until
        drain(terminal)
        time.sleep(0.02)
    os.close(terminal)
    return os.waitstatus_to_exitcode(found[1])


def drain(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_ctrl_c_twice_kills_what_does_not_obey(word: str) -> None:
    code = f"trap '' INT; echo on; while :; do sleep 0.05; : {word}; done"
    with begin("-j2", "sh", "-c", code, "span:{1..2}", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"on\n", b"on\n"]
        process.send_signal(signal.SIGINT)
        eventually(lambda: not waits(process.pid, signal.SIGINT))  # two that wait would be one
        time.sleep(0.3)  # nothing may come, however long
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    gone(word)


def waits(pid: int, number: signal.Signals) -> bool:
    """Whether a signal has been sent to a process and not been taken yet."""
    waiting = Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0]
    return bool(int(waiting, 16) >> (number - 1) & 1)


def gone(word: str) -> None:
    """What hakurun has killed on its way out, and is no child of its own, may still be on its own way out."""
    eventually(lambda: processes(word) == [], what="all is gone")


def test_ctrl_c_at_any_moment_leaves_nothing_behind(word: str) -> None:
    for number in range(12):
        with begin("-j3", "sh", "-c", "sleep 0.1$0; : $1", "span:{1..30}", word, stderr=subprocess.DEVNULL) as process:
            time.sleep(0.02 + number * 0.04)
            process.send_signal(signal.SIGINT)
            status = process.wait(60)
        gone(word)
        assert status in (130, -signal.SIGINT, 1), number  # Python itself, while it starts, knows no better than 1


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    ignoring = "trap '' HUP; exec \"$@\""
    code = "kill -HUP $PPID; kill -HUP $$; sleep 0.1; echo lives"
    ran = subprocess.run(
        ["sh", "-c", ignoring, "-", *COMMAND, "sh", "-c", code, "span:{1..2}"],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "lives\nlives\n")


def test_runs_have_the_signals_of_every_program() -> None:
    command = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    told = (hakurun(*command).stdout, subprocess.run(command, capture_output=True, text=True).stdout)
    here, plain = ([int(line.split()[1], 16) & ~GLIBC_OWN for line in text.splitlines()] for text in told)
    assert here == plain


#: Signals 32 and 33, which its posix_spawn leaves ignored.
GLIBC_OWN = 3 << 31


def test_children_that_it_did_not_start_do_not_disturb_it() -> None:
    """A shell that becomes hakurun leaves it its own."""
    ran = subprocess.run(
        ["bash", "-c", '(exit 9) & (sleep 0.2; exit 8) & exec "$@"', "-", *COMMAND, "sleep", "span:[0.1,0.4]"],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0
    assert "2 of 2 runs succeeded" in ran.stderr
