"""Docker as an engine: one container for each attempt, found again by name.

Rights: a container has the engine's usual ones and no more, unless it is to be privileged; NUMA needs none, since the
engine binds it by cpuset. Images are never pulled. The image's entrypoint, health check and restart policy have no say.

BUGS: a working directory that is missing is made by the engine, as `docker run -w` does. `docker-init` passes TERM to
the command alone, not to its children; KILL ends all. On cgroup v1 Docker calls a container killed for memory if any
process of it was. What usage.py and docker_output.py cannot see is said there.
"""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from hakuriver.attendant import docker_output
from hakuriver.attendant.docker_connections import Client, Connections
from hakuriver.attendant.docker_output import Output
from hakuriver.attendant.docker_refusals import ENGINE, lacks_init, not_executed, refusal
from hakuriver.attendant.engine import Away, CannotStart, Doubtful
from hakuriver.attendant.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hakuriver.attendant.messages import Attend, Begin, Ended

OWNER, TASK, ATTEMPT, KIND = "hakuriver.owner", "hakuriver.task", "hakuriver.attempt", "hakuriver.kind"
#: Seconds between attempts to reach an engine that is away while it is waited for.
RETRY_S = 1.0
#: How long a container that is being removed may take to go.
REMOVAL_S = 20.0
#: Exit codes above this one are of commands that were ended by a signal.
SIGNALLED = 128

#: HTTP: there is no such container; its state or name is against it.
MISSING, CONFLICT = 404, 409

LOOKS = {"created": "made", "running": "running", "paused": "running", "restarting": "running"}


class Docker:
    """As engine.Engine says. Names must have come in an order before they can be signalled, frozen or removed."""

    def __init__(self, socket: str = "") -> None:
        """`socket`: of the engine that is asked for names before any order has come; empty: the usual one."""
        self._usual = socket or os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"
        self._sockets: dict[str, str] = {}  #: name -> its engine
        self._engines: set[str] = set()  #: all that orders have named
        self._owners: set[str] = set()
        self._outputs: dict[str, Output] = {}
        self._connections = Connections()
        self._usage = Usage()
        self._without_init: set[str] = set()  #: sockets of engines that have no docker-init

    # -- begin

    def look(self, order: Begin | Attend) -> str:
        """As in Engine. What bears the name and not the owner's mark counts as absent."""
        deadline = time.monotonic() + REMOVAL_S
        while True:
            found = self._inspect(order)
            if found is None or not _bears(found, {order["owner"]}):
                return "absent"
            status = found["State"]["Status"]
            if status != "removing":
                return LOOKS.get(status, "ended")
            if time.monotonic() > deadline:
                raise Away(f"The container {order['name']} is still being removed")
            time.sleep(0.2)

    def make(self, order: Begin) -> None:
        """As in Engine."""
        socket = self._note(order)
        with self._connections.to(socket) as client:
            try:
                client.create_container_from_config(container(order, socket not in self._without_init), order["name"])
            except APIError as error:
                if _status(error) != CONFLICT:
                    raise refusal(_said(error)) from error
                if self.look(order) == "absent":
                    text = f"The name {order['name']} is taken by a container of somebody else's: see `docker ps -a`"
                    raise CannotStart(ENGINE, text) from error

    def start(self, order: Begin) -> None:
        """As in Engine."""
        try:
            self._start(order)
        except APIError as error:
            if not lacks_init(_said(error)) or self._sockets[order["name"]] in self._without_init:
                raise refusal(_said(error)) from error
            self._without_init.add(self._sockets[order["name"]])
            self.remove(order["name"])
            self.make(order)
            self.start(order)

    def _start(self, order: Begin) -> None:
        name = order["name"]
        with self._connections.to(self._note(order)) as client:
            stream = client.attach(name, stdout=True, stderr=True, stream=True, demux=True)
        try:
            with self._connections.to(order["spec"]["socket"]) as client:
                client.start(name)
        except BaseException as error:
            _give_back(stream)
            if isinstance(error, Away):
                # An engine that dies in a start may say that it was never started, though it ran.
                raise Doubtful(str(error)) from error
            raise
        self._outputs[name] = made = self._output(order)
        made.live(_whole(stream), lambda: _end(stream))

    # -- while it runs, and its end

    def attend(self, order: Begin | Attend) -> tuple[int | None, float]:
        """As in Engine."""
        found = self._inspect(order)
        if found is None:
            return None, time.time()
        self._outputs.setdefault(order["name"], self._output(order)).resume()
        pid = found["State"]["Pid"] or None
        if pid is not None:
            self._usage.add(order["name"], pid)
        return pid, seconds(found["State"]["StartedAt"]) or time.time()

    def wait(self, order: Begin | Attend) -> Ended:
        """As in Engine, but an engine that goes away is waited for: until then nothing is known of the container."""
        collected = self._outputs.setdefault(order["name"], self._output(order))
        restarted = False
        while True:
            try:
                missed = restarted and not self._runs(order)
                self._wait(order)
                collected.finish()
                return self._ending(order, collected, restarted, missed)
            except Away:
                restarted = True
                collected.doubt()
                time.sleep(RETRY_S)

    def _wait(self, order: Begin | Attend) -> None:
        """Wait until it does not run, for ever if need be; one that is gone does not run. Raises Away."""
        with self._connections.to(self._note(order)) as client:
            collected = self._outputs[order["name"]]
            if not collected.busy() and self._runs(order):
                collected.resume()
            try:
                client.wait(order["name"])
            except NotFound:
                return

    def _runs(self, order: Begin | Attend) -> bool:
        found = self._inspect(order)
        return found is not None and found["State"]["Running"]

    def _ending(self, order: Begin | Attend, collected: Output, restarted: bool, missed: bool) -> Ended:
        """`restarted`: the engine was away meanwhile; `missed`: and was not there when it ended."""
        found = self._inspect(order)
        state: dict[str, Any] = found["State"] if found else {"Error": "The container was removed by somebody"}
        code: int | None = state.get("ExitCode")
        started, ended = seconds(state.get("StartedAt", "")), seconds(state.get("FinishedAt", "")) or time.time()
        used, oom = self._usage.take(order["name"]), bool(state.get("OOMKilled") and code)
        # Who was killed for memory has used all that it had, whatever was seen of that.
        peak = order["spec"].get("memory_bytes") or used.peak_memory_bytes if oom else used.peak_memory_bytes
        text = state["Error"] or not_executed(_small(order["err"]), code)
        if restarted and code and code > SIGNALLED:
            text = text or "The node's Docker engine went away while it ran; its restart ends what runs in it"
        elif missed:
            collected.note_lost()
        return {
            "ev": "ended", "name": order["name"], "exit_code": code, "signal": None,
            "oom": oom, "text": "; ".join(filter(None, (text, collected.problem))),
            "started_at": started, "ended_at": ended, "wall_s": max(0.0, ended - started) if started else 0.0,
            "cpu_s": used.cpu_s, "peak_memory_bytes": peak,
        }  # fmt: skip

    def _output(self, order: Begin | Attend) -> Output:
        def log(stream: str, follow: bool, since: float | None) -> Iterator[bytes]:
            with self._connections.to(self._note(order)) as client:
                try:
                    entries = client.logs(
                        order["name"], stdout=stream == "stdout", stderr=stream == "stderr", stream=True,
                        follow=follow, since=since,
                    )  # fmt: skip
                    yield from _whole(entries)
                except NotFound:
                    return

        return Output(log, (order["out"], order["err"]), lambda: self._runs(order))

    # -- by name

    def signal(self, name: str, number: int) -> None:
        """As in Engine."""
        with self._connections.to(self._socket(name)) as client:
            ours = self._ours(client, name)
            if ours is None:
                return
            steps: list[Callable[[], object]] = [lambda: client.kill(ours["Id"], number)]
            if ours["State"]["Paused"]:
                # TERM would not be heard; but after KILL nothing of what is frozen is to run again.
                steps.insert(1 if number == signal.SIGKILL else 0, lambda: client.unpause(ours["Id"]))
            for step in steps:
                try:
                    step()
                except APIError as error:
                    if _status(error) not in (MISSING, CONFLICT) and "is not paused" not in _said(error):
                        raise Away(f"Docker: {_said(error)}") from error

    def freeze(self, name: str, on: bool) -> str:
        """As in Engine."""
        with self._connections.to(self._socket(name)) as client:
            ours = self._ours(client, name)
            if ours is None:
                return "there is no such container"
            try:
                (client.pause if on else client.unpause)(ours["Id"])
            except APIError as error:
                done = "is already paused" if on else "is not paused"
                return "" if done in _said(error) else f"Docker: {_said(error)}"
            return ""

    def remove(self, name: str) -> None:
        """As in Engine."""
        with self._connections.to(self._socket(name)) as client:
            ours = self._ours(client, name)
            try:
                if ours is not None:
                    client.remove_container(ours["Id"], v=True, force=True)
            except APIError as error:
                if _status(error) not in (MISSING, CONFLICT):  # gone, or being removed
                    raise Away(f"Docker: {_said(error)}") from error
        self._outputs.pop(name, None)
        self._sockets.pop(name, None)
        self._usage.take(name)

    def names(self, owner: str) -> list[str]:
        """As in Engine: of all engines that orders have named, or of the usual one."""
        self._owners.add(owner)
        found = []
        for socket in sorted(self._engines) or [self._usual]:
            with self._connections.to(socket) as client:
                rows = client.containers(all=True, filters={"label": [f"{OWNER}={owner}", f"{KIND}=task"]})
                for row in rows:
                    name = row["Names"][0].removeprefix("/")
                    self._sockets[name] = socket
                    found.append(name)
        return sorted(found)

    # -- finding it

    def _note(self, order: Begin | Attend) -> str:
        """Remember whose it is and where; the engine's socket."""
        self._owners.add(order["owner"])
        socket: str = order["spec"]["socket"]
        self._sockets[order["name"]] = socket
        self._engines.add(socket)
        return socket

    def _socket(self, name: str) -> str:
        return self._sockets.get(name) or min(self._engines, default=self._usual)

    def _inspect(self, order: Begin | Attend) -> dict[str, Any] | None:
        """What the engine knows of it; None: nothing. Raises Away."""
        with self._connections.to(self._note(order)) as client:
            return _inspected(client, order["name"])

    def _ours(self, client: Client, name: str) -> dict[str, Any] | None:
        """What the engine knows of it, if it is a task's and of an owner that has given orders here."""
        found = _inspected(client, name)
        return found if found is not None and _bears(found, self._owners) else None


def container(order: Begin, init: bool) -> dict[str, Any]:
    """What to ask the engine for: the body of POST /containers/create (Docker Engine API)."""
    spec = order["spec"]
    return {
        "Image": spec["image"],
        "Entrypoint": [""],  # clears the image's own, as the API says
        "Cmd": spec["argv"],
        "Env": [f"{name}={value}" for name, value in spec["env"].items()],
        "WorkingDir": spec.get("cwd") or "",
        "User": spec.get("user", ""),
        "Labels": {
            OWNER: order["owner"], TASK: order["task"], ATTEMPT: str(order["attempt"]), KIND: "task",
        },
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(spec, init),
    }  # fmt: skip


def _host_config(spec: dict[str, Any], init: bool) -> dict[str, Any]:
    memory = spec.get("memory_bytes") or 0
    # Docker refuses more processors than there are, and as many as there are is no limit.
    cores = min(spec.get("cores") or 0, os.cpu_count() or 1)
    return {
        "Init": init,
        "NanoCpus": cores * 10**9,
        "Memory": memory,
        "MemorySwap": memory,  # of both together: no swap
        "CpusetCpus": spec.get("cpuset_cpus", ""),
        "CpusetMems": spec.get("cpuset_mems", ""),
        "Mounts": [_mount(bind) for bind in spec.get("binds", [])],
        "DeviceRequests": _gpus(spec.get("gpus") or []),
        "Privileged": bool(spec.get("privileged")),
        "NetworkMode": spec.get("network") or "bridge",
        "LogConfig": docker_output.LOG_CONFIG,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }


def _mount(bind: str) -> dict[str, Any]:
    """A bind mount. Not as `Binds`, for which the engine makes a source that is missing."""
    source, target, mode = bind.rsplit(":", 2)
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": mode == "ro"}


def _gpus(uuids: list[str]) -> list[dict[str, Any]]:
    return [{"Driver": "", "DeviceIDs": uuids, "Capabilities": [["gpu"]]}] if uuids else []


def seconds(text: str) -> float | None:
    """Seconds since 1970 of a time as the engine writes it, with up to nine digits; None: it never was (year 1)."""
    found = re.fullmatch(r"(\d{4})(-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if found is None or found[1] == "0001":
        return None
    whole = datetime.fromisoformat(found[1] + found[2] + found[4].replace("Z", "+00:00")).timestamp()
    return whole + float(found[3] or 0)


def _inspected(client: Client, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.inspect_container(name)
    except NotFound:
        return None
    # The engine also finds by the beginning of an id.
    return found if found["Name"] == f"/{name}" else None


def _bears(found: dict[str, Any], owners: set[str]) -> bool:
    labels = found["Config"]["Labels"] or {}
    return labels.get(KIND) == "task" and labels.get(OWNER) in owners


def _whole(stream: Any) -> Iterator[Any]:
    """All that a stream of docker-py brings, until its end or `_end`; then it is given back."""
    try:
        yield from (piece for piece in stream)
    finally:
        _give_back(stream)


def _end(stream: Any) -> None:
    """Let whoever reads it come to its end."""
    try:
        stream.close()
    except (OSError, AttributeError):
        pass  # closed by the engine already


def _give_back(stream: Any) -> None:
    """Close all that belongs to a stream that nobody reads any more.

    docker-py closes the socket alone, and has it hold the response that holds it: left to the garbage collector they
    are closed in any order, and since Python 3.13 that is said on stderr. Source: docker-py, issue 3345.
    """
    _end(stream)
    stream._response.close()


def _small(path: str) -> bytes:
    """The content of a file, if it is as small as a message of docker-init."""
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def _status(error: APIError) -> int:
    return 0 if error.response is None else error.response.status_code


def _said(error: APIError) -> str:
    return str(error.explanation or error)
