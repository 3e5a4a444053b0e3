"""The installed `hakuriver` as shells and terminals meet it, on prepared files."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from riverfiles import RiverFiles, job_row, row

from hakuriver.records import JobSpec

COMMAND = str(Path(sys.executable).parent / "hakuriver")
A = "16999999990001111234"
B = "17000000000002225678"

Environment = dict[str, str]


@pytest.fixture
def river(scratch: Path) -> RiverFiles:
    return RiverFiles(scratch / "river")


@pytest.fixture
def environment(river: RiverFiles, scratch: Path) -> Environment:
    return {
        **os.environ,
        "HAKURIVER_SHARED_DIR": str(river.root),
        "HOME": str(scratch),
        "TERM": "xterm",
        "COLUMNS": "80",
    }


def shell(command: str, environment: Environment, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `hakuriver` is ours."""
    own = f'hakuriver() {{ {COMMAND} "$@"; }}; set -o pipefail; {command}'
    return subprocess.run(["bash", "-c", own], env=environment, input=stdin, capture_output=True, text=True, timeout=60)


def test_ids_in_scripts(river: RiverFiles, environment: Environment) -> None:
    ran = shell('id=$(hakuriver submit -q -- sh -c "exit 3") && echo "got $id"', environment)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"got {river.dropped()[0].stem}\n", "")


def test_reading_jobs_from_stdin(river: RiverFiles, environment: Environment) -> None:
    ran = shell("hakuriver submit --no-receipt --from -", environment, '{"command": ["a"]}\n\n{"command": ["b"]}\n')
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.split()) == 2
    assert river.dropped("jsonl")[0].read_text().splitlines()[-1] == '{"end": 2}'


def test_a_reader_that_goes_away(river: RiverFiles, environment: Environment) -> None:
    river.recent(*[job_row(f"{17000000000000000000 + i}", command="x" * 150) for i in range(1000)])
    ran = shell("hakuriver task list --limit 0 | head -1", environment)
    assert ran.stderr == ""
    assert ran.stdout.startswith("JOB")
    assert ran.returncode == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(river: RiverFiles, environment: Environment, unbuffered: str) -> None:
    river.recent(job_row(A))
    ran = shell("hakuriver task list > /dev/full", {**environment, "PYTHONUNBUFFERED": unbuffered})
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(river: RiverFiles, environment: Environment, closed: str) -> None:
    """Nothing of the river is opened in their place, and there is nothing to fail about."""
    ran = shell(f"{{ hakuriver submit --no-receipt -- x; }} {closed}", environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(river.dropped()[0].read_text())["command"] == ["x"]
    assert shell(f"{{ hakuriver --help; hakuriver config show; }} {closed}", environment).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_does_not_have_is_written_all_the_same(
    river: RiverFiles, environment: Environment, encoding: str
) -> None:
    river.recent(job_row(A, command="pay 5 \u20ac"))
    ran = shell("hakuriver task list", {**environment, "PYTHONIOENCODING": encoding})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert r"pay 5 \u20ac" in ran.stdout


def test_as_a_module(environment: Environment) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hakuriver", "--version"], env=environment, capture_output=True, text=True
    )
    assert ran.stdout.startswith("hakuriver ")


@pytest.mark.parametrize("daemon", ["host", "runner"])
def test_daemons_as_the_units_of_earlier_versions_start_them(environment: Environment, daemon: str) -> None:
    start = [sys.executable, "-m", f"hakuriver.cli.{daemon}"]
    ran = subprocess.run([*start, "--help"], env=environment, capture_output=True, text=True)
    assert ran.stdout.startswith(f"Usage: hakuriver.{daemon} ")
    ran = subprocess.run([*start, "--config", "/nonexistent"], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.partition(";")[0]) == (1, "hakuriver: /nonexistent: there is no such file")


def test_ctrl_c_leaves_tasks_running(river: RiverFiles, environment: Environment) -> None:
    river.snapshot(A, row(state="running"))
    river.snapshot(B, row())
    command = [COMMAND, "task", "wait", A, B]
    waiting = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == f"{B} completed\n"  # it has begun to poll
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "goes on" in err
    assert "Traceback" not in err
    assert river.dropped() == []


def test_columns_are_whole_in_a_pipe_and_cut_on_a_terminal(river: RiverFiles, environment: Environment) -> None:
    river.recent(job_row(A, command="long " * 30))
    assert "long " * 29 in shell("hakuriver task list", environment).stdout
    out = on_terminal([COMMAND, "task", "list"], environment)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" in out


def test_wait_draws_a_bar_on_a_terminal(river: RiverFiles, environment: Environment) -> None:
    spec = JobSpec(command=["x"], array="0-9")
    river.snapshot(A, *[row(k, "running" if k > 3 else "completed") for k in range(10)], spec=spec)
    seen: list[str] = []

    def end(text: str) -> None:
        if "4/10" in text and not seen:
            seen.append(text)
            river.snapshot(A, *[row(k) for k in range(10)], spec=spec)

    out = on_terminal([COMMAND, "task", "wait", A], environment, end)
    assert re.search(r"\[#{12}\.{18}\]  4/10  6 running", out)
    assert out.rstrip().endswith(f"{A} completed (10 completed)")


def test_wait_in_a_pipe_is_plain(river: RiverFiles, environment: Environment) -> None:
    river.snapshot(A, row())
    river.snapshot(B, row(state="failed", exit_code=9, reason="exit code 9"))
    ran = shell(f"hakuriver task wait {A} 5678 | cat", environment)
    assert ran.stdout == f"{A} completed\n{B} failed: exit code 9\n"
    assert ran.stderr == ""
    assert ran.returncode == 9


def test_binary_output_is_left_as_it_is(river: RiverFiles, environment: Environment) -> None:
    data = bytes(range(256)) * 300
    river.snapshot(A, row())
    river.put(f"task_outputs/{A}.out", data)
    ran = subprocess.run([COMMAND, "task", "logs", A], env=environment, capture_output=True)
    assert ran.stdout == data


def test_a_full_share(river: RiverFiles, environment: Environment, scratch: Path) -> None:
    mount = scratch / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        small = RiverFiles(mount / "river")
        with pytest.raises(OSError, match="No space"):
            (mount / "ballast").write_bytes(b"x" * (1 << 20))
        ran = shell("hakuriver submit -- x", {**environment, "HAKURIVER_SHARED_DIR": str(small.root)})
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "the file system is full: free some space" in ran.stderr
        assert list((small.root / "incoming").iterdir()) == []
        (mount / "ballast").unlink()
        ran = shell("hakuriver submit --no-receipt -- x", {**environment, "HAKURIVER_SHARED_DIR": str(small.root)})
        assert ran.returncode == 0
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_json_is_for_machines(river: RiverFiles, environment: Environment) -> None:
    river.snapshot(A, row())
    assert json.loads(shell("hakuriver task status --json 1234", environment).stdout)["jobs"][0]["job"] == A


def on_terminal(command: list[str], environment: Environment, look: Callable[[str], None] = lambda _: None) -> str:
    """Run on a terminal of 80 columns; `look` is shown all that has been written so far."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)
    out = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break  # its end of the terminal is closed
        if not part:
            break
        out += part
        look(out.decode(errors="replace"))  # the last character may not be whole yet
    os.close(terminal)
    os.waitpid(pid, 0)
    return out.decode().replace("\r\n", "\n")
