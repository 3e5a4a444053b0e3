"""``until_up.py PID WORD...``: wait until the daemon of that command line is at work: a host leads, nodes are online.

Prints where the share is. Ends with 1 if the process ends before, or if it takes too long.
"""

from __future__ import annotations

import os
import sys
import time

from processes import alive

from hakuriver import config, reading
from hakuriver.errors import HakuRiverError
from hakuriver.spool import layout
from hakuriver.spool.access import Share

PATIENCE_S = 60.0


def option(words: list[str], name: str) -> str | None:
    """The value of an option."""
    for number, word in enumerate(words):
        if word == name:
            return words[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def share_of(words: list[str]) -> str:
    """Where the daemon's share is."""
    named = option(words, "--shared-dir")
    return os.path.expanduser(named) if named else config.shared_dir(option(words, "--config"))


def at_work(words: list[str]) -> bool:
    """Whether what the daemon is for has come about."""
    try:
        share = Share(share_of(words)).check()
        index = reading.nodes_index(share) or {"nodes": []}
    except HakuRiverError:
        return False
    online = {row["node"] for row in index["nodes"] if row["state"] == "online"}
    if "up" in words:
        return len(online) >= int(option(words, "--nodes") or 1)
    if words[0].endswith("runner") or "runner" in words:
        return (option(words, "--name") or config.load(option(words, "--config")).node.name) in online
    return any(baton.term > 0 for name in share.names(layout.HOST) if (baton := layout.parse_baton(name)))


def main(pid: int, words: list[str]) -> int:
    """Wait; the exit status."""
    end = time.monotonic() + PATIENCE_S
    while not at_work(words):
        if not alive(pid):
            print("it has ended", file=sys.stderr)
            return 1
        if time.monotonic() > end:
            print(f"it was not at work within {PATIENCE_S:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print(share_of(words))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
