"""Models of a store as Ollama describes them."""

from pathlib import Path

import pytest

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.bench.model_kinds import dense
from sollol.sharding.gguf import read_header
from sollol.sharding.ollama_store import StoredModel, find_model, list_models
from sollol.sharding.shown import listed, shown
from tests.shards import Store

STORED = StoredModel(
    "m:latest",
    None,
    (),
    projectors=(Path("p"),),
    template="{{ .System }}{{ .Tools }}{{ .Suffix }}",
    system="Be kind.",
    messages='[{"role": "user", "content": "Hi"}]',
    parameters='{"stop": ["<a>", "<b>"], "temperature": 0.5}',
    config='{"model_format": "gguf", "model_family": "llama", "model_families": ["llama", "clip"],'
    ' "model_type": "8B", "file_type": "Q4_K_M"}',
    digest="abc",
)


def test_a_listed_model() -> None:
    model = listed(STORED, 123, "2026-01-02T03:04:05+00:00")
    assert model.digest == model.entry["digest"] == "abc"
    assert (model.key, model.size_bytes) == ("registry.ollama.ai/library/m:latest", 123)
    assert model.entry["details"]["families"] == ["llama", "clip"]
    assert model.entry["details"]["parameter_size"] == "8B"
    assert model.entry["capabilities"] == ["completion", "tools", "insert", "vision"]


def test_a_shown_model(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "m.gguf", dense()))
    told = shown(STORED, [header], ["MIT", "more"], "2026-01-02T03:04:05+00:00")
    assert told["parameters"].splitlines() == [
        f'{"stop":<30} "<a>"',
        f'{"stop":<30} "<b>"',
        f"{'temperature':<30} 0.5",
    ]
    assert 'PARAMETER stop "<a>"' in told["modelfile"]
    assert 'SYSTEM """Be kind."""' in told["modelfile"]
    assert told["license"] == "MIT\nmore"
    assert 'LICENSE """more"""' in told["modelfile"]
    assert 'MESSAGE user """Hi"""' in told["modelfile"]
    assert told["messages"] == [{"role": "user", "content": "Hi"}]
    assert told["model_info"]["general.architecture"] == "llama"
    assert told["model_info"]["general.parameter_count"] > 1_000_000
    assert not any(name.startswith("tokenizer.") for name in told["model_info"])


def test_a_model_with_nothing_but_weights_is_shown_too(tmp_path: Path) -> None:
    spec = dense()
    fields = {**spec.fields, "llama.pooling_type": 1}
    path = write_gguf(tmp_path / "m.gguf", GgufSpec(fields, spec.tensors, spec.texts))
    told = shown(
        StoredModel("m", None, (path,), config="[1]", parameters="{"), [read_header(path)], (), ""
    )
    assert told["capabilities"] == ["embedding"]
    assert told["details"]["family"] == "llama"
    assert told["template"]
    assert "system" not in told


def test_all_whole_models_of_a_store_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    store.small("b", "a")
    store.manifest("broken", {"layers": []})
    stray = store.root / "manifests/registry.ollama.ai/library/.hidden/x y"
    stray.parent.mkdir()
    stray.write_text("{}")
    names = [model.name for model in list_models([tmp_path / "none", store.root])]
    assert names == ["a:latest", "b:latest"]
    assert find_model("a", [store.root]).parts


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="a directory that cannot be listed is needed"
)
def test_a_store_that_cannot_be_read_has_no_models(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert list(list_models([file])) == []
