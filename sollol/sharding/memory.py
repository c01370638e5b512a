"""What a model takes of the memory of each device that holds a part of it. Pure.

Weights, cells and states follow from the header to the byte; what a batch needs while it is
computed (``compute_bytes``) is a budget, at or above what the builds that were measured reserve.

Source: llama.cpp, src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp,
src/llama-memory-recurrent.cpp; docs/architecture/sharding-memory.md compares it with real servers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from sollol.errors import InvalidRequest
from sollol.sharding.cache_layout import LayerCache
from sollol.sharding.facts import ModelFacts
from sollol.sharding.tensor_types import CACHE_TYPES

MIB = 1 << 20
GIB = 1 << 30
BATCH_TOKENS = 512
"""What llama-server computes at once (``--ubatch-size``)."""
CELL_STEP = 256
"""llama.cpp rounds the length of a context up to a multiple of this."""
PROCESS_BYTES = 8 * MIB
"""An idle RPC server."""
COORDINATOR_BYTES = 48 * MIB
"""A llama-server without a model: programs and buffers of requests."""
_TOKEN_BYTES = 256
"""For each token of the vocabulary: its text, and the tables to find it."""
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


class MemoryModel:
    """The memory of one model that is run in one way, for any part of it in constant time.

    Raises:
        InvalidRequest: keys or values cannot be stored as the options say.
    """

    def __init__(self, facts: ModelFacts, options: RunOptions) -> None:
        units = facts.units
        self.facts = facts
        self.options = options
        self._weights = _sums(unit.weight_bytes for unit in units)
        self._caches = _sums(cache_bytes(unit.cache, options) for unit in units)
        self._states = _sums(unit.cache.state_bytes * options.slots for unit in units)
        self._largest = [unit.largest_tensor_bytes for unit in units]
        self._cells = {
            cells(window, options): _sums(
                int(unit.cache.kv_heads > 0 and unit.cache.window == window) for unit in units
            )
            for window in dict.fromkeys(unit.cache.window for unit in units)
        }

    def device(self, first: int, end: int) -> DeviceMemory:
        """Return what the device needs that holds the units ``first`` to ``end - 1``.

        The last unit of all is the output.
        """
        if first >= end:
            return DeviceMemory()
        return DeviceMemory(
            weight_bytes=self.facts.shared_bytes + self._weights[end] - self._weights[first],
            cache_bytes=self._caches[end] - self._caches[first],
            state_bytes=self._states[end] - self._states[first],
            compute_bytes=self._compute_bytes(first, end),
            largest_tensor_bytes=max(self._largest[first:end]),
        )

    def coordinator_bytes(self, layers: int = 0) -> int:
        """Return what the coordinator needs on its own host, with the first ``layers`` on its CPU.

        A tensor is in its memory twice while it is sent: as it was read, and as a message.
        """
        facts, options = self.facts, self.options
        masks = BATCH_TOKENS * _MASK_BYTES * cells(0, options)
        activations = BATCH_TOKENS * _ACTIVATION_BYTES * facts.embedding_length
        running = masks + activations + self._logit_bytes()
        loading = 2 * max(self._largest)
        own = self.device(0, layers).total_bytes if layers else 0
        sides = facts.input_bytes + facts.side_bytes + _TOKEN_BYTES * facts.vocabulary
        return COORDINATOR_BYTES + sides + max(running, loading) + own

    def _compute_bytes(self, first: int, end: int) -> int:
        """Return the budget for a batch while it is computed on a device with these units."""
        facts = self.facts
        masked = sum(count for count, uses in self._cells.items() if uses[end] > uses[first])
        batch = _ACTIVATION_BYTES * facts.activation_width + _MASK_BYTES * masked
        has_output = end == len(facts.units)
        return BATCH_TOKENS * batch + (self._logit_bytes() if has_output else 0)

    def _logit_bytes(self) -> int:
        """Return what embeddings cost: llama-server computes logits for all tokens of a batch."""
        return BATCH_TOKENS * _LOGIT_BYTES * self.facts.vocabulary


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


def _head_bytes(type_name: str, length: int, what: str) -> int:
    kind = CACHE_TYPES.get(type_name)
    if kind is None:
        raise InvalidRequest(
            f"{type_name!r} is no type of a KV cache; use one of {', '.join(CACHE_TYPES)}."
        )
    if length % kind.block_elements:
        raise InvalidRequest(
            f"Heads of {length} elements cannot be stored as {type_name}, which takes "
            f"{kind.block_elements} at a time; use f16 (sharding.cache_type) for the "
            f"{what} of this model."
        )
    return kind.row_bytes(length)


def _sums(numbers: Iterable[int]) -> list[int]:
    """Return the sum of the first n numbers at index n."""
    return [0, *accumulate(numbers)]


def _stepped(tokens: int) -> int:
    return -(-tokens // CELL_STEP) * CELL_STEP
