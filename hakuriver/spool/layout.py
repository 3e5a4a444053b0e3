"""Every path on the share, relative to its root, made and taken apart here and nowhere else.

`spool_layout.md` tells for each directory who writes, moves and removes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hakuriver.ids import JOB_ID_DIGITS, is_job_id, parse_position, position

SENTINEL = "river.json"
INCOMING = "incoming"
RECEIPTS = "receipts"
HOST = "host"
TAKEN = "host/taken"
JOURNAL = "host/journal"
ACTIVE = "jobs/active"
DONE = "jobs/done"
NODES = "nodes"
BELLS = "bells"
INDEX = "index"
ENDINGS = "index/endings"
OUTPUTS = "task_outputs"
ERRORS = "task_errors"
CONTAINERS = "hakuriver-containers"
SHARED_DATA = "shared_data"
WWW = "www"
#: What `hakuriver doctor` and a starting daemon try out, each in a directory of its own below, gone when they are done.
DOCTOR = "doctor"

#: What `hakuriver init share` makes, parents first.
TREE = (
    INCOMING, RECEIPTS, HOST, TAKEN, JOURNAL, "jobs", ACTIVE, DONE, NODES, BELLS, INDEX, ENDINGS,
    OUTPUTS, ERRORS, CONTAINERS, SHARED_DATA, WWW, DOCTOR,
)  # fmt: skip

#: What the files of one node lie in, below nodes/<node>/.
NODE_TREE = ("inbox", "claimed", "revoked", "events", "heartbeat")

#: Names that the door takes: a stem and what is asked. Others are left alone.
DOOR_NAME = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,99}?)\.(json|jsonl|kill|pause|resume|requeue)")
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]|\.(?!\.)){0,61}[a-z0-9]|[a-z0-9]")
#: An environment: part of file names, image names and container names.
ENVIRONMENT_NAME = re.compile(r"(?=.{1,63}\Z)[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")


def receipt(name: str) -> str:
    """The answer to a request, by its id or by the file name it was dropped under."""
    return f"{RECEIPTS}/{name}.json"


def incoming(name: str) -> str:
    """A file at the door."""
    return f"{INCOMING}/{name}"


def bucket(job: str) -> str:
    """The two directories that a job's files lie in: about a day, and 100 s in it, by the time in its id."""
    return f"{job[:5]}/{job[5:8]}"


def done_bucket(job: str) -> str:
    """The directory of a finished job's snapshot."""
    return f"{DONE}/{bucket(job)}"


def snapshot_name(job: str, term: int, seq: int) -> str:
    """A snapshot's file name: the job as of one place in the journal."""
    return f"{job}.{position(term, seq)}.json"


def snapshot_path(tree: str, job: str, term: int, seq: int) -> str:
    """Where a snapshot lies; `tree`: ACTIVE or DONE."""
    return f"{tree}/{bucket(job)}/{snapshot_name(job, term, seq)}"


def parse_snapshot(name: str) -> tuple[str, int, int] | None:
    """Take a snapshot's file name apart into (job, term, seq)."""
    job, _, rest = name.partition(".")
    place = parse_position(rest[:-5]) if rest.endswith(".json") else None
    return (job, *place) if place and is_job_id(job) else None


def journal(term: int, seq: int) -> str:
    """One entry of the journal."""
    return f"{JOURNAL}/{position(term, seq)}.json"


def parse_entry(name: str) -> tuple[int, int] | None:
    """Read `<number>-<number>.json`: journal entries, dispatches, heartbeats, event batches."""
    return parse_position(name[:-5]) if name.endswith(".json") else None


class Taken(NamedTuple):
    """A request that the host has taken, by its name in host/taken/."""

    request: str  #: id of the request, made by its client or by the host that took it
    name: str  #: the file name it was dropped under


def taken_name(term: int, seq: int, request: str, name: str) -> str:
    """The name that a request gets when the host takes it; unique, and bears the name it had."""
    return f"{position(term, seq)}.{request}.{name}"


def parse_taken(entry: str) -> Taken | None:
    """Take a name in host/taken/ apart."""
    place, _, rest = entry.partition(".")
    request, _, name = rest.partition(".")
    if not parse_position(place) or not is_job_id(request) or not DOOR_NAME.fullmatch(name):
        return None
    return Taken(request, name)


#: In place of a host's id in the baton: before the first host, and after one that was stopped in good order.
NOBODY = "none"


class Baton(NamedTuple):
    """The host's leadership: one file in host/ whose name is its content."""

    term: int
    host: str  #: the leading host's id, 12 hex digits; or NOBODY
    seq: int  #: last committed journal entry
    beat: int  #: counts up while nothing is committed, so that a standby sees life

    @property
    def name(self) -> str:
        """The file name."""
        return f"leader.{self.term:06d}.{self.host}.{self.seq:012d}.{self.beat}"

    @property
    def path(self) -> str:
        """The path below the root."""
        return f"{HOST}/{self.name}"


def parse_baton(name: str) -> Baton | None:
    """Take a baton's name apart."""
    parts = name.split(".")
    if len(parts) != 5 or parts[0] != "leader" or not all(p.isdigit() for p in (parts[1], parts[3], parts[4])):
        return None
    return Baton(int(parts[1]), parts[2], int(parts[3]), int(parts[4]))


def parse_runner_baton(name: str) -> tuple[int, str] | None:
    """Read a node's own baton, `runner.<epoch>.<nonce>`: (epoch, nonce)."""
    parts = name.split(".")
    return (int(parts[1]), parts[2]) if len(parts) == 3 and parts[0] == "runner" and parts[1].isdigit() else None


class Bell(NamedTuple):
    """A node's bell: one file in bells/ whose name tells how far the node is. One listing shows those of all nodes."""

    node: str
    epoch: int
    beat: int  #: seq of its newest heartbeat; 0: none in this epoch yet
    batch: int  #: seq of its newest batch of events; 0: none in this epoch yet
    since: int  #: seq of the heartbeat since which nothing has changed in them that need be read

    @property
    def path(self) -> str:
        """The path below the root."""
        return f"{BELLS}/{self.node}.{self.epoch}.{self.beat}.{self.batch}.{self.since}"


def parse_bell(name: str) -> Bell | None:
    """Take a bell's name apart."""
    node, *numbers = name.rsplit(".", 4)
    if len(numbers) != 4 or not all(n.isdigit() for n in numbers) or not NODE_NAME.fullmatch(node):
        return None
    epoch, beat, batch, since = map(int, numbers)
    return Bell(node, epoch, beat, batch, since)


class NodePaths(NamedTuple):
    """The files of one node."""

    node: str

    @property
    def root(self) -> str:
        """nodes/<node>."""
        return f"{NODES}/{self.node}"

    def dir(self, part: str) -> str:
        """One of NODE_TREE."""
        return f"{NODES}/{self.node}/{part}"

    def baton(self, epoch: int, nonce: str) -> str:
        """The node's own baton: it belongs to the machine that holds the nonce."""
        return f"{self.root}/runner.{epoch}.{nonce}"

    def description(self, epoch: int) -> str:
        """What the node is, as of one start of its runner."""
        return f"{self.root}/node.{epoch}.json"

    def doctor_ask(self, run: str) -> str:
        """Asks the node's runner to answer one run of `hakuriver doctor --with`."""
        return f"{self.root}/{DOCTOR}.{run}"

    def numbered(self, part: str, first: int, seq: int) -> str:
        """heartbeat/ and events/: `<epoch>-<seq>.json`; inbox/, claimed/, revoked/: `<term>-<seq>.json`."""
        return f"{self.dir(part)}/{position(first, seq)}.json"

    def named(self, part: str, place: str) -> str:
        """The same, by a position already written."""
        return f"{self.dir(part)}/{place}.json"


def doctor(run: str) -> str:
    """The directory of one run of the doctor; `run`: 20 digits, as a job's id."""
    return f"{DOCTOR}/{run}"


def parse_doctor_ask(name: str) -> str | None:
    """Which run a file `doctor.<run>` in nodes/<node>/ asks to be answered; None if it is no such file."""
    kind, _, run = name.partition(".")
    return run if kind == DOCTOR and is_job_id(run) else None


def output_stem(job: str, index: int | None, attempt: int) -> str:
    """Where a task's attempt writes, below task_outputs/ and task_errors/, without the ending."""
    stem = job if index is None else f"{job}/{index}"
    return stem if attempt == 1 else f"{stem}.{attempt}"


def stdout_path(job: str, index: int | None, attempt: int) -> str:
    """What the attempt wrote to stdout; the file appears with its first byte."""
    return f"{OUTPUTS}/{output_stem(job, index, attempt)}.out"


def stderr_path(job: str, index: int | None, attempt: int) -> str:
    """What the attempt wrote to stderr."""
    return f"{ERRORS}/{output_stem(job, index, attempt)}.err"


class Package(NamedTuple):
    """A packaged environment: `<env>-<timestamp>.tar` with its manifest `<env>-<timestamp>.json` beside it."""

    environment: str
    timestamp: int  #: seconds since 1970 by the host's clock, strictly increasing for an environment

    @property
    def name(self) -> str:
        """<env>-<timestamp>."""
        return f"{self.environment}-{self.timestamp}"


def parse_package(name: str) -> Package | None:
    """Take `<env>-<timestamp>` apart; the environment's name may end in digits itself."""
    environment, _, timestamp = name.rpartition("-")
    if not ENVIRONMENT_NAME.fullmatch(environment) or not (timestamp.isascii() and timestamp.isdigit()):
        return None
    return Package(environment, int(timestamp))


def tarball(name: str, directory: str = CONTAINERS) -> str:
    """The tarball of a package; `name`: <env>-<timestamp>."""
    return f"{directory}/{name}.tar"


def manifest(name: str, directory: str = CONTAINERS) -> str:
    """The manifest of a package, which appears when the tarball is whole."""
    return f"{directory}/{name}.json"


def environment_container(environment: str) -> str:
    """The name of an environment's container in the host's engine."""
    return f"hakuriver-env-{environment}"


def environment_image(environment: str) -> str:
    """The tag of an environment's image in every engine; for people: tasks run by the image's id."""
    return f"hakuriver/{environment}:base"


#: Comment of the images that the host commits: unlike labels it is not inherited by images that people build from them.
IMAGE_COMMENT = "environment of HakuRiver"


def unfinished_tarball(name: str, request: str, directory: str = CONTAINERS) -> str:
    """A tarball that is being written, or written and not given its name yet."""
    return f"{directory}/.{name}.tar.{request}.tmp"


def unfinished_manifest(name: str, request: str, directory: str = CONTAINERS) -> str:
    """A manifest whose tarball may not have its name yet: with it, what is missing can be done after a crash."""
    return f"{directory}/.{name}.json.{request}.tmp"


class Unfinished(NamedTuple):
    """A file of a package that is being made, by its name."""

    package: str
    part: str  #: tar, json, or gone
    request: str  #: that it is made for; empty of what is being removed


def removed_manifest(name: str, directory: str = CONTAINERS) -> str:
    """The manifest of a package that is being removed: its tarball has to go too."""
    return f"{directory}/.{name}.gone.tmp"


def parse_unfinished(name: str) -> Unfinished | None:
    """Take such a name apart; None for all other names."""
    if not (name.startswith(".") and name.endswith(".tmp")):
        return None
    rest, _, last = name[1:-4].rpartition(".")
    if last == "gone":
        return Unfinished(rest, "gone", "") if parse_package(rest) else None
    package, _, part = rest.rpartition(".")
    known = part in ("tar", "json") and is_job_id(last) and parse_package(package)
    return Unfinished(package, part, last) if known else None


def loading_node(name: str, package: str) -> str | None:
    """Which node loads a package, by the name of a file beside it; None if the file does not say so."""
    if not (name.startswith(f"{package}.") and name.endswith(".loading")):
        return None
    return name[len(package) + 1 : -len(".loading")] or None


def in_use(name: str, node: str, directory: str = CONTAINERS) -> str:
    """Says that a node is loading a package: it is not removed meanwhile. `<package>.<node>.loading`, empty."""
    return f"{directory}/{name}.{node}.loading"


def ending_file(job_or_ending: str) -> str:
    """Which file of index/endings/ lists the ids that end like this (its last three digits)."""
    return f"{ENDINGS}/{job_or_ending[-3:]}.json"


#: Index files that are read by name.
NODES_INDEX = f"{INDEX}/nodes.json"
RECENT_INDEX = f"{INDEX}/recent.json"
ENVIRONMENTS_INDEX = f"{INDEX}/environments.json"
#: The pages of single jobs.
JOB_PAGES = f"{WWW}/jobs"


def page(name: str) -> str:
    """A status page or what belongs to all of them, as index.html."""
    return f"{WWW}/{name}"


def job_page(job: str) -> str:
    """The page of one recent job."""
    return f"{JOB_PAGES}/{job}.html"


assert JOB_ID_DIGITS == 20  # bucket() cuts at fixed places
