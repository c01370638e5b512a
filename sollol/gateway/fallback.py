"""A call answered by its model, or else by the first other one that a node has."""

from collections.abc import Awaitable, Callable

from sollol.errors import ConnectFailed, MissingOnNode, ModelNotFound, NoNodeAvailable
from sollol.gateway.body import aside
from sollol.gateway.call import Call
from sollol.gateway.outcome import Outcome
from sollol.gateway.relay import Downstream
from sollol.gateway.rewriting import for_model

UNAVAILABLE = (ModelNotFound, NoNodeAvailable, ConnectFailed, MissingOnNode)
"""No node has the model, or none that has it can be reached: another model may do.

All of these come before the client is sent anything.
"""


Forward = Callable[[Call, Downstream, Outcome], Awaitable[None]]


async def forward_any(
    forward: Forward, call: Call, downstream: Downstream, outcome: Outcome
) -> None:
    """Answer ``call`` on ``downstream`` with ``forward``, by one of its other models if it must be.

    Raises:
        SollolError: as :meth:`Forwarder.forward`. When no model is to be had, it is the error of the
            caller's own one, or of one that may come back.
    """
    try:
        await forward(call, downstream, outcome)
        return
    except UNAVAILABLE as error:
        failure = error
    for name in call.others:
        outcome.model = name
        try:
            with (other := await aside(call.body, for_model, call, name)).body:
                await forward(other, downstream, outcome)
            return
        except UNAVAILABLE as error:
            if isinstance(failure, ModelNotFound):
                failure = error
    raise failure
