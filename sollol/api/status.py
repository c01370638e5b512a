"""The gateway's own routes: is it up, what does it count. Nodes: ``nodes.py``."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from sollol.gateway.gateway import Gateway


class Health(BaseModel):
    """Whether the process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether a request could be served: ``ready``, ``starting`` or ``stopping``."""

    status: str
    nodes: int
    healthy_nodes: int


def status_router(gateway: Gateway) -> APIRouter:
    """Return ``/health``, ``/ready`` and ``/metrics``."""
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

    return router


def _readiness(gateway: Gateway) -> Readiness:
    views = gateway.registry.views()
    status = "ready" if gateway.is_ready() else "starting"
    return Readiness(
        status="stopping" if gateway.is_stopping else status,
        nodes=len(views),
        healthy_nodes=sum(view.state == "healthy" for view in views),
    )
