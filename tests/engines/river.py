"""A river whose nodes have Docker engines of their own, each with its own images.

    with DockerRiver(scratch, {"n1": engine, "n2": other}, maker) as river:
        river.package("base")
        job = river.contained("echo hi", targets=["n1"])

Packages are made on an engine that no node has, as the host does it. Daemons are those of the installed package, or of
the tree that PYTHONPATH names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import CALM, Cluster
from conftest import eventually
from daemons import PATIENCE_S, Daemon, Machine, toml
from docker.errors import APIError
from lab.dockerd import Dockerd, busybox_tree
from processes import processes

from hakuriver import reading
from hakuriver.spool import layout

MIB = 1 << 20
#: A container takes its time on a busy machine, and so does an image.
LONG_S = 90.0
#: The cluster id that `cluster.init_share` gives.
OWNER = "0123456789ab"


class DockerRiver(Cluster):
    """A host, nodes with engines, packages."""

    def __init__(self, directory: Path, engines: dict[str, Dockerd], maker: Dockerd, **sections: Any) -> None:
        """`engines`: of the nodes, by name; `maker`: what packages are made on, the host's."""
        super().__init__(directory, timing=CALM, **{"scheduling": {"executor": "auto"}, **sections})
        self.engines = engines
        self.maker = maker
        self.packages = self.share / layout.CONTAINERS

    def __enter__(self) -> DockerRiver:
        return self

    # -- daemons

    def start_all(self, cores: int = 4) -> dict[str, Daemon]:
        """Start the host, and a runner for each engine."""
        self.start_host(docker={"host": f"unix://{self.maker.socket}"})
        started = {node: self.node_daemon(node, cores).start() for node in self.engines}
        for node in started:
            self.ready(node)
        return started

    def node_daemon(self, node: str, cores: int = 4, **sections: Any) -> Daemon:
        """The runner of a node with its engine, not started."""
        docker = {"host": f"unix://{self.engines[node].socket}", **sections.pop("docker", {})}
        return self.runner(node, f"machine-{node}", cores, docker=docker, **sections)

    def start_node(self, node: str, cores: int = 4, **sections: Any) -> Daemon:
        """Start a node's runner and wait until it is ready."""
        daemon = self.node_daemon(node, cores, **sections).start()
        self.ready(node)
        return daemon

    def ready(self, node: str) -> None:
        """Wait until a node is online and its engine is there for tasks."""
        self.online(node)
        eventually(lambda: self.has_docker(node), PATIENCE_S, f"docker on {node}")

    def has_docker(self, node: str) -> bool:
        """Whether the host knows that the node can run containers now."""
        row = self.node(node)
        return "docker" in row.get("executors", ()) and "docker" not in row.get("away", {})

    def problems(self, node: str) -> str:
        """What the node says is wrong."""
        row = self.node(node)
        return "; ".join([*row.get("problems", ()), *row.get("away", {}).values()])

    def heartbeats(self, node: str) -> int:
        """The number of its newest heartbeat."""
        beats = self.names(layout.NodePaths(node).dir("heartbeat"))
        return max((place[1] for name in beats if (place := layout.parse_entry(name))), default=0)

    # -- packages

    def image(self, environment: str, mark: str, filler: int = 0) -> str:
        """Make an environment's image, as the host commits it, on the maker's engine; its id.

        `mark`: what /etc/mark holds, so that images can be told apart; `filler`: bytes that make it slow to load.
        """
        name = layout.environment_image(environment)
        extra = {"/etc/mark": mark.encode() + b"\n", "/filler": os.urandom(filler)}
        labels = {"hakuriver.kind": "environment", "hakuriver.environment": environment, "hakuriver.owner": OWNER}
        changes = [part for key, value in labels.items() for part in ("--change", f"LABEL {key}={value}")]
        tree = self.directory / "tree.tar"
        tree.write_bytes(busybox_tree(extra))
        made = self.maker.cli("import", "--message", layout.IMAGE_COMMENT, *changes, str(tree), name)
        tree.unlink()
        return made.strip()

    def package(self, environment: str = "base", mark: str = "one", filler: int = 0, at: int = 1_700_000_000) -> str:
        """Put a package on the share; its name."""
        image = self.image(environment, mark, filler)
        package = layout.Package(environment, at).name
        data = b"".join(self.maker.client.get_image(layout.environment_image(environment)))
        self.publish(package, data, image)
        if any(daemon.role == "host" and daemon.running for daemon in self.daemons):
            eventually(lambda: self._chosen(environment) == package, LONG_S, f"the host chooses {package}")
        return package

    def _chosen(self, environment: str) -> str | None:
        """The package that the host starts a task in, which it lists every two seconds; tried on the last node."""
        job = self.contained("true", environment, targets=[list(self.engines)[-1]])
        return self.ended(job, LONG_S).tasks[0].environment

    def publish(self, package: str, data: bytes, image: str, **wrong: Any) -> None:
        """Tarball first, then the manifest; `wrong`: what it says instead."""
        (self.share / layout.tarball(package)).write_bytes(data)
        manifest = {
            "format": 1, "environment": package.rpartition("-")[0], "name": package, "image_id": image,
            "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "created_at": 1.0, "source": "test",
            **wrong,
        }  # fmt: skip
        path = self.share / layout.manifest(package)
        path.with_suffix(".tmp").write_text(json.dumps(manifest))
        path.with_suffix(".tmp").rename(path)

    def loading(self) -> list[str]:
        """Marks of packages that are being loaded."""
        return sorted(name for name in self.names(layout.CONTAINERS) if name.endswith(".loading"))

    # -- tasks

    def command(self, *arguments: str) -> str:
        """What `hakuriver ARGUMENTS` prints for a client of this river."""
        environment = {**os.environ, "HAKURIVER_SHARED_DIR": str(self.share), "HAKURIVER_CONFIG": str(self._client())}
        done = subprocess.run(
            [sys.executable, "-m", "hakuriver", *arguments], env=environment, capture_output=True, text=True,
            timeout=LONG_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _client(self) -> Path:
        config = self.directory / "client.toml"
        config.write_text(toml({"paths": {"shared_dir": self.share, "state_dir": self.directory / "client"}}))
        return config

    def contained(self, script: str, container: str = "base", **fields: Any) -> str:
        """Submit a shell script for a container; the job's id."""
        return self.submit(script, container=container, **fields)

    def phases(self, job: str) -> set[str]:
        """What is done for the job's tasks at the moment."""
        return {task.phase for task in self.job(job).tasks if task.phase}

    def completed(self, job: str, deadline_s: float = LONG_S) -> reading.Job:
        """Wait for the job's end, which must be a good one."""
        found = self.ended(job, deadline_s)
        assert found.state == "completed", (found.receipt, [(t.task, t.state, t.reason) for t in found.tasks])
        return found

    def data(self, name: str) -> list[str]:
        """The lines of a file in shared_data, /shared in containers."""
        path = self.share / layout.SHARED_DATA / name
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        """As in Cluster; and take away what tasks have left in the engines."""
        super().close()
        for engine in self.engines.values():
            clear(engine)


def clear(engine: Dockerd, but: str = "") -> None:
    """Remove all containers and images, but for that image."""
    eventually(lambda: not _left(engine, but), LONG_S, "the engine holds nothing", 0.2)


def _left(engine: Dockerd, but: str) -> list[str]:
    """Remove what there is, and tell what that was: some may be going already, or go only after what is made of it."""
    client = engine.client
    containers = [row["Id"] for row in client.containers(all=True)]
    images = [row["Id"] for row in client.images() if but not in (row["RepoTags"] or ())]
    for remove, found in ((client.remove_container, containers), (client.remove_image, images)):
        for one in found:
            with contextlib.suppress(APIError):
                remove(one, force=True)
    return containers + images


def attendants(machine: Machine) -> list[int]:
    """Pids of the attendants of a machine's keeper."""
    keepers = machine.keepers()
    return [pid for pid in processes("hakuriver.attendant") if _parent(pid) in keepers]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def loads(engine: Dockerd, call: Callable[[], Any]) -> int:
    """How many images were loaded into an engine meanwhile."""
    since = engine.client.info()["SystemTime"]
    call()
    until = engine.client.info()["SystemTime"]
    told = engine.cli("events", "--since", since, "--until", until, "--filter", "type=image", "--filter", "event=load")
    return len(told.splitlines())


def image_ids(engine: Dockerd) -> set[str]:
    """Ids of all images."""
    return {row["Id"] for row in engine.client.images()}
