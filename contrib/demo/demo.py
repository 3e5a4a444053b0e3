"""A cluster of two nodes on a temporary share does real work, step by step; run by `make demo`.

Exits with 0 only if everything went as it is told here.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from stage import Stage, Unexpected, fresh_directory, say

BUILD = Path(__file__).resolve().parents[2] / "build"
SQUARE = "'echo $((HAKURIVER_TASK_INDEX * HAKURIVER_TASK_INDEX))'"
MEMORY_EATER = "'held=$(head -c 300M /dev/zero | tr \"\\0\" x); sleep 30'"


def begin(stage: Stage) -> None:
    """A share, a host and two runners, each with its own configuration, as on three machines."""
    say("One directory is all that the machines of a cluster have in common.")
    stage.shell(f"hakuriver init share --shared-dir {stage.share} --name demo")
    say("A host, and two nodes of four cores each. On a real cluster each of the three is a machine.")
    host = stage.configure("host")
    stage.use(host)
    stage.shell(f"cat {host}")
    stage.start("host", f"hakuriver --config {host} host")
    for node in ("node-a", "node-b"):
        config = stage.configure(node, cores=4)
        stage.start(node, f"hakuriver --config {config} runner")
    nodes = stage.share / "index" / "nodes.json"
    stage.wait_until("both nodes are online", lambda: nodes.exists() and nodes.read_text().count('"online"') == 2)
    stage.shell("hakuriver node list", contains="node-b")


def submit_by_command(stage: Stage) -> str:
    """One task by the command line, and its output."""
    say("A job by the command line: it prints the job's id, and that means that the job is safe.")
    job = stage.shell("hakuriver submit --name hello -- echo 'hello from the river'").strip()
    stage.shell(f"hakuriver task wait {job}")
    stage.shell(f"hakuriver task logs {job}", contains="hello from the river")
    return job


def submit_by_hand(stage: Stage) -> str:
    """One task by a plain copy of a file."""
    say("A job by hand: any program that can write a file can submit. The receipt tells the id.")
    written = stage.directory / "job.json"
    written.write_text('{"command": ["uname", "-sr"], "name": "by-hand"}\n')
    stage.shell(f"cat {written}")
    stage.shell(f"cp {written} {stage.share}/incoming/")
    receipt = stage.share / "receipts" / "job.json"
    stage.wait_until("the receipt is there", receipt.exists)
    stage.shell(f"cat {receipt}", contains='"accepted"')
    job: str = json.loads(receipt.read_text())["ids"][0]
    stage.shell(f"hakuriver task wait {job}")
    stage.shell(f"cat {stage.share}/task_outputs/{job}.out", contains="Linux")
    return job


def array(stage: Stage) -> str:
    """Two hundred tasks as one job."""
    say("200 tasks as one job; each learns its index, and the outputs lie in a directory of the job.")
    begun = time.monotonic()
    job = stage.shell(f"hakuriver submit --quiet --name squares --array 0-199 -- sh -c {SQUARE}").split("-")[0].strip()
    stage.shell(f"hakuriver task wait {job}")
    print(f"({time.monotonic() - begun:.1f} s for all)")
    stage.shell(f"cat {stage.share}/task_outputs/{job}/*.out | wc -l", contains="200")
    stage.shell(f"hakuriver task logs {job}-199", contains="39601")
    return job


def failing(stage: Stage) -> str:
    """A task that fails: its exit code is that of `wait`."""
    say("A task that fails: `wait` exits with its exit code, and its stderr was kept.")
    job = stage.shell("hakuriver submit --name failing -- sh -c 'echo no such luck >&2; exit 3'").strip()
    stage.shell(f"hakuriver task wait {job}", expect=3)
    stage.shell(f"hakuriver task logs --err {job}", contains="no such luck")
    return job


def killed(stage: Stage) -> str:
    """A task that is killed while it runs."""
    say("A task that runs for an hour, and is killed: 143 is 128 and the signal TERM.")
    job = stage.shell("hakuriver submit --name too-long -- sleep 3600").strip()
    stage.wait_until("it runs", lambda: job in running(stage))
    stage.shell(f"hakuriver task kill {job}")
    stage.shell(f"hakuriver task wait {job}", expect=143)
    return job


def running(stage: Stage) -> str:
    """The snapshots of jobs that run now."""
    found = []
    for snapshot in (stage.share / "jobs" / "active").glob("*/*/*.json"):
        try:
            text = snapshot.read_text()
        except FileNotFoundError:
            continue  # replaced by a newer one just now
        if json.loads(text)["counts"].get("running"):
            found.append(text)
    return "".join(found)


def over_memory(stage: Stage) -> str:
    """A task that takes more memory than it asked for."""
    say("A task that takes 300 MB and was given 50: it ends as killed_oom, and nobody else is disturbed.")
    job = stage.shell(f"hakuriver submit --name hungry --memory 50M -- sh -c {MEMORY_EATER}").strip()
    stage.shell(f"hakuriver task wait {job}", expect=137)
    stage.shell(f"hakuriver task status {job}", contains="killed_oom")
    return job


def results(stage: Stage, jobs: dict[str, str]) -> None:
    """The table of all that was done, and the pages."""
    say("What has been done, and where.")
    page = stage.share / "www" / "index.html"
    recent = stage.share / "index" / "recent.json"
    told = lambda: page.exists() and all(job in recent.read_text() for job in jobs.values())  # noqa: E731
    stage.wait_until("index and pages know every job", told)
    table = stage.shell("hakuriver task list")
    for name, state in EXPECTED.items():
        if not any(name in row and state in row for row in table.splitlines()):
            raise Unexpected(f"the table does not tell that {name} is {state}")
    stage.shell("hakuriver node list", contains="node-a")


EXPECTED = {
    "hello": "completed", "by-hand": "completed", "squares": "completed", "failing": "failed",
    "too-long": "killed", "hungry": "killed_oom",
}  # fmt: skip


def play(stage: Stage) -> None:
    """The whole demo."""
    begin(stage)
    jobs = {
        "hello": submit_by_command(stage), "by-hand": submit_by_hand(stage), "squares": array(stage),
        "failing": failing(stage), "too-long": killed(stage), "hungry": over_memory(stage),
    }  # fmt: skip
    results(stage, jobs)
    say("All three are asked to end with TERM; nothing may be left running.")
    stage.stop()
    print(f"stopped, and no process is left\n\nThe status pages: {stage.share / 'www' / 'index.html'}")
    print("(they are kept, with the share, until the next demo)")


def interrupted(_signum: int, _frame: FrameType | None) -> None:
    """TERM ends the demo as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Play; whatever happens, leave no process behind."""
    signal.signal(signal.SIGTERM, interrupted)
    stage = Stage(fresh_directory(BUILD))
    begun, failed = time.monotonic(), True
    try:
        play(stage)
        failed = False
    except Unexpected as error:
        print(f"\nThe demo FAILED: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; stopping what was started", file=sys.stderr)
        return 130
    finally:
        stage.clear(failed)
    print(f"{'failed' if failed else 'done'} after {time.monotonic() - begun:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
