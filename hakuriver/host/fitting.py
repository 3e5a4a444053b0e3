"""Whether a job could ever run on the nodes that are known: what never can is refused at the door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hakuriver import offers, units
from hakuriver.host.checking import problem
from hakuriver.host.nodes import Node
from hakuriver.offers import Offer, River
from hakuriver.records import RunRequest
from hakuriver.targets import Target, parse

LESS = "ask for no more"
#: Nodes that are told one by one.
NODES_TOLD = 5


class Fitting:
    """The nodes and what holds for all jobs, as they are now."""

    def __init__(self, nodes: Mapping[str, Node], away: Mapping[str, Mapping[str, str]], river: River) -> None:
        """`away`: for each node the executors that cannot be used now."""
        self._nodes = nodes
        self._away = away
        self._river = river

    def offer(self, node: Node) -> Offer:
        """What the node has, and what of it is away."""
        return node.offer._replace(away=self._away.get(node.name, {}))

    def on_targets(self, body: RunRequest) -> list[dict[str, Any]]:
        """Which of the job's targets cannot be had, and why."""
        told = (self._on_target(body, text, parse(text)) for text in dict.fromkeys(body.targets))
        return [found for found in told if found]

    def _on_target(self, body: RunRequest, text: str, target: Target) -> dict[str, Any] | None:
        node = self._nodes.get(target.node)
        if node is None:
            known = ", ".join(sorted(self._nodes)) or "none"
            return problem("targets", text, "there is no such node", f"nodes known: {known}")
        if small := _too_small(body, node):
            return problem("targets", text, small, LESS)
        offer = self.offer(node)
        if missing := frozenset(target.gpus) - offer.gpus:
            message = f"{node.name} has no GPU {offers.numbers(missing)}"
            return problem("targets", text, message, f"GPUs of {node.name}: {offers.numbers(offer.gpus)}")
        why = offers.never(offers.wishes_of(body.__dict__), target, offer, self._river)
        if why:
            return problem("targets", text, f"{node.name} cannot run it: {'; '.join(why)}", _remedy(target, offer))
        return None

    def anywhere(self, body: RunRequest) -> list[dict[str, Any]]:
        """What is wrong with a job for any node, if no known node could ever run it."""
        if body.targets or not self._nodes:
            return []
        reasons: dict[str, list[str]] = {}
        for node in self._nodes.values():
            small = _too_small(body, node)
            why = [small] if small else offers.never(
                offers.wishes_of(body.__dict__), None, self.offer(node), self._river
            )  # fmt: skip
            if not why:
                return []
            reasons[node.name] = why
        return [self._too_large(body) or _cannot(body, reasons, self._river)]

    def _too_large(self, body: RunRequest) -> dict[str, Any] | None:
        """What is asked for beyond what any node has."""
        nodes = self._nodes.values()
        cores = max(node.cores for node in nodes)
        if body.cores > cores:
            return problem("cores", body.cores, f"no node has so many: the largest has {cores}", LESS)
        gpus = max(len(node.offer.gpus) for node in nodes)
        if body.gpus > gpus:
            return problem("gpus", body.gpus, f"no node has so many: the most on one are {gpus}", LESS)
        if all(_too_small(body, node) for node in nodes):
            beside = f"{body.cores} cores" + (f" and {body.gpus} GPUs" if body.gpus else "")
            most = units.format_size(max(node.memory_bytes for node in nodes))
            message = f"no node has so much and {beside}: at most {most}"
            return problem("memory", units.format_size(body.memory or 0), message, LESS)
        return None


def _too_small(body: RunRequest, node: Node) -> str:
    """What a node has too little of, in words; empty if it has enough."""
    if body.cores > node.cores:
        return f"cores = {body.cores}: {node.name} has {node.cores}"
    if (body.memory or 0) > node.memory_bytes:
        asked, has = units.format_size(body.memory), units.format_size(node.memory_bytes)
        return f"memory = {asked}: {node.name} has {has}"
    if body.gpus > len(node.offer.gpus):
        return f"gpus = {body.gpus}: {node.name} has {len(node.offer.gpus)}"
    return ""


def _remedy(target: Target, offer: Offer) -> str:
    if target.numa is not None and target.numa not in offer.numa:
        return f"NUMA nodes of {target.node}: {offers.numbers(offer.numa)}"
    return f"executors of {target.node}: {', '.join(sorted(offer.executors)) or 'none'}; name another node"


def _cannot(body: RunRequest, reasons: dict[str, list[str]], river: River) -> dict[str, Any]:
    fields = ("container", "privileged", "mounts", "gpus", "private_network", "private_pid")
    asked = [field for field in fields if getattr(body, field)]
    field = "executor" if body.executor != "auto" or not asked else asked[0]
    told = [f"{node}: {'; '.join(why)}" for node, why in sorted(reasons.items())]
    more = f", and {len(told) - NODES_TOLD} more" if len(told) > NODES_TOLD else ""
    message = f"no node can run it ({', '.join(told[:NODES_TOLD])}{more})"
    if field == "executor" and body.executor == "auto":
        remedy = f"auto means {river.executor} here (scheduling.executor): name another, or start a runner that can"
    else:
        remedy = "leave it out, or start a runner on a node that can"
    return problem(field, getattr(body, field), message, remedy)
