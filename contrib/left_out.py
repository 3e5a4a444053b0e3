"""``left_out.py REPORT.xml``: say, ring by ring, what pytest ran, and what it left out and how to run that.

Reads pytest's JUnit report. The reason of a skipped test is expected to say what to install or set.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

#: What `make test` never runs: what takes too long, and figures, which are no test since they depend on the machine.
ALWAYS = [
    ("every crash point in every way", "make test-crash"),
    ("real shared filesystems", "as root: make test-share FS=nfs, gluster, moosefs, cifs, sshfs"),
    ("real engines: Docker, systemd", "as root: make test-engines"),
    ("speed", "a benchmark, never a test: make bench"),
    ("demo with set-up", "make demo"),
]


def ring(case: ET.Element) -> str:
    """`unit` of tests.unit.test_x; test directories are the rings."""
    parts = (case.get("classname") or "").split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else parts[0] or "tests"


def main(path: str) -> None:
    """Print the block."""
    ran: Counter[str] = Counter()
    left: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(path).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            ran[ring(case)] += 1
        else:
            left[ring(case), skipped.get("message") or "no reason given"] += 1
    print("\n=== rings that ran ===")
    for name, count in sorted(ran.items()):
        print(f"  {name}: {count} tests")
    print("=== left out, and how to run it ===")
    for (name, reason), count in sorted(left.items()):
        print(f"  {name}: {count} tests: {reason}")
    for name, how in ALWAYS:
        print(f"  {name}: {how}")


if __name__ == "__main__":
    main(sys.argv[1])
