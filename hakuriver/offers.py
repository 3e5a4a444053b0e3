"""What a job wishes of a node and what a node offers: which executor takes it there, and if none does, why.

The host places by it and the command line explains by it, so it imports little and knows no files.
"""

# Annotations stay values here: a NamedTuple made from annotations as text takes eight times as long to import.

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hakuriver.targets import NO_CONTAINER, Target, parse

NO_PACKAGE = "there is no package for environment"


class Wishes(NamedTuple):
    """How a job wants to run, wherever that is."""

    executor: str = "auto"
    container: str | None = None  #: an environment, or NULL; None: nothing was said
    gpus: int = 0  #: so many of its node's, if no target names them
    contained: bool = False  #: rights or mounts that only containers have
    private_network: bool = False
    private_pid: bool = False


class Offer(NamedTuple):
    """What a node has."""

    executors: frozenset[str]
    can: frozenset[str] = frozenset()  #: records.NodeDescription.can
    numa: frozenset[int] = frozenset()  #: ids of its NUMA nodes
    gpus: frozenset[int] = frozenset()  #: indices of its GPUs
    away: Mapping[str, str] = {}  #: executors that cannot be used now, and why
    cannot: Mapping[str, str] = {}  #: executors and abilities that it has not, and why


class River(NamedTuple):
    """What holds for every job."""

    executor: str = "auto"  #: what `auto` means; auto: the best that can be had
    environment: str = ""  #: of jobs that name none
    packages: Mapping[str, str] = {}  #: newest package of each environment that has one
    contained: bool = False  #: nothing may run without a container


class Choice(NamedTuple):
    """How a task is run on a node."""

    executor: str
    package: str | None = None  #: docker: `<env>-<timestamp>`


#: What most jobs wish: they share it, as there may be many.
PLAIN = Wishes()
_SAID = frozenset({"container", "gpus", "privileged", "mounts", "private_network", "private_pid"})


def wishes_of(spec: Mapping[str, Any]) -> Wishes:
    """What a job (records.JobSpec) wishes."""
    executor = spec.get("executor") or "auto"
    if executor == "auto" and _SAID.isdisjoint(spec):
        return PLAIN
    found = Wishes(
        executor, spec.get("container"), spec.get("gpus") or 0,
        bool(spec.get("privileged") or spec.get("mounts")),
        bool(spec.get("private_network")), bool(spec.get("private_pid")),
    )  # fmt: skip
    return PLAIN if found == PLAIN else found


def gpus_of(spec: Mapping[str, Any]) -> int:
    """How many GPUs each task of a job (records.JobSpec) has; of several targets the most."""
    return max([spec.get("gpus") or 0, *(len(parse(target).gpus) for target in spec.get("targets") or ())])


def choose(wishes: Wishes, target: Target | None, offer: Offer, river: River) -> Choice | None:
    """The first executor that can run it on this node now; None: none can."""
    if _no_numa(target, offer):
        return None
    for executor, why in _tried(wishes, target, offer, river):
        if why is None:
            package = river.packages[environment(wishes, river)] if executor == "docker" else None
            return Choice(executor, package)
    return None


def _tried(wishes: Wishes, target: Target | None, offer: Offer, river: River) -> Iterator[tuple[str, str | None]]:
    """Executors in order, and why each of them does not run it on this node now; None: it does."""
    for executor in executors(wishes, target, river):
        missing = lacks(executor, wishes, target, offer)
        yield executor, missing or waits_for(executor, wishes, offer, river)
        if executor == "docker" and missing is None and executor in offer.away and _would_contain(wishes, river):
            return


def _would_contain(wishes: Wishes, river: River) -> bool:
    """Whether it runs in a container wherever there is Docker: then it waits for one that is away for a while.

    Else the same command would run now in its environment, now on the bare machine.
    """
    return environment(wishes, river) in river.packages


def executors(wishes: Wishes, target: Target | None, river: River) -> tuple[str, ...]:
    """Executors that a job may run with, the preferred first."""
    if wishes.executor != "auto":
        return (wishes.executor,)
    if needs_container(wishes, target) or river.contained:
        return ("docker",)
    bound = wishes.private_network or wishes.private_pid or (target is not None and target.numa is not None)
    if wishes.container == NO_CONTAINER:
        return ("process", "systemd") if river.executor == "process" and not bound else ("systemd", "process")
    if river.executor == "auto" or (river.executor == "process" and bound):
        return ("docker", "systemd", "process")
    return (river.executor,)


def needs_container(wishes: Wishes, target: Target | None) -> bool:
    """Whether only docker can run it."""
    named = wishes.container not in (None, NO_CONTAINER)
    return named or bool(wishes.gpus) or wishes.contained or bool(target and target.gpus)


def environment(wishes: Wishes, river: River) -> str:
    """The environment that it runs in, if in a container."""
    return wishes.container or river.environment


def lacks(executor: str, wishes: Wishes, target: Target | None, offer: Offer) -> str | None:
    """What the node has not that this needs, in words: it will not come while its runner runs."""
    if executor not in offer.executors:
        return f"it has no {executor}" + (f": {offer.cannot[executor]}" if executor in offer.cannot else "")
    numa = None if target is None else target.numa
    apart = wishes.private_network or wishes.private_pid
    if executor == "process" and (numa is not None or apart):
        return "a plain process can be neither bound nor kept apart"
    needs = (
        ("systemd", "systemd-numa", numa is not None, "it has no numactl"),
        ("systemd", "systemd-private-network", wishes.private_network, "its systemd cannot make a private network"),
        ("systemd", "systemd-private-pid", wishes.private_pid, "its systemd cannot hide other processes"),
        ("docker", "docker-gpus", _gpus(wishes, target), "its Docker cannot give GPUs to containers"),
    )
    missing = ((ability, why) for kind, ability, asked, why in needs if asked and kind == executor)
    return next((offer.cannot.get(ability, why) for ability, why in missing if ability not in offer.can), None)


def _no_numa(target: Target | None, offer: Offer) -> list[str]:
    """Whether the NUMA node is missing, whatever the executor."""
    if target is None or target.numa is None or target.numa in offer.numa:
        return []
    if not offer.numa:
        return [f"it has no NUMA nodes, {target.numa} is asked for"]
    return [f"it has no NUMA node {target.numa}; it has {numbers(offer.numa)}"]


def _gpus(wishes: Wishes, target: Target | None) -> bool:
    return bool(wishes.gpus) or bool(target and target.gpus)


def waits_for(executor: str, wishes: Wishes, offer: Offer, river: River) -> str | None:
    """What is missing now and may come, in words."""
    if executor in offer.away:
        return f"{executor} cannot be reached: {offer.away[executor]}"
    if executor == "docker" and environment(wishes, river) not in river.packages:
        return f"{NO_PACKAGE} {environment(wishes, river)}"
    return None


def reasons(wishes: Wishes, target: Target | None, offer: Offer, river: River) -> list[str]:
    """Why no executor of the node runs it now; empty if one does."""
    if missing := _no_numa(target, offer):
        return missing
    found = []
    for _, why in _tried(wishes, target, offer, river):
        if why is None:
            return []
        found.append(why)
    return list(dict.fromkeys(found))


def never(wishes: Wishes, target: Target | None, offer: Offer, river: River) -> list[str]:
    """Why this node cannot run it at all; empty if it can, or may once what is away now has come back."""
    if missing := _no_numa(target, offer):
        return missing
    if "docker" in offer.away:
        offer = offer._replace(can=offer.can | {"docker-gpus"})  # what it can is not known while it is away
    found = [lacks(executor, wishes, target, offer) for executor in executors(wishes, target, river)]
    return [] if None in found else list(dict.fromkeys(why for why in found if why))


def numbers(found: frozenset[int]) -> str:
    """Indices for people."""
    return ", ".join(map(str, sorted(found))) or "none"
