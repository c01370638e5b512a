"""``POST /sollol/v1/route``: what would be decided for a request, without making it."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from sollol.api.arrival import Arrival
from sollol.api.asgi import REQUEST_KEY
from sollol.api.calls import Calls
from sollol.api.explained import Complexity, Explained, classed, explained
from sollol.api.own import PromptRoute, errors
from sollol.api.served import Served
from sollol.errors import InvalidRequest, ModelNotFound
from sollol.gateway.body import Body, aside
from sollol.gateway.call import Call
from sollol.gateway.gateway import Gateway
from sollol.gateway.shard import ShardState
from sollol.scheduling.decision import Decision, Terms
from sollol.types import Ask
from sollol.wire.checks import model_not_found
from sollol.wire.kinds import BODY_KINDS, BodyKind, other_kind


class Question(BaseModel):
    """A request that is not to be made: its route, such as `/api/chat`, and its body."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=300)
    body: dict[str, Any]


class Asked(BaseModel):
    """What a body asks of a model, by its form; its words are not looked at.

    ``conversation`` is equal for requests that go on with the same one, and empty for none.
    """

    prompt_bytes: int
    images: int
    inputs: int
    max_output_tokens: int | None
    options: dict[str, bool | float]
    needs: list[str]
    is_structured: bool
    conversation: str


class Preview(BaseModel):
    """What would be decided at this moment.

    ``would`` is ``run``, ``wait``, ``refuse`` (the queue is full, or the model could not be loaded
    lately) or ``load``: the model runs over workers, and is not loaded yet. ``predicted_wait_s`` and
    ``predicted_s``, from arrival to the end, are null where the policy compares no seconds. Of a model
    that is not loaded nothing is predicted: they and ``complexity`` are null, and no node is compared.
    ``takes_slot`` is false for what a node answers at once, such as the facts of a model.
    """

    path: str
    task: str
    model: str
    priority: int
    caller: str
    takes_slot: bool
    would: str
    predicted_wait_s: float | None
    predicted_s: float | None
    complexity: Complexity | None
    ask: Asked
    decision: Explained


router = APIRouter(tags=["decisions"], route_class=PromptRoute)


@router.post(
    "/sollol/v1/route",
    summary="What would be decided for a request",
    responses=errors(400, 404, 413, 422, 503),
)
async def _route(gateway: Served, question: Question, request: Request) -> Preview:
    """Say where a request would go, without making it.

    `X-Sollol-Priority`, `X-Sollol-Deadline` and `X-Sollol-Session` count as that request's.
    """
    body = Body(msgspec.json.encode(question.body))
    came = request.scope[REQUEST_KEY]
    kind = _kind(question.path)
    arrival = Arrival(kind, came.headers, "preview", "", gateway.clock(), kind.task)
    call = await aside(body, Calls(gateway).make, arrival, came, body)
    with call.body:
        unloaded = await _unloaded(gateway, call)
        return _preview(gateway, call) if unloaded is None else unloaded


def _kind(path: str) -> BodyKind:
    kind = BODY_KINDS.get(path) or other_kind(path)
    if kind is None:
        raise InvalidRequest("path must be a route that nodes answer, such as /api/chat")
    if kind.is_multipart:
        raise InvalidRequest(f"{path} takes a form, which cannot be given as JSON")
    return kind


async def _unloaded(gateway: Gateway, call: Call) -> Preview | None:
    """Return what is told of a model that runs over workers and is not loaded; None of all others.

    Raises:
        ModelBroken: its files are damaged.
    """
    shards, sharded = gateway.shards, gateway.sharded
    if shards is None or sharded is None or not sharded.is_for(call):
        return None
    if not await shards.is_for(call.model_key):
        return None
    shard, rest = shards.find(call.model_key), shards.rests().get(call.model_key)
    if shard is not None and shard.state is ShardState.READY:
        return None
    if not call.takes_slot:
        would, reason = "run", "it is answered from the model's files, without a load"
    elif shard is not None:
        would, reason = "load", "the model is being loaded over workers (sollol shard ps)"
    elif rest is None or rest.until <= gateway.clock():
        would, reason = "load", "the model would first be loaded over workers (sollol shard plan)"
    else:
        would, reason = "refuse", f"the model could not be loaded over workers: {rest.error}"
    return _undecided(call, would, reason)


def _undecided(call: Call, would: str, reason: str) -> Preview:
    nothing = Explained(
        node="",
        rule="",
        reason=reason,
        policy="",
        considered=0,
        prompt_tokens=0,
        output_tokens=0,
        options=[],
    )
    return _told(call, would, nothing, None, None)


def _preview(gateway: Gateway, call: Call) -> Preview:
    try:
        decision = gateway.forwarder.preview(call)
    except ModelNotFound:
        raise model_not_found(call.kind, call.model) from None
    statistics = gateway.admission.statistics()
    is_full = statistics.queue_length >= statistics.queue_max_length
    would = "run" if decision.chosen or not call.takes_slot else "refuse" if is_full else "wait"
    return _told(call, would, explained(decision), classed(call.ask, decision), _best(decision))


def _told(
    call: Call, would: str, decision: Explained, complexity: Complexity | None, best: Terms | None
) -> Preview:
    return Preview(
        path=call.kind.path,
        task=call.kind.task,
        model=call.model,
        priority=call.priority,
        caller=call.caller,
        takes_slot=call.takes_slot,
        would=would,
        predicted_wait_s=None if best is None else best.wait_s,
        predicted_s=None if best is None else best.own_s,
        complexity=complexity,
        ask=_asked(call.ask),
        decision=decision,
    )


def _best(decision: Decision) -> Terms | None:
    """Return the seconds on the node that was chosen, or else is waited for."""
    chosen = [option for option in decision.options if option.node_id == decision.chosen]
    best = chosen or decision.options
    return best[0].terms if best else None


def _asked(ask: Ask) -> Asked:
    return Asked(
        prompt_bytes=ask.prompt_bytes,
        images=ask.images,
        inputs=ask.inputs,
        max_output_tokens=ask.max_output_tokens,
        options=dict(ask.options),
        needs=sorted(ask.needs),
        is_structured=ask.is_structured,
        conversation=f"{ask.conversation:016x}" if ask.conversation else "",
    )
