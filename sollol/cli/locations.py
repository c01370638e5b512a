"""Adds to a list of models the nodes that hold them."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any, Literal

from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway
from sollol.wire.names import model_key


def with_nodes(
    gateway: Gateway, path: str, holding: Literal["models", "resident"]
) -> list[dict[str, Any]]:
    """Return the ``models`` of ``path``, each with ``nodes``: the ids of the nodes that hold it.

    In memory that is the digest listed. Of models on disk there is also ``outvoted``: which of the
    nodes have another digest and get no requests for the model. A server that is no SOLLOL gateway
    has no nodes to tell of; its list comes back as it is.
    """
    listed: list[dict[str, Any]] = gateway.get(path).get("models") or []
    try:
        nodes = gateway.nodes()["nodes"]
    except CommandError:
        return listed
    if holding == "resident":
        loaded = _ids(nodes, "resident", lambda model: (model_key(model["name"]), model["digest"]))
        return [model | {"nodes": loaded[(_key(model), model.get("digest"))]} for model in listed]
    on_disk, outvoted = _ids(nodes, "models", model_key), _ids(nodes, "outvoted", model_key)
    return [
        model | {"nodes": on_disk[_key(model)], "outvoted": outvoted[_key(model)]}
        for model in listed
    ]


def _key(model: dict[str, Any]) -> str:
    return model_key(model.get("name", ""))


def _ids(
    nodes: list[dict[str, Any]], field: str, key_of: Callable[[Any], Hashable]
) -> defaultdict[Hashable, list[str]]:
    """Map what nodes list in a field to their ids."""
    ids: defaultdict[Hashable, list[str]] = defaultdict(list)
    for node in nodes:
        for model in node.get(field) or ():
            ids[key_of(model)].append(node["id"])
    return ids
