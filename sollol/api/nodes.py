"""``/sollol/v1/nodes``: see the nodes, add, change and remove them. Keys are never shown."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from sollol.api.own import OwnRoute, errors
from sollol.api.served import Served
from sollol.gateway.gateway import Gateway
from sollol.nodes.registry import Node
from sollol.settings import NodeSettings
from sollol.types import Source


class ResidentModel(BaseModel):
    """A model in a node's memory."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_length: int | None
    expires_at: str


class SlowModel(BaseModel):
    """A model that generates at less than a quarter of its best speed; tokens of one request alone."""

    name: str
    tokens_per_s: float
    best_tokens_per_s: float


class NodeStatus(BaseModel):
    """What is known of a node.

    ``source`` is how it came: ``settings``, ``api``, ``embedded``, ``shard`` (a model over several
    machines), or where discovery found it
    (``local``, ``dns``, ``mdns``, ``scan``). ``duplicate_of`` is the id of another node that is
    the same server, probably. ``outvoted`` are the models that it gets no requests for, as it has
    another digest of them than the one that counts. ``limited`` are the models that failed there: they
    are ``ejected``, or ``half_open``. ``slow`` are those that answer far more slowly than they can: the
    node may have lost its GPU.
    """

    id: str
    url: str
    engine: str
    state: str
    draining: bool
    source: str
    duplicate_of: str
    version: str
    slots: int
    in_flight: int
    models: list[str]
    outvoted: list[str]
    limited: dict[str, str]
    resident: list[ResidentModel]
    slow: list[SlowModel]
    last_error: str


class QueueStatus(BaseModel):
    """Requests that wait for a slot."""

    length: int
    max_length: int


class NodesAnswer(BaseModel):
    """All nodes and the queue."""

    nodes: list[NodeStatus]
    queue: QueueStatus


class NodeChanges(BaseModel):
    """What of a node can be changed while it runs; what is not given stays as it is."""

    model_config = ConfigDict(extra="forbid")

    slots: int | None = Field(None, ge=1)
    """Requests it runs at once for one model; null: what the node reports, else 1."""
    draining: bool = False
    """Whether it gets no new requests."""


class RemovedNode(BaseModel):
    """A node that is gone, and how many of its requests were cut off when their time was up."""

    id: str
    cut_requests: int


DrainSeconds = Annotated[
    float | None,
    Query(
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds that requests in flight get to finish; "
        "`server.shutdown_grace_s` when not given.",
    ),
]


router = APIRouter(tags=["nodes"], prefix="/sollol/v1/nodes", route_class=OwnRoute)


@router.get("", summary="Nodes and queue")
async def _all_nodes(gateway: Served) -> NodesAnswer:
    statistics = gateway.admission.statistics()
    return NodesAnswer(
        nodes=[
            _status_of(gateway, node, statistics.in_flight.get(node.view.id, 0))
            for node in gateway.registry.nodes()
        ],
        queue=QueueStatus(length=statistics.queue_length, max_length=statistics.queue_max_length),
    )


@router.post("", status_code=201, summary="Add a node", responses=errors(400, 409, 413, 422))
async def _add(gateway: Served, settings: NodeSettings, response: Response) -> NodeStatus:
    """Add a node and ask it how it is. It is gone when the gateway restarts."""
    node = await gateway.membership.add(settings, Source.API)
    response.headers["location"] = f"/sollol/v1/nodes/{node.view.id}"
    return _status(gateway, node)


@router.get("/{node_id}", summary="One node", responses=errors(404))
async def _one(gateway: Served, node_id: str) -> NodeStatus:
    return _status(gateway, gateway.membership.find(node_id))


@router.patch(
    "/{node_id}",
    summary="Change slots, drain or resume",
    responses=errors(400, 404, 409, 413, 422),
)
async def _change(gateway: Served, node_id: str, changes: NodeChanges) -> NodeStatus:
    """Change a node until the gateway restarts or reads its settings again."""
    return _status(
        gateway, gateway.membership.change(node_id, changes.model_dump(exclude_unset=True))
    )


@router.delete("/{node_id}", summary="Remove a node", responses=errors(404, 409, 422))
async def _remove(gateway: Served, node_id: str, drain_s: DrainSeconds = None) -> RemovedNode:
    """Give a node nothing new, let it finish, and remove it; the answer comes then.

    It goes on when the caller leaves. Asked again, the shorter limit counts. A node that
    was found is not added again until the gateway restarts.
    """
    node = gateway.membership.find(node_id)
    grace_s = gateway.settings.server.shutdown_grace_s
    if node.source.is_found:
        gateway.discovery.leave_alone(node.settings.url)
    cut = await gateway.membership.remove(node_id, grace_s if drain_s is None else drain_s)
    return RemovedNode(id=node_id, cut_requests=cut)


def _status(gateway: Gateway, node: Node) -> NodeStatus:
    return _status_of(gateway, node, gateway.admission.in_flight(node.view.id))


def _status_of(gateway: Gateway, node: Node, in_flight: int) -> NodeStatus:
    view = node.view
    return NodeStatus(
        id=view.id,
        url=view.url,
        engine=view.engine,
        state=view.state,
        draining=node.settings.draining,
        source=node.source,
        duplicate_of=node.duplicate_of,
        version=view.version,
        slots=view.slots,
        in_flight=in_flight,
        models=sorted(model.name for model in view.models.values()),
        outvoted=sorted(view.models[key].name for key in view.outvoted),
        limited={
            model.name: view.limited[view.runner(key)].value
            for key, model in view.models.items()
            if view.runner(key) in view.limited
        },
        resident=[
            ResidentModel(
                name=loaded.name,
                digest=loaded.digest,
                size_bytes=loaded.size_bytes,
                vram_bytes=loaded.vram_bytes,
                context_length=loaded.context_length,
                expires_at=loaded.expires_at,
            )
            for key, loaded in view.resident.items()
            if key == loaded.key
        ],
        slow=[
            SlowModel(
                name=", ".join(view.models[key].name for key in each.models if key in view.models),
                tokens_per_s=each.tokens_per_s,
                best_tokens_per_s=each.best_tokens_per_s,
            )
            for each in gateway.slowness.of(view.id)
        ],
        last_error=view.last_error,
    )
