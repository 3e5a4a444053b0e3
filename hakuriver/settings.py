"""config.toml as one model: every key with its default, unit and meaning."""

from __future__ import annotations

import os
import re
import socket
from typing import Any, Literal, NamedTuple, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from hakuriver import targets
from hakuriver.config import DEAD_KEYS, ConfigError
from hakuriver.faults import Fault, contradictions, fault_of
from hakuriver.kinds import (
    Address,
    Bytes,
    Directory,
    Indices,
    Name,
    Path,
    Program,
    Seconds,
    Text,
    kind_text,
    value_text,
)
from hakuriver.spool.layout import ENVIRONMENT_NAME, NODE_NAME
from hakuriver.tomltext import toml_value


def default_node_name() -> str:
    """This machine's host name, made fit for a node's."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname().split(".")[0].lower())
    return kept.strip("._-")[:63] or "node"


class Section(BaseModel):
    """A table of config.toml."""

    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True)


class Paths(Section):
    """[paths]: directories and files of this machine; ~ is the home directory of whoever runs the command."""

    shared_dir: Path = Field("", description="where the share is mounted on this machine", examples=["/mnt/river"])
    state_dir: Directory = Field(
        "~/.local/state/hakuriver", description="local state of host and runners; never in /tmp"
    )
    local_temp_dir: Directory = Field("/tmp/hakuriver-temp", description="scratch space of tasks on this node")
    numactl_path: Program = Field(
        "", description="the program numactl; empty: looked for on PATH", examples=["/usr/bin/numactl"]
    )
    host_log_file: Path = Field(
        "", description="also log to this file; empty: stderr alone", examples=["/var/log/hakuriver/host.log"]
    )
    runner_log_file: Path = Field(
        "",
        description="also log to this file, runner-n1.log on the node n1; empty: stderr alone",
        examples=["/var/log/hakuriver/runner.log"],
    )


class Node(Section):
    """[node]: this machine as a node."""

    name: str = Field(
        default_factory=default_node_name, description="unique in the cluster; default: the host name", examples=["n1"]
    )

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not NODE_NAME.fullmatch(value):
            raise ValueError("must be of a-z, 0-9, '.', '_' and '-', at most 63, beginning and ending alphanumerical")
        return value


class Database(Section):
    """[database]: the host's index."""

    db_file: Path = Field(
        "",
        description="SQLite file on a local disk; empty: index.db in the state directory",
        examples=["/var/lib/hakuriver/index.db"],
    )


class Timing(Section):
    """[timing]: times as text, such as 90s, or seconds; the same on all machines of a cluster."""

    heartbeat_interval: Seconds = Field(5.0, description="between two heartbeats of a runner")
    heartbeat_timeout_factor: float = Field(
        6, gt=1, allow_inf_nan=False, description="intervals without a heartbeat after which a node is offline"
    )
    offline_after: Seconds = Field(
        30.0, description="silence after which a node is offline; default: heartbeat_interval times the factor"
    )
    lease: Seconds = Field(90.0, description="how long a runner may run what may be rerun without a heartbeat")
    lease_margin: Seconds = Field(30.0, description="beyond the lease, before the host starts the work elsewhere")
    kill_grace: Seconds = Field(10.0, description="between TERM and KILL")
    poll_interval: Seconds = Field(1.0, description="between two listings when nothing is going on")
    cleanup_check_interval: Seconds = Field(5.0, description="between two sweeps of the host for what was left behind")
    resource_check_interval: Seconds | None = Field(
        None, description="between two readings of a node's GPUs; default: heartbeat_interval", examples=["1s"]
    )

    @model_validator(mode="after")
    def _derive(self) -> Timing:
        if "offline_after" not in self.model_fields_set:
            self.offline_after = self.heartbeat_interval * self.heartbeat_timeout_factor
            self.model_fields_set.discard("offline_after")  # still nobody has said so
        return self

    @property
    def gpu_interval(self) -> float:
        """Seconds between two readings of a node's GPUs."""
        return self.resource_check_interval or self.heartbeat_interval


class Resources(Section):
    """[resources]: what this node offers, instead of what is found."""

    cores: int | None = Field(
        None, ge=1, description="cores for tasks; default: those that this process may use", examples=[8]
    )
    memory: Bytes | None = Field(
        None, description="memory for tasks; default: what this process may use", examples=["32G"]
    )
    gpus: Indices | None = Field(None, description="indices of the GPUs for tasks; default: all", examples=[[0, 1]])


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

    admins: list[str] = Field([], description="users who may drain nodes and act on others' jobs", examples=[["ada"]])


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

    runner_user: Text = Field("", description="user of systemd tasks; empty: the runner's own", examples=["river"])


class Docker(Section):
    """[docker]: environments and containers."""

    host: str = Field(
        "",
        description="the engine's socket; empty: DOCKER_HOST, or unix:///var/run/docker.sock",
        examples=["unix:///run/docker.sock"],
    )
    container_dir: str = Field("hakuriver-containers", description="where packages lie below shared_dir")
    default_container_name: str = Field("hakuriver-base", description="environment of jobs that name none")
    initial_base_image: Text = Field(
        "",
        description="image from which the host makes the default environment; or empty",
        examples=["python:3.12-slim"],
    )
    tasks_privileged: bool = Field(False, description="whether jobs are privileged that do not say")
    additional_mounts: list[str] = Field([], description="mounts of jobs that name none", examples=[["/data:/data:ro"]])
    network: Name = Field("bridge", description="network of containers: bridge, host, none or one of the engine's")
    user: Text = Field("", description="user inside containers; empty: the image's own", examples=["1000:1000"])

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
    allowed_mounts: list[str] = Field(
        ["*"], description="what of the nodes may be mounted: directories, or *", examples=[["/data", "/scratch"]]
    )
    allow_null: bool = Field(True, description="whether commands may run without a container")
    require_target: bool = Field(False, description="whether each job must name its nodes; else the host chooses one")
    tasks_per_user: int | None = Field(
        None, ge=1, description="tasks of one user that are not over, at most", examples=[1000]
    )
    cores_per_user: int | None = Field(
        None, ge=1, description="cores that one user's tasks hold at once, at most", examples=[64]
    )
    memory_per_user: Bytes | None = Field(
        None, description="memory that one user's tasks hold at once, at most", examples=["256G"]
    )
    gpus_per_user: int | None = Field(
        None, ge=0, description="GPUs that one user's tasks hold at once, at most", examples=[4]
    )


class Network(Section):
    """[network]: for the ssh relay, which this version does not have yet; nothing else opens a port."""

    host_reachable_address: Address = Field(
        "", description="the host, as clients reach it; no effect yet: there is no relay", examples=["10.0.0.1"]
    )
    host_bind_ip: Address = Field(
        "127.0.0.1", description="where the relay listens; no effect yet: there is no relay", examples=["0.0.0.0"]
    )
    host_ssh_proxy_port: int = Field(
        8002, ge=1, le=65535, description="port of the relay; no effect yet: there is no relay"
    )
    runner_address: Address = Field(
        "", description="this node, as the host reaches it; no effect yet: there is no relay", examples=["10.0.0.2"]
    )
    host_port: int | None = Field(None, ge=1, le=65535, description="no effect: there is no HTTP server")
    runner_port: int | None = Field(None, ge=1, le=65535, description="no effect: there is no HTTP server")


class Settings(Section):
    """All settings."""

    paths: Paths = Field(default_factory=Paths)
    node: Node = Field(default_factory=Node)
    database: Database = Field(default_factory=Database)
    timing: Timing = Field(default_factory=Timing)
    resources: Resources = Field(default_factory=Resources)
    limits: Limits = Field(default_factory=Limits)
    retention: Retention = Field(default_factory=Retention)
    cluster: Cluster = Field(default_factory=Cluster)
    scheduling: Scheduling = Field(default_factory=Scheduling)
    environment: Environment = Field(default_factory=Environment)
    docker: Docker = Field(default_factory=Docker)
    policy: Policy = Field(default_factory=Policy)
    network: Network = Field(default_factory=Network)

    @property
    def db_file(self) -> str:
        """The index's file."""
        return self.database.db_file or os.path.join(self.paths.state_dir, "index.db")

    @property
    def runner_log_file(self) -> str:
        """The runner's log: runner.log is runner-n1.log on the node n1, since several runners may share a file."""
        stem, ending = os.path.splitext(self.paths.runner_log_file)
        return f"{stem}-{self.node.name}{ending}" if stem else ""


class SettingsRow(NamedTuple):
    """One key of the configuration, for its reference."""

    section: str
    key: str
    kind: str  #: `time`, `size`, `path`, `whole number ≥ 1`, `true or false`, `one of a, b`
    default: str  #: as TOML; empty: none that is the same everywhere
    description: str
    dead: bool  #: accepted, without effect
    example: str  #: as TOML; may be empty


def settings_rows() -> list[SettingsRow]:
    """Every key, in the order of the model."""
    return [
        SettingsRow(
            section, key, kind_text(field), _default_text(field), field.description or "",
            f"{section}.{key}" in DEAD_KEYS, toml_value(field.examples[0]) if field.examples else "",
        )
        for section, model in _sections().items()
        for key, field in model.model_fields.items()
    ]  # fmt: skip


def section_text(section: str) -> str:
    """What a section is about."""
    return (_sections()[section].__doc__ or "").partition(": ")[2]


def _sections() -> dict[str, type[Section]]:
    return {name: cast("type[Section]", field.annotation) for name, field in Settings.model_fields.items()}


def _default_text(field: FieldInfo) -> str:
    """As TOML; empty: none that is the same everywhere."""
    fixed = field.default_factory is None and field.default is not None
    return value_text(kind_text(field), field.default) if fixed else ""


def parse(table: dict[str, Any], origin: str, shared_dir: str | None = None) -> Settings:
    """Check a configuration; `origin` names it in errors, `shared_dir` goes over its own. Raises ConfigError."""
    settings, faults = examine(table, shared_dir)
    if faults:
        raise ConfigError("\n".join(f"{origin}: {fault}" for fault in faults))
    return settings


def examine(table: dict[str, Any], shared_dir: str | None = None) -> tuple[Settings, list[Fault]]:
    """All that is wrong with a configuration, and the settings without what is wrong."""
    paths = table.get("paths", {})
    if shared_dir and isinstance(paths, dict):
        table = {**table, "paths": {**paths, "shared_dir": shared_dir}}
    try:
        settings, faults = Settings.model_validate(table), []
    except ValidationError as error:
        faults = [fault_of(each, _field(each["loc"])) for each in error.errors()]
        settings = Settings.model_validate(_without(table, error.errors()))
    mistaken = {fault.key.split(".")[0] for fault in faults if fault.value}
    return settings, faults + contradictions(settings, mistaken)


def _field(place: tuple[int | str, ...]) -> FieldInfo | None:
    """The key at a place of the configuration, if there is such a one."""
    section, name = (*place, "")[:2]
    return _sections()[str(section)].model_fields.get(str(name)) if section in Settings.model_fields else None


def _without(table: dict[str, Any], errors: list[Any]) -> dict[str, Any]:
    """The table without the keys that these errors are about."""
    bad = {error["loc"][:2] for error in errors}
    return {
        section: {key: value for key, value in keys.items() if (section, key) not in bad}
        for section, keys in table.items()
        if (section,) not in bad
    }


def known_keys() -> list[str]:
    """Every key, as section.key."""
    return [f"{section}.{key}" for section, model in _sections().items() for key in model.model_fields]
