"""Which digest of a model counts, and what the registry makes of that."""

from collections.abc import AsyncIterator
from functools import partial
from random import Random

import pytest
from structlog.testing import capture_logs

from sollol.nodes import catalog, digests
from sollol.nodes.health import Health, HealthLimits
from sollol.nodes.registry import NodeLinks, Registry
from sollol.settings import NodeSettings
from sollol.types import Engine, Model, NodeState, NodeView
from sollol.upstream.facts import NodeFacts
from sollol.upstream.http import Timeouts

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-01T00:30:00+00:00"
UP, DOWN, DRAINING = NodeState.HEALTHY, NodeState.UNHEALTHY, NodeState.DRAINING


def model(digest: str, modified_at: str = OLD, key: str = "m") -> Model:
    return Model(key, key, digest, modified_at=modified_at)


def view(
    name: str,
    digest: str,
    modified_at: str = OLD,
    state: NodeState = UP,
    engine: Engine = Engine.OLLAMA,
) -> NodeView:
    return NodeView(
        name, f"http://{name}", engine, state, models={"m": model(digest, modified_at)}
    )  # fmt: skip


def chosen(*views: NodeView) -> str:
    return digests.chosen_digest("m", views)


def test_the_digest_of_most_nodes_counts() -> None:
    assert chosen(view("a", "x", NEW), view("b", "y"), view("c", "y")) == "y"


def test_on_a_tie_the_last_modified_counts_whatever_zone_it_is_told_in() -> None:
    early = "2026-01-01T02:00:00.123456789+02:00"
    assert chosen(view("a", "x", early), view("b", "y", NEW)) == "y"
    assert chosen(view("a", "x"), view("b", "w")) == "w"


def test_nodes_that_are_down_have_a_vote_only_when_all_are() -> None:
    down = (view("a", "x", state=DOWN), view("b", "x", state=DOWN))
    assert chosen(*down, view("c", "y")) == "y"
    assert chosen(*down, view("c", "y", state=DRAINING)) == "y"
    assert chosen(*down, view("c", "y", state=DOWN)) == "x"


def test_a_stand_in_for_a_digest_is_no_digest() -> None:
    served = view("s", "stand-in", engine=Engine.LLAMA_SERVER)
    views = [served, view("a", "x")]
    assert chosen(*views) == "x"
    assert digests.conflicts(views) == {}
    assert chosen(served) == ""
    assert chosen(served, view("a", "y", state=DOWN), view("b", "x", state=DOWN)) == "x"
    assert digests.chosen_model("m", [served]).digest == "stand-in"


def test_nodes_are_outvoted_while_a_healthy_one_has_the_chosen_digest() -> None:
    views = [view("a", "x"), view("b", "x"), view("c", "y")]
    assert digests.outvoted(views, digests.conflicts(views)) == {
        "a": frozenset(), "b": frozenset(), "c": frozenset({"m"})
    }  # fmt: skip
    draining = [view("a", "x", state=DRAINING), view("b", "x", state=DRAINING), view("c", "y")]
    assert digests.conflicts(draining) == {"m": "x"}
    assert not any(digests.outvoted(draining, {"m": "x"}).values())


def test_the_chosen_digest_is_what_is_listed() -> None:
    views = [view("a", "x"), view("b", "x"), view("c", "y", NEW)]
    (listed,) = catalog.installed(views)
    assert listed.digest == "x"


class Fleet:
    """A registry, what its listener was told last of each node, and ways to change them."""

    def __init__(self) -> None:
        limits = HealthLimits(fall=1, rise=1)
        timeouts = NodeLinks(Timeouts(), Timeouts(), 1.0)
        self.told: dict[str, NodeView] = {}
        self.registry = Registry(
            new_health=partial(Health, limits, Random(0)),
            timeouts=timeouts,
            max_idle_connections=1,
            on_change=lambda view: self.told.update({view.id: view}),
            on_remove=self.told.__delitem__,
            clock=lambda: 0.0,
        )
        for name in "abc":
            self.registry.add(NodeSettings(url=f"http://{name}:11434", name=name))

    def probed(self, **digests: str) -> None:
        for name, digest in digests.items():
            facts = NodeFacts(Engine.OLLAMA, "0.33.0", (model(digest),), ())
            self.registry.probe_succeeded(name, facts)

    @property
    def outvoted(self) -> str:
        assert self.told == {view.id: view for view in self.registry.views()}
        return "".join(sorted(name for name, view in self.told.items() if view.outvoted))


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.registry.aclose()


async def test_the_listener_is_told_of_every_node_that_a_change_outvotes(fleet: Fleet) -> None:
    fleet.probed(a="x", b="x", c="y")
    assert fleet.outvoted == "c"
    fleet.probed(a="y")
    assert fleet.outvoted == "b"
    fleet.registry.probe_failed("a", "down", is_refused=True)
    fleet.registry.probe_failed("c", "down", is_refused=True)
    assert fleet.outvoted == "ac"
    fleet.probed(a="y", c="y")
    assert fleet.outvoted == "b"
    await fleet.registry.remove("a")
    await fleet.registry.remove("c")
    assert fleet.outvoted == ""


async def test_a_conflict_is_logged_once_for_each_choice(fleet: Fleet) -> None:
    with capture_logs() as lines:
        fleet.probed(a="x", b="x", c="y")
        for _ in range(3):
            fleet.probed(a="x", b="x", c="y")
            fleet.registry.probe_failed("c", "down", is_refused=True)
        fleet.probed(b="y", c="y")
    warnings = [line for line in lines if line["event"] == "digest_conflict"]
    assert [(line["model"], line["chosen"]) for line in warnings] == [("m", "x"), ("m", "y")]
    assert warnings[0]["nodes"] == {"a": "x", "b": "x", "c": "y"}
    assert {line["log_level"] for line in warnings} == {"warning"}
