"""What changed settings mean for the nodes there are."""

from sollol.gateway.reload import needs_restart, plan_nodes
from sollol.settings import NodeSettings, Settings
from sollol.types import Source


def listed(**values: object) -> NodeSettings:
    return NodeSettings.model_validate({"url": "gpu1", **values})


def current(*nodes: tuple[NodeSettings, Source]) -> dict[str, tuple[NodeSettings, Source]]:
    return {settings.id: (settings, source) for settings, source in nodes}


def test_a_node_as_it_was_is_left_alone() -> None:
    plan = plan_nodes(current((listed(), Source.SETTINGS)), [listed()])
    assert (plan.changed, plan.added, plan.removed) == ([], [], set())


def test_a_changed_node_is_changed_where_it_stands() -> None:
    plan = plan_nodes(current((listed(), Source.SETTINGS)), [listed(slots=4)])
    assert (plan.changed, plan.added, plan.removed) == ([listed(slots=4)], [], set())


def test_a_node_listed_no_more_leaves_and_others_stay() -> None:
    there = current(
        (listed(), Source.SETTINGS),
        (listed(url="gpu2"), Source.API),
        (listed(url="gpu3"), Source.DNS),
    )
    plan = plan_nodes(there, [])
    assert (plan.changed, plan.added, plan.removed) == ([], [], {"gpu1:11434"})


def test_a_node_with_another_address_is_added_once_the_old_one_is_gone() -> None:
    old, new = listed(name="one"), listed(url="gpu2", name="one")
    plan = plan_nodes(current((old, Source.SETTINGS)), [new])
    assert (plan.added, plan.removed) == ([new], {"one"})


def test_a_node_with_another_name_takes_the_place_of_the_one_with_its_address() -> None:
    new = listed(name="one")
    plan = plan_nodes(current((listed(), Source.SCAN)), [new])
    assert (plan.added, plan.removed) == ([new], {"gpu1:11434"})


def test_a_node_of_the_api_that_is_listed_now_belongs_to_the_settings() -> None:
    plan = plan_nodes(current((listed(), Source.API)), [listed()])
    assert (plan.changed, plan.added, plan.removed) == ([listed()], [], set())


def test_what_is_read_at_the_start_only_is_named() -> None:
    wanted = Settings.model_validate(
        {
            "nodes": ["a"],
            "discovery": {"local": False},
            "models": {"a": {"alias_of": "b"}},
            "queue": {"timeout_s": 1},
            "log": {"level": "debug"},
        }
    )
    assert needs_restart(Settings(), wanted) == ["queue.timeout_s", "log.level"]
