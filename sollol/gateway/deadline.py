"""Ends an attempt when the caller's deadline has passed and no answer has begun."""

import asyncio
from collections.abc import Coroutine

from sollol.errors import DeadlineExceeded
from sollol.gateway.call import Call
from sollol.gateway.relay import Downstream


def too_late(call: Call, *, was_sent: bool = False) -> DeadlineExceeded:
    """Return the error for a call whose deadline passed before its answer began."""
    what = "no node had begun to answer" if was_sent else "the request waited for a slot"
    until = "when" if was_sent else "until"
    return DeadlineExceeded(f"{what} {until} its deadline of {call.deadline_s:g} s had passed")


async def before_deadline(
    call: Call, downstream: Downstream, now: float, attempt: Coroutine[object, object, None]
) -> None:
    """Await an attempt, for as long as is left; without an end once the answer has begun.

    Raises:
        DeadlineExceeded: it was cancelled, and the node with it.
    """
    try:
        async with asyncio.timeout(call.left_s(now)) as downstream.deadline:
            await attempt
    except TimeoutError:
        raise too_late(call, was_sent=True) from None
    finally:
        downstream.deadline = None
