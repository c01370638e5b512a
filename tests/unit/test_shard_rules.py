"""When a model runs over workers, which one makes room, and when a lost one is started again."""

from dataclasses import replace
from math import inf

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import dense
from sollol.errors import DoesNotFit
from sollol.gateway.shard_rules import (
    PAUSE_S,
    Occupant,
    left_s,
    naming,
    needs_workers,
    rest_s,
    to_leave,
    wait_to_start_s,
    with_reasons,
)
from sollol.llamacpp.restarts import CRASH_WINDOW_S, CRASHES_TO_GIVE_UP
from sollol.sharding.facts import ModelFacts, model_facts
from sollol.sharding.gguf import read_header
from sollol.sharding.memory import MIB, MemoryModel, RunOptions
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, plan_shards
from sollol.sharding.prediction import Link
from sollol.types import Engine, Model, NodeState, NodeView

KEY = "registry.ollama.ai/library/m:latest"
OPTIONS = RunOptions(512)
LINK = Link(0.0005, 1e8)


def holder(memory_bytes: int | None, size_bytes: int = 100) -> NodeView:
    model = Model(KEY, "m", size_bytes=size_bytes)
    return NodeView(
        "n", "u", Engine.OLLAMA, NodeState.HEALTHY, models={KEY: model}, memory_bytes=memory_bytes
    )


@pytest.mark.parametrize(
    ("holders", "is_listed", "expected"),
    [
        ([], False, True),
        ([holder(None)], False, False),
        ([holder(100)], False, False),
        ([holder(99)], False, True),
        ([holder(99), holder(100)], False, False),
        ([holder(99), holder(None)], False, False),
        ([holder(1000)], True, True),
    ],
)
def test_which_models_need_workers(
    holders: list[NodeView], is_listed: bool, expected: bool
) -> None:
    assert needs_workers(KEY, holders, is_listed=is_listed) is expected


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", dense())
    return model_facts([read_header(path)])


class Site:
    """Workers with room for one model each, and models that have them."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        whole = MemoryModel(facts, OPTIONS).device(0, len(facts.units)).total_bytes
        self.worker_bytes = whole + MIB

    def fleet(
        self, *names: str, memory_bytes: int | None = None, host_bytes: int = 1 << 33
    ) -> Fleet:
        size = memory_bytes or self.worker_bytes
        workers = tuple(Worker(name, name, size, 20e9) for name in names)
        host = Coordinator("here", host_bytes, 20e9, dict.fromkeys(names, LINK))
        return Fleet(workers, (host,))

    def plan(self, *names: str, memory_bytes: int | None = None) -> Plan:
        return plan_shards(self.facts, OPTIONS, self.fleet(*names, memory_bytes=memory_bytes))

    def leave(self, fleet: Fleet, *occupants: Occupant) -> tuple[str, ...]:
        return to_leave(self.facts, OPTIONS, fleet, occupants)


@pytest.fixture
def site(facts: ModelFacts) -> Site:
    return Site(facts)


def test_the_idle_one_that_was_not_used_for_longest_leaves(site: Site) -> None:
    occupants = [
        Occupant("busy", site.plan("a"), is_idle=False, used_at=1.0),
        Occupant("young", site.plan("b"), is_idle=True, used_at=9.0),
        Occupant("old", site.plan("c"), is_idle=True, used_at=5.0),
    ]
    assert site.leave(site.fleet(), *occupants) == ("old",)
    assert site.leave(site.fleet(), *occupants[:2]) == ("young",)
    assert site.leave(site.fleet(), occupants[0]) == ("busy",)


def test_one_that_does_not_help_stays(site: Site) -> None:
    small = replace(site.plan("a"), shares=())  # all of it is on its coordinator
    occupants = [
        Occupant("small", small, is_idle=True, used_at=1.0),
        Occupant("large", site.plan("b"), is_idle=True, used_at=2.0),
    ]
    assert site.leave(site.fleet(), *occupants) == ("large",)


def test_as_many_leave_as_are_needed(site: Site) -> None:
    half = site.worker_bytes * 4 // 5
    two = site.plan("a", "b", memory_bytes=half)
    one = replace(two, shares=two.shares[:1])
    other = replace(two, shares=two.shares[1:])
    occupants = [
        Occupant("one", one, is_idle=True, used_at=1.0),
        Occupant("other", other, is_idle=False, used_at=0.0),
    ]
    assert site.leave(site.fleet(), *occupants) == ("one", "other")


def test_the_memory_of_their_coordinators_counts(site: Site) -> None:
    plan = site.plan("a")
    fleet = site.fleet("free", host_bytes=plan.coordinator_bytes - 1)
    occupant = Occupant("other", plan, is_idle=True, used_at=0.0)
    assert site.leave(fleet, occupant) == ("other",)


def test_what_fits_nowhere_makes_nobody_leave(site: Site) -> None:
    tiny = site.fleet("a", memory_bytes=MIB)
    with pytest.raises(DoesNotFit, match="a may take"):
        site.leave(tiny)
    huge = RunOptions(1 << 20)
    occupant = Occupant("other", site.plan("b"), is_idle=True, used_at=0.0)
    with pytest.raises(DoesNotFit, match="2 workers with"):
        to_leave(site.facts, huge, tiny, [occupant])


def test_the_first_loss_is_mended_at_once_and_many_are_given_up() -> None:
    deaths: list[float] = []
    waits = []
    now = 100.0
    for _ in range(CRASHES_TO_GIVE_UP):
        deaths.append(now)
        waits.append(wait_to_start_s(deaths, now))
        now += waits[-1] or 0.0
    assert waits == [0.0, 2.0, 4.0, 8.0, None]
    assert wait_to_start_s([*deaths[1:], now + CRASH_WINDOW_S * 2], now + CRASH_WINDOW_S * 2) == 1.0


def test_failed_loads_rest_longer_and_longer() -> None:
    assert [rest_s([0.0] * count, 0.0) for count in (1, 2, 3, 4, 5)] == [
        1.0,
        2.0,
        4.0,
        8.0,
        PAUSE_S,
    ]


def test_how_long_an_idle_model_stays() -> None:
    assert left_s(-1.0, 0.0, 1e9) == inf
    assert left_s(300.0, 100.0, 150.0) == 250.0
    assert left_s(0.0, 100.0, 150.0) == -50.0


def test_unusable_workers_are_named() -> None:
    error = DoesNotFit("too large.")
    assert with_reasons(error, []) is error
    told = with_reasons(error, [("a:1", "it is down"), ("b:2", "busy")])
    assert str(told) == "too large. Not used: a:1: it is down; b:2: busy."
    told = with_reasons(error, [("a:1", "nobody is at a:1")])
    assert str(told) == "too large. Not used: nobody is at a:1."


def test_an_error_names_its_model_once() -> None:
    told = naming("a:1", DoesNotFit("too large."), 3.0)
    assert (type(told), str(told), told.retry_after_s) == (DoesNotFit, "a:1: too large.", 3.0)
    assert str(naming("a:1", told)) == "a:1: too large."
