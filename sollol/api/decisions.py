"""``/sollol/v1/decisions``: the latest requests, what was decided for each, and what came of it."""

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from sollol.api.explained import Explanation, explanation
from sollol.api.own import OwnRoute, errors
from sollol.api.served import Served
from sollol.errors import DecisionNotFound
from sollol.gateway.entries import Entry, Wanted
from sollol.gateway.gateway import Gateway
from sollol.wire.names import model_key


class DecisionsAnswer(BaseModel):
    """Requests, the newest first. ``next`` is the cursor of those before; null when there are none."""

    decisions: list[Explanation]
    next: int | None


Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[int, Query(ge=0, description="`next` of the answer before; 0 to begin.")]
Filter = Annotated[str, Query(max_length=300)]


MOST_OF_AN_ID = 100
"""Requests shown for one id; callers may give all of theirs the same."""


router = APIRouter(tags=["decisions"], prefix="/sollol/v1/decisions", route_class=OwnRoute)


@router.get("", summary="The latest requests: where they went and why", responses=errors(422))
async def _latest(  # noqa: PLR0913, PLR0917 - all but the first are the caller's
    gateway: Served,
    model: Filter = "",
    node: Filter = "",
    outcome: Filter = "",
    caller: Filter = "",
    limit: Limit = 50,
    cursor: Cursor = 0,
) -> DecisionsAnswer:
    """Return requests, the newest first; those that wait or run are among them.

    `node` is one that was tried; `outcome` is `waiting`, `running`, `ok` or the code of an error.
    """
    wanted = Wanted(model_key(model) if model else "", node, outcome, caller)
    entries = gateway.journal.select(wanted, gateway.admission.is_waiting, cursor)
    page = list(islice(entries, limit))
    has_more = next(entries, None) is not None
    return DecisionsAnswer(
        decisions=[_told(gateway, entry) for entry in page],
        next=page[-1].number if has_more else None,
    )


@router.get("/{request_id}", summary="One request", responses=errors(404))
async def _one(gateway: Served, request_id: str) -> DecisionsAnswer:
    """Return the requests with an id: one, or the newest 100 for which their caller gave the same."""
    found = gateway.journal.find(request_id)[:MOST_OF_AN_ID]
    if not found:
        raise DecisionNotFound(f"no request {request_id} is known; only the latest are kept")
    return DecisionsAnswer(decisions=[_told(gateway, entry) for entry in found], next=None)


def _told(gateway: Gateway, entry: Entry) -> Explanation:
    return explanation(entry, gateway.admission.find_queued(entry.id))
