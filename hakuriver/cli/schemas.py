"""What `--json` prints, as models: the reference of every command's output. Times: seconds since 1970."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hakuriver.records import ContainerRow, JobRow, Load, Manifest, NodeDescription, NodeRow, Problem


class Output(BaseModel):
    """One JSON document on stdout. Later versions may add keys."""

    model_config = ConfigDict(extra="forbid")


class OutcomeOutput(Output):
    """How something that was waited for ended."""

    target: str = Field(description="job or task as it was named")
    state: str = Field(description="completed, failed, killed, killed_oom, lost, refused, unknown")
    exit_code: int
    reason: str
    counts: dict[str, int] = Field(description="its tasks by state")


class SubmitOutput(Output):
    """hakuriver submit --json."""

    jobs: list[str] = Field(description="ids; empty if refused")
    tasks: str | None = Field(description="its tasks in short, as ID-[0-199]; null with --from")
    count: int | None = Field(description="how many; null if not known yet")
    outcome: str = Field(description="accepted, refused, or waiting for a host")
    receipt: dict[str, Any] | None = Field(
        description="`hakuriver schema receipt`; why it was refused stands in its errors; null if there is none yet"
    )
    outcomes: list[OutcomeOutput] | None = Field(description="with --wait")


class WaitOutput(Output):
    """hakuriver task wait --json."""

    exit_code: int
    outcomes: list[OutcomeOutput] = Field(description="in the order named; without those that are not over in time")


class ValidatedFile(Output):
    """What the door would say of a file."""

    file: str = Field(description="as it was named; - is stdin")
    good: bool
    kind: str = Field(description="run, batch (JSON Lines), or another request: kill, drain ...")
    jobs: int = Field(description="0 if something is wrong, or it is another request")
    tasks: int = Field(description="of all its jobs")
    problems: list[Problem]


class ValidateOutput(Output):
    """hakuriver job validate --json."""

    files: list[ValidatedFile] = Field(description="in the order named")


class ListOutput(Output):
    """hakuriver task list --json."""

    jobs: list[ListedJob]


class ListedJob(JobRow):
    """A job; one that no host has read has the state submitted, and neither owner nor times."""

    owner: str | None  # type: ignore[assignment]
    accepted_at: float | None  # type: ignore[assignment]


class AttemptOutput(Output):
    """An earlier attempt of a task."""

    attempt: int
    node: str | None
    state: str
    cause: str
    exit_code: int | None
    signal: int | None
    started_at: float | None
    ended_at: float | None


class TaskOutput(Output):
    """A task that was sent out, is over, or was named."""

    task: str
    k: int | None
    state: str
    attempt: int = Field(description="the latest; 0: never sent out")
    node: str | None
    retries_spent: int
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: str
    reason: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None
    executor: str | None = Field(description="which one was chosen for the latest attempt")
    gpus: list[int] = Field(description="indices of the GPUs that it holds, or held")
    environment: str | None = Field(description="the package that it runs in, `<env>-<timestamp>`")
    phase: str = Field(description="what is done for it before it starts: `syncing <package>`; else empty")
    target: str | None = Field(description="the node that it must run on, and what of it; null: any node")
    earlier: list[AttemptOutput]
    out: str = Field(description="path of its stdout on this machine; the file appears with its first byte")
    err: str


class JobOutput(Output):
    """A job."""

    job: str
    state: str = Field(description="submitted, refused, pending, running, or that in which it ended")
    exit_code: int | None
    name: str | None
    owner: str | None
    uid: int | None
    accepted_at: float | None
    finished_at: float | None
    count: int = Field(description="tasks in all")
    counts: dict[str, int] = Field(description="tasks by state")
    spec: dict[str, Any] = Field(description="what was asked for")
    waiting: str = Field(description="indices never sent out, as 4-99,101")
    tasks: list[TaskOutput] = Field(description="those that were sent out or are over; or those that were named")
    receipt: dict[str, Any] | None = Field(description="where it is all that is known")


class StatusOutput(Output):
    """hakuriver task status --json."""

    jobs: list[JobOutput]


class LogsOutput(Output):
    """hakuriver task logs --json."""

    task: str
    state: str = Field(description="the task's, when it was read")
    attempt: int
    path: str = Field(description="on this machine; the file appears with its first byte")
    text: str = Field(description="what is no UTF-8 is replaced")


class WhyTask(Output):
    """A task that did not complete."""

    task: str
    state: str
    why: str


class WhyNode(Output):
    """What keeps the task from a node."""

    node: str
    reasons: list[str] = Field(description="empty: it has room")


class WhyOutput(Output):
    """hakuriver task why --json."""

    id: str
    state: str
    why: str
    tasks: list[WhyTask]
    nodes: list[WhyNode]
    as_of: float | None = Field(description="when the host last told of the nodes, by its clock")
    host: str | None = Field(description="if no host answers: so")


class TaskAnswerOutput(Output):
    """What came of a request for one task."""

    task: str
    ok: bool
    outcome: str


class RequestOutput(Output):
    """A request and its answer."""

    request: str
    kind: str
    outcome: str = Field(description="done, accepted, refused, or waiting for a host")
    answers: list[TaskAnswerOutput]
    text: str
    receipt: dict[str, Any] | None = Field(
        description="`hakuriver schema receipt`; why it was refused stands in its errors; null if there is none yet"
    )


class ControlOutput(Output):
    """--json of kill, pause, resume, requeue, node drain, resume, forget, host gc, reindex, docker create-tar ..."""

    requests: list[RequestOutput]


class NodesOutput(Output):
    """hakuriver node list --json: what the host wrote last; all null if none ever has."""

    model_config = ConfigDict(extra="ignore")
    at: float | None
    host: str | None
    cut_off: bool = False
    nodes: list[NodeRow]


class NodeOutput(Output):
    """hakuriver node show --json."""

    at: float | None = Field(description="when the host last told of the nodes, by its clock")
    row: NodeRow | None = Field(description="as the host sees it")
    description: NodeDescription | None = Field(description="as its runner told")
    tasks: list[str] = Field(description="that run there, by its newest heartbeat")
    load: Load | None = None


class NodeHealth(NodeOutput):
    """One of several nodes."""

    node: str


class HealthOutput(Output):
    """hakuriver client health --json."""

    nodes: list[NodeHealth] = Field(description="the one that was named, or all")


class ContainersOutput(Output):
    """hakuriver docker list-containers --json."""

    model_config = ConfigDict(extra="ignore")
    at: float | None = Field(description="when the host told, by its clock; null if none ever has")
    host: str | None
    engine: str = Field("", description="version of the host's Docker engine; empty: none can be reached")
    problem: str = Field("", description="why none can be reached")
    containers: list[ContainerRow]


class PackagesOutput(Output):
    """hakuriver docker list-tars --json."""

    model_config = ConfigDict(extra="ignore")
    at: float | None = Field(description="when the host told, by its clock; null if none ever has")
    host: str | None
    default_problem: str = Field("", description="why the default environment is not there yet")
    packages: list[Manifest]


class FindingOutput(Output):
    """One thing that the doctor looked at."""

    check: str = Field(description="<group>.<name>; groups: machine, mount, share, other, pair")
    status: Literal["ok", "note", "warning", "broken"] = Field(description="broken: the promises cannot hold")
    value: str = Field(description="what was seen, for people")
    meaning: str = Field(description="what that means for the river; may be empty")
    remedy: str = Field(description="what to change; may be empty but for warning and broken")


class DoctorOutput(Output):
    """hakuriver doctor --json."""

    format: Literal[1]
    shared_dir: str = Field(description="on this machine")
    node: str = Field(description="this machine's name in the river")
    with_: str | None = Field(alias="with", description="the node that was measured with")
    broken: bool = Field(description="whether a finding is broken")
    problem: str | None = Field(description="why the other node could not be measured with")
    findings: list[FindingOutput]


class ConfigValue(Output):
    """A key of the configuration, and what it is here."""

    key: str = Field(description="section.key")
    value: str | float | bool | list[str] | list[int] | None = Field(description="times in seconds, sizes in bytes")
    toml: str | None = Field(description="the value as the file would say it")
    source: Literal["file", "environment", "derived", "default"]
    origin: str | None = Field(description="the file, the variable, or the keys that it is derived from")
    has_effect: bool = Field(description="false: a key that is only accepted")


class ConfigOutput(Output):
    """hakuriver config show --json."""

    file: str | None = Field(description="the configuration file that applies; null: there is none")
    values: list[ConfigValue] = Field(description="every key")


class ConfigFault(Output):
    """Something about a key."""

    key: str | None = Field(description="section.key, or a section; null: the file cannot be read at all")
    value: str | None = Field(description="as TOML; null: it is not about a value")
    text: str


class ConfigCheckOutput(Output):
    """hakuriver config check --json."""

    file: str | None = Field(description="the configuration file that applies; null: none, or none that can be read")
    good: bool = Field(description="whether there are no problems")
    problems: list[ConfigFault] = Field(description="with one of them no daemon starts")
    notes: list[ConfigFault] = Field(description="keys without effect, and what will not work on this machine")


ListOutput.model_rebuild()
