"""An answer that breaks off on one node and goes on on another: one stream for the client.

Where that is wanted (``failover.mid_stream``, ``X-Sollol-On-Cut``), what the client is sent is kept
as it goes by. When the node then fails, the rest is asked of another one, which has the same model
with the same digest on the same engine: once for a request. It is an ordinary call, forwarded like
any other, whose answer is joined to what the client has (``wire/joining.py``).

What cannot be gone on with exactly ends in the error that it would have ended in. Why is in the
journal.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from sollol.errors import CannotContinue, ClientDisconnected, SollolError, UpstreamStatus
from sollol.gateway.body import Body, aside
from sollol.gateway.body_writer import spooled
from sollol.gateway.call import Call, Seam
from sollol.gateway.exchange import LocalAnswer, plan_exchange
from sollol.gateway.failover import (
    MOST_CRASHES,
    RULES,
    Failure,
    Retry,
    classify,
    classify_answer,
)
from sollol.gateway.forward import Forwarder
from sollol.gateway.journal import MAX_TEXT
from sollol.gateway.outcome import Continuation, Outcome
from sollol.gateway.refusals import HOLD_BYTES, Headers, failed
from sollol.gateway.relay import AnswerWriter, Downstream
from sollol.nodes.registry import Node, Registry
from sollol.types import Engine, Lease, NodeView
from sollol.wire.continuation import (
    Delivered,
    Manner,
    SecondLeg,
    check_request,
    count_tokens,
    how_it_continues,
    needs_probe,
    probe_key,
    probes,
    read_delivered,
    second_leg,
)
from sollol.wire.joining import FirstLeg, Joiner, joiner
from sollol.wire.kinds import BodyKind
from sollol.wire.llama_chunks import error_text, read_error
from sollol.wire.measured import read_record
from sollol.wire.peek import peek

KEPT_BYTES = 1024 * 1024
"""A longer answer cannot be gone on with."""

MAX_MANNERS = 1024
_ENGINES = (Engine.OLLAMA, Engine.LLAMA_SERVER)
_OK, _LIMITED, _SERVER_ERROR = 200, 429, 500

Push = Callable[[bytes], bool]


class Recording:
    """Keeps what a client is sent of a stream, and holds back a node's word that its model died.

    Attributes:
        pieces: whole lines; None once they are too many.
        push: what they are passed on with.
        output_s: seconds from the first to the last of them.
    """

    def __init__(self, downstream: Downstream, clock: Callable[[], float]) -> None:
        self.pieces: list[bytes] | None = []
        self.push: Push = downstream.push
        self._downstream = downstream
        self._clock = clock
        self._bytes = 0
        self._begun_at = self._last_at = 0.0
        downstream.push = self._keep

    @property
    def output_s(self) -> float:
        """Seconds from the first piece to the last."""
        return self._last_at - self._begun_at

    def stop(self) -> None:
        """Keep nothing of what follows."""
        self._downstream.push = self.push

    def _keep(self, piece: bytes) -> bool:
        self._last_at = self._clock()
        if not self._bytes:
            self._begun_at = self._last_at
        if b'"error":' in piece or b'"model":""' in piece:
            piece = self._without_crash(piece)
        self._bytes += len(piece)
        if self.pieces is not None:
            self.pieces.append(piece)
        if self._bytes > KEPT_BYTES:
            self.pieces = None
            self.stop()
        return self.push(piece)

    def _without_crash(self, piece: bytes) -> bytes:
        """Return a piece in which no model died; raise what is said of one after passing on the rest.

        Raises:
            UpstreamStatus: of the model that died.
        """
        before = b""
        for line in piece.splitlines(keepends=True):
            text = _crash(line, is_first=not (self._bytes or before))
            if text:
                if before:
                    self._keep(before)
                raise UpstreamStatus(text, 500, b"", line)
            before += line
        return piece


def _crash(line: bytes, *, is_first: bool) -> str:
    """Return what a line says of the death of a model; empty if it says nothing of that.

    Ollama writes an empty chunk without a model's name on ``/v1``, and loses the words.
    """
    if line.startswith(b"data:"):
        line = line[len(b"data:") :]
        if not is_first and b'"model":""' in line:
            return "the model runner has unexpectedly stopped"
    record = read_record(line)
    if record is None or record.error is None:
        return ""
    text = error_text(record.error)
    return text if classify_answer(500, text) is Failure.CRASHED else ""


class _Joined:
    """Writes the answer of the second leg as the rest of the first one's."""

    def __init__(self, downstream: Downstream, push: Push, joined: Joiner) -> None:
        self._downstream = downstream
        self._writer: AnswerWriter = downstream.writer
        self._push = push
        self._joiner = joined
        self.wait_room = downstream.wait_room
        self.has_begun = False

    @property
    def is_slow(self) -> bool:
        return self._writer.is_slow

    def start(self, status: int, _: Headers) -> None:
        if status != _OK:
            raise CannotContinue(f"the node answered {status}")
        self.has_begun = True

    def write(self, data: bytes) -> bool:
        joined = self._joiner.feed(data)
        is_slow = self._push(joined) if joined else False
        self._downstream.is_whole = self._joiner.is_whole
        return is_slow

    def end(self, data: bytes = b"") -> None:
        self._writer.end(self._joiner.feed(data))
        self._downstream.is_whole = True

    def whole(self, status: int, _: Headers, body: bytes) -> None:
        raise CannotContinue(f"the node answered {status}: {read_error(status, body)}")


class _Cut(NamedTuple):
    """A stream that broke off, and the node that it did on.

    Attributes:
        sent: what the client has of it.
        unable: ids of the nodes that cannot go on with it.
        crashes: nodes that the request may have broken, this one included.
        failure: what the client is told if none does.
    """

    call: Call
    sent: bytes
    view: NodeView
    first: FirstLeg
    unable: frozenset[str]
    crashes: int
    failure: SollolError


class _Plan(NamedTuple):
    """What goes on with it. ``probed`` are a key, and the bodies of the two probes, where needed."""

    call: Call
    leg: SecondLeg
    delivered: Delivered
    joiner: Joiner
    probed: tuple[tuple[object, ...], tuple[bytes, bytes]] | None


class Continuing:
    """Forwards calls whose streams are gone on with; owner of what is known of templates."""

    def __init__(
        self, forwarder: Forwarder, registry: Registry, clock: Callable[[], float]
    ) -> None:
        self._forwarder = forwarder
        self._registry = registry
        self._clock = clock
        self._manners: dict[tuple[object, ...], Manner] = {}

    async def forward(self, call: Call, downstream: Downstream, outcome: Outcome) -> None:
        """Answer ``call`` on ``downstream``, and go on elsewhere with a stream that breaks off.

        Raises:
            SollolError: as :meth:`Forwarder.forward`.
        """
        recording = Recording(downstream, self._clock)
        try:
            await self._forwarder.forward(call, downstream, outcome)
            return
        except ClientDisconnected:
            raise
        except SollolError as error:
            failure = error
        finally:
            recording.stop()
        if isinstance(failure, UpstreamStatus):
            downstream.is_whole = False  # the relay saw the record that was held back
        is_cut = downstream.is_stream and not downstream.is_whole
        if not is_cut or RULES[classify(failure)].retry is Retry.NEVER:
            raise failure
        try:
            cut = self._cut(call, recording, outcome, failure)
            plan = await aside(call.body, _planned, cut)
        except SollolError as refusal:
            tokens = await aside(call.body, _counted, call.kind, recording.pieces)
            outcome.continuation = Continuation("refused", _shortened(refusal), tokens)
            raise failure from refusal
        with plan.call.body:
            joined = _Joined(downstream, recording.push, plan.joiner)
            await self._go_on(plan, cut, joined, outcome)

    def _cut(
        self, call: Call, recording: Recording, outcome: Outcome, failure: SollolError
    ) -> _Cut:
        """Return what broke off.

        Raises:
            CannotContinue: too little is known of it, no other node could go on, or it failed often.
        """
        node = self._registry.find(outcome.node_id)
        if node is None or call.model_key not in node.view.models:
            raise CannotContinue("the node is gone")
        if recording.pieces is None:
            raise CannotContinue(f"the answer is longer than {KEPT_BYTES} bytes")
        crashes = sum(attempt.is_crash for attempt in outcome.tries)
        if crashes >= MOST_CRASHES:
            raise CannotContinue("the request has broken other nodes before")
        views = self._registry.views()
        unable = frozenset(v.id for v in views if not _is_twin(v, node.view, call.model_key))
        if len(unable) == len(views):
            raise CannotContinue("no other node has the same model on the same engine")
        sent_at = outcome.sent_at
        first = FirstLeg(recording.output_s, lambda: self._clock() - sent_at)
        return _Cut(call, b"".join(recording.pieces), node.view, first, unable, crashes, failure)

    async def _go_on(self, plan: _Plan, cut: _Cut, joined: _Joined, outcome: Outcome) -> None:
        """Have the rest answered, and note in ``outcome`` how that went."""
        failure = cut.failure
        seam = Seam(cut.unable, partial(self._check, plan, cut), cut.crashes)
        call = plan.call.copy()
        call.seam = seam
        continuation = Continuation("cancelled", "", plan.delivered.tokens)
        outcome.continuation = continuation
        tries = len(outcome.tries)
        second = Outcome(tries=outcome.tries, queue_wait_s=outcome.queue_wait_s)

        def begun(_: int) -> Headers:
            second.first_byte_s = self._clock() - call.arrived_at
            return []

        try:
            await self._forwarder.forward(call, Downstream(joined, begun), second)
            continuation.outcome = "failed" if plan.joiner.has_failed else "continued"
        except ClientDisconnected:
            if plan.joiner.is_whole:  # many leave at the last record
                continuation.outcome = "continued"
            raise
        except CannotContinue as refusal:
            continuation.outcome, continuation.reason = "refused", _shortened(refusal)
            raise failure from refusal
        except SollolError as error:
            continuation.outcome = "failed" if len(outcome.tries) > tries else "refused"
            continuation.reason = _shortened(error)
            if joined.has_begun:
                raise
            raise failure from error
        finally:
            outcome.node_id = second.node_id or outcome.node_id
            outcome.queue_wait_s = second.queue_wait_s
            outcome.stripped = second.stripped

    async def _check(self, plan: _Plan, cut: _Cut, node: Node, lease: Lease) -> None:
        """Make sure that a node goes on with an answer instead of beginning another.

        Raises:
            CannotContinue: it does not.
            SollolError: it failed.
        """
        if not _is_twin(node.view, cut.view, plan.call.model_key):
            raise CannotContinue("the node has another digest of the model")
        if plan.probed is None:
            return
        asked, bodies = plan.probed
        key = (cut.view.engine, cut.view.runner(plan.call.model_key), asked)
        manner = self._manners.get(key)
        if manner is None:
            first = await self._ask(plan.call, cut.call.kind, bodies[0], node, lease)
            second = await self._ask(plan.call, plan.leg.kind, bodies[1], node, lease)
            manner = how_it_continues(first, second)
            if len(self._manners) >= MAX_MANNERS:
                self._manners.clear()
            self._manners[key] = manner
        if manner is Manner.NOT:
            raise CannotContinue("the model's template does not go on with an answer")
        if manner is Manner.ECHOES:
            plan.joiner.expect_repetition()

    async def _ask(
        self, call: Call, kind: BodyKind, body: bytes, node: Node, lease: Lease
    ) -> bytes:
        """Return a node's whole answer to a probe.

        Raises:
            CannotContinue: the node refuses it.
            UpstreamStatus: the node is full, or failed: another one may be asked.
        """
        probe = call.copy()
        probe.kind, probe.target, probe.body = kind, kind.path, Body(body)
        exchange = plan_exchange(probe, node.view, node.api_key, lease.options)
        if isinstance(exchange, LocalAnswer):
            raise CannotContinue("there is nothing to go on with")
        upstream = await node.connections.send(exchange.request)
        try:
            answer = await upstream.read_all(HOLD_BYTES)
            if upstream.status >= _SERVER_ERROR or upstream.status == _LIMITED:
                raise failed(upstream, upstream.content_type, answer)
            if upstream.status != _OK:
                said = read_error(upstream.status, answer)
                raise CannotContinue(f"the node answered {upstream.status}: {said}")
        finally:
            upstream.close()
        translator = exchange.translator
        return answer if translator is None else translator.feed(answer) + translator.finish()


def _counted(kind: BodyKind, pieces: list[bytes] | None) -> int | None:
    return None if pieces is None else count_tokens(kind, b"".join(pieces))


def _shortened(error: SollolError) -> str:
    return str(error)[:MAX_TEXT]


def _is_twin(view: NodeView, first: NodeView, model_key: str) -> bool:
    """Whether a node has the same model as the one that failed, and the same software."""
    model = view.models.get(model_key)
    digest = first.models[model_key].digest
    return (
        view.id != first.id
        and view.engine is first.engine
        and view.engine in _ENGINES
        and model is not None
        and bool(digest)
        and model.digest == digest
    )


def _planned(cut: _Cut) -> _Plan:
    """Return what goes on with a stream.

    Raises:
        CannotContinue: it cannot be gone on with exactly.
        InvalidBody, Overloaded: a field cannot be read; the disk is full.
    """
    call = cut.call
    kind, fields = call.kind, peek(call.kind, call.body.view()).fields
    check_request(fields, call.ask)
    delivered = read_delivered(kind, cut.sent)
    leg = second_leg(kind, fields, delivered)
    probed = None
    if needs_probe(kind, fields, delivered):
        probed = probe_key(kind, fields), probes(kind, fields)
    ask = call.ask
    limit = ask.max_output_tokens
    ask = msgspec.structs.replace(
        ask,
        prompt_bytes=ask.prompt_bytes + len(delivered.text.encode()),
        max_output_tokens=None if limit is None else max(1, limit - delivered.tokens),
    )
    second = call.copy()
    second.kind = leg.kind
    second.target = call.target if leg.kind is kind else leg.kind.path
    second.body = spooled(leg.body)
    second.ask = ask
    second.deadline_s = None  # met: the answer has begun
    second.others = ()
    second.continues = False
    return _Plan(second, leg, delivered, joiner(kind, delivered, leg, cut.first), probed)
