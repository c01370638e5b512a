"""Adds to a list of models the nodes that hold them."""

from collections import defaultdict
from typing import Any, Literal

from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway
from sollol.wire.names import model_key


def with_nodes(
    gateway: Gateway, path: str, holding: Literal["models", "resident"]
) -> list[dict[str, Any]]:
    """Return the ``models`` of ``path``, each with ``nodes``: the ids of the nodes that hold it.

    A server that is no SOLLOL gateway has no nodes to tell of; its list comes back as it is.
    """
    listed: list[dict[str, Any]] = gateway.get(path).get("models") or []
    try:
        nodes = gateway.nodes()["nodes"]
    except CommandError:
        return listed
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for model in node.get(holding) or ():
            name = model["name"] if isinstance(model, dict) else model
            ids[model_key(name)].append(node["id"])
    return [{**model, "nodes": ids[model_key(model.get("name", ""))]} for model in listed]
