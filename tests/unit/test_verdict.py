"""One answer out of those of several nodes."""

import pytest

from sollol.errors import ConnectFailed, FleetFailed
from sollol.gateway.blobs import MAX_BLOBS, BlobTable
from sollol.gateway.verdict import NodeAnswer, combine, error_text

JSON = b"application/json; charset=utf-8"


def ok(node: str) -> NodeAnswer:
    return NodeAnswer(node, 200)


def missing(node: str) -> NodeAnswer:
    return NodeAnswer(node, 404, JSON, b'{"error":"model \'m\' not found"}')


def broken(node: str, text: str = "disk full") -> NodeAnswer:
    return NodeAnswer(node, 500, JSON, b'{"error":"%b"}' % text.encode())


def down(node: str) -> NodeAnswer:
    return NodeAnswer(node, error=ConnectFailed("cannot connect"))


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([ok("a")], 200),
        ([missing("a"), ok("b"), missing("c")], 200),
        ([missing("a"), missing("b")], 404),
        ([broken("a"), broken("b")], 500),
        ([NodeAnswer("a", 302)], 302),
    ],
)
def test_what_nodes_agree_on_is_passed_on(answers: list[NodeAnswer], status: int) -> None:
    assert combine(answers).status == status


def test_a_partial_failure_tells_what_each_did() -> None:
    with pytest.raises(
        FleetFailed, match=r"^node b: disk full; node d: cannot connect; succeeded on a$"
    ):
        combine([ok("a"), broken("b"), down("d")])
    with pytest.raises(FleetFailed, match=r"^node a: disk full; node b: model 'm' not found$"):
        combine([broken("a"), missing("b")])
    with pytest.raises(FleetFailed, match=r"^cannot connect$"):
        combine([down("a"), down("b")])


def test_a_node_without_the_route_is_no_node_without_the_model() -> None:
    old = NodeAnswer("b", 404, b"text/plain", b"404 page not found")
    with pytest.raises(FleetFailed, match="node b: 404 page not found; succeeded on a"):
        combine([ok("a"), old])


def test_the_failure_of_the_only_node_is_raised_as_it_is() -> None:
    with pytest.raises(ConnectFailed):
        combine([down("a")])


def test_error_texts() -> None:
    assert error_text(500, b'{"error":"x"}') == "x"
    assert error_text(502, b"<html>") == "<html>"
    assert error_text(502, b"") == "answered with status 502"


def test_the_table_of_blobs_is_bounded_and_forgets_the_oldest() -> None:
    table = BlobTable()
    for number in range(MAX_BLOBS + 1):
        table.note(str(number), "a", has_it=True)
    assert table.holders(frozenset({"0"})) == frozenset()
    table.note("1", "b", has_it=True)
    assert table.holders(frozenset({"1"})) == {"a", "b"}
    assert table.holders(frozenset({"1", "2"})) == {"a"}
    table.note("2", "a", has_it=False)
    assert table.holders(frozenset({"1", "2"})) == frozenset()
    assert table.holders(frozenset()) == frozenset()
