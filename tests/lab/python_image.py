"""A stand-in for the image `python:3.12-slim`, made here and pulled from nowhere: a lab's Debian, its Python, pip.

    add_python(engine, "python:3.12-slim", Path("build/engines"))

Its pip is a real one, and has no index but a directory of wheels in the image: what HakuRiver is built with and needs,
and the packages that pages install, which hold nothing but their version.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from lab.base import run
from lab.dockerd import Dockerd
from lab.trees import tree
from lab.wheels import wheels_of_hakuriver

#: Packages of a name and a version: the true ones are large, and no page calls more than their version.
HOLLOW = {"numpy": "2.1.3", "scipy": "1.14.1", "pandas": "2.2.3"}
#: What a container needs nothing of, or what would forbid pip, as Debian does, to install into the system.
LEFT_OUT = (
    "dev/*", "usr/sbin", "usr/share", "usr/bin/perl*", "usr/lib/*/perl-base", "usr/lib/systemd", "usr/lib/*/systemd",
    "usr/lib/apt", "usr/lib/*/gconv", "var/cache/*", "var/lib/*", "usr/lib/python3*/EXTERNALLY-MANAGED",
)  # fmt: skip
WHEELS = "opt/wheels"
SETTINGS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{WHEELS}",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore",
}  # fmt: skip
PIP = "#!/usr/bin/python3\nimport sys\n\nfrom pip._internal.cli.main import main\n\nsys.exit(main())\n"


def add_python(engine: Dockerd, name: str, cache: Path) -> None:
    """Make the image in an engine; `cache` keeps Debian and wheels, which pip fetches, for later. Raises LabError."""
    debian = tree(cache)
    wheels = wheels_of_hakuriver(cache, (debian / "usr/bin/python3").resolve().name.removeprefix("python"))
    with tempfile.TemporaryDirectory(dir=cache, prefix="image") as made:
        more, tarball = Path(made, "more"), Path(made, "image.tar")
        _add_pip(more, wheels)
        left_out = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
        # No path may be in it twice, not even a directory's.
        added = [path.relative_to(more) for path in more.rglob("*") if not path.is_dir() or path.name == "wheels"]
        run(
            "tar", "-cf", str(tarball), *left_out, "-C", str(debian), ".", "-C", str(more), "--no-recursion", "-T", "-",
            input="\n".join(map(str, added)),
        )  # fmt: skip
        settings = [part for key, value in SETTINGS.items() for part in ("--change", f"ENV {key}={value}")]
        engine.cli("import", *settings, str(tarball), name)


def _add_pip(root: Path, wheels: Path) -> None:
    """The files that the Debian lacks."""
    shutil.copytree(wheels, root / WHEELS)
    for name, version in HOLLOW.items():
        _add_hollow(root / WHEELS, name, version)
    [pip] = wheels.glob("pip-*.whl")
    zipfile.ZipFile(pip).extractall(root / "usr/lib/python3/dist-packages")
    programs = root / "usr/local/bin"
    programs.mkdir(parents=True)
    (programs / "pip").write_text(PIP)
    (programs / "pip").chmod(0o755)
    (programs / "python").symlink_to("/usr/bin/python3")


def _add_hollow(directory: Path, name: str, version: str) -> None:
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f'__version__ = "{version}"\n')
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"{name}.py,,\n" + "".join(f"{about}/{f},,\n" for f in ("METADATA", "WHEEL")))
