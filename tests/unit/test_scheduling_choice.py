"""What a node costs, term by term with numbers worked out by hand, and which one is chosen."""

from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from sollol.scheduling import explain
from sollol.scheduling.choice import ALIKE, by_cost, by_rank, pick
from sollol.scheduling.cost import Prices, bound_s
from sollol.scheduling.decision import Obstacle, Option, Rule, Terms
from sollol.scheduling.demand import Demand
from sollol.scheduling.explore import FOLLOW_LOOKS, MAX_DEBT, Explorer
from sollol.scheduling.learning import Learner
from sollol.scheduling.lengths import Lengths
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.rates import RateBook
from sollol.scheduling.remaining import remaining_s
from sollol.scheduling.scheduler import Scheduler
from sollol.scheduling.state import Held, Node, Options, Runner, Shape
from sollol.scheduling.verdict import Verdict
from sollol.scheduling.work import Priced, Work
from sollol.types import Ask, Lease, Measured, NodeView, Task
from tests.scheduling import GB, asks, leases, nodes_of, view


def work(
    prompt: int = 100,
    output: int = 50,
    options: Options = (),
    conversation: int = 0,
    key: float = 0.0,
    level: float = 5.0,
) -> Work:
    return Work("m", prompt, output, options, conversation, key, level)


WORK = work()


class World:
    """One node with round numbers: 10 ms a prompt token, 20 ms an output token, a load takes 4 s."""

    def __init__(self, seen: NodeView) -> None:
        self.copies: dict[Shape, int] = {}
        self.demand = Demand()
        self.prices = Prices(self.demand, self.copies)
        self.sut = Scheduler(SchedulerLimits(10), Random(1))
        self.sut.node_changed(seen, 0.0)
        self.node: Node = nodes_of(self.sut)[seen.id]
        for runner in self.node.runners.values():
            runner.prefill_s, runner.decode_s, runner.load_s = 0.01, 0.02, 4.0
        self.node.set_slope(0.5)

    def runner(self, model: str = "m") -> Runner:
        return self.node.by_model[model]

    def price(self, model: str = "m", wanted: Work = WORK, now: float = 100.0) -> Priced:
        return self.prices.price(self.runner(model), wanted, now)


def hold(
    runner: Runner, number: int, ends_at: float, granted_at: float = 90.0, priority: int = 5
) -> None:
    lease = Lease(number, f"h{number}", runner.node.id, runner.key, 0.0)
    runner.running[number] = held = Held(
        lease, asks(f"h{number}", priority=priority), runner, runner.node, granted_at, ends_at, Terms(), 0, 0, 0,
        False,
    )  # fmt: skip
    runner.node.begin(held, granted_at)


def test_an_idle_node_costs_the_prompt_and_the_answer() -> None:
    priced = World(view("a", "m", resident="m")).price()
    assert priced.terms == Terms(prefill_s=1.0, decode_s=1.0)
    assert (priced.total_s, priced.can_start, priced.loads) == (2.0, True, False)


def test_what_is_cached_of_a_conversation_costs_nothing() -> None:
    world = World(view("a", "m", resident="m"))
    world.runner().conversations.remember(7, 50)
    world.runner().conversations.trust = 1.0
    later = work(conversation=7)
    priced = world.price(wanted=later)
    assert priced.terms == Terms(prefill_s=0.5, decode_s=1.0)
    assert priced.cached_tokens == 50
    assert bound_s(world.runner(), later) == pytest.approx(1.5)


def test_company_lengthens_the_answer_and_is_lengthened_by_it() -> None:
    world = World(view("a", "m", slots=2, resident="m"))
    hold(world.runner(), 1, 110.0)
    terms = world.price().terms
    assert terms.decode_s == pytest.approx(1.5)  # 50 * 20 ms * (1 + 0.5)
    assert terms.crowding_s == pytest.approx(1 * 0.5 * 1.0 * 0.5 / 1.5)
    assert terms.own_s == pytest.approx(2.5)


def test_a_full_runner_costs_the_wait_for_its_first_slot_and_those_ahead() -> None:
    world = World(view("a", "m", slots=2, resident="m"))
    hold(world.runner(), 1, 103.0)
    hold(world.runner(), 2, 107.0)
    priced = world.price()
    assert (priced.terms.wait_s, priced.obstacle) == (3.0, Obstacle.FULL)
    world.runner().backlog = [(-2.0, 1.5, "a"), (-1.0, 9.0, "b"), (1.0, 9.0, "c")]
    priced = world.price()  # slots are free at 3 and 7; those ahead take 3 to 4.5 and 4.5 to 13.5
    assert (priced.terms.wait_s, priced.obstacle) == (7.0, Obstacle.FULL)


def test_a_free_slot_that_another_waits_for_is_not_free() -> None:
    world = World(view("a", "m", resident="m"))
    world.runner().backlog = [(-1.0, 2.0, "a")]
    assert world.price().terms.wait_s == 2.0


def test_a_cold_model_costs_its_load_and_the_node_may_fail() -> None:
    world = World(view("a", "m"))
    world.node.failure_share = 0.5
    terms = world.price().terms
    assert (terms.load_s, terms.risk_s) == (4.0, 0.5 * (1.0 + 4.0 + 1.0))
    assert bound_s(world.runner(), WORK) == pytest.approx(6.0)


def test_a_load_under_way_is_waited_for() -> None:
    world = World(view("a", "mn", resident="m"))
    world.runner().ready_at = 102.5
    assert world.price().terms.load_s == 2.5
    other = world.price("n")
    assert (other.terms.wait_s, other.obstacle) == (2.5, Obstacle.LOADING)
    assert other.other is world.runner()


def test_who_must_leave_is_waited_for_and_missed() -> None:
    world = World(view("a", "mn", resident="n", memory_bytes=GB))
    world.runner("n").loaded_at = 0.0
    idle = world.price()
    assert (idle.terms.eviction_s, idle.can_start) == (0.0, True)
    for _ in range(60):
        world.demand.note("n", (), 100, 50, 100.0)
    world.copies["n", ()] = 1
    assert world.price().terms.eviction_s == 4.0  # asked for within two minutes, surely
    world.copies["n", ()] = 2
    assert world.price().terms.eviction_s == pytest.approx(2.0)
    hold(world.runner("n"), 1, 106.0)
    busy = world.price()
    assert (busy.terms.wait_s, busy.obstacle) == (6.0, Obstacle.BUSY)


def test_who_was_loaded_lately_stays_while_it_is_wanted() -> None:
    world = World(view("a", "mn", resident="n", memory_bytes=GB))
    world.runner("n").loaded_at = 95.0
    world.runner("n").backlog = [(-1.0, 1.0, "a")]
    priced = world.price()  # three loads of 4 s from 95 on
    assert priced.terms.wait_s == 7.0
    assert priced.obstacle is Obstacle.WANTED
    world.node.claim = world.runner()
    assert world.price().can_start


def test_room_that_is_made_for_another_model_is_not_free() -> None:
    world = World(view("a", "mno", resident="n", memory_bytes=GB))
    world.node.claim, world.node.leaving = world.runner("o"), (world.runner("n"),)
    for model in "mn":
        priced = world.price(model)
        assert priced.terms.wait_s == 4.0
        assert (priced.obstacle, priced.other) == (Obstacle.CLAIMED, world.runner("o"))


def test_other_options_than_the_loaded_ones_are_a_load() -> None:
    world = World(view("a", "m", resident="m"))
    other = work(options=(("num_ctx", 8192),))
    assert world.price(wanted=other).loads
    world.runner().num_ctx = 8192
    assert not world.price(wanted=other).loads
    world.runner().options = (("num_ctx", 4096),)
    assert world.price(wanted=other).loads
    assert not world.price(wanted=work(options=(("num_ctx", 4096),))).loads
    both = (("num_ctx", 4096), ("num_gpu", 1))
    assert world.price(wanted=work(options=both)).loads


def test_an_overdue_answer_takes_the_longer_the_longer_it_is_overdue() -> None:
    world = World(view("a", "m", resident="m"))
    hold(world.runner(), 1, 100.0, granted_at=90.0)
    held = world.runner().running[1]
    assert remaining_s(held, 95.0) == 5.0
    assert remaining_s(held, 100.0) == 1.0
    assert remaining_s(held, 110.0) == 5.0


@settings(max_examples=60, deadline=None)
@given(integers(0, 10**6))
def test_pruning_never_changes_the_winner(seed: int) -> None:
    rng = Random(seed)
    sut = Scheduler(SchedulerLimits(100), Random(seed))
    names = [f"n{number}" for number in range(rng.randint(2, 20))]
    for name in names:
        held = ["m"] if rng.random() < 0.6 else []
        sut.node_changed(view(name, "mx", slots=rng.randint(1, 2), resident=held), 0.0)
    for node in nodes_of(sut).values():
        runner = node.by_model["m"]
        runner.decode_s, runner.prefill_s = rng.uniform(0.001, 0.1), rng.uniform(0.0001, 0.01)
        runner.load_s, node.failure_share = rng.uniform(0.5, 30), rng.choice((0.0, 0.3))
        runner.conversations.remember(1, rng.randint(0, 900))
        runner.update_columns()
    for number in range(rng.randint(0, 30)):
        sut.submit(asks(f"r{number}", rng.choice("mmx"), 1.0, caller=str(number)), 1.0)
    wanted = work(1000, rng.choice((0, 10, 500)), (), rng.choice((0, 1)), rng.uniform(-60, 0))
    runners = [node.by_model["m"] for node in nodes_of(sut).values()]
    prices = sut._chooser._prices
    every = sorted(prices.price(r, wanted, 2.0).total_s for r in runners)
    fleet = sut._fleet
    request = asks("r", "m", 1.0)
    columns = fleet.eligible(request, 0)
    bounds = fleet.bounds_s(columns, wanted)
    found = by_cost(columns, bounds, lambda runner: prices.price(runner, wanted, 2.0), rng)
    assert found[0].total_s == every[0]
    alike = [total for total in every if total <= every[0] * ALIKE]
    assert [p.total_s for p in found][: len(alike)] == alike
    for runner in runners:
        assert bound_s(runner, wanted) <= prices.price(runner, wanted, 2.0).total_s * (1 + 1e-9)


def priced(
    runner: Runner, total_s: float, obstacle: Obstacle = Obstacle.NONE, *, loads: bool = False
) -> Priced:
    return Priced(runner, Terms(decode_s=total_s), total_s, 0, loads, obstacle, None)


def test_of_those_alike_any_is_picked_that_can_start() -> None:
    runner = World(view("a", "m")).runner()
    best, alike, waits = (
        priced(runner, 1.0, Obstacle.FULL),
        priced(runner, 1.005),
        priced(runner, 1.02),
    )
    assert pick([best], Random(1)) is best
    assert pick([best, waits], Random(1)) is best
    assert pick([best, alike, waits], Random(1)) is alike
    both = [priced(runner, 1.0), priced(runner, 1.0)]
    assert {id(pick(both, Random(seed))) for seed in range(20)} == {id(each) for each in both}


def test_policies_rank_what_has_a_free_slot() -> None:
    sut = Scheduler(SchedulerLimits(10), Random(1))
    sut.node_changed(view("a", "m", resident="m"), 0.0)
    sut.node_changed(replace(view("b", "m"), weight=3.0), 0.0)
    a, b = (nodes_of(sut)[name].by_model["m"] for name in "ab")
    a.node.last_grant = 5

    def best(name: str) -> Runner | None:
        return by_rank(POLICIES[name], [a, b], Random(1))

    assert best("resident_first") is a
    assert best("round_robin") is b
    assert best("weighted") is b
    hold(b, 1, 9.0)
    assert best("least_in_flight") is a
    hold(a, 2, 9.0)
    assert best("random") is None


def tries(share: float, requests: int, real: float | None) -> int:
    world = World(view("a", "m", resident="m"))
    best, worse = priced(world.runner(), 1.0), priced(world.runner(), 1.5)
    explorer = Explorer(share)
    made = 0
    for _ in range(requests):
        if explorer.candidate([best, worse], best, 100.0) is not None:
            made += 1
            if real is not None:
                explorer.tried(1.5, real)
    return made


@pytest.mark.parametrize("requests", [10, 99, 100, 101, 1000, 20_000])
def test_tries_stay_within_their_share_and_those_that_go_well_borrow_from_it(
    requests: int,
) -> None:
    share = 0.01
    assert tries(share, requests, None) <= share * requests
    assert tries(share, requests, 1.5) <= share * requests
    assert tries(0.0, requests, 0.5) == 0
    assert tries(share, requests, 0.5) <= share * requests + MAX_DEBT
    if requests > 101:
        assert tries(share, requests, 0.5) > share * requests


def test_where_no_try_is_worth_it_all_nodes_are_compared_now_and_then_only() -> None:
    best = priced(World(view("a", "m", resident="m")).runner(), 1.0)
    explorer = Explorer(0.01)
    due = 0
    for _ in range(1100):
        due += explorer.is_due
        assert explorer.candidate([best], best, 100.0) is None
    assert 0 < due <= 55
    explorer.tried(1.0, 0.5)
    looks = 0
    while explorer.is_due:
        looks += 1
        assert explorer.candidate([best], best, 100.0) is None
    assert 0 < looks <= FOLLOW_LOOKS


def evicting(runner: Runner, total_s: float) -> Priced:
    """Return a runner whose load pushes another model out."""
    candidate = priced(runner, total_s, loads=True)
    candidate.terms = msgspec.structs.replace(candidate.terms, eviction_s=0.5)
    return candidate


def test_a_try_never_waits_pushes_out_or_costs_many_times_the_best() -> None:
    runner = World(view("a", "m", resident="m")).runner()
    best = priced(runner, 1.0)
    dear = [
        priced(runner, 1.5, Obstacle.FULL),
        evicting(runner, 1.5),
        priced(runner, 8.1),
    ]
    explorer = Explorer(1.0)
    assert explorer.candidate([best], best, 100.0) is None
    assert explorer.is_due
    assert explorer.candidate([best, *dear], best, 100.0) is None
    assert explorer.candidate([best, dear[0]], best, 100.0) is None
    assert explorer.candidate([best, priced(runner, 1.5, loads=True)], best, 100.0) is not None
    runner.rates.decode.add(0.01, 95.0)
    assert explorer.candidate([best, priced(runner, 1.5)], best, 100.0) is None
    assert explorer.candidate([best, priced(runner, 1.5)], best, 200.0) is None  # never was better
    for _ in range(9):
        runner.rates.decode.add(0.04, 95.0)
    assert explorer.candidate([best, priced(runner, 1.5)], best, 200.0) is not None


def fleet_play(requests: int, factor: dict[str, float], sut: Scheduler, now: float) -> list[str]:
    """Run requests one after another on nodes of some slowness; return where they went."""
    went = []
    for number in range(requests):
        (lease,) = leases(sut.submit(asks(f"{now}-{number}", at=now), now))
        seconds = 3.0 * factor[lease.node_id]
        now += seconds
        measured = Measured(
            prompt_tokens=100, prompt_s=0.01 * factor[lease.node_id], output_tokens=300,
            output_s=seconds, total_s=seconds,
        )  # fmt: skip
        sut.release(lease, now, measured)
        went.append(lease.node_id)
    return went


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_slows_down_loses_its_traffic_and_regains_it(seed: int) -> None:
    sut = Scheduler(SchedulerLimits(10, explore_share=0.05), Random(seed))
    for name in "ab":
        sut.node_changed(view(name, "m", resident="m"), 0.0)
    fleet_play(30, {"a": 1.0, "b": 1.5}, sut, 10.0)
    assert fleet_play(10, {"a": 1.0, "b": 1.5}, sut, 1000.0).count("a") >= 9
    slowed = fleet_play(40, {"a": 5.0, "b": 1.5}, sut, 2000.0)
    assert slowed[20:].count("a") <= 3
    back = fleet_play(80, {"a": 1.0, "b": 1.5}, sut, 9000.0)
    assert back[40:].count("a") >= 30


LEARN = Measured(
    load_s=2.0, prompt_tokens=100, prompt_s=1.0, output_tokens=50, output_s=2.0, total_s=5.0
)


def learned(measured: Measured, ask: Ask, **held_changes: object) -> Runner:
    world = World(view("a", "m", resident="m"))
    runner = world.runner()
    hold(runner, 1, 110.0)
    held = runner.running[1]
    held.request = asks("r", ask=ask)
    held.prompt_tokens = 100
    for name, value in held_changes.items():
        setattr(held, name, value)
    Learner(RateBook(), Lengths()).learn(held, measured, 100.0)
    return runner


def test_an_answer_tells_the_speeds_and_the_conversation() -> None:
    runner = learned(LEARN, Ask(task=Task.CHAT, conversation=7))
    rates = runner.rates
    assert rates.load.mean == pytest.approx(2.0)
    assert rates.prefill.mean == pytest.approx(0.01)
    assert rates.decode.mean == pytest.approx(0.04)
    assert runner.conversations.cached_tokens(7, 1000) == int(150 * 0.8 * 1.01)


def test_what_was_not_told_is_not_learned() -> None:
    for measured in (Measured(output_tokens=50, output_s=1.0), Measured(total_s=9.0)):
        rates = learned(measured, Ask(task=Task.CHAT)).rates
        assert (rates.load.count, rates.prefill.count, rates.decode.count) == (0, 0, 0)
    short = replace_measured(LEARN, output_tokens=5, prompt_tokens=5, load_s=0.2)
    rates = learned(short, Ask(task=Task.CHAT)).rates
    assert (rates.load.count, rates.prefill.count, rates.decode.count) == (0, 0, 0)


def replace_measured(measured: Measured, **changes: float | None) -> Measured:
    fields = {name: getattr(measured, name) for name in measured.__struct_fields__}
    return Measured(**{**fields, **changes})


def test_a_stream_without_counts_is_timed_by_its_pieces() -> None:
    streamed = Measured(first_byte_s=1.0, total_s=5.0, pieces=100)
    rates = learned(streamed, Ask(task=Task.CHAT)).rates
    assert rates.prefill.mean == pytest.approx(0.01)
    assert rates.decode.mean == pytest.approx(0.04)


def test_an_embedding_is_all_prompt() -> None:
    embed = Ask(task=Task.EMBED)
    assert learned(Measured(total_s=2.0), embed).rates.prefill.mean == pytest.approx(0.02)
    told = Measured(load_s=0.1, node_total_s=1.1, total_s=2.0)
    assert learned(told, embed).rates.prefill.mean == pytest.approx(0.01)
    assert learned(Measured(total_s=2.0), embed, loads=True).rates.prefill.count == 0


def test_what_was_to_be_cached_is_verified_by_count_or_by_time() -> None:
    chat = Ask(task=Task.CHAT, conversation=7)
    counted = learned(replace_measured(LEARN, cached_tokens=80), chat)
    assert counted.rates.prefill.mean == pytest.approx(0.05)
    timed = learned(LEARN, chat, cached_tokens=50)
    assert timed.rates.prefill.count == 0


def test_sentences_say_why() -> None:
    world = World(view("a", "m", resident="m"))
    best, other = priced(world.runner(), 1.0), priced(world.runner(), 2.0)
    full = priced(world.runner(), 1.0, Obstacle.FULL)
    world_b = World(view("b", "m", resident="m"))
    other.runner = world_b.runner()

    def say(rule: Rule, options: list[Priced], considered: int = 2) -> str:
        verdict = Verdict(
            asks("r"), WORK, "weighted", options, considered, rule, best,
            None if rule in (Rule.WAIT, Rule.CALLER) else best,
        )  # fmt: skip
        return explain.sentence(explain.decision(verdict, 0.0))

    assert say(Rule.COST, []) == "no node could be compared"
    assert say(Rule.COST, [best], 1) == "a is the only node for it; predicted 1.00 s"
    assert say(Rule.COST, [best]) == "a has the answer soonest, in 1.00 s"
    assert say(Rule.COST, [best, other]).endswith("1.00 s; b would cost 1.00 s more")
    assert say(Rule.WAIT, [full]).endswith("all the same: its slots are taken or spoken for")
    assert "as many requests" in say(Rule.CALLER, [best])
    assert "next by policy weighted" in say(Rule.POLICY, [best])
    assert "is tried" in say(Rule.EXPLORE, [best])
    assert "longer wait" in say(Rule.PATIENCE, [best])
    unknown = Option("a", None, True, True, 0)
    verdict = Verdict(asks("r"), WORK, "p", [best], 2, Rule.COST, best, best)
    plain = explain.decision(verdict, 0.0)
    told = explain.sentence(type(plain)(
        plain.request_id, plain.model, 0.0, "p", "a", Rule.COST, (unknown,), 2
    ))  # fmt: skip
    assert told == "a has the answer soonest, in an unknown time"


def test_a_share_is_what_a_request_takes_of_all_slots() -> None:
    world = World(view("a", "m", slots=2, resident="m"))
    best = priced(world.runner(), 6.0)
    verdict = Verdict(asks("r"), WORK, "fastest", [best], 3, Rule.COST, best, best)
    assert verdict.share_s() == 1.0
    verdict.best = None
    assert verdict.share_s() == 0.0
