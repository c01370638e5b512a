"""Shard plans on small examples: who is chosen, what is promised, what else is offered."""

from dataclasses import replace

import pytest

from sollol.errors import DoesNotFit, InvalidRequest
from sollol.sharding.alternatives import alternatives
from sollol.sharding.cache_layout import LayerCache
from sollol.sharding.facts import ModelFacts, Unit
from sollol.sharding.memory import GIB, MIB, MemoryModel, RunOptions
from sollol.sharding.misfit import size_text
from sollol.sharding.models import LocalModel
from sollol.sharding.notes import notes
from sollol.sharding.ollama_store import StoredModel
from sollol.sharding.placing import MOST_WORKERS
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, find_plan, plan_shards
from sollol.sharding.prediction import Link, Stage, expect

LAYER = Unit(300 * MIB, 0, 50 * MIB, LayerCache(8, 128, 128))
FACTS = ModelFacts(
    architecture="llama",
    name="thirteen",
    context_length=4096,
    embedding_length=5120,
    activation_width=10_000,
    vocabulary=32_000,
    experts=0,
    experts_used=0,
    has_chat_template=True,
    file_bytes=3 * GIB,
    input_bytes=100 * MIB,
    shared_bytes=0,
    side_bytes=0,
    units=(*(LAYER,) * 10, Unit(200 * MIB, 0, 200 * MIB)),
)
NEAR, FAR = Link(0.0001, 1e9), Link(0.005, 1e7)
LOCAL = "local", NEAR


def fleet(*workers: Worker, links: dict[str, Link] | None = None, host: str = "gateway") -> Fleet:
    known = {worker.name: NEAR for worker in workers} | (links or {})
    return Fleet(workers, (Coordinator(host, 8 * GIB, 20e9, known),))


def worker(name: str, gib: float, host: str = "") -> Worker:
    return Worker(name, host or name, int(gib * GIB), 20e9)


def names(plan: Plan) -> list[str]:
    return [share.worker.name for share in plan.shares]


def test_one_worker_that_is_large_enough_is_all_that_is_used() -> None:
    plan = plan_shards(FACTS, RunOptions(), fleet(worker("a", 2), worker("b", 8), worker("c", 2)))
    assert names(plan) == ["b"]
    assert (plan.tensor_split, plan.gpu_layers) == ("11", 11)


def test_equal_workers_are_filled_alike() -> None:
    plan = plan_shards(FACTS, RunOptions(), fleet(worker("a", 3), worker("b", 3)))
    needs = [share.memory.total_bytes for share in plan.shares]
    assert abs(needs[0] - needs[1]) < 400 * MIB


def test_unequal_workers_are_filled_in_proportion() -> None:
    plan = plan_shards(FACTS, RunOptions(), fleet(worker("a", 1.5), worker("b", 3)))
    parts = [share.memory.total_bytes / share.worker.memory_bytes for share in plan.shares]
    assert names(plan) in (["a", "b"], ["b", "a"])
    assert abs(parts[0] - parts[1]) < 0.3


def test_of_equal_workers_the_nearest_are_used() -> None:
    workers = [worker(name, 2.4) for name in "abcd"]
    plan = plan_shards(FACTS, RunOptions(), fleet(*workers, links={"a": FAR, "c": FAR}))
    assert sorted(names(plan)) == ["b", "d"]


def test_the_coordinator_is_where_most_of_the_model_lies() -> None:
    workers = (worker("a", 1.5, "left"), worker("b", 3, "right"))
    hosts = tuple(
        Coordinator(name, 8 * GIB, 20e9, {"a": NEAR, "b": NEAR}) for name in ("left", "right")
    )
    assert plan_shards(FACTS, RunOptions(), Fleet(workers, hosts)).coordinator.name == "right"
    small = (hosts[0], replace(hosts[1], memory_bytes=MIB))
    assert plan_shards(FACTS, RunOptions(), Fleet(workers, small)).coordinator.name == "left"


def test_more_workers_than_are_considered_are_no_harm() -> None:
    workers = [worker(f"w{number}", 0.9) for number in range(MOST_WORKERS + 3)]
    plan = plan_shards(FACTS, RunOptions(), fleet(*workers))
    assert 4 <= len(plan.shares) <= MOST_WORKERS


def test_what_does_not_fit_says_what_it_needs() -> None:
    one = r"with 1 x 4096 tokens.* needs 3\.\d+ GB .*, and a may take 1\.07 GB"
    with pytest.raises(DoesNotFit, match=one):
        plan_shards(FACTS, RunOptions(), fleet(worker("a", 1)))
    tight = Fleet((worker("a", 9),), (Coordinator("gateway", MIB, 1e9, {"a": NEAR}),))
    with pytest.raises(DoesNotFit, match=r"coordinator.* needs 583 MB on its own host.* 1\.05 MB"):
        plan_shards(FACTS, RunOptions(), tight)
    with pytest.raises(DoesNotFit, match="coordinator"):
        plan_shards(FACTS, RunOptions(), Fleet((), ()))
    with pytest.raises(InvalidRequest, match="no type"):
        plan_shards(FACTS, RunOptions(key_type="q9"), fleet(worker("a", 9)))


def test_the_first_layers_may_stay_with_the_coordinator() -> None:
    plan = find_plan(FACTS, RunOptions(), fleet(worker("a", 3)), cpu_layers=4)
    assert plan is not None
    assert (plan.shares[0].first, plan.gpu_layers, plan.tensor_split) == (4, 7, "7")
    alone = find_plan(FACTS, RunOptions(), fleet(), cpu_layers=11)
    assert alone is not None
    assert (alone.shares, alone.gpu_layers, alone.tensor_split) == ((), 0, "")
    assert alone.expectation.load_s == alone.expectation.cached_load_s


def test_the_alternatives_to_two_workers() -> None:
    options = RunOptions(32768)
    workers = fleet(worker("a", 3.9), worker("b", 2))
    plan = plan_shards(FACTS, options, workers)
    assert len(plan.shares) == 2
    found = {other.what: other.plan for other in alternatives(FACTS, options, workers, plan, LOCAL)}
    less = next(plan for what, plan in found.items() if "tokens of context" in what)
    assert len(less.shares) == 1
    longer = replace(options, context_length=less.options.context_length + 256)
    assert len(plan_shards(FACTS, longer, workers).shares) == 2
    what, own = next(item for item in found.items() if "sharding.local_worker_gb=" in item[0])
    assert names(own) == ["local"]
    (share,) = own.shares
    assert float(what.rpartition("=")[2]) * GIB - share.memory.total_bytes < 0.2 * GIB
    assert own.coordinator_bytes + share.worker.memory_bytes <= 8 * GIB


def test_a_worker_beside_the_coordinator_is_offered_once() -> None:
    options = RunOptions(65536)
    for host, expected in (("", True), ("gateway", False)):
        workers = fleet(worker("a", 2.5, host), worker("b", 2.5))
        found = alternatives(FACTS, options, workers, None, LOCAL)
        assert any("local_worker_gb" in other.what for other in found) is expected


def test_what_does_not_fit_says_what_each_worker_would_need() -> None:
    two = [worker("a", 1), worker("b", 1.5)]
    with pytest.raises(DoesNotFit) as raised:
        plan_shards(FACTS, RunOptions(), fleet(*two))
    text = str(raised.value)
    assert "it needs 2 workers with " in text
    assert "a may take 1.07 GB, b may take 1.61 GB" in text
    assert "sharding.context_length, sharding.slots or sharding.cache_type" in text
    enough = float(text.partition("sharding.workers=HOST:PORT=")[2].split()[0])
    plan_shards(FACTS, RunOptions(), fleet(worker("a", enough), worker("b", enough)))
    less = enough - 0.02
    assert find_plan(FACTS, RunOptions(), fleet(worker("a", less), worker("b", less))) is None


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(1_050_000, "1.05 MB"), (999_700_000, "1000 MB"), (1_234_567_890, "1.23 GB"), (4_398_046_511_104, "4398 GB")],
)  # fmt: skip
def test_sizes_have_no_exponent(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_of_many_workers_that_are_too_small_the_range_is_told() -> None:
    many = [worker(f"w{number}", 0.2 + number / 100) for number in range(MOST_WORKERS + 3)]
    with pytest.raises(DoesNotFit, match=rf"needs {MOST_WORKERS} workers with .*the 15 there are"):
        plan_shards(FACTS, RunOptions(), fleet(*many))
    with pytest.raises(DoesNotFit, match=r"needs 3\.\d+ GB .*, and there is no worker"):
        plan_shards(FACTS, RunOptions(), fleet())


def test_the_alternatives_to_nothing() -> None:
    options = RunOptions(65536)
    workers = fleet(worker("a", 2.5), worker("b", 2.5))
    found = [other.what for other in alternatives(FACTS, options, workers, None, LOCAL)]
    assert found[0] in ("keys and values as q8_0", "keys and values as q4_0")
    assert "tokens of context" in found[1]


def test_no_smaller_type_is_offered_where_heads_do_not_divide() -> None:
    odd = replace(LAYER, cache=LayerCache(8, 80, 80))
    facts = replace(FACTS, units=(*(odd,) * 10, FACTS.units[-1]))
    workers = fleet(worker("a", 2.5), worker("b", 2.5))
    found = alternatives(facts, RunOptions(65536), workers, None, LOCAL)
    assert [other for other in found if "keys" in other.what] == []


def test_nothing_is_offered_where_nothing_helps() -> None:
    tight = Fleet((worker("a", 0.1),), (Coordinator("gateway", GIB // 2, 1e9, {"a": NEAR}),))
    assert alternatives(FACTS, RunOptions(), tight, None, LOCAL) == ()


def test_what_to_expect_of_a_token() -> None:
    memory = MemoryModel(FACTS, RunOptions(256))
    held = memory.device(0, 11)
    alone = expect(memory, [Stage(0, 11, held, 20e9)])
    read_s = (held.weight_bytes + held.cache_bytes / 2) / 20e9
    assert alone.tokens_per_s == pytest.approx(1 / read_s)
    far = expect(memory, [Stage(0, 11, held, 20e9, FAR)])
    sent = 2 * 4 * 5120 + 11 * 1200 + 4 * 32_000
    assert far.tokens_per_s == pytest.approx(1 / (read_s + 2 * 0.005 + sent / 1e7))
    assert far.load_s == pytest.approx(3 * GIB / 1e9 + held.weight_bytes / 1e7)


def test_idle_experts_are_not_read() -> None:
    layer = replace(LAYER, expert_bytes=200 * MIB)
    facts = replace(FACTS, experts=8, experts_used=2, units=(layer, FACTS.units[-1]))
    memory = MemoryModel(facts, RunOptions(256))
    held = memory.device(0, 2)
    read = held.weight_bytes - 150 * MIB + held.cache_bytes / 2
    assert expect(memory, [Stage(0, 2, held, 20e9)]).tokens_per_s == pytest.approx(20e9 / read)


def test_notes_tell_what_numbers_do_not() -> None:
    two = fleet(worker("a", 2.4), worker("b", 2.4))
    assert notes(plan_shards(FACTS, RunOptions(), two), local(FACTS)) == ()
    remembering = replace(LAYER, cache=LayerCache(state_bytes=MIB))
    facts = replace(FACTS, units=(*(remembering,) * 10, FACTS.units[-1]), has_chat_template=False)
    plan = plan_shards(facts, RunOptions(8192), two)
    told = notes(plan, local(facts))
    assert ["recurrent" in told[0], "4096 tokens" in told[1], "chat" in told[2]] == [True] * 3
    one = plan_shards(facts, RunOptions(), fleet(worker("a", 9)))
    assert notes(one, local(facts, template="<|im_start|>")) == (
        "It chats with llama.cpp's template 'chatml', which knows no tools.",
    )
    plain = plan_shards(FACTS, RunOptions(), two)
    assert notes(plain, local(FACTS, system="Be kind.")) == ()
    (told_context,) = notes(plain, local(FACTS, parameters='{"num_ctx": 8192}'))
    assert "8192 tokens of context itself (num_ctx); sharding.context_length, 4096" in told_context
    assert notes(plain, local(FACTS, parameters='{"num_ctx": 4096}')) == ()


def local(facts: ModelFacts, **texts: str) -> LocalModel:
    stored = StoredModel("m", None, (), **texts)  # type: ignore[arg-type]
    return LocalModel(stored, facts)
