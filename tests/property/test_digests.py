"""What holds of the choice between digests, whatever the nodes have."""

from hypothesis import given
from hypothesis.strategies import builds, dictionaries, just, lists, sampled_from

from sollol.nodes import catalog, digests
from sollol.types import Engine, Model, NodeState, NodeView

MODELS = builds(
    Model,
    key=just("m"),
    name=just("m"),
    digest=sampled_from(["", "x", "y", "z"]),
    modified_at=sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00+02:00", "?"]),
)
FLEETS = lists(
    builds(
        NodeView,
        id=just(""),
        url=just(""),
        engine=sampled_from(list(Engine)),
        state=sampled_from(list(NodeState)),
        models=dictionaries(just("m"), MODELS),
    ),
    max_size=6,
).map(
    lambda views: [
        NodeView(str(n), "", v.engine, v.state, models=v.models) for n, v in enumerate(views)
    ]
)


@given(FLEETS)
def test_a_model_is_served_where_it_can_be_and_as_one_digest(views: list[NodeView]) -> None:
    outvoted = digests.outvoted(views, digests.conflicts(views))
    healthy = [view for view in views if view.state is NodeState.HEALTHY and "m" in view.models]
    serving = [view for view in healthy if "m" not in outvoted[view.id]]
    assert bool(serving) == bool(healthy)
    told = {digests.told_digest(view, "m") for view in serving} - {""}
    passed_over = [view for view in healthy if view not in serving]
    assert len(told) <= 1 or not passed_over
    for listing in catalog.listings(views):
        told_by_ollama = {digests.told_digest(view, "m") for view in listing.nodes} - {""}
        assert listing.model.digest in told_by_ollama or not told_by_ollama


@given(FLEETS)
def test_the_choice_does_not_depend_on_the_order_of_the_nodes(views: list[NodeView]) -> None:
    assert digests.conflicts(views) == digests.conflicts(views[::-1])
