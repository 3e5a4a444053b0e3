"""The grace of a kill on the command line, and what is said when a node cannot carry a control out now."""

from __future__ import annotations

import pytest
from riverfiles import RiverFiles, node_row, row

from hakuriver import client
from hakuriver.cli import run, task_control
from hakuriver.errors import Invalid
from hakuriver.spool.access import Share

A = "16999999990001111234"
B = "17000000000002225678"


@pytest.fixture
def river(river: RiverFiles, monkeypatch: pytest.MonkeyPatch) -> RiverFiles:
    monkeypatch.setattr(task_control, "SIGN_S", 0.01)
    return river


@pytest.mark.parametrize(
    ("options", "grace"),
    [([], {}), (["--now"], {"grace": 0.0}), (["--grace", "0"], {"grace": 0.0}), (["--grace", "1h"], {"grace": 3600.0}),
     (["--grace", "1.5"], {"grace": 1.5})],
)  # fmt: skip
def test_a_kill_asks_with_its_grace(river: RiverFiles, options: list[str], grace: dict[str, float]) -> None:
    assert run(["task", "kill", "--no-receipt", *options, A]) == 0
    assert river.asked() == [{"request": "kill", "targets": [A], **grace}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grace", "1", "--now"], "not both"),
        (["--grace", "61m"], "--grace 3660.0: 3,600 seconds are the most"),
        (["--grace", "x"], "is no duration"),
        (["--grace", "-1"], "is no duration"),
    ],
)
def test_a_grace_that_makes_no_sense_is_a_usage_error(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run(["task", "kill", "--no-receipt", *options, A]) == 2
    assert said in capsys.readouterr().err
    assert river.asked() == []


@pytest.mark.parametrize("kind", ["pause", "resume", "requeue"])
def test_only_a_kill_has_a_grace(river: RiverFiles, kind: str) -> None:
    assert run(["task", kind, "--no-receipt", "--now", A]) == 2
    with pytest.raises(Invalid, match="only a kill has one"):
        client.request(kind, [A], grace=1, shared_dir=str(river.root), timeout=0)
    assert river.asked() == []


def test_who_asks_of_a_node_that_is_offline_is_told(
    river: RiverFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    river.nodes(node_row("n1"), node_row("n2", state="offline"))
    river.snapshot(
        A, row(0, state="running", node="n1"), row(1, state="lost", node="n2"), row(2, state="paused", node="n2"),
        row(3, state="completed", node="n2"), state="running",
    )  # fmt: skip
    river.snapshot(B, row(state="running", node="n1"), state="running")
    monkeypatch.setattr(client, "await_receipt", lambda *_: (None, True))
    assert run(["task", "kill", "--timeout", "0.02", A, B]) == 125
    told = capsys.readouterr().err
    assert f"node n2 is offline: the kill of {A}-1 and 1 more is queued, and carried out when the node returns" in told
    assert "n1" not in told
    assert run(["task", "pause", "--timeout", "0.02", f"{A}-2"]) == 125
    assert f"the pause of {A}-2 is queued" in capsys.readouterr().err
    for names in ([f"{A}-0"], [f"{A}-3"], [B]):
        assert task_control.absent(Share(str(river.root)), "kill", names) == []
