"""The node's own baton, `runner.<epoch>.<nonce>`: a node belongs to the machine that holds the nonce.

Each start of a runner renames it to the next epoch, so that an older runner finds it gone and stops.
"""

from __future__ import annotations

import errno

from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import NodePaths

#: A listing may miss an entry: what is decided once for a whole epoch is listed so often.
LOOKS = 3


class NodeTaken(Exception):
    """Node {name} belongs to another machine; choose another name, or forget the node."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"node {node} belongs to another machine (or this machine's state directory was lost): "
            f"start the runner with another --name, or, if that machine is gone, run `hakuriver node forget {node}`"
        )


class Superseded(Exception):
    """Another runner has taken this node over; this one must stop."""


class Gone(Exception):
    """The node's directory has been removed, as `hakuriver node forget` does: begin anew."""


def seen(disk: Disk, path: str) -> set[str]:
    """The names in a directory, over several listings."""
    return {name for _ in range(LOOKS) for name in files.names(disk, path)}


def _batons(names: set[str]) -> list[tuple[int, str]]:
    return sorted(found for name in names if (found := layout.parse_runner_baton(name)))


def _epochs(disk: Disk, paths: NodePaths, names: set[str]) -> set[int]:
    """Every epoch that anything in the node's directory bears."""
    described = {int(part[1]) for name in names if len(part := name.split(".")) == 3 and part[1].isdigit()}
    numbered = {place[0] for part in ("events", "heartbeat") for place in files.positions(disk, paths.dir(part))}
    return described | numbered


def take(disk: Disk, node: str, nonce: str, floor: int = 0) -> int:
    """Begin a new epoch above `floor`; return it. Raises NodeTaken."""
    paths = NodePaths(node)
    for part in layout.NODE_TREE:
        disk.mkdir(paths.dir(part))
    names = seen(disk, paths.root)
    batons = _batons(names)
    own = [epoch for epoch, holder in batons if holder == nonce]
    if batons and not own:
        raise NodeTaken(node)
    epoch = max({floor, *_epochs(disk, paths, names)}) + 1
    if own:
        _advance(disk, paths, nonce, own, epoch)
    else:
        _create(disk, paths, nonce, epoch)
    return epoch


def _advance(disk: Disk, paths: NodePaths, nonce: str, own: list[int], epoch: int) -> None:
    source, target = paths.baton(own[-1], nonce), paths.baton(epoch, nonce)
    if not files.move(disk, source, target):
        raise ShareError("rename", source, OSError(errno.EAGAIN, "its outcome cannot be seen yet"))
    for left in own[:-1]:
        disk.remove(paths.baton(left, nonce))
    disk.sync([paths.root])


def _create(disk: Disk, paths: NodePaths, nonce: str, epoch: int) -> None:
    try:
        disk.write(paths.baton(epoch, nonce), b"")
    except FileExistsError:
        pass  # an earlier try that was reported as failed
    disk.sync([paths.root, layout.NODES])
    if any(holder != nonce for _, holder in _batons(seen(disk, paths.root))):
        disk.remove(paths.baton(epoch, nonce))  # two machines at once: neither has begun
        raise NodeTaken(paths.node)


def check(disk: Disk, node: str, nonce: str, epoch: int) -> list[str]:
    """Make sure that this runner still holds the node; what lies in its directory. Raises Superseded, or Gone."""
    paths = NodePaths(node)
    own = f"runner.{epoch}.{nonce}"
    for _ in range(LOOKS):
        names = files.names(disk, paths.root)
        if own in names:
            return names
        others = [found for found in _batons(set(names)) if found[1] != nonce or found[0] > epoch]
    if others:
        raise Superseded(
            f"node {node} was taken over by another runner (epoch {others[-1][0]}); this one, epoch {epoch}, stops"
        )
    raise Gone(f"the directory of node {node} is gone: it was forgotten; beginning anew")
