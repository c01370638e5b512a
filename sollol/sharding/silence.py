"""How long a coordinator may wait for one worker before that one counts as hung. Pure.

A worker that computes says nothing until it is done, and answers nobody else meanwhile, so only time
tells it from one that hangs. But a coordinator waits for each piece of work by itself, a token or some
hundred tokens of a prompt, and not for a whole answer: that is much shorter, and has a bound.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sollol.sharding.memory import BATCH_TOKENS

FLOOR_S = 25.0
"""Nothing counts as hung sooner: a worker's machine swaps, or others use it."""

FACTOR = 3.0
"""So many times what a worker was seen to need is not yet hung."""

MARGIN = 2.0
"""So many times what the plan expects: it knows the workers' memory, and not their processors."""

_OVERHEAD_TOKENS = 32
"""What templates add to a prompt."""

_BYTES_PER_TOKEN = 4


class Wait(NamedTuple):
    """A thread that waits for what a worker sends, or for it to take what is sent.

    ``worker`` is its ``address:port``; ``wakes`` counts how often the thread was woken before.
    """

    worker: str
    thread: int
    wakes: int


class Silence:
    """Takes note of how long threads of a coordinator wait for workers.

    Attributes:
        longest_s: the longest wait that has come to an end.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._since: dict[Wait, float] = {}
        self._seen_at = 0.0

    def look(self, waits: Iterable[Wait], now: float) -> None:
        """Take note of the waits that there are; of one that is over, how long it was at least."""
        before, self._since = self._since, {}
        for wait in waits:
            self._since[wait] = before.get(wait, now)
        over = [self._seen_at - at for wait, at in before.items() if wait not in self._since]
        self.longest_s = max(self.longest_s, *over, 0.0)
        self._seen_at = now

    def forget(self) -> None:
        """Take note that the coordinator is another one now."""
        self._since = {}

    def worst(self, now: float) -> tuple[str, float]:
        """Return the worker that is waited for longest, and the seconds; nobody and 0 if none is."""
        if not self._since:
            return "", 0.0
        wait, since = min(self._since.items(), key=lambda item: item[1])
        return wait.worker, now - since


def limit_s(prompt_bytes: int, tokens_per_s: float, longest_s: float) -> float:
    """Return for how long a worker may be silent.

    As long as the largest batch takes that the prompts can fill, if that is read no faster than the plan
    expects one token after another. It mostly is, and each worker has only its part to do.

    Args:
        prompt_bytes: of all requests that are under way together.
        tokens_per_s: as the plan expects them.
        longest_s: for how long a worker was silent that was well.
    """
    tokens = min(BATCH_TOKENS, _OVERHEAD_TOKENS + prompt_bytes / _BYTES_PER_TOKEN)
    return max(FLOOR_S, MARGIN * tokens / tokens_per_s, FACTOR * longest_s)
