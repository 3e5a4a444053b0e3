"""What users do in the crash tests: jobs by hand and by id, arrays, one of which is not to wait, failures, retries,
two kills, pause, resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hakuriver.spool import layout
from sim.oracle import Final
from sim.world import World

#: Job -> state, exit code, executions in all, when no fault reaches the tasks themselves.
EXPECTED = {
    "hand": ("completed", 0, 1),
    "array": ("completed", 0, 4),
    "failing": ("failed", 3, 1),
    "retried": ("completed", 0, 2),
    "killed": ("killed", 143, 1),
    "paused": ("completed", 0, 1),
    "batch-a": ("completed", 0, 1),
    "batch-b": ("failed", 7, 2),
}


#: Tasks of the job that is not to wait: more than all nodes have cores.
HURRIED = 6


class Scenario:
    """Puts all of it into a world's script."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: dict[str, str] = {}
        self.ends_at = 6.5
        at = world.at
        at(0.2, lambda: world.drop("job.json", {"command": ["sim", "0.3", "0", "by hand\n"]}))
        at(0.3, lambda: self._submit("array", "0.5", "0", "", array="0-3"))
        at(0.4, lambda: self._submit("failing", "0.2", "3", ""))
        at(1.3, lambda: self._submit("retried", "0.2", "1,0", "again\n", retries=1))
        at(1.4, lambda: self._submit("killed", "inf", "0", "", retries=2))
        at(1.5, lambda: self._submit("paused", "2.5", "0", "", retries=1))
        at(3.8, lambda: self._submit("hurried", "0.3", "0", "", array=f"0-{HURRIED - 1}", no_queue=True))
        at(3.3, lambda: world.drop(f"{self.jobs['paused']}.pause", b""))
        at(4.2, self._batch)
        at(5.3, lambda: world.drop(f"{self.jobs['killed']}.kill", b""))
        at(5.3, lambda: world.drop("now.json", {"request": "kill", "targets": [self.jobs["killed"]], "grace": 0}))
        at(6.4, self._resume)

    def _submit(self, label: str, *argv: str, **spec: object) -> None:
        self.jobs[label] = self.world.submit(*argv, name=label, **spec)

    def _resume(self) -> None:
        """What is asked before the first was answered has no order."""
        if self.world.share.has(layout.receipt(f"{self.jobs['paused']}.pause")):
            self.world.drop(f"{self.jobs['paused']}.resume", b"")
        else:
            self.world.after(0.5, self._resume)

    def _batch(self) -> None:
        lines = [
            '{"id": "%s", "name": "batch-a", "command": ["sim", "0.1", "0", ""]}',
            '{"id": "%s", "name": "batch-b", "command": ["sim", "0.1", "7", ""], "retries": 1}',
        ]
        ids = [self.world.new_id() for _ in lines]
        whole = [line % job for line, job in zip(lines, ids, strict=True)]
        self.world.drop("two.jsonl", "\n".join([*whole, '{"end": 2}', ""]).encode())
        self.jobs.update({"batch-a": ids[0], "batch-b": ids[1]})

    def done(self) -> bool:
        """Whether all has been asked and all of it is over."""
        return self.world.t > self.ends_at and self.world.done()

    def as_without_faults(self) -> Iterator[str]:
        """Whatever died: tasks saw nothing of it."""
        final = Final(self.world)
        ran = Counter(run.task[:20] for run in self.world.log)
        self.jobs["hand"] = next(job for job, s in final.snapshots.items() if s.name is None)
        for label, (state, code, runs) in EXPECTED.items():
            snapshot = final.snapshots[self.jobs[label]]
            found = (snapshot.state, snapshot.exit_code, ran[snapshot.job])
            if found != (state, code, runs) and not (label == "killed" and found == (state, code, 0)):
                yield f"job {label}: {found} instead of {(state, code, runs)} (state, exit code, executions)"
        hurried = final.snapshots[self.jobs["hurried"]]
        completed, failed = (hurried.counts.get(state, 0) for state in ("completed", "failed"))
        room = sum(runner.cores for runner in self.world.runners.values())
        if completed > room or completed + failed != HURRIED or ran[hurried.job] != completed:
            yield f"job hurried: {hurried.counts} and {ran[hurried.job]} executions; there is room for {room}"
