"""What systemd is told and what it says, without a systemd; tests/engines has the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hakuriver.attendant import systemd
from hakuriver.attendant import systemd_launch as launch
from hakuriver.attendant import systemd_units as units
from hakuriver.attendant.systemd_launch import Launch
from hakuriver.attendant.systemd_units import Unit

UNIT = Unit("/var/state", "hakuriver-task-7")
ENDED = Path(units.__file__).with_name("systemd_ended.sh")

V2 = """\
service_result oom-kill
exit_code killed
exit_status KILL
uptime 1234.50 99.00
memory.events low 0
memory.events oom 1
memory.events oom_kill 2
memory.events oom_group_kill 0
memory.peak 41943040
cpu.stat usage_usec 1500000
cpu.stat user_usec 1
"""
V1 = """\
service_result signal
exit_code dumped
exit_status SEGV
uptime 8.25 1.00
memory.oom_control oom_kill_disable 0
memory.oom_control under_oom 0
memory.oom_control oom_kill 0
memory.max_usage_in_bytes 1000
cpuacct.usage 250000000
"""


def order(**spec: Any) -> Any:
    return {
        "op": "begin", "name": "hakuriver-task-7", "task": "7", "attempt": 1, "owner": "o", "out": "/o", "err": "/e",
        "spec": {"argv": ["prog"], "grace_s": 3.0, **spec}, "start_before": 0.0,
    }  # fmt: skip


# -- what systemd is told


def test_properties_of_a_bare_task() -> None:
    assert units.properties(order(cores=0, memory_bytes=None), UNIT, "/s/ended.sh", 252) == [
        "CPUAccounting=yes", "MemoryAccounting=yes", "TasksMax=infinity", "StandardInput=null",
        "StandardOutput=append:/o", "StandardError=append:/e", "KillMode=control-group", "SendSIGKILL=yes",
        "TimeoutStopSec=3.000000", "IgnoreSIGPIPE=no", "OOMPolicy=continue",
        'ExecStopPost=+"/bin/sh" "/s/ended.sh" "/var/state/made/hakuriver-task-7" "hakuriver-task-7.service" '
        '"/var/state/ended/hakuriver-task-7"',
    ]  # fmt: skip


def test_limits_and_sandbox() -> None:
    spec = {"cores": 3, "memory_bytes": 5_000_000_001, "private_network": True, "private_pid": True}
    told = units.properties(order(**spec), UNIT, "/s", 252)
    assert {"CPUQuota=300%", "MemoryMax=5000000001", "MemorySwapMax=0", "PrivateNetwork=yes"} <= set(told)
    assert "PrivatePIDs=yes" not in told
    assert units.alone(spec, 252)[-5:] == ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    assert "PrivatePIDs=yes" in units.properties(order(**spec), UNIT, "/s", 257)
    assert units.alone(spec, 257) == [] == units.alone({}, 252)


def test_words_are_quoted_for_systemd() -> None:
    assert units.word('/a $b "c" \\d\n') == '"/a $$b \\"c\\" \\\\d\\n"'


def test_description_is_one_short_line() -> None:
    text = units.description(order(argv=["prog", "a\nb", "x" * 500]))
    assert text.startswith("HakuRiver task 7: prog a b xxx") and len(text) == 200


# -- what it says


def test_result_of_cgroup_v2() -> None:
    result = units.read_result(V2)
    assert (result.exit_code, result.signal, result.oom) == (None, signal.SIGKILL, True)
    assert (result.cpu_s, result.peak, result.wall_end, result.text) == (1.5, 41943040, 1234.5, "")


def test_result_of_cgroup_v1() -> None:
    result = units.read_result(V1)
    assert (result.exit_code, result.signal, result.oom) == (None, signal.SIGSEGV, False)
    assert (result.cpu_s, result.peak, result.wall_end) == (0.25, 1000, 8.25)
    assert units.read_result(V1.replace("oom_kill 0", "oom_kill 1")).oom


def test_exit_code_and_what_is_unusual() -> None:
    result = units.read_result("service_result exit-code\nexit_code exited\nexit_status 7\n")
    assert (result.exit_code, result.signal, result.oom, result.peak, result.wall_end) == (7, None, False, None, None)
    result = units.read_result("service_result timeout\nexit_code killed\nexit_status TERM\n")
    assert (result.signal, result.text) == (signal.SIGTERM, "systemd ended it: timeout")
    result = units.read_result("service_result signal\nexit_code killed\nexit_status TERM\nsystem stopping\n")
    assert (result.signal, result.text) == (signal.SIGTERM, "the node was shutting down")


def test_signal_that_the_first_process_noted_counts() -> None:
    result = units.read_result("service_result exit-code\nexit_code exited\nexit_status 143\nsignal 15\n")
    assert (result.exit_code, result.signal) == (None, signal.SIGTERM)


@pytest.mark.parametrize(
    ("name", "number"), [("KILL", 9), ("RTMIN+3", signal.SIGRTMIN + 3), ("NEWONE", None), ("", None), ("TERM+x", None)]
)
def test_signals_by_name(name: str, number: int | None) -> None:
    assert units.signal_number(name) == number


def test_units_as_shown() -> None:
    shows = units.read_shows(
        "Id=a.service\nActiveState=active\nEnvironment=HAKURIVER_OWNER=me A=b=c\n\nId=b.service\nActiveState=failed\n"
    )
    assert list(shows) == ["a.service", "b.service"]
    assert (units.owner(shows["a.service"]), units.owner(shows["b.service"])) == ("me", "")
    assert units.read_shows("\n") == {}


def test_ending_that_only_systemd_remembers() -> None:
    show = {"ActiveState": "failed", "Result": "oom-kill", "ExecMainCode": "2", "ExecMainStatus": "9"}
    times = {"ExecMainStartTimestampMonotonic": "1000000", "ExecMainExitTimestampMonotonic": "1500000"}
    result = units.of_show({**show, **times, "CPUUsageNSec": "2000000000"})
    assert (result.exit_code, result.signal, result.oom, result.cpu_s, result.wall_s) == (None, 9, True, 2.0, 0.5)
    result = units.of_show({**show, "Result": "exit-code", "ExecMainCode": "1", "CPUUsageNSec": "[not set]"})
    assert (result.exit_code, result.signal, result.oom, result.cpu_s) == (9, None, False, 0.0)
    result = units.of_show({})
    assert (result.exit_code, result.signal) == (None, None) and "gone" in result.text


def test_why_systemd_is_not_to_be_had() -> None:
    assert units.why_denied("sudo: a password is required\n").endswith(
        "needs sudo without a password for systemd-run and systemctl (sudo: a password is required)"
    )
    assert "Interactive" in units.why_denied("Failed to start x: Interactive authentication required.\n")
    assert units.why_denied("Unit x.service not found.\n") == "" == units.why_away("Unit x.service not found.\n")
    booted = "System has not been booted with systemd as init system (PID 1). Can't operate.\n"
    assert units.why_away(booted + "Failed to connect to bus: Host is down\n") == (
        "systemd cannot be reached (Failed to connect to bus: Host is down)"
    )


def test_sudo_that_only_warns_has_refused_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text(
        "#!/bin/sh\necho 'sudo: unable to resolve host n1: Name or service not known' >&2\n"
        "echo 'Failed to kill unit x.service: Unit x.service not loaded.' >&2\nexit 1\n"
    )
    sudo.chmod(0o755)
    monkeypatch.setattr(systemd, "PATH", f"{tmp_path}:{systemd.PATH}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = systemd.Systemd(str(tmp_path / "engine"))._kill(Unit(str(tmp_path), "x"), signal.SIGTERM)
    assert (done.returncode, done.stderr) == (1, "Failed to kill unit x.service: Unit x.service not loaded.\n")


# -- the last script


def test_script_writes_even_without_a_cgroup(tmp_path: Path) -> None:
    (tmp_path / "signal").write_text("15\n")
    env = {**os.environ, "SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "143"}
    subprocess.run(["sh", ENDED, tmp_path, "x.service", tmp_path / "result"], env=env, check=True)
    result = units.read_result((tmp_path / "result").read_text())
    assert result.signal == 15 and result.wall_end and not result.oom and not (tmp_path / "result.new").exists()


def test_script_has_nothing_to_say_to_nobody(tmp_path: Path) -> None:
    done = subprocess.run(["sh", ENDED, tmp_path / "gone", "x", tmp_path / "result"], capture_output=True, check=True)
    assert not list(tmp_path.iterdir()) and done.stderr == b""


# -- the launcher


def launched(tmp_path: Path, *argv: str, **more: Any) -> tuple[subprocess.CompletedProcess[bytes], str]:
    """Run the launcher as systemd does; what it said over its pipe too."""
    spec: dict[str, Any] = {
        "cwd": b"/",
        "env": [b"A=b=c", b"PATH=/usr/bin:/bin"],
        "prefix": [],
        "tended": False,
        **more,
    }
    made = Launch(
        [os.getuid(), os.getgid()],
        spec["cwd"],
        [os.fsencode(a) for a in argv],
        spec["env"],
        spec["prefix"],
        spec["tended"],
    )
    (tmp_path / "launch").write_bytes(made.pack())
    os.mkfifo(tmp_path / "told")
    told = os.open(tmp_path / "told", os.O_RDONLY | os.O_NONBLOCK)
    done = subprocess.run([sys.executable, "-I", "-S", launch.__file__, tmp_path], capture_output=True, check=False)
    said = os.read(told, 1000).decode()
    os.close(told)
    return done, said


def test_launch_is_packed_exactly() -> None:
    made = launch.unpack(
        Launch([5, 6, 7, 8], b"/d", [b"p", b"", b"a\nb"], [b"A=\n", b"B="], [b"n", b"--"], True).pack()
    )
    assert (made.user, made.cwd, made.tended) == ([5, 6, 7, 8], b"/d", True)
    assert (made.argv, made.env, made.prefix) == ([b"p", b"", b"a\nb"], [b"A=\n", b"B="], [b"n", b"--"])
    assert launch.unpack(Launch([0, 0], b"/", [b"p"], [], [], False).pack()).env == []
    with pytest.raises(ValueError, match="NUL"):
        Launch([0, 0], b"/", [b"a\0"], [], [], False).pack()


def test_program_gets_what_was_asked_for(tmp_path: Path) -> None:
    done, said = launched(
        tmp_path, "sh", "-c", 'env; grep "^SigIgn" /proc/self/status; echo "$@"', "sh", "$HOME", "%n", cwd=b"/usr"
    )
    lines = done.stdout.decode().splitlines()
    assert said == "" and lines[-1] == "$HOME %n"
    assert {"A=b=c", "PATH=/usr/bin:/bin", "PWD=/usr"} >= {
        line for line in lines if not line.startswith(("_=", "Sig", "$", "SHLVL", "OLDPWD"))
    }
    # 32 and 33 are the C library's own: nobody can set them, and whoever runs the tests may have them ignored.
    assert int(lines[-2].split()[1], 16) & ~(0b11 << 31) == 0
    assert len((tmp_path / "begun").read_text().split()) == 2


@pytest.mark.parametrize("tended", [False, True])
def test_program_that_cannot_be_run(tmp_path: Path, tended: bool) -> None:
    done, said = launched(tmp_path, "no-such-program", tended=tended)
    assert (done.returncode, said) == (127, "127 cannot run no-such-program: No such file or directory")


@pytest.mark.parametrize(
    ("program", "more", "expected"),
    [
        ("/etc/passwd", {}, "126 cannot run /etc/passwd: Permission denied"),
        ("true", {"cwd": b"/nowhere"}, "126 cannot enter working directory /nowhere: No such file or directory"),
        ("true", {"prefix": [b"/no/numactl"]}, "127 cannot run /no/numactl: No such file or directory"),
    ],
)
def test_other_refusals(tmp_path: Path, program: str, more: dict[str, Any], expected: str) -> None:
    assert launched(tmp_path, program, **more)[1] == expected


def test_prefix_runs_the_program(tmp_path: Path) -> None:
    done, said = launched(tmp_path, "echo", "x", prefix=[b"/usr/bin/env", b"-u", b"A"])
    assert (done.stdout, said) == (b"x\n", "")


def test_first_process_tells_how_its_child_ended(tmp_path: Path) -> None:
    for number, (script, code, noted) in enumerate((("exit 7", 7, ""), ("kill -9 $$", 137, "9\n"))):
        place = tmp_path / str(number)
        place.mkdir()
        done, _ = launched(place, "sh", "-c", script, tended=True)
        assert done.returncode == code
        assert ((place / "signal").read_text() if (place / "signal").exists() else "") == noted
