"""Runs an ASGI application (FastAPI's) for one request; the hot routes do without."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sollol.api.answer import Answer
from sollol.api.request import Headers, Request
from sollol.errors import ClientDisconnected
from sollol.gateway.gateway import Gateway

REQUEST_KEY = "sollol.request"
"""Where a scope holds the request as the gateway sees it."""
GATEWAY_KEY = "sollol.gateway"
"""Where a scope holds the gateway that the request came to."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


async def run_asgi(app: AsgiApp, gateway: Gateway, request: Request, answer: Answer) -> None:
    """Let ``app`` answer ``request`` to ``gateway``.

    Raises:
        Exception: what the app raises.
    """
    has_ended = False

    async def receive() -> Message:
        nonlocal has_ended
        if has_ended:
            await request.wait_lost()
            return {"type": "http.disconnect"}
        try:
            body = await request.read()
        except ClientDisconnected:
            return {"type": "http.disconnect"}
        has_ended = request.is_complete
        return {"type": "http.request", "body": body, "more_body": not has_ended}

    async def send(message: Message) -> None:
        if request.is_lost:
            return
        if answer.is_slow:
            await answer.wait_room()
        if message["type"] == "http.response.start":
            answer.start(message["status"], _checked(message.get("headers", ())))
        elif message.get("more_body", False):
            answer.write(message.get("body", b""))
        else:
            answer.end(message.get("body", b""))

    await app(_scope(gateway, request), receive, send)


def _scope(gateway: Gateway, request: Request) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.header_list,
        "server": None,
        "client": None,
        REQUEST_KEY: request,
        GATEWAY_KEY: gateway,
    }


def _checked(headers: Any) -> Headers:
    """Return an app's headers; a line break in one would begin another header.

    Raises:
        ValueError: there is one.
    """
    checked = [(name.lower(), value) for name, value in headers]
    if any(b"\n" in text or b"\r" in text for header in checked for text in header):
        raise ValueError("a header of an answer has a line break")
    return checked
