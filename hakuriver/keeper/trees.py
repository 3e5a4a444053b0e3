"""The tree of a task: its session and process group, all descendants, and orphans that carry its marker.

The keeper is a subreaper: whatever a task leaves behind becomes a child of the keeper's main thread. So one small read
tells whether there is anything to look for, and /proc is scanned only then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from hakuriver.keeper import proc
from hakuriver.keeper.task import MARKER, Task

Table = dict[int, proc.Process]
MAX_ROUNDS = 50  #: a fork bomb that outruns us this often is left to the next try


def _stdout_of(pid: int) -> set[str]:
    return {proc.link(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} - {""}


class Trees:
    """Finds the processes of tasks. ``living`` gives the tasks with a process, by pid."""

    def __init__(self, owner: str, living: Callable[[], dict[int, Task]]) -> None:
        self._prefix = os.fsencode(f"{MARKER}={owner}/")
        self._living = living
        self._self = os.getpid()
        self._exact = os.path.exists(f"/proc/self/task/{self._self}/children")
        self._orphans: dict[int, Task | None] = {}  # children that we did not start, and whose they are
        self.attendants: set[int] = set()  #: children that are no task's

    def reaped(self, pid: int) -> None:
        """A child is gone."""
        self.attendants.discard(pid)
        self._orphans.pop(pid, None)

    def strangers(self) -> set[int]:
        """Children that no task is known for, from one read."""
        orphans = proc.children(self._self, self._self)
        known = self._living().keys() | self.attendants
        return {pid for pid in orphans if pid not in known and self._orphans.get(pid) is None}

    def quiet(self, task: Task, strangers: set[int]) -> bool:
        """Whether nothing can be left of a task whose main process has been reaped. Cheap."""
        assert task.pid is not None
        if strangers or any(owner is task for owner in self._orphans.values()):
            return False
        try:
            os.killpg(task.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _owner(self, found: proc.Process, tasks: dict[bytes, Task]) -> Task | None:
        """Whose an orphan is: by marker, session, or the output file it holds."""
        mark = proc.marker(found.pid, self._prefix)
        if mark is not None and mark in tasks:
            return tasks[mark]
        held = _stdout_of(found.pid)
        for task in tasks.values():
            if task.pid in (found.session, found.group):
                return task
            if task.slot is not None and not held.isdisjoint(task.slot.paths):
                return task
        # Nameless, and only one task that can have made it.
        return next(iter(tasks.values())) if len(tasks) == 1 and self._exact else None

    def _adopt(self, table: Table, extra: Iterable[Task]) -> None:
        """Find out whose each unknown child is. (Children of other threads are tasks about to start.)"""
        living = self._living()
        known = living.keys() | self.attendants
        tasks = {task.marker: task for task in (*living.values(), *extra)}
        for pid in proc.children(self._self, self._self):
            found = table.get(pid)
            if found and pid not in known and self._orphans.get(pid) is None and not found.dead:
                self._orphans[pid] = self._owner(found, tasks)

    def members(self, task: Task, table: Table, extra: Iterable[Task] = ()) -> set[int]:
        """Living processes of a task. ``extra``: reaped tasks that may have left orphans."""
        self._adopt(table, (task, *extra))
        pid = task.pid
        roots = {p.pid for p in table.values() if pid in (p.session, p.group)}
        roots |= {orphan for orphan, owner in self._orphans.items() if owner is task}
        members = proc.descendants(table, roots)
        if not task.alive:
            members.discard(pid or 0)  # its number may have another bearer by now
        return {member for member in members if member in table and not table[member].dead}

    def signal(self, task: Task, *numbers: int) -> None:
        """Send signals to the whole tree, once each."""
        for pid in self.members(task, proc.everything()):
            for number in numbers:
                proc.send(pid, number)

    def sweep(self, task: Task, number: int) -> None:
        """Send a signal to the whole tree until no new member turns up (SIGSTOP: none can be made any more)."""
        seen: set[int] = set()
        for _ in range(MAX_ROUNDS):
            new = self.members(task, proc.everything()) - seen
            if not new:
                return
            for pid in new:
                proc.send(pid, number)
            seen |= new


def leftovers(owner: str, tasks: Iterable[Task], table: Table) -> set[int]:
    """Processes of an earlier keeper's tasks: pid and start ticks as recorded, or the marker; and all below them."""
    prefix = os.fsencode(f"{MARKER}={owner}/")
    recorded = {(task.pid, task.ticks) for task in tasks if task.pid is not None and task.ticks is not None}
    mine = {os.getpid(), os.getppid()}
    roots = set()
    for found in table.values():
        if found.pid in mine or found.dead:
            continue
        if (found.pid, found.ticks) in recorded or proc.marker(found.pid, prefix) is not None:
            roots.add(found.pid)
    below = proc.descendants(table, roots) - mine
    return {pid for pid in below if pid in table and not table[pid].dead}


def kill_leftovers(owner: str, tasks: list[Task], wait: Callable[[], None]) -> None:
    """Kill what an earlier keeper left, until none is there."""
    while found := leftovers(owner, tasks, proc.everything()):
        for pid in found:
            proc.send(pid, signal.SIGKILL)
        wait()
