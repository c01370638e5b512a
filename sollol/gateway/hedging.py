"""A short request that one node is late with is sent to a second one; the first good answer counts.

Only what may be done twice without harm, and is cheap: a few texts to embed (``Hedging.is_for``). The
copy goes out when the first node takes longer than nearly all lately did (``lateness.py``), to a node
that is free at once and has the model in its memory, never past a queue, and to few in a hundred.

    serving task   the attempt on the first node, answering the client as ever
    copy's task    the attempt on the second, whose answer is held; a good one ends the first

Whoever loses is treated as if its client had left: its connection is closed, its lease given back,
nothing is learnt and nobody blamed. When one fails the other goes on; when both did, the request is
tried again like any other (``forward.py``).
"""

import asyncio
from collections.abc import Callable

from sollol.errors import SollolError
from sollol.gateway.call import Call
from sollol.gateway.forward import Forwarder, tokens_of
from sollol.gateway.lateness import CopyBudget, Lateness
from sollol.gateway.outcome import Attempt, Outcome
from sollol.gateway.refusals import Headers
from sollol.gateway.relay import Downstream
from sollol.gateway.retries import Retries, RetryPolicy
from sollol.scheduling.decision import Grant
from sollol.types import Lease, Task

MOST_BYTES = 8 * 1024
"""A longer body is not sent twice."""

HEDGED = "hedged"
"""The error code of an attempt that another one was quicker than."""

_OK = 200


class AnswerTooLong(SollolError):
    """A second answer is too long to be held until it is known whether it is wanted."""

    code = HEDGED


class Held:
    """Holds a whole answer instead of writing it.

    Attributes:
        status: 0 before it is there.
    """

    is_slow = False
    status = 0
    headers: Headers
    body = b""

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Take the answer."""
        self.status, self.headers, self.body = status, headers, body

    def start(self, _: int, __: Headers) -> None:
        """Refuse what comes in pieces; the relay has room for all others."""
        raise AnswerTooLong("the second answer is too long to be held")

    def write(self, _: bytes) -> bool:
        """Never called: it did not start."""
        raise AssertionError

    def end(self, _: bytes = b"") -> None:
        """Never called: it did not start."""
        raise AssertionError

    async def wait_room(self) -> None:
        """Never called: nothing is written."""
        raise AssertionError


class Copy:
    """The second attempt of a call.

    Attributes:
        failure: why there is no answer to come.
    """

    def __init__(self, grant: Grant, call: Call, clock: Callable[[], float]) -> None:
        self.attempt = Attempt(grant)
        self.outcome = Outcome(node_id=grant.lease.node_id)
        self.held = Held()
        self.downstream = Downstream(self.held, self._begun)
        self.failure: SollolError | None = None
        self._call = call
        self._clock = clock

    def _begun(self, _: int) -> Headers:
        self.outcome.first_byte_s = self._clock() - self._call.arrived_at
        return []


class Hedging:
    """Forwards calls that may be sent twice; owner of how long such take, and of the budget."""

    def __init__(
        self, forwarder: Forwarder, policy: RetryPolicy, clock: Callable[[], float]
    ) -> None:
        self.forwarder = forwarder
        self.policy = policy
        self.clock = clock
        self.lateness = Lateness()
        self.budget = CopyBudget()

    def is_for(self, call: Call) -> bool:
        """Whether a call may be sent twice."""
        return call.kind.task is Task.EMBED and len(call.body) <= MOST_BYTES and not call.is_unload

    async def forward(self, call: Call, downstream: Downstream, outcome: Outcome) -> None:
        """Answer ``call`` on ``downstream``, by a second node where the first is late.

        Raises:
            SollolError: as :meth:`Forwarder.forward`.
        """
        self.budget.count()
        race = Race(self, call)
        try:
            await self.forwarder.forward(call, downstream, outcome, race)
        finally:
            if race.copy is not None:
                self.policy.metrics.hedged(race.result)


class Race:
    """The attempts of one call; at most one of them has a copy beside it.

    Attributes:
        result: what became of that: ``won``, ``lost``, ``failed``, or ``cancelled`` as the client left.
    """

    def __init__(self, hedging: Hedging, call: Call) -> None:
        self._hedging = hedging
        self._forwarder = hedging.forwarder
        self._call = call
        self.copy: Copy | None = None
        self.result = "cancelled"
        self._first: asyncio.Timeout | None = None
        """Ends the attempt on the first node; None when that has ended."""
        self._second: asyncio.Task[None] | None = None
        self._failed_beside: tuple[Lease, SollolError] | None = None

    async def attempt(
        self, call: Call, attempt: Attempt, downstream: Downstream, outcome: Outcome
    ) -> None:
        """Make one attempt, beside which a copy may be sent.

        Raises:
            SollolError: it failed, and so did the copy if there was one.
        """
        begun_at = self._hedging.clock()
        lateness = self._hedging.lateness
        loads = attempt.grant.lease.loads  # which takes its time, and was thought worth it
        late_s = None if self.copy or loads else lateness.late_s(call.model_key, begun_at)
        if late_s is None:
            await self._forwarder.attempt(call, attempt, downstream, outcome)
        else:
            failure = await self._both(late_s, attempt, downstream, outcome)
            self._settle(attempt, downstream, outcome, failure)
        if outcome.status == _OK and not loads:
            now = self._hedging.clock()
            lateness.note(call.model_key, now - begun_at, now)

    def failed_too(self, retries: Retries) -> None:
        """Tell, after an attempt failed, of the copy that failed beside it."""
        beside, self._failed_beside = self._failed_beside, None
        if beside is not None:
            retries.failed_beside(*beside)

    async def _both(
        self, late_s: float, attempt: Attempt, downstream: Downstream, outcome: Outcome
    ) -> SollolError | None:
        """Make the attempt, and its copy once it is late; return why the former failed if it did."""
        failure: SollolError | None = None
        async with asyncio.TaskGroup() as group:

            def begin() -> None:
                self._second = group.create_task(self._send_copy(downstream, outcome))

            timer = asyncio.get_running_loop().call_later(late_s, begin)
            try:
                async with asyncio.timeout(None) as self._first:
                    await self._forwarder.attempt(self._call, attempt, downstream, outcome)
            except TimeoutError:
                attempt.error = HEDGED
            except SollolError as error:
                failure = error
            finally:
                self._first = None
                timer.cancel()
            if downstream.is_started and self._second is not None:
                self._second.cancel()
        return failure

    async def _send_copy(self, downstream: Downstream, outcome: Outcome) -> None:
        """Try a second node, if one is free and it may be done; end the first if this one did it."""
        hedging = self._hedging
        is_over = self._first is None or downstream.is_started
        if is_over or not hedging.budget.has_one:
            return
        grant = self._forwarder.spare(self._call, outcome.tries)
        if grant is None:
            return
        hedging.budget.take()
        self.copy = copy = Copy(grant, self._call, hedging.clock)
        outcome.tries.insert(-1, copy.attempt)  # the last is the one whose answer is told
        try:
            await self._forwarder.attempt(self._call, copy.attempt, copy.downstream, copy.outcome)
        except SollolError as error:
            copy.failure = error
        if copy.held.status == _OK:
            self._end_first(downstream)

    def _end_first(self, downstream: Downstream) -> None:
        if self._first is not None and not downstream.is_started:
            self._first.reschedule(0.0)

    def _settle(
        self,
        attempt: Attempt,
        downstream: Downstream,
        outcome: Outcome,
        failure: SollolError | None,
    ) -> None:
        """Answer with what there is, and note what became of the copy.

        1. The first node has answered, or begun to: the copy has lost, or failed.
        2. The second has.
        3. Neither: raised is why the first failed, and the copy is told of in :meth:`failed_too`.
        """
        copy = self.copy
        if copy is not None and downstream.is_started:
            self._end_copy(copy)
            if copy.failure is not None and failure is None:
                self._blame(copy.attempt.grant.lease, copy.failure)
        elif copy is not None and copy.held.status:
            self.result = "won"
            if failure is not None:
                self._blame(attempt.grant.lease, failure)
            _answer(copy, attempt, downstream, outcome)
            return
        elif copy is not None and copy.failure is not None:
            self._end_copy(copy)
            self._failed_beside = copy.attempt.grant.lease, copy.failure
        if failure is not None:
            raise failure

    def _end_copy(self, copy: Copy) -> None:
        if copy.failure is None:
            self.result, copy.attempt.error = "lost", HEDGED
        else:
            self.result = "failed"

    def _blame(self, lease: Lease, error: SollolError) -> None:
        """Count a failure against its node: another one did the same."""
        retries = Retries(self._hedging.policy, frozenset(), tokens_of(self._call))
        retries.failed_beside(lease, error)
        retries.succeeded()


def _answer(copy: Copy, attempt: Attempt, downstream: Downstream, outcome: Outcome) -> None:
    """Answer with what the second node said."""
    told, held = copy.outcome, copy.held
    outcome.tries[-2:] = [attempt, copy.attempt]
    outcome.node_id = told.node_id
    outcome.sent_at = told.sent_at
    outcome.stripped = told.stripped
    downstream.answer(held.status, held.headers, held.body)
