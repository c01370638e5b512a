"""``/sollol/v1/queue`` and ``/sollol/v1/estimates``: who waits, and what is known of the nodes."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from sollol.api.explained import ShownName, View, Waiting
from sollol.api.own import OwnRoute, errors
from sollol.api.served import Served


class QueuedRequest(Waiting):
    """One that waits, with the id that its caller knows and the unique one."""

    request_id: str
    id: str


class QueueAnswer(BaseModel):
    """Who waits, the next one first; ``length`` is how many wait in all."""

    length: int
    max_length: int
    waiting: list[QueuedRequest]


class ModelEstimate(View):
    """What is expected of a model on a node; a ``count`` says how many measurements that rests on.

    Tokens per second are those of one request alone. A ``spread`` is the factor by which a measurement
    is off, typically; null before the second one. ``is_slow`` says that it
    generates at less than a quarter of its best speed. ``affinity_trust`` is the share of what should
    have been cached of conversations that was, ``conversations`` how many the node is taken to remember.
    """

    models: list[ShownName]
    is_resident: bool
    running: int
    waiting: int
    decode_tokens_per_s: float
    decode_count: int
    decode_spread: float | None
    prefill_tokens_per_s: float
    prefill_count: int
    prefill_spread: float | None
    load_s: float
    load_count: int
    load_spread: float | None
    is_slow: bool
    affinity_trust: float
    conversations: int


class NodeEstimate(View):
    """What is known of a node: how much fits into its memory, and how it slows down.

    ``memory_bytes`` is what the settings say; ``fits_*`` was seen there together, ``full_*`` did not
    fit. ``slowdown`` is by which share each further request lengthens the generating of a token.
    """

    node_id: str
    memory_bytes: int | None
    fits_bytes: int
    full_bytes: int | None
    fits_models: int
    full_models: int | None
    slowdown: float
    failure_share: float
    models: list[ModelEstimate]


class EstimatesAnswer(BaseModel):
    """What predictions are made from."""

    nodes: list[NodeEstimate]


Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]


router = APIRouter(tags=["decisions"], prefix="/sollol/v1", route_class=OwnRoute)


@router.get("/queue", summary="Who waits for a slot", responses=errors(422))
async def _queue(gateway: Served, limit: Limit = 100) -> QueueAnswer:
    admission, journal = gateway.admission, gateway.journal
    statistics = admission.statistics()
    return QueueAnswer(
        length=statistics.queue_length,
        max_length=statistics.queue_max_length,
        waiting=[
            QueuedRequest(
                request_id=journal.shown_id(queued.request_id),
                id=queued.request_id,
                **Waiting.model_validate(queued).model_dump(),
            )
            for queued in admission.queued(limit)
        ],
    )


@router.get("/estimates", summary="What predictions are made from")
async def _estimates(gateway: Served) -> EstimatesAnswer:
    return EstimatesAnswer(
        nodes=[NodeEstimate.model_validate(node) for node in gateway.admission.estimates()]
    )
