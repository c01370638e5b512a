"""The routes (forwarded ones: ``wire/kinds.py``), and what Ollama's router says of all else; pure.

FastAPI would answer an unknown path or method with JSON and redirect in its own way; clients that
feel their way (``HEAD /``, a base URL with a slash) expect Ollama's answers.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from sollol.wire.designated import designated_route
from sollol.wire.kinds import BODY_KINDS
from sollol.wire.manage import BLOBS, MANAGE_KINDS

Headers = list[tuple[bytes, bytes]]


_LOCAL: dict[str, tuple[str, ...]] = {
    "/": ("HEAD", "GET"),
    "/api/version": ("HEAD", "GET"),
    "/api/tags": ("HEAD", "GET"),
    "/api/ps": ("GET",),
    "/v1/models": ("GET",),
    "/health": ("HEAD", "GET"),
    "/ready": ("HEAD", "GET"),
    "/metrics": ("GET",),
    "/sollol/v1/models": ("GET",),
    "/sollol/v1/nodes": ("GET", "POST"),
    "/sollol/v1/shards": ("GET",),
    "/sollol/v1/decisions": ("GET",),
    "/sollol/v1/route": ("POST",),
    "/sollol/v1/queue": ("GET",),
    "/sollol/v1/estimates": ("GET",),
    "/openapi.json": ("GET",),
    "/docs": ("GET",),
}
_V1_MODEL = re.compile(r"/v1/models/[^/]+")
_BLOB = re.compile(rf"{BLOBS}[^/]+")
_DECISION = re.compile(r"/sollol/v1/decisions/[^/]+")
_NODE = re.compile(r"/sollol/v1/nodes/[^/]+")
_SHARD = re.compile(r"/sollol/v1/shards/.*[^/]")


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer that needs nothing but the request line."""

    status: int
    headers: Headers
    body: bytes


def methods_of(path: str) -> tuple[str, ...]:
    """Return the methods a path answers to; none when there is no such path."""
    if path in BODY_KINDS:
        return ("POST",)
    if path in MANAGE_KINDS:
        return (MANAGE_KINDS[path].method,)
    designated = designated_route(path)
    if designated is not None:
        return (designated.method,)
    if _V1_MODEL.fullmatch(path) or _DECISION.fullmatch(path):
        return ("GET",)
    if _BLOB.fullmatch(path):
        return ("HEAD", "POST")
    if _NODE.fullmatch(path):
        return ("GET", "PATCH", "DELETE")
    if _SHARD.fullmatch(path):
        return ("DELETE",)
    return _LOCAL.get(path, ())


def misrouted(method: str, path: str) -> PlainAnswer | None:
    """Return Ollama's answer to a request that no route takes; None when one does.

    1. The path exists, the method does not: 405 with ``Allow``.
    2. It would exist but for slashes too many: a redirect, which keeps a POST's body with 307.
    3. Else 404. Both as plain text, on ``/v1`` too.
    """
    methods = methods_of(path)
    if method in methods:
        return None
    if methods:
        return _text(405, b"405 method not allowed", allow_header(method, path))
    cleaned = re.sub(r"/{2,}", "/", path)
    if len(cleaned) > 1:
        cleaned = cleaned.rstrip("/")
    if cleaned != path and method in methods_of(cleaned):
        return _redirect(method, quote(cleaned))
    return _text(404, b"404 page not found", [])


def allow_header(method: str, path: str) -> Headers:
    """Return the header that tells a path's methods, when ``method`` is none of them."""
    methods = methods_of(path)
    return [(b"allow", ", ".join(methods).encode())] if methods and method not in methods else []


def _text(status: int, body: bytes, headers: Headers) -> PlainAnswer:
    return PlainAnswer(status, [*headers, (b"content-type", b"text/plain")], body)


def _redirect(method: str, path: str) -> PlainAnswer:
    location = (b"location", path.encode())
    if method not in ("GET", "HEAD"):
        return PlainAnswer(307, [location], b"")
    body = f'<a href="{path}">Moved Permanently</a>.\n\n'.encode()
    return PlainAnswer(301, [(b"content-type", b"text/html; charset=utf-8"), location], body)
