"""Golden files: one for each format. They are read, written back and compared; spool_layout.md shows them.

A change here is a change of the protocol: think of the versions that are out there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hakuriver import records
from hakuriver.host import checking
from hakuriver.host.jobs import Job
from hakuriver.host.state import State

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
DOCUMENT = ROOT / "spool_layout.md"

#: File -> the model that reads it.
MODELS: dict[str, type[BaseModel]] = {
    "river.json": records.River,
    "request-run-minimal.json": records.RunRequest,
    "request-run.json": records.RunRequest,
    "request-kill.json": records.ControlRequest,
    "request-drain.json": records.NodeRequest,
    "request-gc.json": records.HostRequest,
    "request-create-container.json": records.EnvironmentRequest,
    "receipt-accepted.json": records.Receipt,
    "receipt-refused.json": records.Receipt,
    "receipt-done.json": records.Receipt,
    "job-active.json": records.JobSnapshot,
    "job-done.json": records.JobSnapshot,
    "dispatch.json": records.Dispatch,
    "events.json": records.EventBatch,
    "heartbeat.json": records.Heartbeat,
    "node.json": records.NodeDescription,
    "index-nodes.json": records.NodesIndex,
    "index-recent.json": records.RecentIndex,
    "index-endings.json": records.EndingsIndex,
    "manifest.json": records.Manifest,
    "index-environments.json": records.EnvironmentsIndex,
    "journal-entry.json": records.Entry,
    "journal-checkpoint.json": records.Entry,
}
#: Golden files that name each of their model's fields.
COMPLETE = [name for name in MODELS if name not in ("request-run-minimal.json", "events.json")]
BATCH = "request-batch.jsonl"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def test_every_golden_file_is_read_by_a_test() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*MODELS, BATCH}


@pytest.mark.parametrize("name", MODELS)
def test_read_and_written_back_it_is_the_same(name: str) -> None:
    read = MODELS[name].model_validate_json(golden(name))
    written = read.model_dump_json(exclude_unset=True)
    if name == "request-run.json":  # sizes and times as text become bytes and seconds
        assert json.loads(written) == {**json.loads(golden(name)), "memory": 4_000_000_000, "time_limit": 9000.0}
    elif name == "request-gc.json":
        assert json.loads(written) == {**json.loads(golden(name)), "older_than": 2_592_000.0}
    else:
        assert json.loads(written) == with_all_columns(json.loads(golden(name)))
    assert MODELS[name].model_validate_json(written) == read


def with_all_columns(document: Any) -> Any:
    """With those that may be missing at the end of rows."""
    if "tasks" in document and "spec" in document:
        rows = [records.TaskRow(*row) for row in document["tasks"]]
        document["tasks"] = [row._replace(earlier=[records.Attempt(*a) for a in row.earlier]) for row in rows]
    for start in document.get("starts", ()):
        start["tasks"] = [records.StartRow(*row) for row in start["tasks"]]
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("name", COMPLETE)
def test_it_names_every_field(name: str) -> None:
    assert set(json.loads(golden(name))) == set(MODELS[name].model_fields)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("request")])
def test_keys_of_a_later_version_are_ignored(name: str) -> None:
    found = json.loads(golden(name))
    later = {**found, "a_key_of_a_later_version": [1]}
    assert MODELS[name].model_validate(later) == MODELS[name].model_validate(found)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("request")])
def test_the_door_takes_its_golden_files_and_no_other_keys(name: str) -> None:
    assert checking.request(golden(name)) == MODELS[name].model_validate_json(golden(name))
    with pytest.raises(checking.Refusal, match="no such key"):
        checking.check({**json.loads(golden(name)), "a_key_of_a_later_version": 1})


def test_the_batch() -> None:
    jobs = checking.batch(golden(BATCH), settled=False)
    assert [job.command for job in jobs] == [["echo", "one"], ["echo", "two"]]
    with pytest.raises(checking.Unfinished):
        checking.batch(golden(BATCH)[:-2], settled=False)


def test_the_batch_of_events_has_every_kind() -> None:
    kinds = [event["kind"] for event in json.loads(golden("events.json"))["events"]]
    assert sorted(kinds) == sorted(records.Event.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["job-active.json", "job-done.json"])
def test_the_host_reads_a_snapshot_and_writes_the_same(name: str) -> None:
    written = json.loads(Job.load(golden(name)).snapshot())
    again = records.JobSnapshot.model_validate(written)
    assert again == records.JobSnapshot.model_validate_json(golden(name))


def test_the_journal_entry_has_every_kind_of_change_and_leads_where_it_should() -> None:
    state = State()
    entry = records.Entry.model_validate_json(golden("journal-entry.json"))
    assert {change[0] for change in entry.changes} == set(state._kinds)
    state.term, state.seq = entry.term, entry.seq
    for change in entry.changes:
        state.apply(change)
    (array,) = (job for job in state.jobs.values() if job.spec.get("array"))
    assert [array.state_of(k) for k in range(4)] == ["completed", "pending", "killed", "killed"]
    (requeued,) = (job for job in state.jobs.values() if job is not array)
    assert requeued.ending() == ("pending", None)
    assert [(order.kind, order.environment) for order in state.orders.values()] == [("create-tar", "my-env")]
    assert set(state.nodes) == {"n1"}
    assert state.nodes["n1"].cursor == (2, 3)
    assert not state.nodes["n1"].held
    assert [r.request for r in state.answered] == ["01792345700000000001"]
    assert len(state.queue) == 2


def test_the_checkpoint_has_what_nodes_and_requests_restore_from() -> None:
    from hakuriver.host.nodes import Node
    from hakuriver.host.requests import OpenRequest

    saved: Any = records.Entry.model_validate_json(golden("journal-checkpoint.json")).checkpoint
    node = Node.restore("n1", saved["nodes"]["n1"])
    assert json.loads(json.dumps(node.checkpoint())) == saved["nodes"]["n1"]
    for name, waiting in saved["requests"].items():
        assert OpenRequest.restore(name, waiting).checkpoint() == waiting


# --- the document


def test_the_document_shows_every_golden_file() -> None:
    shown = dict(re.findall(r"<!-- golden: (\S+) -->\n+```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    for name in [*MODELS, BATCH]:
        assert shown.get(name) == golden(name).decode(), name
    assert set(shown) == {*MODELS, BATCH}


def models() -> list[type[Any]]:
    """Every model and every row of records.py that crosses the share."""
    mine = [v for v in vars(records).values() if isinstance(v, type) and v.__module__ == records.__name__]
    return [cls for cls in mine if cls.__name__ not in ("DoorModel", "Record")]


@pytest.mark.parametrize("model", models(), ids=lambda m: m.__name__)
def test_the_document_names_every_field(model: type[Any]) -> None:
    section = re.search(rf"^#+ .*`{model.__name__}`.*?(?=^#|\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    text = section[0] if section else ""
    names = list(getattr(model, "model_fields", None) or model._fields)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_document_tells_every_kind_and_state() -> None:
    text = DOCUMENT.read_text()
    kinds = [*State()._kinds, *records.STATES, *records.Event.model_fields["kind"].annotation.__args__]  # type: ignore[union-attr]
    assert [kind for kind in kinds if f"`{kind}`" not in text] == []


def test_recovery_from_a_checkpoint(scratch: Path) -> None:
    from hakuriver.host.journal import Journal
    from hakuriver.host.recovery import recover
    from hakuriver.spool import layout
    from hakuriver.spool.files import LocalDisk

    disk = LocalDisk(str(scratch))
    entry = json.loads(golden("journal-checkpoint.json"))
    for path, data in (
        (entry["checkpoint"]["jobs"][0], golden("job-active.json")),
        (layout.journal(3, 43), json.dumps(entry).encode()),
    ):
        Path(disk.root, path).parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, data)
    state, last, *_ = recover(disk, Journal(disk, layout.Baton(3, "aabbccddeeff", 43, 0)))
    assert last is not None
    assert state.admission == entry["checkpoint"]["admission"]
    assert list(state.requests) == list(entry["checkpoint"]["requests"])
    assert {name: list(order) for name, order in state.orders.items()} == entry["checkpoint"]["orders"]
    assert json.loads(json.dumps(state.nodes["n1"].checkpoint())) == entry["checkpoint"]["nodes"]["n1"]
    assert list(state.jobs) == [json.loads(golden("job-active.json"))["job"]]
