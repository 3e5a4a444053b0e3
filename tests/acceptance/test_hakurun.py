"""hakurun on a live cluster: one job for a whole sweep, hakurun in a task, and sweeps of submissions."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from conftest import SCRATCH, eventually
from processes import processes
from test_cli_up import COMMAND, PATIENCE_S, Up, up_of

from hakuriver.runner.executors.process import PATH

BIN = Path(COMMAND).parent
#: Each call leaves a file of its own with its arguments.
RECORD = 'printf "%s|" "$@" > $(mktemp "$0/XXXXXXXX")'
FUNCTION = """
import tempfile
def record(*arguments):
    with open(tempfile.mkstemp(dir="records")[1], "w") as file:
        file.write(repr(arguments))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Up]:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH, ignore_cleanup_errors=True) as directory:
        for up in up_of(Path(directory)):
            up.start("--nodes", "2", "--cores", "4")
            yield up


@pytest.fixture
def records(scratch: Path) -> Path:
    (scratch / "records").mkdir()
    return scratch / "records"


def hakurun(cluster: Up, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        **cluster.environment,
        "HAKURIVER_SHARED_DIR": str(cluster.root),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [str(BIN / "hakurun"), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_each_combination_is_one_task_of_one_job(cluster: Up, records: Path) -> None:
    lists = [["1", "2", "3", "4", "5"], ["a b", "c,d", "$HOME'\n", ""], ["--n=08", "--n=09", "--n=10"]]
    spans = ["span:{1..5}", 'span:[a b,c\\,d,"$HOME\'\n",]', "--n=span:{08..10}"]
    ran = hakurun(cluster, "--submit", "--wait", "--", "sh", "-c", RECORD, str(records), *spans)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"[0-9]{20}-\[0-59\]\n", ran.stdout)
    found = sorted(file.read_text() for file in records.iterdir())
    assert found == sorted("|".join(c) + "|" for c in product(*lists))


def test_a_failed_combination_is_the_tasks_own(cluster: Up) -> None:
    ran = hakurun(
        cluster, "-j", "2", "--submit", "--wait", "--", "sh", "-c", "exit $(($0 == 3 ? 7 : 0))", "span:{1..4}"
    )
    assert ran.returncode == 7
    job = ran.stdout.partition("-")[0]
    assert "failed" in cluster.hakuriver("task", "status", f"{job}-2").stdout


def test_functions_and_modules_as_tasks(cluster: Up, records: Path) -> None:
    (records.parent / "sweeping.py").write_text(FUNCTION)
    (records.parent / "module.py").write_text("import sys, sweeping; sweeping.record(*sys.argv[1:])")
    path = ["--env", f"PATH={BIN}:/usr/bin:/bin"]  # a module runs in the python3 of the tasks, not in hakurun's
    for target, options in (("sweeping:record", []), ("module", path)):
        line = ["--submit", "--wait", "--workdir", str(records.parent), *options, "--", target]
        ran = hakurun(cluster, *line, "span:{1..2}", "span:[x]", cwd=records.parent)
        assert ran.returncode == 0, ran.stderr
    found = sorted(file.read_text() for file in records.iterdir())
    assert found == ["('1', 'x')", "('2', 'x')", "(1, 'x')", "(2, 'x')"]


def test_in_a_task_it_uses_the_cores_of_the_task(cluster: Up) -> None:
    words = [str(BIN / "hakurun"), "--parallel", "true", "span:{1..9}"]
    ran = cluster.hakuriver("submit", "--cores", "3", "--wait", "--", *words)
    assert ran.returncode == 0
    told = (cluster.root / "task_errors" / f"{ran.stdout.strip()}.err").read_text()
    assert told.startswith("hakurun: 9 runs, 3 at a time\n")
    assert told.endswith("hakurun: 9 of 9 runs succeeded\n")


def test_tasks_find_it_and_hakuriver_behind_what_the_system_has(cluster: Up) -> None:
    """A runner in a virtual environment: its programs are found, its Python hides no other."""
    words = ["hakurun", "--parallel", "sh", "-c", "echo $0", "span:{1..9}"]
    ran = cluster.hakuriver("submit", "--cores", "3", "--wait", "--", *words)
    assert ran.returncode == 0
    told = (cluster.root / "task_errors" / f"{ran.stdout.strip()}.err").read_text()
    assert told.startswith("hakurun: 9 runs, 3 at a time\n")

    script = "echo $PATH; command -v python3; command -v hakuriver; hakurun --dry-run echo 'span:{1..2}'"
    ran = cluster.hakuriver("submit", "--wait", "--", "sh", "-c", script)
    assert cluster.out(ran.stdout.strip()).splitlines() == [
        f"{PATH}:{BIN}", shutil.which("python3", path=f"{PATH}:{BIN}"), str(BIN / "hakuriver"), "echo 1", "echo 2",
    ]  # fmt: skip


def test_a_path_of_the_jobs_own_is_all_that_it_has(cluster: Up) -> None:
    ran = cluster.hakuriver("submit", "--wait", "--env", "PATH=/usr/bin:/bin", "--", "sh", "-c", "echo $PATH; hakurun")
    assert ran.returncode == 127
    assert cluster.out(ran.stdout.strip()) == "/usr/bin:/bin\n"


def test_a_sweep_of_submissions_is_so_many_jobs(cluster: Up) -> None:
    """The program on PATH comes before the module that it looks like, and its own `--` stays its own."""
    eventually(cluster.cores, 30)  # the index of nodes is some seconds late
    node = cluster.hakuriver("node", "list").stdout.splitlines()[1].split()[0]
    ran = hakurun(cluster, "hakuriver.task", "submit", "--target", node, "--", "echo", "span:{1..3}")
    assert ran.returncode == 0
    assert len(set(ran.stdout.split())) == 3
    assert cluster.hakuriver("task", "wait", *ran.stdout.split()).returncode == 0


def test_the_documented_sweep_of_submissions(cluster: Up) -> None:
    line = "hakuriver.client --target h:0 -- python script.py"
    ran = hakurun(cluster, "--dry-run", *line.split(), "span:{1..10}")
    assert ran.stdout.splitlines() == [f"{line} {number}" for number in range(1, 11)]


def test_a_killed_job_leaves_no_run(cluster: Up) -> None:
    seconds = random.randrange(10**8, 10**9)  # nobody else sleeps as long
    span = f"span:{{{seconds}..{seconds + 3}}}"
    ran = cluster.hakuriver("submit", "--", str(BIN / "hakurun"), "-j", "2", "sleep", span)
    job = ran.stdout.strip()
    log = cluster.root / "task_errors" / f"{job}.err"
    eventually(lambda: log.exists() and "Task 2/4" in log.read_text(), PATIENCE_S)
    assert cluster.hakuriver("task", "kill", job).returncode == 0
    assert cluster.hakuriver("task", "wait", job).returncode == 143
    assert not [pid for number in range(4) for pid in processes(str(seconds + number))]


def test_a_dry_run_of_a_job_is_what_submits_it(cluster: Up, records: Path) -> None:
    line = hakurun(
        cluster, "--dry-run", "--submit", "--wait", "--", "sh", "-c", RECORD, str(records), "span:[a,b]"
    ).stdout
    assert cluster.hakuriver(*shlex.split(line)[1:]).returncode == 0
    assert sorted(file.read_text() for file in records.iterdir()) == ["a|", "b|"]
