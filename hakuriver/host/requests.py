"""Requests whose answer takes time: kill, pause, resume; and those about environments."""

from __future__ import annotations

from typing import Any, NamedTuple


class OpenRequest:
    """A control that waits for the answers of some tasks."""

    def __init__(
        self, request: str, name: str, op: str, uid: int, done: list[Any], grace_s: float | None = None
    ) -> None:
        self.request = request
        self.name = name
        self.op = op
        self.uid = uid
        self.grace_s = grace_s  #: of a kill: between TERM and KILL; None: the node's own
        self.open: set[str] = set()
        self.done: list[list[Any]] = list(done)  #: [task, ok, outcome]

    def answer(self, task: str, ok: bool, outcome: str) -> bool:
        """Note one task's answer; tell whether that was the last."""
        if task not in self.open:
            return False
        self.open.discard(task)
        self.done.append([task, ok, outcome])
        return not self.open

    def sooner(self, other: OpenRequest) -> bool:
        """Whether what the other kill is about may end sooner by this one. The node's own grace only the node knows."""
        if self.grace_s is None or other.grace_s is None:
            return self.grace_s != other.grace_s
        return self.grace_s < other.grace_s

    def checkpoint(self) -> dict[str, Any]:
        """All of it, for the journal."""
        grace = {} if self.grace_s is None else {"grace_s": self.grace_s}
        return {
            "name": self.name, "op": self.op, "uid": self.uid, "open": sorted(self.open), "done": self.done, **grace
        }  # fmt: skip

    @classmethod
    def restore(cls, request: str, saved: dict[str, Any]) -> OpenRequest:
        """Read what `checkpoint` wrote."""
        found = cls(request, saved["name"], saved["op"], saved["uid"], saved["done"], saved.get("grace_s"))
        found.open = set(saved["open"])
        return found

    def receipt(self, at: float) -> dict[str, Any]:
        """The answer: records.Receipt."""
        answers = [{"task": task, "ok": ok, "outcome": outcome} for task, ok, outcome in sorted(self.done)]
        return {
            "format": 1, "request": self.request, "name": self.name, "kind": self.op, "outcome": "done", "at": at,
            "uid": self.uid, "answers": answers,
        }  # fmt: skip


class Order(NamedTuple):
    """A request about environments that one host has taken, and is to carry out on its engine."""

    request: str
    name: str  #: file name it was dropped under
    kind: str  #: create-container, create-tar ...
    uid: int
    host: str  #: id of the host that took it: the containers live in its engine
    environment: str  #: of delete-tar also a package's name
    image: str | None

    def refusal(self, problems: list[dict[str, Any]], at: float) -> dict[str, Any]:
        """The answer when it could not be done: records.Receipt."""
        return {**self._answer("refused", at), "errors": problems}

    def receipt(self, text: str, at: float) -> dict[str, Any]:
        """The answer when it is done: records.Receipt."""
        return {**self._answer("done", at), "text": text}

    def _answer(self, outcome: str, at: float) -> dict[str, Any]:
        return {
            "format": 1, "request": self.request, "name": self.name, "kind": self.kind, "outcome": outcome, "at": at,
            "uid": self.uid,
        }  # fmt: skip
