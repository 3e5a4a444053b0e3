"""Becomes a task's program, inside of its unit: `systemd_launch.py DIRECTORY`. systemd starts it as root.

It reads DIRECTORY/launch, notes in `begun` when it did, takes the user's rights and becomes the program. A reader of
the pipe `told` sees its end when the program runs, and before it a line `CODE TEXT` if it cannot. systemd's own User=
and EnvironmentFile= would not do: what systemd runs as root at a unit's end would have the task's environment, with its
LD_PRELOAD; control characters in values are dropped, and a program that does not exist is told as an exit.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

#: What Python ignores, and a program must not find ignored; TERM is ignored by whoever is first in a pid namespace.
DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM)


class Launch:
    """What is to be started: `user` as uid, gid and groups; `tended`: by a first process of its own pid namespace."""

    def __init__(
        self, user: list[int], cwd: bytes, argv: list[bytes], env: list[bytes], prefix: list[bytes], tended: bool
    ) -> None:
        """`prefix`: a command that runs argv, as numactl; `env`: as NAME=value."""
        self.user, self.cwd, self.argv, self.env, self.prefix, self.tended = user, cwd, argv, env, prefix, tended

    def pack(self) -> bytes:
        """As it stands in the file. Raises ValueError if anything holds a NUL."""
        lists = (self.prefix, self.argv, self.env)
        head = [" ".join(map(str, self.user)).encode(), self.cwd, b"%d" % self.tended]
        fields = [*head, *(b"%d" % len(words) for words in lists), *(word for words in lists for word in words)]
        if any(b"\0" in field for field in fields):
            raise ValueError("a NUL byte in an argument, in the environment or in the working directory")
        return b"\0".join(fields)


def unpack(data: bytes) -> Launch:
    """Read what `pack` made."""
    fields = data.split(b"\0")
    user, cwd, tended = [int(word) for word in fields[0].split()], fields[1], fields[2] == b"1"
    lists, at = [], 6
    for size in map(int, fields[3:6]):
        lists.append(fields[at : at + size])
        at += size
    prefix, argv, env = lists
    return Launch(user, cwd, argv, env, prefix, tended)


def locate(name: bytes, path: bytes) -> bytes:
    """Find a program as execvp(3) does. Raises OSError."""
    if b"/" in name:
        candidates = [name]
    else:
        candidates = [os.path.join(directory or b".", name) for directory in path.split(b":")]
    problem = errno.ENOENT
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
        if os.path.exists(candidate):
            problem = errno.EACCES
    raise OSError(problem, os.strerror(problem))


def become(launch: Launch, telling: int | None) -> None:
    """Become the program, or tell why not and end."""
    env = dict(entry.split(b"=", 1) for entry in launch.env)
    trying = f"take the rights of user {launch.user[0]}"
    try:
        for number in DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _drop(launch.user)
        trying = f"enter working directory {os.fsdecode(launch.cwd)}"
        os.chdir(launch.cwd)
        trying = f"run {os.fsdecode(launch.argv[0])}"
        program = locate(launch.argv[0], env.get(b"PATH", os.fsencode(os.defpath)))
        if launch.prefix:
            trying = f"run {os.fsdecode(launch.prefix[0])}"
            os.execve(launch.prefix[0], [*launch.prefix, program, *launch.argv[1:]], env)
        os.execve(program, launch.argv, env)
    except OSError as error:
        code = 127 if error.errno == errno.ENOENT and trying.startswith("run") else 126
        if telling is not None:
            os.write(telling, os.fsencode(f"{code} cannot {trying}: {os.strerror(error.errno or 0)}"))
        os._exit(code)


def _drop(user: list[int]) -> None:
    """Have this user's rights; root stays as it is."""
    uid, gid, *groups = user
    if uid != os.getuid():
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def tend(launch: Launch, telling: int | None) -> None:
    """Be the first process of a pid namespace: signals do not end that one, and all others end with it."""
    pid = os.fork()
    if pid == 0:
        become(launch, telling)
    if telling is not None:
        os.close(telling)
    ended, status = os.wait()
    while ended != pid:
        ended, status = os.wait()
    if os.WIFSIGNALED(status):
        _note("signal", str(os.WTERMSIG(status)))
        os._exit(128 + os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _note(name: str, text: str) -> None:
    """Write a small file, whole at once."""
    with open(f"{name}.new", "w") as file:
        file.write(f"{text}\n")
    os.rename(f"{name}.new", name)


def main(directory: str) -> None:
    """Do it all."""
    os.chdir(directory)
    with open("launch", "rb") as file:
        launch = unpack(file.read())
    try:
        telling = os.open("told", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        telling = None  # ENXIO: whoever asked for it has died meanwhile
    _note("begun", f"{time.time()} {time.clock_gettime(time.CLOCK_BOOTTIME)}")
    if launch.tended:
        tend(launch, telling)
    become(launch, telling)


if __name__ == "__main__":
    main(sys.argv[1])
