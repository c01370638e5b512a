"""Which nodes lack which routes."""

import pytest

from sollol.errors import NodesTooOld, NoNodeAvailable, RouteNotFound
from sollol.gateway.body import Body
from sollol.gateway.call import Call
from sollol.gateway.skew import MAX_LEARNED_PATHS, MissingRoutes, lacks
from sollol.types import Engine, Model, NodeState, NodeView
from sollol.wire.kinds import (
    CHAT,
    V1_ANTHROPIC_MESSAGES,
    V1_IMAGES,
    V1_RESPONSES,
    BodyKind,
    other_kind,
)


def node(version: str, name: str = "n", engine: Engine = Engine.OLLAMA) -> NodeView:
    models = {"m": Model("m", "m")}
    return NodeView(name, "http://n", engine, NodeState.HEALTHY, version=version, models=models)


@pytest.mark.parametrize(
    ("version", "kind", "expected"),
    [
        ("0.13.2", V1_RESPONSES, True),
        ("0.13.3", V1_RESPONSES, False),
        ("0.13.3", V1_ANTHROPIC_MESSAGES, True),
        ("v0.33.0-rc2", V1_ANTHROPIC_MESSAGES, False),
        ("0.14.2", V1_IMAGES, True),
        ("0.32.5", V1_IMAGES, False),
        ("0.33.0", V1_IMAGES, True),
        ("", V1_RESPONSES, False),
        ("0.1.0", CHAT, False),
    ],
)
def test_a_version_tells_what_a_node_has(version: str, kind: BodyKind, expected: bool) -> None:
    assert lacks(node(version), kind) is expected
    assert not lacks(node(version, engine=Engine.LLAMA_SERVER), kind)


def other(path: str) -> BodyKind:
    kind = other_kind(path)
    assert kind is not None
    return kind


def test_what_a_node_says_counts_until_it_changes() -> None:
    routes = MissingRoutes()
    new = other("/v1/new")
    routes.node_changed(node("0.40.0"))
    routes.learn("n", new)
    routes.node_changed(node("0.40.0"))
    assert routes.nodes_without("/v1/new") == {"n"}
    routes.node_changed(node("0.41.0"))
    assert routes.nodes_without("/v1/new") == frozenset()
    routes.learn("n", new)
    routes.node_removed("n")
    assert routes.nodes_without("/v1/new") == frozenset()


def test_the_oldest_routes_are_never_learned_away() -> None:
    routes = MissingRoutes()
    routes.learn("n", CHAT)
    assert routes.nodes_without(CHAT.path) == frozenset()


def test_what_callers_make_up_is_bounded() -> None:
    routes = MissingRoutes()
    for number in range(MAX_LEARNED_PATHS * 2):
        routes.learn("n", other(f"/api/{number}"))
    known = [n for n in range(MAX_LEARNED_PATHS * 2) if routes.nodes_without(f"/api/{n}")]
    assert known == list(range(MAX_LEARNED_PATHS, MAX_LEARNED_PATHS * 2))
    routes.node_removed("n")
    assert not any(routes.nodes_without(f"/api/{n}") for n in known)


def test_the_reason_why_no_node_can_answer() -> None:
    routes = MissingRoutes()
    old = node("0.12.0")
    routes.node_changed(old)
    refusal = NoNodeAvailable("down")

    def why(kind: BodyKind, *views: NodeView) -> Exception:
        call = Call("1", kind, kind.path, Body(b""), "m", "m", [])
        return routes.why_none(call, views, refusal)

    too_old = why(V1_RESPONSES, old)
    assert isinstance(too_old, NodesTooOld)
    assert str(too_old) == (
        "/v1/responses needs Ollama 0.13.3 or newer; the nodes that have model 'm' are older"
    )
    assert isinstance(why(V1_IMAGES, old), RouteNotFound)
    assert why(CHAT, old) is refusal
    assert why(V1_RESPONSES) is refusal
