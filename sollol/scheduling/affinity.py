"""Which conversations a runner remembers, so that it need not evaluate their beginning again.

How many it keeps differs (one for each slot, or gigabytes of them), so what is remembered here is
only believed as far as measured times have borne it out.
"""

from collections import OrderedDict

PER_SLOT = 32
"""Conversations a runner is taken to remember for each of its slots."""

FIRST_TRUST = 0.8
"""How far a runner is believed before anything was measured."""

DROPPED = 0.15
"""Below this, sending a conversation back to a runner does not pay."""

_SHARE = 0.15
_RECOVERY = 1.01
"""Each turn of a conversation lets a runner that forgot be believed a little more."""


class Conversations:
    """The conversations of one runner; each is worth the prompt tokens it had last."""

    __slots__ = ("_max", "known", "trust")

    def __init__(self, slots: int) -> None:
        self.known: OrderedDict[int, int] = OrderedDict()
        """Conversation -> tokens of it that were evaluated."""
        self._max = PER_SLOT * slots
        self.trust = FIRST_TRUST
        """The share of what should have been cached that was, from 0 to 1."""

    def __len__(self) -> int:
        return len(self.known)

    def cached_tokens(self, conversation: int, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt need not be evaluated, as far as is believed."""
        known = self.known.get(conversation)
        if known is None or self.trust < DROPPED:
            return 0
        return int(min(known, prompt_tokens - 1) * self.trust)

    def remember(self, conversation: int, tokens: int) -> None:
        """Note what a runner has evaluated of a conversation: prompt and answer."""
        if not conversation:
            return
        self.known[conversation] = tokens
        self.known.move_to_end(conversation)
        if len(self.known) > self._max:
            self.known.popitem(last=False)
        self.trust = min(1.0, self.trust * _RECOVERY)

    def verify(self, conversation: int, fresh_tokens: float, prompt_tokens: int) -> None:
        """Compare what was to be cached with what was.

        Args:
            conversation: a later turn of one that is remembered; others are ignored.
            fresh_tokens: how many tokens were evaluated, by count or by time.
            prompt_tokens: how many the prompt has.
        """
        known = min(self.known.get(conversation, 0), prompt_tokens - 1)
        if known < prompt_tokens // 4 or known < 32:
            return
        hit = (prompt_tokens - fresh_tokens) / known
        self.trust += _SHARE * (min(1.0, max(0.0, hit)) - self.trust)

    def forget(self) -> None:
        """Drop everything: the runner has left the memory."""
        self.known.clear()
