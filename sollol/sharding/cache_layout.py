"""What llama.cpp keeps for each layer while it generates: keys and values, a state, or both.

Files say most of it; what llama.cpp has in its code, by architecture, is in the tables here.

Source: llama.cpp, src/llama-model.cpp (``create_memory``), src/llama-hparams.cpp, src/models/.
"""

from dataclasses import dataclass

from sollol.errors import ModelBroken, UnsupportedByEngine
from sollol.sharding.fields import Fields
from sollol.sharding.gguf import ADVICE

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
"""Every layer has a state and none has keys and values."""
HYBRID_BY_HEADS = frozenset({"jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear"})
"""A layer without KV heads has a state."""
HYBRID_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe"})
"""Every n-th layer has keys and values, the others a state."""
HYBRID_BY_FFN = frozenset({"nemotron_h", "nemotron_h_moe"})
"""A layer with a feed-forward network has neither."""
CACHELESS = frozenset(
    [
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "dream",
        "llada",
        "llada-moe",
        "rnd1",
    ]
)
"""The whole text is read at once: embeddings and diffusion."""
UNKNOWN = frozenset(
    [
        "deepseek32",
        "deepseek4",
        "glm-dsa",
        "glm5-next",
        "hy_v4",
        "dots3note",
        "dflash",
        "minimax-01",
        "minimax-m3",
        "qwen4exp",
        "bailingmoe3",
        "kimi-k3",
        "gemma4-assistant",
        "eagle3",
        "t5",
        "t5encoder",
        "hrm_text",
        "nanbeige",
        "graniteswitch",
        "wavtokenizer-dec",
        "qwen3tts",
        "pockettts",
        "clef",
    ]
)
"""They keep something that is not modelled here."""

_ALWAYS = {"cohere2": 4, "cohere2moe": 4, "gemma2": 2, "gemma3n": 5, "gpt-oss": 2,
           "exaone-moe": 4, "llama4": 4, "muse-glimmer": 4}  # fmt: skip
_IF_GIVEN = {"afmoe": 4, "gemma3": 6, "laguna": 4, "mellum": 4, "olmo2": 4, "plamo3": 8,
             "smallthinker": 4}  # fmt: skip
_BY_ARRAY = frozenset({"gemma4", "granite_swa", "maple", "mimo2", "spark2_5", "step35"})
_DENSE_FIRST = frozenset({"cohere2moe", "laguna", "smallthinker"})
_DEFAULT_WINDOWS = {"gemma2": 4096, "exaone-moe": 128, "exaone4": 4096}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
_EXAONE4_LAYERS = 64
"""Of the one size of this architecture that has a sliding window."""
_GEMMA3N_KV_LAYERS = 20
_STATE_BYTES = 4
"""States are always f32."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What one layer keeps.

    A cell (one token) takes ``kv_heads * (key_length + value_length)`` elements of the cache's
    types. ``window``: only so many tokens are kept, 0 means the whole context. ``state_bytes``: of
    each slot, whatever the context.
    """

    kv_heads: int = 0
    key_length: int = 0
    value_length: int = 0
    window: int = 0
    state_bytes: int = 0


def layer_caches(fields: Fields) -> tuple[LayerCache, ...]:
    """Return what each layer keeps.

    Raises:
        UnsupportedByEngine: the architecture keeps something that is not modelled.
        ModelBroken: a field is missing or makes no sense.
    """
    if fields.architecture in UNKNOWN:
        raise UnsupportedByEngine(
            f"SOLLOL cannot foresee the memory of models of the architecture "
            f"{fields.architecture!r}, so it cannot split this one. Run it on one node that "
            "holds all of it."
        )
    count = fields.layer_count
    if fields.architecture in CACHELESS:
        return (LayerCache(),) * count
    attends, remembers = _kinds(fields)
    kv_heads = fields.per_layer("attention.head_count_kv", 0)
    if not fields.has("attention.head_count_kv"):
        kv_heads = fields.per_layer("attention.head_count", 0)
    window, windowed = windowed_layers(fields)
    state_bytes = _state_bytes(fields) if any(remembers) else 0
    layers = []
    for index in range(count):
        state = state_bytes if remembers[index] else 0
        if not attends[index]:
            layers.append(LayerCache(state_bytes=state))
            continue
        key, value = _lengths(fields, is_windowed=windowed[index])
        layers.append(
            LayerCache(kv_heads[index], key, value, window if windowed[index] else 0, state)
        )
    return tuple(layers)


def windowed_layers(fields: Fields) -> tuple[int, tuple[bool, ...]]:
    """Return the length of the sliding window and which layers have it.

    Raises:
        ModelBroken: the architecture needs a window or a pattern that the file lacks.
    """
    name, count = fields.architecture, fields.layer_count
    nowhere = (0, (False,) * count)
    window = _window(fields)
    if window == 0:
        return nowhere
    if name in ("lfm2", "lfm2moe"):
        return window, (True,) * count
    pattern = fields.flags("attention.sliding_window_pattern")
    if pattern is not None:
        return window, pattern
    if name in _BY_ARRAY:
        raise ModelBroken(f"The GGUF file lacks {name}.attention.sliding_window_pattern. {ADVICE}.")
    default = {**_ALWAYS, **_IF_GIVEN, "exaone4": 4}[name]
    period = fields.number("attention.sliding_window_pattern", default)
    return window, tuple(
        _is_windowed(index, period, name in _DENSE_FIRST) for index in range(count)
    )


def _window(fields: Fields) -> int:
    name, key = fields.architecture, "attention.sliding_window"
    if name == "exaone4" and fields.layer_count != _EXAONE4_LAYERS:
        return 0
    if name in _IF_GIVEN or name in ("lfm2", "lfm2moe"):
        given = fields.number(key, 0)
        return _FIXED_WINDOWS.get(name, given) if given else 0
    if name == "llama4":
        return _FIXED_WINDOWS[name] if fields.number(key, 1) else 0
    if name in _ALWAYS or name in _BY_ARRAY or name == "exaone4":
        return fields.number(key, _DEFAULT_WINDOWS.get(name))
    return 0


def _is_windowed(index: int, period: int, is_dense_first: bool) -> bool:
    if period == 0:
        return True
    return index % period != (0 if is_dense_first else period - 1)


def _kinds(fields: Fields) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Return which layers keep keys and values, and which a state."""
    name, count = fields.architecture, fields.layer_count
    everywhere, nowhere = (True,) * count, (False,) * count
    if name in RECURRENT:
        return nowhere, everywhere
    if name == "falcon-h1":
        return everywhere, everywhere
    extra = fields.number("nextn_predict_layers", 0)  # for guessing ahead; not loaded
    used = tuple(index < count - extra for index in range(count))
    remembers = _remembering(fields, used)
    attends = tuple(u and not r for u, r in zip(used, remembers, strict=True))
    if name in HYBRID_BY_FFN:
        dense = fields.per_layer("feed_forward_length", 0)
        attends = tuple(a and not d for a, d in zip(attends, dense, strict=True))
    return tuple(a and i < _kv_layers(fields) for i, a in enumerate(attends)), remembers


def _remembering(fields: Fields, used: tuple[bool, ...]) -> tuple[bool, ...]:
    name, count = fields.architecture, fields.layer_count
    if name in HYBRID_BY_INTERVAL:
        interval = max(fields.number("full_attention_interval", 4), 1)
        told = fields.flags("attention.recurrent_layers")
        recurrent = told or tuple((index + 1) % interval != 0 for index in range(count))
    elif name in HYBRID_BY_HEADS or name in HYBRID_BY_FFN:
        dense = fields.per_layer("feed_forward_length", 0)
        kv_heads = fields.per_layer("attention.head_count_kv", 0)
        without = (name in HYBRID_BY_HEADS or size == 0 for size in dense)
        recurrent = tuple(heads == 0 and w for heads, w in zip(kv_heads, without, strict=True))
    else:
        return (False,) * count
    return tuple(r and u for r, u in zip(recurrent, used, strict=True))


def _kv_layers(fields: Fields) -> int:
    """Return how many layers, from the first on, have keys and values of their own."""
    if fields.architecture == "gemma3n":
        return _GEMMA3N_KV_LAYERS
    if fields.architecture == "gemma4":
        return fields.layer_count - fields.number("attention.shared_kv_layers", 0)
    return fields.layer_count


def _lengths(fields: Fields, *, is_windowed: bool) -> tuple[int, int]:
    """Return how long the key and the value of a head are; MLA keeps no values."""
    heads = max(fields.per_layer("attention.head_count", 0)[0], 1)
    default = fields.number("embedding_length") // heads
    key = fields.number("attention.key_length", default)
    value = fields.number("attention.value_length", default)
    if is_windowed:
        key = fields.number("attention.key_length_swa", key)
        value = fields.number("attention.value_length_swa", value)
    is_mla = fields.has("attention.key_length_mla") and fields.has("attention.value_length_mla")
    return key, 0 if is_mla else value


def _state_bytes(fields: Fields) -> int:
    """Return what the recurrent state of one layer and one slot takes."""
    embedding = fields.number("embedding_length")
    if head := fields.number("wkv.head_size", 0):
        return _STATE_BYTES * embedding * (fields.number("token_shift_count", 2) + head)
    if short := fields.number("shortconv.l_cache", 0):
        return _STATE_BYTES * embedding * (short - 1)
    taps = max(fields.number("ssm.conv_kernel", 0) - 1, 0)
    if head := fields.number("kda.head_dim", 0):
        inner = fields.per_layer("attention.head_count", 0)[0] * head
        return _STATE_BYTES * inner * (3 * (taps or 3) + head)
    inner, state = fields.number("ssm.inner_size"), fields.number("ssm.state_size")
    width = inner + 2 * fields.number("ssm.group_count", 0) * state
    return _STATE_BYTES * (taps * width + state * inner)
