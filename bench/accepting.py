"""How fast the host accepts, durably."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from figures import Figure, against_floor, bounded, percentile
from floors import durable_files
from river import HAKURIVER, River, river, until

FILES = 10_000
DOCUMENT = b'{"command": ["true"], "name": "one of many"}'
INDICES = 100_000


def intake(rounds: int) -> list[Figure]:
    """10,000 job files that lie there when the host looks; no node, so that nothing else goes on.

    The host runs already and is halted with STOP while they are dropped: its start does not count.
    """
    values, floors = [], []
    for number in range(rounds):
        with river() as it:
            floors.append(durable_files(it.directory / f"floor{number}", FILES, DOCUMENT))
            values.append(one_intake(it))
    return [against_floor("10,000 files accepted durably", "/s", values, "create+fsync+rename", floors, 0.8)]


def one_intake(it: River) -> float:
    """Files a second from the moment that the host may look to the last receipt."""
    host = it.daemons["host"]
    host.send_signal(signal.SIGSTOP)
    incoming, receipts = it.share / "incoming", it.share / "receipts"
    for number in range(FILES):
        (incoming / f".j{number}.tmp").write_bytes(DOCUMENT)
        (incoming / f".j{number}.tmp").rename(incoming / f"j{number}.json")
    os.sync()
    begun = time.time()
    host.send_signal(signal.SIGCONT)
    until("the door is empty", lambda: not os.listdir(incoming), 0.05)
    until("receipts are there", lambda: named(receipts) == FILES, 0.2)
    return FILES / (last_written(receipts) - begun)


def named(receipts: Path) -> int:
    """How many of the files have their receipt, by the name they were dropped under."""
    return sum(name.startswith("j") for name in os.listdir(receipts))


def last_written(receipts: Path) -> float:
    """When the last receipt was written; seconds since 1970, by the same machine's clock."""
    return max(entry.stat().st_mtime for entry in os.scandir(receipts))


def array(rounds: int) -> list[Figure]:
    """From starting `hakuriver submit --array 0-99999` to the receipt of it."""
    with river() as it:
        values = [one_array(it) for _ in range(2 * rounds + 1)]
    return [bounded("an array of 100,000, submit to receipt", "s", percentile(values, 50), 0.5, values=values)]


def one_array(it: River) -> float:
    """Seconds of one."""
    receipts = it.share / "receipts"
    before = len(os.listdir(receipts))
    line = [HAKURIVER, "submit", "--no-receipt", "--array", f"0-{INDICES - 1}", "--", "true"]
    begun = time.perf_counter()
    client = subprocess.Popen(line, env=it.environment, stdout=subprocess.DEVNULL)
    until("the receipt is there", lambda: len(os.listdir(receipts)) > before, 0.001)
    taken = time.perf_counter() - begun
    client.wait()
    return taken
