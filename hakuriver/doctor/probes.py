"""What one machine can try out in one directory of the share, with a second process where it takes two.

Each probe is a function of a `Bench`: the doctor's directory. It tells findings, or raises ShareError, which says
nothing about the filesystem's promises (it may be away, full, read-only) unless it is one of NEVER.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from hakuriver.doctor import rivalry
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding
from hakuriver.doctor.rival import NoRival, Rival
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.units import format_duration, format_size

#: Errors with which a filesystem says that it cannot do what is asked, ever.
NEVER = {errno.ENAMETOOLONG, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EILSEQ}
#: Bytes of the longest name that the river makes.
NAME_MOST = 200
#: Files raced for by the quick part, and by the whole.
RACED_QUICKLY, RACED = 20, 100
#: Names that are listed to see how long that takes.
LISTED = 200
#: Seconds in which a name that another process of this machine has made must be listed.
LISTED_WITHIN_S = 5.0
#: Less left than this, in bytes or as a part, is told.
BYTES_LOW, PART_LOW, INODES_LOW = 1 << 30, 0.05, 0.01
#: Published documents per second below which the river is slow: a tick of the host takes about four.
RATE_LOW = 10.0
RATE_SECONDS, RATE_MOST = 0.7, 200
#: Uids that servers give to whom they do not trust.
NOBODY = {65534, 65533, 99, 4294967294, 4294967295}

_OTHER_SHARE = "use another filesystem: NFS, GlusterFS, MooseFS, CephFS, SMB, sshfs, or a local disk"


class Bench(NamedTuple):
    """Where things are tried."""

    disk: Disk
    at: str  #: the doctor's directory, below the root

    def path(self, name: str) -> str:
        """A file of ours, below the root."""
        return f"{self.at}/{name}"

    def full(self, name: str) -> str:
        """The same on this machine."""
        return f"{self.disk.root}/{self.at}/{name}"


Probe = Callable[[Bench], list[Finding]]


def tried(check: str, probe: Probe, bench: Bench) -> list[Finding]:
    """What a probe tells; if it cannot be carried out, that."""
    try:
        return probe(bench)
    except ShareError as error:
        return [unable(check, error)]
    except OSError as error:
        return [_not_tried(check, f"cannot use {bench.at or bench.disk.root}: {error.strerror or error}")]
    except NoRival as error:
        return [Finding(check, NOTE, f"not tried: a second process: {error}", "it could not be seen", "try again")]


def unable(check: str, error: ShareError) -> Finding:
    """What an error says: nothing of the promises, but where the filesystem says that it never can."""
    if error.errno in NEVER:
        return Finding(check, BROKEN, str(error), "the river cannot work without this", _OTHER_SHARE)
    return _not_tried(check, str(error))


def _not_tried(check: str, why: str) -> Finding:
    return Finding(
        check, WARNING, f"not tried: {why}", "while that lasts nothing can be written, and daemons wait",
        "see whether the share is mounted read-write, has room, and belongs to the user who runs this",
    )  # fmt: skip


# -- documents


def document(bench: Bench) -> list[Finding]:
    """A document is written, synced and renamed, and then it stands there, whole."""
    data = os.urandom(3000)
    files.publish(bench.disk, bench.path("document.json"), data)  # with fsync of the file and of the directory
    if "document.json" not in files.names(bench.disk, bench.at):
        return [_broken("share.write", "a file that was renamed is not listed", "nobody would find new work")]
    if bench.disk.read(bench.path("document.json")) != data:
        return [_broken("share.write", "a file reads back different from what was written", "no record can be trusted")]
    return [Finding("share.write", OK, "written, synced, renamed, listed, read back")]


def _broken(check: str, value: str, meaning: str) -> Finding:
    return Finding(check, BROKEN, value, meaning, _OTHER_SHARE)


def names(bench: Bench) -> list[Finding]:
    """Names as the river makes them are listed as they were written, and two of them are two."""
    stem = "n" * (NAME_MOST - 1)
    wanted = {f"{stem}a", f"{stem}b", "a._-0.tmp.json", "000001-000000000001.json"}
    at = bench.path("names")
    bench.disk.mkdir(at)
    for name in sorted(wanted):
        bench.disk.write(f"{at}/{name}", name.encode(), durable=False)
    found = set(files.names(bench.disk, at))
    if found != wanted:
        return [_broken("share.names", f"{len(wanted - found)} of {len(wanted)} names are listed otherwise than "
                        "written", "what the river needs to know stands in names")]  # fmt: skip
    if any(bench.disk.read(f"{at}/{name}") != name.encode() for name in wanted):
        return [_broken("share.names", "two names are one file", "one document would take another's place")]
    return [Finding("share.names", OK, f"kept, up to {NAME_MOST} bytes")]


def case(bench: Bench) -> list[Finding]:
    """Whether `a` and `A` are two names."""
    bench.disk.write(bench.path("case-a"), b"", durable=False)
    if not os.path.lexists(bench.full("CASE-A")):
        return [Finding("share.case", OK, "names that differ by case are two")]
    meaning = "the river makes no such names; outputs that your own tasks write may take each other's place"
    return [Finding("share.case", NOTE, "names that differ by case are one", meaning)]


def exclusive(bench: Bench) -> list[Finding]:
    """A file that is there cannot be made as a new one (O_EXCL)."""
    bench.disk.write(bench.path("exclusive"), b"", durable=False)
    with Rival(bench.disk.root) as rival:
        made = rival.ask("exclusive", bench.path("exclusive"))
    if made:
        return [
            _broken("share.exclusive", "O_EXCL makes a file that is there", "one document would take another's place")
        ]
    return [Finding("share.exclusive", OK, "O_EXCL refuses a file that is there")]


def links(bench: Bench) -> list[Finding]:
    """Hard links: they only spare effort."""
    bench.disk.write(bench.path("link-a"), b"", durable=False)
    try:
        bench.disk.link(bench.path("link-a"), bench.path("link-b"))
    except (OSError, ShareError):
        return [
            Finding("share.links", NOTE, "no hard links", "copies of receipts are written instead, which costs a bit")
        ]
    return [Finding("share.links", OK, "hard links")]


# -- two processes


def rename_race(count: int) -> Probe:
    """A probe: two processes of this machine race for so many files."""

    def race(bench: Bench) -> list[Finding]:
        at = bench.path("race")
        rivalry.lay_out(bench.disk, at, count)
        with Rival(bench.disk.root) as rival:
            rival.ask("hello")
            start = time.monotonic() + 0.002
            rival.send("race", at, count, start)
            mine = rivalry.race(bench.disk, at, "own", rivalry.at_once(count, start))
            theirs = rival.answer()
        stand = rivalry.standing(bench.disk, at, ("own", "rival"), count, LISTED_WITHIN_S)
        return [rivalry.judge("share.rename", {"own": set(mine), "rival": set(theirs)}, stand, count)]

    return race


def others_names(bench: Bench) -> list[Finding]:
    """What another process of this machine has made is listed at once."""
    with Rival(bench.disk.root) as rival:
        rival.ask("create", bench.path("of-another"))
    end = time.monotonic() + LISTED_WITHIN_S
    while "of-another" not in files.names(bench.disk, bench.at):
        if time.monotonic() > end:
            what = f"what another process has made is not listed within {LISTED_WITHIN_S:.0f} s"
            return [_broken("share.listing", what, "nobody would find new work")]
        time.sleep(0.02)
    return [Finding("share.listing", OK, "shows what another process of this machine has made")]


def locks(bench: Bench) -> list[Finding]:
    """Whether flock keeps two processes of this machine apart."""
    try:
        held = rivalry.hold(bench.full("lock"))
    except OSError as error:
        return [rivalry.judge_lock("share.locks", error.strerror or str(error), "two processes here")]
    try:
        with Rival(bench.disk.root) as rival:
            seen = rival.ask("lock", bench.path("lock"))
    finally:
        if held is not None:
            os.close(held)
    return [rivalry.judge_lock("share.locks", seen, "two processes here")]


# -- whose files


def owner(bench: Bench) -> list[Finding]:
    """Whether a new file is its maker's."""
    bench.disk.write(bench.path("owner"), b"", durable=False)
    return [judge_owner("share.owner", os.stat(bench.full("owner")).st_uid, os.geteuid())]


def judge_owner(check: str, uid: int, maker: int) -> Finding:
    """`uid`: as the file shows it; `maker`: who made it."""
    if uid == maker:
        return Finding(check, OK, f"files are their maker's (uid {uid})")
    if uid in NOBODY:
        return Finding(
            check, WARNING, f"files of uid {maker} become nobody's (uid {uid})",
            "the server trusts this user with nothing (root_squash, or an unknown uid): requests cannot be told apart, "
            "and the river's files cannot be changed by those who made them",
            "run the river as an ordinary user with the same uid on all machines and on the server",
        )  # fmt: skip
    return Finding(
        check, WARNING, f"files of uid {maker} appear as uid {uid}'s",
        "the mount hides owners: whoever may write into incoming/ is taken for the owner of the river",
        f"let only one user mount it, as its own: `uid={maker}` (SMB), `-o idmap=user` (sshfs)",
    )  # fmt: skip


def service_user(bench: Bench) -> list[Finding]:
    """Whether what is made here belongs to the river's user, as this mount shows it. Nothing where is no river yet."""
    bench.disk.write(bench.path("user"), b"", durable=False)
    try:
        river = os.stat(os.path.join(bench.disk.root, layout.SENTINEL)).st_uid
    except FileNotFoundError:
        return []
    return [judge_service_user(os.stat(bench.full("user")).st_uid, river)]


def judge_service_user(own: int, river: int) -> Finding:
    """`own`: whose a file is that this process makes; `river`: whose river.json is."""
    if own == river:
        return Finding("share.user", OK, f"the river's own (uid {river})")
    return Finding(
        "share.user", BROKEN, f"files made here are uid {own}'s, the river is uid {river}'s",
        "host and runners write into one another's directories: they could not, and the whole river would stand still",
        f"run it as the river's user: `sudo -u '#{river}' hakuriver ...`",
    )  # fmt: skip


def mode(bench: Bench) -> list[Finding]:
    """Whether permissions are kept."""
    bench.disk.write(bench.path("mode"), b"", durable=False)
    try:
        os.chmod(bench.full("mode"), 0o600)
    except OSError:
        pass  # the mount gives all files one mode; the look below shows which
    found = stat.S_IMODE(os.stat(bench.full("mode")).st_mode)
    if found == 0o600:
        return [Finding("share.mode", OK, "permissions are kept")]
    meaning = "permissions are the mount's: others who reach the share may read what lies there, environments too"
    return [Finding("share.mode", NOTE, f"0600 becomes {found:04o}", meaning, "restrict it in the mount: "
                    "`file_mode=0600,dir_mode=0700` (SMB), or who may use it at all")]  # fmt: skip


def clock(bench: Bench) -> list[Finding]:
    """The clock that stamps files, against this machine's."""
    before = time.time()
    bench.disk.write(bench.path("clock"), b"", durable=False)
    after = time.time()
    off = os.stat(bench.full("clock")).st_mtime - (before + after) / 2
    error = 1.0 + (after - before) / 2  # some filesystems keep whole seconds
    if abs(off) <= error + 1:
        return [Finding("share.clock", OK, "files are stamped by a clock like this machine's")]
    what = f"files are stamped {format_duration(abs(off))} {'ahead of' if off > 0 else 'behind'} this machine's clock"
    return [Finding("share.clock", NOTE, what, "the river compares no clocks; times that people read are off",
                    "keep the clocks of all machines and of the file server in step (chrony)")]  # fmt: skip


# -- speed and room


def speed(bench: Bench) -> list[Finding]:
    """Documents per second, and how long a listing takes."""
    return [_rate(bench), _listing(bench)]


def _rate(bench: Bench) -> Finding:
    each = rivalry.rate(bench.disk, bench.path("rate"), RATE_SECONDS, RATE_MOST)
    return judge_rate("share.rate", each)


def judge_rate(check: str, each: float) -> Finding:
    """`each`: documents per second."""
    value = f"{each:.0f} documents a second, each synced" if each >= 1 else f"{1 / each:.0f} s for each document"
    if each >= RATE_LOW:
        return Finding(check, OK, value)
    return Finding(check, WARNING, value, "submitting takes seconds, and a task's start and end are told late",
                   "see what else keeps the server busy, and whether its disks are slow to sync")  # fmt: skip


def _listing(bench: Bench) -> Finding:
    at = bench.path("listed")
    bench.disk.mkdir(at)
    end, made = time.monotonic() + 3.0, 0
    while made < LISTED and time.monotonic() < end:
        bench.disk.write(f"{at}/{made}", b"", durable=False)
        made += 1
    begin = time.monotonic()
    found = len(files.names(bench.disk, at))
    took = time.monotonic() - begin
    if found != made:
        return Finding("share.listed", WARNING, f"{found} of {made} names are listed",
                       "listings miss entries: work is found later than it could be", _OTHER_SHARE)  # fmt: skip
    value = f"{made} names listed in {took * 1000:.1f} ms"
    if took < 1.0:
        return Finding("share.listed", OK, value)
    return Finding("share.listed", WARNING, value, "every look for news takes so long",
                   "see what else keeps the server busy; on NFS mount without `noac`")  # fmt: skip


def room(bench: Bench) -> list[Finding]:
    """Bytes and inodes left: told of the whole, whether or not the bench can be made."""
    return judge_room("share", os.statvfs(bench.disk.root))


def judge_room(group: str, found: os.statvfs_result) -> list[Finding]:
    """What statvfs(3) tells; a filesystem without a fixed number of inodes tells 0."""
    left, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    inodes = found.f_favail if found.f_files else None
    told = [
        _left(
            f"{group}.space",
            f"{format_size(left)} of {format_size(size)} left",
            left < BYTES_LOW or left < size * PART_LOW,
        )
        if size
        else Finding(f"{group}.space", NOTE, "no figure", "how much is left cannot be told here")
    ]
    if inodes is not None:
        value = f"{inodes:,} of {found.f_files:,} files left"
        told.append(_left(f"{group}.inodes", value, inodes < found.f_files * INODES_LOW))
    return told


def _left(check: str, value: str, low: bool) -> Finding:
    if not low:
        return Finding(check, OK, value)
    return Finding(
        check, WARNING, value, "when it is full nothing is accepted, and running tasks keep their output on the nodes",
        "free some space: `hakuriver host gc --older-than 7d` deletes old jobs with their outputs",
    )  # fmt: skip


#: What every daemon tries when it starts, by check. The first is the one without which the others are not worth trying.
QUICK: dict[str, Probe] = {
    "share.write": document,
    "share.names": names,
    "share.rename": rename_race(RACED_QUICKLY),
    "share.user": service_user,
}
#: What `hakuriver doctor` tries.
FULL: dict[str, Probe] = {
    "share.write": document,
    "share.names": names,
    "share.case": case,
    "share.rename": rename_race(RACED),
    "share.exclusive": exclusive,
    "share.listing": others_names,
    "share.locks": locks,
    "share.links": links,
    "share.owner": owner,
    "share.mode": mode,
    "share.clock": clock,
    "share.rate": speed,
}
#: What it tells before, since it needs no bench: of a share on which none can be made, too.
BEFORE: dict[str, Probe] = {"share.space": room}


def still_there(bench: Bench) -> bool:
    """Whether the share has not gone away meanwhile: what was seen last would say nothing."""
    try:
        return bench.at.rpartition("/")[2] in files.names(bench.disk, layout.DOCTOR)
    except (ShareError, OSError):
        return False
