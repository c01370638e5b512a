"""The nodes and what is known of each; sole owner of node state.

Probes (``nodes/prober.py``) and failed connections come in; a frozen :class:`NodeView` goes out to
whoever listens, whenever it has changed. Who joins and leaves is decided in
``nodes/discovery.py`` and ``gateway/membership.py``.
"""

import functools
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from sollol.errors import NodeConflict
from sollol.nodes import digests
from sollol.nodes.health import NOT_PROBED, Blame, Health
from sollol.settings import NodeSettings
from sollol.types import (
    NO_DEFAULTS,
    Engine,
    ModelDefaults,
    NodeState,
    NodeView,
    Resident,
    Source,
)
from sollol.upstream.control import ControlClient
from sollol.upstream.facts import NodeFacts
from sollol.upstream.http import NodeConnections, Origin, Timeouts

log = structlog.get_logger()

MOVING_S = 5.0
"""A node that sent part of an answer so lately is at work, whatever its probes say."""

OnChange = Callable[[NodeView], None]
OnRemove = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """How long nodes may keep us waiting, by the kind of request; ``via`` is what all of them say."""

    requests: Timeouts
    management: Timeouts
    control_s: float
    via: bytes = b""


class Node:
    """One node: its settings, its connections, and the last view of it.

    ``connections`` carry requests for models, ``management`` those that change the node, and
    ``control`` the gateway's own. ``duplicate_of`` is the id of a node that leads to the same
    server, probably.
    """

    def __init__(
        self,
        settings: NodeSettings,
        source: Source,
        health: Health,
        connections: NodeConnections,
        management: NodeConnections,
        control: ControlClient,
    ) -> None:
        self.settings = settings
        self.source = source
        self.duplicate_of = ""
        self.told_slots: int | None = None
        self.connections = connections
        self.management = management
        self.control = control
        self.health = health
        self.last_probe = -1
        """The number of the latest probe whose news was taken (``nodes/prober.py``)."""
        self.engine = settings.known_engine
        """None where the next probe is to find it out."""
        self.view = NodeView(
            id=settings.id,
            url=settings.url,
            engine=self.engine or Engine.OLLAMA,
            state=NodeState.UNHEALTHY,
            slots=self.slots(),
            last_error=self.health.last_error,
            memory_bytes=settings.memory_bytes,
            weight=settings.weight,
        )

    @property
    def api_key(self) -> str | None:
        """The key the node asks for, if any."""
        return _api_key(self.settings)

    def slots(self) -> int:
        """Return how many requests it runs at once for one model, as far as that is known."""
        return self.settings.slots or self.told_slots or 1

    async def aclose(self) -> None:
        """Close the connections, those in use too."""
        await self.connections.aclose()
        await self.management.aclose()
        await self.control.aclose()

    def state(self) -> NodeState:
        """Return whether the node may be given work."""
        state = self.health.state
        is_able = state in (NodeState.HEALTHY, NodeState.HALF_OPEN)
        return NodeState.DRAINING if is_able and self.settings.draining else state


class Registry:
    """Nodes by id."""

    def __init__(
        self,
        *,
        new_health: Callable[[], Health],
        timeouts: NodeLinks,
        max_idle_connections: int,
        on_change: OnChange,
        on_remove: OnRemove,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._new_health = new_health
        self._timeouts = timeouts
        self._max_idle_connections = max_idle_connections
        self._on_change = on_change
        self._on_remove = on_remove
        self._nodes: dict[str, Node] = {}
        self._conflicts: dict[str, str] = {}
        """Models of which nodes have different digests -> the chosen one."""

    @functools.cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """What connections over TLS are made with; made with the first, as it takes 20 ms."""
        return ssl.create_default_context()

    def add(
        self,
        settings: NodeSettings,
        source: Source = Source.SETTINGS,
        defaults: ModelDefaults = NO_DEFAULTS,
    ) -> Node:
        """Register a node; it gets work once a probe has succeeded.

        Args:
            defaults: what requests for its model are to say.

        Raises:
            NodeConflict: the id or the URL is taken.
        """
        if settings.id in self._nodes:
            raise NodeConflict(f"a node is called {settings.id} already")
        taken = self.find_url(settings.url)
        if taken is not None:
            raise NodeConflict(f"{settings.url} is node {taken.view.id} already")
        origin = Origin.parse(settings.url)
        node = Node(
            settings,
            source,
            self._new_health(),
            self._connections(origin, self._timeouts.requests, self._max_idle_connections),
            self._connections(origin, self._timeouts.management, 1),
            self._control(settings),
        )
        node.view = replace(node.view, defaults=defaults)
        self._nodes[settings.id] = node
        self._on_change(node.view)
        return node

    def change(self, node: Node, settings: NodeSettings, source: Source | None = None) -> None:
        """Give a node other settings, with the same URL and name."""
        if settings.engine != node.settings.engine:
            node.engine = settings.known_engine
        node.settings = settings
        node.source = source or node.source
        node.control.api_key = node.api_key
        view = replace(
            node.view,
            slots=node.slots(),
            memory_bytes=settings.memory_bytes,
            weight=settings.weight,
        )
        self._update(node, view)

    async def remove(self, node_id: str) -> None:
        """Forget a node and close its connections, those in use too; unknown ids are ignored."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._on_remove(node_id)
        self._vote()
        await node.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for node in self.nodes():
            await node.aclose()

    def find(self, node_id: str) -> Node | None:
        """Return the node with this id, if there is one."""
        return self._nodes.get(node_id)

    def find_url(self, url: str) -> Node | None:
        """Return the node with this base address, if there is one."""
        return next((node for node in self._nodes.values() if node.settings.url == url), None)

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in the order they were added."""
        return tuple(self._nodes.values())

    def views(self) -> tuple[NodeView, ...]:
        """What is known of all nodes."""
        return tuple(node.view for node in self._nodes.values())

    def probe_succeeded(self, node_id: str, facts: NodeFacts) -> None:
        """Take over what a probe has read."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        node.engine = facts.engine
        node.told_slots = facts.slots
        node.health.probe_succeeded(self._clock())
        view = replace(
            node.view,
            engine=facts.engine,
            version=facts.version,
            slots=node.slots(),
            models={model.key: model for model in facts.models},
            resident=_with_aliases(facts),
        )
        self._update(node, view)

    def probe_failed(self, node_id: str, error: str, *, is_refused: bool) -> None:
        """Note that a probe got no good answer; there may be other software by the next one."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.engine = node.settings.known_engine
            node.health.probe_failed(error, self._clock(), is_refused=is_refused)
            self._update(node, node.view)
            self._cut(node)

    def request_failed(self, node_id: str, runner: str, blame: Blame, error: str) -> None:
        """Note that a request failed in a way that is the node's fault."""
        node = self._nodes.get(node_id)
        if node is not None and blame.counts:
            node.health.request_failed(blame, runner, error, self._clock())
            self._update(node, node.view)
            self._cut(node)

    def rest(self, node_id: str, runner: str, seconds: float, error: str) -> None:
        """Give a node no requests for a model for some seconds, as it asked for."""
        node = self._nodes.get(node_id)
        if node is not None:
            log.info("model_rests", node=node_id, seconds=seconds, error=error)
            node.health.rest(runner, self._clock(), seconds)
            self._update(node, node.view)

    def request_begun(self, node: Node, runner: str) -> None:
        """Note that a node on trial has begun to answer as it should."""
        node.health.request_begun(runner, self._clock())
        self._update(node, node.view)

    def request_succeeded(self, node: Node, runner: str) -> None:
        """Note that a node answered as it should; of interest while its health is troubled."""
        node.health.request_succeeded(runner, self._clock())
        self._update(node, node.view)

    def pass_time(self) -> None:
        """Let ejections end whose time is over."""
        now = self._clock()
        for node in self.nodes():
            if node.health.is_troubled or node.view.limited:
                node.health.pass_time(now)
                self._update(node, node.view)

    def model_missing(self, node_id: str, model_key: str) -> None:
        """Note that a node said it does not have a model; the next probe says what it has."""
        node = self._nodes.get(node_id)
        if node is None or model_key not in node.view.models:
            return
        models = {key: model for key, model in node.view.models.items() if key != model_key}
        self._update(node, replace(node.view, models=models))

    def model_unloaded(self, node_id: str, model_key: str) -> None:
        """Note that a node takes a model out of memory, under whichever names it has it there."""
        node = self._nodes.get(node_id)
        gone = node.view.resident.get(model_key) if node else None
        if node is None or gone is None:
            return
        resident = {name: held for name, held in node.view.resident.items() if held.key != gone.key}
        self._update(node, replace(node.view, resident=resident))

    def _connections(self, origin: Origin, timeouts: Timeouts, max_idle: int) -> NodeConnections:
        context = self.ssl_context if origin.scheme == "https" else None
        via = self._timeouts.via
        return NodeConnections(origin, timeouts, max_idle=max_idle, ssl_context=context, via=via)

    def _control(self, settings: NodeSettings) -> ControlClient:
        context = self.ssl_context if settings.url.startswith("https:") else None
        timeout_s, via = self._timeouts.control_s, self._timeouts.via
        return ControlClient(settings.url, timeout_s, context, _api_key(settings), via)

    def _cut(self, node: Node) -> None:
        """End all waiting for a node that is down: its requests are tried elsewhere at once.

        Answers that move go on, until a later probe finds that they do not.
        """
        if not node.health.is_up:
            node.connections.cut_silent(MOVING_S)

    def _update(self, node: Node, view: NodeView) -> None:
        before = node.view
        health = node.health
        view = replace(
            view, state=node.state(), limited=health.limited(), last_error=health.last_error
        )
        if view == before:
            return
        node.view = view
        if _votes_alike(view, before):
            self._on_change(view)
        else:
            self._vote(node)
        _log_change(view, before)

    def _vote(self, changed: Node | None = None) -> None:
        """Choose digests anew, and tell of the ``changed`` node and those it makes a change for."""
        chosen = digests.conflicts(self.views())
        outvoted = digests.outvoted(self.views(), chosen)
        news = [] if changed is None else [changed]
        for node in self.nodes():
            if outvoted[node.view.id] != node.view.outvoted:
                node.view = replace(node.view, outvoted=outvoted[node.view.id])
                news += [] if node is changed else [node]
        for node in news:
            self._on_change(node.view)
        self._warn_of_conflicts(chosen)

    def _warn_of_conflicts(self, chosen: dict[str, str]) -> None:
        for key in chosen:
            if chosen[key] != self._conflicts.get(key):
                nodes = {
                    view.id: view.models[key].digest[:12]
                    for view in self.views()
                    if key in view.models
                }
                log.warning("digest_conflict", model=key, chosen=chosen[key][:12], nodes=nodes)
        self._conflicts = chosen


def _api_key(settings: NodeSettings) -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


def _votes_alike(one: NodeView, other: NodeView) -> bool:
    return (one.models, one.state, one.engine) == (other.models, other.state, other.engine)


def _log_change(view: NodeView, before: NodeView) -> None:
    """Say what became of a node, once for each change."""
    _log_limited(view, before)
    if view.state is NodeState.UNHEALTHY:
        if before.state is not NodeState.UNHEALTHY or before.last_error == NOT_PROBED:
            log.warning("node_down", node=view.id, error=view.last_error)
    elif view.state is before.state:
        return
    elif view.state is NodeState.EJECTED:
        log.warning("node_ejected", node=view.id, error=view.last_error)
    elif view.state is NodeState.HALF_OPEN:
        log.info("node_half_open", node=view.id)
    elif view.state is NodeState.DRAINING:
        log.info("node_draining", node=view.id)
    else:
        log.info("node_up", node=view.id, engine=view.engine, models=len(view.models))


def _log_limited(view: NodeView, before: NodeView) -> None:
    for runner in {**before.limited, **view.limited}:
        state = view.limited.get(runner, NodeState.HEALTHY)
        if state is not before.limited.get(runner, NodeState.HEALTHY):
            models = _names(view, runner)
            if state is NodeState.EJECTED:
                log.warning("model_ejected", node=view.id, models=models)
            else:
                log.info("model_" + state, node=view.id, models=models)


def _names(view: NodeView, runner: str) -> list[str]:
    """Return the names of the models that a runner runs."""
    return [model.name for key, model in view.models.items() if view.runner(key) == runner]


def _with_aliases(facts: NodeFacts) -> dict[str, Resident]:
    """Map every name of a loaded model to it: nodes list only the name that loaded it."""
    resident = {loaded.key: loaded for loaded in facts.resident}
    by_digest = {loaded.digest: loaded for loaded in facts.resident if loaded.digest}
    for model in facts.models:
        loaded = by_digest.get(model.digest)
        if loaded is not None:
            resident.setdefault(model.key, loaded)
    return resident
