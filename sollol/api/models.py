"""``/sollol/v1/models``: every model of the fleet, and which node has what of it."""

from fastapi import APIRouter
from pydantic import BaseModel

from sollol.api.served import Served
from sollol.nodes import catalog, digests
from sollol.types import NodeView


class ModelOnNode(BaseModel):
    """A node that has a model on disk; ``is_resident``: in memory too."""

    id: str
    state: str
    digest: str
    is_resident: bool


class ModelStatus(BaseModel):
    """A model; what is told of it is that of the digest that counts.

    ``conflict``: nodes have different digests of it.
    """

    name: str
    key: str
    digest: str
    size_bytes: int
    context_length: int | None
    capabilities: list[str]
    conflict: bool
    nodes: list[ModelOnNode]


class ModelsAnswer(BaseModel):
    """All models."""

    models: list[ModelStatus]


router = APIRouter(tags=["nodes"])


@router.get("/sollol/v1/models", summary="Models and the nodes that have them")
async def _models(gateway: Served) -> ModelsAnswer:
    listings = catalog.listings(gateway.views_shown())
    return ModelsAnswer(models=[_status(listing) for listing in listings])


def _status(listing: catalog.Listing) -> ModelStatus:
    model, nodes = listing.model, listing.nodes
    return ModelStatus(
        name=model.name,
        key=model.key,
        digest=model.digest,
        size_bytes=model.size_bytes,
        context_length=model.context_length,
        capabilities=sorted(model.capabilities),
        conflict=digests.is_conflict(model.key, nodes),
        nodes=[_on_node(view, model.key) for view in nodes],
    )


def _on_node(view: NodeView, key: str) -> ModelOnNode:
    return ModelOnNode(
        id=view.id,
        state=view.state,
        digest=view.models[key].digest,
        is_resident=key in view.resident,
    )
