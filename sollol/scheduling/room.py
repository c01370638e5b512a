"""What it takes to bring a model into a node's memory: who must leave, whom that costs what."""

from typing import NamedTuple

from sollol.scheduling.decision import Obstacle
from sollol.scheduling.demand import Demand
from sollol.scheduling.memory import victims
from sollol.scheduling.remaining import remaining_s
from sollol.scheduling.state import Node, Runner, Shape
from sollol.scheduling.work import YIELDS, Work

MISSED_WITHIN_S = 120.0
"""A model that is pushed out and asked for within this time is missed."""

WARM_LOADS = 3.0
"""A model that others want stays in memory for at least this many times what a load takes."""

MIN_WARM_S = 10.0
KEPT_S = 60.0
"""So long a model is kept for those who are clearly more urgent than who wants its room."""


class Room(NamedTuple):
    """What loading a model on a node has to wait for, and what it costs those it pushes out."""

    wait_s: float
    eviction_s: float
    obstacle: Obstacle
    other: Runner | None
    """The runner that stands in the way."""


NO_ROOM_NEEDED = Room(0.0, 0.0, Obstacle.NONE, None)


def leaving(runner: Runner) -> list[Runner]:
    """Return what leaves the memory for a runner to be loaded; itself if it is to be reloaded."""
    out = victims(runner)
    if runner.is_resident and runner not in out:
        out.append(runner)
    return out


def make_room(
    runner: Runner, work: Work, demand: Demand, copies: dict[Shape, int], now: float
) -> Room:
    """Return what a load has to wait for; the obstacle that lasts longest is named.

    1. Another load: nodes load one model at a time. 2. Room that is made for another model.
    3. Somebody clearly more urgent used what would leave, lately. 4. What would leave is wanted by
    others as urgent, and has not been there long. 5. It is in use.
    """
    node = runner.node
    room = _loads_before(node, runner, now)
    eviction_s = 0.0
    for victim in leaving(runner):
        eviction_s += missed_s(victim, demand, copies, now)
        for other in _obstacles(victim, runner, work, now):
            if other.wait_s > room.wait_s or room.obstacle is Obstacle.NONE:
                room = other
    return room._replace(eviction_s=eviction_s)


def missed_s(victim: Runner, demand: Demand, copies: dict[Shape, int], now: float) -> float:
    """Return what its users will wait for the model, were it to leave now."""
    if victim.options is None:  # others loaded it, so with what nobody asks us for
        rate = sum(demand.rate(name, now) for name in victim.names)
    else:
        rate = sum(demand.shape_rate(name, victim.options, now) for name in victim.names)
    if rate <= 0.0:
        return 0.0
    copies_left = max(1, copies.get(victim.shape, 1))
    return victim.load_s * min(1.0, rate * MISSED_WITHIN_S / copies_left) / copies_left


def may_claim(runner: Runner, work: Work, waited_s: float, ageing_s: float, now: float) -> bool:
    """Whether others have to make room for a model.

    Those who want to use what would leave are let by for a while, so that requests for the model
    are collected, and it stays for some times what its load took: else each request would cost a
    load. It is not kept for those who come later in the queue.
    """
    for victim in leaving(runner):
        if _is_kept(victim, work, now):
            return False
        if _is_wanted(victim, work) and (waited_s < ageing_s or _warm_left_s(victim, now) > 0.0):
            return False
    return True


def _loads_before(node: Node, runner: Runner, now: float) -> Room:
    loading = node.loading(now)
    if loading is not None:
        return Room(loading.ready_at - now, 0.0, Obstacle.LOADING, loading)
    if node.claim is not None and node.claim is not runner:
        return Room(node.claim.load_s, 0.0, Obstacle.CLAIMED, node.claim)
    return NO_ROOM_NEEDED


def _obstacles(victim: Runner, runner: Runner, work: Work, now: float) -> list[Room]:
    found = []
    if victim.running:
        busy_s = max(remaining_s(held, now) for held in victim.running.values())
        found.append(Room(busy_s, 0.0, Obstacle.BUSY, victim))
    if victim.node.claim is runner:
        return found
    if _is_kept(victim, work, now):
        kept_s = victim.urgent_at + KEPT_S - now
        found.append(Room(kept_s, 0.0, Obstacle.KEPT, victim))
    elif _is_wanted(victim, work):
        found.append(Room(max(0.0, _warm_left_s(victim, now)), 0.0, Obstacle.WANTED, victim))
    return found


def _is_kept(victim: Runner, work: Work, now: float) -> bool:
    return victim.urgency - work.level >= YIELDS and now - victim.urgent_at < KEPT_S


def _is_wanted(victim: Runner, work: Work) -> bool:
    """Whether somebody whose turn comes before, or who is about as urgent, uses the model."""
    backlog = victim.backlog
    if backlog and backlog[0][0] < work.key:
        return True
    return any(held.request.priority > work.level - YIELDS for held in victim.running.values())


def _warm_left_s(victim: Runner, now: float) -> float:
    return victim.loaded_at + max(MIN_WARM_S, WARM_LOADS * victim.load_s) - now
