"""One request from admission to the last byte. Read this first.

    lease     wait for a slot on the node that the scheduler chooses     admission.py
    exchange  what to send that node, and how to read its answer         exchange.py
    send      over a kept-alive connection                               upstream/http.py
    relay     its answer to the client as it comes                       relay.py

A failure before the client was sent anything may be tried on another node (failover.py). After
that, a stream ends in an error record of the caller's dialect, and any other body is cut off
(``end_broken``).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from sollol.errors import (
    ClientDisconnected,
    ConnectFailed,
    InputTooLong,
    MissingOnNode,
    NoNodeAvailable,
    QueueTimeout,
    ShuttingDown,
    SollolError,
)
from sollol.gateway.admission import Admission
from sollol.gateway.body import aside
from sollol.gateway.call import Call
from sollol.gateway.deadline import before_deadline, too_late
from sollol.gateway.exchange import LocalAnswer, Options, plan_exchange
from sollol.gateway.failover import RULES, Failure, classify, classify_answer
from sollol.gateway.outcome import Attempt, Outcome
from sollol.gateway.patience import Bounds
from sollol.gateway.relay import Downstream, relay, relay_translated
from sollol.gateway.retries import Retries, RetryPolicy, blame_nodes
from sollol.gateway.skew import MissingRoutes
from sollol.gateway.truncation import shortened
from sollol.gateway.watch import Watch
from sollol.nodes.registry import Node, Registry
from sollol.scheduling.decision import Decision, Grant
from sollol.types import Engine, Lease, Measured, NodeState, NodeView, Task
from sollol.upstream.waits import within
from sollol.wire.kinds import SHOW
from sollol.wire.measured import NOTHING_TOLD

UNLOAD_S = 5.0
"""Longest wait for a node to take a model out of memory; it answers at once."""


LEAST_TOKENS = 64.0
"""What a request counts for in the budget of retries besides its body."""

BYTES_PER_TOKEN = 4.0
_OK, _SERVER_ERROR = 200, 500
_OLLAMA = Engine.OLLAMA
_NONE: frozenset[str] = frozenset()


class Limits(NamedTuple):
    """How long a request may wait for a slot, and for a node that is silent."""

    queue_timeout_s: float
    bounds: Bounds


class Attempts(Protocol):
    """Makes the attempts of a call: the forwarder on one node, ``hedging.py`` on two."""

    async def attempt(
        self, call: Call, attempt: Attempt, downstream: Downstream, outcome: Outcome
    ) -> None:
        """Make one."""
        ...

    def failed_too(self, retries: Retries) -> None:
        """Tell, after one failed, what else did."""
        ...


class Forwarder:
    """Forwards calls to nodes; holds no state of its own."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        routes: MissingRoutes,
        clock: Callable[[], float],
        retries: RetryPolicy,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._routes = routes
        self._clock = clock
        self._retries = retries
        self._budget = retries.budget
        self._limits = limits

    async def forward(
        self,
        call: Call,
        downstream: Downstream,
        outcome: Outcome,
        attempts: Attempts | None = None,
    ) -> None:
        """Answer ``call`` on ``downstream`` and note in ``outcome`` how that went.

        Args:
            attempts: makes them, if not the forwarder itself.

        Raises:
            SollolError: the answer failed, and no other node may be tried. When some of it
                was sent already, ``downstream.is_started`` says so.
        """
        tokens = tokens_of(call)
        self._budget.begin(tokens)
        try:
            await self._until_answered(call, tokens, downstream, outcome, attempts or self)
        finally:
            self._budget.end(tokens)

    async def _until_answered(
        self,
        call: Call,
        tokens: float,
        downstream: Downstream,
        outcome: Outcome,
        attempts: Attempts,
    ) -> None:
        """Try nodes until one has answered, or no other may be tried."""
        excluded = self._routes.nodes_without(call.kind.path)
        excluded = excluded if call.seam is None else excluded | call.seam.excluded
        retries: Retries | None = None
        try:
            while True:
                grant = (
                    await self._acquire(call, excluded, _NONE, outcome)
                    if retries is None
                    else await self._acquire_again(call, retries, outcome)
                )
                attempt = Attempt(grant, continues=call.seam is not None)
                outcome.tries.append(attempt)
                outcome.node_id = grant.lease.node_id
                try:
                    await attempts.attempt(call, attempt, downstream, outcome)
                except ClientDisconnected:
                    raise
                except SollolError as error:
                    retries = retries or Retries(self._retries, excluded, tokens, call.crashes)
                    attempts.failed_too(retries)
                    is_committed = downstream.is_started
                    now = self._clock()
                    if not retries.failed(grant.lease, error, now, is_committed=is_committed):
                        raise
                    downstream.when_good = (retries.succeeded,)
                else:
                    if retries is not None:
                        retries.succeeded()
                    return
        finally:
            if retries is not None:
                retries.end()

    async def _acquire_again(self, call: Call, retries: Retries, outcome: Outcome) -> Grant:
        """Return a slot for another attempt, on a node that failed if there is no other.

        Raises:
            ShuttingDown: the gateway stops, and the caller was sent nothing yet.
            SollolError: there is none in time; then it is why the last attempt failed.
        """
        while True:
            if call.seam is None and self._admission.draining.is_set():
                raise ShuttingDown from retries.failure
            try:
                return await self._acquire(call, retries.excluded, retries.avoided, outcome)
            except SollolError as refusal:
                if call.left_s(self._clock()) <= 0.0 or isinstance(refusal, ShuttingDown):
                    raise
                if not await self._may_repeat(call, retries, refusal):
                    raise retries.failure from refusal

    async def _may_repeat(self, call: Call, retries: Retries, refusal: SollolError) -> bool:
        """Wait until a node that failed may be tried again, as there is no other; False if none may."""
        now = self._clock()
        left_s = min(call.left_s(now), call.arrived_at + self._limits.queue_timeout_s - now)
        if left_s <= 0.0 or not isinstance(refusal, NoNodeAvailable):
            return False
        return await retries.wait_to_repeat(left_s, self._admission.draining)

    async def _acquire(
        self, call: Call, excluded: frozenset[str], avoided: frozenset[str], outcome: Outcome
    ) -> Grant:
        """Return a slot, once there is one.

        Raises:
            SollolError: there is no node, or it took too long.
        """
        waits_since = self._clock()
        if call.deadline_s is not None and call.is_too_late(waits_since):
            raise too_late(call)
        timeout_s = self._limits.queue_timeout_s
        request = call.route_request(waits_since, timeout_s, excluded, avoided)
        try:
            return self._admission.try_acquire(request) or await self._admission.wait(request)
        except NoNodeAvailable as refusal:
            raise self._routes.why_none(call, self._registry.views(), refusal) from None
        except QueueTimeout as refusal:
            raise (too_late(call) if call.is_too_late(self._clock()) else refusal) from refusal
        finally:
            outcome.queue_wait_s = (outcome.queue_wait_s or 0.0) + self._clock() - waits_since

    def pass_time(self) -> None:
        """Let old retries be forgotten."""
        self._budget.pass_time(self._clock())

    def preview(self, call: Call) -> Decision:
        """Return what would be decided for a call at this moment, without doing it.

        Raises:
            ModelNotFound, NoNodeAvailable: it would be refused.
        """
        excluded = self._routes.nodes_without(call.kind.path)
        request = call.route_request(self._clock(), self._limits.queue_timeout_s, excluded)
        return self._admission.preview(request)

    def spare(self, call: Call, tries: Iterable[Attempt]) -> Grant | None:
        """Return a slot for a second copy of a call, where it costs nobody anything; None if there is none.

        Args:
            tries: of the call so far; their nodes are left out.
        """
        tried = {attempt.grant.lease.node_id for attempt in tries}
        excluded = self._routes.nodes_without(call.kind.path) | tried
        return self._admission.spare(call.route_request(self._clock(), 0.0, excluded))

    async def attempt(
        self, call: Call, attempt: Attempt, downstream: Downstream, outcome: Outcome
    ) -> None:
        """Try a call on one node, and give the lease back with what was measured."""
        lease = attempt.grant.lease
        measured: Measured | None = None
        has_failed = False
        try:
            exchange = self._exchange(call, lease, downstream, outcome)
            if call.deadline_s is None:
                await exchange
            else:
                await before_deadline(call, downstream, self._clock(), exchange)
            measured = self._measured(call, downstream, outcome)
        except (ClientDisconnected, asyncio.CancelledError):
            measured = self._measured(call, downstream, outcome, left_early=True)
            raise
        except SollolError as error:
            attempt.error = error.code
            kind = classify(error)
            has_failed, attempt.is_crash = RULES[kind].blame.counts, RULES[kind].is_crash
            if kind is Failure.FULL:
                self._admission.full(lease)
            elif isinstance(error, MissingOnNode):
                self._note_missing(call, lease, error)
            raise
        finally:
            attempt.measured = measured
            downstream.when_good = ()
            self._admission.release(lease, measured, has_failed=has_failed)

    def failed_too(self, retries: Retries) -> None:
        """Nothing else did: it makes one attempt at a time."""

    async def _exchange(
        self, call: Call, lease: Lease, downstream: Downstream, outcome: Outcome
    ) -> None:
        node = self._node_of(lease)
        if call.seam is not None:
            await call.seam.check(node, lease)
        outcome.stripped = () if lease.options is None else _stripped(call, lease.options)
        exchange = (
            plan_exchange(call, node.view, node.api_key)  # which reads nothing of the body
            if node.view.engine is _OLLAMA and lease.options is None
            else await aside(call.body, plan_exchange, call, node.view, node.api_key, lease.options)
        )
        if isinstance(exchange, LocalAnswer):
            downstream.answer(200, [(b"content-type", exchange.content_type)], exchange.body)
            return
        if call.is_unload:
            await self._unload_elsewhere(call, lease.node_id)
        outcome.sent_at = self._clock()
        request = exchange.request
        if lease.runner:
            request = Watch(self._admission, node, call, lease, self._limits.bounds).over(request)
        upstream = await node.connections.send(request)
        self._note_residency(call, node, upstream.status)
        if lease.loads and upstream.status == _OK:  # its head does not come before that
            self._admission.loaded(lease)
        if lease.is_trial:
            downstream.when_good += (partial(self._passed, node, lease),)
        try:
            if exchange.translator is None:
                await relay(upstream, downstream, call)
            else:
                await relay_translated(upstream, downstream, exchange.translator)
        except InputTooLong as error:
            shorter = await shortened(call, node.control, error)
            with shorter.body:
                await self._exchange(shorter, lease, downstream, outcome)
            downstream.measured = None  # what was predicted is of the whole text
            return
        finally:
            upstream.close()
        if downstream.told_error or node.health.is_troubled:
            self._note_health(node, lease, upstream.status, downstream.told_error)

    def _node_of(self, lease: Lease) -> Node:
        node = self._registry.find(lease.node_id)
        if node is None:
            raise ConnectFailed(f"node {lease.node_id} was removed")
        return node

    def _passed(self, node: Node, lease: Lease) -> None:
        """End a trial: the node has begun to answer."""
        self._admission.begun(lease)
        self._registry.request_begun(node, lease.runner)

    def _note_health(self, node: Node, lease: Lease, status: int, told_error: str) -> None:
        """Take what an answer that came to its end says of its node."""
        if told_error:
            kind = classify_answer(_SERVER_ERROR, told_error)
            if not RULES[kind].needs_proof:
                blame_nodes(self._retries, lease, kind, told_error)
        elif lease.runner and status == _OK:
            self._registry.request_succeeded(node, lease.runner)

    def _measured(
        self, call: Call, downstream: Downstream, outcome: Outcome, *, left_early: bool = False
    ) -> Measured | None:
        """Return what is known of an answer; None of errors, and where nothing was to be done."""
        told = downstream.measured
        is_over = told is not None
        if told is None and left_early and downstream.pieces and not downstream.is_whole:
            told = NOTHING_TOLD
        if told is None or call.is_unload:
            return None
        begun_at = call.arrived_at + (outcome.first_byte_s or 0.0)
        return Measured(
            told.load_s,
            told.prompt_tokens,
            told.cached_tokens,
            told.prompt_s,
            told.output_tokens,
            told.output_s,
            told.node_total_s,
            begun_at - outcome.sent_at,
            self._clock() - outcome.sent_at if is_over else None,
            downstream.pieces,
        )

    async def _unload_elsewhere(self, call: Call, node_id: str) -> None:
        """Unload a model from all other nodes too: the caller knows only of one server."""
        others = (node for node in self._registry.nodes() if node.view.id != node_id)
        holding = [node for node in others if holds_in_memory(node.view, call.model_key)]
        await asyncio.gather(*(self._unload(call, node) for node in holding))

    async def _unload(self, call: Call, node: Node) -> None:
        """Ask one node; one that fails is taken to hold the model still, until it is next probed."""
        exchange = plan_exchange(call, node.view, node.api_key)
        if isinstance(exchange, LocalAnswer):
            return
        with contextlib.suppress(SollolError, TimeoutError):
            upstream = await within(UNLOAD_S, node.connections.send(exchange.request))
            upstream.close()
            self._note_residency(call, node, upstream.status)

    def _note_residency(self, call: Call, node: Node, status: int) -> None:
        """Take note that a model has left a node's memory, or look whether it is there now."""
        if status != _OK:
            return
        if call.is_unload:
            self._registry.model_unloaded(node.view.id, call.model_key)
            self._admission.unloaded(call.model_key)
        elif call.model_key not in node.view.resident and call.kind is not SHOW:
            self._retries.look_soon(node.view.id, call.model_key)

    def _note_missing(self, call: Call, lease: Lease, error: MissingOnNode) -> None:
        """Take note that a node lacks a route or a model."""
        node = self._registry.find(lease.node_id)
        if error.lacks_route or (node and node.view.engine is not Engine.OLLAMA):
            self._routes.learn(lease.node_id, call.kind)
        elif call.kind.task is not Task.OTHER:  # there, it can be anything that is missing
            self._registry.model_missing(lease.node_id, call.model_key)


def _stripped(call: Call, options: Options) -> tuple[str, ...]:
    """Return the names of the options that a node gets otherwise than the caller set them."""
    return tuple(name for name, value in call.ask.options if (name, value) not in options)


def tokens_of(call: Call) -> float:
    """Return what a call counts for in the budget of retries."""
    return LEAST_TOKENS + call.ask.prompt_bytes / BYTES_PER_TOKEN


def holds_in_memory(node: NodeView, model_key: str) -> bool:
    """Whether a node can be asked to unload a model that it has in memory."""
    is_able = node.engine is Engine.OLLAMA and node.state is not NodeState.UNHEALTHY
    return is_able and model_key in node.resident


async def end_broken(
    record: Callable[[str], bytes], error: SollolError, downstream: Downstream
) -> None:
    """End a stream that broke off in an error ``record``, which every client understands.

    Any other body has a promised length or form that cannot be kept: returning with it
    unfinished makes the server close the connection, and the client sees the cut.
    """
    if downstream.is_stream:
        await downstream.finish(record(str(error)))
