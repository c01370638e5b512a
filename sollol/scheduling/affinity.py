"""Which conversations a runner remembers, so that it need not evaluate their beginning again.

How many it keeps differs (one for each slot, or gigabytes of them), so what is remembered here is
only believed as far as measured times have borne it out.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

PER_SLOT = 32
"""Conversations a runner is taken to remember for each of its slots."""

FIRST_TRUST = 0.8
"""How far a runner is believed before anything was measured."""

DROPPED = 0.15
"""Below this, sending a conversation back to a runner does not pay."""

_SHARE = 0.15
_RECOVERY = 1.01
"""Each turn of a conversation lets a runner that forgot be believed a little more."""


Homes = dict[int, dict[Any, None]]
"""Conversation -> the runners that remember it; one for all nodes."""


class Conversations:
    """The conversations of one runner; each is worth the prompt tokens it had last."""

    __slots__ = ("_homes", "_known", "_max", "_runner", "trust")

    def __init__(self, slots: int, runner: Hashable, homes: Homes) -> None:
        self._runner = runner
        self._homes = homes
        self._known: OrderedDict[int, int] = OrderedDict()
        self._max = PER_SLOT * slots
        self.trust = FIRST_TRUST
        """The share of what should have been cached that was, from 0 to 1."""

    def __len__(self) -> int:
        return len(self._known)

    def cached_tokens(self, conversation: int, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt need not be evaluated, as far as is believed."""
        known = self._known.get(conversation)
        if known is None or self.trust < DROPPED:
            return 0
        return int(min(known, prompt_tokens - 1) * self.trust)

    def remember(self, conversation: int, tokens: int) -> None:
        """Note what a runner has evaluated of a conversation: prompt and answer."""
        if not conversation:
            return
        known = self._known
        if conversation in known:
            known.move_to_end(conversation)
        else:
            self._homes.setdefault(conversation, {})[self._runner] = None
        known[conversation] = tokens
        if len(known) > self._max:
            self._leave(next(iter(known)))
        if self.trust < 1.0:
            self.trust = min(1.0, self.trust * _RECOVERY)

    def verify(self, conversation: int, fresh_tokens: float, prompt_tokens: int) -> None:
        """Compare what was to be cached with what was.

        Args:
            conversation: a later turn of one that is remembered; others are ignored.
            fresh_tokens: how many tokens were evaluated, by count or by time.
            prompt_tokens: how many the prompt has.
        """
        known = min(self._known.get(conversation, 0), prompt_tokens - 1)
        if known < prompt_tokens // 4 or known < 32:
            return
        hit = (prompt_tokens - fresh_tokens) / known
        self.trust += _SHARE * (min(1.0, max(0.0, hit)) - self.trust)

    def forget(self) -> None:
        """Drop everything: the runner has left the memory."""
        for conversation in list(self._known):
            self._leave(conversation)

    def _leave(self, conversation: int) -> None:
        del self._known[conversation]
        home = self._homes[conversation]
        home.pop(self._runner, None)
        if not home:
            del self._homes[conversation]
