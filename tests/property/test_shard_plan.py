"""Shard plans: whatever the model and the workers, a plan holds what it promises."""

import struct
from dataclasses import replace
from functools import reduce
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings, strategies as st

from sollol.errors import DoesNotFit
from sollol.sharding.alternatives import alternatives
from sollol.sharding.cache_layout import LayerCache
from sollol.sharding.facts import ModelFacts, Unit
from sollol.sharding.memory import MIB, MemoryModel, RunOptions
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, find_plan, plan_shards
from sollol.sharding.prediction import Link

GB = 10**9
LOCAL = "local", Link(5e-5, 2.5e9)
caches = st.builds(
    LayerCache,
    kv_heads=st.sampled_from([0, 1, 8]),
    key_length=st.sampled_from([64, 128]),
    value_length=st.sampled_from([0, 128]),
    window=st.sampled_from([0, 0, 512]),
    state_bytes=st.sampled_from([0, 0, MIB]),
)


@st.composite
def units(draw: st.DrawFn) -> Unit:
    weights = draw(st.integers(0, 400)) * MIB
    experts = draw(st.integers(0, 1)) * weights // 2
    return Unit(weights, experts, draw(st.integers(0, weights)), draw(caches))


@st.composite
def models(draw: st.DrawFn) -> ModelFacts:
    layers = draw(st.lists(units(), min_size=1, max_size=12))
    output = Unit(draw(st.integers(1, 600)) * MIB, 0, MIB)
    return ModelFacts(
        architecture="llama",
        name="drawn",
        context_length=8192,
        embedding_length=1024,
        activation_width=draw(st.integers(1024, 20000)),
        vocabulary=draw(st.integers(1000, 100_000)),
        experts=8,
        experts_used=2,
        has_chat_template=True,
        file_bytes=GB,
        input_bytes=100 * MIB,
        shared_bytes=draw(st.integers(0, 1000)),
        side_bytes=0,
        units=(*layers, output),
    )


def fleet_of(memories: list[int], *, host_bytes: int = 8 * GB, near: int = 0) -> Fleet:
    workers = tuple(
        Worker(f"w{number}", f"h{number}", memory, 20e9) for number, memory in enumerate(memories)
    )
    links = {
        worker.name: Link(1e-4 if number < near else 1e-3, 118e6)
        for number, worker in enumerate(workers)
    }
    return Fleet(workers, (Coordinator("gateway", host_bytes, 20e9, links),))


memories_drawn = st.lists(st.integers(64, 3000).map(lambda mib: mib * MIB), max_size=6)
options_drawn = st.builds(
    RunOptions,
    context_length=st.integers(1, 16384),
    slots=st.integers(1, 4),
    key_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    value_type=st.sampled_from(["f16", "q8_0"]),
)


def placed_by_llama_cpp(plan: Plan) -> list[int]:
    """Return the unit count of each device as llama.cpp computes it, in 32-bit floats."""

    def single(number: float) -> float:
        value: float = struct.unpack("f", struct.pack("f", number))[0]
        return value

    parts = [float(part) for part in plan.tensor_split.split(",")]
    sums = [sum(parts[: index + 1]) for index in range(len(parts))]
    splits = [single(part / sums[-1]) for part in sums]
    counts = [0] * len(parts)
    for unit in range(plan.gpu_layers):
        share = single(unit / plan.gpu_layers)
        counts[next(index for index, end in enumerate(splits) if end > share)] += 1
    return counts


def check(plan: Plan) -> None:
    starts = [share.first for share in plan.shares]
    ends = [share.end for share in plan.shares]
    assert [*starts[:1], *ends] == [plan.cpu_layers, *starts[1:], len(plan.facts.units)]
    assert all(first < end for first, end in zip(starts, ends, strict=True))
    memory = MemoryModel(plan.facts, plan.options)
    for share in plan.shares:
        assert share.memory == memory.device(share.first, share.end)
        assert share.memory.total_bytes <= share.worker.memory_bytes
    assert plan.coordinator_bytes <= plan.coordinator.memory_bytes
    assert placed_by_llama_cpp(plan) == [share.end - share.first for share in plan.shares]
    assert plan.expectation.tokens_per_s > 0
    assert plan.expectation.load_s > plan.expectation.cached_load_s > 0


@given(models(), options_drawn, memories_drawn)
@settings(max_examples=150, deadline=None)
def test_a_plan_covers_every_unit_once_and_nothing_is_over_its_memory(
    facts: ModelFacts, options: RunOptions, memories: list[int]
) -> None:
    fleet = fleet_of(memories)
    plan = find_plan(facts, options, fleet)
    if plan is not None:
        check(plan)
        assert plan == plan_shards(facts, options, fleet)
    else:
        with pytest.raises(DoesNotFit, match=r"needs .* [GM]B"):
            plan_shards(facts, options, fleet)


@given(models(), options_drawn, memories_drawn, st.integers(64, 3000))
@settings(max_examples=150, deadline=None)
def test_one_more_worker_never_makes_it_impossible_nor_needs_more_of_them(
    facts: ModelFacts, options: RunOptions, memories: list[int], another_mib: int
) -> None:
    before = find_plan(facts, options, fleet_of(memories))
    after = find_plan(facts, options, fleet_of([*memories, another_mib * MIB]))
    if before is not None:
        assert after is not None
        assert len(after.shares) <= len(before.shares)


@given(models(), memories_drawn, st.integers(1, 1000))
@settings(deadline=None)
def test_more_memory_of_a_worker_never_makes_it_impossible(
    facts: ModelFacts, memories: list[int], more_mib: int
) -> None:
    before = find_plan(facts, RunOptions(), fleet_of(memories))
    grown = [memories[0] + more_mib * MIB, *memories[1:]] if memories else []
    after = find_plan(facts, RunOptions(), fleet_of(grown))
    if before is not None:
        assert after is not None
        assert len(after.shares) <= len(before.shares)


@given(models(), st.lists(st.integers(64, 2000).map(lambda mib: mib * MIB), max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_smaller_set_and_no_other_order_would_do(facts: ModelFacts, memories: list[int]) -> None:
    memory = MemoryModel(facts, RunOptions())

    def filled(at: int, size: int) -> int:
        fitting = [
            end
            for end in range(at + 1, len(facts.units) + 1)
            if memory.device(at, end).total_bytes <= size
        ]
        return max(fitting, default=at)

    def holds(order: tuple[int, ...]) -> bool:
        return reduce(filled, order, 0) == len(facts.units)

    sizes = [
        count
        for count in range(len(memories) + 1)
        for order in permutations(memories, count)
        if holds(order)
    ]
    plan = find_plan(facts, RunOptions(), fleet_of(memories))
    assert (plan is None) == (not sizes)
    assert plan is None or len(plan.shares) == min(sizes)


@given(models(), options_drawn, memories_drawn)
@settings(max_examples=60, deadline=None)
def test_alternatives_are_plans_that_need_fewer_workers(
    facts: ModelFacts, options: RunOptions, memories: list[int]
) -> None:
    fleet = fleet_of(memories, host_bytes=4 * GB)
    plan = find_plan(facts, options, fleet)
    for alternative in alternatives(facts, options, fleet, plan, LOCAL):
        check(alternative.plan)
        assert plan is None or len(alternative.plan.shares) < len(plan.shares)


@given(models(), st.integers(0, 12), st.integers(0, 12))
@settings(deadline=None)
def test_a_longer_run_of_units_needs_more(facts: ModelFacts, first: int, length: int) -> None:
    memory = MemoryModel(facts, RunOptions())
    first = min(first, len(facts.units) - 1)
    ends = range(first + 1, min(first + length, len(facts.units)) + 1)
    totals = [memory.device(first, end).total_bytes for end in ends]
    assert all(less <= more for less, more in pairwise(totals))


@given(models())
@settings(deadline=None)
def test_less_context_and_smaller_types_never_need_more(facts: ModelFacts) -> None:
    def needed(options: RunOptions) -> int:
        return MemoryModel(facts, options).device(0, len(facts.units)).total_bytes

    options = RunOptions(8192, 2)
    assert needed(replace(options, context_length=4096)) <= needed(options)
    assert needed(replace(options, slots=1)) <= needed(options)
    assert needed(replace(options, key_type="q8_0", value_type="q8_0")) <= needed(options)
