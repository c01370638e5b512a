import json
from typing import Any

import pytest

from sollol.wire.llama_facts import (
    parameter_size,
    ps_entry,
    quantization_level,
    read_llama_model,
    show_answer,
    tags_entry,
)

ENTRY: dict[str, Any] = {
    "id": "gemma3:270m",
    "object": "model",
    "created": 1795459611,
    "owned_by": "llamacpp",
    "meta": {
        "n_vocab": 262144,
        "n_ctx": 4096,
        "n_ctx_train": 32768,
        "n_embd": 640,
        "n_params": 268098176,
        "size": 246587904,
        "ftype": "Q4_K - Medium",
    },
}
PROPS: dict[str, Any] = {
    "default_generation_settings": {"n_ctx": 2048},
    "total_slots": 4,
    "modalities": {"vision": False, "audio": False},
    "chat_template": "{%- for message in messages -%}...",
    "chat_template_caps": {"supports_tools": False},
}


def test_the_entry_of_a_model_list() -> None:
    model = read_llama_model(ENTRY, PROPS, embeds=True, architecture="gemma3")
    assert list(tags_entry(model)) == [
        "name",
        "model",
        "modified_at",
        "size",
        "digest",
        "details",
        "capabilities",
    ]
    entry = tags_entry(model)
    assert (entry["name"], entry["size"]) == ("gemma3:270m", 246587904)
    assert len(entry["digest"]) == 64
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "gemma3",
        "families": ["gemma3"],
        "parameter_size": "268.10M",
        "quantization_level": "Q4_K_M",
        "context_length": 32768,
        "embedding_length": 640,
    }
    assert entry["capabilities"] == ["completion", "embedding"]


def test_the_digest_is_the_same_at_each_look_and_another_for_another_model() -> None:
    first = read_llama_model(ENTRY, PROPS).digest
    assert read_llama_model(ENTRY | {"created": 1}, {}).digest == first
    other_meta = ENTRY["meta"] | {"size": 1}
    assert read_llama_model(ENTRY | {"meta": other_meta}, PROPS).digest != first


def test_the_entry_of_a_running_model_tells_the_window_in_force() -> None:
    entry = ps_entry(read_llama_model(ENTRY, PROPS), vram_bytes=7)
    assert (entry["context_length"], entry["size_vram"]) == (2048, 7)
    assert entry["expires_at"] > "2300"
    assert ps_entry(read_llama_model(ENTRY, {}))["context_length"] == 4096


def test_the_facts_of_a_model() -> None:
    answer = show_answer(read_llama_model(ENTRY, PROPS, modified_at="2026-01-01T00:00:00Z"))
    assert answer["model_info"] == {
        "general.architecture": "unknown",
        "unknown.context_length": 32768,
        "unknown.embedding_length": 640,
        "general.parameter_count": 268098176,
    }
    assert answer["template"] == PROPS["chat_template"]
    assert answer["parameters"] == "num_ctx                        2048"
    assert answer["modified_at"] == "2026-01-01T00:00:00Z"


def test_what_the_template_and_the_projector_can_do() -> None:
    props = {
        "modalities": {"vision": True, "audio": True},
        "chat_template": "{% if tools %}{% if enable_thinking %}",
    }
    assert read_llama_model(ENTRY, props).capabilities == (
        "completion",
        "tools",
        "vision",
        "audio",
        "thinking",
    )


def test_a_server_that_tells_nothing() -> None:
    model = read_llama_model({"id": "x", "meta": None}, {"modalities": 3})
    json.dumps([tags_entry(model), ps_entry(model), show_answer(model)])
    assert (model.size_bytes, model.quantization, model.capabilities) == (
        0,
        "unknown",
        ("completion",),
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (999, "999"),
        (22_000, "22K"),
        (268_098_176, "268.10M"),
        (137_000_000, "137M"),
        (7_600_000_000, "7.6B"),
        (70_000_000_000, "70B"),
    ],
)
def test_counts_of_parameters(count: int, text: str) -> None:
    assert parameter_size(count) == text


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Q4_K - Medium", "Q4_K_M"),
        ("Q2_K - Small", "Q2_K_S"),
        ("(guessed) Q8_0", "Q8_0"),
        ("all F32", "F32"),
        ("IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
        ("IQ3_S mix - 3.66 bpw", "IQ3_M"),
        ("MXFP4 MoE", "MXFP4_MOE"),
        ("", "unknown"),
    ],
)
def test_file_types_have_ggufs_names(words: str, name: str) -> None:
    assert quantization_level(words) == name
