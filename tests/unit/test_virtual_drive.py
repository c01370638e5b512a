"""Workloads replayed through the scheduler over virtual nodes."""

from dataclasses import replace
from random import Random

import pytest

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.fleets import FLEETS, HETEROGENEOUS, HOMOGENEOUS, Fleet
from sollol.bench.outcome import Replay, classes, mean, quantile, summarise
from sollol.bench.sim.config import SimConfig
from sollol.bench.text import tables
from sollol.bench.virtual.compare import find_load, is_carried, replay
from sollol.bench.virtual.drive import Drive, Slowdown
from sollol.bench.virtual.gateway import Gateway, GatewayTimes, measure
from sollol.bench.virtual.loop import EventLoop
from sollol.bench.virtual.node import VirtualNode, Visit
from sollol.bench.virtual.policies import make_scheduler
from sollol.bench.workload import MODELS, Request, synthetic, text_ask
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Task

POLICY = "resident_first"
ALL = (*POLICIES, *DIRECT_POLICIES)
NAME = MODELS[0].name
NODE = SimConfig(models=MODELS, vram_gib=24.0, slots=2)


def run(policy: str, fleet: Fleet = HETEROGENEOUS, *, rate: float = 0.5, seed: int = 1) -> Replay:
    requests = synthetic(rate_per_s=rate, requests=300, seed=seed)
    return replay(policy, fleet, requests, seed=seed, make_scheduler=make_scheduler)


def request(at: float, *, model: str = NAME, output: int = 50) -> Request:
    return Request(at, model, text_ask(Task.CHAT, 100), 100, output)


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
@pytest.mark.parametrize("policy", ALL)
def test_every_request_is_answered_and_no_slots_are_exceeded(policy: str, fleet: Fleet) -> None:
    result = run(policy, fleet)
    assert {record.outcome for record in result.records} == {"served"}
    assert sum(map(len, [result.records])) == 300
    for name, counts in result.max_running.items():
        assert all(most <= fleet.nodes[name].slots for most in counts.values())


@pytest.mark.parametrize("policy", ALL)
def test_the_same_seed_gives_the_same_records(policy: str) -> None:
    assert run(policy, seed=3).digest == run(policy, seed=3).digest
    assert run(policy, seed=3).digest != run(policy, seed=4).digest


@pytest.mark.parametrize("policy", POLICIES)
def test_the_gateway_sends_no_more_than_a_node_has_slots_for(policy: str) -> None:
    """So nobody waits for a slot on a node, but for embeddings, which have one slot there."""
    for record in run(policy, rate=3.0).records:
        assert record.node_wait_s == 0.0 or "embed" in record.model


@pytest.mark.parametrize("policy", ALL)
def test_latency_is_made_of_its_parts(policy: str) -> None:
    for record in run(policy).records:
        assert record.first_byte_s <= record.latency_s
        waits_s = record.queue_wait_s + record.load_s + record.node_wait_s
        assert waits_s < record.first_byte_s
        assert record.service_s == pytest.approx(record.latency_s - record.queue_wait_s)


def test_nothing_is_in_flight_at_the_end() -> None:
    drive = Drive(HOMOGENEOUS.nodes, synthetic(rate_per_s=2.0, requests=200, seed=1))
    gateway = Gateway(drive, make_scheduler(POLICY, Random(1)))
    drive.run(gateway)
    assert gateway.scheduler.statistics().total_in_flight == 0
    assert gateway.scheduler.statistics().queue_length == 0
    assert all(node.in_flight == 0 for node in drive.nodes.values())


def test_a_request_waits_in_the_gateway_while_all_slots_are_taken() -> None:
    fleet = Fleet("one", {"n": NODE})
    requests = [request(0.0), request(0.0), request(0.0)]
    result = replay(POLICY, fleet, requests, seed=1, make_scheduler=make_scheduler)
    waits = sorted(record.queue_wait_s for record in result.records)
    assert waits[1] == 0.0
    assert waits[2] > 0.0


def test_a_request_that_waits_too_long_is_refused() -> None:
    requests = [request(0.0, output=2000), request(0.0, output=2000), request(1.0)]
    drive = Drive({"n": NODE}, requests)
    scheduler = make_scheduler(POLICY, Random(1))
    result = drive.run(Gateway(drive, scheduler, GatewayTimes(queue_timeout_s=5.0)))
    assert [record.outcome for record in result.records] == ["served", "served", "queue_timeout"]
    assert result.records[2].latency_s == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("policy", ALL)
def test_a_model_that_no_node_has_is_refused(policy: str) -> None:
    requests = [request(0.0, model="nobody/has:it")]
    fleet = Fleet("one", {"n": NODE})
    result = replay(policy, fleet, requests, seed=1, make_scheduler=make_scheduler)
    assert result.records[0].outcome == "model_not_found"


def test_a_node_that_refuses_gives_the_slot_back() -> None:
    """Its scheduler believes that there are more slots for loads than the node's own queue has."""
    config = replace(NODE, max_queue=0)
    requests = [request(0.0, model=model.name) for model in MODELS[:3]]
    fleet = Fleet("one", {"n": config})
    result = replay(POLICY, fleet, requests, seed=1, make_scheduler=make_scheduler)
    outcomes = sorted(record.outcome for record in result.records)
    assert outcomes == ["node_busy", "node_busy", "served"]


def test_a_slow_node_shows_in_the_latencies_until_it_recovers() -> None:
    requests = [request(at) for at in (0.0, 100.0, 200.0)]
    slowdowns = [Slowdown(50.0, "n", 5.0), Slowdown(150.0, "n", 1.0)]
    result = replay(
        POLICY,
        Fleet("one", {"n": NODE}),
        requests,
        seed=1,
        make_scheduler=make_scheduler,
        slowdowns=slowdowns,
    )
    _, slow, fast = (record.latency_s for record in result.records)
    assert slow > 4 * fast


@pytest.mark.parametrize("counts", [True, False])
def test_what_is_measured_is_what_an_ollama_tells(counts: bool) -> None:
    node = VirtualNode(EventLoop(), "n", replace(NODE, reports_cached_count=counts))
    visit = Visit(
        NAME, 100, 50, load_s=2.0, cached_tokens=32, prompt_s=0.5, output_s=1.0, first_byte_at=3.0
    )
    visit.ended_at = 4.0
    measured = measure(visit, node)
    assert measured.cached_tokens == (32 if counts else None)
    assert (measured.prompt_tokens, measured.output_tokens) == (100, 50)
    assert (measured.load_s, measured.prompt_s, measured.output_s) == (2.0, 0.5, 1.0)
    assert measured.node_total_s == 4.0
    assert measured.first_byte_s == pytest.approx(3.002)
    assert measured.total_s == pytest.approx(4.002)


def test_an_answer_with_embeddings_tells_little() -> None:
    node = VirtualNode(EventLoop(), "n", NODE)
    measured = measure(Visit(NAME, 100, 0, load_s=2.0, prompt_s=0.5), node)
    assert (measured.prompt_s, measured.output_s, measured.output_tokens) == (None, None, None)
    assert (measured.load_s, measured.prompt_tokens) == (2.0, 100)


def test_there_is_no_policy_of_another_name() -> None:
    with pytest.raises(ValueError, match="no such policy: fastests"):
        make_scheduler("fastests", Random(1))


def test_quantiles_and_means() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([], 0.5) == mean([]) == 0.0
    assert mean([1.0, 3.0]) == 2.0


def fixed(outcome: str, *, wait_s: float = 0.0, ended_at: float = 10.0) -> Replay:
    drive = Drive({}, [request(0.0)])
    drive.records[0].outcome, drive.records[0].queue_wait_s = outcome, wait_s
    return Replay(drive.records, loads=0, reloads=0, evictions=0, ended_at=ended_at)


def test_a_load_is_carried_if_all_is_served_soon_and_in_the_end() -> None:
    assert is_carried(fixed("served"))
    assert not is_carried(fixed("queue_timeout"))
    assert not is_carried(fixed("served", wait_s=16.0))
    assert not is_carried(fixed("served", ended_at=61.0))


def steady(factor: float, seed: int) -> list[Request]:
    return [request(place / factor) for place in range(200)]


def test_the_load_that_is_just_carried_is_found() -> None:
    """Two slots, about 1.35 s an answer with another beside it: about 1.6 requests a second."""
    fleet = Fleet("one", {"n": NODE})
    factor = find_load(POLICY, fleet, steady, make_scheduler, seeds=(1,))
    assert factor == pytest.approx(1.7, rel=0.25)
    for share, carried in ((0.9, True), (1.2, False)):
        load = steady(factor * share, 1)
        result = replay(POLICY, fleet, load, seed=1, make_scheduler=make_scheduler)
        assert is_carried(result) is carried


def test_a_small_load_is_found_too() -> None:
    fleet = Fleet("one", {"n": replace(NODE, decode_tok_s=5.0)})
    assert find_load(POLICY, fleet, steady, make_scheduler, seeds=(1,)) < 0.5


def test_a_load_that_can_never_be_carried_is_an_error() -> None:
    def refuse(policy: str, rng: Random) -> Scheduler:
        return Scheduler(SchedulerLimits(queue_max_length=0, policy=policy), rng)

    fleet = Fleet("none", {})
    with pytest.raises(ValueError, match="no load is small enough"):
        find_load(POLICY, fleet, steady, refuse, seeds=(1,))


@pytest.mark.parametrize(("lost", "played"), [((1, 2), {1, 2}), ((1, 3), {1, 2, 3})])
def test_most_seeds_count_and_those_that_cannot_change_it_are_not_played(
    lost: tuple[int, ...], played: set[int]
) -> None:
    seen: set[int] = set()

    def make(factor: float, seed: int) -> list[Request]:
        seen.add(seed)
        return [request(0.0, model="unknown" if seed in lost else NAME)]

    with pytest.raises(ValueError, match="no load is small enough"):
        find_load(POLICY, Fleet("one", {"n": NODE}), make, make_scheduler, seeds=(1, 2, 3))
    assert seen == played


def test_a_summary_counts_what_was_served() -> None:
    result = run(POLICY)
    summary = summarise("p", [result, result])
    latencies = [record.latency_s for record in result.records]
    assert summary.mean_s == pytest.approx(mean(latencies))
    assert summary.p50_s <= summary.p95_s <= summary.p99_s <= max(latencies)
    assert (summary.loads, summary.success) == (result.loads, 1.0)
    assert sum(summary.by_node.values()) == pytest.approx(300)
    assert classes([summary]) == sorted({(r.priority, str(r.task)) for r in result.records})


def test_a_prediction_is_compared_with_the_truth() -> None:
    result = run(POLICY)
    for record in result.records:
        record.predicted_s = record.service_s * 1.2
    assert summarise("p", [result]).prediction_error == pytest.approx(0.2)


def test_tables_have_ratios_only_to_a_baseline() -> None:
    result = run(POLICY)
    baseline, other = (summarise(name, [result]) for name in ("round_robin", "other"))
    assert "1.00x" in tables([baseline, other])
    assert "ratios" not in tables([other])
    predicted = replace(other, prediction_error=0.25, loads=0.0)
    assert "25%" in tables([predicted])
    assert "  - " in tables([replace(baseline, loads=0.0), predicted])
