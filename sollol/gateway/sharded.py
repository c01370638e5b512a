"""A call for a model that may run over several machines: it is loaded first, then asked like any other.

If it is lost before the client was sent anything of its answer, it is loaded anew and asked again,
once. Until the answer begins, a stream is told of the load (``progress_records.py``).
"""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import nullcontext

import msgspec

from sollol.errors import (
    ClientDisconnected,
    ConnectFailed,
    InvalidRequest,
    MissingOnNode,
    ModelNotFound,
    NoNodeAvailable,
    QueueTimeout,
    UpstreamCut,
    UpstreamTimeout,
)
from sollol.gateway.body import aside
from sollol.gateway.call import Call
from sollol.gateway.deadline import too_late
from sollol.gateway.fallback import Forward
from sollol.gateway.outcome import Outcome
from sollol.gateway.progress_records import ProgressRecords, Telling
from sollol.gateway.relay import Downstream
from sollol.gateway.rewriting import seen_in
from sollol.gateway.shard import Shard
from sollol.gateway.shards import Shards
from sollol.types import Task
from sollol.wire.bodies import JSON_UTF8
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.goduration import keep_alive_s
from sollol.wire.kinds import OPTIONAL, SHOW
from sollol.wire.load_records import has_load_records
from sollol.wire.names import full_name
from sollol.wire.peek import Peek
from sollol.wire.translate_request import LocalAnswer, translate

MOST_TRIES = 2
"""A request that was there both times when a coordinator ended may be what ends it."""

NOTICED_S = 5.0
"""How long after a connection broke the end of a process may be noticed, and what ended it."""

_GONE = (ConnectFailed, UpstreamCut, UpstreamTimeout, NoNodeAvailable, ModelNotFound, MissingOnNode)
"""What a request meets when its coordinator ends."""

_TOLD_BY_FILES = frozenset({"tools", "vision"})
_NO_IMAGES = (
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
)


class Sharded:
    """Forwards calls for models that run over several machines; all others as ever.

    Args:
        inner: gives what forwards a call to a node.
        progress_s: how often streams are told of a load, in seconds; 0 for never.
    """

    def __init__(
        self,
        shards: Shards,
        inner: Callable[[Call], Forward],
        clock: Callable[[], float],
        progress_s: float,
    ) -> None:
        self._shards = shards
        self._inner = inner
        self._clock = clock
        self._progress_s = progress_s

    def is_for(self, call: Call) -> bool:
        """Whether a call may be for such a model, or its other names may be."""
        return bool(call.others) or self._shards.needs.may_be_for(call.model_key)

    async def forward(self, call: Call, downstream: Downstream, outcome: Outcome) -> None:
        """Answer ``call`` on ``downstream``.

        Raises:
            SollolError: as :meth:`Forwarder.forward`, and why the model cannot be run.
        """
        forward = self._inner(call)
        if not await self._shards.is_for(call.model_key):
            if self._shards.are_alone:  # then a model that is not here is nowhere
                raise ModelNotFound(f"model '{call.model}' not found")
            await forward(call, downstream, outcome)
            return
        seen = await aside(call.body, _checked, call)
        if call.kind is SHOW:
            downstream.answer(200, [(b"content-type", JSON_UTF8)], await self._shown(call))
        elif call.is_unload:
            self._shards.unload(call.model_key)
            answer = translate(call.kind, seen, call.model).response
            assert isinstance(answer, LocalAnswer)
            downstream.answer(200, [(b"content-type", answer.content_type)], answer.body)
        else:
            await self._check_needs(call)
            await self._until_answered(call, seen, forward, downstream, outcome)

    async def _check_needs(self, call: Call) -> None:
        """Return if the model can do what is asked for, as far as its files tell.

        Raises:
            InvalidRequest: it knows no tools, in the words of Ollama, or no images, in those of llama.cpp.
        """
        needs = call.ask.needs & _TOLD_BY_FILES
        if not needs:
            return
        model = await self._shards.read(call.model_key)
        if "tools" in needs and not model.knows_tools:
            raise InvalidRequest(f"{full_name(call.model)} does not support tools")
        if "vision" in needs and not model.stored.projectors:
            raise InvalidRequest(_NO_IMAGES)

    async def _until_answered(
        self,
        call: Call,
        seen: Peek,
        forward: Forward,
        downstream: Downstream,
        outcome: Outcome,
    ) -> None:
        tries_left = MOST_TRIES
        keep_s = _keep_alive_s(call, seen)
        telling = self._telling(call, seen, downstream)
        while True:
            await self._wait_left(call, telling)
            with self._shards.using(call.model_key, len(call.body)) as shard:
                with telling(shard):
                    life_over = await self._wait_ready(call, shard)
                tries_left -= 1
                try:
                    await forward(call, downstream, outcome)
                    return
                except ClientDisconnected:
                    raise
                except _GONE as error:
                    if isinstance(error, UpstreamTimeout) and not downstream.is_started:
                        shard.lost(str(error))
                    if not await _comes(life_over):
                        raise
                    if downstream.is_started or not tries_left:
                        raise _cut(shard, in_body=downstream.is_started) from error
                finally:
                    self._shards.keep(shard, keep_s)

    def _telling(self, call: Call, seen: Peek, downstream: Downstream) -> Telling:
        """Return what tells the caller of a load.

        A request that does nothing but load is answered with one body of JSON, even if it streams.
        """
        if not (self._progress_s and call.streams and has_load_records(call.kind)):
            return nullcontext
        if seen.is_load_only:
            return nullcontext
        return ProgressRecords(call.kind, seen.model, downstream, self._progress_s).telling_of

    async def _wait_left(self, call: Call, telling: Telling) -> None:
        """Wait for a model that makes room, to be loaded anew when it has.

        Raises:
            DeadlineExceeded: it takes too long.
        """
        while (shard := self._shards.leaving(call.model_key)) is not None:
            left_s = min(self._shards.queue_timeout_s, call.left_s(self._clock()))
            try:
                async with asyncio.timeout(left_s):
                    with telling(shard):
                        await shard.is_over.wait()
            except TimeoutError:
                is_late = call.is_too_late(self._clock())
                text = f"{shard.name} is being unloaded, which takes too long"
                raise (too_late(call) if is_late else QueueTimeout(text)) from None
            await asyncio.sleep(0)  # its owner forgets it first

    async def _wait_ready(self, call: Call, shard: Shard) -> asyncio.Event:
        """Wait for the model, as long as the caller does; return what tells when it is lost.

        Raises:
            DeadlineExceeded: that is not long enough; the load goes on.
            SollolError: it cannot be loaded.
        """
        left_s = call.left_s(self._clock())
        try:
            async with asyncio.timeout(None if call.deadline_s is None else left_s):
                return await shard.wait_ready()
        except TimeoutError:
            raise too_late(call) from None

    async def _shown(self, call: Call) -> bytes:
        stored = await self._shards.shelf.find(call.model_key)
        if stored is None:
            raise model_not_found(call.kind, call.model)
        return msgspec.json.encode(await self._shards.shelf.show(stored))


def _cut(shard: Shard, *, in_body: bool) -> UpstreamCut:
    """Return what a caller is told: the model and what ended it, and not a port of ours."""
    if in_body:
        text = (
            f"{shard.name} was lost in the middle of its answer, as {shard.loss}; "
            "ask again: it is planned anew on the workers that are left"
        )
    else:
        text = f"{shard.name} was lost twice while it answered this, at last as {shard.loss}"
    return UpstreamCut(text, in_body=in_body)


def _checked(call: Call) -> Peek:
    """Return what routing needs of a body, so that nothing is loaded for one that is to be refused."""
    seen = seen_in(call.kind, call.body, dict(call.headers))
    if call.kind.task is not Task.OTHER and call.kind not in OPTIONAL:
        check_request(call.kind, seen)
    return seen


def _keep_alive_s(call: Call, seen: Peek) -> float | None:
    raw = seen.fields.last_set("keep_alive") if "keep_alive" in call.kind.struct else None
    return None if raw is None else keep_alive_s(raw)


async def _comes(event: asyncio.Event) -> bool:
    """Return whether something happens in a moment, or has happened."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NOTICED_S):
            await event.wait()
    return event.is_set()
