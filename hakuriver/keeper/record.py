"""The local record: ``record.<n>.jsonl``, one line for each fact, in order.

    {"r":"boot","v":1,"boot":ID}                  first line: the boot that all pids below belong to
    {"r":"queue","n":N,"m":START}                 a start message as it came; its new tasks are numbered from N on
    {"r":"intent","n":[N,...]}                    these may be started from now on (the only line that is synced)
    {"r":"go","t":[[N,SLOT],...]}                 these are handed to the spawner: a process may exist
    {"r":"back","n":N}                            this one was not started after all: queued again
    {"r":"started","n":N,"pid":P,"ticks":T,"at":U}     of what an engine holds also "since", CLOCK_BOOTTIME
    {"r":"paused","n":N,"on":BOOL}                the engine that holds this one has paused it, or let it go on
    {"r":"stop","n":N,"c":CAUSE,"t":REASON,"by":B}     the engine is told to stop this one; SIGKILL is due at B
    {"r":"ended","n":N,"e":ENDED}
    {"r":"flag","n":N,"rerunnable":BOOL}
    {"r":"forget","n":[N,...]}

A record that has grown is written anew, with what is still known, as number n+1; only then the old one goes.
Lines that a crash has torn are ignored: what they said was not yet acted upon.
"""

from __future__ import annotations

import json
import os
from itertools import groupby

from hakuriver.keeper import endings
from hakuriver.keeper.task import ENDED, PAUSED, QUEUED, RUNNING, STARTING, Key, Spec, Task

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from hakuriver.keeper.messages import Ended

MIN_COMPACT = 1 << 20  #: bytes below which a record is not worth compacting
GROWTH = 4  #: a record is compacted when it has grown by this factor

encode = json.JSONEncoder(separators=(",", ":")).encode


def fact(kind: str, **more: Any) -> bytes:
    """A line of the record."""
    return encode({"r": kind, **more}).encode() + b"\n"


def started(task: Task) -> bytes:
    """The line for a start."""
    since = {} if task.since is None else {"since": task.since}
    return fact("started", n=task.n, pid=task.pid, ticks=task.ticks, at=task.started_at, **since)


def queue_line(n: int, message: bytes) -> bytes:
    """The line for a start message, which goes in as it came."""
    return b'{"r":"queue","n":%d,"m":%s}\n' % (n, message.strip())


class Known:
    """All tasks that the record speaks of, by key and by number."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.boot: str | None = None
        self.tasks: dict[Key, Task] = {}
        self.numbers: dict[int, Task] = {}
        self.next_n = 0

    def queue(self, message: dict[str, Any], first: int | None = None) -> list[Task]:
        """Add the tasks of a start message that are new. Raises, with nothing added, if it makes no sense."""
        spec = Spec(message["spec"])
        n = self.next_n if first is None else first
        new: dict[Key, Task] = {}
        for raw in message["tasks"]:
            task = Task(spec, raw, n, self.owner)
            if task.key not in self.tasks and task.key not in new:
                new[task.key] = task
                n += 1
        self.tasks.update(new)
        self.numbers.update((task.n, task) for task in new.values())
        self.next_n = max(n, self.next_n)
        return list(new.values())

    def forget(self, task: Task) -> None:
        """Drop a task."""
        del self.tasks[task.key], self.numbers[task.n]


def stopped(task: Task) -> bytes:
    """The line for the stopping of what an engine holds: it goes out before that, for what then comes is its work."""
    return fact("stop", n=task.n, c=task.stop, t=task.stop_reason, by=task.kill_by)


def _started(task: Task, line: dict[str, Any]) -> None:
    task.phase, task.pid, task.ticks, task.started_at = RUNNING, line["pid"], line["ticks"], line["at"]
    task.since = line.get("since")


def _stopped(task: Task, line: dict[str, Any]) -> None:
    task.stop, task.stop_reason, task.kill_by = line["c"], line["t"], line["by"]


def _ended(task: Task, line: dict[str, Any]) -> None:
    task.phase, task.end, task.slot_number = ENDED, line["e"], line["e"]["slot"]


def _apply(known: Known, line: dict[str, Any]) -> None:
    kind, numbers = line["r"], known.numbers
    if kind == "boot":
        known.boot = line["boot"]
    elif kind == "queue":
        known.queue(line["m"], line["n"])
    elif kind == "intent":
        for n in line["n"]:
            numbers[n].intended = True
    elif kind == "go":
        for n, slot in line["t"]:
            numbers[n].phase, numbers[n].slot_number = STARTING, slot
    elif kind == "back":
        numbers[line["n"]].phase, numbers[line["n"]].slot_number = QUEUED, None
    elif kind == "started":
        _started(numbers[line["n"]], line)
    elif kind == "paused":
        numbers[line["n"]].phase = PAUSED if line["on"] else RUNNING
    elif kind == "stop":
        _stopped(numbers[line["n"]], line)
    elif kind == "ended":
        _ended(numbers[line["n"]], line)
    elif kind == "flag":
        numbers[line["n"]].rerunnable = line["rerunnable"]
    elif kind == "forget":
        for n in line["n"]:
            known.forget(numbers[n])


def fold(lines: Iterable[bytes], owner: str) -> Known:
    """What the lines of a record say."""
    known = Known(owner)
    for raw in lines:
        _read_line(known, raw)
    return known


def _read_line(known: Known, raw: bytes) -> None:
    try:
        _apply(known, json.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # torn by a crash


def settle(known: Known, boot: str, now: float) -> list[tuple[Task, Ended]]:
    """The endings that follow from the keeper's being a new one. ``now``: unix time; sizes are the caller's to add.

    What an engine holds outlives a keeper, but no reboot.
    """
    rebooted = known.boot != boot
    cause, reason = ("reboot", "node rebooted") if rebooted else ("keeper_died", "the keeper died, its tasks with it")
    settled = []
    for task in known.tasks.values():
        if task.spec.engine and not rebooted and task.phase in (STARTING, RUNNING, PAUSED):
            continue
        # On the same boot "go" is never lost, so an intent alone proves that nothing was started.
        if task.phase in (STARTING, RUNNING, PAUSED) or (task.phase == QUEUED and task.intended and rebooted):
            stop = (cause, reason) if task.stop is None else (task.stop, task.stop_reason)
            settled.append((task, endings.unborn(task, *stop, now, ran=True)))
        elif task.phase == QUEUED and task.rerunnable:
            settled.append((task, endings.unborn(task, "fenced", "the keeper was restarted before the start", now)))
    return settled


class Record:
    """The file. Lines are gathered by ``add`` and go out by ``flush``, once a turn."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.number = max((n for n, _ in self._files()), default=0)
        self._fd = -1
        self._pending: list[bytes] = []
        self._size = 0
        self._compact_at = MIN_COMPACT

    def _files(self) -> list[tuple[int, str]]:
        names = [name.split(".") for name in os.listdir(self.directory)]
        return [(int(part[1]), ".".join(part)) for part in names
                if len(part) == 3 and part[0] == "record" and part[1].isdigit() and part[2] == "jsonl"]  # fmt: skip

    def read(self, owner: str) -> Known:
        """What the newest record says."""
        if not self.number:
            return Known(owner)
        with open(f"{self.directory}/record.{self.number}.jsonl", "rb") as file:
            return fold(file, owner)

    def add(self, line: bytes) -> None:
        """A line for the next flush."""
        self._pending.append(line)

    def flush(self, sync: bool) -> bool:
        """Write what was added; with ``sync`` it is durable. False if the disk refuses: the lines are kept."""
        try:
            while self._pending:
                data = b"".join(self._pending)
                written = os.write(self._fd, data)
                self._size += written
                self._pending = [data[written:]] if written < len(data) else []
            if sync:
                os.fdatasync(self._fd)
            return True
        except OSError:
            return False

    @property
    def grown(self) -> bool:
        """Whether it is time to compact."""
        return self._size > self._compact_at

    def compact(self, known: Known, boot: str) -> None:
        """Write all that is known as the next record. Pending lines are in it, so they are dropped."""
        path = f"{self.directory}/record.{self.number + 1}.jsonl"
        fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.writelines(snapshot(known, boot))
        os.fdatasync(fd)
        os.rename(path + ".tmp", path)
        sync_directory(self.directory)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._pending, self._size = fd, [], os.fstat(fd).st_size
        self.number += 1
        self._compact_at = max(MIN_COMPACT, GROWTH * self._size)
        for number, name in self._files():
            if number < self.number:
                os.unlink(f"{self.directory}/{name}")


def sync_directory(path: str) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def snapshot(known: Known, boot: str) -> Iterable[bytes]:
    """The lines of a compacted record. Numbers stay; a run of them under one spec is one line."""
    ordered = sorted(known.tasks.values(), key=lambda task: task.n)
    yield fact("boot", v=1, boot=boot)
    for _, group in groupby(enumerate(ordered), key=lambda pair: (id(pair[1].spec), pair[1].n - pair[0])):
        tasks = [task for _, task in group]
        message = {"spec": tasks[0].spec.raw, "tasks": [task.message() for task in tasks]}
        yield fact("queue", n=tasks[0].n, m=message)
    yield fact("intent", n=[task.n for task in ordered if task.intended])
    for task in ordered:
        yield from _phase_lines(task)


def _phase_lines(task: Task) -> Iterable[bytes]:
    if task.phase in (STARTING, RUNNING, PAUSED):
        yield fact("go", t=[[task.n, task.slot_number]])
    if task.phase in (RUNNING, PAUSED):
        yield started(task)
    if task.phase == PAUSED:
        yield fact("paused", n=task.n, on=True)
    if task.kill_by is not None and task.phase != ENDED:
        yield stopped(task)
    if task.phase == ENDED:
        yield fact("ended", n=task.n, e=task.end)
