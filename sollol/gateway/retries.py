"""What became of a request's attempts so far, and where it may be tried next.

Made when the first attempt has failed; most requests have none.
"""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random

from sollol.errors import SollolError
from sollol.gateway.budget import RetryBudget
from sollol.gateway.failover import (
    MAX_COOL_S,
    RULES,
    Failure,
    Retry,
    Rule,
    Tally,
    back_off_s,
    classify,
)
from sollol.metrics import Metrics
from sollol.nodes.health import Blame
from sollol.nodes.registry import Registry
from sollol.types import Lease

Suspect = tuple[Lease, Failure, str]


class RetryPolicy:
    """What the retries of all requests share; one for each gateway.

    Args:
        max_attempts: nodes a request may be tried on, the first included.
        look_soon: has a node probed out of turn.
    """

    def __init__(
        self,
        registry: Registry,
        budget: RetryBudget,
        metrics: Metrics,
        look_soon: Callable[[str, str], None],
        rng: Random,
        *,
        max_attempts: int,
    ) -> None:
        self.registry = registry
        self.budget = budget
        self.metrics = metrics
        self.look_soon = look_soon
        self.rng = rng
        self.max_attempts = max_attempts


class Retries:
    """The failed attempts of one request.

    Attributes:
        failure: the latest; what the caller is told if nothing better comes.
        excluded: nodes that it is not to be sent to.
        avoided: nodes that failed, and may be tried again while there is no other.

    Args:
        crashes: those that came before, of what this request goes on with.
    """

    def __init__(
        self, policy: RetryPolicy, excluded: frozenset[str], tokens: float, crashes: int = 0
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._tally = Tally(crashes)
        self._repeatable: set[str] = set()
        self._has_waited = False
        self._crashed: set[str] = set()
        """Nodes that crashed under it, be they blamed already."""
        self._has_crashed_before = crashes > 0
        self._suspects: list[Suspect] = []
        """Failures that may be the request's fault: where, what, and in which words."""
        self.excluded = excluded
        self.avoided: frozenset[str] = frozenset()
        self.failure: SollolError = SollolError("no attempt was made")

    def failed(self, lease: Lease, error: SollolError, now: float, *, is_committed: bool) -> bool:
        """Take a failed attempt, and note whose fault it was; return whether another may follow.

        Args:
            is_committed: the first byte of its answer went to the client.
        """
        kind, rule = self._note(lease, error)
        can_retry = not is_committed and self._tally.can_retry(rule, self._policy.max_attempts)
        if can_retry and rule.retry is Retry.BUDGET:
            can_retry = self._policy.budget.take(self._tokens, now)
        if not can_retry:
            return False
        self._exclude(lease, rule)
        self._policy.metrics.retried(kind)
        return True

    def failed_beside(self, lease: Lease, error: SollolError) -> None:
        """Take a failed attempt that was made while another one went on."""
        _, rule = self._note(lease, error)
        self._exclude(lease, rule)

    def succeeded(self) -> None:
        """Take note that another node does it: what failed before was not the request's fault."""
        self._blame_all(self._suspects)
        self._suspects = []

    def end(self) -> None:
        """Take note that no attempt follows: what crashes on several nodes is the request's fault."""
        if len(self._crashed) != 1 or self._has_crashed_before:
            return
        self._blame_all([suspect for suspect in self._suspects if RULES[suspect[1]].is_crash])

    async def wait_to_repeat(self, most_s: float, draining: asyncio.Event) -> bool:
        """Wait until a node that failed may be tried again; False if there is none.

        To be called again if there is still no other: one may have come up meanwhile.

        Args:
            most_s: seconds that are left for it.
            draining: ends the wait, too.
        """
        if not self._repeatable:
            return False
        self._has_waited = not self._has_waited
        if self._has_waited:
            pause_s = back_off_s(self._tally.repeats, self._policy.rng.random())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(most_s, pause_s)):
                    await draining.wait()
            return True
        self._tally.repeats += 1
        self.excluded -= self._repeatable
        self.avoided |= self._repeatable
        self._repeatable.clear()
        return True

    def _note(self, lease: Lease, error: SollolError) -> tuple[Failure, Rule]:
        kind = classify(error)
        rule = RULES[kind]
        self.failure = error
        self._has_waited = False
        self._tally.count(rule)
        self._blame(lease, kind, error)
        return kind, rule

    def _exclude(self, lease: Lease, rule: Rule) -> None:
        self.excluded |= {lease.node_id}
        if rule.may_repeat:
            self._repeatable.add(lease.node_id)
        else:
            self._repeatable.discard(lease.node_id)

    def _blame_all(self, suspects: list[Suspect]) -> None:
        for lease, kind, text in suspects:
            blame_nodes(self._policy, lease, kind, text)

    def _blame(self, lease: Lease, kind: Failure, error: SollolError) -> None:
        rule = RULES[kind]
        if kind is Failure.LIMITED:
            seconds = min(MAX_COOL_S, error.retry_after_s or 1.0)
            self._policy.registry.rest(lease.node_id, lease.runner, seconds, str(error))
        elif rule.is_crash or rule.needs_proof:
            self._suspects.append((lease, kind, str(error)))
            if rule.is_crash:
                self._crashed.add(lease.node_id)
                self._policy.look_soon(lease.node_id, kind)
        else:
            blame_nodes(self._policy, lease, kind, str(error))


def blame_nodes(
    policy: RetryPolicy, lease: Lease, kind: Failure, text: str, blame: Blame | None = None
) -> None:
    """Count a failure against the node, or the model on it, and look at the node soon.

    Args:
        blame: what it counts for, if not what the table says.
    """
    blame = blame or RULES[kind].blame
    policy.registry.request_failed(lease.node_id, lease.runner, blame, text)
    if blame.counts:
        policy.look_soon(lease.node_id, kind)
