"""What is shown of the node that a model over workers is: what Ollama would say of it. Pure."""

from dataclasses import replace

from sollol.gateway.shard import Shard
from sollol.sharding.shown import details_of
from sollol.types import NodeView


def node_shown(view: NodeView, shard: Shard, expires_at: str) -> NodeView:
    """Return a node as it is shown: with the model's digest, details and sizes, and when it leaves.

    Args:
        expires_at: RFC 3339.
    """
    if shard.model is None:
        return view
    stored = shard.model.stored
    told = {
        "digest": stored.digest,
        "details": details_of(stored),
        "expires_at": expires_at,
        **_sizes(shard),
    }
    return replace(
        view,
        models={key: replace(model, digest=stored.digest) for key, model in view.models.items()},
        resident={
            key: replace(held, digest=stored.digest, entry={**held.entry, **told})
            for key, held in view.resident.items()
        },
    )


def _sizes(shard: Shard) -> dict[str, int]:
    """Return what a model takes in all, and on its workers, in the words of ``/api/ps``.

    Workers are the coordinator's devices, whatever they compute with.
    """
    held = {name: taken.total_bytes for name, taken in shard.placement.items()}
    on_workers = sum(held.get(name, 0) for name in shard.workers())
    return {"size": sum(held.values()), "size_vram": on_workers} if held else {}
