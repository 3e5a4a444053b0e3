"""The part that every daemon runs when it starts: a fraction of a second on a local disk, and nothing is left."""

from __future__ import annotations

import logging

from hakuriver.daemons import Refused
from hakuriver.doctor import machine, mounts, probes, site
from hakuriver.doctor.findings import BROKEN, WARNING, Finding, of_status
from hakuriver.doctor.probes import Bench
from hakuriver.ids import new_job_id
from hakuriver.spool.files import Disk, LocalDisk, ShareError


def quick(root: str, disk: Disk | None = None) -> list[Finding]:
    """How the share is mounted, whether its files, names and renames are as the promises need them, and whose it is.

    `disk`: of that root, in place of the real one. What cannot be tried (the share is away, full) is a warning.
    """
    found = mounts.judge(mounts.of(root))
    own = disk or LocalDisk(root)
    try:
        with site.opened(own, new_job_id()) as at:
            found += _tried(Bench(own, at))
    except ShareError as error:
        found.append(probes.unable("share.write", error))
    return found


def _tried(bench: Bench) -> list[Finding]:
    found: list[Finding] = []
    for check, probe in probes.QUICK.items():
        told = probes.tried(check, probe, bench)
        found += told
        if of_status(told, WARNING):
            break  # what is away or full now is so for the next probe too
    if of_status(found, BROKEN) and not probes.still_there(bench):
        return [f for f in found if f.status != BROKEN]  # it went away meanwhile
    return found


def refuse_broken(root: str, log: logging.Logger, disk: Disk | None = None) -> None:
    """Log what is worth a warning. Raises Refused where the promises cannot hold: seen twice, not for a moment.

    And where this daemon is not the river's user, as one that root has started by mistake.
    """
    found = quick(root, disk)
    if of_status(found, BROKEN):
        again = quick(root, disk)
        seen = {finding.check for finding in of_status(again, BROKEN)}
        found = [f for f in found if f.status != BROKEN or f.check in seen]
    for finding in of_status(found, WARNING):
        log.warning("%s: %s", root, finding.text)
    for finding in of_status(found, BROKEN):
        what = "is another user's" if finding.check == "share.user" else "cannot be worked on"
        raise Refused(f"{root} {what}: {finding.text}")


def refuse_state(path: str) -> None:
    """Raises Refused where local state cannot lie: on a network filesystem, as a home may be, or where none is made."""
    for finding in of_status(machine.state(path), BROKEN):
        raise Refused(f"paths.state_dir: {finding.text}")
