"""Which handler serves what, and the words for requests that nobody serves."""

import ipaddress
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from urllib.parse import urlsplit

import msgspec

from sollol.bench.sim import (
    cloud,
    create,
    embed,
    inference,
    inventory,
    media,
    messages,
    responses,
    store,
)
from sollol.bench.sim.answer import serve_text
from sollol.bench.sim.bodies import ApiError, read_body
from sollol.bench.sim.call import Call
from sollol.bench.sim.errors import error_body
from sollol.bench.sim.exchange import JSON, UNCACHED
from sollol.bench.sim.faults import FaultyExchange, answer_with_fault, respond_error
from sollol.bench.sim.http import Header
from sollol.bench.sim.records import go_json
from sollol.bench.sim.versions import has_route
from sollol.bench.sim.work import Reader

Handler = Callable[[Call], Awaitable[None] | None]


def _text(read: Reader) -> Handler:
    return partial(serve_text, read=read)


_TEXT = b"text/plain"
_HTML = b"text/html; charset=utf-8"
_ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"HEAD": inventory.root, "GET": inventory.root},
    "/api/version": {"HEAD": inventory.version, "GET": inventory.version},
    "/api/tags": {"HEAD": inventory.tags, "GET": inventory.tags},
    "/api/ps": {"GET": inventory.ps},
    "/api/show": {"POST": inventory.show},
    "/api/chat": {"POST": _text(inference.read_chat)},
    "/api/generate": {"POST": _text(inference.read_generate)},
    "/api/embed": {"POST": embed.embed},
    "/api/embeddings": {"POST": embed.embeddings},
    "/api/pull": {"POST": store.pull},
    "/api/push": {"POST": store.push},
    "/api/create": {"POST": create.create},
    "/api/copy": {"POST": store.copy},
    "/api/delete": {"DELETE": store.delete},
    "/api/blobs/:digest": {"HEAD": store.blob_head, "POST": store.blob_post},
    "/api/status": {"GET": cloud.status},
    "/api/me": {"POST": cloud.unauthorized},
    "/api/signout": {"POST": cloud.unauthorized},
    "/api/user/keys/:encodedKey": {"DELETE": cloud.unauthorized},
    "/api/experimental/web_search": {"POST": cloud.web_search},
    "/api/experimental/web_fetch": {"POST": cloud.web_fetch},
    "/api/experimental/model-recommendations": {"GET": cloud.recommendations},
    "/v1/models": {"GET": inventory.openai_models},
    "/v1/models/:model": {"GET": inventory.openai_model},
    "/v1/chat/completions": {"POST": _text(inference.read_chat_completions)},
    "/v1/completions": {"POST": _text(inference.read_completions)},
    "/v1/embeddings": {"POST": embed.openai_embeddings},
    "/v1/messages": {"POST": _text(messages.read_messages)},
    "/v1/responses": {"POST": _text(responses.read_responses)},
    "/v1/audio/transcriptions": {"POST": media.transcribe},
    "/v1/images/generations": {"POST": media.make_image},
    "/v1/images/edits": {"POST": media.make_image},
    "/v1/systemone": {"POST": media.decide},
}
_WITH_PARAMETER = {
    "/api/blobs/": ":digest",
    "/api/user/keys/": ":encodedKey",
    "/v1/models/": ":model",
}
_LOCAL_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_LOCAL_NAMES = (".localhost", ".local", ".internal")
_UNCACHED_PATHS = ("/v1/messages", "/v1/responses")
_ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
    "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
    "X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
    "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_PREFLIGHT: tuple[Header, ...] = (
    (b"Access-Control-Allow-Headers", _ALLOWED_HEADERS.encode()),
    (b"Access-Control-Allow-Methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"Access-Control-Max-Age", b"43200"),
    (b"Vary", b"Access-Control-Request-Method"),
    (b"Vary", b"Access-Control-Request-Headers"),
)


async def serve(call: Call) -> None:
    """Answer a request, rightly or with a fault."""
    exchange = call.exchange
    path = exchange.request.path
    if isinstance(exchange, FaultyExchange):
        call.name_model(peek_model(call.body))
        if await answer_with_fault(exchange, exchange.fault):
            return
    handler = _find_handler(call, path)
    if handler is None:
        return
    try:
        waiting = handler(call)
        if waiting is not None:
            await waiting
    except ApiError as error:
        call.name_model(peek_model(call.body))
        _respond_error(call, error, path)


def peek_model(body: bytes) -> str:
    """Return the ``model`` of a body that may be anything; empty if there is none."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    name = value.get("model") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""


def _find_handler(call: Call, path: str) -> Handler | None:
    """Return what serves the request, or ``None`` once it is answered here."""
    request, exchange = call.exchange.request, call.exchange
    methods = _methods_of(call, _route_of(path, request.target))
    if methods is None and _redirect(call, path):
        return None
    if methods is not None and request.method not in methods:
        exchange.headers.append((b"Allow", ", ".join(methods).encode()))
    if not _is_welcome(call):
        return None
    if methods is None:
        exchange.respond(404, b"404 page not found", _TEXT)
        return None
    if request.method not in methods:
        exchange.respond(405, b"405 method not allowed", _TEXT)
        return None
    return methods[request.method]


def _methods_of(call: Call, route: str) -> dict[str, Handler] | None:
    """Return the handlers of a route by method; ``None`` if the node's version has no such route."""
    return _ROUTES.get(route) if has_route(call.state.config.version, route) else None


def _route_of(path: str, target: str) -> str:
    for prefix, parameter in _WITH_PARAMETER.items():
        rest = path.removeprefix(prefix)
        if rest != path and rest and "/" not in rest and "%2F" not in target.upper():
            return prefix + parameter
    return path


def _redirect(call: Call, path: str) -> bool:
    """Send a path with stray slashes to the one that is meant, if there is one."""
    clean = "/" + "/".join(part for part in path.split("/") if part)
    if clean == path or _methods_of(call, _route_of(clean, clean)) is None:
        return False
    exchange = call.exchange
    exchange.headers.append((b"Location", clean.encode()))
    if exchange.request.method == "GET":
        page = f'<a href="{clean}">Moved Permanently</a>.\n\n'
        exchange.respond(301, page.encode(), _HTML)
        return True
    exchange.respond(307)
    return True


def _is_welcome(call: Call) -> bool:
    """Check Host and Origin as Ollama does; answer the request if that settles it.

    The Host matters only to a node that listens on loopback.
    """
    exchange = call.exchange
    host, origin = exchange.request.header(b"host"), exchange.request.header(b"origin")
    if urlsplit(origin).netloc == host:  # not a foreign origin at all
        origin = ""
    if origin and not _is_allowed_origin(origin):
        exchange.respond(403)
        return False
    if origin:
        exchange.headers.append((b"Access-Control-Allow-Origin", origin.encode("latin-1")))
        exchange.headers.append((b"Vary", b"Origin"))
        if exchange.request.method == "OPTIONS":
            exchange.headers.extend(_PREFLIGHT)
            exchange.respond(204, bare=True)
            return False
    if call.state.config.is_on_loopback and not is_local_name(host):
        exchange.respond(403)
        return False
    return True


def _is_allowed_origin(origin: str) -> bool:
    parts = urlsplit(origin)
    if parts.scheme in _LOCAL_SCHEMES:
        return True
    local = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
    return parts.scheme in ("http", "https") and parts.hostname in local


@lru_cache(maxsize=256)
def is_local_name(host: str) -> bool:
    """Say whether a Host header means a machine of the local network, as Ollama asks for."""
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if not name or name == "localhost" or name.endswith(_LOCAL_NAMES):
        return True
    try:
        address = ipaddress.ip_address(name.partition("]")[0].strip("["))
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _respond_error(call: Call, error: ApiError, path: str) -> None:
    message = str(error)
    if error.is_plain:
        call.exchange.respond(error.status, go_json({"error": message}), JSON)
        return
    if error.is_gin:
        call.exchange.respond(error.status, error_body(path, error.status, message), JSON)
        return
    if path in _UNCACHED_PATHS and _wants_stream(call.body):
        call.exchange.headers.extend(UNCACHED)
    respond_error(call.exchange, error.status, message)


def _wants_stream(body: bytes) -> bool:
    return read_body(body, "").get("stream") is True
