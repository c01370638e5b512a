"""The routes that one node answers for all: they are about its account at ollama.com."""

from typing import NamedTuple

from sollol.wire.kinds import Version


class DesignatedRoute(NamedTuple):
    """``since`` is the first Ollama that has the route. A path that ends in a slash has one part more."""

    method: str
    path: str
    since: Version


STATUS = DesignatedRoute("GET", "/api/status", (0, 16, 2))
KEYS = DesignatedRoute("DELETE", "/api/user/keys/", (0, 12, 0))
DESIGNATED_ROUTES = (
    STATUS,
    KEYS,
    DesignatedRoute("POST", "/api/me", (0, 12, 0)),
    DesignatedRoute("POST", "/api/signout", (0, 12, 1)),
    DesignatedRoute("POST", "/api/experimental/web_search", (0, 18, 0)),
    DesignatedRoute("POST", "/api/experimental/web_fetch", (0, 18, 0)),
    DesignatedRoute("GET", "/api/experimental/model-recommendations", (0, 22, 1)),
)
_BY_PATH = {route.path: route for route in DESIGNATED_ROUTES}

NO_CLOUD = b'{"cloud":{"disabled":true,"source":"none"}}'
"""What ``/api/status`` says when no node can be asked."""


def designated_route(path: str) -> DesignatedRoute | None:
    """Return the route that a path is of, if it is one of these."""
    key = path.removeprefix(KEYS.path)
    if key != path:
        return KEYS if key and "/" not in key else None
    return _BY_PATH.get(path)
