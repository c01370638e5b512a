"""One list of models out of many nodes."""

from typing import Any

from sollol.nodes import catalog
from sollol.types import Engine, Model, NodeState, NodeView, Resident
from sollol.wire.names import model_key


def model(name: str, modified_at: str, digest: str = "d") -> Model:
    entry = {"name": name, "modified_at": modified_at, "digest": digest}
    return Model(model_key(name), name, digest, modified_at=modified_at, entry=entry)


def loaded(name: str, **fields: Any) -> Resident:
    return Resident(model_key(name), name, entry={"name": name, **fields})


def view(
    name: str,
    models: tuple[Model, ...] = (),
    resident: tuple[Resident, ...] = (),
    state: NodeState = NodeState.HEALTHY,
    version: str = "0.33.0",
) -> NodeView:
    return NodeView(
        name, f"http://{name}", Engine.OLLAMA, state, version=version,
        models={m.key: m for m in models}, resident={r.key: r for r in resident},
    )  # fmt: skip


def names(views: list[NodeView]) -> list[str]:
    return [known.name for known in catalog.installed(views)]


def test_a_model_of_several_nodes_is_listed_once_and_the_newest_first() -> None:
    old, new = (
        model("llama3:latest", "2025-01-01T00:00:00Z"),
        model("qwen:7b", "2026-01-01T00:00:00Z"),
    )
    assert names([view("a", (old,)), view("b", (old, new))]) == ["qwen:7b", "llama3:latest"]


def test_of_two_digests_with_as_many_nodes_the_newer_is_listed() -> None:
    old = model("m:latest", "2025-01-01T00:00:00Z", "old")
    new = model("m:latest", "2026-01-01T00:00:00Z", "new")
    (listed,) = catalog.installed([view("a", (new,)), view("b", (old,))])
    assert listed.digest == "new"


def test_models_of_a_node_that_is_down_stay_listed_and_its_memory_does_not() -> None:
    known = model("m:latest", "2025-01-01T00:00:00Z")
    down = view("a", (known,), (loaded("m:latest"),), NodeState.UNHEALTHY)
    assert names([down]) == ["m:latest"]
    assert catalog.resident([down]) == []


def test_a_model_in_memory_of_two_nodes_is_one_entry() -> None:
    one = loaded("m:latest", size=10, size_vram=10, context_length=8192, expires_at="2026-01-01")
    two = loaded("m:latest", size=10, size_vram=5, context_length=4096, expires_at="2026-01-02")
    (entry,) = catalog.resident([view("a", (), (one,)), view("b", (), (two,))])
    assert entry == {
        "name": "m:latest",
        "size": 20,
        "size_vram": 15,
        "context_length": 4096,
        "expires_at": "2026-01-02",
    }


def test_two_digests_of_a_name_in_memory_are_two_entries() -> None:
    one = Resident("m", "m", "x", entry={"digest": "x", "expires_at": "2026-01-01T01:00:00+02:00"})
    two = Resident("m", "m", "y", entry={"digest": "y", "expires_at": "2026-01-01T00:00:00Z"})
    entries = catalog.resident([view("a", (), (one,)), view("b", (), (two,))])
    assert [entry["digest"] for entry in entries] == ["y", "x"]


def test_an_alias_is_not_another_entry() -> None:
    one = loaded("m:latest", size=1)
    aliased = view("a", (), (one,))
    both = dict(aliased.resident) | {"alias": one}
    shared = NodeView("a", "u", Engine.OLLAMA, NodeState.HEALTHY, resident=both)
    assert len(catalog.resident([shared])) == 1


def test_the_version_is_the_lowest_of_the_nodes_that_are_up() -> None:
    views = [
        view("a", version="0.30.1"),
        view("b", version="0.9.6"),
        view("c", version="0.33.0-rc2"),
    ]
    assert catalog.version(views) == "0.9.6"
    assert catalog.version([view("a", state=NodeState.UNHEALTHY, version="0.1.0")]) == "0.33.0"


def test_the_owner_is_the_namespace() -> None:
    assert catalog.owner(model("llama3", "x")) == "library"
    assert catalog.owner(model("me/llama3", "x")) == "me"
    assert catalog.owner(model("/models/x.gguf", "x")) == "library"
