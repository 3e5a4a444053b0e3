"""Why Docker could not start a container, in words that a person can act on.

The engine tells it in prose of its own, of runc and of NVIDIA's tools; what is not known here is passed on as it is.
"""

from __future__ import annotations

import re

from hakuriver.attendant.engine import CannotStart

#: Exit codes as shells and `docker run` have them.
ENGINE, NOT_EXECUTABLE, NO_PROGRAM = 125, 126, 127

#: What runc says before what it means.
PREAMBLE = re.compile(
    r"^(failed to create (shim )?task( for container)?: |OCI runtime create failed: |runc create failed: "
    r"|unable to start container process: |container_linux\.go:\d+: starting container process caused: "
    r"|error during container init: |process_linux\.go:\d+: container init caused: )+"
)

#: A single one may have 128 KiB with its end, all together a quarter of the stack's limit (execve(2)).
TOO_LONG = (
    "Arguments and environment are longer than Linux passes to a program (each 131,071 bytes at most): put what is "
    "long into a file"
)

#: What it says -> the exit code, and what to tell. The first that is found holds.
KNOWN: list[tuple[str, int, str]] = [
    (r'^exec: "(?P<what>.*?)": executable file not found', NO_PROGRAM, "There is no program {what} in the container"),
    (
        r'^exec: "(?P<what>.*?)": stat .*: no such file or directory',
        NO_PROGRAM,
        "There is no program {what} in the container",
    ),
    (
        r'^exec: "(?P<what>.*?)": (?P<why>permission denied|is a directory)',
        NOT_EXECUTABLE,
        "{what} cannot be executed: {why}",
    ),
    (
        r"exec (?P<what>/.*?): (?P<why>exec format error|no such file or directory)",
        NOT_EXECUTABLE,
        "{what} cannot be executed: {why} (is it, or its interpreter, made for this machine and image?)",
    ),
    (
        r"^task \S+: already exists",
        ENGINE,
        "The node's Docker engine died as it started the container, and something is left of that: requeue the task",
    ),
    (
        r"^No such image: (?P<what>\S+)",
        ENGINE,
        "The image {what} is not in the node's Docker engine any more: somebody has removed it (docker rmi, docker "
        "system prune). Requeue the task: its environment is loaded again",
    ),
    (
        r"bind source path does not exist: (?P<what>.*)$",
        ENGINE,
        "{what}, which is to be mounted, does not exist on this node: make it, or correct the job's mounts",
    ),
    (
        r"no space left on device",
        ENGINE,
        "No space left on the disk of the node's Docker engine: free some (`docker system df` shows what takes it) and "
        "requeue the task",
    ),
    (
        r"^Minimum memory limit allowed is (?P<what>\d+)MB",
        ENGINE,
        "The memory limit is lower than the node's Docker engine allows: ask for {what}Mi or more",
    ),
    (
        r"could not select device driver",
        ENGINE,
        "The node's Docker engine cannot give GPUs to containers: install the NVIDIA Container Toolkit on the node and "
        "restart the engine",
    ),
    (
        r"\bnetwork (?P<what>\S+) not found",
        ENGINE,
        "The node's Docker engine has no network {what}: make it (`docker network create`), or correct network in "
        "[docker]",
    ),
    (
        r"^(?P<why>Cannot mkdir: .*|mkdir .*|.*chdir to cwd.*)$",
        ENGINE,
        "The working directory cannot be had in the container: {why}",
    ),
    (
        r"^unable to find user (?P<what>.*?):",
        ENGINE,
        "There is no user {what} in the image: correct user in [docker], or give a number",
    ),
    (
        r"unable to apply caps: operation not permitted",
        ENGINE,
        "The node's Docker engine has not the rights itself that a privileged container is to have",
    ),
]


def refusal(text: str) -> CannotStart:
    """What to tell of an error of the engine."""
    text = PREAMBLE.sub("", text.strip()).removesuffix(": unknown").strip()
    for pattern, code, words in KNOWN:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return CannotStart(code, words.format(**found.groupdict()))
    return CannotStart(ENGINE, f"Docker: {text}")


def lacks_init(text: str) -> bool:
    """Whether a container could not be started because the engine has no docker-init."""
    return 'exec: "docker-init": executable file not found' in text


def not_executed(err: bytes, code: int | None) -> str:
    """What to tell of one that ended with `code` and wrote nothing but `err`, if docker-init could not execute it."""
    if code and re.fullmatch(rb"exec [^\n]*: argument list too long\n", err):  # runc, in the container's name
        return TOO_LONG
    found = re.fullmatch(rb"\[FATAL tini \(\d+\)\] exec (.*) failed: (.*)\n", err, re.DOTALL)
    if not code or found is None:
        return ""
    program, why = (part.decode(errors="replace") for part in found.groups())
    if code == NO_PROGRAM:
        return f"There is no program {program} in the container, or its interpreter is missing"
    return f"{program} cannot be executed: {why}"
