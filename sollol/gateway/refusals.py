"""Errors for answers of a node that are not passed on: what they say, and whose fault they are."""

from sollol.errors import MissingOnNode, UpstreamStatus, WrongAnswer
from sollol.gateway.call import Call
from sollol.types import Dialect, Task
from sollol.upstream.http import UpstreamResponse
from sollol.wire.answers import NEVER_OF_REQUESTS, OF_KEYS, is_refusal
from sollol.wire.bodies import TEXT
from sollol.wire.load_records import stream_framing
from sollol.wire.names import Source, parse_ref
from sollol.wire.streams import StreamFraming

HOLD_BYTES = 1024 * 1024
MAX_RETRY_AFTER_S = 86_400.0
"""A node that asks for a longer wait is not believed."""
MAX_TOLD = 2000
"""Bytes of an error that are read to know what it is."""

_SHOWN_BYTES = 120
_OK, _BAD_REQUEST = 200, 400
_TEXT = (Task.CHAT, Task.GENERATE)

Headers = list[tuple[bytes, bytes]]


async def missing(upstream: UpstreamResponse, call: Call | None) -> MissingOnNode | WrongAnswer:
    """Return the error for a 404: engines say in JSON that a model is missing, in plain text that a route is."""
    body = await upstream.read_all(HOLD_BYTES)
    is_text = upstream.content_type.startswith(TEXT)
    is_known = call is not None and call.kind.task is not Task.OTHER
    if is_known and not is_text and not is_refusal(upstream.status, body):
        return no_answer(upstream, body)
    text = body[:200].decode("utf-8", "replace")
    return MissingOnNode(text, upstream.content_type, body, lacks_route=is_text)


def failed(
    upstream: UpstreamResponse, content_type: bytes, body: bytes, status: int = 0
) -> UpstreamStatus:
    """Return the error for an answer that says what went wrong; ``status`` if not the node's own."""
    text = body[:MAX_TOLD].decode("utf-8", "replace").strip()
    retry_after_s = asked_wait_s(upstream.headers)
    status = status or upstream.status
    return UpstreamStatus(text, status, content_type, body, retry_after_s=retry_after_s)


def asked_wait_s(headers: Headers) -> float | None:
    """Return for how long a node wants to be left alone; None if it does not say so in seconds."""
    given = next((value for name, value in headers if name == b"retry-after"), b"")
    return min(MAX_RETRY_AFTER_S, float(given)) if given.isdigit() else None


async def refusal(upstream: UpstreamResponse, model_key: str = "") -> bytes:
    """Return what an engine says of the request, in an answer that is neither 200, 404, 429 nor 5xx.

    Args:
        model_key: of the model that was asked, where the engine runs some at ollama.com.

    Raises:
        WrongAnswer: no engine said that.
    """
    body = await upstream.read_all(HOLD_BYTES)
    is_cloud = _is_cloud(model_key)
    if is_refusal(upstream.status, body, is_cloud=is_cloud):
        return body
    raise no_answer(upstream, body)


def _is_cloud(model_key: str) -> bool:
    try:
        return parse_ref(model_key).source is Source.CLOUD
    except ValueError:
        return False


def no_answer(upstream: UpstreamResponse, body: bytes) -> WrongAnswer:
    """Return the error for an answer that is none of the route's."""
    status = upstream.status
    kind = upstream.content_type.decode("latin-1") or "no content type"
    said = _shown(upstream, body)
    hint = (
        "its api_key, and what stands in front of it"
        if status in OF_KEYS
        else "that its URL is that of the engine itself"
    )
    text = f"{upstream.authority} gave no answer of this route, but {status} with {kind}"
    text += f" ({said})" if said else ""
    may_be_request = status >= _BAD_REQUEST and status not in NEVER_OF_REQUESTS
    return WrongAnswer(f"{text}; check {hint}", may_be_request=may_be_request)


def _shown(upstream: UpstreamResponse, body: bytes) -> str:
    """Return the beginning of an answer, unless it may be what a model said: that goes into no log."""
    if upstream.status == _OK and not upstream.content_type.startswith(b"text/html"):
        return ""
    return " ".join(body[:_SHOWN_BYTES].decode("utf-8", "replace").split())


def content_type_of(headers: Headers) -> bytes:
    """Return the content type among headers; empty if they name none."""
    return next((value for name, value in headers if name == b"content-type"), b"")


def check_framing(upstream: UpstreamResponse, framing: StreamFraming | None, call: Call) -> None:
    """Make sure that an answer comes in a form that was asked for.

    Ollama answers what only loads a model with a whole record, also where a stream was asked for.

    Raises:
        WrongAnswer: it does not.
    """
    kind = call.kind
    if kind.task not in _TEXT:
        return
    if framing is None:
        is_wrong = call.streams and kind.dialect is not Dialect.OLLAMA
    else:
        is_wrong = not call.streams or framing is not stream_framing(kind)
    if is_wrong:
        raise no_answer(upstream, b"")
