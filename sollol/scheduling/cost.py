"""What running a request on one node costs, in seconds, term by term.

Every term is a prediction from what was measured (``rates.py``, ``lengths.py``, ``affinity.py``);
there are no weights and no points. ``docs/architecture/routing.md`` works through an example.
"""

from bisect import bisect_left
from heapq import heapify, heapreplace

import msgspec

from sollol.scheduling.decision import Terms
from sollol.scheduling.demand import Demand
from sollol.scheduling.memory import victims
from sollol.scheduling.state import Held, Node, Options, Runner, Shape

RETRY_S = 1.0
"""What a failed attempt costs besides the time it took."""

MISSED_WITHIN_S = 120.0
"""A model that is pushed out and asked for within this time is missed."""

WARM_S = 3.0
"""A model that others want stays in memory for at least this many times what a load takes."""

MIN_WARM_S = 10.0
OVERLAP = 0.5
"""How much of its time another request on the node spends beside this one, on average."""


YIELDS = 3.0
"""Who is less urgent by so many levels does not start beside another one and slow it down."""


class Work(msgspec.Struct):
    """A request in the units that costs are made of."""

    model: str
    prompt_tokens: int
    output_tokens: int
    options: Options
    conversation: int
    key: float
    """Its place in the queue: who has a smaller one goes first."""
    level: float
    """Its priority, and one more for each time it has waited what a level is worth."""


class Priced(msgspec.Struct):
    """A runner and what the request costs there; ``why_wait`` is empty if it can start now."""

    runner: Runner
    terms: Terms
    total_s: float
    cached_tokens: int
    loads: bool
    why_wait: str


class Prices:
    """Prices runners; reads the state of nodes and the demand, changes nothing."""

    def __init__(self, demand: Demand, copies: dict[Shape, int]) -> None:
        self._demand = demand
        self._copies = copies

    def price(self, runner: Runner, work: Work, now: float) -> Priced:
        """Return what a request costs on a runner.

        1. Loaded as the request wants it: perhaps a wait for a slot or for a load under way.
        2. Not loaded, or otherwise: a load, the room for it, and what that costs others.
        """
        node = runner.node
        cached_tokens = runner.conversations.cached_tokens(work.conversation, work.prompt_tokens)
        prefill_s = (work.prompt_tokens - cached_tokens) * runner.prefill_s
        alone_s = work.output_tokens * runner.decode_s
        others = node.in_flight
        slope = node.slope
        crowd = 1.0 + slope * others
        eviction_s = 0.0
        if runner.is_resident and runner.matches(work.options) and not node.makes_room(runner):
            wait_s, why_wait = _wait_for_slot(runner, work, now)
            load_s = max(0.0, runner.ready_at - now)
            loads = False
        else:
            wait_s, why_wait, eviction_s = self._room(runner, now)
            load_s = runner.load_s
            cached_tokens = 0
            prefill_s = work.prompt_tokens * runner.prefill_s
            loads = True
        if node.most_urgent - work.level >= YIELDS and slope > 0.0:
            wait_s, why_wait = _yield(node, wait_s)
        decode_s = alone_s * crowd
        terms = Terms(
            wait_s=wait_s,
            load_s=load_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            risk_s=node.failure_share * (RETRY_S + load_s + prefill_s),
            eviction_s=eviction_s,
            crowding_s=others * slope * alone_s * OVERLAP / crowd if others else 0.0,
        )
        return Priced(runner, terms, terms.total_s, cached_tokens, loads, why_wait)

    def _room(self, runner: Runner, now: float) -> tuple[float, str, float]:
        """Return the wait before a load can begin, what for, and what it costs others.

        Nodes load one model at a time, and a model in use is waited for.
        """
        node = runner.node
        wait_s, why_wait = 0.0, ""
        other = node.loading(now)
        if other is not None:
            wait_s, why_wait = other.ready_at - now, f"{other.model} is being loaded there"
        leaving = victims(runner)
        if runner.is_resident and runner not in leaving:  # a reload with other options
            leaving.append(runner)
        eviction_s = 0.0
        for victim in leaving:
            eviction_s += self._missed_s(victim, now)
            if victim.running:
                busy_s = max(remaining_s(held, now) for held in victim.running.values())
                if busy_s >= wait_s:
                    wait_s, why_wait = busy_s, f"{victim.model} is in use there and must leave"
            if victim.is_in_demand() and not node.is_claimed_by(runner):
                warm_s = victim.loaded_at + max(MIN_WARM_S, WARM_S * victim.load_s) - now
                if victim.backlog or victim.running:
                    if warm_s > wait_s:
                        wait_s = warm_s
                    why_wait = why_wait or f"{victim.model} is wanted there and was loaded lately"
        if node.claim is not None and node.claim is not runner:
            wait_s += node.claim.load_s
            why_wait = why_wait or f"room is being made there for {node.claim.model}"
        return wait_s, why_wait, eviction_s

    def _missed_s(self, victim: Runner, now: float) -> float:
        """Return what its users will wait for the model, were it to leave now."""
        if victim.options is None:  # others loaded it, so with what nobody asks us for
            rate = sum(self._demand.rate(name, now) for name in victim.names)
        else:
            rate = sum(self._demand.shape_rate(n, victim.options, now) for n in victim.names)
        if rate <= 0.0:
            return 0.0
        elsewhere = self._copies.get(victim.shape, 1) - 1
        chance = min(1.0, rate * MISSED_WITHIN_S / (1 + elsewhere))
        return victim.load_s * chance / (1 + elsewhere)


def _wait_for_slot(runner: Runner, work: Work, now: float) -> tuple[float, str]:
    """Return the seconds until a slot is free for the request, and what it waits for."""
    backlog = runner.backlog
    ahead = bisect_left(backlog, (work.key, 0.0)) if backlog else 0
    slots = runner.node.slots
    if len(runner.running) + ahead < slots:
        return 0.0, ""
    free_at = [remaining_s(held, now) for held in runner.running.values()]
    free_at += [0.0] * (slots - len(free_at))
    if ahead:
        heapify(free_at)
        for _, service_s in backlog[:ahead]:
            heapreplace(free_at, free_at[0] + service_s)
    wait_s = min(free_at)
    why = "all slots there are taken" if not ahead else f"{ahead} wait for its slots there"
    return wait_s, why


def _yield(node: Node, wait_s: float) -> tuple[float, str]:
    """Return the wait until nobody more urgent runs on a node; with time, who waits is as urgent."""
    return wait_s, f"{node.id} runs a more urgent request, which it would slow down"


def remaining_s(held: Held, now: float) -> float:
    """Return how long an answer will still take.

    One that is overdue is longer than was thought: the longer it is overdue, the longer.
    """
    left_s = held.ends_at - now
    predicted_s = held.ends_at - held.granted_at
    if left_s > 0.05 * predicted_s:
        return left_s
    return max(0.1 * predicted_s, -0.5 * left_s)


def bound_s(runner: Runner, work: Work) -> float:
    """Return what a request costs on a runner at least: what :meth:`Prices.price` gives is no less.

    It is written for speed; hundreds of nodes are ruled out by it for every request.
    """
    node: Node = runner.node
    seconds = work.output_tokens * runner.decode_s * (1.0 + node.slope * node.in_flight)
    if runner.is_resident:
        conversation = work.conversation
        fresh = work.prompt_tokens
        if conversation:
            fresh -= runner.conversations.cached_tokens(conversation, fresh)
        return seconds + fresh * runner.prefill_s
    return seconds + work.prompt_tokens * runner.prefill_s + runner.load_s
