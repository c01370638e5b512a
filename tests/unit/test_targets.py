"""Which nodes a request that changes nodes is sent to."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sollol.errors import InvalidRequest, NoNodeAvailable, UnsupportedByEngine
from sollol.gateway.targets import Policy, choose, choose_named, named, pull_to, roomiest
from sollol.types import Engine, Model, NodeState, NodeView
from sollol.wire.manage import COPY, CREATE, DELETE, PULL, PUSH, ManageKind, read_manage
from sollol.wire.names import model_key

UP, DOWN, DRAINING = NodeState.HEALTHY, NodeState.UNHEALTHY, NodeState.DRAINING
ALL = Policy(("all",), None)


def node(
    name: str, *models: str, state: NodeState = UP, engine: Engine = Engine.OLLAMA, size: int = 1
) -> NodeView:
    listed = {model_key(m): Model(model_key(m), m, digest=m, size_bytes=size) for m in models}
    return NodeView(name, f"http://{name}", engine, state, models=listed)


FLEET = [
    node("a"),
    node("b", "m"),
    node("c", "m", state=DOWN),
    node("d", "m", state=DRAINING),
    node("e", engine=Engine.LLAMA_SERVER),
    node("f", state=DRAINING),
    node("g", "m"),
]
BODIES: dict[ManageKind, bytes] = {
    PULL: b'{"model":"m"}',
    PUSH: b'{"model":"m"}',
    CREATE: b'{"model":"new","from":"m"}',
    COPY: b'{"source":"m","destination":"n"}',
    DELETE: b'{"model":"m"}',
}


def ids(views: Sequence[NodeView]) -> str:
    return "".join(view.id for view in views)


def chosen(
    kind: ManageKind,
    body: bytes | None = None,
    policy: Policy = ALL,
    fleet: Sequence[NodeView] = FLEET,
) -> str:
    read = read_manage(kind, body or BODIES[kind])
    return ids(choose(kind, read, fleet, policy, random.Random(1)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(PULL, "bdg"), (PUSH, "b"), (CREATE, "bdg"), (COPY, "bcdg"), (DELETE, "bcdg")],
    ids=lambda value: getattr(value, "path", value),
)
def test_a_model_that_nodes_have(kind: ManageKind, expected: str) -> None:
    assert chosen(kind) == expected


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (PULL, b'{"model":"x"}', "abg"),
        (CREATE, b'{"model":"x","from":"y"}', "abg"),
        (CREATE, b'{"model":"x"}', "abg"),
        (PUSH, b'{"model":"x"}', "a"),
        (COPY, b'{"source":"x","destination":"y"}', "abdfg"),
        (DELETE, b'{"model":"x"}', "abdfg"),
    ],
)
def test_a_model_that_no_node_has(kind: ManageKind, body: bytes, expected: str) -> None:
    assert chosen(kind, body) == expected


def test_a_new_model_goes_where_the_settings_say() -> None:
    body = b'{"model":"x"}'
    assert chosen(PULL, body, Policy(("b", "c", "f"), None)) == "bf"
    with pytest.raises(NoNodeAvailable, match=r"fleet\.pull_to \(c, z\)"):
        chosen(PULL, body, Policy(("c", "z"), None))
    assert chosen(PULL, body, Policy(("one",), None)) == "a"
    assert chosen(PUSH, None, Policy(("all",), "g")) == "g"
    with pytest.raises(NoNodeAvailable, match=r"fleet\.push_from"):
        chosen(PUSH, None, Policy(("all",), "c"))


def test_what_is_pushed_is_the_digest_that_counts() -> None:
    other = replace(node("a", "m"), outvoted=frozenset({model_key("m")}))
    assert chosen(PUSH, fleet=[other, node("b", "m")]) == "b"
    assert chosen(PUSH, fleet=[other]) == "a"


def test_draining_nodes_are_used_when_there_are_no_others() -> None:
    fleet = [node("a", state=DRAINING), node("b", state=DOWN)]
    assert ids(pull_to(fleet[:1], ALL, random.Random(1))) == "a"
    assert chosen(PULL, fleet=fleet) == "a"


def test_the_roomiest_node_has_the_least_on_disk_and_ties_are_broken_at_random() -> None:
    fleet = [node("a", "x", "y"), node("b", "x"), node("c", "y"), node("d", "z", size=9)]
    picks = {roomiest(fleet, random.Random(seed)).id for seed in range(20)}
    assert picks == {"b", "c"}


def test_the_caller_chooses() -> None:
    assert ids(named(FLEET, " g ,c,g")) == "gc"
    assert ids(named(FLEET, "all")) == "abdfg"
    with pytest.raises(InvalidRequest, match='no node is called "z"; there are: a, b, c, d, e, f'):
        named(FLEET, "a,z")
    with pytest.raises(InvalidRequest, match="e runs llama_server"):
        named(FLEET, "e")
    with pytest.raises(InvalidRequest, match="names no node"):
        named(FLEET, " , ")


def test_only_one_of_the_chosen_pushes() -> None:
    body = read_manage(PUSH, BODIES[PUSH])
    assert ids(choose_named(PUSH, body, named(FLEET, "a,g,b"))) == "b"
    assert ids(choose_named(PUSH, body, named(FLEET, "f,a"))) == "a"
    assert ids(choose_named(PULL, body, named(FLEET, "g,a"))) == "ga"


def test_a_fleet_that_cannot_be_changed_says_why() -> None:
    with pytest.raises(NoNodeAvailable, match="no Ollama node is up"):
        chosen(PULL, fleet=[])
    with pytest.raises(NoNodeAvailable, match="no Ollama node is up"):
        chosen(DELETE, fleet=[node("a", "m", state=DOWN)])
    with pytest.raises(UnsupportedByEngine, match="only Ollama nodes can"):
        chosen(PULL, fleet=[node("a", engine=Engine.OPENAI)])
