"""What was decided for a request at one moment; ``explain.py`` makes a record of it."""

from collections.abc import Sequence

from sollol.scheduling.decision import Rule
from sollol.scheduling.work import Priced, Work
from sollol.types import RouteRequest


class Verdict:
    """A decision, and what it was made from."""

    request: RouteRequest
    work: Work
    policy: str
    options: Sequence[Priced]
    considered: int
    rule: Rule
    best: Priced | None
    """The one that it is to run on, now or later; None if the policy does not say beforehand."""
    chosen: Priced | None
    """The same, if it can start there now."""
    typical: Priced | None
    """Any one, where the policy does not say beforehand."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        request: RouteRequest,
        work: Work,
        policy: str,
        options: Sequence[Priced],
        considered: int,
        rule: Rule,
        best: Priced | None,
        chosen: Priced | None,
        typical: Priced | None = None,
    ) -> None:
        self.request = request
        self.work = work
        self.policy = policy
        self.options = options
        self.considered = considered
        self.rule = rule
        self.best = best
        self.chosen = chosen
        self.typical = typical

    @property
    def is_over(self) -> bool:
        """Whether it waits for the caller's own requests to end."""
        return self.rule is Rule.CALLER

    def hold_back(self) -> None:
        """Let the request wait for its caller's others to end, whatever is free."""
        self.rule, self.chosen = Rule.CALLER, None

    def share_s(self) -> float:
        """Return the seconds that the request takes of all slots together."""
        typical = self.best or self.typical
        if typical is None:
            return 0.0
        terms = typical.terms
        slots = self.considered * typical.runner.node.slots
        return (terms.load_s + terms.prefill_s + terms.decode_s) / max(1, slots)
