"""Which node answers what one node answers for all. Pure."""

from collections.abc import Sequence

from sollol.errors import NoNodeAvailable, RouteNotFound
from sollol.types import Engine, NodeState, NodeView
from sollol.wire.designated import DesignatedRoute
from sollol.wire.names import version_numbers

RETRY_AFTER_S = 5.0


def designate(route: DesignatedRoute, views: Sequence[NodeView], wanted: str | None) -> NodeView:
    """Return the node for a route.

    1. ``wanted``, the id of the settings, whatever its version: no other node has that account.
    2. Else of the healthy Ollama nodes that have the route the one with the lowest id.

    Raises:
        NoNodeAvailable: that node is not there, or no Ollama node is healthy.
        RouteNotFound: all of them are too old.
    """
    if wanted is not None:
        return _wanted(views, wanted)
    able = [
        view for view in views if view.engine is Engine.OLLAMA and view.state is NodeState.HEALTHY
    ]
    if not able:
        raise NoNodeAvailable("no Ollama node is up", retry_after_s=RETRY_AFTER_S)
    having = [view for view in able if _has(view, route)]
    if not having:
        raise RouteNotFound
    return min(having, key=lambda view: view.id)


def _wanted(views: Sequence[NodeView], wanted: str) -> NodeView:
    for view in views:
        is_up = view.engine is Engine.OLLAMA and view.state is not NodeState.UNHEALTHY
        if view.id == wanted and is_up:
            return view
    text = f"the node of fleet.cloud_node ({wanted}) is not an Ollama that is up"
    raise NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)


def _has(view: NodeView, route: DesignatedRoute) -> bool:
    """Whether a node has a route; one that tells no version is taken at its best."""
    version = version_numbers(view.version)
    return not version or version >= route.since
