"""Requests whose answer takes time: kill, pause, resume."""

from __future__ import annotations

from typing import Any


class OpenRequest:
    """A control that waits for the answers of some tasks."""

    def __init__(self, request: str, name: str, op: str, uid: int, done: list[Any]) -> None:
        self.request = request
        self.name = name
        self.op = op
        self.uid = uid
        self.open: set[str] = set()
        self.done: list[list[Any]] = list(done)  #: [task, ok, outcome]

    def answer(self, task: str, ok: bool, outcome: str) -> bool:
        """Note one task's answer; tell whether that was the last."""
        if task not in self.open:
            return False
        self.open.discard(task)
        self.done.append([task, ok, outcome])
        return not self.open

    def checkpoint(self) -> dict[str, Any]:
        """All of it, for the journal."""
        return {"name": self.name, "op": self.op, "uid": self.uid, "open": sorted(self.open), "done": self.done}

    @classmethod
    def restore(cls, request: str, saved: dict[str, Any]) -> OpenRequest:
        """Read what `checkpoint` wrote."""
        found = cls(request, saved["name"], saved["op"], saved["uid"], saved["done"])
        found.open = set(saved["open"])
        return found

    def receipt(self, at: float) -> dict[str, Any]:
        """The answer: records.Receipt."""
        answers = [{"task": task, "ok": ok, "outcome": outcome} for task, ok, outcome in sorted(self.done)]
        return {
            "format": 1, "request": self.request, "name": self.name, "kind": self.op, "outcome": "done", "at": at,
            "uid": self.uid, "answers": answers,
        }  # fmt: skip
