"""What the routes of our own API (``/sollol/v1``) have in common: bounded bodies, one error form."""

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from sollol.api.asgi import REQUEST_KEY
from sollol.api.body import BodyReader
from sollol.api.serving import retry_after
from sollol.errors import SollolError
from sollol.gateway.body_store import BodyStore

MAX_BODY_BYTES = 64 * 1024
BODY_STALL_S = 10.0


class ApiError(BaseModel):
    """An error: a text for people and a stable code for programs."""

    error: str
    code: str


class OwnRoute(APIRoute):
    """Reads the body within bounds, whatever its ``Content-Type``, and answers errors in one form.

    Values are never repeated in an error: one of them may be a key.
    """

    max_body_bytes = MAX_BODY_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler with both around it."""
        handle = super().get_route_handler()

        async def handle_own(request: Request) -> Response:
            try:
                return await handle(await _with_whole_body(request, self.max_body_bytes))
            except RequestValidationError as error:
                return _refusal(error)
            except SollolError as error:
                answer = _answer(error.status, str(error), error.code)
                if error.retry_after_s is not None:
                    answer.headers["retry-after"] = retry_after(error.retry_after_s).decode()
                return answer

        return handle_own


class PromptRoute(OwnRoute):
    """One whose body holds the body of a request for a model."""

    max_body_bytes = 4 * 1024 * 1024


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route's errors."""
    return {status: {"model": ApiError} for status in statuses}


async def _with_whole_body(request: Request, max_bytes: int) -> Request:
    if request.method not in ("POST", "PATCH", "PUT"):
        return request
    reader = BodyReader(BodyStore(), max_bytes=max_bytes, stall_timeout_s=BODY_STALL_S)
    with await reader.read(request.scope[REQUEST_KEY]) as body:
        content = body.view()
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    headers.append((b"content-type", b"application/json"))
    return Request({**request.scope, "headers": headers}, _replay(content))


def _replay(content: bytes) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def _refusal(error: RequestValidationError) -> JSONResponse:
    details = error.errors()
    if any(item["type"] == "json_invalid" for item in details):
        return _answer(400, "the body is not valid JSON", "invalid_request")
    return _answer(422, "; ".join(_line(item) for item in details), "invalid_request")


def _line(item: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in item["loc"][1:])
    text = str(item["msg"]).removeprefix("Value error, ")
    return f"{path}: {text}" if path else text


def _answer(status: int, error: str, code: str) -> JSONResponse:
    return JSONResponse(ApiError(error=error, code=code).model_dump(), status)
