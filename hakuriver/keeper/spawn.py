"""Starting processes, apart from the main thread.

The program or its directory may lie on a share that hangs, and posix_spawn(3) returns only when the program has been
loaded: it is called from threads, through ctypes, which lets the others run. A thread that is stuck gets a colleague.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from hakuriver.keeper import kernel, proc

TYPE_CHECKING = False  # the real one would load the typing module
if TYPE_CHECKING:
    from hakuriver.keeper.outputs import Slot
    from hakuriver.keeper.task import Task

SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80
THREADS, MAX_THREADS = 2, 8  #: two, because each waits until its program has been loaded
STUCK_S = 5.0  #: a start that takes longer makes another thread
#: Joins the cgroup, then becomes the program: one process all along. `env -i` because a shell exports of its own.
JOIN = b'echo $$ > "$0" && exec /usr/bin/env -i "$@"'

_libc = kernel.libc
_spawn = _libc.posix_spawn
_spawn.argtypes = [ctypes.c_void_p] + [ctypes.c_char_p] + [ctypes.c_void_p] * 4
_addopen = _libc.posix_spawn_file_actions_addopen
_addopen.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint]


class Failure:
    """Why a task could not be started. ``code`` as a shell would give it; None: it was not to be started any more."""

    __slots__ = ("code", "text")

    def __init__(self, code: int | None, text: str) -> None:
        self.code = code
        self.text = text


Result = tuple["Task", "int | Failure", "int | None"]  #: task, pid or failure, start ticks


def vector(words: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """A NULL-terminated char *[]."""
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


def _attributes() -> ctypes.Array[ctypes.c_char]:
    """A session of its own, all signals as by default, none blocked."""
    attributes, signals = ctypes.create_string_buffer(1024), ctypes.create_string_buffer(128)
    _libc.posix_spawnattr_init(attributes)
    _libc.posix_spawnattr_setflags(attributes, SETSIGDEF | SETSIGMASK | SETSID)
    _libc.posix_spawnattr_setsigmask(attributes, signals)
    _libc.sigfillset(signals)
    _libc.posix_spawnattr_setsigdefault(attributes, signals)
    return attributes


ATTRIBUTES = _attributes()


def _actions(slot: Slot, cwd: bytes | None) -> ctypes.Array[ctypes.c_char]:
    """File actions: /dev/null as 0, the slot as 1 and 2, the working directory. Kept for the slot's next task."""
    if slot.actions is not None and slot.actions_cwd == cwd:
        return slot.actions
    if slot.actions is not None:
        _libc.posix_spawn_file_actions_destroy(slot.actions)
    actions = ctypes.create_string_buffer(512)
    _libc.posix_spawn_file_actions_init(actions)
    _addopen(actions, 0, b"/dev/null", os.O_RDONLY, 0)
    for target, fd in enumerate(slot.fds, 1):
        _libc.posix_spawn_file_actions_adddup2(actions, fd, target)
    if cwd is not None:
        _libc.posix_spawn_file_actions_addchdir_np(actions, cwd)
    slot.actions, slot.actions_cwd = actions, cwd
    return actions


def locate(name: bytes, path: str, cwd: bytes | None) -> tuple[bytes, int]:
    """Find a program as execvp(3) does; (path, errno)."""
    if b"/" in name:
        return name, 0
    error = errno.ENOENT
    for directory in os.fsencode(path).split(b":"):
        candidate = os.path.join(cwd or b"/", directory or b".", name)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate, 0
            error = errno.EACCES
    return name, error


def _program(task: Task) -> tuple[bytes, int]:
    """Where the task's program is, remembered for others of the same start."""
    path = task.path()
    found = task.spec.programs.get(path)
    if found is not None:
        return found, 0
    program, error = locate(task.spec.argv[0], path, task.spec.cwd)
    if not error:
        task.spec.programs[path] = program
    return program, error


def explain(task: Task, error: int) -> Failure:
    """Say what was wrong: the directory, or the program."""
    cwd, name = task.spec.cwd, task.spec.argv[0]
    if cwd is not None:
        try:
            os.stat(os.path.join(cwd, b"."))
        except OSError as problem:
            return Failure(126, f"cannot enter working directory {os.fsdecode(cwd)}: {problem.strerror}")
    code = 127 if error == errno.ENOENT else 126
    return Failure(code, f"cannot run {os.fsdecode(name)}: {os.strerror(error)}")


def _runnable(path: bytes) -> int:
    """0, or why a file cannot be run."""
    if not os.path.exists(path):
        return errno.ENOENT
    return 0 if os.path.isfile(path) and os.access(path, os.X_OK) else errno.EACCES


def _joining(task: Task, env: list[bytes]) -> tuple[bytes, list[bytes], list[bytes]]:
    """Program, arguments and environment that join the task's memory cgroup first."""
    procs = os.fsencode(f"{task.group}/cgroup.procs")
    return b"/bin/sh", [b"sh", b"-c", JOIN, procs, *env, *task.spec.argv], [task.marker]


def launch(task: Task) -> int | Failure:
    """Start the task's process: its pid, or why not."""
    spec, slot = task.spec, task.slot
    assert slot is not None
    program, error = _program(task)
    env = task.environ()
    if b"\0" in b"".join((*spec.argv, *env)):
        return Failure(126, "a NUL byte in an argument or in the environment")
    if task.group is not None and not error:
        # What the shell cannot start is told by exit code only, so look first.
        error = _runnable(os.path.join(spec.cwd or b"/", program))
        program, argv, env = _joining(task, env)
        c_argv = vector(argv)
    else:
        c_argv = spec.c_argv = spec.c_argv or vector(spec.argv)
    pid = ctypes.c_int()
    actions = _actions(slot, spec.cwd)
    error = error or _spawn(ctypes.byref(pid), program, actions, ATTRIBUTES, c_argv, vector(env))
    return explain(task, error) if error else pid.value


class Spawner:
    """Threads that start tasks. ``results`` fills from them; ``wake`` is called after each addition."""

    def __init__(self, allowed: Callable[[Task], bool], wake: Callable[[], None]) -> None:
        self.results: deque[Result] = deque()
        self.in_flight = 0  #: tasks handed over whose results have not been taken
        self._allowed, self._wake = allowed, wake
        self._queue: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._busy: dict[int, tuple[float, Task]] = {}  # by thread id
        self._threads = 0
        for _ in range(THREADS):
            self._hire()

    def _hire(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        tid = threading.get_native_id()
        while True:
            task = self._queue.get()
            self._busy[tid] = (kernel.boottime(), task)
            self.results.append(self._start(task))
            del self._busy[tid]
            self._wake()

    def _start(self, task: Task) -> Result:
        if not self._allowed(task):
            return task, Failure(None, ""), None
        task.started_at, task.started_mono = time.time(), time.monotonic()
        try:
            made = launch(task)
        except Exception as problem:  # a thread that dies would leave the task starting for ever
            made = Failure(126, f"cannot start: {problem!r}")
        return task, made, None if isinstance(made, Failure) else proc.start_ticks(made)

    def hand_over(self, task: Task) -> None:
        """Have the task started."""
        self.in_flight += 1
        self._queue.put(task)

    def take(self) -> Result | None:
        """The next result."""
        if not self.results:
            return None
        self.in_flight -= 1
        return self.results.popleft()

    def relieve(self, now: float) -> None:
        """Add a thread if all are stuck and tasks wait."""
        stuck = [since for since, _ in list(self._busy.values()) if now - since >= STUCK_S]
        if len(stuck) == self._threads < MAX_THREADS and not self._queue.empty():
            self._hire()

    def unborn(self, task: Task) -> list[int]:
        """The child that is about to become ``task``, if it hangs there: it has our environment still."""
        for tid, (_, current) in list(self._busy.items()):
            if current is task:
                mine = proc.children(os.getpid(), tid)
                return [pid for pid in mine if proc.marker(pid, b"HAKURIVER_KEEPER=") in (None, task.marker)]
        return []
