"""Which nodes a request that changes nodes is sent to. Pure.

1. Only Ollama nodes can be changed.
2. The caller's choice counts (``X-Sollol-Nodes``), whatever state those nodes are in.
3. Else the route decides: see :func:`choose`.
"""

import random
from collections.abc import Sequence

import msgspec

from sollol.errors import InvalidRequest, NoNodeAvailable, UnsupportedByEngine
from sollol.types import Engine, NodeState, NodeView
from sollol.wire.gotext import quote
from sollol.wire.manage import COPY, CREATE, DELETE, PULL, PUSH, ManageBody, ManageKind

ALL, ONE = "all", "one"
RETRY_AFTER_S = 5.0


class Policy(msgspec.Struct, frozen=True):
    """The settings of the fleet: see ``settings/model.py``."""

    pull_to: tuple[str, ...]
    push_from: str | None


Views = Sequence[NodeView]


def named(views: Views, wanted: str) -> Views:
    """Return the nodes that a caller names: ids with commas between them, or ``all``.

    Raises:
        InvalidRequest: there is no such node, or it is not an Ollama.
    """
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise InvalidRequest("X-Sollol-Nodes names no node")
    if names == [ALL]:
        return up(views)
    return _by_id(views, names)


def up(views: Views) -> Views:
    """Return all nodes that can be changed now.

    Raises:
        NoNodeAvailable: none of the Ollama nodes is up, or no node is known.
        UnsupportedByEngine: there are only nodes of other engines.
    """
    able = manageable(views)
    if not able and views:
        raise UnsupportedByEngine(
            "only Ollama nodes can pull, push, create, copy and delete models, and there is none"
        )
    found = [view for view in able if view.state is not NodeState.UNHEALTHY]
    if not found:
        raise NoNodeAvailable("no Ollama node is up", retry_after_s=RETRY_AFTER_S)
    return found


def manageable(views: Views) -> Views:
    """Return the Ollama nodes."""
    return [view for view in views if view.engine is Engine.OLLAMA]


def choose(
    kind: ManageKind, body: ManageBody, views: Views, policy: Policy, rng: random.Random
) -> Views:
    """Return the nodes for a request whose caller chose none.

    pull    1. the nodes that have the model, 2. those of ``fleet.pull_to``
    push    one: ``fleet.push_from``, else the holder with the lowest id, of those that have the
            digest that counts
    create  from another model: its holders; else as pull. (Of blobs: ``gateway/blobs.py``.)
    copy, delete  every holder, also one that is down: it would bring the model back. With no
            holder known all nodes are asked, as the gateway's knowledge is some seconds old.

    Raises:
        SollolError: there is no such node, see :func:`up`; or a setting names an unknown one.
    """
    able = up(views)
    if kind in (COPY, DELETE):
        return holders(manageable(views), body.model_key) or able
    if kind is PUSH:
        return [_push_from(able, body.model_key, policy)]
    if kind is CREATE and body.made_from:
        return holders(able, body.source_key) or pull_to(able, policy, rng)
    known = holders(able, body.model_key) if kind is PULL else ()
    return known or pull_to(able, policy, rng)


def choose_named(kind: ManageKind, body: ManageBody, views: Views) -> Views:
    """Return which of the nodes that a caller named are asked: all, but only one to push."""
    if kind is not PUSH:
        return views
    return [min(holders(views, body.model_key) or views, key=lambda view: view.id)]


def pull_to(able: Views, policy: Policy, rng: random.Random) -> Views:
    """Return the nodes that get a model which none of them has."""
    wanted = policy.pull_to
    if wanted not in ((ALL,), (ONE,)):
        return _listed(able, wanted, "fleet.pull_to")
    open_ones = [view for view in able if view.state is NodeState.HEALTHY] or able
    return open_ones if wanted == (ALL,) else [roomiest(open_ones, rng)]


def roomiest(views: Views, rng: random.Random) -> NodeView:
    """Return the node with the least on its disk, which is all that is known of its room."""
    least = min(map(_bytes_on_disk, views))
    return rng.choice([view for view in views if _bytes_on_disk(view) == least])


def holders(views: Views, model_key: str) -> Views:
    """Return the nodes that have a model."""
    return [view for view in views if model_key in view.models]


def _push_from(able: Views, model_key: str, policy: Policy) -> NodeView:
    if policy.push_from is not None:
        return _listed(able, [policy.push_from], "fleet.push_from")[0]
    known = holders(able, model_key)
    agreed = [view for view in known if model_key not in view.outvoted]
    return min(agreed or known or able, key=lambda view: view.id)


def _listed(able: Views, ids: Sequence[str], setting: str) -> Views:
    """Return the nodes that a setting lists, as far as they are up; they may join later."""
    found = [view for view in able if view.id in ids]
    if not found:
        names = ", ".join(ids)
        up = ", ".join(sorted(view.id for view in able))
        text = f"of the nodes in {setting} ({names}) none is an Ollama that is up; up: {up}"
        raise NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)
    return found


def _by_id(views: Views, ids: Sequence[str]) -> Views:
    by_id = {view.id: view for view in views}
    found = []
    for node_id in dict.fromkeys(ids):
        view = by_id.get(node_id)
        if view is None:
            known = ", ".join(sorted(by_id)) or "none"
            raise InvalidRequest(f"no node is called {quote(node_id)}; there are: {known}")
        if view.engine is not Engine.OLLAMA:
            raise InvalidRequest(
                f"node {node_id} runs {view.engine}; only Ollama nodes can be changed"
            )
        found.append(view)
    return found


def _bytes_on_disk(view: NodeView) -> int:
    return sum({model.digest: model.size_bytes for model in view.models.values()}.values())
