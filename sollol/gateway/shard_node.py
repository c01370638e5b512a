"""A coordinator as a node like any other: its name, its settings, and whether it answers."""

import contextlib
import re

from pydantic import SecretStr

from sollol.errors import CoordinatorFailed, NodeConflict
from sollol.gateway.workers import Coordinator
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.settings import NodeSettings
from sollol.types import ModelDefaults, Source

JOIN_ATTEMPTS = 3
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._:-]")


def add_node(
    registry: Registry, model: str, coordinator: Coordinator, slots: int, defaults: ModelDefaults
) -> Node:
    """Return a new node that is a coordinator which has loaded its model.

    Raises:
        CoordinatorFailed: every name for it is taken.
    """
    for number in range(1, 1000):
        settings = NodeSettings(
            name=node_name(model, number),
            url=coordinator.url,
            engine="llama_server",
            slots=slots,
            api_key=SecretStr(coordinator.api_key),
        )
        with contextlib.suppress(NodeConflict):  # a node of somebody has the name
            return registry.add(settings, Source.SHARD, defaults)
    raise CoordinatorFailed(f"every name for a node of {model} is taken")


async def answers(prober: Prober, node: Node) -> bool:
    """Ask a node that has just started how it is, more than once if need be; return whether it says so."""
    for _ in range(JOIN_ATTEMPTS):
        if await prober.probe(node):
            return True
    return False


def node_name(model: str, number: int) -> str:
    """Return the id of the node that runs a model; a number after the first keeps names apart."""
    plain = _NOT_IN_IDS.sub("-", model)
    suffix = "" if number == 1 else f"-{number}"
    return f"shard:{plain}"[: 64 - len(suffix)] + suffix
