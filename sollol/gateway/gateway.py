"""The parts of a gateway, put together; no HTTP in here."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import structlog

from sollol.gateway.admission import Admission
from sollol.gateway.blobs import Blobs
from sollol.gateway.embedded import EmbeddedKeeper
from sollol.gateway.estimates import Estimates
from sollol.gateway.fleet import Fleet
from sollol.gateway.forward import Forwarder, Limits
from sollol.gateway.membership import Membership
from sollol.gateway.reload import needs_restart
from sollol.gateway.skew import MissingRoutes
from sollol.gateway.targets import Policy
from sollol.gateway.warming import Warming
from sollol.metrics import Metrics
from sollol.nodes.addresses import Resolve, resolve
from sollol.nodes.discovery import Discovery
from sollol.nodes.health import HealthLimits
from sollol.nodes.places import Places
from sollol.nodes.prober import Prober
from sollol.nodes.registry import NodeTimeouts, Registry
from sollol.scheduling.decision import Prewarm
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.settings import Settings
from sollol.types import NodeState, NodeView
from sollol.upstream.http import Timeouts

log = structlog.get_logger()


class Gateway:
    """One gateway. Each part owns its state; this only knows them all.

    ``clock`` is monotonic and the same for all parts; ``look_up`` resolves the names of nodes.
    """

    def __init__(self, settings: Settings, look_up: Resolve = resolve) -> None:
        self.settings = settings
        self.clock = time.monotonic
        limits = SchedulerLimits(
            queue_max_length=settings.queue.max_length, prewarms=settings.scheduling.prewarm
        )
        scheduler = Scheduler(limits, random.Random())
        self.estimates = Estimates(scheduler, settings.scheduling.state_file)
        self.admission = Admission(scheduler, self.clock, self._prewarm)
        self._routes = MissingRoutes()
        self.registry = Registry(
            limits=HealthLimits(fall=settings.probe.fall, rise=settings.probe.rise),
            timeouts=_timeouts(settings),
            max_idle_connections=settings.upstream.max_idle_connections,
            on_change=self._node_changed,
            on_remove=self._node_removed,
        )
        self.prober = Prober(self.registry, settings.probe)
        self.metrics = Metrics(self._gauges)
        self.warming = Warming(
            self.registry, self.admission, self.metrics, self.clock, look_soon=self.prober.look_soon
        )
        places = Places(self.registry, look_up)
        self.membership = Membership(
            self.registry, self.prober, self.admission, places, settings.server
        )
        self.discovery = Discovery(
            self.registry,
            self.prober,
            settings.discovery,
            places=places,
            let_go=self.membership.let_go,
            clock=self.clock,
        )
        self.forwarder = Forwarder(
            self.registry,
            self.admission,
            self._routes,
            self.clock,
            look_soon=self.prober.look_soon,
            limits=Limits(settings.queue.timeout_s, settings.upstream.max_attempts),
        )
        policy = Policy(settings.fleet.pull_to, settings.fleet.push_from)
        self.fleet = Fleet(self.registry, self.prober, policy, random.Random())
        self.blobs = Blobs(self.fleet, self.clock)
        self.is_stopping = False

    def is_ready(self) -> bool:
        """Whether a request could be served now."""
        if self.is_stopping:
            return False
        return any(
            view.state is NodeState.HEALTHY and view.models for view in self.registry.views()
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probe nodes, watch the clock and keep the embedded node, for the length of a block."""
        await self.estimates.load()
        for node in self.settings.nodes:
            self.registry.add(node)
        first_rounds = (self.prober.first_round, self.discovery.first_round)
        keeper = EmbeddedKeeper(
            self.registry, self.prober, self.settings.embedded, wait_for=first_rounds
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(self.admission.run(), name="admission"),
                    tasks.create_task(self.prober.run(), name="prober"),
                    tasks.create_task(self.discovery.run(), name="discovery"),
                    tasks.create_task(keeper.run(), name="embedded"),
                    tasks.create_task(self.warming.run(), name="warming"),
                ]
                tasks.create_task(self.estimates.run(), name="estimates")
                try:
                    yield
                finally:
                    for task in background:
                        task.cancel()
                    await self.membership.stop()
                    self.estimates.stop()
        finally:
            await self.registry.aclose()

    def reload(self, settings: Settings) -> None:
        """Take over changed settings: nodes and discovery at once, others at the next start."""
        for name in needs_restart(self.settings, settings):
            log.warning("setting_needs_a_restart", setting=name)
        self.membership.follow(settings.nodes)
        self.discovery.use(settings.discovery)
        live = {"nodes": settings.nodes, "discovery": settings.discovery}
        self.settings = self.settings.model_copy(update=live)
        log.info("settings_reloaded", nodes=len(settings.nodes))

    def _prewarm(self, effect: Prewarm) -> None:
        self.warming.begin(effect)

    def _node_changed(self, view: NodeView) -> None:
        self._routes.node_changed(view)
        self.admission.node_changed(view)

    def _node_removed(self, node_id: str) -> None:
        self._routes.node_removed(node_id)
        self.admission.node_removed(node_id)
        self.metrics.forget_node(node_id)

    def _gauges(self) -> dict[str, dict[str, float]]:
        statistics = self.admission.statistics()
        nodes = self.registry.nodes()
        return {
            "sollol_node_up": {
                node.view.id: float(node.view.state is NodeState.HEALTHY) for node in nodes
            },
            "sollol_node_in_flight": {
                node.view.id: float(statistics.in_flight.get(node.view.id, 0)) for node in nodes
            },
            "sollol_node_slots": {node.view.id: float(node.view.slots) for node in nodes},
            "sollol_node_connections": {
                node.view.id: float(
                    node.connections.statistics().open + node.management.statistics().open
                )
                for node in nodes
            },
            "sollol_queue_length": {"": float(statistics.queue_length)},
        }


def _timeouts(settings: Settings) -> NodeTimeouts:
    connect_s, stall_s = settings.upstream.connect_timeout_s, settings.fleet.stall_timeout_s
    return NodeTimeouts(
        requests=Timeouts(
            connect_s=connect_s,
            first_byte_s=settings.upstream.first_byte_timeout_s,
            stall_s=settings.upstream.stall_timeout_s,
        ),
        management=Timeouts(connect_s=connect_s, first_byte_s=stall_s, stall_s=stall_s),
        control_s=settings.probe.timeout_s,
    )
