"""Makes the units that lie here, by the template of `hakuriver init service`: python contrib/systemd/make.py"""

from __future__ import annotations

from pathlib import Path

from hakuriver.cli.unit_files import Role, Unit

HERE = Path(__file__).resolve().parent


def example(role: Role) -> Unit:
    """A daemon of a user of its own, with HakuRiver in a virtual environment below /opt."""
    return Unit(
        role, "hakuriver", "hakuriver", "/opt/hakuriver/bin/python", "/etc/hakuriver/config.toml", "/mnt/river",
        "/var/lib/hakuriver",
    )  # fmt: skip


def files() -> dict[str, str]:
    """Content by name."""
    host, runner = example("host"), example("runner")
    return {host.file: host.text(), runner.file: runner.text(), "hakuriver-runner@.service": runner.template()}


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text)
