"""What running a request on one node costs, in seconds, term by term.

Every term is a prediction from what was measured (``rates.py``, ``lengths.py``, ``affinity.py``);
there are no weights and no points. ``docs/architecture/routing.md`` works through an example.
"""

from bisect import bisect_left
from heapq import heapify, heapreplace

from sollol.scheduling.decision import Obstacle, Terms
from sollol.scheduling.demand import Demand
from sollol.scheduling.remaining import remaining_s
from sollol.scheduling.room import NO_ROOM_NEEDED, Room, make_room
from sollol.scheduling.state import Node, Runner, Shape
from sollol.scheduling.work import YIELDS, Priced, Work

RETRY_S = 1.0
"""What a failed attempt costs besides the time it took."""


class Prices:
    """Prices runners; reads the state of nodes and the demand, changes nothing."""

    def __init__(self, demand: Demand, copies: dict[Shape, int]) -> None:
        self._demand = demand
        self._copies = copies
        self.spares_urgent = True
        """Less urgent requests wait beside clearly more urgent ones, though there are slots."""

    def price(self, runner: Runner, work: Work, now: float) -> Priced:
        """Return what a request costs on a runner.

        1. Loaded as the request wants it: perhaps a wait for a slot or for a load under way.
        2. Not loaded, or otherwise: a load, the room for it, and what that costs others.
        3. In either case less urgent requests let those be that are clearly more urgent, unless
           so many wait that no slot can be left free.
        """
        node, options = runner.node, work.options
        loads = not (
            runner.is_resident
            and (not (options or runner.options) or runner.matches(options))
            and (node.claim is None or not node.makes_room(runner))
        )
        cached_tokens = 0
        if loads:
            room = make_room(runner, work, self._demand, self._copies, now)
            if runner.is_full:  # of those that use it since before it left the memory
                room = _longer(room, _wait_for_slot(runner, work, now))
            load_s = runner.load_s
        else:
            room = NO_ROOM_NEEDED
            if runner.backlog or len(runner.running) >= runner.slots:
                room = _wait_for_slot(runner, work, now)
            load_s = runner.ready_at - now if runner.ready_at > now else 0.0
            if work.conversation:
                cached_tokens = runner.conversations.cached_tokens(
                    work.conversation, work.prompt_tokens
                )
        if node.most_urgent - work.level >= YIELDS and node.slope > 0.0 and self.spares_urgent:
            room = _yields(node, work, room, now)
        wait_s, eviction_s, obstacle, other = room
        prefill_s = (work.prompt_tokens - cached_tokens) * runner.prefill_s
        alone_s = work.output_tokens * runner.decode_s
        decode_s = alone_s * node.crowd
        crowding_s = alone_s * node.crowding
        risk_s = node.failure_share * (RETRY_S + load_s + prefill_s)
        terms = Terms(wait_s, load_s, prefill_s, decode_s, risk_s, eviction_s, crowding_s)
        total_s = wait_s + load_s + prefill_s + decode_s + risk_s + eviction_s + crowding_s
        return Priced(runner, terms, total_s, cached_tokens, loads, obstacle, other)


def _wait_for_slot(runner: Runner, work: Work, now: float) -> Room:
    """Return the wait until a slot is free for the request, after those whose turn comes before."""
    backlog = runner.backlog
    ahead = bisect_left(backlog, (work.key, 0.0)) if backlog else 0
    slots = runner.slots
    if len(runner.running) + ahead < slots:
        return NO_ROOM_NEEDED
    free_at = [remaining_s(held, now) for held in runner.running.values()]
    free_at += [0.0] * (slots - len(free_at))
    if ahead:
        heapify(free_at)
        for _, service_s, _ in backlog[:ahead]:
            heapreplace(free_at, free_at[0] + service_s)
    return Room(min(free_at), 0.0, Obstacle.FULL, None)


def _yields(node: Node, work: Work, room: Room, now: float) -> Room:
    """Return the wait until nobody clearly more urgent runs on a node."""
    wait_s, level = 0.0, work.level
    for held in node.held.values():
        if held.request.priority - level >= YIELDS:
            wait_s = max(wait_s, remaining_s(held, now))
    return _longer(room, Room(wait_s, 0.0, Obstacle.URGENT, None))


def _longer(room: Room, other: Room) -> Room:
    """Return the wait for both, by the obstacle that lasts longer."""
    if room.obstacle is not Obstacle.NONE and room.wait_s >= other.wait_s:
        return room
    return Room(other.wait_s, room.eviction_s, other.obstacle, other.other)


def bound_s(runner: Runner, work: Work) -> float:
    """Return what a request costs on a runner at least: :meth:`Prices.price` gives no less."""
    seconds = work.output_tokens * runner.decode_s * (runner.node.crowd + runner.node.crowding)
    if not runner.is_resident:
        return seconds + work.prompt_tokens * runner.prefill_s + runner.load_s
    cached_tokens = runner.conversations.cached_tokens(work.conversation, work.prompt_tokens)
    return seconds + (work.prompt_tokens - cached_tokens) * runner.prefill_s
