"""`hakuriver init config`, `config show`, `config check`: what is written, what applies, and what is wrong."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from riverfiles import RiverFiles

from hakuriver import config
from hakuriver.cli import making, run
from hakuriver.cli.schema import json_schema
from hakuriver.daemons import Refused
from hakuriver.doctor import mounts
from hakuriver.doctor.mounts import Mount
from hakuriver.doctor.quick import refuse_state
from hakuriver.settings import Settings, parse, settings_rows
from hakuriver.tomltext import toml, toml_size, toml_time

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A value for each key, none of them the default.
OTHER: dict[str, dict[str, Any]] = {
    "paths": {
        "shared_dir": "/mnt/other", "state_dir": "/var/lib/other", "local_temp_dir": "/scratch",
        "numactl_path": "/opt/numactl", "host_log_file": "/var/log/h.log", "runner_log_file": "/var/log/r.log",
    },
    "node": {"name": "other"},
    "database": {"db_file": "/var/lib/other.db"},
    "timing": {
        "heartbeat_interval": 2.0, "heartbeat_timeout_factor": 7.0, "offline_after": 31.0, "lease": 91.0,
        "lease_margin": 29.0, "kill_grace": 9.0, "poll_interval": 0.5, "cleanup_check_interval": 11.0,
        "resource_check_interval": 1.5,
    },
    "resources": {"cores": 3, "memory": 5 << 30, "gpus": [1]},
    "limits": {"output_local": 1 << 20, "reserve_after": 60.0},
    "retention": {"jobs": 60.0, "outputs": 61.0, "receipts": 62.0, "lost_keep": 63.0},
    "cluster": {"admins": ["ada"]},
    "scheduling": {"executor": "systemd", "strategy": "round-robin"},
    "environment": {"runner_user": "ada"},
    "docker": {
        "host": "unix:///run/other.sock", "container_dir": "packages", "default_container_name": "base",
        "initial_base_image": "alpine:3", "tasks_privileged": True, "additional_mounts": ["/a:/b:ro"],
        "network": "host", "user": "1:1",
    },
    "policy": {
        "privileged_users": ["ada"], "allowed_mounts": ["/a"], "allow_null": False, "require_target": True,
        "tasks_per_user": 5, "cores_per_user": 6, "memory_per_user": 7 << 30, "gpus_per_user": 8,
    },
    "network": {
        "host_reachable_address": "10.0.0.1", "host_bind_ip": "0.0.0.0", "host_ssh_proxy_port": 2222,
        "runner_address": "n1.lab", "host_port": 8000, "runner_port": 8001,
    },
}  # fmt: skip
#: A file as earlier generations wrote it.
OLD = """
[network]
host_reachable_address = "192.168.0.1"
host_port = 8000
host_bind_ip = "0.0.0.0"
host_ssh_proxy_port = 8002
runner_address = "127.0.1.1"
runner_port = 8001
[paths]
shared_dir = "/mnt/cluster-share"
local_temp_dir = "/tmp/hakuriver-temp"
numactl_path = ""
host_log_file = ""
runner_log_file = ""
[database]
db_file = "/var/lib/hakuriver/cluster.db"
[timing]
heartbeat_interval = 5
heartbeat_timeout_factor = 8
cleanup_check_interval = 10
resource_check_interval = 1
[environment]
runner_user = ""
[docker]
container_dir = "hakuriver-containers"
default_container_name = "hakuriver-base"
initial_base_image = "python:3.12-alpine"
tasks_privileged = false
additional_mounts = ["/data:/data", "/home:/home:ro"]
"""


@pytest.fixture(autouse=True)
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return scratch


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def shown(capsys: pytest.CaptureFixture[str], *before: str) -> dict[str, dict[str, Any]]:
    """Every key as `config show --json` tells it."""
    capsys.readouterr()
    assert run([*before, "config", "show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json_schema("config"))
    return {row["key"]: row for row in told["values"]}


# -- the rows that the reference and the file are made from


def test_each_key_has_a_row_that_tells_what_it_may_be() -> None:
    rows = {f"{row.section}.{row.key}": row for row in settings_rows()}
    assert [key for key, row in rows.items() if not (row.kind and row.description)] == []
    assert [key for key, row in rows.items() if not row.default and not row.example and not row.dead] == []
    assert {key for key, row in rows.items() if row.dead} == config.DEAD_KEYS
    kinds = {
        "timing.lease": "time", "resources.memory": "size", "resources.cores": "whole number ≥ 1",
        "docker.tasks_privileged": "true or false", "network.host_port": "whole number, 1 to 65535",
        "scheduling.executor": "one of auto, docker, systemd, process", "cluster.admins": "list of texts",
        "resources.gpus": "list of whole numbers", "timing.heartbeat_timeout_factor": "number > 1",
        "paths.state_dir": "path", "network.runner_address": "host name or IP address", "docker.network": "text",
    }  # fmt: skip
    assert {key: rows[key].kind for key in kinds} == kinds
    assert (rows["timing.lease"].default, rows["limits.output_local"].default) == ('"90s"', '"1Gi"')


@pytest.mark.parametrize("seconds", [0.001, 0.3, 1.0, 1.5, 59.0, 60.0, 90.0, 3600.0, 86400.0, 1e6 / 3, 2592000.0])
def test_times_are_written_so_that_they_read_the_same(seconds: float) -> None:
    written = tomllib.loads(f"[timing]\nlease_margin = {toml_time(seconds)}")
    assert parse(written, "x").timing.lease_margin == seconds


@pytest.mark.parametrize("size", [1, 999, 1000, 1024, 10**9, 1 << 30, 1536 << 20, (1 << 40) + 1])
def test_sizes_are_written_so_that_they_read_the_same(size: int) -> None:
    written = tomllib.loads(f"[resources]\nmemory = {toml_size(size)}")
    assert parse(written, "x").resources.memory == size


# -- init config


def test_a_new_file_says_the_defaults_and_each_of_its_lines_may_be_used() -> None:
    text = making.config_text(None)
    assert parse(tomllib.loads(text), "x").model_dump() == Settings.model_validate({}).model_dump()
    assert "host_port" not in text
    set_keys = re.findall(r"^#(\w+ = .*)$", text, re.MULTILINE)
    used = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert len(set_keys) == len([row for row in settings_rows() if row.default])
    assert parse(tomllib.loads(used), "x").model_dump() == Settings.model_validate({}).model_dump()
    # What is shown as an example is valid, too, and lies below the right section.
    examples = re.sub(r"^# for example: ", "", re.sub(r"^#\w+ = .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    found = tomllib.loads(examples)
    assert sum(len(keys) for keys in found.values()) == len([row for row in settings_rows() if row.example])
    parse(found, "x")


def test_init_config_writes_where_it_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "a" / "b.toml"
    assert run(["init", "config", "--path", str(path), "--shared-dir", "/mnt/river"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert config.load(str(path)).paths.shared_dir == "/mnt/river"


def test_a_file_that_is_there_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init"]) == 0
    path = home / ".hakuriver/config.toml"
    assert capsys.readouterr().out == f"{path}\n"
    path.write_text("# mine\n")
    for words in (["init"], ["init", "config"]):
        assert run(words) == 2
        told = capsys.readouterr().err
        assert f"--path {path}: there is such a file already, and it is kept" in told
        assert "`hakuriver init config --force` replaces it" in told
    assert run([], "hakuriver.init") == 2
    assert "it is kept" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"


def test_force_keeps_the_old_file_beside(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = home / "real.toml"
    real.write_text("# mine\n")
    real.chmod(0o640)
    link = home / "link.toml"
    link.symlink_to(real)
    assert run(["init", "config", "--path", str(link), "--force"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{link}\n"
    assert f"is kept as {real}.old" in told.err
    assert (home / "real.toml.old").read_text() == "# mine\n"
    assert link.is_symlink()
    assert real.read_text() == making.config_text(None)
    assert {path.name: path.stat().st_mode & 0o777 for path in home.glob("real*")} == {
        "real.toml": 0o640,
        "real.toml.old": 0o640,
    }


def test_where_no_file_can_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(home / "fifo")
    for path in (str(home), str(home / "fifo"), "", "/proc/x/y"):
        assert run(["init", "config", "--force", "--path", path]) in (1, 2)
    told = capsys.readouterr().err
    assert told.count("this is no file: name one") == 2
    assert "it is empty: name a file" in told
    assert "/proc/x" in told


def test_a_file_that_no_command_would_accept_is_not_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "config", "--shared-dir", str(home)]) == 1
    assert "paths.state_dir" in capsys.readouterr().err
    assert not (home / ".hakuriver").exists()


# -- config show


def test_every_key_of_a_file_applies(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {section: set(keys) for section, keys in OTHER.items()} == config.KEYS
    path = write(home / "all.toml", toml(OTHER))
    before = shown(capsys)
    after = shown(capsys, "--config", path)
    assert {key: row["value"] for key, row in after.items()} == {
        f"{section}.{key}": value for section, keys in OTHER.items() for key, value in keys.items()
    }
    assert [key for key in after if after[key]["value"] == before[key]["value"]] == []
    assert {(row["source"], row["origin"]) for row in after.values()} == {("file", path)}
    assert {row["source"] for row in before.values()} == {"default", "derived"}
    again = tomllib.loads("\n".join(f"{row['key']} = {row['toml']}" for row in after.values()))
    assert parse(again, "x") == parse(OTHER, "x")


def test_the_file_is_found_in_order(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def strategy(*before: str) -> tuple[str, str | None]:
        row = shown(capsys, *before)["scheduling.strategy"]
        return row["value"], row["origin"]

    named = write(home / "named.toml", '[scheduling]\nstrategy = "best-fit"\n')
    option = write(home / "option.toml", '[scheduling]\nstrategy = "least-loaded"\n')
    assert strategy() == ("first-fit", None)
    own = write(home / ".hakuriver/config.toml", '[scheduling]\nstrategy = "round-robin"\n')
    assert strategy() == ("round-robin", own)
    monkeypatch.setenv("HAKURIVER_CONFIG", named)
    assert strategy() == ("best-fit", named)
    assert strategy("--config", option) == ("least-loaded", option)
    for words in (["config", "--config", option, "show"], ["config", "show", "--config", option]):
        assert run(words) == 0
        assert re.search(rf'scheduling.strategy +"least-loaded" +{option}\n', capsys.readouterr().out)


def test_where_values_come_from(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        home / "c.toml",
        '[paths]\nshared_dir = "/mnt/river"\nstate_dir = "/s"\n[database]\ndb_file = ""\n'
        "[timing]\nheartbeat_interval = 2\n[network]\nhost_port = 8000\n",
    )
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", "/over")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/d.sock")
    assert run(["--config", path, "config", "show"]) == 0
    told = re.sub(" +", " ", capsys.readouterr().out)
    for line in (
        'paths.shared_dir "/over" HAKURIVER_SHARED_DIR', f'paths.state_dir "/s" {path}',
        'database.db_file "/s/index.db" derived from paths.state_dir', f'timing.heartbeat_interval "2s" {path}',
        'timing.offline_after "12s" derived from timing.heartbeat_interval, timing.heartbeat_timeout_factor',
        'docker.host "unix:///run/d.sock" DOCKER_HOST', f"network.host_port 8000 {path} (no effect)",
        "resources.cores - default",
    ):  # fmt: skip
        assert f"\n{line}\n" in told
    assert re.search(r'\nnode.name "[^"]+" derived from the host name\n', told)


def test_what_is_not_valid_is_not_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", write(home / "c.toml", "[timing]\nleese = 3\n"), "config", "show"]) == 1
    assert "timing.leese: there is no such key; the nearest known one is timing.lease" in capsys.readouterr().err


# -- config check


def check(capsys: pytest.CaptureFixture[str], path: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = run(["--config", path, "config", "check", "--json"])
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json_schema("config-check"))
    return status, told


def test_a_good_configuration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    river = RiverFiles(home / "river")
    path = write(home / "c.toml", f'[paths]\nshared_dir = "{river.root}"\n')
    assert run(["--config", path, "config", "check"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{path}: good\n", "")
    assert check(capsys, path) == (0, {"file": path, "good": True, "problems": [], "notes": []})


def test_all_faults_are_told_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        home / "c.toml",
        'shared_dir = "/x"\n[timing]\nlease = 3\n[pahts]\n[docker]\ntasks_privileged = "yes"\nhots = ""\n'
        '[paths]\nshared_dir = "/mnt"\nstate_dir = "/mnt/s"\nmore = 1\n[database]\ndb_file = "/mnt/x"\n',
    )
    assert run(["--config", path, "config", "check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"hakuriver: {path}: ") for line in lines)
    status, told = check(capsys, path)
    assert status == 1
    assert sorted(each["key"] for each in told["problems"]) == [
        "[pahts]", "database.db_file", "docker.hots", "docker.tasks_privileged", "paths.more", "paths.state_dir",
        "shared_dir", "timing.lease",
    ]  # fmt: skip
    assert len(lines) == 8


def test_a_file_of_an_earlier_generation_is_good_and_what_does_nothing_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(home / "old.toml", OLD)
    status, told = check(capsys, path)
    assert status == 0
    assert [each["key"] for each in told["notes"]] == [
        "network.host_reachable_address", "network.host_port", "network.host_bind_ip", "network.host_ssh_proxy_port",
        "network.runner_address", "network.runner_port", "paths.shared_dir", "database.db_file",
    ]  # fmt: skip
    settings = config.load(path)
    assert (settings.timing.offline_after, settings.timing.gpu_interval) == (40.0, 1.0)
    assert settings.timing.cleanup_check_interval == 10.0


def test_offline_after_goes_over_the_factor(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(home / "c.toml", "[timing]\nheartbeat_timeout_factor = 3\noffline_after = 20\n")
    assert config.load(path).timing.offline_after == 20
    notes = {each["key"]: each["text"] for each in check(capsys, path)[1]["notes"]}
    assert "timing.offline_after is set: delete one" in notes["timing.heartbeat_timeout_factor"]


def test_what_will_not_work_here_is_a_note(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").write_text("")
    (home / "empty").mkdir()
    path = write(
        home / "c.toml",
        f'[paths]\nshared_dir = "{home}/empty"\nstate_dir = "{home}/file/state"\nnumactl_path = "/no/numactl"\n'
        f'host_log_file = "logs/h.log"\nrunner_log_file = "{home}/none/r.log"\n'
        '[environment]\nrunner_user = "no-such-user"\n',
    )
    status, told = check(capsys, path)
    notes = {each["key"]: each["text"] for each in told["notes"]}
    assert status == 0
    assert "holds no river.json: mount the share there" in notes["paths.shared_dir"]
    assert f"{home}/file is no directory" in notes["paths.state_dir"]
    assert "there is no such program" in notes["paths.numactl_path"]
    assert "there is no such user here" in notes["environment.runner_user"]
    assert f"there is no directory {home}/none" in notes["paths.runner_log_file"]
    assert [each["text"] for each in told["notes"] if "write the whole path" in each["text"]]


def test_a_state_directory_that_daemons_refuse_is_a_note(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {str(home / "disk"): "ext4", str(home): "nfs4"}
    monkeypatch.setattr(mounts, "of", lambda path: Mount("/", kinds[path], "x", {}))
    path = write(home / "c.toml", f'[paths]\nstate_dir = "{home}/state"\n')
    status, told = check(capsys, path)
    notes = {each["key"]: each for each in told["notes"]}
    assert (status, told["good"]) == (0, True)
    assert notes["paths.state_dir"]["value"] == f'"{home}/state"'
    assert notes["paths.state_dir"]["text"].startswith(f"{home}/state on nfs4: ")
    assert "name a directory of this machine's own disk in paths.state_dir" in notes["paths.state_dir"]["text"]
    with pytest.raises(Refused) as refused:
        refuse_state(f"{home}/state")
    assert str(refused.value) == f"paths.state_dir: {notes['paths.state_dir']['text']}"
    (home / "disk").mkdir()
    path = write(home / "c.toml", f'[paths]\nstate_dir = "{home}/disk/state"\n')
    assert "paths.state_dir" not in {each["key"] for each in check(capsys, path)[1]["notes"]}


def test_a_relative_state_directory_is_looked_for_from_here(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    path = write(home / "c.toml", '[paths]\nstate_dir = "state"\nlocal_temp_dir = "a/b"\n')
    status, told = check(capsys, path)
    assert status == 0
    assert [each["key"] for each in told["notes"] if "write the whole path" not in each["text"]] == ["paths.shared_dir"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", None),
        (b"# only a comment", None),
        (b"\xef\xbb\xbf[timing]\r\nlease = 95\r\n", None),
        (b"paths.state_dir = '/var/x'\n", None),
        (b"\x7fELF\x00\xff", "line 1 is no UTF-8; save the file as UTF-8"),
        (b"[paths]\nx = '\xe4'\n", "line 2 is no UTF-8"),
        ("[paths]\n".encode("utf-16"), "is no UTF-8"),
        (b"[paths]\nshared_dir = /mnt\n", "at line 2, column 14"),
        (b"[paths\n", "line 1"),
        (b"[timing]\nlease = 95\nlease = 96\n", "at line 3"),
        (b"[timing]\n[timing]\n", "line 2"),
        (b"[timing]\nlease = " + b"9" * 5000, "timing.lease|is no TOML"),
        (b"x = " + b"[" * 100_000, "is no TOML"),
        (b"[docker]\nuser = " + b"[" * 300 + b"]" * 300, r"docker.user = \[...\]: it must be text in quotes"),
        (b"#" * (config.MOST_BYTES + 1), "more than 1048576 bytes"),
        (b'"paths.shared_dir" = "/mnt"\n', '"paths.shared_dir": there is no such key; the nearest known one is paths'),
        (b"[paths.shared_dir]\nx = 1\n", r"paths.shared_dir = \{...\}: it must be a path"),
        (b"[[paths]]\n", r"it must be a section: \[paths\] on a line of its own"),
        (b"[timing.lease]\n", "timing.lease = {...}: it must be a time"),
        (b"timing = 2020-01-01\n", "timing = .2020-01-01.: it must be a section"),
        (b'"\\u001b[2J" = 1\n', "there is no such key"),
        (b'"' + b"k" * 100_000 + b'" = 1\n', "there is no such key"),
        (b'[paths]\n"" = 1\n', 'paths."": there is no such key'),
        (b'[paths]\nshared_dir = "/a\\u0000b"\n', "paths.shared_dir = .*: must hold no NUL"),
    ],
)
def test_files_that_are_not_what_they_should_be(
    home: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str | None
) -> None:
    path = write(home / "c.toml", content)
    assert run(["--config", path, "config", "check"]) == (0 if said is None else 1)
    told = capsys.readouterr().err
    assert re.search(said or "", told)
    assert "fault in HakuRiver" not in told
    assert "\x1b" not in told
    assert len(told) < 1000
    assert check(capsys, path)[0] == (0 if said is None else 1)


def test_places_that_are_no_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(home / "fifo")
    for path, said in (
        (home, "this is a directory; --config must name"), (home / "fifo", "this is no regular file"),
        (home / "none", "there is no such file"),
    ):  # fmt: skip
        assert run(["--config", str(path), "config", "check"]) == 1
        assert said in capsys.readouterr().err
        assert check(capsys, str(path))[1]["problems"][0]["key"] is None
    (home / ".hakuriver/config.toml").mkdir(parents=True)
    for words in (["config", "check"], ["task", "list"]):
        assert run(words) == 1
        assert "config.toml: this is a directory" in capsys.readouterr().err


def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", "/proc/self/mem", "config", "check"]) == 1  # a file that root cannot read either
    assert "/proc/self/mem: cannot be read: Input/output error; see whose it is" in capsys.readouterr().err


@pytest.mark.parametrize("daemon", ["host", "runner"])
def test_a_daemon_without_a_share_says_so(capsys: pytest.CaptureFixture[str], daemon: str) -> None:
    assert run([daemon]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "where the share is mounted is not known: set HAKURIVER_SHARED_DIR, or write" in told.err
