"""The gateway's own routes: is it up, what does it know, what does it count."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from sollol.gateway.gateway import Gateway
from sollol.types import NodeView


class Health(BaseModel):
    """Whether the process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether a request could be served: ``ready``, ``starting`` or ``stopping``."""

    status: str
    nodes: int
    healthy_nodes: int


class ResidentModel(BaseModel):
    """A model in a node's memory."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_length: int | None
    expires_at: str


class NodeStatus(BaseModel):
    """What is known of a node."""

    id: str
    url: str
    engine: str
    state: str
    version: str
    slots: int
    in_flight: int
    models: list[str]
    outvoted: list[str]
    resident: list[ResidentModel]
    last_error: str


class QueueStatus(BaseModel):
    """Requests that wait for a slot."""

    length: int
    max_length: int


class NodesAnswer(BaseModel):
    """All nodes and the queue."""

    nodes: list[NodeStatus]
    queue: QueueStatus


def status_router(gateway: Gateway) -> APIRouter:
    """Return ``/health``, ``/ready``, ``/metrics`` and ``/sollol/v1/nodes``."""
    router = APIRouter(tags=["gateway"])

    @router.api_route("/health", methods=["GET", "HEAD"], summary="Is the process alive")
    async def health() -> Health:
        return Health()

    @router.api_route("/ready", methods=["GET", "HEAD"], summary="Can a request be served")
    async def ready(response: Response) -> Readiness:
        answer = _readiness(gateway)
        response.status_code = 200 if answer.status == "ready" else 503
        return answer

    @router.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        content = generate_latest(gateway.metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    @router.get("/sollol/v1/nodes", summary="Nodes and queue")
    async def nodes() -> NodesAnswer:
        statistics = gateway.admission.statistics()
        return NodesAnswer(
            nodes=[
                _node_status(view, statistics.in_flight.get(view.id, 0))
                for view in gateway.registry.views()
            ],
            queue=QueueStatus(
                length=statistics.queue_length, max_length=statistics.queue_max_length
            ),
        )

    return router


def _readiness(gateway: Gateway) -> Readiness:
    views = gateway.registry.views()
    status = "ready" if gateway.is_ready() else "starting"
    return Readiness(
        status="stopping" if gateway.is_stopping else status,
        nodes=len(views),
        healthy_nodes=sum(view.state == "healthy" for view in views),
    )


def _node_status(view: NodeView, in_flight: int) -> NodeStatus:
    return NodeStatus(
        id=view.id,
        url=view.url,
        engine=view.engine,
        state=view.state,
        version=view.version,
        slots=view.slots,
        in_flight=in_flight,
        models=sorted(model.name for model in view.models.values()),
        outvoted=sorted(view.models[key].name for key in view.outvoted),
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
        last_error=view.last_error,
    )
