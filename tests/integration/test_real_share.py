"""A share that is away for a moment, full, or read-only: said clearly, nothing lost, and work goes on by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, status_of
from conftest import assert_whole, eventually
from daemons import MIB, PATIENCE_S, Daemon, can_mount, mount, unmount
from processes import processes

from hakuriver.errors import ShareProblem
from hakuriver.ids import task_name

SIZE = 24 * MIB  #: of the small share


def counting(end: Path) -> str:
    """Prints 0, 1, 2 ... until a file is there, then `end`."""
    return f"n=0; while [ ! -e {end} ]; do echo $n; n=$((n + 1)); sleep 0.01; done; echo end"


def test_a_share_that_is_away_for_a_moment_disturbs_nothing(scratch: Path) -> None:
    with Cluster(scratch) as river:
        daemons = [river.start_host(), river.start_runner("n1", "m1"), river.start_runner("n2", "m2")]
        end = river.work / "end"
        tasks = [river.submit(counting(end), workdir="/", retries=n) for n in (0, 3)]
        ends_meanwhile = river.submit(f"while [ ! -e {end}.first ]; do sleep 0.02; done; echo over", workdir="/")
        for job in (*tasks, ends_meanwhile):
            river.in_state(job, "running")
        away = river.share.with_suffix(".away")
        river.share.rename(away)
        for daemon in daemons:
            eventually(lambda daemon=daemon: "not mounted" in daemon.log or "No such file" in daemon.log, PATIENCE_S)  # type: ignore[misc]
        end.with_suffix(".first").touch()
        eventually(lambda: not processes(f"{end}.first"))
        with pytest.raises(ShareProblem, match=r"river\.json"):
            river.submit(["true"])
        assert not river.share.exists()
        away.rename(river.share)
        assert river.ended(ends_meanwhile).state == "completed"
        assert river.out(ends_meanwhile) == "over\n"
        end.touch()
        for job in tasks:
            ended = river.ended(job)
            assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
            assert_whole(river.out(job))
        assert all(daemon.running for daemon in daemons)
        assert all("Traceback" not in daemon.log for daemon in daemons)


def test_daemons_that_start_before_the_share_is_there_wait_for_it(scratch: Path) -> None:
    with Cluster(scratch) as river:
        away = river.share.with_suffix(".away")
        river.share.rename(away)
        river.share.mkdir()  # the mount point of a share that is not mounted
        daemons = [river.host().start(), river.runner("n1").start()]
        for daemon in daemons:
            eventually(lambda daemon=daemon: "river.json" in daemon.log, PATIENCE_S)  # type: ignore[misc]
        assert not list(river.share.iterdir()), "nothing is made where the share is not"
        river.share.rmdir()
        away.rename(river.share)
        assert river.ended(river.submit("echo hi")).state == "completed"
        assert all(daemon.running for daemon in daemons)


# -- a share that cannot be written

Spoil = tuple[Callable[[], None], Callable[[], None], str]


@pytest.fixture(params=["full", "read-only"])
def spoiled(request: pytest.FixtureRequest, scratch: Path) -> Iterator[tuple[Path, Spoil]]:
    """A small share of its own; what makes it refuse writes, what mends it, and what is to be said."""
    if not can_mount(scratch):
        pytest.skip("a full and a read-only share: run the tests as root where mount(8) is allowed")
    share = scratch / "share"
    share.mkdir()
    mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(share))
    filler = share / "shared_data" / "of-somebody-else"

    def set_read_only() -> None:
        eventually(lambda: succeeded(lambda: mount("-o", "remount,ro", str(share))))  # busy while a file is written

    if request.param == "full":
        yield share, (lambda: fill(filler), filler.unlink, "full")
    else:
        yield share, (set_read_only, lambda: mount("-o", "remount,rw", str(share)), "read-only")
    unmount(share)


def succeeded(call: Callable[[], None]) -> bool:
    try:
        call()
    except Exception:
        return False
    return True


def fill(path: Path) -> None:
    """Leave not a byte."""
    with open(path, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


def test_a_share_that_refuses_writes(scratch: Path, spoiled: tuple[Path, Spoil]) -> None:
    share, (spoil, mend, said) = spoiled
    with Cluster(scratch, share=share) as river:
        host, runner = river.start_host(), river.start_runner("n1")
        end = river.work / "end"
        talks = river.submit(counting(end), workdir="/", retries=1)
        ends = river.submit(f"while [ ! -e {end} ]; do sleep 0.02; done; echo over; exit 3", workdir="/")
        waits = river.submit("echo waited", cores=4, array="0-1")
        for job in (talks, ends):
            river.in_state(job, "running")
        river.in_state(waits, "pending")
        spoil()
        tell(host, said)
        tell(runner, said)
        spoil()  # what they had begun before may have made room; now they are stuck
        with pytest.raises(ShareProblem, match=said):
            river.submit(["true"])
        end.touch()
        eventually(lambda: not processes("-c", str(end)))
        assert not river.job(ends).over
        mend()
        ended = river.ended(ends)
        assert (ended.state, ended.exit_code, ended.tasks[0].attempt) == ("failed", 3, 1)
        assert river.out(ends) == "over\n"
        ended = river.ended(talks)
        assert (ended.state, ended.tasks[0].attempt) == ("completed", 1)
        assert_whole(river.out(talks))
        assert river.ended(waits).counts == {"completed": 2}
        assert [river.out(waits, k) for k in (0, 1)] == ["waited\n"] * 2
        assert river.ended(river.submit("echo after")).state == "completed"
        assert all(daemon.running and "Traceback" not in daemon.log for daemon in (host, runner))
        eventually(lambda: not list(share.rglob(".*.tmp")))  # what could not be written has not been left behind


def tell(daemon: Daemon, what: str) -> None:
    """Wait until a daemon has said what is wrong; it says so once, not again and again."""
    eventually(lambda: what in daemon.log, PATIENCE_S)
    lines = [line.partition(" INFO ")[2] or line for line in daemon.log.splitlines() if what in line]
    assert len(lines) < 40, lines


# -- much output while the share is away

LIMIT = 4 * MIB


def test_the_middle_of_much_output_is_dropped_and_a_line_says_so(scratch: Path) -> None:
    with Cluster(scratch, limits={"output_local": LIMIT}) as river:
        river.start_host()
        runner = river.start_runner("n1")
        go, end = river.work / "go", river.work / "end"
        line = "x" * 99
        script = f"""
            echo BEGIN; while [ ! -e {go} ]; do sleep 0.02; done
            yes {line} | head -c 50000000; echo; echo LAST; : >{go}.done
            while [ ! -e {end} ]; do sleep 0.02; done; echo END"""
        job = river.submit(script, workdir="/")
        eventually(lambda: river.out(job) == "BEGIN\n")
        away = river.share.with_suffix(".away")
        river.share.rename(away)
        go.touch()
        eventually(lambda: Path(f"{go}.done").exists())
        eventually(lambda: local_bytes(runner) <= LIMIT * 1.25)
        end.touch()
        eventually(lambda: not processes("-c", str(end)))
        away.rename(river.share)
        ended = river.ended(job)
        assert ended.state == "completed"
        text = river.out(job, ended.tasks[0].k, 1)
        lines = text.splitlines()
        assert lines[0] == "BEGIN"
        assert lines[-2:] == ["LAST", "END"]
        assert len(text) < 2 * LIMIT
        notes = [found for found in lines[1:-2] if found and set(found) != {"x"}]
        assert any("drop" in note.lower() or "bytes" in note.lower() for note in notes), notes
        assert task_name(job, None) == ended.tasks[0].task


def local_bytes(runner: Daemon) -> int:
    """What the outputs of this machine's tasks take on its own disk."""
    found = map(status_of, runner.machine.state.rglob("out/*"))
    return sum(status.st_blocks * 512 for status in found if status)
