"""Small models of many kinds, which real llama.cpp programs load; their weights are all zero."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sollol.bench.gguf_files import GgufSpec, TensorSpec, vocabulary
from sollol.sharding.gguf import Value

VOCABULARY = 4096
CONTEXT_LENGTH = 32768


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is; the rest of its numbers follow from these."""

    layers: int = 8
    embedding: int = 512
    feed_forward: int = 1024
    heads: int = 8
    kv_heads: int = 2
    vocabulary: int = VOCABULARY
    kind: str = "f16"

    @property
    def head(self) -> int:
        """Length of a head."""
        return self.embedding // self.heads

    @property
    def kv(self) -> int:
        """Length of all keys of a token."""
        return self.head * self.kv_heads


def dense(size: Size = Size()) -> GgufSpec:
    """Return a Llama with grouped KV heads."""
    layers = [
        [*_attention(size, index), *_feed_forward(size, index)] for index in range(size.layers)
    ]
    return _spec("llama", size, layers, {"rope.dimension_count": size.head})


def experts(size: Size = Size()) -> GgufSpec:
    """Return a Mixtral: 8 experts, of which a token uses 2."""
    layers = [[*_attention(size, index), *_experts(size, index)] for index in range(size.layers)]
    own = {"rope.dimension_count": size.head, "expert_count": 8, "expert_used_count": 2}
    return _spec("llama", size, layers, own)


def sliding_window(size: Size = Size(layers=12)) -> GgufSpec:
    """Return a Gemma 3: five of six layers see 512 tokens, and the output is the embedding."""
    layers = []
    for index in range(size.layers):
        norms = [
            _vector(index, name, length)
            for name, length in (
                ("post_attention_norm", size.embedding),
                ("post_ffw_norm", size.embedding),
                ("attn_k_norm", size.head),
                ("attn_q_norm", size.head),
            )
        ]
        layers.append([*_attention(size, index), *_feed_forward(size, index), *norms])
    return _spec("gemma3", size, layers, {"attention.sliding_window": 512}, is_tied=True)


def latent_attention(size: Size = Size(layers=6), *, is_absorbed: bool = True) -> GgufSpec:
    """Return a DeepSeek 2: MLA, which keeps one latent key a token; old files keep all heads."""
    rank, rope, plain, value = 128, 64, 64, 64
    own: dict[str, Value] = {
        "rope.dimension_count": rope,
        "leading_dense_block_count": size.layers,
        "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": 96,
        "attention.key_length": rank + rope if is_absorbed else plain + rope,
        "attention.value_length": rank if is_absorbed else value,
        "attention.head_count_kv": 1 if is_absorbed else size.heads,
        "expert_count": 2,
        "expert_used_count": 1,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 64,
        "expert_weights_scale": 1.0,
    }
    if is_absorbed:
        own |= {"attention.key_length_mla": plain + rope, "attention.value_length_mla": value}
    layers = [
        [*_latent(size, index, is_absorbed=is_absorbed), *_feed_forward(size, index)]
        for index in range(size.layers)
    ]
    return _spec("deepseek2", size, layers, own)


def old_latent_attention() -> GgufSpec:
    """Return a DeepSeek 2 as it was converted before llama.cpp knew MLA."""
    return latent_attention(is_absorbed=False)


def recurrent(size: Size = Size(kv_heads=0)) -> GgufSpec:
    """Return a Mamba: a state of fixed length and no attention at all."""
    layers = [_state_space(size, index) for index in range(size.layers)]
    own: dict[str, Value] = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * size.embedding,
        "ssm.state_size": 16,
        "ssm.time_step_rank": 32,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "feed_forward_length": 0,
    }
    return _spec("mamba", size, layers, own, is_tied=True)


def hybrid(size: Size = Size(layers=12)) -> GgufSpec:
    """Return a Granite 4: one layer in four attends, the others have a state."""
    attends = [index % 4 == 3 for index in range(size.layers)]
    layers = [
        [
            *(_attention(size, index) if attends[index] else _grouped_state_space(size, index)),
            *_feed_forward(size, index),
        ]
        for index in range(size.layers)
    ]
    own: dict[str, Value] = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * size.embedding,
        "ssm.state_size": 64,
        "ssm.time_step_rank": 16,
        "ssm.group_count": 1,
        "rope.dimension_count": size.head,
        "attention.head_count_kv": tuple(
            size.kv_heads if attending else 0 for attending in attends
        ),
    }
    return _spec("granitehybrid", size, layers, own)


def short_convolution(size: Size = Size(layers=12)) -> GgufSpec:
    """Return an LFM 2: one layer in three attends, the others keep the last few inputs."""
    attends = [index % 3 == 2 for index in range(size.layers)]
    layers = []
    for index in range(size.layers):
        tensors = [*_feed_forward(size, index)]
        if attends[index]:
            norms = [_vector(index, f"attn_{part}_norm", size.head) for part in "qk"]
            tensors += [*_attention(size, index), *norms]
        else:
            tensors += _convolution(size, index)
        layers.append(tensors)
    own: dict[str, Value] = {
        "shortconv.l_cache": 3,
        "attention.head_count_kv": tuple(
            size.kv_heads if attending else 0 for attending in attends
        ),
    }
    spec = _spec("lfm2", size, layers, own, is_tied=True)
    renamed = [
        TensorSpec("token_embd_norm.weight", t.dimensions, t.kind)
        if t.name == "output_norm.weight"
        else t
        for t in spec.tensors
    ]
    return GgufSpec(spec.fields, renamed, spec.texts)


KINDS: Mapping[str, Callable[[], GgufSpec]] = {
    "dense": dense,
    "experts": experts,
    "sliding_window": sliding_window,
    "latent_attention": latent_attention,
    "old_latent_attention": old_latent_attention,
    "recurrent": recurrent,
    "hybrid": hybrid,
    "short_convolution": short_convolution,
}


def _spec(
    architecture: str,
    size: Size,
    layers: Sequence[Sequence[TensorSpec]],
    own: Mapping[str, Value],
    *,
    is_tied: bool = False,
) -> GgufSpec:
    common: dict[str, Value] = {
        "context_length": CONTEXT_LENGTH,
        "embedding_length": size.embedding,
        "block_count": size.layers,
        "feed_forward_length": size.feed_forward,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": size.vocabulary,
    }
    words, texts = vocabulary(size.vocabulary)
    fields: dict[str, Value] = {"general.architecture": architecture, "general.name": architecture}
    fields |= {f"{architecture}.{key}": value for key, value in {**common, **own}.items()}
    ends = [
        TensorSpec("token_embd.weight", (size.embedding, size.vocabulary), size.kind),
        TensorSpec("output_norm.weight", (size.embedding,), "f32"),
    ]
    if not is_tied:
        ends.append(TensorSpec("output.weight", (size.embedding, size.vocabulary), size.kind))
    return GgufSpec(fields | words, [*ends, *(t for layer in layers for t in layer)], texts)


def _attention(size: Size, index: int) -> list[TensorSpec]:
    wide = size.head * size.heads
    return [
        _vector(index, "attn_norm", size.embedding),
        _matrix(size, index, "attn_q", size.embedding, wide),
        _matrix(size, index, "attn_k", size.embedding, size.kv),
        _matrix(size, index, "attn_v", size.embedding, size.kv),
        _matrix(size, index, "attn_output", wide, size.embedding),
    ]


def _feed_forward(size: Size, index: int) -> list[TensorSpec]:
    return [
        _vector(index, "ffn_norm", size.embedding),
        _matrix(size, index, "ffn_gate", size.embedding, size.feed_forward),
        _matrix(size, index, "ffn_up", size.embedding, size.feed_forward),
        _matrix(size, index, "ffn_down", size.feed_forward, size.embedding),
    ]


def _experts(size: Size, index: int) -> list[TensorSpec]:
    return [
        _vector(index, "ffn_norm", size.embedding),
        TensorSpec(f"blk.{index}.ffn_gate_inp.weight", (size.embedding, 8), "f32"),
        _matrix(size, index, "ffn_gate_exps", size.embedding, size.feed_forward, 8),
        _matrix(size, index, "ffn_up_exps", size.embedding, size.feed_forward, 8),
        _matrix(size, index, "ffn_down_exps", size.feed_forward, size.embedding, 8),
    ]


def _latent(size: Size, index: int, *, is_absorbed: bool) -> list[TensorSpec]:
    rank, rope, plain, value, query = 128, 64, 64, 64, 96
    keys = [
        _matrix(size, index, "attn_k_b", plain, rank, size.heads),
        _matrix(size, index, "attn_v_b", rank, value, size.heads),
    ]
    if not is_absorbed:
        keys = [_matrix(size, index, "attn_kv_b", rank, size.heads * (plain + value))]
    return [
        _vector(index, "attn_norm", size.embedding),
        _vector(index, "attn_q_a_norm", query),
        _vector(index, "attn_kv_a_norm", rank),
        _matrix(size, index, "attn_q_a", size.embedding, query),
        _matrix(size, index, "attn_q_b", query, size.heads * (plain + rope)),
        _matrix(size, index, "attn_kv_a_mqa", size.embedding, rank + rope),
        *keys,
        _matrix(size, index, "attn_output", size.heads * value, size.embedding),
    ]


def _state_space(size: Size, index: int) -> list[TensorSpec]:
    inner, state, taps, rank = 2 * size.embedding, 16, 4, 32
    return [
        _vector(index, "attn_norm", size.embedding),
        _matrix(size, index, "ssm_in", size.embedding, 2 * inner),
        TensorSpec(f"blk.{index}.ssm_conv1d.weight", (taps, inner), "f32"),
        TensorSpec(f"blk.{index}.ssm_conv1d.bias", (inner,), "f32"),
        _matrix(size, index, "ssm_x", inner, rank + 2 * state),
        _matrix(size, index, "ssm_dt", rank, inner),
        TensorSpec(f"blk.{index}.ssm_dt.bias", (inner,), "f32"),
        TensorSpec(f"blk.{index}.ssm_a", (state, inner), "f32"),
        TensorSpec(f"blk.{index}.ssm_d", (inner,), "f32"),
        _matrix(size, index, "ssm_out", inner, size.embedding),
    ]


def _grouped_state_space(size: Size, index: int) -> list[TensorSpec]:
    inner, state, taps, heads = 2 * size.embedding, 64, 4, 16
    convolved = inner + 2 * state
    return [
        _vector(index, "attn_norm", size.embedding),
        _matrix(size, index, "ssm_in", size.embedding, inner + convolved + heads),
        TensorSpec(f"blk.{index}.ssm_conv1d.weight", (taps, convolved), "f32"),
        TensorSpec(f"blk.{index}.ssm_conv1d.bias", (convolved,), "f32"),
        TensorSpec(f"blk.{index}.ssm_dt.bias", (heads,), "f32"),
        TensorSpec(f"blk.{index}.ssm_a", (1, heads), "f32"),
        TensorSpec(f"blk.{index}.ssm_d", (1, heads), "f32"),
        TensorSpec(f"blk.{index}.ssm_norm.weight", (inner, 1), "f32"),
        _matrix(size, index, "ssm_out", inner, size.embedding),
    ]


def _convolution(size: Size, index: int) -> list[TensorSpec]:
    return [
        _vector(index, "attn_norm", size.embedding),
        TensorSpec(f"blk.{index}.shortconv.conv.weight", (3, size.embedding), "f32"),
        _matrix(size, index, "shortconv.in_proj", size.embedding, 3 * size.embedding),
        _matrix(size, index, "shortconv.out_proj", size.embedding, size.embedding),
    ]


def _matrix(size: Size, index: int, name: str, *dimensions: int) -> TensorSpec:
    return TensorSpec(f"blk.{index}.{name}.weight", dimensions, size.kind)


def _vector(index: int, name: str, length: int) -> TensorSpec:
    return TensorSpec(f"blk.{index}.{name}.weight", (length,), "f32")
