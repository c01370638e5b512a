"""How long a node may be silent before that counts as a failure. Pure: values in, seconds out.

A model may take minutes to be loaded, a long prompt minutes to be read, and an answer that comes in
one piece as long as it takes to be written. None of these is a failure; a node that hangs is, and the
sooner that is seen the sooner another node is asked. So limits are multiples of what is predicted
from measurements, and where nothing was measured the setting ``upstream.first_byte_timeout_s`` alone
holds, which also bounds all others.

Hardly any request comes to its first limit, so nothing is computed before that.
"""

from typing import NamedTuple

from sollol.types import Ask, Lease, Task

FACTOR = 10.0
"""So many times as long as predicted is not yet a failure: prompts and other load differ."""

FLOOR_S = 30.0
"""Nothing is given up sooner: a node swaps, or other users of it come between."""

LOOK_S = 30.0
"""After so long it is looked again at a node that is busy with others."""

_PREDICTABLE = (Task.CHAT, Task.GENERATE, Task.EMBED)


class Bounds(NamedTuple):
    """Seconds by the settings: ``first_byte_s`` bounds everything, ``load_s`` is for loading a model."""

    first_byte_s: float
    load_s: float
    stall_s: float
    floor_s: float = FLOOR_S

    @property
    def first_look_s(self) -> float:
        """When a silent node is first looked at."""
        return min(self.floor_s, self.first_byte_s)


class Sight(NamedTuple):
    """What is seen of a node that was silent for too long.

    ``is_loading``: the model is not in its memory, or somebody waits there for its load.
    ``has_progress``: its memory holds other models than when it was last looked at.
    ``serves_others``: it sent part of another answer of the same model just now.
    """

    is_loading: bool = False
    has_progress: bool = False
    serves_others: bool = False


def comes_late(ask: Ask, *, streams: bool) -> bool:
    """Whether an answer begins at its end.

    One in a single piece does. So may a tool call, in the middle of a stream too: an Ollama keeps it
    back until the model has written all of it.
    """
    return not streams or "tools" in ask.needs


def more_s(
    ask: Ask, lease: Lease, waited_s: float, sight: Sight, *, streams: bool, bounds: Bounds
) -> float:
    """Return how much longer to wait for the first byte of an answer; 0 to call it a failure.

    Args:
        waited_s: seconds that were waited already.
    """
    limit_s = silence_s(ask, lease, streams=streams, bounds=bounds)
    if sight.is_loading:
        load_s = max(bounds.load_s, FACTOR * lease.predicted_s)
        if sight.has_progress:
            load_s = max(load_s, waited_s + bounds.load_s)
        limit_s = max(limit_s, load_s) if comes_late(ask, streams=streams) else load_s
    if sight.serves_others:
        limit_s = max(limit_s, waited_s + LOOK_S)
    return max(0.0, min(limit_s, bounds.first_byte_s) - waited_s)


def silence_s(ask: Ask, lease: Lease, *, streams: bool, bounds: Bounds) -> float:
    """Return how long a node may be silent that has the model in its memory."""
    predicted_s = _predicted_s(ask, lease, streams=streams)
    if predicted_s is None:
        return bounds.first_byte_s
    return min(bounds.first_byte_s, max(bounds.floor_s, FACTOR * predicted_s))


def _predicted_s(ask: Ask, lease: Lease, *, streams: bool) -> float | None:
    """Return the predicted seconds to the first byte, of the longest answer there may be.

    1. None where the node's speed was not measured, and of what its measurements do not tell.
    2. The seconds for the prompt, where the answer begins after that.
    3. Those of all tokens too, where it begins at its end; None where they have no bound.
    """
    if not lease.first_byte_s or ask.images or ask.task not in _PREDICTABLE:
        return None
    if ask.task is Task.EMBED or not comes_late(ask, streams=streams):
        return lease.first_byte_s
    if ask.max_output_tokens is None:
        return None
    return lease.first_byte_s + ask.max_output_tokens * lease.token_s
