"""``on_terminal.py TYPED WORD...``: run a command on a terminal of its own, and type a line when it shows a prompt.

Prints what the terminal shows. Ends with the command's status, or with 1 if it takes too long.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import time

PATIENCE_S = 60.0
PROMPTS = (b"# ", b"$ ")


def main(typed: str, words: list[str]) -> int:
    """Run it; its exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(words[0], words)
    end, shown, waiting = time.monotonic() + PATIENCE_S, b"", True
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the command has ended
            print(shown.decode(errors="replace"))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if waiting and shown.endswith(PROMPTS):
            os.write(terminal, typed.encode() + b"\n")
            waiting = False
    print(f"{shown.decode(errors='replace')}\nit did not end within {PATIENCE_S:.0f} s")
    os.kill(pid, 9)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
