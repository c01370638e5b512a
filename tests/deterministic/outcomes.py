"""What a caller may be told, by what was wrong with its request and with the nodes."""

import itertools
from typing import TYPE_CHECKING

from sollol.gateway.outcome import Attempt
from tests.deterministic.client import Client, End
from tests.deterministic.faults import Fault
from tests.deterministic.generation import Generation
from tests.deterministic.loop import GRID_S

if TYPE_CHECKING:
    from tests.deterministic.world import World

MAX_CRASHES = 2
MAX_ATTEMPTS = 3
RETRY_SHARE = 0.2
LATE_S = 0.27
"""How much after its deadline a request may be answered: a tick of the scheduler."""

WINDOW_TICKS = 1000
"""A little less than the ten seconds for which a retry counts."""

_CRASHES = ("reset", "lost", "cut", "short", "crashed", "cut by a crash", "error record")
_GIVEN_UP = ("upstream_timeout", "node_down")
"""Codes of attempts that the gateway ended."""

_COST_BUDGET = ("cut", "short", "crashed", "cut by a crash", "500", "429", "error record")


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
    assert len(told.by) <= 1 + plan.continues, f"{name} has tokens of {told.by}"
    entries = world.gateway.journal.find(name)
    if not entries:
        assert told.end is End.LEFT, f"{name} is not in the journal"
        assert plan.upload_ticks, f"{name} is not in the journal, and its body was there"
        return
    tries = entries[0].outcome.tries
    for is_second in (False, True):
        leg = [attempt for attempt in tries if attempt.continues is is_second]
        sent = [attempt for attempt in attempts if bool(attempt.said) is is_second]
        assert _counted(leg, sent) <= MAX_ATTEMPTS, f"{name} was tried {len(tries)} times"
    crashes = sum(_is_known_crash(attempt, tries) for attempt in attempts)
    if plan.kind == "poison":
        assert crashes <= MAX_CRASHES, f"{name} has crashed {crashes} runners"
    if told.end is End.WHOLE:
        _check_whole(client, attempts)
    elif told.status == 200:
        assert plan.text().startswith(told.text), f"{name} got {told.text!r}"
    if plan.deadline_s is not None and told.began_at is not None and told.end is not End.LEFT:
        allowed_s = max(plan.deadline_s, plan.upload_ticks * GRID_S)  # answered once it is there
        late_s = told.began_at - client.came_at - allowed_s
        assert late_s <= LATE_S, f"{name} begins to be answered {late_s:.2f} s too late"
    if told.end is End.ERROR:
        _check_error(world, client, attempts)


def _is_known_crash(attempt: Generation, tries: list[Attempt]) -> bool:
    """Whether a runner has died of a request, and the gateway was there to hear of it.

    In the moment in which a runner dies the gateway may be giving the request up: it took too long, or
    probes found the node down.
    """
    if attempt.how not in ("crashed", "cut by a crash") or attempt.wire.is_lost:
        return False
    return tries[attempt.attempt - 1].error not in _GIVEN_UP


def _looks_like_a_crash(attempt: Generation) -> bool:
    """Whether a request may have killed what was to answer it, from what the gateway hears of it."""
    says_so = attempt.how == "500" and attempt.fault in (Fault.ERROR_FIRST, Fault.ERROR_LATER)
    return says_so or attempt.how in _CRASHES


def _counted(tries: list[Attempt], attempts: list[Generation]) -> int:
    """Return how many attempts counted: not those on nodes that lacked the model or were full."""
    missing = sum(attempt.error == "missing_on_node" for attempt in tries)
    return len(tries) - missing - sum(attempt.how == "503" for attempt in attempts)


def _check_whole(client: Client, attempts: list[Generation]) -> None:
    plan, told = client.plan, client.told
    assert not plan.kind, f"{plan.name} cannot be answered"
    assert attempts[-1].how == "done", f"{plan.name} is whole, its node says {attempts[-1].how}"
    assert told.by[-1:] == [attempts[-1].by], f"{plan.name} has an answer of {told.by}"
    assert len(told.by) == 1 + bool(attempts[-1].said), f"{plan.name} has an answer of {told.by}"
    if plan.path != "/api/embed":
        assert told.text == plan.text(), f"{plan.name} got {told.text!r}"
        assert told.records[-1]["done"] is True


def _check_error(world: "World", client: Client, attempts: list[Generation]) -> None:
    plan, status = client.plan, client.told.status
    if plan.kind == "bad" and any(attempt.how == "400" for attempt in attempts):
        is_late = status == 504 and plan.deadline_s is not None
        assert status == 400 or is_late, f"{plan.name} is refused by the node, and told {status}"
    elif status < 500:
        hows = [attempt.how for attempt in attempts[-1:]] or world.told_of(plan.model)
        is_unknown = status == 404 and world.is_unknown(plan.model)
        assert str(status) in hows or is_unknown, f"{plan.name} is told {status}, nodes say {hows}"
    was_sent = "x-sollol-node" in client.told.headers
    assert status != 504 or plan.deadline_s is not None or was_sent, f"{plan.name} is told 504"


def check_promise(world: "World", client: Client, attempts: list[Generation]) -> None:
    """Check that a request is answered if a node is there that never fails.

    What has begun to be answered cannot be tried again; nor what may have killed two nodes, or has
    failed on three.
    """
    plan, told, schedule = client.plan, client.told, world.schedule
    is_plain = not plan.kind and plan.deadline_s is None
    has_begun = bool(told.text)
    if not is_plain or not schedule.rock or schedule.has_poison or has_begun:
        return
    if told.end in (End.WHOLE, End.LEFT):
        return
    tries = world.gateway.journal.find(plan.name)[0].outcome.tries
    counted = _counted(tries, attempts)
    crashes = [attempt for attempt in attempts if _looks_like_a_crash(attempt)]
    is_excused = counted >= MAX_ATTEMPTS or len(crashes) >= MAX_CRASHES
    assert is_excused, (
        f"{plan.name} is told {told.status} {told.error!r}, while {schedule.rock} is up"
    )


def check_continued(world: "World", client: Client) -> None:
    """Check that a stream that is to be gone on with is whole, with a node that never fails, if it failed once."""
    plan, told, schedule = client.plan, client.told, world.schedule
    if not plan.continues or not schedule.rock or schedule.has_poison:
        return
    if told.end is not End.BROKEN or not told.text:  # else another may be asked for all of it
        return
    tries = world.gateway.journal.find(plan.name)[0].outcome.tries
    errors = [attempt.error for attempt in tries if attempt.error not in ("", "cannot_continue")]
    assert len(errors) > 1, f"{plan.name} breaks off as {errors}, while {schedule.rock} is up"


def check_budget(world: "World", attempts: dict[str, list[Generation]]) -> None:
    """Check how many retries there were that are not free, in any ten seconds."""
    at = sorted(
        after.arrived
        for each in attempts.values()
        for before, after in itertools.pairwise(each)
        if before.attempt != after.attempt and before.how in _COST_BUDGET
        if after.said == before.said  # what goes on with an answer is a request of its own
    )
    reserve = world.schedule.retry_reserve
    continued = sum(any(attempt.said for attempt in each) for each in attempts.values())
    count = len(world.clients) + 2 * continued  # its prompt is longer
    most = max(reserve, 1 + int(RETRY_SHARE * 1.1 * count))
    window = [sum(first <= other < first + WINDOW_TICKS for other in at) for first in at]
    assert max(window, default=0) <= most, f"{max(window)} retries in ten seconds"
