"""Every file that crosses the share, as a model: this is the protocol.

Only the door refuses unknown keys; what daemons write to each other may carry keys of a later version,
which are ignored. Times named `*_at` are seconds since 1970 by the writer's clock: they are shown to people
and never compared. `spool_layout.md` tells which file holds which record, who writes it and when.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hakuriver import targets, units
from hakuriver.spool.layout import ENVIRONMENT_NAME, parse_package

#: The format number that this version writes and reads in every document.
FORMAT = 1

JOB_FILE_MAX = 1024 * 1024  #: bytes of one job file
BATCH_FILE_MAX = 256 * 1024 * 1024  #: bytes of one JSON Lines file
TASKS_MAX = 1_000_000  #: tasks of one job
NESTING_MAX = 32  #: levels of a document at the door
GRACE_MAX = 3600.0  #: seconds that a kill may leave a task between TERM and KILL

STATES = ("pending", "assigning", "running", "paused", "completed", "failed", "killed", "killed_oom", "lost")
#: States that end a task. `lost` may be corrected while it is the latest attempt's.
FINAL = frozenset({"completed", "failed", "killed", "killed_oom", "lost"})
#: States in which a task holds its node's cores and memory.
HOLDING = frozenset({"assigning", "running", "paused"})

JobId = Annotated[str, StringConstraints(pattern=r"^[0-9]{20}$")]
TaskName = Annotated[str, StringConstraints(pattern=r"^[0-9]{20}(-(0|[1-9][0-9]{0,9}))?$")]
Text = Annotated[str, StringConstraints(max_length=4096)]


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed to a program")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return text


def _size(value: object) -> object:
    return units.parse_size(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be seconds, or text such as 90s")
    return units.parse_duration(value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")
    return value


Argument = Annotated[str, BeforeValidator(lambda v: _plain(v) if isinstance(v, str) else v)]
Whole = Annotated[int, BeforeValidator(_whole)]
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What may name an image: it becomes part of an address of the engine. The engine itself is stricter.
IMAGE_NAME = r"^[A-Za-z0-9]([A-Za-z0-9_:@/-]|[.][A-Za-z0-9_:@/-])*$"
#: What a job names as its container if it wants none.
NO_CONTAINER = targets.NO_CONTAINER
#: Names in a task's environment that HakuRiver sets itself.
RESERVED_ENV = "HAKURIVER_"


def _or_text(kind: str, **bounds: float) -> dict[str, Any]:
    """JSON Schema of what may be a number, text with a unit, or null."""
    return {"anyOf": [{"type": kind, **bounds}, {"type": "string"}, {"type": "null"}]}


class DoorModel(BaseModel):
    """A request as people and programs write it: strict, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RunRequest(DoorModel):
    """A job: what `incoming/NAME.json` holds when something is to be run."""

    request: Literal["run"] = Field("run", description="May be left out.")
    format: Literal[1] = Field(1, description="Format of this file.")
    id: JobId | None = Field(None, description="20 digits, made by the client; the host makes one if it is missing.")
    command: list[Argument] = Field(min_length=1, description="Program and arguments; no shell reads them.")
    name: Annotated[Argument, StringConstraints(max_length=200)] | None = Field(None, description="A name for people.")
    targets: list[str] = Field(
        [],
        max_length=1000,
        description="node, node:NUMA, node::GPU,GPU or node:NUMA::GPU; one task runs on each. None: any one node.",
    )
    cores: Annotated[Whole, Field(ge=0, le=100_000)] = Field(1, description="Cores held; 0 reserves none.")
    memory: Annotated[Whole, Field(ge=1, le=2**60), BeforeValidator(_size)] | None = Field(
        None,
        description="Bytes, or text such as 512M, 4G, 4Gi: the limit of the task's whole tree.",
        json_schema_extra=_or_text("integer", minimum=1, maximum=2**60),
    )
    env: dict[str, Argument] = Field({}, description="Environment variables for the task.")
    workdir: Argument | None = Field(None, description="Absolute path on the node; default: shared_data.")
    executor: Literal["auto", "docker", "systemd", "process"] = "auto"
    container: Argument | None = Field(None, description="An environment's name, or NULL for none.")
    gpus: Annotated[Whole, Field(ge=0, le=64)] = Field(0, description="GPUs for each task, any of its node's.")
    privileged: bool | None = Field(None, description="docker: all rights on the node; default: the river's.")
    mounts: list[Argument] | None = Field(
        None, max_length=100, description="docker: HOST:CONTAINER or HOST:CONTAINER:ro, in place of the river's."
    )
    private_network: bool = Field(False, description="No network but a loopback of its own.")
    private_pid: bool = Field(False, description="It sees its own processes alone.")
    priority: Annotated[Whole, Field(ge=-100, le=100)] = Field(0, description="Higher first; above 0 for admins.")
    time_limit: Annotated[float, Field(gt=0, le=10**9), BeforeValidator(_duration)] | None = Field(
        None,
        description="Seconds, or text such as 90s, 2h30m; per attempt, pauses counted.",
        strict=False,
        json_schema_extra=_or_text("number", exclusiveMinimum=0, maximum=10**9),
    )
    retries: Annotated[Whole, Field(ge=0, le=1000)] = Field(0, description="Reruns in total, never after a kill.")
    array: str | None = Field(None, description="Indices, as 0-199, 1,3,7-9 or 0-199%8 (at most 8 at once).")
    no_queue: bool = Field(False, description="A task that cannot be sent out at once fails instead of waiting.")

    @field_validator("command")
    @classmethod
    def _program(cls, value: list[str]) -> list[str]:
        if not value[0]:
            raise ValueError("the program's name is empty")
        return value

    @field_validator("targets")
    @classmethod
    def _nodes(cls, value: list[str]) -> list[str]:
        for target in value:
            targets.parse(target)
        return value

    @field_validator("container")
    @classmethod
    def _environment_name(cls, value: str | None) -> str | None:
        if value not in (None, NO_CONTAINER) and not ENVIRONMENT_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no environment's name: a-z, 0-9, '.', '_' and '-', at most 63; or NULL")
        return value

    @field_validator("mounts")
    @classmethod
    def _mounts(cls, value: list[str] | None) -> list[str] | None:
        for mount in value or ():
            targets.parse_mount(mount)
        return value

    @field_validator("env")
    @classmethod
    def _environment(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not ENV_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for an environment variable")
            if name.startswith(RESERVED_ENV):
                raise ValueError(f"{name!r}: names that begin with {RESERVED_ENV} are set by HakuRiver itself")
        return value

    @field_validator("workdir")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError(f"{value!r} must be an absolute path")
        return value

    @field_validator("array")
    @classmethod
    def _array(cls, value: str | None) -> str | None:
        if value is not None:
            units.parse_array(value)
        return value

    @model_validator(mode="after")
    def _count(self) -> RunRequest:
        if task_count(self.array, len(self.targets)) > TASKS_MAX:
            raise ValueError(f"array and targets make more than {TASKS_MAX:,} tasks: split the job")
        return self

    @model_validator(mode="after")
    def _together(self) -> RunRequest:
        targets.check_together(self.__dict__)
        return self


class ControlRequest(DoorModel):
    """Kill, pause, resume or requeue jobs or single tasks."""

    request: Literal["kill", "pause", "resume", "requeue"]
    format: Literal[1] = 1
    id: JobId | None = None
    targets: list[TaskName] = Field(min_length=1, max_length=100_000, description="Job ids or task names.")
    grace: Annotated[float, Field(ge=0, le=GRACE_MAX), BeforeValidator(_duration)] | None = Field(
        None,
        description="kill: seconds, or text such as 90s, between TERM and KILL; 0: KILL at once. Default: the node's.",
        strict=False,
        json_schema_extra=_or_text("number", minimum=0, maximum=GRACE_MAX),
    )

    @model_validator(mode="after")
    def _of_a_kill(self) -> ControlRequest:
        if self.grace is not None and self.request != "kill":
            raise targets.Conflict("grace", self.grace, f"only a kill has one, no {self.request}", "leave it out")
        return self


class NodeRequest(DoorModel):
    """Drain a node (nothing new starts there), take it back (undrain), or forget one that is gone. For admins."""

    request: Literal["drain", "undrain", "forget"]
    format: Literal[1] = 1
    id: JobId | None = None
    node: str


class HostRequest(DoorModel):
    """Housekeeping of the host: delete what retention has passed; rebuild the index. For admins."""

    request: Literal["gc", "reindex"]
    format: Literal[1] = 1
    id: JobId | None = None
    older_than: Annotated[float, Field(ge=0), BeforeValidator(_duration)] | None = Field(
        None,
        description="gc: seconds, or text as 30d, instead of the settings.",
        strict=False,
        json_schema_extra=_or_text("number", minimum=0),
    )


class EnvironmentRequest(DoorModel):
    """Make, start, stop or delete an environment's container on the host; package it; delete a package. For admins."""

    request: Literal[
        "create-container", "start-container", "stop-container", "delete-container", "create-tar", "delete-tar"
    ]
    format: Literal[1] = 1
    id: JobId | None = None
    environment: str = Field(description="a-z, 0-9, '.', '_' and '-', at most 63; delete-tar: also <env>-<timestamp>.")
    image: str | None = Field(
        None, max_length=255, description="create-container: the image to begin with, as python:3.12-slim.",
        json_schema_extra={"pattern": IMAGE_NAME},
    )  # fmt: skip

    @field_validator("environment")
    @classmethod
    def _named(cls, value: str, info: ValidationInfo) -> str:
        package = info.data.get("request") == "delete-tar" and parse_package(value)
        if not package and not ENVIRONMENT_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no environment's name: a-z, 0-9, '.', '_' and '-', at most 63")
        return value

    @field_validator("image")
    @classmethod
    def _of_an_image(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(IMAGE_NAME, value):
            raise ValueError("it is no image's name: letters, digits and _ : @ / - between them, and single dots")
        return value

    @model_validator(mode="after")
    def _from_image(self) -> EnvironmentRequest:
        if (self.image is not None) != (self.request == "create-container"):
            raise ValueError("image: create-container must name one, nothing else may")
        return self


Request = Union[RunRequest, ControlRequest, NodeRequest, HostRequest, EnvironmentRequest]  # noqa: UP007 - read by pydantic on 3.10


def task_count(array: str | None, targets: int) -> int:
    """How many tasks a job with this array and so many targets has."""
    indices = sum(high - low + 1 for low, high in units.parse_array(array)[0]) if array else 1
    return indices * max(1, targets)


class Record(BaseModel):
    """A document between daemons, or from them to clients: later versions may add keys."""

    model_config = ConfigDict(extra="ignore")
    format: int = FORMAT


class River(Record):
    """river.json: the sentinel at the root, written once by `hakuriver init share`."""

    cluster: str
    cluster_id: str
    mode: Literal["single-user", "multi-user"] = "single-user"
    created_at: float


class Problem(BaseModel):
    """One thing that is wrong with a request: where, what, and what to do."""

    field: str
    value: str | None = None
    message: str
    remedy: str | None = None


class TaskAnswer(BaseModel):
    """What a control did to one task."""

    task: str
    outcome: str = Field(description="killed, paused, resumed, requeued, or why not")
    ok: bool


class Receipt(Record):
    """The one answer to one request."""

    request: str = Field(description="id of the request")
    name: str = Field(description="file name it was dropped under")
    kind: str = Field(description="what was asked: run, batch, kill, drain, gc, create-tar ...")
    outcome: Literal["accepted", "done", "refused"]
    at: float
    uid: int | None = Field(None, description="owner of the request file")
    ids: list[str] = Field([], description="jobs accepted")
    tasks: int = Field(0, description="tasks accepted, over all jobs")
    answers: list[TaskAnswer] = []
    errors: list[Problem] = []
    text: str = ""


class JobSpec(BaseModel):
    """An accepted job, as asked for, in plain units. Later edits of a configuration do not change it."""

    model_config = ConfigDict(extra="ignore")
    command: list[str]
    name: str | None = None
    targets: list[str] = []
    cores: int = 1
    memory_bytes: int | None = None
    env: dict[str, str] = {}
    workdir: str | None = None
    executor: str = "auto"
    container: str | None = None
    gpus: int = 0
    privileged: bool | None = None
    mounts: list[str] | None = None
    private_network: bool = False
    private_pid: bool = False
    priority: int = 0
    time_limit_s: float | None = None
    retries: int = 0
    array: str | None = None
    no_queue: bool = False


class Ending(BaseModel):
    """How an attempt ended, as its runner tells it."""

    state: Literal["completed", "failed", "killed", "killed_oom", "fenced"]
    cause: str = Field(
        description="exit signal time_limit launch reboot keeper_died killed oom fenced refused lost_track"
    )
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int | None = None
    out_bytes: int = 0
    err_bytes: int = 0


class Attempt(NamedTuple):
    """An earlier attempt of a task: a row of a snapshot."""

    attempt: int
    node: str | None
    state: str
    cause: str
    exit_code: int | None
    signal: int | None
    started_at: float | None
    ended_at: float | None
    gpus: tuple[int, ...] = ()  #: those it held


class TaskRow(NamedTuple):
    """A task that has been dispatched at least once: a row of a snapshot, in this order."""

    k: int | None  #: k in `<job>-<k>`; null for a job's only task
    state: str
    attempt: int  #: latest attempt that was dispatched
    node: str | None
    retries_spent: int
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: str  #: why it ended; of a pending task: why the last attempt did
    reason: str  #: for people
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None
    dispatch: str | None  #: journal position of the dispatch that holds it
    claimed: bool  #: the runner has said that it has it
    kill: str | None  #: id of the request to kill it
    earlier: list[Attempt]
    executor: str | None  #: which one was chosen for the latest attempt
    gpus: tuple[int, ...] = ()  #: those it holds, or held
    environment: str | None = None  #: the package it runs in, `<env>-<timestamp>`; null without a container
    phase: str = ""  #: what is done for it while assigning: `syncing <package>`; empty else


class JobSnapshot(Record):
    """A job as of one place in the journal: jobs/active/ and jobs/done/."""

    job: JobId
    state: str = Field(description="pending, running or a final state: that of its first task that did not complete")
    exit_code: int | None = Field(None, description="once over: what `hakuriver wait` exits with")
    term: int
    seq: int
    admission: int = Field(description="order in which jobs were accepted")
    name: str | None
    owner: str
    uid: int
    accepted_at: float
    finished_at: float | None = None
    count: int = Field(description="tasks in all")
    counts: dict[str, int] = Field(description="tasks by state")
    spec: JobSpec
    waiting: str = Field("", description="indices never dispatched yet, as 4-99,101")
    tasks: list[TaskRow] = []


class Start(BaseModel):
    """Tasks of one job to start: their common part once, and a row for each."""

    job: JobId
    name: str | None = None
    uid: int
    spec: JobSpec
    executor: str = "process"
    environment: str | None = Field(None, description="docker: the package to run in, `<env>-<timestamp>`")
    image: str | None = Field(None, description="docker: the image's id, as the package's manifest says")
    privileged: bool = Field(False, description="docker: as the job, or else the river, says")
    mounts: list[str] = Field([], description="docker: as the job, or else the river, says")
    network: str = Field("bridge", description="docker: as the river says; none for private_network")
    tasks: list[StartRow]


class StartRow(NamedTuple):
    """One attempt to start."""

    k: int | None
    attempt: int
    array_index: int
    rerunnable: bool
    numa: int | None = None  #: the NUMA node to be bound to
    gpus: tuple[int, ...] = ()  #: indices of the GPUs that are its own


class Control(BaseModel):
    """A kill, pause or resume for one attempt."""

    request: str
    op: Literal["kill", "pause", "resume"]
    job: JobId
    k: int | None
    attempt: int
    grace_s: float | None = Field(None, description="kill: seconds between TERM and KILL; null: the node's kill_grace")


class Dispatch(Record):
    """host -> runner: a document in a node's inbox, named by the journal entry that decided it."""

    node: str
    term: int
    place: str = Field(description="its own name without the ending")
    previous: str | None = Field(description="name of the document before it")
    ack_epoch: int = Field(0, description="events of this epoch are kept by the host ...")
    ack_seq: int = Field(0, description="... up to this one, and may be removed")
    starts: list[Start] = []
    controls: list[Control] = []
    drop: list[tuple[str, int | None, int]] = Field([], description="(job, k, attempt): superseded, to be stopped")


class Event(BaseModel):
    """One thing that happened on a node; which keys count depends on `kind`."""

    kind: Literal["begin", "claimed", "syncing", "started", "paused", "resumed", "ended", "answer", "unreadable"]
    at: float | None = None
    job: JobId | None = None
    k: int | None = None
    attempt: int = 0
    dispatch: str | None = Field(None, description="claimed, unreadable: place of the dispatch")
    end: Ending | None = Field(None, description="ended")
    request: str | None = Field(None, description="answer: the control's request")
    op: str | None = None
    ok: bool = True
    text: str = ""
    previous_epoch: int = Field(0, description="begin: the epoch before, over with this")
    previous_seq: int = Field(0, description="begin: last batch of that epoch; later ones are void")
    holds: list[tuple[str, int | None, int]] = Field([], description="begin: every attempt this node still answers for")


class EventBatch(Record):
    """runner -> host: what happened since the batch before."""

    node: str
    epoch: int
    seq: int
    events: list[Event]


class GpuLoad(BaseModel):
    """A GPU when a heartbeat was written; null: the driver does not tell."""

    index: int
    utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    memory_used_bytes: int | None = None
    graphics_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    fan_percent: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    processes: int = Field(0, description="processes that use it, whosever they are")


class Load(BaseModel):
    """A node's load when a heartbeat was written."""

    cpu_percent: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    load_1m: float = 0.0
    temperature_c: float | None = None
    disk_free_bytes: int | None = None
    temperature_average_c: float | None = None
    gpus: list[GpuLoad] = []


class Heartbeat(Record):
    """runner -> host: I am here. Told by its name; read for load and tasks."""

    node: str
    epoch: int
    seq: int
    term: int = Field(description="highest term seen in the inbox")
    inbox: str | None = Field(description="last inbox document dealt with, in order")
    lease_s: float
    load: Load
    tasks: list[tuple[str, int | None, int]] = Field([], description="attempts running or paused here")
    queued: int = Field(0, description="attempts claimed and not started yet")
    problems: list[str] = []
    away: dict[str, str] = Field({}, description="executors that cannot be used now, and why")
    at: float


class NumaNode(BaseModel):
    """A NUMA node of a machine."""

    id: int
    cpus: list[int]
    memory_bytes: int | None = None


class Gpu(BaseModel):
    """What does not change of a GPU."""

    index: int = Field(description="as NVML numbers them, in the order of their PCI bus ids")
    uuid: str
    name: str
    memory_bytes: int | None = None
    driver_version: str | None = None
    pci_bus_id: str | None = None


class NodeDescription(Record):
    """What a node is, as of one start of its runner."""

    node: str
    epoch: int
    hostname: str
    boot_id: str
    version: str
    cores: int
    memory_bytes: int
    executors: list[str]
    reads: list[int] = Field([FORMAT], description="formats that its runner reads")
    numa: list[NumaNode] = []
    gpus: list[Gpu] = []
    can: list[str] = Field([], description="systemd-numa, systemd-private-network, systemd-private-pid, docker-gpus")
    engines: dict[str, str] = Field(
        {}, description="versions: docker, systemd, nvidia (its driver), cgroup; numactl: its path"
    )
    cannot: dict[str, str] = Field({}, description="executors and abilities that it has not, and why")
    started_at: float


class GpuRow(Gpu):
    """A GPU in index/nodes.json."""

    load: GpuLoad | None = None
    task: str | None = Field(None, description="the task that holds it")
    foreign: bool = Field(False, description="processes use it that are no task's")


class NodeRow(BaseModel):
    """A node in index/nodes.json."""

    node: str
    state: Literal["online", "offline", "draining"]
    epoch: int
    hostname: str
    cores: int
    memory_bytes: int
    cores_held: int
    memory_held_bytes: int
    tasks: int = Field(description="attempts dispatched there and not over")
    executors: list[str]
    load: Load
    problems: list[str] = []
    numa: list[NumaNode] = []
    gpus: list[GpuRow] = []
    can: list[str] = []
    engines: dict[str, str] = {}
    cannot: dict[str, str] = {}
    away: dict[str, str] = {}
    heartbeat: str = Field("", description="<epoch>-<seq> of the last one seen")
    silent_s: float = Field(0.0, description="seconds without a new one, by the host's clock")
    version: str = ""


class UserShare(BaseModel):
    """What one user's tasks hold, or may hold at once (null: as much as there is)."""

    cores: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None


class RulesTold(BaseModel):
    """What the host places by, so that others can tell why a task waits."""

    executor: str = Field("auto", description="what `auto` in a job means")
    environment: str = Field("", description="of jobs that name none")
    packages: dict[str, str] = Field({}, description="newest package of each environment")
    contained: bool = Field(False, description="nothing may run without a container")
    limit: UserShare | None = Field(None, description="what each user's tasks may hold; null: not limited")
    users: dict[str, UserShare] = Field({}, description="by uid, what their tasks hold; only where it is limited")


class NodesIndex(Record):
    """index/nodes.json."""

    at: float
    host: str
    term: int
    seq: int
    cut_off: bool = Field(False, description="the host may be the one cut off: it frees nothing")
    rules: RulesTold = RulesTold()
    nodes: list[NodeRow]


class JobRow(BaseModel):
    """A job in index/recent.json."""

    job: str
    name: str | None
    owner: str
    state: str
    exit_code: int | None
    count: int
    counts: dict[str, int]
    nodes: list[str]
    cores: int
    memory_bytes: int | None
    priority: int
    accepted_at: float
    started_at: float | None
    finished_at: float | None
    command: str = Field(description="the command line, shortened")
    reason: str = ""
    targets: list[str] = Field([], description="as asked for")
    gpus: int = Field(0, description="of each task")
    executors: list[str] = Field([], description="that its tasks run with, or ran")
    environments: list[str] = Field([], description="packages that its tasks run in, or ran")
    phase: str = Field("", description="what is done for one of its tasks before it starts")


class RecentIndex(Record):
    """index/recent.json: the newest jobs, newest first."""

    at: float
    jobs: list[JobRow]


class EndingsIndex(Record):
    """index/endings/<last three digits>.json: every retained job whose id ends like this."""

    jobs: list[str]


class Manifest(Record):
    """hakuriver-containers/<env>-<timestamp>.json: the package beside it, whole once this can be seen."""

    environment: str
    name: str = Field(description="<env>-<timestamp>; the tarball is <name>.tar")
    image_id: str = Field(description="sha256:..., as the engine names it")
    size_bytes: int = Field(description="of the tarball")
    sha256: str = Field(description="of the tarball, hexadecimal")
    created_at: float
    source: str = Field("", description="the image that the environment's container was made from")
    request: str = Field("", description="the request that it was made for: a repeat of that makes no second one")


class ContainerRow(BaseModel):
    """An environment's container on the host, in index/environments.json."""

    environment: str
    state: str = Field(description="as the engine says: running, exited, created, paused, ...")
    image: str
    created_at: float | None = None


class EnvironmentProgress(BaseModel):
    """A request about environments that is being carried out."""

    request: str
    kind: str
    environment: str
    step: str = Field(description="for people: pulling, committing, saving ...")
    done_bytes: int | None = None
    total_bytes: int | None = None


class EnvironmentsIndex(Record):
    """index/environments.json."""

    at: float
    host: str
    engine: str = Field(description="version of the host's Docker engine; empty: none can be reached")
    problem: str = Field("", description="why none can be reached")
    default_problem: str = Field("", description="why the default environment is not there yet, though it is to be")
    containers: list[ContainerRow] = []
    packages: list[Manifest] = []
    progress: list[EnvironmentProgress] = []


class Entry(Record):
    """One entry of the journal: all that the host heard and decided in a tick. The baton's seq commits it."""

    term: int
    seq: int
    previous: str | None = Field(description="the entry before: <term>-<seq>")
    host: str
    at: float
    changes: list[list[Any]] = Field(description="[kind, arguments ...], applied in this order; see host/state.py")
    checkpoint: dict[str, Any] | None = Field(
        None, description="all that is not in snapshots; such an entry has no changes"
    )


Start.model_rebuild()
