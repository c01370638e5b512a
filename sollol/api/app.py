"""The application: what a request meets first.

1. who may call: the page (``Origin``) and the name it called by (``Host``)     origin.py
2. routes that nodes answer                                                      inference.py
   routes that change nodes                                                      manage.py
   routes that one node answers for all                                          designated.py
3. no such route or method                                                       routes.py
   a POST to an unknown route, whose body may name a model                       inference.py
4. all others, on FastAPI                                                        local.py
"""

from collections.abc import Coroutine
from typing import Any

import structlog

from sollol.api.answer import Answer
from sollol.api.asgi import run_asgi
from sollol.api.designated import Designated
from sollol.api.inference import Inference
from sollol.api.local import LOCAL_API
from sollol.api.manage import Management
from sollol.api.origin import (
    cors_headers,
    is_allowed_host,
    is_allowed_origin,
    is_same_origin,
    preflight_headers,
)
from sollol.api.request import Request
from sollol.api.routes import allow_header, misrouted
from sollol.gateway.gateway import Gateway
from sollol.settings.address import is_loopback
from sollol.wire.kinds import BODY_KINDS, other_kind

log = structlog.get_logger()


class App:
    """The gateway's HTTP interface; no lifespan of its own (see ``serve.py``)."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        settings = gateway.settings.server
        self._origins = settings.origins
        self._checks_host = is_loopback(settings.host)
        self._inference = Inference(gateway)
        self._management = Management(gateway)
        self._designated = Designated(gateway)

    def description(self) -> dict[str, Any]:
        """Return the OpenAPI description of all routes."""
        return LOCAL_API.openapi()

    def __call__(self, request: Request, answer: Answer) -> Coroutine[object, object, None]:
        """Return what serves one request; each coroutine in between is one more to wake up through."""
        if not self._lets_in(request, answer):
            return _done()
        kind = BODY_KINDS.get(request.path)
        if kind is not None and request.method == "POST":
            return self._inference.serve(kind, request, answer)
        return self._route(request, answer)

    def _lets_in(self, request: Request, answer: Answer) -> bool:
        """Whether the caller may call; where not, it has its answer."""
        host = request.headers.get(b"host", b"").decode("latin-1").strip()
        if self._checks_host and not is_allowed_host(host):
            log.warning("request_refused", reason="host", host=host)
            answer.whole(403, [], b"")
            return False
        origin = request.headers.get(b"origin")
        if origin is not None and not is_same_origin(origin.decode("latin-1"), host):
            allow = allow_header(request.method, request.path)
            if not is_allowed_origin(origin.decode("latin-1"), host, self._origins):
                log.warning("request_refused", reason="origin", origin=origin.decode("latin-1"))
                answer.whole(403, allow, b"")
                return False
            if request.method == "OPTIONS" and b"access-control-request-method" in request.headers:
                answer.whole(204, allow + preflight_headers(origin, self._origins), b"")
                return False
            answer.extra_headers = cors_headers(origin, self._origins)
        return True

    async def _route(self, request: Request, answer: Answer) -> None:
        if self._management.serves(request.method, request.path):
            await self._management.serve(request, answer)
            return
        if self._designated.serves(request.method, request.path):
            await self._designated.serve(request, answer)
            return
        plain = misrouted(request.method, request.path)
        kind = other_kind(request.path)
        if plain is not None and plain.status == 404 and kind and request.method == "POST":
            await self._inference.serve(kind, request, answer)
            return
        if plain is not None:
            answer.whole(plain.status, plain.headers, plain.body)
            return
        await run_asgi(LOCAL_API, self._gateway, request, answer)


async def _done() -> None:
    """Do no more for a caller that has its answer."""
