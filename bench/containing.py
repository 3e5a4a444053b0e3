"""What a Docker task costs beside a bare `docker run` of the same image, and how often an environment is loaded.

As root: two engines of the lab's are brought up, one for the host, which packages the environment, and one for the
node, which has to load it. A task's time is from the rename into `incoming/` to its ending in jobs/done/.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from figures import Figure, against_floor, bounded
from river import RIVERS, River, river, until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from lab.dockerd import Dockerd

TURNS = 8  #: a round's, one after another
AT_ONCE = 10
WAITING = 50
LISTENING_S = 1.0  #: within which `docker events` listens
ENVIRONMENT = "bench"
DOCUMENT = b'{"command": ["true"], "container": "bench"}'


def contain(rounds: int) -> list[Figure]:
    """One at a time, ten at once, and fifty that wait for their environment."""
    RIVERS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        engines = [stack.enter_context(Dockerd(RIVERS / f"engine-{name}")) for name in ("host", "node")]
        it = stack.enter_context(river(engines=engines, node=AT_ONCE))
        package(it, engines[0])
        loads = loads_for_waiting(it, engines[1])
        image = engines[1].cli("image", "inspect", "--format", "{{.Id}}", f"hakuriver/{ENVIRONMENT}:base").strip()
        single, bare, ten, ten_bare = [], [], [], []
        for number in range(rounds):
            for turn in range(TURNS):
                bare.append(seconds_of_runs(engines[1], image, 1) * 1e3)
                single.append(seconds_of_tasks(it, f"one{number}.{turn}", 1) * 1e3)
            ten_bare.append(seconds_of_runs(engines[1], image, AT_ONCE) * 1e3)
            ten.append(seconds_of_tasks(it, f"ten{number}", AT_ONCE) * 1e3)
    return [
        against_floor("a Docker task, from drop to ending", "ms", single, "docker run", bare, 1.3),
        against_floor(f"{AT_ONCE} Docker tasks at once", "ms", ten, f"{AT_ONCE} docker run", ten_bare, 1.3),
        bounded(f"loads of an environment that {WAITING} tasks wait for", "times", loads, 1),
    ]


def package(it: River, engine: Dockerd) -> None:
    """Have the host make and package the environment."""
    engine.add_image("shell")
    it.command("docker", "create-container", "shell:latest", ENVIRONMENT)
    it.command("docker", "create-tar", ENVIRONMENT)


def loads_for_waiting(it: River, engine: Dockerd) -> int:
    """Submit tasks that wait for their environment, and count how often it was loaded by the time they are over."""
    # Listened to all along: an engine remembers its last 256 events only.
    only = ["--filter", "type=image", "--filter", "event=load"]
    listen = ["docker", "--host", f"unix://{engine.socket}", "events", *only]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        time.sleep(LISTENING_S)
        it.wait(it.submit("--container", ENVIRONMENT, "--array", f"0-{WAITING - 1}", "--", "true"))
        listener.terminate()
        loads = len(listener.communicate()[0].splitlines())
    if not loads:
        raise RuntimeError("the environment came into the engine, but nobody saw it being loaded")
    return loads


def seconds_of_runs(engine: Dockerd, image: str, count: int) -> float:
    """So many `docker run` at once, from the first start to the last end."""
    command = ["docker", "--host", f"unix://{engine.socket}", "run", "--rm", image, "true"]
    begun = time.perf_counter()
    for running in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]:
        if running.wait():
            raise RuntimeError(f"{' '.join(command)} ended with status {running.returncode}")
    return time.perf_counter() - begun


def seconds_of_tasks(it: River, name: str, count: int) -> float:
    """So many tasks at once, from the first drop to the last ending."""
    begun = it.drop(f"{name}.0.json", DOCUMENT)
    for number in range(1, count):
        it.drop(f"{name}.{number}.json", DOCUMENT)
    jobs = [it.receipt(f"{name}.{number}")["ids"][0] for number in range(count)]
    until(f"all of {name} are over", lambda: all(map(it.finished, jobs)), 0.002)
    return time.time() - begun
