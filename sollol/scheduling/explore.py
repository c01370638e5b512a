"""Now and then a request goes to a node that may be better than what is known of it."""

from collections.abc import Sequence

from sollol.scheduling.average import Average
from sollol.scheduling.work import Priced

STALE_S = 10.0
"""What was measured more lately than this is believed."""

WORSE_AT_MOST = 8.0
"""A try may cost this many times what the best choice would."""

UNKNOWN_MAY_BE = 0.5
"""A pair of node and model that was never measured may take this share of what is expected."""


WENT_BETTER = 0.7
"""A try that took less than this share of what was predicted has shown that the node changed."""


IN_VAIN = 0.2
"""What is taken of a try's credit for a look at all nodes that found none worth it."""

FOLLOW_LOOKS = 10
"""Requests, for whatever model, that a try which follows another is looked for with."""

MAX_DEBT = 3.0
"""So many tries that follow a good one may be made before their share has come in."""


WORTH_GAIN = 1.2
"""A node is tried if it may be better than is known of it by this factor; the one that may most."""

ABOUT_AS_GOOD = 1.25
"""What a try may take at best, next to the best choice."""


class Explorer:
    """Spends a small share of the requests on tries: never more than that and ``MAX_DEBT``."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit = 0.0
        self._looks = 0
        """How many requests may still be looked at for a try to follow one that went well."""
        self.is_due = False
        """Whether a try may be made."""

    def tried(self, predicted_s: float, real_s: float) -> None:
        """Take how a try went; one that went better than was predicted is followed by another."""
        if self._share > 0.0 and real_s < WENT_BETTER * predicted_s:
            self._looks = FOLLOW_LOOKS
            self.is_due = self._credit >= 1.0 - MAX_DEBT

    def candidate(self, priced: Sequence[Priced], chosen: Priced, now: float) -> Priced | None:
        """Return what to try instead of the chosen one; mostly None.

        A try is worth it where the speeds that a node once had would make it the best choice, were
        the model there: a node that got nothing for a while has lost it. A try never waits, nor
        pushes a model out.
        """
        was_due = self.is_due  # so all nodes were compared
        self._credit = min(2.0, self._credit + self._share)
        best = self._best_try(priced, chosen, now) if was_due else None
        self.is_due = self._credit >= (1.0 - MAX_DEBT if self._looks else 1.0)
        return best

    def _best_try(self, priced: Sequence[Priced], chosen: Priced, now: float) -> Priced | None:
        # After a try that went well, what was measured just now is what is to be found wrong.
        since = now if self._looks else now - STALE_S
        best: Priced | None = None
        gain = WORTH_GAIN
        for option in priced:
            if option is chosen or not option.can_start or option.terms.eviction_s:
                continue
            if option.total_s > WORSE_AT_MOST * chosen.total_s:
                break
            may_s = _may_take_s(option, since)
            if may_s < ABOUT_AS_GOOD * chosen.total_s and option.total_s > gain * may_s:
                best, gain = option, option.total_s / may_s
        if best is not None:
            self._credit -= 1.0
            self._looks = 0
        else:
            self._note_vain_look()
        return best

    def _note_vain_look(self) -> None:
        """Look less often: whenever a try is due, all nodes are compared."""
        self._looks = max(0, self._looks - 1)
        if self._credit >= 1.0:
            self._credit -= IN_VAIN


def _may_take_s(option: Priced, since: float) -> float:
    """Return the seconds that a runner would take at its best, with the model in memory."""
    rates, terms = option.runner.rates, option.terms
    decode = terms.decode_s * _may_be(rates.decode, since)
    prefill = terms.prefill_s * _may_be(rates.prefill, since)
    load_s = terms.load_s if option.loads else 0.0
    return option.total_s - terms.decode_s - terms.prefill_s - load_s + decode + prefill


def _may_be(average: Average, since: float) -> float:
    """Return the share of the expected time that is possible; what was measured since is believed."""
    if not average.count:
        return UNKNOWN_MAY_BE
    if average.seen_at > since:
        return 1.0
    return min(1.0, average.best / average.mean)
