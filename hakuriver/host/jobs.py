"""Jobs and tasks as the host holds them, and their snapshots.

Tasks that are over are kept as finished JSON rows in one buffer and as one byte each, so that an array of
100,000 costs some megabytes and gives them back at its end.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from typing import Any

from hakuriver import targets, units
from hakuriver.host.ranges import Ranges
from hakuriver.ids import task_name
from hakuriver.offers import wishes_of
from hakuriver.records import FINAL, HOLDING, STATES, JobSnapshot, TaskRow, task_count
from hakuriver.targets import Target

CODE = {state: number for number, state in enumerate(STATES)}
PENDING = CODE["pending"]

#: Exit codes of `hakuriver wait` for endings that have none of their own.
EXIT_TIME_LIMIT = 124
EXIT_UNKNOWN = 125
EXIT_KILLED_OOM = 137

#: Between the head of a snapshot and its rows. No text in it can hold this: quotes in texts are escaped.
_TASKS = b', "tasks": ['
#: Bytes from which a snapshot's rows are decoded one by one.
LARGE = 256 * 1024

#: Columns that every row has; later versions have added others.
ROW_LEAST = len(TaskRow._fields) - len(TaskRow._field_defaults)

#: k of a job's only task, which has none in its name.
ONLY = 0


class Task:
    """A task that was dispatched at least once and is not over for good: the columns of records.TaskRow."""

    __slots__ = TaskRow._fields

    def __init__(self, k: int) -> None:
        self.k = k
        self.state = "pending"
        self.attempt = 0
        self.node: str | None = None
        self.retries_spent = 0
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.cause = ""
        self.reason = ""
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.peak_memory_bytes: int | None = None
        self.dispatch: str | None = None
        self.claimed = False
        self.kill: str | None = None
        self.earlier: list[list[Any]] = []
        self.executor: str | None = None
        self.gpus: list[int] = []
        self.environment: str | None = None
        self.phase = ""

    def row(self, single: bool) -> list[Any]:
        """The snapshot's row, without columns at its end that say nothing."""
        extra = self.gpus or self.environment or self.phase
        values = [getattr(self, name) for name in (TaskRow._fields if extra else TaskRow._fields[:ROW_LEAST])]
        if single:
            values[0] = None
        return values

    @classmethod
    def from_row(cls, row: list[Any]) -> Task:
        """Read a snapshot's row."""
        task = cls(ONLY)
        for name, value in zip(TaskRow._fields, row, strict=False):  # those of an older version are shorter
            setattr(task, name, value)
        task.k = row[0] if row[0] is not None else ONLY
        task.earlier = [list(earlier if earlier[8:] and earlier[8] else earlier[:8]) for earlier in task.earlier]
        return task

    def note_attempt(self) -> None:
        """Put the latest attempt's ending among the earlier ones: records.Attempt."""
        row = [
            self.attempt, self.node, self.state, self.cause, self.exit_code, self.signal, self.started_at, self.ended_at
        ]  # fmt: skip
        self.earlier.append([*row, self.gpus] if self.gpus else row)

    def recall(self) -> None:
        """The last of the earlier attempts is not over after all: it is the latest again."""
        _, self.node, *more = self.earlier.pop()
        self.gpus = more[6] if len(more) > 6 else []

    @property
    def may_be_corrected(self) -> bool:
        """Whether it was given up as lost, and no later attempt has been sent out."""
        if self.state == "pending" and self.earlier:
            return bool(self.earlier[-1][0] == self.attempt and self.earlier[-1][2] == "lost")
        return self.state == "lost"

    @property
    def holder(self) -> str | None:
        """The node that its latest attempt was sent to, also when that was given up as lost."""
        given_up: str | None = self.earlier[-1][1] if self.state == "pending" and self.earlier else None
        return self.node or given_up

    def reset(self) -> None:
        """Forget the latest attempt's ending, as another is to come."""
        self.started_at = self.ended_at = self.exit_code = self.signal = self.peak_memory_bytes = None
        self.wall_s = self.cpu_s = 0.0
        self.node, self.dispatch, self.claimed = None, None, False
        self.phase = ""


class Job:
    """An accepted job."""

    def __init__(
        self, job: str, uid: int, owner: str, admission: int, accepted_at: float, spec: dict[str, Any]
    ) -> None:
        self.id = job
        self.uid = uid
        self.owner = owner
        self.admission = admission
        self.accepted_at = accepted_at
        self.finished_at: float | None = None
        self.spec = spec
        self.term = 0
        self.seq = 0  #: last journal entry that changed it
        self.saved_path: str | None = None  #: its newest snapshot
        self.journal_bytes = 0  #: grown since that snapshot
        self.targets = tuple(targets.parse(text) for text in spec.get("targets") or ())
        self.wishes = wishes_of(spec)
        self.count = task_count(spec.get("array"), len(self.targets))
        ranges, self.most_at_once = units.parse_array(spec["array"]) if spec.get("array") else ([(0, 0)], None)
        self.indices = [k for low, high in ranges for k in (range(low, high + 1))] if len(ranges) > 1 else None
        self._low = ranges[0][0]
        self.per_target = self.count // max(1, len(self.targets))
        self._numbered = self.single or self.per_target != self.count
        self.waiting = Ranges([(0, self.count - 1)] if self._numbered else ranges)
        self.codes = bytearray(self.count)
        self.counts = [0] * len(STATES)
        self.counts[PENDING] = self.count
        self.live: dict[int, Task] = {}
        self.over = bytearray()  #: JSON rows of tasks that are over, each ended by a comma
        self.over_count = 0
        self.first_bad: tuple[int, str, int] | None = None  #: place, state, exit code of the first not completed
        self.lost = 0

    # -- indices

    @property
    def single(self) -> bool:
        """Whether its only task bears the job's own id."""
        return self.count == 1

    def place(self, k: int) -> int:
        """Where the task stands in the job's order, from 0. Raises KeyError if there is no such task."""
        if self._numbered:
            at = k
        else:
            at = k - self._low if self.indices is None else self._rank(k)
        if not 0 <= at < self.count:
            raise KeyError(k)
        return at

    def _rank(self, k: int) -> int:
        assert self.indices is not None
        at = bisect.bisect_left(self.indices, k)
        return at if at < len(self.indices) and self.indices[at] == k else -1

    def array_index(self, k: int) -> int:
        """What the task sees as HAKURIVER_TASK_INDEX."""
        if not self.spec.get("array"):
            return k
        at = self.place(k) % self.per_target
        return self.indices[at] if self.indices is not None else self._low + at

    def target(self, k: int) -> Target | None:
        """The node that the task must run on, and what of it; None: any."""
        return self.targets[self.place(k) // self.per_target] if self.targets else None

    def name_of(self, k: int) -> str:
        """The task's name."""
        return task_name(self.id, None if self.single else k)

    def wire_k(self, k: int) -> int | None:
        """The index as documents bear it: null for a job's only task."""
        return None if self.single else k

    # -- states

    def all_indices(self) -> list[int]:
        """Every k, in order."""
        if self._numbered:
            return list(range(self.count))
        return self.indices or list(range(self._low, self._low + self.count))

    def state_of(self, k: int) -> str:
        """The task's state. Raises KeyError if there is no such task."""
        return STATES[self.codes[self.place(k)]]

    def set_state(self, k: int, state: str) -> None:
        """Note a state, in the counts too."""
        at = self.place(k)
        self.counts[self.codes[at]] -= 1
        self.codes[at] = CODE[state]
        self.counts[CODE[state]] += 1

    @property
    def active(self) -> int:
        """How many tasks hold resources."""
        return sum(self.counts[CODE[state]] for state in HOLDING)

    @property
    def finished(self) -> bool:
        """Whether every task is over."""
        return sum(self.counts[CODE[state]] for state in FINAL) == self.count

    def task(self, k: int) -> Task:
        """The live task, made when it is dispatched first."""
        task = self.live.get(k)
        if task is None:
            task = self.live[k] = Task(k)
        return task

    def settle(self, task: Task) -> None:
        """Put a task that is over among the finished rows; lost ones stay at hand, to be corrected."""
        if task.state == "lost":
            return
        del self.live[task.k]
        self.over += json.dumps(task.row(self.single), separators=(",", ":")).encode()
        self.over += b","
        self.over_count += 1
        if task.state != "completed":
            self._note_bad(task)

    def _note_bad(self, task: Task) -> None:
        at = self.place(task.k)
        if self.first_bad is None or at < self.first_bad[0]:
            self.first_bad = (at, task.state, exit_code_of(task))

    def unsettle(self, ks: set[int]) -> None:
        """Make tasks that are over live again, to be run once more."""
        rows = self._over_rows()
        self.over, self.over_count, self.first_bad = bytearray(), 0, None
        for row in rows:
            task = Task.from_row(row)
            self.live[task.k] = task
            if task.k not in ks:
                self.settle(task)

    def _over_rows(self) -> list[list[Any]]:
        rows: list[list[Any]] = json.loads(b"[" + bytes(self.over[:-1]) + b"]")
        return rows

    def ending(self) -> tuple[str, int | None]:
        """State and exit code of the whole."""
        if not self.finished:
            return ("running" if self.active else "pending"), None
        bad = self.first_bad
        for task in self.live.values():
            at = self.place(task.k)
            if task.state == "lost" and (bad is None or at < bad[0]):
                bad = (at, "lost", EXIT_UNKNOWN)
        return (bad[1], bad[2]) if bad else ("completed", 0)

    # -- snapshots

    def snapshot(self) -> bytes:
        """The job as JSON: records.JobSnapshot."""
        state, exit_code = self.ending()
        head = {
            "format": 1,
            "job": self.id,
            "state": state,
            "exit_code": exit_code,
            "term": self.term,
            "seq": self.seq,
            "admission": self.admission,
            "name": self.spec.get("name"),
            "owner": self.owner,
            "uid": self.uid,
            "accepted_at": self.accepted_at,
            "finished_at": self.finished_at,
            "count": self.count,
            "counts": {name: n for name, n in zip(STATES, self.counts, strict=True) if n},
            "spec": self.spec,
            "waiting": units.format_ranges(self.waiting.tuples()),
        }
        live = ",".join(json.dumps(t.row(self.single), separators=(",", ":")) for t in self.live.values()).encode()
        rows = bytes(self.over) + live if live else bytes(self.over[:-1])
        return json.dumps(head)[:-1].encode() + _TASKS + rows + b"]}\n"

    @property
    def size(self) -> int:
        """About how many bytes its snapshot has."""
        return len(self.over) + 300 * len(self.live) + 600

    @classmethod
    def load(cls, data: bytes) -> Job:
        """Read a snapshot. Raises ValueError if it is none."""
        record = JobSnapshot.model_validate_json(data)
        job = cls(
            record.job, record.uid, record.owner, record.admission, record.accepted_at,
            record.spec.model_dump(exclude_none=True, exclude_unset=True),
        )  # fmt: skip
        job.finished_at, job.term, job.seq = record.finished_at, record.term, record.seq
        job.waiting = Ranges(units.parse_array(record.waiting)[0] if record.waiting else [])
        for row in record.tasks:
            task = Task.from_row(json.loads(json.dumps(row)))
            job.live[task.k] = task
            job.set_state(task.k, task.state)
            if task.state in FINAL:
                job.settle(task)
        job.lost = job.counts[CODE["lost"]]
        return job


class Rows:
    """The rows of a large snapshot, decoded anew in each pass: all of them at once would leave a daemon large."""

    def __init__(self, text: str) -> None:
        """`text`: compact rows with commas between them, and whatever ends them."""
        self._text = text

    def __iter__(self) -> Iterator[list[Any]]:
        decode, at = json.JSONDecoder().raw_decode, 0
        while self._text.startswith("[", at):
            row, at = decode(self._text, at)
            yield row
            at += self._text.startswith(",", at)


def read_snapshot(data: bytes) -> dict[str, Any]:
    """A snapshot as JSON (records.JobSnapshot), `tasks` to be gone through only. Raises ValueError if it is none."""
    head, mark, rows = data.partition(_TASKS)
    found: dict[str, Any]
    if len(data) < LARGE or not mark:
        found = json.loads(data)
    else:
        found = {**json.loads(head + b"}"), "tasks": Rows(rows.decode())}
    first = next(iter(found["tasks"]), None)
    if first is not None and not ROW_LEAST <= len(first) <= len(TaskRow._fields):
        raise ValueError("its rows are of another version")
    return found


def exit_code_of(task: Task) -> int:
    """What `hakuriver wait` exits with for a task that did not complete."""
    if task.state == "killed_oom":
        return EXIT_KILLED_OOM
    if task.cause == "time_limit":
        return EXIT_TIME_LIMIT
    if task.exit_code:
        return task.exit_code
    if task.signal:
        return 128 + task.signal
    return 128 + 15 if task.state == "killed" else EXIT_UNKNOWN
