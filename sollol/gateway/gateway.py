"""The parts of a gateway, put together; no HTTP in here."""

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import structlog

from sollol.gateway.admission import TICK_S, Admission
from sollol.gateway.blobs import Blobs
from sollol.gateway.body_store import BodyStore, Waiters
from sollol.gateway.budget import RetryBudget
from sollol.gateway.call import Call
from sollol.gateway.canary import Canaries, CanaryLimits
from sollol.gateway.continuing import Continuing
from sollol.gateway.embedded import EmbeddedKeeper
from sollol.gateway.estimates import Estimates
from sollol.gateway.fleet import Fleet
from sollol.gateway.forward import Forwarder, Limits
from sollol.gateway.hedging import Hedging
from sollol.gateway.journal import Journal
from sollol.gateway.membership import Membership
from sollol.gateway.model_rules import ModelRules
from sollol.gateway.patience import Bounds
from sollol.gateway.reload import LIVE, needs_restart
from sollol.gateway.retries import RetryPolicy
from sollol.gateway.shard import ShardState
from sollol.gateway.sharded import Sharded
from sollol.gateway.shards import Parts, Shards
from sollol.gateway.skew import MissingRoutes
from sollol.gateway.slowness import Slowness
from sollol.gateway.targets import Policy
from sollol.gateway.warming import Warming
from sollol.gateway.workers import LlamaWorkers, Workers
from sollol.metrics import Metrics
from sollol.nodes import catalog
from sollol.nodes.addresses import Resolve, resolve
from sollol.nodes.discovery import Discovery
from sollol.nodes.health import Health, HealthLimits
from sollol.nodes.places import Places
from sollol.nodes.prober import Prober
from sollol.nodes.registry import NodeLinks, Registry
from sollol.scheduling.decision import Prewarm
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.settings import NodeSettings, Settings
from sollol.types import Model, NodeState, NodeView, Source
from sollol.upstream.http import Timeouts
from sollol.wire.hops import via_of

log = structlog.get_logger()


class Gateway:
    """One gateway. Each part owns its state; this only knows them all.

    ``clock`` is monotonic and the same for all parts, as is ``rng``; ``look_up`` resolves the names
    of nodes, and ``workers`` finds and starts what models over several machines run on.
    """

    def __init__(
        self,
        settings: Settings,
        look_up: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        workers: Workers | None = None,
    ) -> None:
        rng = rng or random.Random()
        self.settings = settings
        self.id = f"sollol-{secrets.token_hex(6)}"
        self.clock = clock
        self.rules = ModelRules(settings.models, self._settings_of)
        self.shards: Shards | None = None
        has_workers = bool(settings.sharding.workers or settings.sharding.local_worker_gb)
        is_allowed = self._is_allowed if has_workers else self.rules.is_allowed
        scheduler = Scheduler(_limits(settings, is_allowed, self.rules), rng)
        self.estimates = Estimates(scheduler, settings.scheduling.state_file)
        self.admission = Admission(scheduler, self.clock, self._prewarm)
        self.bodies = BodyStore(
            settings.server.max_waiting_bytes,
            settings.server.max_spooled_bytes,
            Waiters(self.admission.make_way, self.admission.retry_after_s),
        )
        self.journal = Journal(settings.scheduling.journal_length, time.time)
        self._routes = MissingRoutes()
        self.registry = Registry(
            new_health=partial(Health, _health_limits(settings), rng),
            timeouts=_links(settings, via_of(self.id)),
            max_idle_connections=settings.upstream.max_idle_connections,
            on_change=self._node_changed,
            on_remove=self._node_removed,
            clock=clock,
        )
        self.prober = Prober(self.registry, settings.probe, self.admission.is_node_loading, rng)
        self.metrics = Metrics(self._gauges)
        self.warming = Warming(
            self.registry, self.admission, self.metrics, self.clock, look_soon=self.prober.look_soon
        )
        self.slowness = Slowness(self.admission.slow)
        self.retries = RetryPolicy(
            self.registry,
            RetryBudget(settings.failover.retry_share, settings.failover.retry_reserve),
            self.metrics,
            self.prober.look_soon,
            rng,
            max_attempts=settings.upstream.max_attempts,
        )
        self.canaries = Canaries(
            self.retries,
            self.admission,
            self.prober,
            _canary_limits(settings),
            clock=self.clock,
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
            self.retries,
            forward_limits(settings),
        )
        self.continuing = Continuing(self.forwarder, self.registry, self.clock)
        hedges = settings.failover.hedge
        self.hedging = Hedging(self.forwarder, self.retries, self.clock) if hedges else None
        self.sharded: Sharded | None = None
        if has_workers:
            self.shards = Shards(
                settings,
                Parts(
                    self.registry,
                    self.prober,
                    self.rules,
                    self.metrics,
                    workers or LlamaWorkers(settings.sharding),
                ),
                rules_changed=self.admission.rules_changed,
                clock=self.clock,
            )
            self.sharded = Sharded(
                self.shards,
                lambda call: self._node_forwarder_of(call).forward,
                self.clock,
                settings.sharding.progress_after_s,
            )
        policy = Policy(settings.fleet.pull_to, settings.fleet.push_from)
        self.fleet = Fleet(self.registry, self.prober, policy, rng)
        self.blobs = Blobs(self.fleet, self.clock)
        self.is_stopping = False

    def stop(self) -> None:
        """Be ready for nobody, and refuse those who wait for a slot; what is under way goes on."""
        self.is_stopping = True
        if self.shards is not None:
            self.shards.stop()
        self.admission.drain()

    def is_ready(self) -> bool:
        """Whether a request could be served now."""
        if self.is_stopping:
            return False
        if self.shards is not None and self.shards.shelf.models:
            return True
        return any(view.is_open and view.models for view in self.registry.views())

    def forwarder_of(self, call: Call) -> Forwarder | Continuing | Hedging | Sharded:
        """Return what forwards a call."""
        if self.sharded is not None and self.sharded.is_for(call):
            return self.sharded
        return self._node_forwarder_of(call)

    def _node_forwarder_of(self, call: Call) -> Forwarder | Continuing | Hedging:
        if call.continues:
            return self.continuing
        if self.hedging is not None and self.hedging.is_for(call):
            return self.hedging
        return self.forwarder

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
                    tasks.create_task(self._pass_time(), name="time"),
                ]
                if self.settings.probe.canary:
                    background.append(tasks.create_task(self.canaries.run(), name="canaries"))
                if self.shards is not None:
                    background.append(tasks.create_task(self.shards.run(), name="shards"))
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
        """Take over changed settings: some groups at once, others at the next start."""
        for name in needs_restart(self.settings, settings):
            log.warning("setting_needs_a_restart", setting=name)
        self.rules.use(settings.models)
        self.membership.follow(settings.nodes)
        self.admission.rules_changed()
        self.discovery.use(settings.discovery)
        live = {name: getattr(settings, name) for name in LIVE}
        self.settings = self.settings.model_copy(update=live)
        log.info("settings_reloaded", nodes=len(settings.nodes))

    async def _pass_time(self) -> None:
        """Let ejections end, old retries be forgotten and slow models be told of, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.registry.pass_time()
            self.forwarder.pass_time()
            self.slowness.look()
            if self.shards is not None:
                self.shards.pass_time()

    def _prewarm(self, effect: Prewarm) -> None:
        self.warming.begin(effect)

    def installed(self) -> list[Model]:
        """Return the models to list, the most recently modified first; aliases are among them."""
        shards = self.shards
        if shards is None:
            return self.rules.installed(catalog.listings(self.registry.views()))
        views = (n.view for n in self.registry.nodes() if n.source is not Source.SHARD)
        return self.rules.installed(shards.listings(catalog.listings(views)))

    def resident(self) -> list[dict[str, Any]]:
        """Return the models in memory, as ``/api/ps`` lists them."""
        return catalog.resident(self.views_shown())

    def views_shown(self) -> Sequence[NodeView]:
        """Return what is shown of each node."""
        views = self.registry.views()
        return views if self.shards is None else tuple(map(self.shards.shown, views))

    def _is_allowed(self, node_id: str, key: str) -> bool:
        is_allowed = self.rules.is_allowed(node_id, key)
        return is_allowed and (self.shards is None or self.shards.needs.is_allowed(node_id, key))

    def _settings_of(self, node_id: str) -> NodeSettings | None:
        node = self.registry.find(node_id)
        return None if node is None else node.settings

    def _node_changed(self, view: NodeView) -> None:
        self._routes.node_changed(view)
        self.admission.node_changed(view)
        self.slowness.node_changed(view)
        if self.shards is not None:
            self.shards.needs.node_changed(view)

    def _node_removed(self, node_id: str) -> None:
        self._routes.node_removed(node_id)
        self.admission.node_removed(node_id)
        self.slowness.node_removed(node_id)
        self.metrics.forget_node(node_id)
        if self.shards is not None:
            self.shards.needs.node_removed()

    def _gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        statistics = self.admission.statistics()
        gauges: dict[str, dict[tuple[str, ...], float]] = {
            "sollol_queue_length": {(): float(statistics.queue_length)},
            "sollol_bodies_memory_bytes": {(): float(self.bodies.memory_bytes)},
            "sollol_bodies_file_bytes": {(): float(self.bodies.file_bytes)},
        }
        for node in self.registry.nodes():
            view, of_node = node.view, (node.view.id,)
            open_ = node.connections.statistics().open + node.management.statistics().open
            for name, value in (
                ("sollol_node_up", view.is_open),
                ("sollol_node_in_flight", statistics.in_flight.get(view.id, 0)),
                ("sollol_node_slots", view.slots),
                ("sollol_node_slow", len(self.slowness.of(view.id))),
                ("sollol_node_connections", open_),
                ("sollol_node_ejections", node.health.ejections_total),
            ):
                gauges.setdefault(name, {})[of_node] = float(value)
            states = gauges.setdefault("sollol_node_state", {})
            states.update({(view.id, s.value): float(s is view.state) for s in NodeState})
        if self.shards is not None:
            shard_states = Counter(shard.state for shard in self.shards.all())
            gauges["sollol_shards"] = {(s.value,): float(shard_states[s]) for s in ShardState}
        return gauges


def _limits(
    settings: Settings, is_allowed: Callable[[str, str], bool], rules: ModelRules
) -> SchedulerLimits:
    queue, scheduling = settings.queue, settings.scheduling
    return SchedulerLimits(
        queue_max_length=queue.max_length,
        policy=scheduling.policy,
        ageing_s=queue.ageing_s,
        max_in_flight_per_caller=queue.max_in_flight_per_caller,
        max_share_per_caller=queue.max_share_per_caller,
        explore_share=scheduling.explore_share,
        prewarms=scheduling.prewarm,
        uses_affinity=scheduling.affinity,
        is_allowed=is_allowed,
        pinned_to=rules.pinned_to,
        counts_options=scheduling.context_protection != "off",
        adapts_options=scheduling.context_protection == "strip",
    )


def forward_limits(settings: Settings) -> Limits:
    """Return how long a request may wait by the settings."""
    upstream = settings.upstream
    bounds = Bounds(
        upstream.first_byte_timeout_s, upstream.load_timeout_s, upstream.stall_timeout_s
    )
    return Limits(settings.queue.timeout_s, bounds)


def _health_limits(settings: Settings) -> HealthLimits:
    probe, failover = settings.probe, settings.failover
    return HealthLimits(
        fall=probe.fall,
        rise=probe.rise,
        eject_after=failover.eject_after,
        eject_s=failover.eject_s,
        max_eject_s=failover.max_eject_s,
    )


def _canary_limits(settings: Settings) -> CanaryLimits:
    probe = settings.probe
    timeout_s = settings.upstream.connect_timeout_s + probe.canary_timeout_s
    return CanaryLimits(probe.canary_interval_s, timeout_s)


def _links(settings: Settings, via: bytes) -> NodeLinks:
    connect_s, stall_s = settings.upstream.connect_timeout_s, settings.fleet.stall_timeout_s
    return NodeLinks(
        requests=Timeouts(
            connect_s=connect_s,
            first_byte_s=settings.upstream.first_byte_timeout_s,
            stall_s=settings.upstream.stall_timeout_s,
        ),
        management=Timeouts(connect_s=connect_s, first_byte_s=stall_s, stall_s=stall_s),
        control_s=settings.probe.timeout_s,
        via=via,
    )
