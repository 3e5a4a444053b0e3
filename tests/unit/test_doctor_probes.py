"""What is tried out in one directory: a real one, disks that lie, shares that are away, full, read-only."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from riverfiles import RiverFiles

from hakuriver.daemons import Refused, Stop
from hakuriver.doctor import machine, mounts, probes, rivalry, site
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding, of_status
from hakuriver.doctor.mounts import Mount
from hakuriver.doctor.probes import Bench
from hakuriver.doctor.quick import quick, refuse_broken
from hakuriver.doctor.rival import NoRival, Rival
from hakuriver.host import daemon as host_daemon
from hakuriver.runner import daemon as runner_daemon
from hakuriver.settings import parse
from hakuriver.spool import layout
from hakuriver.spool.files import Entry, LocalDisk, ShareError

RUN = "17000000000000000001"
log = logging.getLogger("test")


@pytest.fixture
def river(scratch: Path) -> RiverFiles:
    return RiverFiles(scratch / "river")


@pytest.fixture
def bench(river: RiverFiles) -> Iterator[Bench]:
    disk = LocalDisk(str(river.root))
    with site.opened(disk, RUN) as at:
        yield Bench(disk, at)
    assert not os.listdir(river.root / layout.DOCTOR)


# -- a directory that does what it should


@pytest.mark.parametrize("check", probes.FULL)
def test_all_is_well_on_a_local_disk(bench: Bench, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "RATE_LOW", 0.0)  # how fast the disk is now is not asked
    found = probes.tried(check, probes.FULL[check], bench)
    assert found
    assert {f.status for f in found} == {OK}
    assert {f.group for f in found} == {"share"}


def test_room_is_told_where_nothing_can_be_made(scratch: Path) -> None:
    (probe,) = probes.BEFORE.values()
    found = probes.tried("share.space", probe, Bench(LocalDisk(str(scratch)), ""))
    assert {f.status for f in found} <= {OK, WARNING, NOTE}
    assert found[0].check == "share.space"
    gone = str(scratch / "gone")
    (failed,) = probes.tried("share.space", probe, Bench(LocalDisk(gone), ""))
    assert (failed.status, failed.value) == (WARNING, f"not tried: cannot use {gone}: No such file or directory")


def test_the_quick_part_leaves_nothing_behind(river: RiverFiles) -> None:
    before = sorted(path.name for path in river.root.rglob("*"))
    found = quick(str(river.root))
    assert not of_status(found, BROKEN)
    assert {"share.write", "share.names", "share.rename", "share.user"} <= {f.check for f in found}
    assert sorted(path.name for path in river.root.rglob("*")) == before


def test_several_may_look_at_once(river: RiverFiles) -> None:
    code = "import sys; from hakuriver.doctor.quick import quick; print([f.status for f in quick(sys.argv[1])])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(river.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=60)[0] for process in running]
    assert all("ok" in each and "broken" not in each and "warning" not in each for each in told), told
    assert not os.listdir(river.root / layout.DOCTOR)


def test_a_race_is_decided_by_who_stands_there(bench: Bench) -> None:
    rivalry.lay_out(bench.disk, bench.path("r"), 4)
    assert rivalry.race(bench.disk, bench.path("r"), "a", [0.0] * 4) == [0, 1, 2, 3]
    assert rivalry.race(bench.disk, bench.path("r"), "b", [0.0] * 4) == []
    stand = rivalry.standing(bench.disk, bench.path("r"), ("a", "b"), 4, 0.0)
    assert stand == {"a": {0, 1, 2, 3}, "b": set()}


def test_whoever_is_late_in_a_race_is_in_time_for_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rivalry.lay_out(bench.disk, bench.path("r"), 3)
    now = [10.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def monotonic() -> float:
        sleep(1e-4)
        return now[0]

    monkeypatch.setattr(rivalry, "time", SimpleNamespace(monotonic=monotonic, sleep=sleep))
    assert rivalry.race(bench.disk, bench.path("r"), "a", [9.0, 10.5, 9.0]) == [1, 0, 2]
    assert now[0] == pytest.approx(10.5, abs=0.01)


def test_what_a_race_means() -> None:
    def status(mine: set[int], theirs: set[int], stand: tuple[set[int], set[int]]) -> str:
        return rivalry.judge("x.y", {"a": mine, "b": theirs}, {"a": stand[0], "b": stand[1]}, 2).status

    assert status({0}, {1}, ({0}, {1})) == OK
    assert status({0}, set(), ({0}, {1})) == OK
    assert status({0, 1}, {1}, ({0}, {1})) == BROKEN
    assert status({0}, {1}, ({0, 1}, {1})) == BROKEN
    assert status({0}, set(), ({0}, set())) == NOTE


# -- filesystems that do not


class Copies(LocalDisk):
    """A rename that leaves its source behind, as where a program copies between machines."""

    def rename(self, source: str, target: str) -> None:
        if "/race/" in source:
            with open(self._path(target), "wb") as file:
                file.write(b"")
        else:
            super().rename(source, target)


class Garbles(LocalDisk):
    def read(self, path: str) -> bytes:
        return super().read(path)[:-1] + b"?"


class Hides(LocalDisk):
    def list(self, path: str) -> list[Entry]:
        return [e for e in super().list(path) if not e.name.startswith("document")]


class Shouts(LocalDisk):
    def list(self, path: str) -> list[Entry]:
        return [Entry(e.name.upper(), e.is_dir) if "names" in path else e for e in super().list(path)]


class Cuts(LocalDisk):
    """Names of 143 bytes, as where they are encrypted."""

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        if len(os.path.basename(path)) > 143:
            raise ShareError("write", path, OSError(errno.ENAMETOOLONG, "File name too long"))
        super().write(path, data, durable=durable)


class NeverSyncs(LocalDisk):
    def sync(self, directories: object) -> None:
        raise ShareError("sync", "", OSError(errno.EINVAL, "Invalid argument"))


BAD = [Copies, Garbles, Hides, Shouts, Cuts, NeverSyncs]


@pytest.mark.parametrize("kind", BAD)
def test_a_filesystem_that_cannot_keep_the_promises_is_refused(river: RiverFiles, kind: type[LocalDisk]) -> None:
    root = str(river.root)
    broken = of_status(quick(root, kind(root)), BROKEN)
    assert len(broken) >= 1
    assert all(f.meaning and f.remedy for f in broken)
    with pytest.raises(Refused, match="cannot be worked on") as refused:
        refuse_broken(root, log, kind(root))
    assert broken[0].remedy in str(refused.value)
    assert not os.listdir(river.root / layout.DOCTOR)


def test_a_rename_that_both_win_is_said_to_run_tasks_twice(river: RiverFiles) -> None:
    (found,) = of_status(quick(str(river.root), Copies(str(river.root))), BROKEN)
    assert found.check == "share.rename"
    assert "won by both" in found.value
    assert "run twice" in found.meaning


def test_what_was_seen_once_is_not_enough_to_refuse(river: RiverFiles, caplog: pytest.LogCaptureFixture) -> None:
    class Once(LocalDisk):
        lied = False

        def read(self, path: str) -> bytes:
            data = super().read(path)
            if self.lied:
                return data
            self.lied = True
            return data + b"?"

    refuse_broken(str(river.root), log, Once(str(river.root)))


# -- shares that cannot be used just now


class Fails(LocalDisk):
    """From some operation on nothing can be written."""

    number, left = errno.ENOSPC, 0

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self.left -= 1
        if self.left < 0:
            raise ShareError("write", path, OSError(self.number, os.strerror(self.number)))
        super().write(path, data, durable=durable)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN,
                                    errno.EACCES, errno.EPERM, errno.ETIMEDOUT, errno.EHOSTDOWN])  # fmt: skip
@pytest.mark.parametrize("after", [0, 1, 4, 12])
def test_a_share_that_is_away_or_full_is_not_broken(
    river: RiverFiles, number: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Fails(str(river.root))
    disk.number, disk.left = number, after
    found = quick(str(river.root), disk)
    assert not of_status(found, BROKEN)
    (told,) = [f for f in of_status(found, WARNING) if f.group == "share"]
    assert os.strerror(number) in told.value
    assert told.remedy
    disk.left = after
    refuse_broken(str(river.root), log, disk)
    assert os.strerror(number) in caplog.text


def test_a_share_that_goes_away_meanwhile_is_not_broken(river: RiverFiles) -> None:
    class Goes(LocalDisk):
        def read(self, path: str) -> bytes:
            if layout.DOCTOR in path:
                river.root.rename(river.root.with_suffix(".away"))
                river.root.mkdir()
            return b"another filesystem's"

    assert not of_status(quick(str(river.root), Goes(str(river.root))), BROKEN)


def test_nothing_is_made_where_the_share_is_not(scratch: Path) -> None:
    found = quick(str(scratch))
    assert not of_status(found, BROKEN)
    assert "river.json" in of_status(found, WARNING)[0].value
    assert list(scratch.iterdir()) == []


@pytest.fixture(params=["full", "read-only"])
def spoiled(request: pytest.FixtureRequest, scratch: Path) -> Iterator[RiverFiles]:
    mount = scratch / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        river = RiverFiles(mount / "river")
        if request.param == "full":
            with pytest.raises(OSError, match="No space"):
                (mount / "ballast").write_bytes(b"x" * (1 << 20))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        yield river
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_and_a_read_only_share(spoiled: RiverFiles, caplog: pytest.LogCaptureFixture) -> None:
    refuse_broken(str(spoiled.root), log)
    assert "reboot" in caplog.text  # it is a tmpfs
    assert "not tried" in caplog.text


# -- what is left


def test_leftovers_are_removed_when_they_are_an_hour_old(river: RiverFiles) -> None:
    disk = LocalDisk(str(river.root))
    old, new = "15000000000000000001", "15000000000000000002"
    for run in (old, new):
        river.put(f"{layout.doctor(run)}/race/1", "x")
        river.put(layout.NodePaths("n1").doctor_ask(run), "")
    river.put("nodes/n1/node.1.json", "{}")
    for path in (layout.doctor(old), layout.NodePaths("n1").doctor_ask(old), "nodes/n1/node.1.json"):
        os.utime(river.root / path, (1e9, 1e9))
    with site.opened(disk, RUN) as at:
        site.sweep(disk, at)
        assert sorted(os.listdir(river.root / layout.DOCTOR)) == [new, RUN]
    assert sorted(os.listdir(river.root / "nodes/n1")) == [f"doctor.{new}", "node.1.json"]


def test_a_river_keeps_the_directory_and_another_does_not(river: RiverFiles, scratch: Path) -> None:
    with site.opened(LocalDisk(str(river.root)), RUN):
        pass
    assert os.listdir(river.root / layout.DOCTOR) == []
    (scratch / "new").mkdir()
    with site.opened(site.BareDisk(str(scratch / "new")), RUN):
        assert os.listdir(scratch / "new") == [layout.DOCTOR]
    assert os.listdir(scratch / "new") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what is another's")
def test_what_root_makes_anew_is_the_river_users(river: RiverFiles, caplog: pytest.LogCaptureFixture) -> None:
    for path in (river.root, *river.root.rglob("*")):
        os.chown(path, 12345, 12346)
    (river.root / layout.DOCTOR).rmdir()
    with pytest.raises(Refused, match="another user's"):
        refuse_broken(str(river.root), log)
    made = (river.root / layout.DOCTOR).stat()
    assert (made.st_uid, made.st_gid) == (12345, 12346)


# -- the second process


@pytest.mark.parametrize(("python", "why"), [("/nonexistent/python", "cannot be started"), ("/bin/true", "ended")])
def test_a_second_process_that_cannot_be_had_breaks_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, python: str, why: str
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    (found,) = probes.tried("share.rename", probes.rename_race(2), bench)
    assert (found.status, why in found.value) == (NOTE, True)


def test_a_second_process_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    hangs = scratch / "python"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hangs))
    monkeypatch.setattr("hakuriver.doctor.rival.PATIENCE_S", 0.1)
    (found,) = probes.tried("share.rename", probes.rename_race(2), bench)
    assert (found.status, "no answer" in found.value) == (NOTE, True)


def test_what_fails_there_is_told_here(bench: Bench) -> None:
    with Rival(bench.disk.root) as rival, pytest.raises(NoRival, match="No such file"):
        rival.ask("exclusive", "nothing/there/x")


# -- judgements


@pytest.mark.parametrize(("uid", "maker", "status"), [(7, 7, OK), (65534, 0, WARNING), (1000, 0, WARNING)])
def test_owners(uid: int, maker: int, status: str) -> None:
    found = probes.judge_owner("share.owner", uid, maker)
    assert (found.status, bool(found.remedy)) == (status, status != OK)


class Room(NamedTuple):
    f_bavail: int = 10**6
    f_blocks: int = 10**6
    f_frsize: int = 4096
    f_files: int = 1000
    f_favail: int = 1000


@pytest.mark.parametrize(
    ("room", "told"),
    [
        (Room(), [OK, OK]), (Room(f_bavail=200_000), [WARNING, OK]), (Room(f_blocks=10**9), [WARNING, OK]),
        (Room(f_favail=5), [OK, WARNING]), (Room(f_files=0, f_favail=0), [OK]), (Room(f_blocks=0, f_files=0), [NOTE]),
    ],
)  # fmt: skip
def test_room(room: Room, told: list[str]) -> None:
    assert [f.status for f in probes.judge_room("share", room)] == told  # type: ignore[arg-type]


def test_rates_and_locks() -> None:
    assert probes.judge_rate("x.y", 128).status == OK
    assert probes.judge_rate("x.y", 3).status == WARNING
    assert "10 s" in probes.judge_rate("x.y", 0.1).value
    assert rivalry.judge_lock("x.y", "kept", "both").status == OK
    assert rivalry.judge_lock("x.y", "given", "both").status == NOTE
    assert "No locks" in rivalry.judge_lock("x.y", "No locks available", "both").value


def on(kind: str) -> Mount:
    return Mount("/home", kind, "x", {})


@pytest.mark.parametrize(
    ("kind", "status"), [("ext4", OK), ("nfs4", BROKEN), ("fuse.sshfs", BROKEN), ("tmpfs", WARNING)]
)
def test_where_local_state_may_lie(kind: str, status: str) -> None:
    (found,) = machine.judge_state("/home/x", on(kind))
    assert found.status == status
    assert ("paths.state_dir" in found.remedy) == (status != OK)


def test_this_machine(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/x" if name == "bash" else None)
    found = {f.name: f for f in machine.examine("n1", str(scratch / "not/yet/there"))}
    assert {"node", "state", "clock", "bash", "ssh"} <= found.keys()
    assert found["bash"].status == OK
    assert found["ssh"].value == "not found"
    assert not (scratch / "not").exists()


@pytest.mark.parametrize("where", ["file", "file/state", "link", "link/state"])
def test_what_is_no_directory_stands_in_the_way_of_local_state(scratch: Path, where: str) -> None:
    (scratch / "file").touch()
    (scratch / "link").symlink_to(scratch / "nothing")
    found = {f.name: f for f in machine.examine("n1", str(scratch / where))}
    assert found["state"].status == BROKEN
    assert found["state"].value == f"{scratch}/{where.partition('/')[0]} is no directory"
    assert "space" not in found


def test_what_is_there_of_a_path(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    (scratch / "directory").mkdir()
    (scratch / "link").symlink_to("directory")
    found = {path: machine.existing(path) for path in ("directory", "link", "link/a/b", "a/b", "/no such", "/")}
    assert found == {
        "directory": f"{scratch}/directory", "link": f"{scratch}/link", "link/a/b": f"{scratch}/link",
        "a/b": str(scratch), "/no such": "/", "/": "/",
    }  # fmt: skip


@pytest.mark.parametrize(("in_step", "status"), [(True, OK), (False, NOTE), (None, NOTE)])
def test_the_clock(in_step: bool | None, status: str) -> None:
    assert machine.judge_clock(in_step).status == status
    assert machine.synchronised() in (True, False, None)


def test_every_warning_says_what_to_change(bench: Bench) -> None:
    cases: list[Callable[[], list[Finding]]] = [
        lambda: [probes.judge_owner("a.b", 65534, 0), probes.judge_owner("a.b", 5, 6), probes.judge_rate("a.b", 1)],
        lambda: probes.judge_room("a", Room(0, 1, 1, 100, 0)),  # type: ignore[arg-type]
        lambda: [probes.unable("a.b", ShareError("write", "x", OSError(number, "no"))) for number in (28, 22)],
        lambda: mounts.judge(Mount("/", "fuse.sshfs", "x", {"ro": ""})),
    ]
    for found in (finding for case in cases for finding in case()):
        assert finding_is_whole(found), found


def finding_is_whole(found: Finding) -> bool:
    return found.status in (OK, NOTE) or bool(found.value and found.meaning and found.remedy)


# -- daemons


@pytest.mark.parametrize("daemon", [host_daemon, runner_daemon])
def test_daemons_refuse_it_before_they_touch_anything(
    river: RiverFiles, scratch: Path, daemon: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalDisk.rename

    def copies(disk: LocalDisk, source: str, target: str) -> None:
        if "/race/" in source:
            Path(disk.root, target).touch()
        else:
            real(disk, source, target)

    monkeypatch.setattr(LocalDisk, "rename", copies)
    settings = parse({"paths": {"state_dir": str(scratch / "state")}}, "test", str(river.root))
    before = sorted(path.name for path in river.root.rglob("*"))
    with pytest.raises(Refused, match="won by both"):
        daemon.Ticking(settings, Stop()).run()
    assert sorted(path.name for path in river.root.rglob("*")) == before
    assert not (scratch / "state").exists()


@pytest.mark.parametrize("daemon", [host_daemon, runner_daemon])
def test_daemons_refuse_local_state_on_a_network_home(
    river: RiverFiles, scratch: Path, daemon: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = scratch / "home"
    monkeypatch.setattr(mounts, "of", lambda path: on("nfs4" if path.startswith(str(scratch)) else "ext4"))
    settings = parse({"paths": {"state_dir": str(home)}}, "test", str(river.root))
    with pytest.raises(Refused, match=r"paths\.state_dir: .* on nfs4: .* name a directory of this machine's own disk"):
        daemon.Ticking(settings, Stop()).run()
    assert not home.exists()


@pytest.mark.parametrize("daemon", [host_daemon, runner_daemon])
def test_daemons_refuse_a_place_where_no_state_can_be_kept(
    river: RiverFiles, scratch: Path, daemon: ModuleType
) -> None:
    (scratch / "file").touch()
    settings = parse({"paths": {"state_dir": str(scratch / "file/state")}}, "test", str(river.root))
    with pytest.raises(Refused, match=r"paths\.state_dir: .*/file is no directory: .*; name another place"):
        daemon.Ticking(settings, Stop()).run()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_runner_refuses_a_place_where_tasks_can_put_nothing(river: RiverFiles, scratch: Path, where: str) -> None:
    (scratch / "file").touch()
    table = {"paths": {"state_dir": str(scratch / "state"), "local_temp_dir": str(scratch / where)}}
    with pytest.raises(Refused, match=r"no scratch space in .*; name a directory .* in paths\.local_temp_dir"):
        runner_daemon.Ticking(parse(table, "test", str(river.root)), Stop()).run()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what is another's")
@pytest.mark.parametrize("daemon", [host_daemon, runner_daemon])
def test_daemons_refuse_the_river_of_another_user(river: RiverFiles, scratch: Path, daemon: ModuleType) -> None:
    for path in (river.root, *river.root.rglob("*")):
        os.chown(path, 12345, 12346)
    settings = parse({"paths": {"state_dir": str(scratch / "state")}}, "test", str(river.root))
    before = sorted(river.root.rglob("*"))
    with pytest.raises(Refused, match=r"another user's: files made here are uid 0's, the river is uid 12345's: .*sudo"):
        daemon.Ticking(settings, Stop()).run()
    assert sorted(river.root.rglob("*")) == before
    assert not (scratch / "state").exists()


def test_who_made_the_river_may_work_on_it(river: RiverFiles) -> None:
    refuse_broken(str(river.root), log)
    assert [f.status for f in quick(str(river.root)) if f.check == "share.user"] == [OK]


def test_of_what_is_no_river_there_is_no_user(scratch: Path) -> None:
    disk = site.BareDisk(str(scratch))
    with site.opened(disk, RUN) as at:
        assert probes.service_user(Bench(disk, at)) == []


@pytest.mark.parametrize("daemon", [host_daemon, runner_daemon])
def test_a_start_makes_one_directory_of_the_doctors(
    river: RiverFiles, scratch: Path, daemon: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = list[str](), LocalDisk.mkdir

    def noted(disk: LocalDisk, path: str) -> None:
        made.append(path)
        real(disk, path)

    monkeypatch.setattr(LocalDisk, "mkdir", noted)
    monkeypatch.setattr(mounts, "of", lambda path: on("nfs4" if path.startswith(str(scratch)) else "ext4"))
    settings = parse({"paths": {"state_dir": str(scratch / "home")}}, "test", str(river.root))
    with pytest.raises(Refused, match="nfs4"):  # which is seen next
        daemon.Ticking(settings, Stop()).run()
    assert len([path for path in made if path.count("/") == 1 and path.startswith(f"{layout.DOCTOR}/")]) == 1
