"""What the settings say of models."""

from typing import Any

import pytest

from sollol.gateway.model_rules import Meant, ModelRules, is_listed
from sollol.nodes.catalog import Listing
from sollol.settings import NodeSettings, Settings
from sollol.types import Engine, Model, NodeState, NodeView
from sollol.wire.names import model_key

KEY = model_key("m")


def rules(models: Any = None, **nodes: dict[str, Any]) -> ModelRules:
    settings = Settings.model_validate({"models": models or {}})
    by_id = {name: NodeSettings.model_validate({"url": name, **n}) for name, n in nodes.items()}
    return ModelRules(settings.models, by_id.get)


def allowed(sut: ModelRules, key: str = KEY) -> str:
    return "".join(node for node in "abc" if sut.is_allowed(node, key))


def listing(name: str, *nodes: str) -> Listing:
    model = Model(model_key(name), name, digest="d", entry={"name": name, "model": name, "size": 1})
    views = [NodeView(id_, id_, Engine.OLLAMA, NodeState.HEALTHY) for id_ in nodes]
    return Listing(model, views)


def test_without_rules_everything_may_run_everywhere() -> None:
    sut = rules()
    assert allowed(sut) == "abc"
    assert sut.resolve(KEY) is None
    assert sut.pinned_to(KEY) == ()


def test_a_pinned_model_runs_where_it_is_pinned_to_under_any_spelling() -> None:
    sut = rules({"M": {"pin": ["a", "c"]}})
    assert allowed(sut) == "ac"
    assert allowed(sut, model_key("other")) == "abc"
    assert sut.pinned_to(model_key("m:latest")) == ("a", "c")


def test_of_a_nodes_lists_that_of_denied_models_wins() -> None:
    sut = rules(a={"allow_models": ["m"]}, b={"allow_models": ["m*"], "deny_models": ["m"]})
    assert allowed(sut) == "ac"
    assert allowed(sut, model_key("m2")) == "bc"
    assert allowed(sut, model_key("x")) == "c"


def test_a_pin_does_not_overrule_a_denial() -> None:
    assert allowed(rules({"m": {"pin": ["a", "b"]}}, a={"deny_models": ["m"]})) == "b"


@pytest.mark.parametrize(
    ("model", "pattern", "expected"),
    [
        ("qwen3:8b", "qwen3:8b", True),
        ("QWEN3:8B", "Qwen3:8b", True),
        ("qwen3", "qwen3:latest", True),
        ("qwen3:8b", "qwen3", False),
        ("qwen3:8b", "qwen3:*", True),
        ("qwen3:8b", "QWEN*", True),
        ("qwen3-vl:8b", "qwen3:*", False),
        ("llama3.1:70b", "*:70b", True),
        ("hf.co/org/model:q4", "hf.co/*", True),
        ("org/model", "org/*:latest", True),
        ("qwen3:8b", "qwen[0-2]*", False),
        ("/models/x.gguf", "*.gguf", True),
    ],
)
def test_models_are_named_or_matched(model: str, pattern: str, expected: bool) -> None:
    assert is_listed(model_key(model), (pattern,)) is expected


def test_an_alias_stands_for_what_is_at_the_end_of_the_chain() -> None:
    sut = rules({"a": {"alias_of": "B"}, "b:latest": {"alias_of": "c:1"}, "c:1": {"pin": ["x"]}})
    assert sut.resolve(model_key("A")) == Meant("c:1", ())
    assert sut.resolve(model_key("b")) == Meant("c:1", ())
    assert sut.resolve(model_key("c:1")) is None


def test_fallbacks_are_those_on_the_way_each_once_and_through_aliases() -> None:
    sut = rules(
        {
            "a": {"alias_of": "b", "fallback": ["x", "e"]},
            "b": {"fallback": ["y", "x:latest", "a"]},
            "e": {"alias_of": "z"},
        }
    )
    assert sut.resolve(model_key("a")) == Meant("b", ("x", "z", "y"))
    assert sut.resolve(model_key("b")) == Meant("", ("y", "x:latest"))


def test_other_rules_can_be_taken_over() -> None:
    sut = rules({"m": {"pin": ["a"]}})
    sut.use(Settings.model_validate({"models": {"m": {"alias_of": "n"}}}).models)
    assert allowed(sut) == "abc"
    assert sut.resolve(KEY) == Meant("n", ())


def test_aliases_are_listed_behind_their_targets_with_what_is_known_of_those() -> None:
    sut = rules({"gpt-4o": {"alias_of": "m"}, "none": {"alias_of": "unknown"}})
    one, alias, other = sut.installed([listing("m:latest", "a"), listing("n:latest", "a")])
    assert (one.name, alias.name, other.name) == ("m:latest", "gpt-4o", "n:latest")
    assert alias.key == model_key("gpt-4o")
    assert alias.digest == "d"
    assert alias.entry == {"name": "gpt-4o", "model": "gpt-4o", "size": 1}


def test_an_alias_hides_a_model_of_its_name() -> None:
    sut = rules({"n": {"alias_of": "m"}})
    found = sut.installed([listing("m:latest", "a"), listing("n:latest", "b")])
    assert [model.name for model in found] == ["m:latest", "n"]


def test_a_model_that_no_node_may_run_is_not_listed() -> None:
    sut = rules({"m": {"pin": ["b"]}}, a={"deny_models": ["n"]})
    assert sut.installed([listing("m", "a"), listing("n", "a")]) == []
    assert len(sut.installed([listing("m", "a", "b"), listing("n", "a", "b")])) == 2
