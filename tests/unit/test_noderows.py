"""What the host tells of a node, and of its GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hakuriver.host.hearing import Seen
from hakuriver.host.noderows import gpu_rows, node_row
from hakuriver.host.nodes import Node
from hakuriver.records import Heartbeat, NodeDescription, NodeRow

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def heard() -> Seen:
    seen = Seen()
    seen.heartbeat, seen.beat = Heartbeat.model_validate(golden("heartbeat.json")), (2, 95)
    return seen


def test_a_row_has_what_its_runner_told_and_what_the_host_knows() -> None:
    node = Node("n1")
    described = golden("node.json")
    node.describe(2, described)
    row = node_row(node, "online", heard(), {0: "01792345690007654321-1"}, {0})
    assert set(row) == set(NodeRow.model_fields)
    told = NodeRow.model_validate(row)
    assert told.gpus[0].task == "01792345690007654321-1"
    assert told.gpus[0].load is not None and told.gpus[0].load.power_mw == 61234
    assert told.gpus[0].foreign
    assert (told.can, told.cannot, told.engines) == (described["can"], described["cannot"], described["engines"])
    assert [numa.id for numa in told.numa] == [0, 1]
    assert list(told.away) == ["docker"]
    assert (told.heartbeat, told.problems) == ("2-95", ["the share was away for 12 s"])


def test_a_node_of_which_little_is_known() -> None:
    row = node_row(Node("n2"), "offline", None, {}, ())
    told = NodeRow.model_validate(row)
    assert (told.cores, told.gpus, told.numa, told.away, told.heartbeat) == (0, [], [], {}, "")


def test_a_description_of_an_earlier_version() -> None:
    node = Node("n1")
    node.describe(1, {"cores": 4, "memory_bytes": 5, "executors": ["process"]})
    assert NodeRow.model_validate(node_row(node, "online", heard(), {}, ())).engines == {}


def test_loads_are_given_to_their_gpus() -> None:
    described = [{**gpu, "index": index} for index in (0, 3) for gpu in golden("node.json")["gpus"]]
    beat = Heartbeat.model_validate(golden("heartbeat.json"))
    rows = gpu_rows(described, beat, {3: "a"}, set())
    assert [(row["index"], row["load"] is not None, row["task"]) for row in rows] == [(0, True, None), (3, False, "a")]
    assert [row["load"] for row in gpu_rows(described, None, {}, set())] == [None, None]
    assert NodeDescription.model_validate(golden("node.json")).gpus[0].index == 0
