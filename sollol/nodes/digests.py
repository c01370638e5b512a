"""Which digest counts when nodes have different ones under one name of a model; pure.

A tag is moved by pulling, so two nodes that pulled on different days have different models under
one name. Callers see one fleet and must not get now this model, now that one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sollol.types import Engine, Model, NodeState, NodeView
from sollol.wire.gotime import unix_time

Holders = Mapping[str, Sequence[NodeView]]


def holders(views: Iterable[NodeView]) -> Holders:
    """Return the nodes that have each model, by its key; those that are down too."""
    found: dict[str, list[NodeView]] = {}
    for view in views:
        for key in view.models:
            found.setdefault(key, []).append(view)
    return found


def told_digest(view: NodeView, key: str) -> str:
    """Return the digest a node tells of a model; other engines than Ollama have stand-ins."""
    return view.models[key].digest if view.engine is Engine.OLLAMA else ""


def is_conflict(key: str, nodes: Iterable[NodeView]) -> bool:
    """Whether the nodes that have a model tell different digests of it."""
    return len({told_digest(view, key) for view in nodes} - {""}) > 1


def chosen_digest(key: str, nodes: Sequence[NodeView]) -> str:
    """Return the digest that counts for a model; empty when no node tells one.

    Each node that tells one has a vote, if it is not unhealthy (or all are). On a tie:
    1. the digest that was modified last, 2. the smallest.
    """
    told = [(view, digest) for view in nodes if (digest := told_digest(view, key))]
    if len({digest for _, digest in told}) < 2:
        return told[0][1] if told else ""
    up = [(view, digest) for view, digest in told if view.state is not NodeState.UNHEALTHY]
    votes: Counter[str] = Counter()
    newest: dict[str, float] = {}
    for view, digest in up or told:
        votes[digest] += 1
        modified = unix_time(view.models[key].modified_at)
        newest[digest] = max(newest.get(digest, modified), modified)
    return min(votes, key=lambda digest: (-votes[digest], -newest[digest], digest))


def chosen_model(key: str, nodes: Sequence[NodeView]) -> Model:
    """Return what is shown of a model: of those with the digest that counts, the last modified."""
    chosen = chosen_digest(key, nodes)
    models = [view.models[key] for view in nodes if told_digest(view, key) == chosen]
    return max(models, key=lambda model: unix_time(model.modified_at))


def conflicts(views: Iterable[NodeView]) -> dict[str, str]:
    """Return the chosen digest of every model of which nodes tell different ones."""
    return {
        key: chosen_digest(key, nodes)
        for key, nodes in holders(views).items()
        if is_conflict(key, nodes)
    }


def outvoted(views: Sequence[NodeView], chosen: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return for each node the models that it gets no requests for.

    They are those of which it has another digest than the chosen, as long as a healthy node has
    that one: an answer of another digest is better than none.
    """
    served = {
        key
        for view in views
        if view.state is NodeState.HEALTHY
        for key in view.models.keys() & chosen
        if told_digest(view, key) == chosen[key]
    }
    return {
        view.id: frozenset(
            key
            for key in view.models.keys() & served
            if told_digest(view, key) not in ("", chosen[key])
        )
        for view in views
    }
