"""Debian systems in directories, made by debootstrap and kept for the next time: half a minute each, 300 MB."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from lab.base import install, run

#: Debian's releases and their systemd: bookworm has 252, trixie 257.
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,python3,sudo,numactl,iproute2,procps,libsqlite3-0"
#: A user who may ask sudo for what a runner needs and nothing else; `nobody` may ask for nothing.
USER, UID = "river", 1500
MAKING_S = 900.0

SUDOERS = f"""\
{USER} ALL=(root) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl
"""
#: Shell that completes a new tree in its own root. The tmpfiles of /tmp would empty what is mounted below it; there are
#: no modules to be loaded.
COMPLETE = f"""\
set -e
useradd --uid {UID} --create-home --shell /bin/sh {USER}
: >/etc/tmpfiles.d/tmp.conf
: >/etc/machine-id
ln -s /dev/null /etc/systemd/system/systemd-modules-load.service
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
"""


def tree(cache: Path, suite: str = SUITE) -> Path:
    """A Debian with systemd, to be mounted read-only; `cache` keeps it. Raises LabError."""
    recipe = hashlib.sha256(f"{PACKAGES} {SUDOERS} {COMPLETE}".encode()).hexdigest()[:12]
    made = cache.resolve() / f"tree-{suite}-{recipe}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "trees.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others wait until it is whole
        if not made.exists():
            _make(made, suite)
    return made


def _make(made: Path, suite: str) -> None:
    install({"debootstrap": "debootstrap"})
    new = made.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(new), timeout=MAKING_S)
    run("chroot", str(new), "/bin/sh", "-c", COMPLETE)
    sudoers = new / "etc/sudoers.d/river"
    sudoers.write_text(SUDOERS)
    sudoers.chmod(0o440)
    new.rename(made)
