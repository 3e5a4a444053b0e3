"""What the runner may ask. Each takes the keeper and a message; a message that makes no sense raises."""

from __future__ import annotations

import signal

from hakuriver.keeper.record import fact, queue_line
from hakuriver.keeper.task import ENDED, PAUSED, RUNNING, Task

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from typing import Any

    from hakuriver.keeper.core import Keeper

    Message = dict[str, Any]


def hello(keeper: Keeper, message: Message, raw: bytes) -> None:
    """The capacity; the loop sends the reply."""
    del raw
    keeper.capacity.cores, keeper.capacity.memory = int(message["cores"]), message.get("memory_bytes")


def start(keeper: Keeper, message: Message, raw: bytes) -> None:
    """Queue what is new."""
    first = keeper.known.next_n
    new = keeper.known.queue(message)
    if new:
        keeper.record.add(queue_line(first, raw))
        keeper.enqueue(new)
        keeper.keep_lease()


def lease(keeper: Keeper, message: Message, raw: bytes) -> None:
    """The lease, longer or shorter."""
    del raw
    keeper.extend_lease(float(message["until"]))


def forget(keeper: Keeper, message: Message, raw: bytes) -> None:
    """Drop what has ended."""
    del raw
    for name, attempt in message["tasks"]:
        task = keeper.known.tasks.get((name, attempt))
        if task is not None and task.phase == ENDED:
            keeper.forget(task)


def rerunnable(keeper: Keeper, message: Message, raw: bytes) -> None:
    """Put tasks under the lease, or take them out of it."""
    del raw
    for name, attempt, flag in message["tasks"]:
        task = keeper.known.tasks.get((name, attempt))
        if task is not None and task.phase != ENDED:
            task.rerunnable = bool(flag)
            keeper.record.add(fact("flag", n=task.n, rerunnable=task.rerunnable))
    keeper.keep_lease()


def control(keeper: Keeper, message: Message, raw: bytes) -> None:
    """Kill, pause or resume."""
    del raw
    key = (str(message["task"]), int(message["attempt"]))
    op, request = message["op"], message.get("request")
    keeper.take_results()
    keeper.reap()  # what has ended by now has its own ending
    task = keeper.known.tasks.get(key)
    if task is None:
        keeper.answer(key, op, request, False, "unknown")
    elif op == "kill":
        _kill(keeper, task, message)
    elif task.spec.engine and task.alive and task.stop is None:
        keeper.held.freeze(task, op, request)
    else:
        ok, text = _freeze(keeper, task, op == "pause")
        keeper.answer(key, op, request, ok, text)


def _kill(keeper: Keeper, task: Task, message: Message) -> None:
    request, grace = message.get("request"), message.get("grace_s")
    if task.phase == ENDED:
        keeper.answer_kill(task, request)
        return
    grace = None if grace is None else float(grace)
    task.answers.append(request)
    keeper.stop(task, "killed", str(message.get("reason") or "killed on request"), grace)


def _freeze(keeper: Keeper, task: Task, pause: bool) -> tuple[bool, str]:
    """Stop or continue the tree; whether it was done, and what to say."""
    if task.phase == ENDED:
        return False, f"already {task.end['state'] if task.end else 'ended'}"
    if not task.alive or task.stop is not None:
        return False, "not running" if task.stop is None else "being stopped"
    wanted, kind = (PAUSED, "paused") if pause else (RUNNING, "resumed")
    if task.phase == wanted:
        return True, f"already {wanted}"
    keeper.trees.sweep(task, signal.SIGSTOP if pause else signal.SIGCONT)
    task.phase = wanted
    keeper.tell(task, kind)
    return True, kind


COMMANDS = {
    "hello": hello,
    "start": start,
    "kill": control,
    "pause": control,
    "resume": control,
    "lease": lease,
    "forget": forget,
    "rerunnable": rerunnable,
}
