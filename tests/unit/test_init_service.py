"""`hakuriver init service`: what it writes, for whom, and what it says; the files in contrib are its own."""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hakuriver.cli import init_service, run, unit_files
from hakuriver.cli.unit_files import Unit, mount_units
from hakuriver.errors import Invalid

CONTRIB = Path(__file__).resolve().parents[2] / "contrib" / "systemd"
NASTY = ["/a b/c", "/q\"uo'te", "/per%cent%%n", "/dol$lar${HOME}", "/back\\slash", "/#hash;x", "/ünïcode/日本", "/t -v"]
ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a configuration, where commands run."""
    (scratch / ".hakuriver").mkdir()
    write(scratch / ".hakuriver" / "config.toml", "/mnt/river")
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.chdir(scratch)
    return scratch


def write(path: Path, shared_dir: str, state_dir: str = "/var/lib/hakuriver") -> Path:
    path.write_text(f'[paths]\nshared_dir = "{shared_dir}"\nstate_dir = "{state_dir}"\n')
    return path


def service(*arguments: str) -> int:
    return run(["init", "service", *arguments])


def keys(path: Path) -> dict[str, str]:
    """A unit's settings."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines), "each once"
    return found


def verified(*paths: Path) -> str:
    """What systemd has to say against units; nothing where it is not installed."""
    if ANALYZE is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run([ANALYZE, "verify", *paths], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit status {done.returncode}")


# -- what is written


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--host"], ["hakuriver-host.service"]),
        (["--runner"], ["hakuriver-runner.service"]),
        (["--all"], ["hakuriver-host.service", "hakuriver-runner.service"]),
        (["--host", "--runner"], ["hakuriver-host.service", "hakuriver-runner.service"]),
        (["--runner", "--name", "n-1"], ["hakuriver-runner-n-1.service"]),
        (["--all", "--name", "n1"], ["hakuriver-host.service", "hakuriver-runner-n1.service"]),
    ],
)
def test_what_is_chosen_is_written(
    options: list[str], names: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service(*options, "--output-dir", "new/units") == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(home / "new/units" / name) for name in names]
    assert sorted(os.listdir(home / "new/units")) == sorted(names)
    assert f"sudo systemctl enable --now {' '.join(names)}" in told.err
    assert all(f"journalctl -u {name} -f" in told.err for name in names)
    assert "sudo cp " in told.err
    for name in names:
        assert (" --name " in keys(home / "new/units" / name)["ExecStart"]) == ("-n" in name.removeprefix("hakuriver-"))


def test_they_go_where_the_command_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service("--host") == 0
    assert capsys.readouterr().out == f"{home}/hakuriver-host.service\n"


def test_a_unit_holds_what_its_own_configuration_says(home: Path) -> None:
    write(home / "both.toml", "/mnt/both", "/var/both")
    write(home / "runner.toml", "/srv/runner", "/var/runner")
    assert service("--all", "--config", "both.toml", "--runner-config", "runner.toml") == 0
    host, runner = keys(home / "hakuriver-host.service"), keys(home / "hakuriver-runner.service")
    python = sys.executable
    assert host["ExecStart"] == f"{python} -m hakuriver host --config {home}/both.toml"
    assert runner["ExecStart"] == f"{python} -m hakuriver runner --config {home}/runner.toml"
    assert "mnt.mount mnt-both.mount" in host["Wants"] and "mnt.mount mnt-both.mount" in host["After"]
    assert "srv.mount srv-runner.mount" in runner["Wants"]
    assert (host["WorkingDirectory"], runner["WorkingDirectory"]) == ("-/var/both", "-/var/runner")
    assert (host["RequiresMountsFor"], runner["RequiresMountsFor"]) == ("/var/both", "/var/runner")
    assert host["Environment"].startswith(f"PATH={os.path.dirname(python)}:/usr/local/sbin:")
    assert runner["After"].endswith(" hakuriver-host.service")
    assert runner["KillMode"] == "process" and "KillMode" not in host
    assert service("--host", "--config", "both.toml", "--host-config", "runner.toml") == 0
    assert "runner.toml" in keys(home / "hakuriver-host.service")["ExecStart"]


def test_they_run_as_who_calls(home: Path) -> None:
    assert service("--all") == 0
    user = pwd.getpwuid(os.getuid())
    for name in ("host", "runner"):
        unit = keys(home / f"hakuriver-{name}.service")
        assert (unit["User"], unit["Group"]) == (user.pw_name, grp.getgrgid(user.pw_gid).gr_name)


def test_by_sudo_they_run_as_who_called_that_and_read_what_it_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = home / "theirs"
    (theirs / ".hakuriver").mkdir(parents=True)
    (theirs / ".hakuriver" / "config.toml").write_text('[paths]\nshared_dir = "~/river"\n')
    user = pwd.struct_passwd(("somebody", "x", 4711, 0, "", str(theirs), "/bin/sh"))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "somebody")
    monkeypatch.setattr(pwd, "getpwnam", {"somebody": user}.__getitem__)
    assert service("--runner") == 0
    unit = keys(home / "hakuriver-runner.service")
    assert (unit["User"], unit["Group"]) == ("somebody", "root")
    assert f"--config {theirs}/.hakuriver/config.toml" in unit["ExecStart"]
    assert unit["RequiresMountsFor"] == f"{theirs}/.local/state/hakuriver"
    assert "somebody ALL=(ALL) NOPASSWD: /" in capsys.readouterr().err


def test_sudo_is_spoken_of_to_runners_that_need_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = init_service.Account(1234, "someone", "some", str(home), False)
    monkeypatch.setattr(init_service, "caller", lambda: account)
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/bin/{name}" if name == "systemctl" else None)
    assert service("--host") == 0
    assert "NOPASSWD" not in capsys.readouterr().err
    assert service("--runner") == 0
    line = "someone ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /opt/bin/systemctl"
    assert line in capsys.readouterr().err
    monkeypatch.setattr(init_service, "caller", lambda: account._replace(uid=0))
    assert service("--runner") == 0
    assert "NOPASSWD" not in capsys.readouterr().err


def test_one_that_is_there_is_replaced_and_that_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service("--host") == 0
    assert service("--host") == 0
    assert "replaced" not in capsys.readouterr().err
    path = home / "hakuriver-host.service"
    text = path.read_text()
    path.write_text("[Unit]\n")
    assert service("--host") == 0
    assert f"{path} was there and read otherwise: it is replaced" in capsys.readouterr().err
    assert path.read_text() == text


def test_no_comment_follows_a_value(home: Path) -> None:
    assert service("--all") == 0
    for name in ("host", "runner"):
        for line in (home / f"hakuriver-{name}.service").read_text().splitlines():
            assert line.startswith("#") or "#" not in line
            assert len(line) <= 120 or line.startswith(("Exec", "After=", "Wants=", "Environment="))


# -- what is refused


@pytest.mark.parametrize(
    "options",
    [
        [], ["--config", "x.toml"], ["--host", "--name", "n1"], ["--host", "--runner-config", "x.toml"],
        ["--runner", "--host-config", "x.toml"], ["--runner", "--name", "../x"], ["--runner", "--name", "a b"],
        ["--host", "--output-dir", ""],
    ],
)  # fmt: skip
def test_usage(options: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service(*options) == 2
    assert not list(home.glob("*.service"))
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("[paths]\nshared_dir = 3\n", "shared_dir"),
        ("[paths]\nsharde_dir = '/x'\n", "shared_dir"),
        ("[node]\nname = 'n1'\n", "paths.shared_dir is not set; set it there"),
        ("nonsense", "TOML"),
        ("[paths]\nshared_dir = 'share'\n", 'paths.shared_dir = "share" depends on the directory'),
        ("[paths]\nshared_dir = '/x'\nstate_dir = '../state'\n", 'paths.state_dir = "../state" depends'),
    ],
)
def test_a_configuration_that_a_service_could_not_use(
    text: str | None, said: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAKURIVER_SHARED_DIR", "/mnt/of/this/shell")
    path = home / "x.toml"
    if text is not None:
        path.write_text(text)
    assert service("--host", "--config", "x.toml") == 1
    assert said in capsys.readouterr().err
    assert not list(home.glob("*.service"))


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--host", "--output-dir", ""], 2, "--output-dir '': it is empty: name a directory"),
        (["--host", "--host-config", ""], 2, "--host-config '': it is empty: name a file"),
        (["--runner", "--runner-config", " "], 2, "--runner-config ' ': it is empty: name a file"),
        (["--all", "--runner-config", "x.toml"], 1, "x.toml: there is no such file; --runner-config must name a"),
        (["--all", "--config", "x.toml"], 1, "x.toml: there is no such file; --config must name a"),
        (["--host", "--output-dir", ".hakuriver/config.toml"], 1, "something else stands where a directory must be"),
    ],
)
def test_the_option_at_fault_is_named(
    options: list[str], status: int, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service(*options) == status
    assert said in capsys.readouterr().err
    assert not list(home.glob("*.service"))


def test_without_a_configuration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".hakuriver" / "config.toml").unlink()
    assert service("--host") == 1
    assert "hakuriver init config --shared-dir DIR" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/a\nb", "/a\tb", "/a\x7f", "/a ", "/a\\", "/a\udcff"])
def test_paths_that_no_unit_can_hold(path: str) -> None:
    good = ["/bin/python", "/c.toml", "/mnt", "/var"]
    for at in range(4):
        unit = Unit("host", "u", "g", *[path if at == i else other for i, other in enumerate(good)])
        with pytest.raises(Invalid, match="no unit file can hold"):
            unit.text()


# -- how systemd reads it


def test_systemd_finds_nothing_wrong(home: Path) -> None:
    assert service("--all") == 0
    assert service("--runner", "--name", "n-1") == 0
    assert verified(*home.glob("*.service")) == ""


@pytest.mark.parametrize("nasty", NASTY)
def test_systemd_reads_strange_paths(nasty: str, home: Path) -> None:
    place = home / nasty[1:]
    python = f"{place}/python"
    unit = Unit("runner", "root", "root", python, f"{place}/c.toml", f"{place}/s", f"{place}/state", "n1")
    if set(nasty) & set("\"'\\"):
        with pytest.raises(Invalid, match="starts no program"):
            unit.text()
        unit = unit._replace(python=sys.executable)
    place.mkdir(parents=True)
    Path(python).symlink_to(shutil.which("true") or "/bin/true")
    path = home / unit.file
    path.write_text(unit.text())
    assert verified(path) == ""


def test_units_that_mount(home: Path) -> None:
    assert mount_units("/mnt/river") == ["mnt.mount", "mnt-river.mount"]
    assert mount_units("/") == []
    assert mount_units("/" + "x" * 250) == []
    assert mount_units("/.a/.b") == ["\\x2ea.mount", "\\x2ea-.b.mount"]
    escape = shutil.which("systemd-escape")
    if escape is None:
        pytest.skip("systemd-escape is not installed")
    for path in [*NASTY, "/.x/y-z", "/a:b_c.d/~"]:
        told = subprocess.run([escape, "--path", "--suffix=mount", path], capture_output=True, text=True, check=True)
        assert mount_units(path)[-1] == told.stdout.strip()


# -- --install


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for what would change this machine: each writes down how it was called."""
    place = home / "bin"
    place.mkdir()
    for name in ("sudo", "install", "systemctl"):
        script = f'echo "{name} $@" >>{home}/calls\nexit $(cat {home}/fails-{name} || echo 0)\n'
        (place / name).write_text("#!/bin/sh\n" + script)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return place


def test_installing_by_sudo(
    home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert service("--all", "--install", "--output-dir", "units") == 0
    calls = (home / "calls").read_text().splitlines()
    assert calls == [
        *(f"sudo {programs}/install -m 644 -- {home}/units/{name} /etc/systemd/system"
          for name in ("hakuriver-host.service", "hakuriver-runner.service")),
        f"sudo {programs}/systemctl daemon-reload",
    ]  # fmt: skip
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "/etc/systemd/system/hakuriver-host.service",
        "/etc/systemd/system/hakuriver-runner.service",
    ]
    assert "sudo systemctl enable --now" in told.err and "sudo cp" not in told.err


def test_installing_as_root(home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert service("--host", "--install") == 0
    assert [line.split()[0] for line in (home / "calls").read_text().splitlines()] == ["install", "systemctl"]


def test_an_installation_that_is_refused(
    home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    (home / "fails-sudo").write_text("1")
    assert service("--host", "--install") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "exited with 1: sudo refused it" in told.err and "Traceback" not in told.err
    assert len((home / "calls").read_text().splitlines()) == 1, "nothing is reloaded"


@pytest.mark.parametrize("missing", ["sudo", "systemctl"])
def test_programs_that_installing_needs(
    missing: str, home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    (programs / missing).unlink()
    monkeypatch.setenv("PATH", str(programs))
    assert service("--host", "--install") == 1
    assert f"the program {missing} was not found" in capsys.readouterr().err
    assert not list(home.glob("*.service")), "it is seen before anything is written"


# -- contrib


def contrib() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_units", CONTRIB / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_in_contrib_are_as_they_would_be_made_now() -> None:
    made = contrib().files()
    assert sorted(made) == sorted(path.name for path in CONTRIB.glob("*.service"))
    for name, text in made.items():
        assert (CONTRIB / name).read_text() == text, "run: python contrib/systemd/make.py"


def test_systemd_finds_nothing_wrong_with_the_files_in_contrib(scratch: Path) -> None:
    for path in CONTRIB.glob("*.service"):
        name = path.name.replace("@", "@n-1")
        (scratch / name).write_text(path.read_text().replace("/opt/hakuriver/bin/python", sys.executable))
    assert verified(*scratch.glob("*.service")) == ""


def test_sudo_finds_nothing_wrong_with_the_snippet() -> None:
    visudo = shutil.which("visudo", path=unit_files.SYSTEM_PATH)
    if visudo is None:
        pytest.skip("visudo is not installed")
    subprocess.run([visudo, "-cf", CONTRIB / "hakuriver.sudoers"], check=True, capture_output=True)
