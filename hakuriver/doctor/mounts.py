"""Which filesystem a path lies on and how it is mounted, and what is known of such filesystems.

What the rules say was measured from two mounts of each, or stands in its manual page: nfs(5), mount.cifs(8), sshfs(1),
mount.glusterfs(8), mfsmount(8). Source of the table: proc_pid_mountinfo(5).
BUGS: a mount that lies hidden below another one of a directory above is taken for the one that is used.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding

MOUNTINFO = "/proc/self/mountinfo"
#: Options of sshfs that matter here.
_SSHFS_OPTIONS = re.compile(r"(dcache|dir_cache|cache)\w*|reconnect|ServerAlive\w+|idmap")
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A line of mountinfo."""

    point: str
    type: str
    source: str
    options: dict[str, str]  #: of the mount and of the filesystem; without a value: ""

    @property
    def shown(self) -> str:
        """For people."""
        told = ", ".join(f"{key}={value}" if value else key for key, value in self.options.items())
        return f"{self.type}, {self.source} on {self.point} ({told})"


Condition = Callable[[Mount], bool]


class Rule(NamedTuple):
    """What is to be said of a mount."""

    name: str
    status: str
    when: Condition
    meaning: str
    remedy: str = ""


def parse(text: str) -> list[Mount]:
    """Read mountinfo; lines that are none are passed over."""
    return [mount for line in text.splitlines() if (mount := _parse_line(line))]


def _parse_line(line: str) -> Mount | None:
    fields = line.split(" ")
    if "-" not in fields[6:]:
        return None
    dash = fields.index("-", 6)
    if len(fields) < dash + 4:
        return None
    options = {**_options(fields[5]), **_options(fields[dash + 3])}
    return Mount(_unescaped(fields[4]), fields[dash + 1], _unescaped(fields[dash + 2]), options)


def _options(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    return {key: _unescaped(value) for key, _, value in pairs}


def _unescaped(text: str) -> str:
    """Space, tab, newline and backslash stand there as octal numbers."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def lying_on(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that an absolute path lies on: the longest mount point above it, of equal ones the latest."""
    above = [m for m in mounts if path == m.point or path.startswith(m.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda m: len(m.point), default=None)


def of(path: str) -> Mount | None:
    """The mount that a path of this machine lies on now; None where /proc tells nothing."""
    try:
        with open(MOUNTINFO) as file:
            found = lying_on(parse(file.read()), os.path.realpath(path))
    except OSError:
        return None
    if found is None or found.type != "fuse.sshfs":
        return found
    return found._replace(options={**found.options, **_fuse_options(found.point)})


def _fuse_options(point: str) -> dict[str, str]:
    """Options that sshfs was started with: the kernel does not know them, its command line does."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended, or is somebody else's
            if "sshfs" in os.path.basename(words[0]) and point in words:
                return sshfs_options(words)
    return {}


def sshfs_options(words: list[str]) -> dict[str, str]:
    """Those options on a command line that matter here: `-o a,b=c` and `-oa,b=c`."""
    given = [after for word, after in itertools.pairwise(words) if word == "-o"]
    given += [word[2:] for word in words if word.startswith("-o") and word != "-o"]
    return {key: value for text in given for key, value in _options(text).items() if _SSHFS_OPTIONS.fullmatch(key)}


# -- conditions


def _always(_mount: Mount) -> bool:
    return True


def _has(*options: str) -> Condition:
    """One of these is set: `soft`, or with its value, `cache=loose`."""

    def holds(mount: Mount) -> bool:
        return any(mount.options.get(key) == value for key, _, value in (o.partition("=") for o in options))

    return holds


def _lacks(*options: str) -> Condition:
    return lambda mount: not _has(*options)(mount)


def _over(option: str, most: float, default: float = 0.0) -> Condition:
    """A number of seconds is larger than that."""

    def holds(mount: Mount) -> bool:
        try:
            return float(mount.options.get(option, default)) > most
        except ValueError:
            return False

    return holds


def _any(*conditions: Condition) -> Condition:
    return lambda mount: any(condition(mount) for condition in conditions)


# -- what is known

_READ_ONLY = Rule(
    "read_only", WARNING, _has("ro"), "nothing can be written here: no work can be done until that changes",
    "mount it read-write: mount -o remount,rw",
)  # fmt: skip

_NFS = (
    Rule(
        "soft", WARNING, _has("soft", "softerr"),
        "when the server is slow or restarts, operations fail in the middle and written data can be lost",
        "mount with `hard` instead of `soft`",
    ),
    Rule(
        "nocto", WARNING, _has("nocto"), "a directory is not looked at anew when it is opened, so listings are late",
        "mount without `nocto`",
    ),
    Rule(
        "lookupcache", NOTE,
        _lacks("lookupcache=none", "lookupcache=pos", "lookupcache=positive", "noac", "actimeo=0", "acdirmax=0"),
        "a name that is asked for before it is there is seen up to 30 s late; the river lists directories, which is "
        "fresh at once, but your own scripts that test for one file are late",
        "for such scripts mount with `lookupcache=positive`",
    ),
    Rule(
        "noac", NOTE, _has("noac", "actimeo=0", "acdirmax=0"),
        "every look goes to the server: directories of thousands of files take seconds, and appending from two "
        "machines loses lines all the same",
        "mount without it; `lookupcache=positive` is enough",
    ),
    Rule(
        "locks", NOTE, _has("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"),
        "locks hold on this machine only; nothing is decided by them here, but other programs may count on them",
    ),
    Rule("version", NOTE, _has("vers=3", "vers=2"), "locks go through a service of their own, and a retried request "
         "may report an error for what it has done; the river looks what became of it", "mount with `vers=4.2`"),
    Rule(
        "export", NOTE, _always,
        "accepted work survives a crash of the server only if that keeps what it acknowledged, which cannot be seen "
        "from here",
        "see on the server that /etc/exports says `sync` (the default), not `async`",
    ),
    Rule(
        "delegations", NOTE, _lacks("vers=3", "vers=2"),
        "a machine that vanishes may hold up, for the server's lease (90 s), whoever writes or removes a file that it "
        "has read; heartbeats go on meanwhile",
        "have a Linux server give no delegations: sysctl fs.leases-enable=0, before it starts",
    ),
)  # fmt: skip

_GLUSTER = (
    Rule(
        "caches", NOTE, _always,
        "replaced files read old for about a second, locks are lost without a word when a server restarts, and times "
        "of files are those of the writing machine's clock; nothing is decided by any of these",
        "keep the machines' clocks in step (chrony), for people who read the times",
    ),
)  # fmt: skip

_MOOSE = (
    Rule(
        "client", NOTE, _always,
        "when the mount's process dies the mount point is an empty local directory (the river looks for its "
        "river.json and waits), and a dead machine's locks stay for hours; nothing is decided by them",
        "have the mount's process started again by systemd or fstab",
    ),
    Rule(
        "durable", NOTE, _always,
        "as it is set by default, its servers acknowledge what is not on their disks yet: a power cut there may lose "
        "accepted work",
        "set HDD_FSYNC_BEFORE_CLOSE = 1 on the chunkservers and CHANGELOG_SAVE_MODE = 2 on the master",
    ),
)  # fmt: skip

_CIFS = (
    Rule(
        "owners", NOTE, _lacks("cifsacl", "posix", "modefromsid"),
        "all files appear as one user's: who asked for a job cannot be told, whoever may write into incoming/ is "
        "taken for the owner of the river",
        "let only the river's user mount it, with `uid=` and `gid=` of that user and `file_mode=0600,dir_mode=0700`",
    ),
    Rule(
        "names", NOTE, _lacks("posix", "nocase=0"),
        "names that differ by case alone are one name; the river makes none, but outputs that your tasks write may",
    ),
    Rule(
        "actimeo", WARNING, _any(_over("actimeo", 5), _over("acdirmax", 5)),
        "listings are as late as this: dispatches and endings wait so long", "mount with `actimeo=1`, the default",
    ),
    Rule(
        "closetimeo", NOTE, _over("closetimeo", 1),
        "a file that was read stays open so long, and a replaced one reads old meanwhile",
        "mount with `closetimeo=1`, the default, or 0",
    ),
    Rule(
        "cache", WARNING, _has("cache=loose"), "what this machine has read it believes, whatever others write",
        "mount with `cache=strict`, the default",
    ),
    Rule(
        "nostrictsync", WARNING, _has("nostrictsync"),
        "what is synced does not reach the server's disk: a crash of it may lose accepted work",
        "mount without `nostrictsync`",
    ),
    Rule(
        "locks", NOTE, _has("nobrl", "nolease"),
        "locks do not reach the server; nothing is decided by them here, but other programs may count on them",
    ),
)  # fmt: skip

_FRESH_SSHFS = ("dcache_timeout=0", "dcache_timeout=1", "dcache_timeout=2", "cache=no", "dir_cache=no",
                "cache_timeout=0", "cache_timeout=1", "cache_timeout=2", "dcache_dir_timeout=1")  # fmt: skip
_SSHFS = (
    Rule(
        "dcache_timeout", WARNING, _lacks(*_FRESH_SSHFS),
        "listings are up to 20 s late (the default of dcache_timeout): so late come dispatches and endings, and a "
        "heartbeat may be missed",
        "mount with `-o dcache_timeout=1` or `-o dir_cache=no` (before sshfs 3: `cache=no`)",
    ),
    Rule(
        "reconnect", WARNING, _lacks("reconnect"),
        "after the connection has broken once, the mount is dead until somebody mounts it anew",
        "mount with `-o reconnect,ServerAliveInterval=15`",
    ),
    Rule(
        "owners", NOTE, _always,
        "all files are the ssh user's: who asked for a job cannot be told, whoever may write into incoming/ is taken "
        "for the owner of the river; locks hold on this machine only",
        "let only the river's user log in there, and mount with `-o idmap=user`",
    ),
)  # fmt: skip

_LOCAL = (
    Rule(
        "local", NOTE, _always,
        "only this machine sees it: right for `hakuriver up`, or on the machine that exports it",
        "for several machines name a directory that all of them mount",
    ),
    Rule(
        "barrier", WARNING, _has("nobarrier", "barrier=0"),
        "a power cut may lose what was acknowledged, accepted jobs too", "mount without `nobarrier`",
    ),
)  # fmt: skip

_MEMORY = (
    Rule(
        "memory", WARNING, _always, "it lies in memory: every job and output is gone at a reboot",
        "put the river on a disk, if it is to last",
    ),
)  # fmt: skip

_OVERLAY = (
    Rule(
        "overlay", WARNING, _always,
        "it is most likely a container's own layer, gone with the container, and seen by it alone",
        "mount a volume or the shared directory into the container",
    ),
)  # fmt: skip

_FAT = (
    Rule(
        "fat", WARNING, _always,
        "it keeps neither owners nor modes, and a crash may damage it: accepted work may be lost",
        "use ext4, xfs or btrfs",
    ),
)  # fmt: skip

_AUTOFS = (
    Rule(
        "autofs", NOTE, _always, "it is mounted when somebody first looks into it, and was not when this was read",
        "run the doctor again",
    ),
)  # fmt: skip

_CLUSTER = (
    Rule("unmeasured", NOTE, _always, "made for being shared, but not measured with this river: `--with` measures it"),
)

_9P = (
    Rule(
        "cache", WARNING, _has("cache=loose", "cache=fscache", "cache=mmap"),
        "what this machine has read it believes, whatever others write", "mount with `cache=none`",
    ),
    *_CLUSTER,
)  # fmt: skip

_BUCKET = (
    Rule(
        "bucket", BROKEN, _always,
        "an object store has no rename: it copies and deletes, so that two machines can both take the same work",
        "use a real shared filesystem: NFS, GlusterFS, MooseFS, CephFS, SMB, sshfs",
    ),
)  # fmt: skip

_UPLOADED = (
    Rule(
        "uploaded", WARNING, _always,
        "files go to a store behind it some time after they were written, and its rename may be a copy: two machines "
        "may both take the same work, and accepted work may be lost",
        "measure with `--with`, or use a real shared filesystem: NFS, GlusterFS, MooseFS, CephFS, SMB, sshfs",
    ),
)  # fmt: skip

RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(("nfs", "nfs4"), _NFS),
    "fuse.glusterfs": _GLUSTER,
    **dict.fromkeys(("fuse.mfs", "fuse.moosefs", "fuse.mfsmount", "fuse.lizardfs"), _MOOSE),
    **dict.fromkeys(("cifs", "smb3"), _CIFS),
    "fuse.sshfs": _SSHFS,
    **dict.fromkeys(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs"), _LOCAL),
    **dict.fromkeys(("tmpfs", "ramfs", "rootfs", "devtmpfs"), _MEMORY),
    **dict.fromkeys(("overlay", "aufs", "fuse.fuse-overlayfs"), _OVERLAY),
    **dict.fromkeys(("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfsplus"), _FAT),
    "autofs": _AUTOFS,
    **dict.fromkeys(
        ("ceph", "fuse.ceph-fuse", "fuse.ceph", "lustre", "gpfs", "beegfs", "afs", "ocfs2", "gfs2", "pvfs2",
         "virtiofs", "fuse.juicefs"),
        _CLUSTER,
    ),
    "9p": _9P,
    **dict.fromkeys(("fuse.s3fs", "fuse.goofys", "fuse.mountpoint-s3"), _BUCKET),
    **dict.fromkeys(
        ("fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs2", "davfs"), _UPLOADED
    ),
}  # fmt: skip

#: Those that another machine serves: no place for local state.
NETWORK = {
    t
    for t, rules in RULES.items()
    if rules in (_NFS, _GLUSTER, _MOOSE, _CIFS, _SSHFS, _CLUSTER, _9P, _BUCKET, _UPLOADED)
}
#: Those that a reboot empties.
PASSING = {t for t, rules in RULES.items() if rules in (_MEMORY, _OVERLAY)}


def judge(mount: Mount | None, group: str = "mount") -> list[Finding]:
    """What is to be said of a share that is mounted so, the filesystem itself first."""
    if mount is None:
        return [Finding(f"{group}.filesystem", NOTE, "unknown", "/proc does not tell how the share is mounted")]
    rules = RULES.get(mount.type)
    if rules is None:
        unknown = "nothing is known of this kind of filesystem: what was tried, here and with `--with`, has to do"
        return [Finding(f"{group}.filesystem", NOTE, mount.shown, unknown)]
    return [
        Finding(f"{group}.filesystem", OK, mount.shown),
        *(
            Finding(f"{group}.{rule.name}", rule.status, _shown(mount, rule), rule.meaning, rule.remedy)
            for rule in (_READ_ONLY, *rules)
            if rule.when(mount)
        ),
    ]


def _shown(mount: Mount, rule: Rule) -> str:
    """The option that a rule is about, as it is set; else the filesystem."""
    if rule.name in mount.options:
        value = mount.options[rule.name]
        return f"{rule.name}={value}" if value else rule.name
    return mount.type
