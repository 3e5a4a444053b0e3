"""hakurun: what a name is, and how functions are called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hakuruns import hakurun

from hakuriver.hakurun import targets
from hakuriver.hakurun.targets import Target, resolve

MODULE = """
import sys
def show(*arguments): print(repr(arguments), sys.argv)
class Tools:
    @staticmethod
    def inner(x): print("inner", x)
def fails(x): return 1 // x
def leaves(): sys.exit(7)
def returns(): return 5
def spawns():
    import multiprocessing
    child = multiprocessing.get_context("spawn").Process(target=show, args=(1,))
    child.start(); child.join(); sys.exit(child.exitcode)
if __name__ == "__main__": print("main", sys.argv[1:])
"""


@pytest.fixture
def here(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (scratch / "tool.py").write_text(MODULE)
    (scratch / "pack" / "deep").mkdir(parents=True)
    (scratch / "pack" / "__init__.py").write_text("print('imported')")
    (scratch / "pack" / "deep" / "work.py").write_text("print('deep work')")
    (scratch / "broken").mkdir()
    (scratch / "broken" / "__init__.py").write_text("raise RuntimeError('broken')")
    (scratch / "broken" / "__main__.py").write_text("")
    (scratch / "script.py").write_text("open('was-run', 'w')")
    (scratch / "bin").mkdir()
    for name in ("pack.deep", "prog"):
        path = scratch / "bin" / name
        path.write_text('#!/bin/sh\necho "program" "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scratch / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(scratch)
    return scratch


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("prog", "program"),
        ("bin/prog", "program"),
        ("/bin/sh", "program"),
        ("pack.deep", "program"),  # and a package, too
        ("tool", "module"),
        ("pack.deep.work", "module"),
        ("broken.x", "module"),  # which the run will tell
        ("json.tool", "module"),
        ("tool:show", "function"),
        ("a.b:c.d", "function"),
    ],
)
def test_what_a_name_is(here: Path, name: str, kind: str) -> None:
    assert resolve(name) == Target(kind, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "no module:function, no program on PATH, and no module"),
        ("tool.nothing", "no module:function"),
        ("nothing.at.all", "no module:function"),
        ("no thing", "no module:function"),
        ("", "no module:function"),
        ("./nothing", "there is no such file"),
        ("script.py", "as python ./script.py, or chmod +x it"),
        ("./script.py", "as python ./script.py, or chmod +x it"),
        ("a:b:c", "no module:function"),
        ("C:/x", "there is no such file"),
    ],
)
def test_what_is_nothing(here: Path, name: str, says: str) -> None:
    with pytest.raises(targets.NotFound) as caught:
        resolve(name)
    assert says in str(caught.value)
    assert not (here / "was-run").exists()


def test_a_program_that_only_lies_here(here: Path) -> None:
    (here / "prog2").write_text("#!/bin/sh\n")
    (here / "prog2").chmod(0o755)
    with pytest.raises(targets.NotFound, match=r"not on PATH: write \./prog2"):
        resolve("prog2")


def test_looking_for_a_script_does_not_run_it(here: Path) -> None:
    with pytest.raises(targets.NotFound):
        resolve("script.main")
    assert not (here / "was-run").exists()


def test_modules_run_as_with_python_m(here: Path) -> None:
    ran = hakurun("tool", "span:{1..2}", "x")
    assert (ran.returncode, ran.stdout) == (0, "main ['1', 'x']\nmain ['2', 'x']\n")
    assert hakurun("pack.deep.work").stdout == "imported\ndeep work\n"


def test_functions_get_numbers_as_numbers_be_it_one_run_or_many(here: Path) -> None:
    one = hakurun("tool:show", "span:{3..3}", "4", "span:x", "span:{07..7}", "n=span:{1..1}")
    assert one.stdout == "(3, '4', 'x', '07', 'n=1') ['tool:show', '3', '4', 'x', '07', 'n=1']\n"
    many = hakurun("tool:show", "span:{1..2}", "span:[1]")
    assert [line.partition(") ")[0] for line in many.stdout.splitlines()] == ["(1, '1'", "(2, '1'"]
    assert hakurun("tool:Tools.inner", "x y").stdout == "inner x y\n"


def test_text_that_is_not_utf8_arrives(here: Path) -> None:
    assert hakurun("tool:show", "\udcff").stdout == "('\\udcff',) ['tool:show', '\\udcff']\n"


def test_what_a_function_raises_is_told_without_our_frames(here: Path) -> None:
    ran = hakurun("tool:fails", "span:{0..0}")
    assert ran.returncode == 1
    assert ran.stderr.startswith(f'Traceback (most recent call last):\n  File "{here}/tool.py", line 7, in fails\n')
    assert ran.stderr.endswith("ZeroDivisionError: integer division or modulo by zero\n")
    assert "call.py" not in ran.stderr
    missing = hakurun("tool:nothing")
    assert missing.stderr == "AttributeError: module 'tool' has no attribute 'nothing'\n"
    imported = hakurun("broken:x")
    assert "importlib" not in imported.stderr
    assert f"{here}/broken/__init__.py" in imported.stderr
    assert hakurun("nomodule:x").stderr == "ModuleNotFoundError: No module named 'nomodule'\n"


def test_how_functions_end(here: Path) -> None:
    assert hakurun("tool:leaves").returncode == 7
    assert hakurun("tool:returns").returncode == 0
    spawned = hakurun("tool:spawns")
    assert (spawned.returncode, spawned.stdout[:5]) == (0, "(1,) ")


def test_a_target_that_is_a_span(here: Path) -> None:
    ran = hakurun("span:[tool,prog,tool:show]", "span:{1..2}")
    assert ran.stdout.splitlines() == [
        "main ['1']", "main ['2']", "program 1", "program 2",
        "(1,) ['tool:show', '1']", "(2,) ['tool:show', '2']",
    ]  # fmt: skip
    late = hakurun("span:[prog,nothing]", "span:{1..2}")
    assert (late.returncode, late.stdout) == (127, "")


DEMO = Path(__file__).resolve().parents[2] / "contrib" / "demo"


@pytest.mark.parametrize("target", [[sys.executable, "./demo_hakurun.py"], ["demo_hakurun"]])
def test_the_documented_demo(target: list[str]) -> None:
    ran = hakurun("--parallel", *target, "span:{1..2}", "fixed_arg", "span:[input_a, input_b]", cwd=DEMO)
    assert ran.returncode == 0
    assert sorted(line.partition(", PID")[0] for line in ran.stdout.splitlines()) == [
        f"Args: ['{number}', 'fixed_arg', 'input_{letter}']" for number in (1, 2) for letter in "ab"
    ]
    assert len(set(ran.stdout.splitlines())) == 4


def test_the_function_of_the_demo() -> None:
    ran = hakurun("demo_hakurun:describe", "span:{1..2}", "fixed_arg", cwd=DEMO)
    assert ran.stdout == "1 is int, 'fixed_arg' is str\n2 is int, 'fixed_arg' is str\n"
