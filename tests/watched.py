"""Looks at what the scheduler is told of requests and of their answers."""

from sollol.gateway.admission import Admission
from sollol.gateway.forward import Forwarder
from sollol.gateway.gateway import forward_limits
from sollol.gateway.patience import Bounds
from sollol.gateway.skew import MissingRoutes
from sollol.scheduling.decision import Grant
from sollol.types import Lease, Measured, RouteRequest
from tests.gateways import RunningGateway


class WatchedAdmission(Admission):
    """Passes everything on to another one."""

    def __init__(self, inner: Admission) -> None:
        self.__dict__ |= inner.__dict__  # what changes, changes in both
        self.requests: list[RouteRequest] = []
        self.measured: list[Measured | None] = []
        self.loads: list[Lease] = []
        self.faults: list[bool] = []
        """Of each attempt, whether it failed through its node's fault."""

    def try_acquire(self, request: RouteRequest) -> Grant | None:
        self.requests.append(request)
        return super().try_acquire(request)

    def loaded(self, lease: Lease) -> None:
        self.loads.append(lease)
        super().loaded(lease)

    def release(
        self, lease: Lease, measured: Measured | None = None, *, has_failed: bool = False
    ) -> None:
        self.measured.append(measured)
        self.faults.append(has_failed)
        super().release(lease, measured, has_failed=has_failed)

    @property
    def last(self) -> Measured:
        """What was measured of the last answer."""
        measured = self.measured[-1]
        assert measured is not None
        return measured


def watched(running: RunningGateway, bounds: Bounds | None = None) -> WatchedAdmission:
    """Put an admission that can be looked at into a gateway.

    Args:
        bounds: how long nodes may be silent, in place of what the settings say.
    """
    gateway = running.gateway
    limits = forward_limits(gateway.settings)
    watch = WatchedAdmission(gateway.admission)
    gateway.forwarder = Forwarder(
        gateway.registry,
        watch,
        MissingRoutes(),
        gateway.clock,
        gateway.retries,
        limits if bounds is None else limits._replace(bounds=bounds),
    )
    return watch
