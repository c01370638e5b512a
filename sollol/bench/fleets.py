"""Fleets to compare policies on.

Speeds are those of an 8-billion-parameter model with 4-bit weights, about as published for such
cards; models of other sizes are faster or slower in proportion.
"""

from dataclasses import dataclass

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.workload import EMBEDDER, MODELS

_REFERENCE_GIB = 5.0
_KV_BYTES_PER_TOKEN = 32 * 1024
_ALL = (*MODELS, EMBEDDER)


@dataclass(frozen=True)
class Fleet:
    """Simulated nodes by name."""

    name: str
    nodes: dict[str, SimConfig]


def _node(vram_gib: float, models: tuple[SimModel, ...] = (), **values: float) -> SimConfig:
    """Return a node that has every model that fits its memory, or those given."""
    fitting = models or tuple(model for model in _ALL if model.size_gib < vram_gib * 0.85)
    return SimConfig(
        models=fitting,
        vram_gib=vram_gib,
        reference_gib=_REFERENCE_GIB,
        kv_bytes_per_token=_KV_BYTES_PER_TOKEN,
        **values,  # type: ignore[arg-type]
    )


_FAST_24 = _node(
    24.0,
    slots=4,
    decode_tok_s=110.0,
    prefill_tok_s=5000.0,
    embed_tok_s=40_000.0,
    load_gib_per_s=2.0,
)
_MIDDLE_16 = _node(
    16.0, slots=2, decode_tok_s=50.0, prefill_tok_s=2400.0, embed_tok_s=25_000.0, load_gib_per_s=1.5
)
_SLOW_12 = _node(
    12.0, slots=2, decode_tok_s=22.0, prefill_tok_s=700.0, embed_tok_s=10_000.0, load_gib_per_s=0.5
)
_SMALL_8 = _node(
    8.0, slots=1, decode_tok_s=28.0, prefill_tok_s=900.0, embed_tok_s=12_000.0, load_gib_per_s=0.8
)
_CPU = _node(
    16.0,
    (MODELS[0], MODELS[1], MODELS[3], EMBEDDER),
    slots=1,
    decode_tok_s=7.0,
    prefill_tok_s=60.0,
    embed_tok_s=1500.0,
    load_gib_per_s=1.0,
    batch_slowdown=0.8,
)

HETEROGENEOUS = Fleet(
    "heterogeneous",
    {
        "fast-a": _FAST_24,
        "fast-b": _FAST_24,
        "middle": _MIDDLE_16,
        "slow": _SLOW_12,
        "small": _SMALL_8,
        "cpu": _CPU,
    },
)
"""Two fast 24 GB, one 16 GB, one slow 12 GB, one 8 GB and one without an accelerator, on which
memory is RAM."""

HOMOGENEOUS = Fleet("homogeneous", dict.fromkeys(("a", "b", "c", "d"), _FAST_24))
"""Four equal ones of 24 GB."""

FLEETS = {fleet.name: fleet for fleet in (HETEROGENEOUS, HOMOGENEOUS)}
