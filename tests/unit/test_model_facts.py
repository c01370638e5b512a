"""What is known of a model from its header: layers, caches, parts; and why some are refused."""

from pathlib import Path

import pytest

from sollol.bench.gguf_files import GgufSpec, TensorSpec, write_gguf
from sollol.bench.model_kinds import KINDS, Size, dense
from sollol.errors import ModelBroken, UnsupportedByEngine
from sollol.sharding.cache_layout import LayerCache, layer_caches, windowed_layers
from sollol.sharding.facts import ModelFacts, model_facts
from sollol.sharding.fields import Fields
from sollol.sharding.gguf import Header, Tensor, Value, read_header
from sollol.sharding.support import check_runs

BASE: dict[str, Value] = {"block_count": 6, "embedding_length": 64, "attention.head_count": 4}


def fields(architecture: str, **own: Value) -> Fields:
    named = {key.replace("__", "."): value for key, value in own.items()}
    values = {f"{architecture}.{key}": value for key, value in {**BASE, **named}.items()}
    return Fields({"general.architecture": architecture, **values})


def header(values: dict[str, Value], tensors: tuple[str, ...] = ("token_embd.weight",)) -> Header:
    listed = tuple(Tensor(name, (64, 100), 12800, 0) for name in tensors)
    return Header(Path("a.gguf"), 1000, 100, values, {}, listed)


def llama(**own: Value) -> dict[str, Value]:
    return {
        "general.architecture": "llama",
        **{f"llama.{k}": v for k, v in {**BASE, **own}.items()},
    }


def windows(value: Fields) -> str:
    window, layers = windowed_layers(value)
    return f"{window}:" + "".join("w" if windowed else "-" for windowed in layers)


def facts_of(tmp_path: Path, spec: GgufSpec) -> ModelFacts:
    return model_facts([read_header(write_gguf(tmp_path / "m.gguf", spec))])


def test_facts_of_a_dense_model(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, dense(Size(layers=4)))
    assert (facts.architecture, facts.layer_count, facts.vocabulary) == ("llama", 4, 4096)
    assert (facts.context_length, facts.embedding_length) == (32768, 512)
    assert facts.has_chat_template
    assert facts.input_bytes == 512 * 4096 * 2
    assert facts.units[0].cache == LayerCache(2, 64, 64)
    assert facts.units[4].cache == LayerCache()
    assert facts.units[4].weight_bytes == 512 * 4096 * 2 + 512 * 4
    assert facts.weight_bytes == sum(t.size_bytes for t in dense(Size(layers=4)).tensors)
    assert facts.activation_width == 3 * 512 + 3 * 1024


def test_experts_are_told_apart(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, KINDS["experts"]())
    assert (facts.experts, facts.experts_used) == (8, 2)
    assert facts.units[0].expert_bytes == 3 * 8 * 512 * 1024 * 2
    assert facts.activation_width == 3 * 512 + 3 * 2 * 1024


def test_a_tied_output_gets_a_copy_of_the_embedding(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, KINDS["sliding_window"]())
    assert facts.units[-1].weight_bytes == facts.input_bytes + 512 * 4


def test_tensors_without_a_layer_go_where_llama_cpp_puts_them(tmp_path: Path) -> None:
    spec = dense(Size(layers=2))
    more = [
        TensorSpec("rope_freqs.weight", (32,), "f32"),
        TensorSpec("token_embd_norm.weight", (512,), "f32"),
    ]
    plain = facts_of(tmp_path, spec)
    facts = facts_of(tmp_path, GgufSpec(spec.fields, [*spec.tensors, *more], spec.texts))
    assert facts.shared_bytes == 128
    assert facts.units[0].weight_bytes == plain.units[0].weight_bytes + 2048


def test_parts_come_in_any_order_and_must_be_whole(tmp_path: Path) -> None:
    spec = dense(Size(layers=2))
    own = {**spec.fields, "split.count": 2, "split.no": 0}
    first = write_gguf(tmp_path / "1.gguf", GgufSpec(own, spec.tensors[:9], spec.texts))
    rest = GgufSpec({"split.no": 1, "split.count": 2}, spec.tensors[9:])
    headers = [read_header(write_gguf(tmp_path / "2.gguf", rest)), read_header(first)]
    facts, whole = model_facts(headers), facts_of(tmp_path, spec)
    assert facts.units == whole.units
    for wrong in ([headers[1]], [headers[1], headers[1]], [headers[0]]):
        with pytest.raises(ModelBroken, match="2 parts, but there are"):
            model_facts(wrong)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "does not name its architecture"),
        ({"general.architecture": "llama"}, "llama.block_count is missing"),
        (llama(block_count=0), "block_count is 0"),
        (llama(block_count=100_000), "block_count is 100000"),
        (llama(block_count=-1), "block_count is -1"),
        (llama(block_count="x"), "block_count is x"),
        (llama(embedding_length=1 << 40), "embedding_length is"),
        (llama(**{"attention.head_count_kv": (1, 2)}), "head_count_kv is an array of 2"),
    ],
)
def test_fields_that_make_no_sense_are_refused(values: dict[str, Value], reason: str) -> None:
    with pytest.raises(ModelBroken, match=reason):
        model_facts([header(values)])


def test_tensors_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ModelBroken, match=r"no tensor 'token_embd.weight'"):
        model_facts([header(llama(), ())])
    with pytest.raises(ModelBroken, match=r"a tensor 'blk.6.x', but 6 layers"):
        model_facts([header(llama(), ("token_embd.weight", "blk.6.x"))])


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        (fields("llama", attention__sliding_window=99), "0:------"),
        (fields("gemma3", attention__sliding_window=512), "512:wwwww-"),
        (fields("gemma3"), "0:------"),
        (fields("gemma2"), "4096:w-w-w-"),
        (fields("gemma3n", attention__sliding_window=9), "9:wwww-w"),
        (fields("gpt-oss", attention__sliding_window=128), "128:w-w-w-"),
        (fields("cohere2moe", attention__sliding_window=8), "8:-www-w"),
        (fields("smallthinker", attention__sliding_window=8), "4096:-www-w"),
        (fields("llama4"), "8192:www-ww"),
        (fields("llama4", attention__sliding_window=0), "0:------"),
        (fields("exaone4", attention__sliding_window=8), "0:------"),
        (fields("lfm2", attention__sliding_window=8), "8:wwwwww"),
        (
            fields("olmo2", attention__sliding_window=8, attention__sliding_window_pattern=3),
            "8:ww-ww-",
        ),
        (
            fields("gemma2", attention__sliding_window=8, attention__sliding_window_pattern=0),
            "8:wwwwww",
        ),
        (
            fields(
                "gemma4",
                attention__sliding_window=8,
                attention__sliding_window_pattern=(True, False, True, False, False, True),
            ),
            "8:w-w--w",
        ),
    ],
)
def test_which_layers_have_a_sliding_window(value: Fields, layers: str) -> None:
    assert windows(value) == layers


def test_exaone4_of_64_layers_has_a_window() -> None:
    assert windowed_layers(fields("exaone4", block_count=64))[0] == 4096


def test_a_needed_pattern_or_window_is_missed() -> None:
    with pytest.raises(ModelBroken, match=r"lacks gemma4.attention.sliding_window_pattern"):
        windowed_layers(fields("gemma4", attention__sliding_window=8))
    with pytest.raises(ModelBroken, match="sliding_window is missing"):
        windowed_layers(fields("gpt-oss"))


SSM: dict[str, Value] = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 128,
    "ssm__state_size": 16,
    "ssm__group_count": 1,
}
SSM_STATE = 4 * (3 * (128 + 32) + 16 * 128)


def kept(value: Fields) -> str:
    """Return a letter for each layer: a attends, s has a state, b both, - neither."""
    letters = {(False, False): "-", (True, False): "a", (False, True): "s", (True, True): "b"}
    return "".join(
        letters[layer.kv_heads > 0, layer.state_bytes > 0] for layer in layer_caches(value)
    )


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        (fields("llama"), "aaaaaa"),
        (fields("bert"), "------"),
        (fields("mamba", attention__head_count=0, **SSM), "ssssss"),
        (fields("falcon-h1", **SSM), "bbbbbb"),
        (fields("jamba", attention__head_count_kv=(0, 0, 2, 0, 0, 2), **SSM), "ssassa"),
        (fields("qwen3next", **SSM), "sssass"),
        (fields("qwen35", full_attention_interval=2, **SSM), "sasasa"),
        (fields("qwen35", nextn_predict_layers=1, full_attention_interval=2, **SSM), "sasas-"),
        (
            fields("qwen35moe", attention__recurrent_layers=(1, 0, 0, 0, 0, 1), **SSM),
            "saaaas",
        ),
        (
            fields(
                "nemotron_h",
                attention__head_count_kv=(0, 2, 0, 0, 2, 0),
                feed_forward_length=(0, 0, 64, 64, 0, 0),
                **SSM,
            ),
            "sa--as",
        ),
        (fields("glm4moe", nextn_predict_layers=2), "aaaa--"),
        (fields("gemma4", attention__shared_kv_layers=4, attention__sliding_window=8,
                attention__sliding_window_pattern=(1,) * 6), "aa----"),
    ],
)  # fmt: skip
def test_what_each_layer_keeps(value: Fields, layers: str) -> None:
    assert kept(value) == layers


def test_gemma3n_shares_the_keys_and_values_of_its_first_layers() -> None:
    layers = layer_caches(fields("gemma3n", block_count=30, attention__sliding_window=8))
    assert sum(layer.kv_heads > 0 for layer in layers) == 20


@pytest.mark.parametrize(
    ("value", "state_bytes"),
    [
        (fields("mamba", **SSM), SSM_STATE),
        (fields("rwkv7", wkv__head_size=64), 4 * 64 * (2 + 64)),
        (fields("rwkv6qwen2", wkv__head_size=64, token_shift_count=1), 4 * 64 * 65),
        (fields("lfm2", shortconv__l_cache=3, attention__head_count_kv=0), 4 * 64 * 2),
        (
            fields("kimi-linear", kda__head_dim=32, ssm__conv_kernel=4, attention__head_count_kv=0),
            4 * 4 * 32 * (9 + 32),
        ),
    ],
)
def test_how_long_a_state_is(value: Fields, state_bytes: int) -> None:
    assert layer_caches(value)[0].state_bytes == state_bytes


def test_lengths_of_heads() -> None:
    assert layer_caches(fields("llama"))[0] == LayerCache(4, 16, 16)
    mla = fields(
        "deepseek2",
        attention__head_count_kv=1,
        attention__key_length=80,
        attention__value_length=64,
        attention__key_length_mla=24,
        attention__value_length_mla=16,
    )
    assert layer_caches(mla)[0] == LayerCache(1, 80, 0)
    swa = fields(
        "gemma3",
        attention__sliding_window=8,
        attention__key_length_swa=8,
        attention__value_length_swa=4,
    )
    assert layer_caches(swa)[0] == LayerCache(4, 8, 4, window=8)
    assert layer_caches(swa)[5] == LayerCache(4, 16, 16)


def test_an_architecture_that_is_not_modelled_is_refused() -> None:
    with pytest.raises(UnsupportedByEngine, match="'deepseek4'"):
        layer_caches(fields("deepseek4"))


@pytest.mark.parametrize(
    ("values", "tensors", "reason"),
    [
        ({"general.architecture": "mllama"}, (), "never had Llama 3.2 Vision"),
        ({"general.architecture": "gptoss"}, (), "gpt-oss"),
        ({"general.architecture": "clip"}, (), "no model of its own"),
        ({"general.architecture": "llama", "general.type": "adapter"}, (), "no model of its own"),
        ({"general.architecture": "gemma3"}, (), "lacks gemma3.attention.layer_norm_rms_epsilon"),
        ({"general.architecture": "mistral3"}, ("v.blk.0",), r"a vision part \(v\.\*\)"),
        ({"general.architecture": "qwen35"}, ("mtp.0",), "MTP layers"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_with_the_reason(
    values: dict[str, Value], tensors: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(UnsupportedByEngine, match=reason):
        check_runs([header(values, tensors)])


def test_a_model_without_gguf_is_refused_and_others_are_not() -> None:
    with pytest.raises(UnsupportedByEngine, match="safetensors"):
        check_runs([], ["tensor", "json"])
    with pytest.raises(UnsupportedByEngine, match="no weights"):
        check_runs([])
    check_runs([header(llama())])
