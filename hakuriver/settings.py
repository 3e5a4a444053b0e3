"""config.toml as one model: every key with its default, unit and meaning."""

from __future__ import annotations

import difflib
import os
import re
import socket
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hakuriver import targets, units
from hakuriver.config import DEAD_KEYS, ConfigError
from hakuriver.spool.layout import ENVIRONMENT_NAME, NODE_NAME


def _seconds(value: object) -> object:
    return units.parse_duration(value) if isinstance(value, str) else value


def _bytes(value: object) -> object:
    return units.parse_size(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]


def default_node_name() -> str:
    """This machine's host name, made fit for a node's."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname().split(".")[0].lower())
    return kept.strip("._-")[:63] or "node"


class Section(BaseModel):
    """A table of config.toml."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Paths(Section):
    """[paths]: directories of this machine."""

    shared_dir: str = Field("", description="where the share is mounted on this machine")
    state_dir: str = Field("~/.local/state/hakuriver", description="local state of host and runners; never in /tmp")
    local_temp_dir: str = Field("/tmp/hakuriver-temp", description="scratch space of tasks on this node")
    numactl_path: str = Field("", description="the program numactl; empty: looked for on PATH")
    host_log_file: str = Field("", description="also log to this file; empty: stderr alone")
    runner_log_file: str = Field("", description="also log to this file; empty: stderr alone")

    @field_validator("shared_dir", "state_dir", "local_temp_dir", "numactl_path", "host_log_file", "runner_log_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return os.path.abspath(os.path.expanduser(value)) if value else value


class Node(Section):
    """[node]: this machine as a node."""

    name: str = Field(default_factory=default_node_name, description="unique in the cluster; default: the host name")

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not NODE_NAME.fullmatch(value):
            raise ValueError("must be of a-z, 0-9, '.', '_' and '-', at most 63, beginning and ending alphanumerical")
        return value


class Database(Section):
    """[database]: the host's index."""

    db_file: str = Field("", description="SQLite file on a local disk; empty: index.db in the state directory")

    @field_validator("db_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return os.path.abspath(os.path.expanduser(value)) if value else value


class Timing(Section):
    """[timing]: seconds, or text such as 90s; the same on all machines of a cluster."""

    heartbeat_interval: Seconds = Field(5.0, description="between two heartbeats of a runner")
    offline_after: Seconds = Field(30.0, description="silence after which a node is offline")
    lease: Seconds = Field(90.0, description="how long a runner may run what may be rerun without a heartbeat")
    lease_margin: Seconds = Field(30.0, description="beyond the lease, before the host starts the work elsewhere")
    kill_grace: Seconds = Field(10.0, description="between TERM and KILL")
    poll_interval: Seconds = Field(1.0, description="between two listings when nothing is going on")

    @model_validator(mode="after")
    def _order(self) -> Timing:
        if self.lease <= self.heartbeat_interval + self.kill_grace + 1:
            raise ValueError("lease must be longer than heartbeat_interval + kill_grace + 1 s")
        if self.offline_after <= self.heartbeat_interval:
            raise ValueError("offline_after must be longer than heartbeat_interval")
        return self


class Resources(Section):
    """[resources]: what this node offers, instead of what is found."""

    cores: int | None = Field(None, ge=1, description="cores for tasks; default: those that this process may use")
    memory: Bytes | None = Field(None, description="memory for tasks; default: that of the machine")
    gpus: list[int] | None = Field(None, description="indices of the GPUs for tasks; default: all")


class Limits(Section):
    """[limits]: bounds."""

    output_local: Bytes = Field(
        2**30, description="bytes of one task's output kept on the node while the share is away"
    )
    reserve_after: Seconds = Field(600.0, description="a task that has waited so long gets room kept for it")


class Retention(Section):
    """[retention]: how long files are kept, and how long a lost task may still be corrected."""

    jobs: Seconds = Field(30 * 86400.0, description="finished jobs")
    outputs: Seconds = Field(30 * 86400.0, description="outputs of finished jobs")
    receipts: Seconds = Field(7 * 86400.0, description="receipts")
    lost_keep: Seconds = Field(7 * 86400.0, description="a lost task may be corrected by its returning node")


class Cluster(Section):
    """[cluster]: who may do what, on the host."""

    admins: list[str] = Field([], description="users who may drain nodes and act on others' jobs")


class Scheduling(Section):
    """[scheduling]: how tasks are started."""

    executor: Literal["auto", "docker", "systemd", "process"] = Field(
        "auto", description="what `auto` in a job means; auto: the first of docker, systemd, process that can be had"
    )
    strategy: Literal["first-fit", "best-fit", "least-loaded", "round-robin"] = Field(
        "first-fit", description="which node gets a task that may run on several"
    )


class Environment(Section):
    """[environment]: as whom tasks run on this node."""

    runner_user: str = Field("", description="user of systemd tasks; empty: the runner's own")


class Docker(Section):
    """[docker]: environments and containers."""

    host: str = Field("", description="the engine's socket, as unix:///run/docker.sock; empty: DOCKER_HOST, or that")
    container_dir: str = Field("hakuriver-containers", description="where packages lie below shared_dir")
    default_container_name: str = Field("hakuriver-base", description="environment of jobs that name none")
    initial_base_image: str = Field("", description="image from which the host makes the default environment; or empty")
    tasks_privileged: bool = Field(False, description="whether jobs are privileged that do not say")
    additional_mounts: list[str] = Field([], description="mounts of jobs that name none, as /data:/data:ro")
    network: str = Field("bridge", description="network of containers: bridge, host, none or one of the engine's")
    user: str = Field("", description="user inside containers, as 1000:1000; empty: the image's own")

    @field_validator("host")
    @classmethod
    def _socket(cls, value: str) -> str:
        if value and not value.startswith("unix:///"):
            raise ValueError("must be a socket, as unix:///run/docker.sock")
        return value

    @field_validator("container_dir")
    @classmethod
    def _below(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", value):
            raise ValueError("must be the name of a directory below shared_dir: a-z, 0-9, '.', '_' and '-'")
        return value

    @field_validator("default_container_name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not ENVIRONMENT_NAME.fullmatch(value):
            raise ValueError("must be of a-z, 0-9, '.', '_' and '-', at most 63, beginning and ending alphanumerical")
        return value

    @field_validator("additional_mounts")
    @classmethod
    def _mounts(cls, value: list[str]) -> list[str]:
        for mount in value:
            targets.parse_mount(mount)
        return value

    @property
    def socket(self) -> str:
        """Path of the engine's socket."""
        return (self.host or _docker_host()).removeprefix("unix://")


def _docker_host() -> str:
    named = os.environ.get("DOCKER_HOST", "")
    return named if named.startswith("unix://") else "unix:///var/run/docker.sock"


class Policy(Section):
    """[policy]: what jobs may ask for; on the host. `*`: everybody; `@admins`: cluster.admins and the host's user."""

    privileged_users: list[str] = Field(["@admins"], description="who may ask for privileged containers")
    allowed_mounts: list[str] = Field(["*"], description="what of the nodes may be mounted: directories, or *")
    allow_null: bool = Field(True, description="whether commands may run without a container")
    tasks_per_user: int | None = Field(None, ge=1, description="tasks of one user that are not over, at most")
    cores_per_user: int | None = Field(None, ge=1, description="cores that one user's tasks hold at once, at most")
    memory_per_user: Bytes | None = Field(None, description="memory that one user's tasks hold at once, at most")
    gpus_per_user: int | None = Field(None, ge=0, description="GPUs that one user's tasks hold at once, at most")


class Network(Section):
    """[network]: keys of earlier generations; they are accepted and have no effect yet."""

    host_port: int | None = Field(None, description="no effect: there is no HTTP server")
    runner_port: int | None = Field(None, description="no effect: there is no HTTP server")


class Settings(Section):
    """All settings."""

    paths: Paths = Paths()
    node: Node = Node()
    database: Database = Database()
    timing: Timing = Timing()
    resources: Resources = Resources()
    limits: Limits = Limits()
    retention: Retention = Retention()
    cluster: Cluster = Cluster()
    scheduling: Scheduling = Scheduling()
    environment: Environment = Environment()
    docker: Docker = Docker()
    policy: Policy = Policy()
    network: Network = Network()

    @property
    def db_file(self) -> str:
        """The index's file."""
        return self.database.db_file or os.path.join(self.paths.state_dir, "index.db")


def parse(table: dict[str, Any], origin: str, shared_dir: str | None = None) -> Settings:
    """Check a configuration; `origin` names it in errors. Raises ConfigError."""
    if shared_dir:
        paths = table.get("paths", {})
        table = {**table, "paths": {**(paths if isinstance(paths, dict) else {}), "shared_dir": shared_dir}}
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(e)}" for e in error.errors())) from None
    _check_places(settings, origin)
    return settings


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key; {nearest_key(key)}"
    if error["type"] == "model_type":
        return f"{key} = {error['input']!r}: it must be a section, [{key}] with its keys below"
    if error["loc"] == () or len(error["loc"]) == 1:
        return f"[{key}]: {error['msg'].removeprefix('Value error, ')}"
    return f"{key} = {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


def nearest_key(key: str) -> str:
    """Name the known key that looks most like `key`."""
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
    return f"the nearest known one is {near[0]}"


def known_keys() -> list[str]:
    """Every key, as section.key."""
    return [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {})
    ]


def dead_keys(table: dict[str, Any]) -> list[str]:
    """Keys that the file sets and that have no effect any more."""
    return sorted(k for k in DEAD_KEYS if k.split(".")[1] in table.get(k.split(".")[0], {}))


def _check_places(settings: Settings, origin: str) -> None:
    shared, state = settings.paths.shared_dir, settings.paths.state_dir
    for key, path in (("paths.state_dir", state), ("database.db_file", settings.db_file)):
        if shared and _inside(path, shared):
            raise ConfigError(f"{origin}: {key} = {path!r} lies on the share; it must be on this machine's own disk")
    if _inside(state, "/tmp") or _inside(state, "/var/tmp") or _inside(state, "/dev/shm"):
        raise ConfigError(f"{origin}: paths.state_dir = {state!r} may be emptied at a reboot; name a lasting directory")


def _inside(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory
