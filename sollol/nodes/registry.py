"""The nodes and what is known of each; sole owner of node state.

Probes (``nodes/prober.py``) and failed connections come in; a frozen :class:`NodeView` goes out to
whoever listens, whenever it has changed.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx
import structlog

from sollol.nodes.health import NOT_PROBED, Health, HealthLimits
from sollol.settings import NodeSettings
from sollol.types import Engine, NodeState, NodeView, Resident
from sollol.upstream.facts import NodeFacts
from sollol.upstream.http import NodeConnections, Origin, Timeouts

log = structlog.get_logger()

OnChange = Callable[[NodeView], None]
OnRemove = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NodeTimeouts:
    """How long nodes may keep us waiting, by the kind of request."""

    requests: Timeouts
    management: Timeouts
    control_s: float


class Node:
    """One node: its settings, its connections, and the last view of it.

    ``connections`` carry requests for models, ``management`` those that change the node, and
    ``control`` the gateway's own.
    """

    def __init__(
        self,
        settings: NodeSettings,
        limits: HealthLimits,
        connections: NodeConnections,
        management: NodeConnections,
        control: httpx.AsyncClient,
    ) -> None:
        self.settings = settings
        self.connections = connections
        self.management = management
        self.control = control
        self.health = Health(limits)
        self.last_probe = -1
        """The number of the latest probe whose news was taken (``nodes/prober.py``)."""
        self.engine: Engine | None = None if settings.engine == "auto" else Engine(settings.engine)
        self.view = NodeView(
            id=settings.id,
            url=settings.url,
            engine=self.engine or Engine.OLLAMA,
            state=NodeState.UNHEALTHY,
            slots=settings.slots or 1,
            last_error=self.health.last_error,
        )

    @property
    def api_key(self) -> str | None:
        """The key the node asks for, if any."""
        return self.settings.api_key.get_secret_value() if self.settings.api_key else None

    async def aclose(self) -> None:
        """Close the connections, those in use too."""
        await self.connections.aclose()
        await self.management.aclose()
        await self.control.aclose()

    def state(self) -> NodeState:
        """Return whether the node may be given work."""
        if not self.health.is_healthy:
            return NodeState.UNHEALTHY
        return NodeState.DRAINING if self.settings.draining else NodeState.HEALTHY


class Registry:
    """Nodes by id."""

    def __init__(
        self,
        *,
        limits: HealthLimits,
        timeouts: NodeTimeouts,
        max_idle_connections: int,
        on_change: OnChange,
        on_remove: OnRemove,
    ) -> None:
        self._limits = limits
        self._timeouts = timeouts
        self._max_idle_connections = max_idle_connections
        self._ssl_context = ssl.create_default_context()
        self._on_change = on_change
        self._on_remove = on_remove
        self._nodes: dict[str, Node] = {}

    def add(self, settings: NodeSettings) -> Node:
        """Register a node; it gets work once a probe has succeeded.

        Raises:
            ValueError: the id or the URL is taken.
        """
        if settings.id in self._nodes or any(n.settings.url == settings.url for n in self.nodes()):
            raise ValueError(f"node {settings.id} ({settings.url}) is registered already")
        origin = Origin.parse(settings.url)
        node = Node(
            settings,
            self._limits,
            NodeConnections(origin, self._timeouts.requests, max_idle=self._max_idle_connections),
            NodeConnections(origin, self._timeouts.management, max_idle=1),
            self._control(settings),
        )
        self._nodes[settings.id] = node
        self._on_change(node.view)
        return node

    async def remove(self, node_id: str) -> None:
        """Forget a node and close its connections; unknown ids are ignored."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._on_remove(node_id)
        await node.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for node in self.nodes():
            await node.aclose()

    def find(self, node_id: str) -> Node | None:
        """Return the node with this id, if there is one."""
        return self._nodes.get(node_id)

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
        node.health.probe_succeeded()
        view = replace(
            node.view,
            engine=facts.engine,
            version=facts.version,
            slots=node.settings.slots or facts.slots or 1,
            models={model.key: model for model in facts.models},
            resident=_with_aliases(facts),
        )
        self._update(node, view)

    def probe_failed(self, node_id: str, error: str, *, is_refused: bool) -> None:
        """Note that a probe got no good answer."""
        self._failed(node_id, error, is_refused=is_refused)

    def connection_failed(self, node_id: str, error: str) -> None:
        """Note that no connection to a node could be made for a request."""
        self._failed(node_id, error, is_refused=True)

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

    def _control(self, settings: NodeSettings) -> httpx.AsyncClient:
        key = settings.api_key
        return httpx.AsyncClient(
            headers={"authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=self._timeouts.control_s,
            verify=self._ssl_context,
            trust_env=False,
        )

    def _failed(self, node_id: str, error: str, *, is_refused: bool) -> None:
        node = self._nodes.get(node_id)
        if node is None:
            return
        node.health.failed(error, is_refused=is_refused)
        self._update(node, node.view)

    def _update(self, node: Node, view: NodeView) -> None:
        before = node.view
        view = replace(view, state=node.state(), last_error=node.health.last_error)
        if view == before:
            return
        node.view = view
        self._on_change(view)
        if view.state is NodeState.UNHEALTHY and _is_news(before):
            log.warning("node_down", node=view.id, error=view.last_error)
        elif view.state is not before.state:
            log.info("node_up", node=view.id, engine=view.engine, models=len(view.models))


def _is_news(before: NodeView) -> bool:
    return before.state is not NodeState.UNHEALTHY or before.last_error == NOT_PROBED


def _with_aliases(facts: NodeFacts) -> dict[str, Resident]:
    """Map every name of a loaded model to it: nodes list only the name that loaded it."""
    resident = {loaded.key: loaded for loaded in facts.resident}
    by_digest = {loaded.digest: loaded for loaded in facts.resident if loaded.digest}
    for model in facts.models:
        loaded = by_digest.get(model.digest)
        if loaded is not None:
            resident.setdefault(model.key, loaded)
    return resident
