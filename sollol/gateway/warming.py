"""Carries out prewarms: a request that only loads a model, for which no caller waits."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import msgspec
import structlog

from sollol.errors import SollolError
from sollol.gateway.admission import Admission
from sollol.gateway.fleet import headers_for
from sollol.metrics import Metrics
from sollol.nodes.registry import Node, Registry
from sollol.scheduling.decision import Prewarm
from sollol.types import Engine, Model
from sollol.upstream.http import UpstreamRequest

HOLD_BYTES = 64 * 1024
"""The longest answer to a load that is read."""

GONE = "node_or_model_gone"

log = structlog.get_logger()


class Warming:
    """Owner of the loads under way; one that the shutdown finds is broken off."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        look_soon: Callable[[str, str], None],
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._look_soon = look_soon
        self._wanted: asyncio.Queue[Prewarm] = asyncio.Queue()

    def begin(self, effect: Prewarm) -> None:
        """Have a model loaded; the scheduler is told how that ended."""
        self._wanted.put_nowait(effect)

    async def run(self) -> None:
        """Load what is wanted, until cancelled; loads on several nodes go on at once."""
        async with asyncio.TaskGroup() as loads:
            while True:
                loads.create_task(self._carry_out(await self._wanted.get()))

    async def _carry_out(self, effect: Prewarm) -> None:
        node_id, model = effect.node_id, effect.model
        began_at = self._clock()
        try:
            outcome, error = await self._load(node_id, model)
        except SollolError as failure:
            outcome, error = failure.code, str(failure)
        if outcome == "ok":
            log.info(
                "model_prewarmed",
                node=node_id,
                model=model,
                reason=effect.reason,
                load_s=round(self._clock() - began_at, 3),
            )
        else:
            log.warning("model_not_prewarmed", node=node_id, model=model, error=error)
        if self._registry.find(node_id) is not None:
            self._metrics.prewarm_done(node_id, outcome)
            self._look_soon(node_id, model)
        self._admission.load_ended(effect, has_failed=outcome != "ok")

    async def _load(self, node_id: str, model_key: str) -> tuple[str, str]:
        """Return how it went, as an outcome and a text.

        Raises:
            SollolError: the node did not answer.
        """
        node = self._registry.find(node_id)
        model = node.view.models.get(model_key) if node is not None else None
        if node is None or model is None or node.view.engine is not Engine.OLLAMA:
            return GONE, "the node or its model has gone"
        upstream = await node.connections.send(load_request(node, model))
        try:
            body = await upstream.read_all(HOLD_BYTES)
        finally:
            upstream.close()
        if upstream.status == HTTPStatus.OK:
            return "ok", ""
        return "upstream_status", f"HTTP {upstream.status}: {body[:200].decode(errors='replace')}"


def load_request(node: Node, model: Model) -> UpstreamRequest:
    """Return a request that does nothing but load a model; its ``keep_alive`` stays as it is.

    Source: Ollama, docs/api.md, "Load a model"; a model that only embeds refuses ``/api/generate``.
    """
    only_embeds = "embedding" in model.capabilities and "completion" not in model.capabilities
    path = "/api/embed" if only_embeds else "/api/generate"
    headers = headers_for(node, [(b"content-type", b"application/json")])
    body = msgspec.json.encode({"model": model.name})
    return UpstreamRequest("POST", path, headers, body)
