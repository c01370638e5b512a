"""Which nodes lack which routes: Ollama grew its API over the years, and nodes differ in age.

A node's version tells it for the routes we know; for all others a node's ``404 page not found``
does, and is remembered for as long as the node's version stays the same.
"""

from collections.abc import Iterable

from sollol.errors import NodesTooOld, NoNodeAvailable, RouteNotFound, SollolError
from sollol.gateway.call import Call
from sollol.types import Engine, NodeState, NodeView, Task
from sollol.wire.kinds import BODY_KINDS, OPTIONAL, BodyKind, Version
from sollol.wire.names import version_numbers

_NONE: frozenset[str] = frozenset()
_VERSIONED = [kind for kind in BODY_KINDS.values() if kind.since or kind.removed_in]

MAX_LEARNED_PATHS = 256
"""Paths of unknown routes that are remembered; a caller can make up any number of them."""


class MissingRoutes:
    """Sole owner of what is known of routes that nodes do not have."""

    def __init__(self) -> None:
        self._by_version: dict[str, frozenset[str]] = {}
        self._learned: dict[str, frozenset[str]] = {}
        self._versions: dict[str, str] = {}

    def nodes_without(self, path: str) -> frozenset[str]:
        """Return the ids of the nodes that lack a route."""
        known = self._by_version.get(path, _NONE)
        learned = self._learned.get(path)
        return known | learned if learned else known

    def node_changed(self, view: NodeView) -> None:
        """Take over what a node's version tells; a node that comes back may have been replaced."""
        if view.state is NodeState.UNHEALTHY:
            self.node_removed(view.id)
            return
        if self._versions.get(view.id) == view.version:
            return
        self.node_removed(view.id)
        self._versions[view.id] = view.version
        for kind in _VERSIONED:
            if lacks(view, kind):
                _add(self._by_version, kind.path, view.id)

    def node_removed(self, node_id: str) -> None:
        """Forget a node."""
        self._versions.pop(node_id, None)
        for known in (self._by_version, self._learned):
            for path, nodes in list(known.items()):
                known[path] = nodes - {node_id}
                if not known[path]:
                    del known[path]

    def learn(self, node_id: str, kind: BodyKind) -> None:
        """Remember that a node said it has no such route; every node has the oldest ones."""
        if kind.task is not Task.OTHER and not kind.since:
            return
        if kind.path not in self._learned and len(self._learned) >= MAX_LEARNED_PATHS:
            del self._learned[next(iter(self._learned))]  # the one learned first
        _add(self._learned, kind.path, node_id)

    def why_none(
        self, call: Call, views: Iterable[NodeView], refusal: NoNodeAvailable
    ) -> SollolError:
        """Return why no node may be used: for want of the route, or else as the ``refusal`` says."""
        without = self.nodes_without(call.kind.path)
        has_holder = any(
            view.id in without and view.state is NodeState.HEALTHY and call.model_key in view.models
            for view in views
        )
        if not has_holder:
            return refusal
        if call.kind.task is Task.OTHER or call.kind in OPTIONAL:
            return RouteNotFound()
        since = ".".join(map(str, call.kind.since))
        return NodesTooOld(
            f"{call.kind.path} needs Ollama {since} or newer; the nodes that have model "
            f"'{call.model}' are older"
        )


def _add(known: dict[str, frozenset[str]], path: str, node_id: str) -> None:
    known[path] = known.get(path, _NONE) | {node_id}


def lacks(view: NodeView, kind: BodyKind) -> bool:
    """Whether a node's version says that it does not have a route."""
    if view.engine is not Engine.OLLAMA:
        return False
    version: Version = version_numbers(view.version)
    if not version:
        return False
    return version < kind.since or bool(kind.removed_in and version >= kind.removed_in)
