"""What daemons say about the configuration they start with."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import eventually
from daemons import PATIENCE_S, Daemon, Machine, toml


@pytest.mark.parametrize("role", ["host", "runner"])
def test_a_daemon_tells_once_which_keys_have_no_effect(scratch: Path, role: str) -> None:
    (scratch / "share").mkdir()
    machine = Machine(scratch, "m1", scratch / "share")
    config = scratch / "config.toml"
    paths = {
        "shared_dir": machine.mount, "state_dir": machine.state, "local_temp_dir": scratch / "temp",
        "runner_log_file": scratch / "runner.log",
    }  # fmt: skip
    network = {"host_port": 8000, "runner_port": 8001, "runner_address": "127.0.1.1"}
    config.write_text(toml({"paths": paths, "network": network, "node": {"name": "n7"}}))
    daemon = Daemon(role, machine, config, scratch / "daemon.log", []).start()
    try:
        eventually(lambda: "holds no river.json" in daemon.log, PATIENCE_S)
    finally:
        status = daemon.stop()
    assert status == 0
    for key in network:
        assert daemon.log.count(f"hakuriver: {config}: network.{key} = ") == 1
    assert "host_port = 8000: it has no effect: there is no HTTP server" in daemon.log
    assert 'runner_address = "127.0.1.1": it has no effect yet' in daemon.log
    if role == "runner":
        assert "holds no river.json" in (scratch / "runner-n7.log").read_text()
