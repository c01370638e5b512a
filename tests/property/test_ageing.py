"""The bounds of waiting, for any sequence of arrivals, on a virtual clock.

``S`` is the longest service time, ``B`` how many wait ahead, ``k`` the slots of all nodes, ``G`` the
time between two ticks. Proved here by trying, for callers that are all different unless it says so:

1. On slots that are alike, who has the smaller queue key starts first; so a request is overtaken by
   none of priority 10 that comes more than ``(10 - p) * ageing_s`` later.
2. It waits for at most ``S * (1 + B // k)``, ``B`` counting those that may go before it.
3. A caller within its share waits for at most ``2 * S`` however much another asks for, as far as
   the service times are as predicted.
4. A cold model gets its turn where others are in demand: after ``ageing_s``, the time that these
   stay warm, ``S`` to drain and ``G``.
5. Nobody waits beside an idle node for longer than its patience, and that of those ahead.
"""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis.strategies import DrawFn, composite, floats, integers, lists, sampled_from

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.room import MIN_WARM_S, WARM_LOADS
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Ask, Lease, NodeView, RouteRequest
from tests.scheduling import GB, Play, asks, assert_clean, nodes_of, view

AGEING_S = 10.0
TICK_S = 1.0
SETTINGS = settings(max_examples=40, deadline=None)


def scheduler(*views: NodeView, policy: str = "fastest", seed: int = 1) -> Scheduler:
    made = Scheduler(SchedulerLimits(100_000, policy, AGEING_S, explore_share=0.0), Random(seed))
    for each in views:
        made.node_changed(each, 0.0)
    return made


def key(request: RouteRequest) -> float:
    return request.arrived_at - request.priority * AGEING_S


@composite
def arrivals(draw: DrawFn, callers: int = 0) -> list[RouteRequest]:
    """Return requests in the order of their arrival, on a grid of 10 ms."""
    gaps = draw(lists(integers(0, 800), min_size=2, max_size=30))
    at = 0
    requests = []
    for number, gap in enumerate(gaps):
        at += gap if draw(integers(0, 2)) == 0 else 0
        caller = f"c{draw(integers(0, callers)) if callers else number}"
        priority = draw(integers(1, 10))
        requests.append(asks(f"r{number}", "m", at / 100, priority=priority, caller=caller))
    return requests


def overtakers(play: Play, request: RouteRequest, others: Sequence[RouteRequest]) -> list[str]:
    """Return who has a larger key and started before a request that waited then."""
    start, _ = play.granted[request.id]
    return [
        other.id
        for other in others
        if key(other) > key(request) and request.arrived_at < play.granted[other.id][0] < start
    ]


@SETTINGS
@given(arrivals(), integers(1, 3), integers(1, 3), sampled_from(list(POLICIES)), floats(0.1, 30.0))
def test_nobody_is_overtaken_by_one_with_a_larger_key(
    requests: list[RouteRequest], nodes: int, slots: int, policy: str, longest_s: float
) -> None:
    views = [view(f"n{n}", "m", slots=slots, resident="m") for n in range(nodes)]
    rng = Random(len(requests))
    play = Play(
        scheduler(*views, policy=policy), lambda _: round(rng.uniform(0.01, longest_s), 2), TICK_S
    )
    play.run(requests, 1e6)
    assert len(play.granted) == len(requests)
    for request in requests:
        later = overtakers(play, request, requests)
        if policy == "fastest":  # nodes differ by what runs there, so it may wait for another one
            later = [name for name in later if _took_what_it_wanted(play, request, name)]
        assert not later
        ahead = sum(key(other) <= key(request) for other in requests) + nodes * slots
        assert play.wait_s(request.id) <= longest_s * (1 + ahead // (nodes * slots)) + TICK_S
    assert_clean(play.scheduler, play.now)


def _took_what_it_wanted(play: Play, request: RouteRequest, other: str) -> bool:
    """Whether another request started at the node that a request waited for."""
    return play.granted[other][1].node_id == play.granted[request.id][1].node_id


@SETTINGS
@given(arrivals(), integers(1, 4), integers(1, 2))
def test_priority_ten_overtakes_only_within_the_ageing(
    requests: list[RouteRequest], nodes: int, slots: int
) -> None:
    views = [view(f"n{n}", "m", slots=slots, resident="m") for n in range(nodes)]
    play = Play(scheduler(*views, policy="least_in_flight"), lambda _: 7.0, TICK_S)
    urgent = [asks(f"u{n}", "m", n * 0.5, priority=10, caller=f"u{n}") for n in range(200)]
    play.run([*requests, *urgent], 1e6)
    for request in requests:
        start, _ = play.granted[request.id]
        latest = request.arrived_at + (10 - request.priority) * AGEING_S
        assert not [u.id for u in urgent if u.arrived_at > latest and play.granted[u.id][0] < start]


@SETTINGS
@given(
    integers(10, 150), integers(1, 3), integers(1, 2), lists(floats(0, 300.0), max_size=8),
    integers(1, 10),
)  # fmt: skip
def test_a_flood_does_not_hold_up_a_caller_within_its_share(
    size: int, nodes: int, slots: int, moments: list[float], priority: int
) -> None:
    """The modest caller asks for less than half of what one slot can do."""
    views = [view(f"n{n}", "m", slots=slots, resident="m") for n in range(nodes)]
    play = Play(scheduler(*views), tick_s=TICK_S)
    flood = [asks(f"f{n}", "m", 0.0, caller="flood", priority=priority) for n in range(size)]
    apart: list[float] = []
    for at in sorted(moments):
        if not apart or at - apart[-1] > 30.0:
            apart.append(at)
    modest = [asks(f"x{n}", "m", at, caller="x", priority=priority) for n, at in enumerate(apart)]
    play.run([*flood, *modest], 1e6)
    longest_s = max(lease.predicted_s for _, lease in play.granted.values())
    assert all(play.wait_s(request.id) <= 2 * longest_s + TICK_S for request in modest)


@pytest.mark.parametrize("service_s", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_cold_model_gets_its_turn_where_another_is_in_constant_demand(
    service_s: float, slots: int
) -> None:
    models = {"hot": GB, "cold": GB}
    node = view("a", models, slots=slots, resident=["hot"], memory_bytes=int(1.5 * GB))
    play = Play(scheduler(node), lambda _: service_s, TICK_S)
    hot = [asks(f"h{n}", "hot", n * service_s * 0.8 / slots, caller=f"c{n}") for n in range(300)]
    play.run([*hot, asks("cold", "cold", 40 * service_s)], 1e4)
    warm_s = max(MIN_WARM_S, WARM_LOADS * nodes_of(play.scheduler)["a"].by_model["hot"].load_s)
    assert play.wait_s("cold") <= AGEING_S + warm_s + service_s + 2 * TICK_S


@pytest.mark.parametrize("models", ["mn", "mno"])
def test_models_that_fit_one_at_a_time_take_turns_under_constant_demand(models: str) -> None:
    node = view("a", models, memory_bytes=int(1.5 * GB))
    play = Play(scheduler(node), lambda _: 5.0, TICK_S)
    each = 100
    play.run(
        [asks(f"{m}{n}", m, n * 4.0, caller=f"{m}{n}") for n in range(each) for m in models],
        1500.0,
    )
    for model in models:
        starts = sorted(at for name, (at, _) in play.granted.items() if name[0] == model)
        last = 1500.0 if len(starts) < each else starts[-1]
        gaps = [later - start for start, later in pairwise([0.0, *starts, last])]
        turn_s = AGEING_S + MIN_WARM_S + 5.0 + 1.0
        assert max(gaps) <= 3 * len(models) * turn_s


@SETTINGS
@given(lists(sampled_from((0, 0, 1, 3, 10)), min_size=5, max_size=60), integers(2, 4))
def test_nobody_waits_beside_an_idle_node_beyond_its_patience(gaps: list[int], nodes: int) -> None:
    """Nodes differ by a factor of up to eight; conversations draw requests to where they began."""
    views = [view(f"n{n}", {"m": GB << n}, resident=["m"]) for n in range(nodes)]
    play = Play(scheduler(*views), lambda _: 20.0, TICK_S)
    at = 0
    requests = []
    for number, gap in enumerate(gaps):
        at += gap
        requests.append(
            asks(
                f"r{number}", "m", float(at), caller=f"c{number}", ask=Ask(conversation=number % 3)
            )
        )
    first_wait_s: dict[str, float] = {}
    idle_since: dict[str, float] = {}
    play.watch = lambda: _check_patience(play, first_wait_s, idle_since)
    play.run(requests, 1e5)
    assert len(play.granted) == len(requests)


def _check_patience(play: Play, first: dict[str, float], idle: dict[str, float]) -> None:
    """Check that one who waits has a limit to its patience while a node is idle."""
    sut = play.scheduler
    free = [node for node in nodes_of(sut).values() if not node.in_flight and node.claim is None]
    waiting = sut._queue.all()
    if not free or not waiting:
        idle.clear()
        return
    until = idle.setdefault("any", play.now)
    for entry in waiting:
        first.setdefault(entry.request.id, entry.wait_s)
        until = max(until, entry.since + 2.0 * entry.wait_s + AGEING_S)
        late = play.now - until
        assert late <= 2 * TICK_S, f"{entry.request.id} waits beside an idle node"


def test_the_wait_of_each_is_bounded_by_those_ahead_under_saturation() -> None:
    """Priority 1 behind a stream of priority 10 that takes all there is."""
    play = Play(scheduler(view("a", "m", resident="m")), lambda _: 1.0, TICK_S)
    urgent = [asks(f"u{n}", "m", n * 1.0, priority=10, caller=f"u{n}") for n in range(300)]
    play.run([*urgent, asks("low", "m", 0.5, priority=1, caller="low")], 1000.0)
    assert play.wait_s("low") <= 9 * AGEING_S + 3.0


def test_a_lease_is_released_once_for_each_grant() -> None:
    """The play itself: it loses nothing."""

    def service_s(lease: Lease) -> float:
        return 1.0 + lease.id % 3

    play = Play(scheduler(view("a", "m", slots=2)), service_s, TICK_S)
    play.run([asks(f"r{n}", at=n * 0.1) for n in range(30)], 100.0)
    assert len(play.granted) == 30
    assert_clean(play.scheduler, play.now)
