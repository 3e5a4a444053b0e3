"""Plain processes: the keeper runs the command itself."""

from __future__ import annotations

from hakuriver.records import Start, StartRow
from hakuriver.runner.executors.plan import Place, Planned, river_variables, spec_message, task_message
from hakuriver.spool.layout import SHARED_DATA

#: Where tasks find programs: the system's own come first.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan(start: Start, rows: list[StartRow], place: Place) -> Planned:
    """What to tell the keeper. Raises Refused for what no process can be given."""
    cwd = start.spec.workdir or f"{place.shared_dir}/{SHARED_DATA}"
    spec = spec_message(start.spec, environment(start, place), cwd, place.grace_s)
    return Planned(spec, [task_message(start, row) for row in rows])


def environment(start: Start, place: Place) -> dict[str, str]:
    """The environment that all tasks of a job have in common; of the runner's own nothing is in it."""
    spec = start.spec
    return {
        "PATH": search_path(place.programs), "HOME": place.home, "USER": place.user, "LANG": "C.UTF-8",
        "TMPDIR": place.local_temp_dir, "OMP_NUM_THREADS": str(max(1, spec.cores)),
        **spec.env,
        **river_variables(start, place, place.shared_dir, place.local_temp_dir),
    }  # fmt: skip


def search_path(programs: str) -> str:
    """PATH, and last the directory of hakurun and hakuriver, so that it hides no program of the system."""
    return f"{PATH}:{programs}" if programs and programs not in PATH.split(":") else PATH
