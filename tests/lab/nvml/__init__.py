"""GPUs for machines without any: a library in the place of the NVIDIA driver's, and the file that describes them.

The library is built from nvml.c, and found through LD_LIBRARY_PATH, which is read when a process starts: whatever is
to see these GPUs must be started with `environment`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"
#: Of a GPU whose driver tells everything.
A100 = {
    "name": "NVIDIA A100-SXM4-40GB", "total": 40 << 30, "used": 3 << 30, "utilization": 35, "memory_utilization": 12,
    "graphics_clock": 1410, "memory_clock": 1215, "temperature": 41, "fan": 30, "power": 61234, "limit": 400000,
}  # fmt: skip


def build(directory: Path) -> Path:
    """Build the library in `directory`. Skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    made = directory / LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([*command, "-o", str(made), str(SOURCE)], check=True)
    return made


def uuid(index: int) -> str:
    """A GPU's."""
    return f"GPU-00000000-1111-2222-3333-{index:012d}"


def gpu(index: int, *lines: str, without: Iterable[str] = (), **more: object) -> str:
    """The part of a GPU in the file: an A100, but for what is said; `lines`: processes, errors, hanging calls."""
    told = {"uuid": uuid(index), "bus": f"00000000:{index + 16:02X}:00.0", **A100, **more}
    return "\n".join(["gpu", *(f"{key} {value}" for key, value in told.items() if key not in without), *lines])


def describe(path: Path, *parts: str, driver: str = "550.54.15") -> None:
    """Write the file, in one step. `parts`: lines for all GPUs, and then the GPUs."""
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join([f"driver {driver}", *parts, ""]))
    fresh.rename(path)


def environment(library: Path, description: Path) -> dict[str, str]:
    """For a process that sees these GPUs."""
    return {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "LAB_NVML": str(description)}
