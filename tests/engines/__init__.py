"""Real engines. Only as root, and where they may be installed: `make test-engines`."""

import sys
from pathlib import Path

# What tests of real processes have in common: a river of daemons.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))
