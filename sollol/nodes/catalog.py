"""One list of models out of many nodes; pure.

Each function takes the views of all nodes and gives one entry per model, however many nodes have
it: clients key their lists on the name and show duplicates as errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sollol.nodes import digests
from sollol.types import Engine, Model, NodeState, NodeView, Resident
from sollol.wire.gotime import unix_time
from sollol.wire.names import ModelName, parse_name, version_numbers

DEFAULT_VERSION = "0.33.0"
"""The Ollama version whose API the gateway speaks; told while no Ollama node is up."""


class Listing(NamedTuple):
    """A model of the fleet. ``nodes`` are all that have it, ``model`` is what is shown of it."""

    model: Model
    nodes: Sequence[NodeView]


def listings(views: Iterable[NodeView]) -> list[Listing]:
    """Return every model, the most recently modified first.

    Of a model that nodes have with different digests, the chosen one is shown
    (``nodes/digests.py``). Models of nodes that are down stay listed: they come back with the
    node, and until then a request for one is told to retry.
    """
    found = [
        Listing(digests.chosen_model(key, nodes), nodes)
        for key, nodes in digests.holders(views).items()
    ]
    found.sort(key=lambda listing: listing.model.name)
    found.sort(key=lambda listing: unix_time(listing.model.modified_at), reverse=True)
    return found


def installed(views: Iterable[NodeView]) -> list[Model]:
    """Return what is shown of every model, the most recently modified first."""
    return [listing.model for listing in listings(views)]


def resident(views: Iterable[NodeView]) -> list[dict[str, Any]]:
    """Return an ``/api/ps`` entry for every model in memory somewhere, one for each digest of it.

    Over the nodes that hold it, the sizes are summed (so that ``size_vram / size`` stays the share
    on GPUs), the expiry is the last and the context the smallest.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for loaded in _loaded(views):
        which = loaded.key, loaded.digest
        entry = entries.get(which)
        entries[which] = dict(loaded.entry) if entry is None else _merged(entry, loaded.entry)
    return sorted(entries.values(), key=_expiry, reverse=True)


def version(views: Iterable[NodeView]) -> str:
    """Return the lowest version of the Ollama nodes that are up: clients infer features from it."""
    versions = [
        view.version
        for view in views
        if view.engine is Engine.OLLAMA and view.state is not NodeState.UNHEALTHY and view.version
    ]
    return min(versions, key=version_numbers, default=DEFAULT_VERSION)


def owner(model: Model) -> str:
    """Return what ``owned_by`` says of a model: the namespace of its name."""
    try:
        name: ModelName = parse_name(model.name)
    except ValueError:
        return "library"
    return name.namespace


def _loaded(views: Iterable[NodeView]) -> Iterable[Resident]:
    for view in views:
        if view.state is NodeState.UNHEALTHY:
            continue
        for key, loaded in view.resident.items():
            if key == loaded.key:  # else an alias of an entry that is there too
                yield loaded


def _merged(one: dict[str, Any], other: Any) -> dict[str, Any]:
    merged = dict(one)
    for field in ("size", "size_vram"):
        merged[field] = sum(e[field] for e in (one, other) if isinstance(e.get(field), int))
    lengths = [
        e["context_length"] for e in (one, other) if isinstance(e.get("context_length"), int)
    ]
    if lengths:
        merged["context_length"] = min(lengths)
    merged["expires_at"] = max(one, other, key=_expiry).get("expires_at")
    return merged


def _expiry(entry: Mapping[str, Any]) -> float:
    return unix_time(str(entry.get("expires_at")))
