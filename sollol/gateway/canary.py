"""Asks idle nodes for one token now and then: one that answers probes may hang all the same.

Only a model that is in memory is asked, with the context that it was loaded with, so that nothing is
loaded for it. Such a request starts a model's ``keep_alive`` anew, and to send another one would change
it for everybody who comes later (Ollama keeps the last that was sent). So a model is asked until it
would have left without us: it stays for one ``keep_alive`` longer at most.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec
import structlog

from sollol.errors import SollolError
from sollol.gateway.admission import Admission
from sollol.gateway.failover import RULES, Failure, classify, classify_answer
from sollol.gateway.fleet import headers_for
from sollol.gateway.retries import RetryPolicy, blame_nodes
from sollol.nodes.health import Blame
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node
from sollol.scheduling.decision import Grant
from sollol.types import (
    LOWEST_PRIORITY,
    Ask,
    Engine,
    Lease,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
    Task,
)
from sollol.upstream.http import UpstreamRequest
from sollol.wire.answers import is_answer, is_refusal
from sollol.wire.gotime import unix_time

HOLD_BYTES = 64 * 1024
"""The longest answer that is read."""
SHOWN_BYTES = 200

LOOK_S = 1.0
"""How often it is looked whether a node is to be asked, and when one that failed is asked again."""

LEAVES_S = 15.0
"""A model that leaves so soon is left alone: it could be gone when the request comes."""

ENGINES = (Engine.OLLAMA, Engine.LLAMA_SERVER)

log = structlog.get_logger()


class CanaryLimits(NamedTuple):
    """Seconds without an answer after which a node is asked for one, and that this may take."""

    interval_s: float
    timeout_s: float


class Stay(NamedTuple):
    """A model that was asked: when, by the monotonic clock; when it would have left, in seconds since 1970."""

    asked_at: float
    ends_at: float


class Stays:
    """When models would leave their nodes, had nobody asked them but callers."""

    def __init__(self) -> None:
        self._stays: dict[tuple[str, str], Stay] = {}

    def ends_at(self, view: NodeView, loaded: Resident, answered_at: float) -> float:
        """Return when a model leaves, in seconds since 1970; 0 where nobody says.

        Args:
            answered_at: when a caller last had an answer of it, by the monotonic clock.
        """
        stay = self._stays.get((view.id, loaded.key))
        if stay is not None and answered_at <= stay.asked_at:
            return stay.ends_at
        return unix_time(loaded.expires_at) if view.engine is Engine.OLLAMA else 0.0

    def asked(self, view: NodeView, loaded: Resident, stay: Stay) -> None:
        """Note that a model is asked."""
        self._stays[(view.id, loaded.key)] = stay

    def clean(self, views: Mapping[str, NodeView]) -> None:
        """Forget models that have left."""
        for pair in list(self._stays):
            if pair[0] not in views or pair[1] not in views[pair[0]].resident:
                del self._stays[pair]


def askable(
    view: NodeView, stays: Stays, answered_at: Mapping[str, float], wall: float
) -> list[Resident]:
    """Return the models of a node that may be asked: those on trial first, then the smallest.

    Args:
        answered_at: when each runner last gave a caller an answer; the monotonic clock.
        wall: seconds since 1970.
    """
    found = []
    for name, loaded in view.resident.items():
        if name != loaded.key or name not in view.models or name in view.outvoted:
            continue
        runner = view.runner(name)
        if view.limited.get(runner) is NodeState.EJECTED or not _completes(view.models[name]):
            continue
        ends_at = stays.ends_at(view, loaded, answered_at.get(runner, 0.0))
        if not ends_at or ends_at - wall > LEAVES_S:
            found.append(loaded)
    limited = view.limited
    return sorted(found, key=lambda m: (view.runner(m.key) not in limited, m.size_bytes, m.key))


def pause_s(failure: Failure | None, blame: Blame, limits: CanaryLimits) -> float:
    """Return how long a node is left alone after it was asked: one that fails is asked again soon."""
    if failure is not None and blame.counts:
        return min(LOOK_S, limits.interval_s)
    return limits.interval_s


def blame_of(failure: Failure) -> Blame:
    """Return what a failure counts for: nothing else ran there, so silence counts in full."""
    return Blame.NODE if failure is Failure.SILENT else RULES[failure].blame


def failure_of(status: int, body: bytes) -> Failure | None:
    """Return what kind of failure an answer is; None of one as it should be."""
    if status == HTTPStatus.OK and is_answer(body, None, Task.GENERATE):
        return None
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        said = Failure.MISSING if status == HTTPStatus.NOT_FOUND else Failure.REFUSES
        return said if is_refusal(status, body) else Failure.WRONG_ANSWER
    return classify_answer(status, body[:SHOWN_BYTES].decode(errors="replace"))


class Canaries:
    """Asks the nodes; those that fail are ejected like those where callers' requests fail."""

    def __init__(
        self,
        policy: RetryPolicy,
        admission: Admission,
        prober: Prober,
        limits: CanaryLimits,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._registry = policy.registry
        self._admission = admission
        self._prober = prober
        self._limits = limits
        self._clock = clock
        self._stays = Stays()
        self._next: dict[str, float] = {}
        """When a node may be asked again; never while it is asked."""

    async def run(self) -> None:
        """Ask until cancelled; several nodes are asked at once."""
        async with asyncio.TaskGroup() as asking:
            while True:
                for node in self._registry.nodes():
                    if self._is_due(node):
                        self._next[node.view.id] = float("inf")
                        asking.create_task(self._ask(node))
                self._clean()
                await asyncio.sleep(min(LOOK_S, self._limits.interval_s))

    def _clean(self) -> None:
        views = {view.id: view for view in self._registry.views()}
        self._stays.clean(views)
        for node_id in [node_id for node_id in self._next if node_id not in views]:
            del self._next[node_id]

    def _is_due(self, node: Node) -> bool:
        now = self._clock()
        if now < self._next.get(node.view.id, 0.0) or not self.candidates(node):
            return False
        answered_at = max(self._admission.answered_at(node.view.id).values())
        return now - answered_at >= self._limits.interval_s

    def candidates(self, node: Node) -> list[Resident]:
        """Return the models to ask, the smallest first; none where the node is not to be asked."""
        view, admission = node.view, self._admission
        if not view.is_open or view.engine not in ENGINES or admission.in_flight(view.id):
            return []
        if admission.is_node_loading(view.id):
            return []
        return askable(view, self._stays, admission.answered_at(view.id), time.time())

    async def _ask(self, node: Node) -> None:
        """Ask a node that is due; a fresh look at it first, as a model may just have left."""
        node_id, pause = node.view.id, self._limits.interval_s
        try:
            if not await self._prober.probe(node):
                return
            for loaded in self.candidates(node):
                grant = self._admission.take_idle(self._route_request(node.view, loaded))
                if grant is not None:
                    pause = await self._ask_model(node, loaded, grant)
                    break
        finally:
            self._next[node_id] = self._clock() + pause

    def _route_request(self, view: NodeView, loaded: Resident) -> RouteRequest:
        """Return a request that only this node may get; it has a caller's limits of its own."""
        now, name = self._clock(), f"canary of {view.id}"
        others = frozenset(other.id for other in self._registry.views() if other.id != view.id)
        options = (("num_ctx", loaded.context_length),) if loaded.context_length else ()
        ask = Ask(Task.GENERATE, 1, max_output_tokens=1, options=options)
        return RouteRequest(
            name, loaded.key, now, now, others, priority=LOWEST_PRIORITY, caller=name, ask=ask
        )

    async def _ask_model(self, node: Node, loaded: Resident, grant: Grant) -> float:
        """Have a model say a token; return after how many seconds the node may be asked again."""
        view, lease, now = node.view, grant.lease, self._clock()
        answered_at = self._admission.answered_at(view.id).get(lease.runner, 0.0)
        ends_at = self._stays.ends_at(view, loaded, answered_at)
        self._stays.asked(view, loaded, Stay(now, ends_at))
        failure, text, blame = None, "", Blame.NOBODY
        try:
            failure, text = await self._one_token(node, canary_request(node, loaded, lease))
            blame = Blame.NOBODY if failure is None else blame_of(failure)
        finally:
            self._admission.release(lease, has_failed=blame.counts)
        if self._registry.find(view.id) is node:
            self._note(node, lease, failure, text, blame)
        return pause_s(failure, blame, self._limits)

    async def _one_token(self, node: Node, request: UpstreamRequest) -> tuple[Failure | None, str]:
        """Return how a request failed, and the node's words; None if it did not."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                upstream = await node.connections.send(request)
                try:
                    body = await upstream.read_all(HOLD_BYTES)
                finally:
                    upstream.close()
        except TimeoutError:
            return Failure.SILENT, f"not a token within {self._limits.timeout_s:g} s"
        except SollolError as error:
            return classify(error), str(error)
        text = body[:SHOWN_BYTES].decode(errors="replace")
        return failure_of(upstream.status, body), f"HTTP {upstream.status}: {text}"

    def _note(
        self, node: Node, lease: Lease, failure: Failure | None, text: str, blame: Blame
    ) -> None:
        """Count what a node did, for or against it."""
        node_id = node.view.id
        self._policy.metrics.canary_done(node_id, failure or "ok")
        if failure is None:
            self._registry.request_succeeded(node, lease.runner)
            return
        log.warning("canary_failed", node=node_id, failure=failure.value, error=text)
        blame_nodes(self._policy, lease, failure, text, blame)


def canary_request(node: Node, loaded: Resident, lease: Lease) -> UpstreamRequest:
    """Return a request for one token of a model, which loads nothing while it is in memory."""
    if node.view.engine is Engine.LLAMA_SERVER:
        path, fields = "/completion", {"prompt": "1", "n_predict": 1, "stream": False}
    else:
        loaded_with = {"num_ctx": loaded.context_length} if loaded.context_length else {}
        options = {**loaded_with, **dict(lease.options or ()), "num_predict": 1}
        body = {"model": loaded.name, "prompt": "1", "raw": True, "stream": False}
        path, fields = "/api/generate", body | {"options": options}
    headers = headers_for(node, [(b"content-type", b"application/json")])
    return UpstreamRequest("POST", path, headers, msgspec.json.encode(fields))


def _completes(model: Model) -> bool:
    """Whether a model generates text."""
    return "completion" in model.capabilities or "embedding" not in model.capabilities
