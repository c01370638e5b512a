"""What is learned: averages, speeds, lengths, demand, rates, memory, conversations."""

from dataclasses import replace
from math import exp, log
from random import Random

import pytest

from sollol.scheduling.affinity import DROPPED, FIRST_TRUST, PER_SLOT, Conversations, Homes
from sollol.scheduling.average import Average
from sollol.scheduling.capacity import Capacity
from sollol.scheduling.demand import MAX_SHAPES, OTHERS, WINDOW_S, Demand
from sollol.scheduling.fleet import Fleet
from sollol.scheduling.lengths import (
    IMAGE_TOKENS,
    MAX_KEYS,
    OUTPUT_TOKENS,
    TEMPLATE_TOKENS,
    Lengths,
)
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.memory import begin_load, reconcile, victims
from sollol.scheduling.rates import RateBook
from sollol.scheduling.speeds import UNKNOWN_BYTES, Speeds
from sollol.scheduling.state import LOCAL_TRUTH_S, Node, Runner
from sollol.types import Ask, Measured, NodeView, Task
from tests.scheduling import GB, view

CTX = (("num_ctx", 8192),)
CHAT = Ask(task=Task.CHAT, prompt_bytes=4000)


def test_an_average_is_geometric_and_forgets() -> None:
    average = Average()
    average.add(0.0, 1.0)
    assert (average.count, average.mean) == (0, 0.0)
    average.add(1.0, 2.0)
    average.add(4.0, 3.0)
    assert average.mean == pytest.approx(2.0)
    assert average.best == pytest.approx(1.02)
    assert average.seen_at == 3.0
    for _ in range(4):
        average.add(2.0, 4.0)
    average.add(20.0, 5.0)
    assert average.mean == pytest.approx(exp((log(2.0) + log(20.0)) / 2))


def test_an_average_is_kept_between_runs() -> None:
    average = Average()
    for value in (1.0, 2.0, 3.0):
        average.add(value, 0.0)
    again = Average.from_list(average.as_list())
    assert again.count == 3
    assert again.mean == pytest.approx(average.mean)
    for wrong in ([61.0, 0.0, 1.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match=r"average|unpack"):
            Average.from_list(wrong)


def test_speeds_of_pairs_never_seen_follow_from_node_model_and_bytes() -> None:
    speeds = Speeds(100.0)
    assert speeds.expected_s("a", "m", 200) == pytest.approx(2.0)
    quick = Speeds(1e9)
    assert quick.expected_s("a", "m", 0) == pytest.approx(UNKNOWN_BYTES / 1e9)
    speeds.learn("a", "m", 200, 8.0)
    assert speeds.expected_s("a", "m", 200) == pytest.approx(8.0)
    assert speeds.expected_s("a", "n", 100) == pytest.approx(4.0)
    assert speeds.expected_s("new", "n", 100) == pytest.approx(4.0)  # as the nodes that are known
    for _ in range(50):
        speeds.learn("a", "m", 200, 2.0)
    assert speeds.expected_s("a", "m", 200) == pytest.approx(2.0, rel=0.01)
    speeds.forget_node("a")
    assert speeds.expected_s("a", "other", 200) == pytest.approx(2.0)  # as if no node were known


def test_lengths_of_prompts_are_calibrated_by_model() -> None:
    lengths = Lengths()
    assert lengths.prompt_tokens("m", CHAT) == 1000 + TEMPLATE_TOKENS
    pictures = Ask(images=2, inputs=3)
    assert lengths.prompt_tokens("m", pictures) == 2 * IMAGE_TOKENS + 3 * TEMPLATE_TOKENS
    lengths.learn("m", CHAT, "", Measured(prompt_tokens=2000 + TEMPLATE_TOKENS))
    assert lengths.prompt_tokens("m", CHAT) == 2000 + TEMPLATE_TOKENS
    assert lengths.prompt_tokens("n", CHAT) == 1000 + TEMPLATE_TOKENS
    lengths.learn("m", replace_ask(images=1), "", Measured(prompt_tokens=9))
    lengths.learn("m", Ask(prompt_bytes=10), "", Measured(prompt_tokens=9))
    assert lengths.prompt_tokens("m", CHAT) == 2000 + TEMPLATE_TOKENS


def replace_ask(images: int) -> Ask:
    return Ask(task=Task.CHAT, prompt_bytes=4000, images=images)


def test_lengths_of_answers_are_those_of_the_caller_then_of_all_then_of_all_models() -> None:
    lengths = Lengths()
    assert lengths.output_tokens("m", CHAT, "x") == OUTPUT_TOKENS
    lengths.learn("m", CHAT, "x", Measured(output_tokens=50))
    lengths.learn("m", CHAT, "y", Measured(pieces=150))
    assert lengths.output_tokens("m", CHAT, "x") == 50
    assert lengths.output_tokens("m", CHAT, "z") == 60
    assert lengths.output_tokens("n", CHAT, "z") == 60
    assert lengths.output_tokens("n", Ask(task=Task.EMBED), "z") == 0
    limited = Ask(task=Task.CHAT, max_output_tokens=10)
    assert lengths.output_tokens("m", limited, "x") == 10
    lengths.learn("m", limited, "x", Measured(output_tokens=10))  # cut short: tells nothing
    lengths.learn("m", Ask(task=Task.EMBED), "x", Measured(output_tokens=9))
    lengths.learn("m", CHAT, "x", Measured())
    assert lengths.output_tokens("m", CHAT, "x") == 50
    assert lengths.output_tokens("m", Ask(task=Task.CHAT, max_output_tokens=900), "x") == 50


def test_lengths_are_bounded_and_kept_between_runs() -> None:
    lengths = Lengths()
    for number in range(MAX_KEYS + 10):
        lengths.learn("m", CHAT, f"c{number}", Measured(prompt_tokens=1012, output_tokens=20))
    assert len(lengths._outputs) == MAX_KEYS
    kept = lengths.as_lists()
    assert kept["outputs"] == [["m", "chat", "", 20.0], ["", "chat", "", 20.0]]
    again = Lengths()
    assert again.take(kept) == 0
    assert again.as_lists() == kept
    for wrong in ("x", 0, 1e10):
        assert again.take({"tokens_per_byte": [], "outputs": [["m", "chat", "", wrong]]}) == 1
    assert again.as_lists() == kept


def test_choices_of_options_are_counted_apart_up_to_a_bound() -> None:
    demand = Demand()
    for context in range(10 * MAX_SHAPES):
        demand.note("m", (("num_ctx", context),), 100, 50, 0.0)
    assert len(demand._models["m"].shapes) == MAX_SHAPES + 1
    assert demand.rate("m", 0.0) == pytest.approx(10 * MAX_SHAPES / WINDOW_S)
    assert demand.shape_rate("m", (("num_ctx", 0),), 0.0) == pytest.approx(1 / WINDOW_S)
    assert demand.shape_rate("m", OTHERS, 0.0) == pytest.approx(9 * MAX_SHAPES / WINDOW_S)
    demand.forget_idle(20 * WINDOW_S)
    assert demand.models() == ()


def test_demand_is_a_rate_that_fades() -> None:
    demand = Demand()
    assert demand.rate("m", 0.0) == 0.0
    for _ in range(12):
        demand.note("m", (), 100, 50, 0.0)
    demand.note("n", CTX, 100, 50, 0.0)
    assert demand.rate("m", 0.0) == pytest.approx(0.1)
    assert demand.rate("m", WINDOW_S) == pytest.approx(0.1 / 2.71828, rel=1e-4)
    assert demand.shape_rate("m", (), 0.0) == pytest.approx(0.1)
    assert demand.shape_rate("m", CTX, 0.0) == 0.0
    assert demand.shape_rate("n", CTX, 0.0) == pytest.approx(1 / WINDOW_S)
    demand.forget_idle(10 * WINDOW_S)
    assert demand.rate("m", 0.0) > 0.0
    demand.forget_idle(10 * WINDOW_S + 1)
    assert demand.rate("m", 0.0) == 0.0


def test_capacity_is_what_was_told() -> None:
    capacity = Capacity(100)
    assert capacity.has_room(100, 9)
    assert not capacity.has_room(101, 1)


def test_capacity_is_learned_from_what_had_to_leave() -> None:
    capacity = Capacity(None)
    assert capacity.has_room(10**15, 99)
    capacity.seen_together(100, 2)
    capacity.seen_too_much(150, 3)
    capacity.seen_too_much(180, 3)
    assert capacity.has_room(149, 3)
    assert not capacity.has_room(150, 3)
    capacity.seen_too_much(90, 3)  # bytes would have fitted, so it was their number
    assert not capacity.has_room(50, 3)
    assert capacity.has_room(50, 2)
    capacity.seen_too_much(90, 2)  # neither more bytes nor more models than fitted: tells nothing
    assert capacity.has_room(50, 2)
    capacity.seen_together(160, 3)
    assert capacity.has_room(10**15, 99)


def test_a_conversation_is_worth_what_its_runner_is_believed() -> None:
    homes: Homes = {}
    known = Conversations(1, "runner", homes)
    known.remember(0, 500)
    assert len(known) == 0
    known.remember(7, 1000)
    assert homes == {7: {"runner": None}}
    assert known.cached_tokens(8, 2000) == 0
    trust = FIRST_TRUST * 1.01
    assert known.trust == pytest.approx(trust)
    assert known.cached_tokens(7, 2000) == int(1000 * trust)
    assert known.cached_tokens(7, 500) == int(499 * trust)
    known.verify(7, 2000, 2000)
    assert known.trust == pytest.approx(trust * 0.85)
    known.verify(7, 0, 2000)
    assert known.trust == pytest.approx(trust * 0.85 + 0.15 * (1 - trust * 0.85))
    before = known.trust
    known.verify(8, 10, 2000)
    known.verify(7, 10, 5000)
    assert known.trust == before
    for _ in range(20):
        known.verify(7, 2000, 2000)
    assert known.trust < DROPPED
    assert known.cached_tokens(7, 2000) == 0
    for number in range(PER_SLOT + 5):
        known.remember(100 + number, 10)
    assert len(known) == PER_SLOT
    other = Conversations(1, "other", homes)
    other.remember(100 + PER_SLOT, 10)
    known.forget()
    assert len(known) == 0
    assert homes == {100 + PER_SLOT: {"other": None}}


def node_of(seen: NodeView) -> Node:
    return Fleet(RateBook(), SchedulerLimits(10)).change(seen, 0.0)


def test_idle_models_leave_first_and_those_not_used_for_longest() -> None:
    names = "abcd"
    node = node_of(view("n", names, resident="abc", memory_bytes=3 * GB))
    a, b, c, d = (node.by_model[name] for name in names)
    a.used_at, b.used_at, c.used_at = 3.0, 1.0, 2.0
    d.need_bytes = GB
    assert victims(d) == [b]
    b.running[1] = None  # type: ignore[assignment]
    assert victims(d) == [c]
    d.need_bytes = 9 * GB
    assert victims(d) == [c, a, b]
    assert victims(a) == []


def test_a_load_is_believed_until_a_poll_can_know_better() -> None:
    seen = view("n", "ab", resident="a", memory_bytes=GB)
    node = node_of(seen)
    a, b = node.by_model["a"], node.by_model["b"]
    begin_load(b, CTX, 2.0, 20.0)
    assert (a.is_resident, b.is_resident, b.ready_at) == (False, True, 22.0)
    assert b.shape == ("b", CTX)
    assert node.loading(21.0) is b
    reconcile(node, seen, 20.0 + LOCAL_TRUTH_S - 1)
    assert (a.is_resident, b.is_resident) == (False, True)
    reconcile(node, seen, 20.0 + LOCAL_TRUTH_S)
    assert (a.is_resident, b.is_resident) == (True, False)


def test_a_poll_that_sees_one_come_and_one_go_tells_what_does_not_fit() -> None:
    fleet = Fleet(RateBook(), SchedulerLimits(10))
    node = fleet.change(view("n", "ab", resident="a"), 0.0)
    fleet.change(view("n", "ab", resident="b"), 20.0)
    assert node.capacity.full_bytes == 2 * GB
    assert node.by_model["b"].is_resident
    fleet.settle(100.0)
    assert not fleet._unsure


def test_a_model_partly_on_the_cpu_is_expected_to_be_slow() -> None:
    seen = view("n", "ab", resident="a")
    half = replace(seen.resident["a"], vram_bytes=GB // 2)
    node = node_of(replace(seen, resident={"a": half}))
    assert node.by_model["a"].cpu_share == 0.5
    assert node.by_model["a"].decode_s == pytest.approx(5.5 * node.by_model["b"].decode_s)
    unknown = replace(half, size_bytes=0, vram_bytes=0)
    assert node_of(replace(seen, resident={"a": unknown})).by_model["a"].cpu_share == 0.0


def book() -> tuple[RateBook, Runner]:
    rates = RateBook()
    node = Fleet(rates, SchedulerLimits(10)).change(view("n", "ab", resident="a"), 0.0)
    return rates, node.by_model["a"]


def test_loads_too_short_to_be_one_tell_nothing() -> None:
    rates, runner = book()
    rates.learn_load(runner, 0.05, 1.0)
    assert runner.load_s == pytest.approx(1.0)
    rates.learn_load(runner, 4.0, 1.0)
    assert runner.load_s == pytest.approx(4.0)


def test_prompts_evaluated_too_fast_were_cached_until_there_are_many() -> None:
    rates, runner = book()
    for _ in range(3):
        rates.learn_prefill(runner, 100, 1.0, 1.0, is_exact=False)
    slow = runner.prefill_s
    for _ in range(7):
        rates.learn_prefill(runner, 100, 0.1, 2.0, is_exact=False)
    assert runner.prefill_s == slow
    rates.learn_prefill(runner, 100, 0.1, 2.0, is_exact=False)
    assert runner.prefill_s < slow / 2
    rates.learn_prefill(runner, 100, 0.01, 2.0, is_exact=True)
    assert runner.rates.quick == 0


def test_what_company_costs_is_learned_and_kept_while_the_node_is_known() -> None:
    rates, runner = book()
    for _ in range(4):
        rates.learn_decode(runner, 0.01, 1.0, 1.0)
    for _ in range(200):
        rates.learn_decode(runner, 0.02, 2.0, 1.0)
    assert runner.node.slope > 0.25
    rates.join(runner.node)
    assert runner.node.slope > 0.25
    rates.forget_node("n")
    rates.join(runner.node)
    assert runner.node.slope == 0.2
    rates.refresh([runner.node])
    rates.refresh([runner.node])


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_that_nodes_report_breaks_nothing(seed: int) -> None:
    rng = Random(seed)
    rates, runner = book()
    for _ in range(200):
        rates.learn_load(runner, rng.choice((0.0, 1e-9, 1e12)), 1.0)
        rates.learn_prefill(
            runner, rng.choice((16, 10**9)), rng.choice((1e-9, 1e12)), 1.0, is_exact=True
        )
        rates.learn_decode(runner, rng.choice((1e-12, 1e12)), rng.choice((0.0, 1.0, 50.0)), 1.0)
    for seconds in (runner.load_s, runner.prefill_s, runner.decode_s):
        assert 0.0 < seconds < float("inf")
