"""Which models an idle node is asked for, how, and what follows."""

from dataclasses import replace

import msgspec
import pytest

from sollol.gateway.canary import (
    LEAVES_S,
    CanaryLimits,
    Stay,
    Stays,
    askable,
    blame_of,
    canary_request,
    failure_of,
    pause_s,
)
from sollol.gateway.failover import Failure
from sollol.gateway.gateway import Gateway
from sollol.nodes.health import Blame
from sollol.scheduling.memory import begin_load
from sollol.settings import NodeSettings
from sollol.types import Engine, Lease, Model, NodeState, NodeView, Resident
from sollol.upstream.facts import NodeFacts
from tests.gateways import make_settings
from tests.scheduling import nodes_of

LIMITS = CanaryLimits(30.0, 12.0)
WALL = 1_700_000_000.0
LATER, SOON = "2023-11-14T23:13:20Z", "2023-11-14T22:13:30.123456789Z"
"""An hour, and ten seconds, after ``WALL``."""


def node(*names: str, **expires: str) -> NodeView:
    """Return a view of a node with models of which each is larger than the one before."""
    resident = {
        name: Resident(name, name, size_bytes=size, expires_at=expires.get(name, LATER))
        for size, name in enumerate(names, 1)
    }
    models = {name: Model(name, name, f"digest of {name}") for name in names}
    return NodeView("n", "http://n", Engine.OLLAMA, NodeState.HEALTHY, models=models, resident=resident)  # fmt: skip


def asked(view: NodeView, stays: Stays | None = None, answered_at: float = 0.0) -> list[str]:
    runners = dict.fromkeys(map(view.runner, view.models), answered_at)
    return [loaded.key for loaded in askable(view, stays or Stays(), runners, WALL)]


def test_the_smallest_comes_first() -> None:
    assert asked(node("small", "large")) == ["small", "large"]
    assert asked(node()) == []


def test_one_that_has_to_show_that_it_does_its_work_comes_before_smaller_ones() -> None:
    view = node("small", "large")
    assert asked(replace(view, limited={"digest of large": NodeState.HALF_OPEN})) == [
        "large",
        "small",
    ]


def test_what_only_embeds_is_rejected_or_leaves_soon_is_not_asked() -> None:
    view = node("a", "b", b=SOON)
    assert asked(view) == ["a"]
    embeds = replace(view.models["a"], capabilities=frozenset({"embedding"}))
    both = replace(embeds, capabilities=frozenset({"embedding", "completion"}))
    assert asked(replace(view, models={**view.models, "a": embeds})) == []
    assert asked(replace(view, models={**view.models, "a": both})) == ["a"]
    assert asked(replace(view, outvoted=frozenset("a"))) == []
    assert asked(replace(view, limited={"digest of a": NodeState.EJECTED})) == []
    assert asked(replace(view, limited={"digest of a": NodeState.HALF_OPEN})) == ["a"]
    assert asked(replace(view, models={})) == []


def test_names_of_one_model_count_once() -> None:
    view = node("a")
    alias = replace(view.models["a"], key="alias", name="alias")
    view = replace(
        view,
        models={**view.models, "alias": alias},
        resident={**view.resident, "alias": view.resident["a"]},
    )
    assert asked(view) == ["a"]


@pytest.mark.parametrize("expires_at", ["", "some day", "2318-11-14T22:13:30Z"])
def test_a_model_that_says_nothing_or_stays_for_ever_may_be_asked(expires_at: str) -> None:
    assert asked(node("a", a=expires_at)) == ["a"]


def test_other_engines_keep_their_model_whatever_they_say() -> None:
    view = node("a", a="0001-01-01T00:00:00Z")
    assert asked(view) == []
    assert asked(replace(view, engine=Engine.LLAMA_SERVER)) == ["a"]


def test_a_model_is_asked_until_it_would_have_left_without_us() -> None:
    stays = Stays()
    view = node("a")  # an hour more, as it was asked
    stays.asked(view, view.resident["a"], Stay(100.0, WALL + LEAVES_S))
    assert asked(view, stays, answered_at=99.0) == []
    assert asked(view, stays, answered_at=101.0) == ["a"]
    stays.clean({"n": view})
    assert asked(view, stays, answered_at=99.0) == []
    stays.clean({"n": replace(view, resident={})})
    assert asked(view, stays, answered_at=99.0) == ["a"]
    stays.asked(view, view.resident["a"], Stay(100.0, WALL))
    stays.clean({})
    assert asked(view, stays, answered_at=99.0) == ["a"]


def test_a_node_that_fails_is_asked_again_soon() -> None:
    assert pause_s(None, Blame.NOBODY, LIMITS) == 30.0
    assert pause_s(Failure.FULL, Blame.NOBODY, LIMITS) == 30.0
    assert pause_s(Failure.SILENT, Blame.NODE, LIMITS) == 1.0
    assert pause_s(Failure.SILENT, Blame.NODE, CanaryLimits(0.1, 1.0)) == 0.1


@pytest.mark.parametrize(
    ("status", "body", "failure", "blame"),
    [
        (200, b'{"response":"a","done":true}', None, None),
        (200, b'{"content":"a","stop":true}', None, None),
        (200, b"<html>", Failure.WRONG_ANSWER, Blame.NODE),
        (302, b"", Failure.WRONG_ANSWER, Blame.NODE),
        (401, b"no", Failure.WRONG_ANSWER, Blame.NODE),
        (400, b'{"error":"does not support generate"}', Failure.REFUSES, Blame.NOBODY),
        (404, b'{"error":"model not found"}', Failure.MISSING, Blame.NOBODY),
        (404, b"<html>", Failure.WRONG_ANSWER, Blame.NODE),
        (429, b"too many requests", Failure.LIMITED, Blame.NOBODY),
        (500, b"boom", Failure.SERVER_ERROR, Blame.MODEL),
        (502, b"bad gateway", Failure.GATEWAY_ERROR, Blame.NODE),
        (503, b"loading model", Failure.LOADING, Blame.NOBODY),
    ],
)
def test_what_an_answer_counts_for(
    status: int, body: bytes, failure: Failure | None, blame: Blame | None
) -> None:
    found = failure_of(status, body)
    assert found is failure
    assert (None if found is None else blame_of(found)) is blame


def test_silence_counts_in_full_as_nothing_else_ran_there() -> None:
    assert blame_of(Failure.SILENT) is Blame.NODE


@pytest.mark.parametrize(
    ("engine", "lease_options", "path", "body"),
    [
        ("ollama", None, "/api/generate", {"model": "m", "prompt": "1", "raw": True,
            "stream": False, "options": {"num_ctx": 2048, "num_predict": 1}}),
        ("ollama", (("num_ctx", 4096), ("num_gpu", 1)), "/api/generate", {"model": "m",
            "prompt": "1", "raw": True, "stream": False,
            "options": {"num_ctx": 4096, "num_gpu": 1, "num_predict": 1}}),
        ("llama_server", None, "/completion", {"prompt": "1", "n_predict": 1, "stream": False}),
    ],
)  # fmt: skip
async def test_one_token_is_asked_for_in_the_words_of_the_engine(
    engine: str,
    lease_options: tuple[tuple[str, int], ...] | None,
    path: str,
    body: dict[str, object],
) -> None:
    gateway = Gateway(make_settings())
    settings = NodeSettings.model_validate({"url": "http://n", "engine": engine, "api_key": "k"})
    made = gateway.registry.add(settings)
    lease = Lease(1, "r", "n", "m", 0.0, options=lease_options)
    request = canary_request(made, Resident("m", "m", context_length=2048), lease)
    assert request.target == path
    assert msgspec.json.decode(request.body) == body  # type: ignore[arg-type]
    assert (b"authorization", b"Bearer k") in request.headers
    await gateway.registry.aclose()


def test_without_a_known_context_none_is_sent() -> None:
    gateway = Gateway(make_settings())
    made = gateway.registry.add(NodeSettings.model_validate("http://n"))
    request = canary_request(made, Resident("m", "m"), Lease(1, "r", "n", "m", 0.0))
    assert msgspec.json.decode(request.body)["options"] == {"num_predict": 1}  # type: ignore[arg-type]


async def test_a_node_that_loads_a_model_is_left_alone() -> None:
    """Ollama may hold all requests up meanwhile; a prewarm has no lease that would say so."""
    gateway = Gateway(make_settings())
    made = gateway.registry.add(NodeSettings.model_validate({"url": "http://n", "name": "n"}))
    view, now = node("small", "large"), gateway.clock()
    models, resident = tuple(view.models.values()), (view.resident["small"],)
    gateway.registry.probe_succeeded("n", NodeFacts(Engine.OLLAMA, "", models, ()))
    assert gateway.canaries.candidates(made) == []
    stays = replace(resident[0], expires_at="")
    gateway.registry.probe_succeeded("n", NodeFacts(Engine.OLLAMA, "", models, (stays,)))
    assert gateway.canaries.candidates(made) == [stays]
    begin_load(nodes_of(gateway.admission._scheduler)["n"].by_model["large"], (), 60.0, now)
    assert gateway.canaries.candidates(made) == []
    await gateway.registry.aclose()
