"""Connections to Docker engines: a client for each socket and thread, and what their errors mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException

from hakuriver.attendant.engine import Away

#: docker.APIClient, of which half is not typed.
Client = Any
#: Seconds until an engine that does not answer is away. Making a container takes that long only on a dying disk.
ANSWER_S = 60


class Connections:
    """All connections of this process."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._versions: dict[str, str] = {}

    @contextmanager
    def to(self, socket: str) -> Iterator[Client]:
        """A client of the engine at this socket, for this thread. What fails to reach it raises Away.

        The engine's own refusals (APIError) pass.
        """
        try:
            yield self._client(socket)
        except APIError as error:
            # A proxy or systemd before an engine that is not up, or an engine that is ending.
            if error.response is not None and error.response.status_code in (502, 503, 504):
                raise self._away(socket, error) from error
            raise
        except (requests.RequestException, DockerException, OSError) as error:
            raise self._away(socket, error) from error

    def _client(self, socket: str) -> Client:
        clients = self._mine.__dict__.setdefault("clients", {})
        if socket not in clients:
            version = self._versions.get(socket, "auto")
            clients[socket] = docker.APIClient(f"unix://{socket}", version=version, timeout=ANSWER_S)
            clients[socket].trust_env = False  # no proxy has a say on the way to a socket
            self._versions[socket] = clients[socket].api_version
        return clients[socket]

    def _away(self, socket: str, error: Exception) -> Away:
        self._mine.__dict__.get("clients", {}).pop(socket, None)
        self._versions.pop(socket, None)  # it may come back as another version
        return Away(f"Cannot connect to Docker daemon at unix://{socket}: {why(error)}")


def why(error: BaseException) -> str:
    """The system's error at the bottom of a library's; as the library tells it, if there is none."""
    for found in _beneath(error):
        if isinstance(found, requests.Timeout):
            return f"no answer within {ANSWER_S} s"
        if isinstance(found, PermissionError):
            return f"{found.strerror}: this user may not use it (is it in the group docker?)"
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
    return str(error)


def _beneath(error: BaseException) -> list[BaseException]:
    """An error, and all that it came from or holds."""
    found = [error]
    for one in found:  # grows meanwhile
        for more in (one.__cause__, one.__context__, *one.args):
            if isinstance(more, BaseException) and not any(more is known for known in found):
                found.append(more)
    return found
