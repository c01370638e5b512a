"""What to send a node for a call, and how to read its answer, by the node's engine.

The rule is to pass on what came. Only Ollama's dialect on a node that does not speak it is
translated (``wire/translate_request.py``), and what a model says for its requests is added where
the node does not know that (``wire/defaults.py``).
"""

import msgspec

from sollol.errors import MissingOnNode, RouteNotFound
from sollol.gateway.call import Call
from sollol.gateway.relay import Translator
from sollol.structs import Frozen
from sollol.types import NO_DEFAULTS, Dialect, Engine, NodeView, Task
from sollol.upstream.http import UpstreamRequest
from sollol.wire.bodies import TEXT
from sollol.wire.checks import check_fields
from sollol.wire.defaults import v1_fields
from sollol.wire.edit import edited, with_options
from sollol.wire.kinds import SHOW, V1_ANTHROPIC_MESSAGES
from sollol.wire.peek import peek
from sollol.wire.translate_request import LocalAnswer, translate

Options = tuple[tuple[str, int | float | bool], ...]

_JSON = (b"content-type", b"application/json")

__all__ = ["Exchange", "LocalAnswer", "Options", "plan_exchange"]


class Exchange(Frozen):  # type: ignore[misc]  # frozen as its base is
    """A request to a node; ``translator`` is None when the answer is passed on as it comes."""

    request: UpstreamRequest
    translator: Translator | None


def plan_exchange(
    call: Call, node: NodeView, api_key: str | None, options: Options | None = None
) -> Exchange | LocalAnswer:
    """Return the exchange with ``node``, or the answer when the node need not be asked.

    Args:
        options: runner options to send in place of the caller's; None: as they came.

    Raises:
        InvalidRequest: an Ollama would refuse the call, or the node's engine cannot do it.
        MissingOnNode: it is a route of Ollama's that the node's engine does not have.
    """
    headers = call.headers
    if api_key is not None:
        headers = [*headers, (b"authorization", b"Bearer " + api_key.encode())]
    kind = call.kind
    if node.engine is Engine.OLLAMA:
        send = _as_it_came(call, headers)
        return Exchange(send if options is None else _with_options(call, send, options), None)
    if not kind.is_multipart:
        headers = _as_json(headers)
    if kind.dialect is not Dialect.OLLAMA:
        return Exchange(_for_llama_server(call, node, headers), None)
    if kind.task is Task.OTHER:
        text = str(RouteNotFound())
        raise MissingOnNode(f"{node.id}: {text}", TEXT, text.encode(), lacks_route=True)
    seen = peek(kind, call.body.view())
    check_fields(kind, seen)
    model = node.models[call.model_key]
    if kind is SHOW:
        return LocalAnswer(msgspec.json.encode(model.show))
    translated = translate(kind, seen, model.name, defaults=node.defaults)
    if isinstance(translated.response, LocalAnswer):
        return translated.response
    request = UpstreamRequest("POST", translated.target, headers, translated.body)
    return Exchange(request, translated.response)


def _as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers that say what the body is, whatever they said: a llama-server takes little of a form.

    curl calls a body that it is given with ``-d`` one, and Ollama does not mind.
    """
    return [*(each for each in headers if each[0] != b"content-type"), _JSON]


def _as_it_came(call: Call, headers: list[tuple[bytes, bytes]]) -> UpstreamRequest:
    return UpstreamRequest("POST", call.target, headers, call.body.upstream(), len(call.body))


def _for_llama_server(
    call: Call, node: NodeView, headers: list[tuple[bytes, bytes]]
) -> UpstreamRequest:
    """Return a request of ``/v1``, which says what the model would say on an Ollama.

    Raises:
        InvalidRequest: an Ollama would refuse it.
    """
    kind = call.kind
    has_defaults = node.defaults != NO_DEFAULTS and not kind.is_multipart
    if kind is not V1_ANTHROPIC_MESSAGES and not has_defaults:
        return _as_it_came(call, headers)
    seen = peek(kind, call.body.view())
    if kind is V1_ANTHROPIC_MESSAGES:
        # It calls a missing field its own failure, and takes a missing limit for none.
        check_fields(kind, seen)
    said = v1_fields(kind, seen.fields, node.defaults)
    if not said:
        return _as_it_came(call, headers)
    return UpstreamRequest("POST", call.target, headers, edited(seen.fields, replace=said))


def _with_options(call: Call, request: UpstreamRequest, options: Options) -> UpstreamRequest:
    fields = peek(call.kind, call.body.view()).fields
    asked = [name for name, _ in call.ask.options]
    text = with_options(fields.raws["options"], asked, options)
    body = edited(fields, replace={"options": text})
    return UpstreamRequest(request.method, request.target, request.headers, body)
