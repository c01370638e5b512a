"""Where those who wait mean to run, and the room that is made for them."""

from bisect import bisect_left, insort

from sollol.scheduling.cost import MIN_WARM_S, WARM_S, Priced
from sollol.scheduling.memory import victims
from sollol.scheduling.queue import Waiting
from sollol.scheduling.state import Runner


def plan(waiting: Waiting, priced: Priced) -> None:
    """Note on a runner that a request waits for it, so that others see the wait there is."""
    unplan(waiting)
    terms = priced.terms
    waiting.runner = priced.runner
    waiting.service_s = terms.prefill_s + terms.decode_s
    waiting.wait_s = waiting.wait_s or terms.wait_s
    insort(priced.runner.backlog, (waiting.key, waiting.service_s))


def unplan(waiting: Waiting) -> None:
    """Take that note back."""
    runner = waiting.runner
    if runner is None:
        return
    entry = (waiting.key, waiting.service_s)
    at = bisect_left(runner.backlog, entry)
    if at < len(runner.backlog) and runner.backlog[at] == entry:
        del runner.backlog[at]
    waiting.runner = None
    node = runner.node
    if node.claim is runner and not runner.backlog:
        node.claim, node.leaving = None, ()


def claim_room(waiting: Waiting, priced: Priced, ageing_s: float, now: float) -> None:
    """Have others make room for a model that somebody has waited for long enough.

    Requests for a model that must push out another one in use are collected for a while, and the
    other one stays for some times what its load took: else each request would cost a load.
    """
    runner = priced.runner
    node = runner.node
    if not priced.loads or node.claim is not None or now - waiting.since < ageing_s:
        return
    leaving = victims(runner)
    if runner.is_resident and runner not in leaving:
        leaving.append(runner)
    if all(_was_warm_long_enough(victim, now) for victim in leaving):
        node.claim, node.leaving = runner, tuple(leaving)


def _was_warm_long_enough(victim: Runner, now: float) -> bool:
    return now - victim.loaded_at >= max(MIN_WARM_S, WARM_S * victim.load_s)


def is_impatient(waiting: Waiting, ageing_s: float, now: float) -> bool:
    """Whether a request has waited so long for a busy node that any free one will do.

    That is twice what was predicted when it came, and one level of priority more.
    """
    return now - waiting.since > 2.0 * waiting.wait_s + ageing_s
