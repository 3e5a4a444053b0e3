"""From the files to the state: the last checkpoint, the snapshots it names, and every entry since."""

from __future__ import annotations

from typing import NamedTuple

from hakuriver.host import sending
from hakuriver.host.jobs import Job
from hakuriver.host.journal import Journal, NotYet
from hakuriver.host.nodes import Node
from hakuriver.host.requests import OpenRequest, Order
from hakuriver.host.state import State
from hakuriver.records import Entry
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk


class Recovered(NamedTuple):
    """What the files say."""

    state: State  #: as of the baton
    last: Entry | None  #: the last entry: its effects may be outstanding
    answered: set[str]  #: names in host/taken/ that the entries answer: a power cut may have brought them back
    named: set[str]  #: paths of the snapshots that its checkpoint names: the next recovery may need them too


def recover(disk: Disk, journal: Journal, by_user: bool = False) -> Recovered:
    """Build the state; `by_user`: see `State`. Raises NotYet while something that must be there cannot be seen."""
    entries = journal.load()
    state = State(by_user)
    if entries:
        _restore(disk, state, entries[0])
    for entry in entries:
        state.term, state.seq = entry.term, entry.seq
        for change in entry.changes:  # one with a checkpoint has none
            state.apply(change)
    state.answered.clear()  # their receipts stand in the same entries
    state.rebuild()
    answered = {name for entry in entries for change in entry.changes if (name := sending.taken_by(change))}
    named = set((entries[0].checkpoint or {}).get("jobs", ())) if entries else set()
    return Recovered(state, entries[-1] if entries else None, answered, named)


def _restore(disk: Disk, state: State, entry: Entry) -> None:
    saved = entry.checkpoint
    if saved is None:
        return
    state.admission = saved["admission"]
    state.nodes = {name: Node.restore(name, node) for name, node in saved["nodes"].items()}
    state.requests = {name: OpenRequest.restore(name, waiting) for name, waiting in saved["requests"].items()}
    state.orders = {name: Order(*order) for name, order in saved.get("orders", {}).items()}
    for path in saved["jobs"]:
        try:
            job = Job.load(disk.read(path))
        except FileNotFoundError:
            raise NotYet(path) from None
        except ValueError as error:
            raise NotYet(f"{path}: {error}") from error
        job.saved_path = path
        state.add_loaded(job)


def left_over(disk: Disk, state: State) -> list[str]:
    """Snapshots in jobs/active/ that the recovered state does not name."""
    named = {job.saved_path for job in state.jobs.values()}
    found = []
    for day in files.names(disk, layout.ACTIVE):
        for bucket in files.names(disk, f"{layout.ACTIVE}/{day}"):
            directory = f"{layout.ACTIVE}/{day}/{bucket}"
            found += [f"{directory}/{name}" for name in files.names(disk, directory)]
    return [path for path in found if path not in named]
