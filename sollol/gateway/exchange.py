"""What to send a node for a call, and how to read its answer, by the node's engine.

The rule is to pass on what came. Only Ollama's dialect on a node that does not speak it is
translated (``wire/translate_request.py``).
"""

import msgspec

from sollol.gateway.call import Call
from sollol.gateway.relay import Translator
from sollol.types import Dialect, Engine, NodeView
from sollol.upstream.http import UpstreamRequest
from sollol.wire.checks import check_fields
from sollol.wire.kinds import SHOW
from sollol.wire.peek import peek
from sollol.wire.translate_request import LocalAnswer, translate

__all__ = ["Exchange", "LocalAnswer", "plan_exchange"]


class Exchange(msgspec.Struct, frozen=True):
    """A request to a node; ``translator`` is None when the answer is passed on as it comes."""

    request: UpstreamRequest
    translator: Translator | None


def plan_exchange(call: Call, node: NodeView, api_key: str | None) -> Exchange | LocalAnswer:
    """Return the exchange with ``node``, or the answer when the node need not be asked.

    Raises:
        InvalidRequest: an Ollama would refuse the call, or the node's engine cannot do it.
    """
    headers = call.headers
    if api_key is not None:
        headers = [*headers, (b"authorization", b"Bearer " + api_key.encode())]
    kind = call.kind
    if kind.dialect is Dialect.OPENAI or node.engine is Engine.OLLAMA:
        return Exchange(_as_it_came(call, headers), None)
    seen = peek(kind, call.body.view())
    check_fields(kind, seen)
    model = node.models[call.model_key]
    if kind is SHOW:
        return LocalAnswer(msgspec.json.encode(model.show))
    translated = translate(kind, seen, model.name)
    if isinstance(translated.response, LocalAnswer):
        return translated.response
    request = UpstreamRequest("POST", translated.target, headers, translated.body)
    return Exchange(request, translated.response)


def _as_it_came(call: Call, headers: list[tuple[bytes, bytes]]) -> UpstreamRequest:
    return UpstreamRequest("POST", call.kind.path, headers, call.body.upstream(), len(call.body))
