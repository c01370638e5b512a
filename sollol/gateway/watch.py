"""Watches the node that a request was sent to, once it was silent for too long."""

from sollol.gateway.admission import Admission
from sollol.gateway.call import Call
from sollol.gateway.patience import Bounds, Sight, comes_late, more_s, silence_s
from sollol.nodes.registry import MOVING_S, Node
from sollol.types import Lease
from sollol.upstream.http import UpstreamRequest


class Watch:
    """The :data:`~sollol.upstream.request.Patience` of one request.

    Made for every request and hardly ever called.
    """

    __slots__ = ("_admission", "_bounds", "_call", "_lease", "_node", "_seen")

    def __init__(
        self, admission: Admission, node: Node, call: Call, lease: Lease, bounds: Bounds
    ) -> None:
        self._admission = admission
        self._node = node
        self._call = call
        self._lease = lease
        self._bounds = bounds
        self._seen = node.view.resident

    def over(self, request: UpstreamRequest) -> UpstreamRequest:
        """Return ``request`` with its limits."""
        request.first_byte_s = self._bounds.first_look_s
        request.patience = self
        call = self._call
        if call.streams and comes_late(call.ask, streams=True):
            whole_s = silence_s(call.ask, self._lease, streams=True, bounds=self._bounds)
            request.stall_s = max(self._bounds.stall_s, whole_s)
        return request

    def __call__(self, waited_s: float) -> float:
        """Return how many more seconds to wait for the node; 0 to give it up."""
        before, self._seen = self._seen, self._node.view.resident
        sight = Sight(
            is_loading=self._admission.is_loading(self._lease),
            has_progress=self._seen.keys() != before.keys(),
            serves_others=self._admission.has_company(self._lease)
            and self._node.connections.is_moving(MOVING_S),
        )
        call = self._call
        return more_s(
            call.ask, self._lease, waited_s, sight, streams=call.streams, bounds=self._bounds
        )
