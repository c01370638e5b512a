"""What a model takes of the memory of each device that holds a part of it. Pure.

Weights, cells and states follow from the header to the byte; what a batch needs while it is
computed (``compute_bytes``) is a budget, at or above what the builds that were measured reserve.

Source: llama.cpp, src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp,
src/llama-memory-recurrent.cpp; docs/architecture/sharding-memory.md compares it with real servers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sollol.errors import InvalidRequest
from sollol.sharding.cache_layout import LayerCache
from sollol.sharding.facts import ModelFacts, Unit
from sollol.sharding.tensor_types import CACHE_TYPES

MIB = 1 << 20
BATCH_TOKENS = 512
"""What llama-server computes at once (``--ubatch-size``)."""
CELL_STEP = 256
"""llama.cpp rounds the length of a context up to a multiple of this."""
PROCESS_BYTES = 8 * MIB
"""An idle RPC server."""
COORDINATOR_BYTES = 256 * MIB
"""A llama-server without a model's weights: programs, vocabulary, buffers of requests."""
_MASK_BYTES = 8
"""For each token of a batch and cell: 2 in build 10068, 8 in build 11434."""
_ACTIVATION_BYTES = 8
"""For each token of a batch and element: 4 in build 10068, up to 8 in build 11434."""
_LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a model is to be run.

    ``context_length``: tokens of each slot. ``key_type`` and ``value_type``: how keys and values
    are stored, names of :data:`CACHE_TYPES`.
    """

    context_length: int = 4096
    slots: int = 1
    key_type: str = "f16"
    value_type: str = "f16"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one device must hold.

    ``cache_bytes`` are keys and values. ``largest_tensor_bytes`` is in memory twice while it is
    sent, when the cache is not yet there.
    """

    weight_bytes: int = 0
    cache_bytes: int = 0
    state_bytes: int = 0
    compute_bytes: int = 0
    largest_tensor_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """The most that is needed at any time, with the process itself."""
        running = self.cache_bytes + self.state_bytes + self.compute_bytes
        return PROCESS_BYTES + self.weight_bytes + max(running, self.largest_tensor_bytes)


def device_memory(facts: ModelFacts, options: RunOptions, first: int, end: int) -> DeviceMemory:
    """Return what the device needs that holds the units ``first`` to ``end - 1``.

    The last unit of all is the output.
    """
    units = facts.units[first:end]
    if not units:
        return DeviceMemory()
    return DeviceMemory(
        weight_bytes=facts.shared_bytes + sum(unit.weight_bytes for unit in units),
        cache_bytes=sum(cache_bytes(unit.cache, options) for unit in units),
        state_bytes=sum(unit.cache.state_bytes for unit in units) * options.slots,
        compute_bytes=compute_bytes(facts, options, units, has_output=end == len(facts.units)),
        largest_tensor_bytes=max(unit.largest_tensor_bytes for unit in units),
    )


def coordinator_bytes(facts: ModelFacts, options: RunOptions) -> int:
    """Return what the coordinator needs on its own host: the input, and its process.

    The file is mapped, so that it needs no more than the part that stays there.
    """
    masks = BATCH_TOKENS * _MASK_BYTES * cells(0, options)
    activations = BATCH_TOKENS * _ACTIVATION_BYTES * facts.embedding_length
    logits = _LOGIT_BYTES * facts.vocabulary * options.slots
    return COORDINATOR_BYTES + facts.input_bytes + masks + activations + logits


def cells(window: int, options: RunOptions) -> int:
    """Return how many tokens a layer keeps for each slot; ``window`` 0 is the whole context."""
    context = _stepped(options.context_length)
    if window == 0:
        return context
    return _stepped(min(context, window + BATCH_TOKENS))


def cache_bytes(cache: LayerCache, options: RunOptions) -> int:
    """Return what the keys and values of one layer take.

    Raises:
        InvalidRequest: the type cannot store heads of this length.
    """
    if cache.kv_heads == 0:
        return 0
    key = _head_bytes(options.key_type, cache.key_length, "keys")
    value = _head_bytes(options.value_type, cache.value_length, "values")
    return options.slots * cells(cache.window, options) * cache.kv_heads * (key + value)


def compute_bytes(
    facts: ModelFacts, options: RunOptions, units: Sequence[Unit], *, has_output: bool
) -> int:
    """Return the budget for a batch while it is computed on a device with these units."""
    windows = {unit.cache.window for unit in units if unit.cache.kv_heads}
    masked = sum(cells(window, options) for window in windows)
    batch = _ACTIVATION_BYTES * facts.activation_width + _MASK_BYTES * masked
    logits = _LOGIT_BYTES * facts.vocabulary * options.slots if has_output else 0
    return BATCH_TOKENS * batch + logits


def _head_bytes(type_name: str, length: int, what: str) -> int:
    kind = CACHE_TYPES.get(type_name)
    if kind is None:
        raise InvalidRequest(
            f"{type_name!r} is no type of a KV cache; use one of {', '.join(CACHE_TYPES)}."
        )
    if length % kind.block_elements:
        raise InvalidRequest(
            f"Heads of {length} elements cannot be stored as {type_name}, which takes "
            f"{kind.block_elements} at a time; use f16 for the {what} of this model."
        )
    return kind.row_bytes(length)


def _stepped(tokens: int) -> int:
    return -(-tokens // CELL_STEP) * CELL_STEP
