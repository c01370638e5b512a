"""Which node answers what one node answers for all."""

import pytest

from sollol.api.routes import methods_of, misrouted
from sollol.errors import NoNodeAvailable, RouteNotFound
from sollol.gateway.designated import designate
from sollol.types import Engine, NodeState, NodeView
from sollol.wire.designated import DESIGNATED_ROUTES, KEYS, STATUS, designated_route

RECOMMENDATIONS = designated_route("/api/experimental/model-recommendations")
UP, DOWN, DRAINING = NodeState.HEALTHY, NodeState.UNHEALTHY, NodeState.DRAINING


def node(
    name: str, version: str = "0.33.0", state: NodeState = UP, engine: Engine = Engine.OLLAMA
) -> NodeView:
    return NodeView(name, f"http://{name}", engine, state, version=version)


FLEET = [
    node("f"), node("e", "0.22.1"), node("d", "0.22.0"), node("c", state=DRAINING),
    node("b", state=DOWN), node("a", engine=Engine.LLAMA_SERVER),
]  # fmt: skip


def test_the_healthy_node_with_the_lowest_id_that_has_the_route_answers() -> None:
    assert RECOMMENDATIONS is not None
    assert designate(STATUS, FLEET, None).id == "d"
    assert designate(RECOMMENDATIONS, FLEET, None).id == "e"
    assert designate(STATUS, [node("z", "0.1.0"), node("y", "")], None).id == "y"


def test_without_a_node_that_is_new_enough_the_route_does_not_exist() -> None:
    with pytest.raises(RouteNotFound):
        designate(STATUS, [node("a", "0.16.1")], None)


@pytest.mark.parametrize("views", [[], [FLEET[3]], [FLEET[4]], [FLEET[5]]])
def test_without_a_healthy_ollama_node_callers_are_told_to_retry(views: list[NodeView]) -> None:
    with pytest.raises(NoNodeAvailable) as raised:
        designate(STATUS, views, None)
    assert raised.value.retry_after_s


def test_the_node_of_the_settings_is_taken_or_none() -> None:
    assert designate(STATUS, FLEET, "f").id == "f"
    assert designate(STATUS, FLEET, "c").id == "c"
    for wanted in ("a", "b", "nope"):
        with pytest.raises(NoNodeAvailable, match=r"fleet\.cloud_node"):
            designate(STATUS, FLEET, wanted)


def test_routes_are_found_by_their_paths() -> None:
    for route in DESIGNATED_ROUTES:
        path = route.path + "a" if route is KEYS else route.path
        assert designated_route(path) is route
        assert methods_of(path) == (route.method,)
    for path in ("/api/user/keys", "/api/user/keys/", "/api/user/keys/a/b", "/api/mee"):
        assert designated_route(path) is None
        answer = misrouted("DELETE", path)
        assert answer is not None
        assert answer.status == 404
