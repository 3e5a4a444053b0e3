"""The keeper's program, but that its attendants are those of `engine_server`."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from hakuriver.keeper import attendants  # noqa: E402
from hakuriver.keeper.__main__ import main  # noqa: E402

attendants.MODULE = "engine_server"
os.environ["PYTHONPATH"] = f"{os.path.dirname(HERE)}:{HERE}"
sys.exit(main())
