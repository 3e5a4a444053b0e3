"""Ask the river for something: run, kill, pause, drain ... One request file in, one receipt out.

    from hakuriver import submit, wait
    job = submit(["python", "train.py"], cores=4, memory="8G").job
    outcome = wait(job)[0]

Nothing here talks to a host: a request is a file, made durable before a function returns, and it works the same
while no host runs. Imports next to nothing (no pydantic, no click), because `hakuriver submit` is run in shell loops;
the host checks everything again, and its word is what counts. What reads lies in `reading.py` and `waiting.py`.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hakuriver import config
from hakuriver.checks import check, duration, task_range
from hakuriver.errors import HakuRiverError, Invalid
from hakuriver.ids import new_job_id
from hakuriver.spool import layout
from hakuriver.spool.access import Share

#: The same as in records.py, which is too heavy to import here.
JOB_FILE_MAX = 1024 * 1024
BATCH_FILE_MAX = 256 * 1024 * 1024
TARGETS_MAX = 100_000  #: of one control request
GRACE_MAX = 3600  #: seconds between TERM and KILL
VALUE_MOST = 200  #: characters of a value that a receipt shows

#: Seconds between two looks for a receipt: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.25

CONTROLS = ("kill", "pause", "resume", "requeue")
NODE_REQUESTS = ("drain", "undrain", "forget")
HOST_REQUESTS = ("gc", "reindex")
ENVIRONMENT_REQUESTS = (
    "create-container", "start-container", "stop-container", "delete-container", "create-tar", "delete-tar",
)  # fmt: skip


class Problem(NamedTuple):
    """One thing that is wrong with a request, in the host's words."""

    field: str
    value: str | None
    message: str
    remedy: str | None

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value}"
        return f"{self.field}{shown}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class TaskAnswer(NamedTuple):
    """What a control did to one task."""

    task: str
    ok: bool
    outcome: str


class Receipt(NamedTuple):
    """The one answer to one request. `raw` is the whole document."""

    request: str
    kind: str
    outcome: str  #: accepted, done or refused
    ids: list[str]
    tasks: int
    answers: list[TaskAnswer]
    errors: list[Problem]
    text: str
    raw: dict[str, Any]


class Refused(HakuRiverError):
    """The host refused the request: {its reasons}. `receipt` has them one by one."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
        super().__init__("refused: " + ("; ".join(str(p) for p in receipt.errors) or "the host gave no reason"))


class Submission(NamedTuple):
    """A job that lies on the share, safe."""

    job: str
    tasks: str  #: names of its tasks: the job's id, or a range as `<job>-[0-199]`
    total: int  #: how many
    receipt: Receipt | None  #: None: no host has answered yet
    host_alive: bool | None = None  #: without a receipt: whether a host moved while it was waited for; None: no wait


class BatchSubmission(NamedTuple):
    """Many jobs in one request."""

    request: str
    jobs: list[str]
    receipt: Receipt | None
    host_alive: bool | None = None


class Answer(NamedTuple):
    """What came of a request that is no job."""

    request: str
    receipt: Receipt | None  #: None: no host has answered in time; the request stays and will be
    host_alive: bool | None = None


def open_share(shared_dir: str | None = None) -> Share:
    """The share, looked at: its sentinel is there. Default: where the configuration says it is.

    Raises ShareProblem if it is not mounted or no river, ConfigError if nothing names it.
    """
    return Share(shared_dir or config.shared_dir()).check()


# -- jobs


def submit(
    command: Sequence[str],
    *,
    shared_dir: str | None = None,
    targets: Sequence[str] = (),
    cores: int = 1,
    memory: int | str | None = None,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    executor: str = "auto",
    container: str | None = None,
    gpus: int = 0,
    privileged: bool | None = None,
    mounts: Sequence[str] | None = None,
    private_network: bool = False,
    private_pid: bool = False,
    priority: int = 0,
    time_limit: float | str | None = None,
    retries: int = 0,
    array: str | None = None,
    no_queue: bool = False,
    name: str | None = None,
    receipt_timeout: float = 1.0,
) -> Submission:
    """Submit one job; when this returns it survives any crash.

    `memory`: bytes, or text as 512M, 4G (1000 based), 4Gi. `time_limit`: seconds, or text as 90s, 2h30m, for each
    attempt. `array`: 0-199, 1,3,7-9, or 0-199%8 for at most 8 at once. `targets`: node, node:NUMA, node::GPU,GPU or
    node:NUMA::GPU; one task (or one whole array) on each; none: any one node. `gpus`: so many for each task, the host
    chooses which. `container`: an environment, or NULL for none. `privileged`, `mounts` (/host:/inside, and :ro after
    it): None: as the river is set; an empty list: none. `no_queue`: a task that cannot be sent out at once fails, and
    says why. `receipt_timeout`: seconds to wait for the host's answer; 0 does not wait.

    Raises Invalid for what no host would take, Refused if the host refuses in that time, ShareProblem.
    """
    fields = {
        "name": name, "targets": targets, "cores": cores, "memory": memory, "env": env,
        "workdir": workdir, "executor": executor, "container": container, "gpus": gpus, "privileged": privileged,
        "mounts": mounts, "private_network": private_network, "private_pid": private_pid, "priority": priority,
        "time_limit": time_limit, "retries": retries, "array": array, "no_queue": no_queue,
    }  # fmt: skip
    given = {key: value for key, value in fields.items() if not _is_default(key, value)}
    return _submit(open_share(shared_dir), check({"command": command, **given}), receipt_timeout)


_DEFAULTS: dict[str, Any] = {
    "cores": 1, "executor": "auto", "gpus": 0, "private_network": False, "private_pid": False, "priority": 0,
    "retries": 0, "no_queue": False,
}  # fmt: skip


def _is_default(key: str, value: object) -> bool:
    if key in _DEFAULTS:
        return type(value) is type(_DEFAULTS[key]) and value == _DEFAULTS[key]
    if key == "mounts":
        return value is None  # none at all is not the same as those of the river
    return value is None or (hasattr(value, "__len__") and len(value) == 0 and not isinstance(value, str))


def _submit(share: Share, document: dict[str, Any], timeout: float) -> Submission:
    job = new_job_id()
    data = json.dumps(document).encode()
    if len(data) > JOB_FILE_MAX:
        raise Invalid("command", f"{len(data):,} bytes", f"a job may have {JOB_FILE_MAX:,}: put its data into a file")
    share.drop(f"{job}.json", data)
    receipt, alive = await_receipt(share, job, timeout)
    if receipt and receipt.outcome == "refused":
        raise Refused(receipt)
    if receipt and receipt.errors:
        left_out = {problem.value for problem in receipt.errors}
        document["targets"] = [target for target in document["targets"] if target[:VALUE_MOST] not in left_out]
    return Submission(job, *task_range(job, document.get("array"), len(document.get("targets", ()))), receipt, alive)


def submit_many(
    jobs: Iterable[Mapping[str, Any]], *, shared_dir: str | None = None, receipt_timeout: float = 1.0
) -> BatchSubmission:
    """Submit many jobs as one request, all or nothing; each has the keys of a job file (`hakuriver schema job`).

    Raises as `submit` does. A field in an error is named `line N: field`.
    """
    share = open_share(shared_dir)
    lines = (json.dumps(check(dict(job), f"line {number}: ")) for number, job in enumerate(jobs, 1))
    return submit_lines(share, lines, receipt_timeout)


def submit_lines(share: Share, lines: Iterable[str | bytes], timeout: float = 1.0) -> BatchSubmission:
    """Submit JSON Lines, one job a line, as one request; ids are put in where a line has none.

    Raises Invalid, naming the line, if one is no JSON object; whatever else may be wrong is for the host to say.
    """
    request = new_job_id()
    jobs: list[str] = []
    parts: list[bytes] = []
    size = 0
    for number, line in enumerate(lines, 1):
        text = (line.encode() if isinstance(line, str) else line).strip()
        if not text:
            continue
        job, part = _with_id(text, number, str(int(request) + 1 + len(jobs)).zfill(len(request)))
        jobs.append(job)
        parts.append(part)
        size += len(part) + 1
        if size > BATCH_FILE_MAX:
            raise Invalid("from", f"line {number}", f"{BATCH_FILE_MAX:,} bytes are the most: split it")
    if not jobs:
        raise Invalid("from", "", 'there is no job in it: write one a line, as {"command": ["echo", "hi"]}')
    parts.append(b'{"end": %d}\n' % len(jobs))
    share.drop(f"{request}.jsonl", b"\n".join(parts))
    receipt, alive = await_receipt(share, request, timeout)
    if receipt and receipt.outcome == "refused":
        raise Refused(receipt)
    return BatchSubmission(request, jobs, receipt, alive)


def _with_id(text: bytes, number: int, job: str) -> tuple[str, bytes]:
    """Put an id into a line as text: what is written twice in it stays so, for the host to refuse."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid("from", f"line {number}", f"it is no JSON: {error}") from None
    if not isinstance(found, dict) or not found:
        raise Invalid("from", f"line {number}", 'it must be a job, as {"command": ["echo", "hi"]}')
    if found.get("id") is not None:
        return str(found["id"]), text
    if "id" in found:
        raise Invalid("from", f"line {number}", "its id is null: leave the key out, or write 20 digits")
    return job, b'{"id": "%s", ' % job.encode() + text[1:].lstrip()


# -- other requests


def request(
    kind: str,
    targets: Iterable[str] = (),
    *,
    node: str | None = None,
    grace: float | str | None = None,
    older_than: float | str | None = None,
    environment: str | None = None,
    image: str | None = None,
    shared_dir: str | None = None,
    timeout: float = 1.0,
) -> Answer:
    """Ask for something else than a job, and wait up to `timeout` seconds for the receipt.

    `kind`: kill, pause, resume, requeue (`targets`: whole job ids and task names, at most 100,000; a kill also takes a
    `grace` between TERM and KILL, seconds or text as 90s, at most an hour: 0 is KILL at once, None the node's own);
    drain, undrain, forget (`node`); gc (`older_than`: seconds or text as 30d), reindex;
    create-container (`image`, `environment`), start-container, stop-container, delete-container, create-tar, delete-tar
    (`environment`; delete-tar also takes a package's name).
    The receipt of a kill, pause or resume comes when its outcome is known, which may take as long as the task.
    Raises Refused, Invalid, ShareProblem.
    """
    document = _request(kind, list(targets), node, older_than, environment, image)
    if grace is not None:
        document["grace"] = _grace(kind, grace)
    share = open_share(shared_dir)
    name = new_job_id()
    share.drop(f"{name}.json", json.dumps(document).encode())
    receipt, alive = await_receipt(share, name, timeout)
    if receipt and receipt.outcome == "refused":
        raise Refused(receipt)
    return Answer(name, receipt, alive)


def _request(
    kind: str, targets: list[str], node: str | None, older_than: float | str | None, environment: str | None,
    image: str | None,
) -> dict[str, Any]:  # fmt: skip
    if kind in CONTROLS:
        if not 0 < len(targets) <= TARGETS_MAX:
            raise Invalid("targets", len(targets), f"name from 1 to {TARGETS_MAX:,} jobs or tasks")
        return {"request": kind, "targets": targets}
    if kind in NODE_REQUESTS:
        return {"request": kind, "node": node}
    if kind in ENVIRONMENT_REQUESTS:
        return {"request": kind, "environment": environment, **({"image": image} if image is not None else {})}
    if kind in HOST_REQUESTS:
        return {
            "request": kind,
            **({"older_than": duration("older_than", older_than)} if older_than is not None else {}),
        }
    raise Invalid(
        "kind", kind, f"one of {', '.join((*CONTROLS, *NODE_REQUESTS, *HOST_REQUESTS, *ENVIRONMENT_REQUESTS))}"
    )


def _grace(kind: str, grace: float | str) -> float:
    if kind != "kill":
        raise Invalid("grace", grace, f"only a kill has one, no {kind}: leave it out")
    seconds = duration("grace", grace)
    if seconds > GRACE_MAX:
        raise Invalid("grace", grace, f"{GRACE_MAX:,} seconds are the most: name less")
    return seconds


# -- receipts


def await_receipt(share: Share, request: str, timeout: float) -> tuple[Receipt | None, bool | None]:
    """Look for a receipt for so many seconds; without one, tell whether a host moved meanwhile (None: no wait)."""
    if timeout <= 0:
        return None, None
    end = time.monotonic() + timeout
    sign = host_sign(share)
    pause = FIRST_LOOK
    while True:
        receipt = read_receipt(share, request)
        left = end - time.monotonic()
        if receipt or left <= 0:
            return receipt, None if receipt else sign != host_sign(share)
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_LOOK)


def read_receipt(share: Share, request: str) -> Receipt | None:
    """The receipt of a request, by its id or by the file name it was dropped under; None: not answered yet."""
    found = share.read_json(layout.receipt(request))
    if found is None:
        return None
    return Receipt(
        str(found.get("request", request)),
        str(found.get("kind", "")),
        str(found.get("outcome", "")),
        list(found.get("ids", ())),
        int(found.get("tasks", 0)),
        [TaskAnswer(a.get("task", ""), bool(a.get("ok")), a.get("outcome", "")) for a in found.get("answers", ())],
        [
            Problem(p.get("field", ""), p.get("value"), p.get("message", ""), p.get("remedy"))
            for p in found.get("errors", ())
        ],
        str(found.get("text", "")),
        found,
    )


def host_sign(share: Share) -> str:
    """Something that changes while a host lives: the name of its baton."""
    return " ".join(sorted(name for name in share.names(layout.HOST) if name.startswith("leader.")))


def host_seen_lately(share: Share, within_s: float) -> bool:
    """Whether a host has moved its baton in these seconds. False may be wrong: share and client may differ in time."""
    try:
        moved = os.stat(share.path(layout.HOST)).st_mtime
    except OSError:
        return False
    return abs(time.time() - moved) < within_s


def host_last_seen(share: Share) -> str | None:
    """When and where a host last wrote its view of the nodes, in its own words; None: never."""
    index = share.read_json(layout.NODES_INDEX)
    at = index.get("at") if index else None
    if index is None or not isinstance(at, int | float):
        return None
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return f"{when} by its own clock"
