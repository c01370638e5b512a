"""When a request's turn begins: with its arrival, but for a caller that asks for more than its share.

Each of its requests starts no earlier than the one before it would be done, had the caller its share
of the slots (start-time fair queueing). So a thousand requests at once do not stand before the next
caller's one.
"""

from sollol.types import HIGHEST_PRIORITY, RouteRequest

MOST_SHARE_S = 60.0
"""No request counts for more, however long it is predicted to be."""


class FairClock:
    """When each caller's next request of a priority starts, by what it has asked for already.

    What a caller asks for counts for its requests of that priority and of those below it: its batch
    does not hold up what it wants at once, and does not go before it either.
    """

    def __init__(self) -> None:
        self._next: dict[str, list[float]] = {}
        """Caller -> the start by priority; it falls as the priority rises."""

    def __len__(self) -> int:
        return len(self._next)

    def start(self, request: RouteRequest) -> float:
        """Return when a request's turn begins: its arrival, or later for a caller over its share.

        One that is tried again on another node came when it came first.
        """
        return self.start_of(request.caller, request.priority, request.arrived_at)

    def start_of(self, caller: str, priority: int, at: float) -> float:
        """Return the same of a request of which no more is known."""
        starts = self._next.get(caller)
        return at if starts is None else max(at, starts[priority])

    def charge(self, request: RouteRequest, share_s: float) -> float:
        """Count the time that a request takes of all slots together; return what was counted."""
        if share_s > MOST_SHARE_S:
            share_s = MOST_SHARE_S
        start, level = request.arrived_at, request.priority
        starts = self._next.get(request.caller)
        if starts is None:
            starts = self._next[request.caller] = [0.0] * (HIGHEST_PRIORITY + 1)
        elif starts[level] > start:
            start = starts[level]
        start += share_s
        if starts[0] < start:  # so are all others
            starts[: level + 1] = [start] * (level + 1)
            return share_s
        while starts[level] < start:  # that of priority 0 is not
            starts[level] = start
            level -= 1
        return share_s

    def refund(self, request: RouteRequest, share_s: float) -> None:
        """Take a charge back of a request that left the queue without a slot."""
        starts = self._next.get(request.caller)
        if starts is None or not share_s:
            return
        charged = starts[request.priority]
        for priority in range(request.priority, -1, -1):
            if starts[priority] != charged:
                break
            starts[priority] = charged - share_s

    def forget_past(self, now: float) -> None:
        """Drop the callers that are within their share."""
        past = [caller for caller, starts in self._next.items() if starts[0] <= now]
        for caller in past:
            del self._next[caller]
