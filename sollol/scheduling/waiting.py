"""Where those who wait mean to run, and the room that is made for them."""

from bisect import bisect_left, insort

from sollol.scheduling.decision import Obstacle
from sollol.scheduling.queue import Waiting
from sollol.scheduling.room import leaving, may_claim
from sollol.scheduling.work import Priced, Work


def plan(waiting: Waiting, priced: Priced) -> None:
    """Note on a runner that a request waits for it, so that others see the wait there is."""
    unplan(waiting)
    terms = priced.terms
    waiting.runner = priced.runner
    waiting.service_s = terms.prefill_s + terms.decode_s
    waiting.wait_s = waiting.wait_s or terms.wait_s
    insort(priced.runner.backlog, _place(waiting))


def _place(waiting: Waiting) -> tuple[float, float, str]:
    return waiting.key, waiting.service_s, waiting.request.id


def unplan(waiting: Waiting) -> None:
    """Take that note back."""
    runner = waiting.runner
    if runner is None:
        return
    del runner.backlog[bisect_left(runner.backlog, _place(waiting))]
    waiting.runner = None
    node = runner.node
    if node.claim is runner and not runner.backlog:
        node.claim, node.leaving = None, ()


def claim_room(waiting: Waiting, work: Work, priced: Priced, ageing_s: float, now: float) -> None:
    """Have others make room for the model that a request waits for, if it is time for that."""
    runner = priced.runner
    node = runner.node
    if not priced.loads or node.claim is not None or priced.obstacle is Obstacle.LOADING:
        return
    if may_claim(runner, work, now - waiting.since, ageing_s, now):
        node.claim, node.leaving = runner, tuple(leaving(runner))


def is_impatient(waiting: Waiting, ageing_s: float, now: float) -> bool:
    """Whether a request has waited so long for a busy node that any free one will do.

    That is twice what was predicted when it came, and one level of priority more.
    """
    return now - waiting.since > 2.0 * waiting.wait_s + ageing_s
