"""Says why a model does not fit its workers, what each would have to have, and what to change. Pure."""

import math
from collections.abc import Mapping

from sollol.sharding.memory import GIB, MemoryModel
from sollol.sharding.placing import MOST_WORKERS, Packer

_LISTED = 4
"""Of more workers the smallest and the largest are told."""


def misfit_text(memory: MemoryModel, workers: Mapping[str, int]) -> str:
    """Return sentences.

    Args:
        workers: what each may take, in bytes; together they do not hold the model.
    """
    options = memory.options
    count = min(max(len(workers), 1), MOST_WORKERS)
    least = Packer(memory).least_bytes(count)
    needed = f"{count} workers with {size_text(least)} each" if count > 1 else size_text(least)
    return (
        f"The model does not fit: with {options.slots} x {options.context_length} tokens of context "
        f"as {options.key_type} it needs {needed} (a layer is never divided), and {_had(workers)}. "
        f"Raise that with sharding.workers=HOST:PORT={memory_gb(least):g} where the machine has so "
        "much free, list another worker, or lower sharding.context_length, sharding.slots or "
        "sharding.cache_type."
    )


def memory_gb(size_bytes: int) -> float:
    """Return the least number for a setting in GB, units of 1024^3 bytes, that is enough."""
    return math.ceil(size_bytes / GIB * 100) / 100


def size_text(size_bytes: int) -> str:
    """Return a size in powers of ten, as the tables of ``sollol shard`` have it."""
    number, unit = (size_bytes / 1e9, "GB") if size_bytes >= 1e9 else (size_bytes / 1e6, "MB")
    return f"{number:.3g} {unit}" if number < 999 else f"{number:.0f} {unit}"


def _had(workers: Mapping[str, int]) -> str:
    if not workers:
        return "there is no worker"
    if len(workers) <= _LISTED:
        return ", ".join(f"{name} may take {size_text(size)}" for name, size in workers.items())
    sizes = sorted(workers.values())
    return f"the {len(sizes)} there are may take {size_text(sizes[0])} to {size_text(sizes[-1])}"
