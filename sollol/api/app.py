"""The ASGI application: what a request meets first.

1. who may call: the page (``Origin``) and the name it called by (``Host``)     origin.py
2. no such route or method                                                       routes.py
3. routes that nodes answer                                                      inference.py
4. all others, on FastAPI                                                        inventory.py, status.py, nodes.py
"""

from collections.abc import MutableMapping
from typing import Any

import structlog
from fastapi import FastAPI

from sollol import __version__
from sollol.api.body import Receive
from sollol.api.inference import Inference
from sollol.api.inventory import inventory_router
from sollol.api.nodes import nodes_router
from sollol.api.origin import (
    Headers,
    cors_headers,
    is_allowed_host,
    is_allowed_origin,
    preflight_headers,
)
from sollol.api.routes import misrouted
from sollol.api.status import status_router
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Send
from sollol.settings.address import is_loopback
from sollol.wire.kinds import BODY_KINDS

log = structlog.get_logger()

Scope = MutableMapping[str, Any]


class App:
    """The gateway's HTTP interface; no lifespan of its own (see ``serve.py``)."""

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.settings.server
        self._origins = settings.origins
        self._checks_host = is_loopback(settings.host)
        self._inference = Inference(gateway)
        self._local = FastAPI(
            title="SOLLOL", version=__version__, redirect_slashes=False, redoc_url=None
        )
        self._local.include_router(inventory_router(gateway))
        self._local.include_router(status_router(gateway))
        self._local.include_router(nodes_router(gateway))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._checks_host and not is_allowed_host(host):
            log.warning("request_refused", reason="host", host=host)
            await _answer(send, 403, [], b"")
            return
        origin = headers.get(b"origin")
        if origin is not None:
            if not is_allowed_origin(origin.decode("latin-1"), host, self._origins):
                log.warning("request_refused", reason="origin", origin=origin.decode("latin-1"))
                await _answer(send, 403, [], b"")
                return
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _answer(send, 204, preflight_headers(origin, self._origins), None)
                return
            send = _with_headers(send, cors_headers(origin, self._origins))
        await self._route(scope, headers, receive, send)

    async def _route(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        method, path = scope["method"], scope["path"]
        kind = BODY_KINDS.get(path)
        if kind is not None and method == "POST":
            await self._inference.serve(kind, headers, scope, receive, send)
            return
        plain = misrouted(method, path)
        if plain is not None:
            await _answer(send, plain.status, plain.headers, plain.body)
            return
        await self._local(scope, receive, send)


async def _answer(send: Send, status: int, headers: Headers, body: bytes | None) -> None:
    """Send a whole answer; a ``body`` of None is one that has not even a length (204)."""
    if body is not None:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body or b"", "more_body": False})


def _with_headers(send: Send, extra: Headers) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return send_with_headers
