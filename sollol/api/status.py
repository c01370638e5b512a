"""The gateway's own routes: is it up, what does it count. Nodes: ``nodes.py``."""

from collections.abc import Sequence

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from sollol.api.served import Served
from sollol.gateway.gateway import Gateway
from sollol.nodes.health import NOT_PROBED
from sollol.types import NodeState, NodeView


class Health(BaseModel):
    """Whether the process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether a request could be served.

    ``status`` is ``ready``, ``stopping``, ``starting`` (a node was not asked yet), ``no_node`` (none is
    known, or none is up) or ``no_model`` (those that are up have none).
    """

    status: str
    nodes: int
    healthy_nodes: int


router = APIRouter(tags=["gateway"])


@router.api_route("/health", methods=["GET", "HEAD"], summary="Is the process alive")
async def _health() -> Health:
    return Health()


@router.api_route("/ready", methods=["GET", "HEAD"], summary="Can a request be served")
async def _ready(gateway: Served, response: Response) -> Readiness:
    answer = _readiness(gateway)
    response.status_code = 200 if answer.status == "ready" else 503
    return answer


@router.get("/metrics", summary="Prometheus metrics")
async def _metrics(gateway: Served) -> Response:
    content = generate_latest(gateway.metrics.registry)
    return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})


def _readiness(gateway: Gateway) -> Readiness:
    views = gateway.registry.views()
    return Readiness(
        status=_status(gateway, views),
        nodes=len(views),
        healthy_nodes=sum(view.state == "healthy" for view in views),
    )


def _status(gateway: Gateway, views: Sequence[NodeView]) -> str:
    if gateway.is_stopping:
        return "stopping"
    if gateway.is_ready():
        return "ready"
    if any(view.state is NodeState.UNHEALTHY and view.last_error == NOT_PROBED for view in views):
        return "starting"
    return "no_model" if any(view.is_open for view in views) else "no_node"
