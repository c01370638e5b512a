"""Which texts name a model, and which name the same one."""

import pytest

from sollol.wire.names import (
    ModelName,
    ModelRef,
    Source,
    display_name,
    is_valid_name,
    model_key,
    parse_name,
    parse_ref,
    shown_key,
)

HOST = "registry.ollama.ai"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x", (HOST, "library", "x", "latest")),
        ("x:7b", (HOST, "library", "x", "7b")),
        ("ns/x", (HOST, "ns", "x", "latest")),
        ("hf.co/ns/x:Q4_K_M", ("hf.co", "ns", "x", "Q4_K_M")),
        ("localhost:5000/ns/x", ("localhost:5000", "ns", "x", "latest")),
        ("https://example.com/ns/x:1", ("example.com", "ns", "x", "1")),
        ("_", (HOST, "library", "_", "latest")),
        ("x" * 80, (HOST, "library", "x" * 80, "latest")),
        ("h" * 350 + "/ns/x", ("h" * 350, "ns", "x", "latest")),
    ],
)
def test_a_name_is_split_into_its_parts(text: str, parts: tuple[str, str, str, str]) -> None:
    assert parse_name(text) == ModelName(*parts)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a b", "x/../y", "x:", ":7b", "/x", "x/", "ns//x", "a/b/c/d", "x:a:b", "-x", ".x",
        "x@sha256:00", "/models/x.gguf", "n.s/x", "x" * 81, "h" * 351 + "/ns/x", "modèle", "x\ny",
    ],
)  # fmt: skip
def test_what_is_not_a_name(text: str) -> None:
    assert not is_valid_name(text)
    with pytest.raises(ValueError, match="invalid model name"):
        parse_name(text)


@pytest.mark.parametrize(
    "text",
    ["llama3", "LLaMA3", "llama3:latest", "library/llama3", "Registry.Ollama.ai/library/llama3:LATEST",
     "llama3:local", "llama3:LOCAL", " llama3 ", "http://registry.ollama.ai/library/llama3"],
)  # fmt: skip
def test_names_of_one_model_have_one_key(text: str) -> None:
    assert model_key(text) == "registry.ollama.ai/library/llama3:latest"


@pytest.mark.parametrize(
    "text", ["/models/X.gguf", "Org/Name@rev", "", "a b", "x:cloud:local", "X" * 2000, "ns/:"]
)
def test_what_is_no_ollama_name_is_its_own_key(text: str) -> None:
    assert model_key(text) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("gpt-oss:20b:cloud", "registry.ollama.ai/library/gpt-oss:20b-cloud"),
        ("gpt-oss:20b-cloud", "registry.ollama.ai/library/gpt-oss:20b-cloud"),
        ("kimi-k2.6:cloud", "registry.ollama.ai/library/kimi-k2.6:cloud"),
        ("kimi-k2.6:Cloud", "registry.ollama.ai/library/kimi-k2.6:cloud"),
        ("x-cloud", "registry.ollama.ai/library/x-cloud:latest"),
    ],
)
def test_a_cloud_model_has_the_key_of_the_name_it_is_listed_by(text: str, key: str) -> None:
    assert model_key(text) == key
    assert model_key(key) == key


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("x", ModelRef("x", Source.ANY)),
        ("x:7b", ModelRef("x:7b", Source.ANY)),
        ("x:local", ModelRef("x", Source.LOCAL)),
        ("x:7b:local", ModelRef("x:7b", Source.LOCAL)),
        ("x:cloud", ModelRef("x", Source.CLOUD)),
        ("x:7b-CLOUD", ModelRef("x:7b", Source.CLOUD)),
        ("x-cloud", ModelRef("x-cloud", Source.ANY)),
        ("host:80/a-cloud", ModelRef("host:80/a-cloud", Source.ANY)),
        ("\u2003x: cloud ", ModelRef("x", Source.CLOUD)),
    ],
)
def test_a_suffix_says_where_a_model_runs(text: str, ref: ModelRef) -> None:
    assert parse_ref(text) == ref


@pytest.mark.parametrize("text", ["nope:cloud:local", "nope:local:cloud", "nope:7b-cloud:local"])
def test_two_suffixes_are_refused_in_ollamas_words(text: str) -> None:
    with pytest.raises(ValueError, match="use either") as caught:
        parse_ref(text)
    assert str(caught.value) == f'use either :local or :cloud, not both: "{text}"'
    assert not is_valid_name(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nope", "nope:latest"),
        ("nope:7b", "nope:7b"),
        ("Library/Nope", "Nope:latest"),
        ("me/nope", "me/nope:latest"),
        ("hf.co/me/nope:q4", "hf.co/me/nope:q4"),
        ("nope:local", "nope:latest"),
        ("a b", "a b"),
    ],
)
def test_a_name_is_shown_as_short_as_it_can_be(text: str, shown: str) -> None:
    assert display_name(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Nope", "nope:latest"),
        ("me/nope", "me/nope:latest"),
        ("hf.co/me/nope:q4", "hf.co/me/nope:q4"),
        ("nope:20b:cloud", "nope:20b-cloud"),
        ("nope:cloud", "nope:cloud"),
        ("/models/x.gguf", "/models/x.gguf"),
    ],
)
def test_a_key_is_shown_as_a_name_that_has_it(text: str, shown: str) -> None:
    key = model_key(text)
    assert shown_key(key) == shown_key(shown) == shown
    assert model_key(shown) == key
