"""How mounts are read and judged: a line of mountinfo for each filesystem, as its client writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hakuriver.doctor import mounts
from hakuriver.doctor.findings import BROKEN, NOTE, OK, WARNING, Finding
from hakuriver.doctor.mounts import Mount

NFS = "rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,local_lock=none,addr=10.0.0.1"
CIFS = "rw,vers=3.0,cache=strict,uid=1000,forceuid,gid=1000,file_mode=0644,soft,nounix,serverino,actimeo=1,closetimeo=1"
FUSE = "rw,user_id=0,group_id=0,allow_other"


def line(kind: str, options: str = "rw", source: str = "server:/export", point: str = "/mnt/river") -> str:
    return f"61 27 0:55 / {point} rw,relatime shared:31 - {kind} {source} {options}"


def judged(kind: str, options: str = "rw", **more: str) -> dict[str, Finding]:
    (mount,) = mounts.parse(line(kind, options, **more))
    return {finding.name: finding for finding in mounts.judge(mount)}


def statuses(kind: str, options: str = "rw") -> dict[str, str]:
    return {name: finding.status for name, finding in judged(kind, options).items()}


# -- reading


def test_a_line_is_read() -> None:
    (mount,) = mounts.parse(line("nfs4", NFS))
    assert (mount.point, mount.type, mount.source) == ("/mnt/river", "nfs4", "server:/export")
    assert mount.options["vers"] == "4.2"
    assert mount.options["hard"] == ""
    assert mount.options["relatime"] == ""


@pytest.mark.parametrize("fields", ["", "shared:1 ", "shared:1 master:2 propagate_from:2 unbindable "])
def test_optional_fields_may_be_none_or_many(fields: str) -> None:
    (mount,) = mounts.parse(f"61 27 0:55 / /mnt rw {fields}- ext4 /dev/sda1 rw")
    assert (mount.type, mount.source) == ("ext4", "/dev/sda1")


def test_octal_escapes() -> None:
    (mount,) = mounts.parse(line("cifs", r"rw,username=a\040b", r"//server/my\040share", r"/mnt/a\040b\011c\134d"))
    assert mount.point == "/mnt/a b\tc\\d"
    assert mount.source == "//server/my share"
    assert mount.options["username"] == "a b"


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3 - x", "61 27 0:55 / /mnt rw shared:1 - ext4"])
def test_what_is_no_line_is_passed_over(text: str) -> None:
    assert mounts.parse(text) == []


def test_the_longest_mount_point_above_a_path_counts_and_the_latest_of_equal_ones() -> None:
    table = mounts.parse(
        "\n".join(
            [
                line("ext4", point="/"), line("autofs", point="/mnt/river"), line("nfs4", point="/mnt/river"),
                line("tmpfs", point="/mnt/river2"), line("xfs", point="/mnt/river/shared_data"),
            ]
        )
    )  # fmt: skip

    def kind(path: str) -> str | None:
        found = mounts.lying_on(table, path)
        return found and found.type

    assert kind("/mnt/river") == "nfs4"
    assert kind("/mnt/river/incoming") == "nfs4"
    assert kind("/mnt/river2/x") == "tmpfs"
    assert kind("/mnt/river/shared_data/x") == "xfs"
    assert kind("/mnt/river3") == "ext4"
    assert mounts.lying_on([], "/x") is None


def test_a_path_of_this_machine(scratch: Path) -> None:
    found = mounts.of(str(scratch))
    assert found is not None
    assert str(scratch.resolve()).startswith(found.point)


def test_options_of_sshfs_are_on_its_command_line() -> None:
    words = ["sshfs", "host:/x", "/mnt/river", "-o", "dcache_timeout=1,IdentityFile=/x", "-oreconnect"]
    assert mounts.sshfs_options(words) == {"dcache_timeout": "1", "reconnect": ""}


# -- judging


def test_nfs_as_it_comes() -> None:
    found = judged("nfs4", NFS)
    assert found["filesystem"].status == OK
    assert "vers=4.2" in found["filesystem"].value
    assert {f.status for f in found.values()} == {OK, NOTE}
    assert "`lookupcache=positive`" in found["lookupcache"].remedy
    assert "sync" in found["export"].remedy


@pytest.mark.parametrize("option", ["lookupcache=none", "lookupcache=pos", "noac"])
def test_nfs_that_remembers_no_absence(option: str) -> None:
    assert "lookupcache" not in statuses("nfs4", f"{NFS},{option}")


@pytest.mark.parametrize(
    ("options", "name", "status", "remedy"),
    [
        ("rw,soft,vers=4.2", "soft", WARNING, "`hard`"),
        ("rw,hard,nocto", "nocto", WARNING, "without `nocto`"),
        ("rw,hard,noac", "noac", NOTE, "lookupcache=positive"),
        ("rw,hard,vers=3", "version", NOTE, "`vers=4.2`"),
        ("rw,hard,nolock", "locks", NOTE, ""),
        ("rw,hard,local_lock=all", "locks", NOTE, ""),
        ("ro,hard", "read_only", WARNING, "read-write"),
    ],
)
def test_options_of_nfs(options: str, name: str, status: str, remedy: str) -> None:
    for kind in ("nfs", "nfs4"):
        found = judged(kind, options)[name]
        assert found.status == status
        assert remedy in found.remedy


def test_sshfs_as_it_comes_is_late() -> None:
    found = judged("fuse.sshfs", FUSE)
    assert found["dcache_timeout"].status == found["reconnect"].status == WARNING
    assert "`-o dcache_timeout=1`" in found["dcache_timeout"].remedy
    assert "20 s" in found["dcache_timeout"].meaning
    assert "reconnect" in found["reconnect"].remedy
    assert found["owners"].status == NOTE


@pytest.mark.parametrize("option", ["dcache_timeout=1", "dir_cache=no", "cache=no"])
def test_sshfs_that_is_mounted_well(option: str) -> None:
    assert WARNING not in statuses("fuse.sshfs", f"{FUSE},{option},reconnect").values()


def test_smb() -> None:
    assert set(statuses("cifs", CIFS).values()) == {OK, NOTE}
    assert {"owners", "names"} <= judged("smb3", CIFS).keys()
    assert statuses("cifs", CIFS.replace("actimeo=1", "actimeo=60"))["actimeo"] == WARNING
    assert statuses("cifs", CIFS.replace("closetimeo=1", "closetimeo=5"))["closetimeo"] == NOTE
    assert statuses("cifs", CIFS.replace("strict", "loose"))["cache"] == WARNING
    assert statuses("cifs", CIFS + ",nostrictsync")["nostrictsync"] == WARNING
    assert "actimeo" not in judged("cifs", CIFS.replace("actimeo=1", "actimeo=x"))


@pytest.mark.parametrize("kind", ["fuse.mfs", "fuse.moosefs"])
def test_moosefs(kind: str) -> None:
    assert statuses(kind, "rw") == {"filesystem": OK, "client": NOTE, "durable": NOTE}
    assert "CHANGELOG_SAVE_MODE" in judged(kind, "rw")["durable"].remedy


def test_delegations_are_spoken_of_where_there_are_any() -> None:
    assert statuses("nfs4", NFS)["delegations"] == NOTE
    assert "delegations" not in statuses("nfs", NFS.replace("vers=4.2", "vers=3"))


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("fuse.glusterfs", "caches", NOTE),
        ("ext4", "local", NOTE), ("xfs", "local", NOTE), ("btrfs", "local", NOTE), ("autofs", "autofs", NOTE),
        ("tmpfs", "memory", WARNING), ("ramfs", "memory", WARNING), ("overlay", "overlay", WARNING),
        ("vfat", "fat", WARNING), ("exfat", "fat", WARNING), ("ntfs3", "fat", WARNING), ("fuseblk", "fat", WARNING),
        ("ceph", "unmeasured", NOTE), ("9p", "unmeasured", NOTE), ("fuse.rclone", "uploaded", WARNING),
        ("fuse.s3fs", "bucket", BROKEN),
    ],
)  # fmt: skip
def test_other_filesystems(kind: str, name: str, status: str) -> None:
    assert statuses(kind, "rw") == {"filesystem": OK, name: status}


def test_a_disk_that_may_lose_what_it_acknowledged() -> None:
    assert statuses("ext4", "rw,nobarrier")["barrier"] == WARNING


def test_what_nobody_knows() -> None:
    assert statuses("fuse.of-tomorrow") == {"filesystem": NOTE}
    assert [f.status for f in mounts.judge(None)] == [NOTE]


def test_whatever_is_to_be_changed_says_how() -> None:
    for kind, rules in mounts.RULES.items():
        for rule in (mounts._READ_ONLY, *rules):
            assert rule.meaning, (kind, rule.name)
            assert rule.remedy or rule.status == NOTE, (kind, rule.name)


def test_local_state_may_lie_on_none_of_these() -> None:
    assert {"nfs4", "cifs", "fuse.sshfs", "fuse.mfs", "fuse.glusterfs", "ceph"} <= mounts.NETWORK
    assert {"tmpfs", "overlay"} <= mounts.PASSING
    assert not {"ext4", "xfs"} & (mounts.NETWORK | mounts.PASSING)
    assert Mount("/", "ext4", "x", {}).type not in mounts.NETWORK
