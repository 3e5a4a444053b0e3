"""The thread that tells of jobs and nodes for people."""

from __future__ import annotations

from pathlib import Path

from hakuriver.cli.making import make_river
from hakuriver.host.telling import Telling
from hakuriver.settings import parse
from hakuriver.spool.files import LocalDisk


def told(river: Path) -> list[str]:
    return sorted(str(path.relative_to(river)) for top in ("index", "www") for path in (river / top).rglob("*"))


def test_a_standby_that_is_stopped_tells_nothing_of_what_another_host_leads(scratch: Path) -> None:
    share, state = scratch / "river", scratch / "state"
    river = make_river(str(share), None)
    telling = Telling(
        LocalDisk(str(share)),
        parse({"paths": {"shared_dir": str(share), "state_dir": str(state)}}, "it"),
        river.cluster_id,
    )
    before = told(share)
    telling.start()
    telling.stop()
    assert told(share) == before
    assert not state.exists()
