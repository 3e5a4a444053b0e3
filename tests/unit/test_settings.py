"""config.toml: where it comes from, what it may say, and what an error tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hakuriver import config, settings
from hakuriver.config import ConfigError
from hakuriver.remarks import without_effect
from hakuriver.settings import Settings, parse


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_defaults_are_those_of_the_design() -> None:
    timing = Settings().timing
    assert (timing.heartbeat_interval, timing.offline_after, timing.lease, timing.lease_margin) == (5, 30, 90, 30)
    assert Settings().limits.output_local == 2**30


def test_defaults_can_be_parsed() -> None:
    assert parse({}, "defaults").paths.shared_dir == ""


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"paths": {"shard_dir": "/x"}}, "paths.shard_dir: there is no such key; the nearest known one is paths."),
        ({"timing": {"leese": 1}}, "the nearest known one is timing.lease"),
        ({"tming": {"lease": 1}}, "[tming]: there is no such section; the nearest known one is [timing]"),
        ({"paths": {"db_fil": "/x"}}, "nearest known one is database.db_file: write db_file = ... below [database]"),
        ({"shared_dir": "/x"}, "shared_dir: there is no such key; the nearest known one is paths.shared_dir: write"),
        ({"paths.shared_dir": "/x"}, "known one is paths.shared_dir: write shared_dir = ... below [paths]"),
        ({"docker": {"tasks_privileged": "yes"}}, 'docker.tasks_privileged = "yes": it must be true or false, without'),
        ({"resources": {"cores": True}}, "resources.cores = true: it must be a whole number ≥ 1, without quotes"),
        ({"resources": {"cores": "8"}}, 'resources.cores = "8": it must be a whole number ≥ 1, without quotes'),
        ({"resources": {"gpus": [0, "a"]}}, 'resources.gpus[1] = "a": it must be a list of whole numbers, as [0, 1]'),
        ({"resources": {"gpus": [-1]}}, "resources.gpus[0] = -1"),
        ({"timing": {"lease": float("inf")}}, "timing.lease = inf: it must be a time of more than 0: seconds, or"),
        ({"timing": {"lease": "9" * 400}}, "timing.lease = "),
        ({"timing": {"lease": 10**400}}, "timing.lease = "),
        ({"timing": {"lease": {"seconds": 3}}}, "timing.lease = {...}: it must be a time"),
        ({"timing": {"heartbeat_timeout_factor": 1}}, "heartbeat_timeout_factor = 1: it must be a number > 1"),
        ({"resources": {"memory": 1.5}}, "resources.memory = 1.5: it must be a size of more than 0"),
        ({"paths": {"state_dir": ""}}, 'paths.state_dir = "": it must not be empty: delete the line'),
        ({"docker": {"network": ""}}, 'docker.network = "": it must not be empty'),
        ({"environment": {"runner_user": "a\0"}}, "environment.runner_user"),
        ({"paths": {"state_dir": 3}}, "paths.state_dir = 3: it must be a path in quotes"),
        ({"paths": {"shared_dir": {"x": 1}}}, "paths.shared_dir = {...}: it must be a path in quotes"),
        ({"paths": [{"shared_dir": "/x"}]}, "it must be a section: [paths] on a line of its own"),
        ({"network": {"host_port": 0}}, "network.host_port = 0: it must be a whole number, 1 to 65535"),
        ({"network": {"host_ssh_proxy_port": 65536}}, "host_ssh_proxy_port = 65536: it must be a whole number, 1 to"),
        ({"network": {"runner_address": "n1:8001"}}, 'network.runner_address = "n1:8001": must be a host name or an'),
        ({"network": {"host_bind_ip": "300.0.0.1"}}, "network.host_bind_ip"),
        ({"network": {"host_reachable_address": "http://n1"}}, "network.host_reachable_address"),
        ({"timing": {"lease": 5}}, "lease must be longer"),
        ({"timing": {"offline_after": "5s"}}, "offline_after must be longer"),
        ({"timing": {"lease": "soon"}}, "timing.lease = \"soon\": 'soon' is no duration"),
        ({"timing": {"poll_interval": 0}}, "timing.poll_interval = 0"),
        ({"node": {"name": "Über"}}, 'node.name = "Über"'),
        ({"resources": {"cores": 0}}, "resources.cores = 0"),
        ({"resources": {"memory": "much"}}, "is no size"),
        ({"scheduling": {"executor": "podman"}}, "scheduling.executor"),
        ({"scheduling": {"strategy": "random"}}, "scheduling.strategy"),
        ({"policy": {"tasks_per_user": 0}}, "policy.tasks_per_user = 0"),
        ({"policy": {"allow_nul": True}}, "the nearest known one is policy.allow_null"),
        ({"docker": {"additional_mounts": ["/a"]}}, 'docker.additional_mounts = ["/a"]'),
        ({"paths": "x"}, "[paths]"),
        ({"paths": {"state_dir": "/tmp/hr"}}, "may be emptied at a reboot"),
        ({"paths": {"state_dir": "/var/tmp/x/../y"}}, "may be emptied at a reboot"),
        ({"paths": {"state_dir": "/dev/shm"}}, "may be emptied at a reboot"),
        ({"paths": {"shared_dir": "/mnt/r", "state_dir": "/mnt/r/state"}}, "lies on the share"),
        ({"paths": {"shared_dir": "/mnt/r"}, "database": {"db_file": "/mnt/r/index.db"}}, "database.db_file"),
    ],
)  # fmt: skip
def test_an_error_names_file_key_and_remedy(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(table, "/etc/x.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("/etc/x.toml: ")


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"timing": {"a": 1}, "paths": {"b": 1}}, "x")
    assert len(str(caught.value).splitlines()) == 2


def test_units_and_homes_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    found = parse({"timing": {"lease": "2m"}, "resources": {"memory": "4Gi"}, "paths": {"state_dir": "~/state"}}, "x")
    assert (found.timing.lease, found.resources.memory, found.paths.state_dir) == (120, 4 << 30, "/home/ada/state")
    assert found.db_file == "/home/ada/state/index.db"


def test_the_database_may_lie_elsewhere_and_a_sibling_of_the_share_is_not_on_it() -> None:
    found = parse(
        {"paths": {"shared_dir": "/mnt/r", "state_dir": "/mnt/r-state"}, "database": {"db_file": "/var/i.db"}}, "x"
    )
    assert found.db_file == "/var/i.db"


def test_dead_keys_are_accepted_and_named() -> None:
    table = {"network": {"host_port": 8000, "runner_port": 8001}}
    assert parse(table, "x").network.host_port == 8000
    assert [(fault.key, fault.value) for fault in without_effect(table)] == [
        ("network.host_port", "8000"),
        ("network.runner_port", "8001"),
    ]


def test_every_key_has_a_description() -> None:
    for name, section in Settings.model_fields.items():
        model: Any = section.annotation
        assert model.__doc__.startswith(f"[{name}]")
        assert [key for key, field in model.model_fields.items() if not field.description] == []


# --- where it comes from


@pytest.fixture
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(scratch))
    write(scratch / ".hakuriver/config.toml", '[paths]\nshared_dir = "/from/home"\n')
    return scratch


def test_precedence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = write(home / "option.toml", '[paths]\nshared_dir = "/from/option"\n')
    named = write(home / "env.toml", '[paths]\nshared_dir = "/from/env"\n')
    assert config.shared_dir() == config.load().paths.shared_dir == "/from/home"
    monkeypatch.setenv("HAKURIVER_CONFIG", named)
    assert config.shared_dir() == config.load().paths.shared_dir == "/from/env"
    assert config.shared_dir(option) == config.load(option).paths.shared_dir == "/from/option"
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", "/over/all")
    assert config.shared_dir(option) == config.load(option).paths.shared_dir == "/over/all"


def test_without_any_file_there_is_no_share(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(scratch))
    assert config.load().paths.shared_dir == ""
    with pytest.raises(ConfigError, match="HAKURIVER_SHARED_DIR"):
        config.shared_dir()


def test_a_named_file_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--config must name"):
        config.load("/nowhere.toml")
    monkeypatch.setenv("HAKURIVER_CONFIG", "/nowhere.toml")
    with pytest.raises(ConfigError, match="HAKURIVER_CONFIG must name"):
        config.load()


@pytest.mark.parametrize("data", [b"[paths\n", b"x = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_told_with_its_file(home: Path, data: bytes) -> None:
    path = home / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.toml: this is no TOML"):
        config.load(str(path))


@pytest.mark.parametrize("text", ["", '[paths]\nshared_dir = ""\n'])
def test_a_daemon_does_not_take_the_working_directory_for_the_share(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = write(home / "c.toml", text)
    with pytest.raises(ConfigError, match=r"c\.toml: paths\.shared_dir is not set"):
        config.load_for_daemon(path)
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", "/mnt/river")
    assert config.load_for_daemon(path).paths.shared_dir == "/mnt/river"


@pytest.mark.parametrize(
    "values", [{"docker": {"additional_mounts": ["/a:/b", "x" * 5000]}}, {"timing": {"lease": "x" * 5000}}]
)
def test_a_very_long_value_leaves_room_for_the_remedy(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"xxx.*: write ") as caught:
        parse(values, "c.toml")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", '[paths]\nshared_dir = ""\n'])
def test_a_share_that_is_not_set_is_told(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"paths\.shared_dir is not set"):
        config.shared_dir(write(home / "c.toml", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[paths]\nshred_dir = '/mnt'\n",
            "paths.shred_dir: there is no such key; the nearest known one is paths.shared_dir",
        ),
        (
            "[paths]\nshared_dir = '/mnt'\n[timing]\nhartbeat_interval = 3\n",
            "timing.hartbeat_interval: there is no such key",
        ),
        ("[paths]\nshared_dir = '/mnt'\n[nodee]\n", "[nodee]: there is no such section"),
        ("paths = 3\n", "paths = 3: it must be a section"),
        ("[paths]\nshared_dir = 3\n", "paths.shared_dir = 3: it must be a path in quotes"),
    ],
)
def test_clients_refuse_unknown_keys_too(home: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config.shared_dir(write(home / "c.toml", text))


def test_clients_know_all_keys() -> None:
    assert sorted(f"{s}.{key}" for s, keys in config.KEYS.items() for key in keys) == sorted(settings.known_keys())
