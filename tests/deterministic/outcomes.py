"""What a caller may be told, by what was wrong with its request and with the nodes."""

from typing import TYPE_CHECKING

from tests.deterministic.client import Client, End
from tests.deterministic.generation import Generation

if TYPE_CHECKING:
    from tests.deterministic.world import World

MAX_CRASHES = 2
MAX_ATTEMPTS = 3


def check_outcome(world: "World", client: Client, attempts: list[Generation]) -> None:
    """Check the one end that a request had.

    Args:
        attempts: what reached nodes of it.
    """
    plan, told = client.plan, client.told
    name = plan.name
    assert told.end is not None, f"{name} has no end"
    assert not told.excess, f"{name} got more than an answer: {told.excess!r}"
    assert told.end is not End.CUT, f"{name} was cut off without a word"
    assert len(told.by) <= 1, f"{name} has tokens of {told.by}"
    crashes = sum(attempt.how in ("crashed", "cut by a crash") for attempt in attempts)
    if plan.kind == "poison":
        assert crashes <= MAX_CRASHES, f"{name} has crashed {crashes} runners"
    if told.end is End.WHOLE:
        _check_whole(client, attempts)
    elif told.status == 200:
        assert plan.text().startswith(told.text), f"{name} got {told.text!r}"
    if told.end is End.ERROR:
        _check_error(world, client, attempts)


def _check_whole(client: Client, attempts: list[Generation]) -> None:
    plan, told = client.plan, client.told
    assert not plan.kind, f"{plan.name} cannot be answered"
    assert attempts[-1].how == "done", f"{plan.name} is whole, its node says {attempts[-1].how}"
    assert told.by == [attempts[-1].by], f"{plan.name} has an answer of {told.by}"
    if plan.path != "/api/embed":
        assert told.text == plan.text(), f"{plan.name} got {told.text!r}"
        assert told.records[-1]["done"] is True


def _check_error(world: "World", client: Client, attempts: list[Generation]) -> None:
    plan, status = client.plan, client.told.status
    if plan.kind == "bad" and any(attempt.how == "400" for attempt in attempts):
        assert status == 400, f"{plan.name} is refused by the node, and told {status}"
    elif status < 500:
        allowed = {429: "429", 404: "404", 400: "400"}[status]
        assert attempts, f"{plan.name} is told {status} by nobody"
        assert attempts[-1].how == allowed, f"{plan.name} is told {status}"
    was_sent = "x-sollol-node" in client.told.headers
    assert status != 504 or plan.deadline_s is not None or was_sent, f"{plan.name} is told 504"
