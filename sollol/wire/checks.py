"""What a real Ollama answers when it does not get as far as running a model.

The gateway asks an Ollama that has the model and passes its answer on, whatever it is. It answers
itself, as Ollama would, when no node has the model (some errors come before "not found") and when
the node is a llama-server, for which a request in Ollama's dialect is translated.

Left to the nodes, as they depend on what is inside or on a node's settings: errors in a tool and
in a message of ``/v1``, and the 403 for cloud models when they are disabled.

Source: Ollama, server/routes.go and middleware/openai.go; seen on the wire.
"""

from collections.abc import Callable

from sollol.errors import InvalidBody, InvalidRequest, ModelNotFound
from sollol.wire import kinds
from sollol.wire.gojson import decode
from sollol.wire.gotext import SPACE, quote
from sollol.wire.gotypes import decode_error
from sollol.wire.kinds import BodyKind
from sollol.wire.names import display_name, parse_name, parse_ref
from sollol.wire.peek import Peek

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")
_EFFORT_CHOICES = ", ".join(f'"{effort}"' for effort in _EFFORTS[:-1]) + ', or "none"'
_MODEL_REQUIRED = (
    kinds.CHAT,
    kinds.EMBEDDINGS,
    kinds.SHOW,
    kinds.V1_CHAT,
    kinds.V1_RESPONSES,
    kinds.V1_TRANSCRIPTIONS,
)
_TRY_PULLING = (kinds.EMBED, kinds.EMBEDDINGS, kinds.V1_EMBEDDINGS)
_TOP_LOGPROBS = {
    kinds.CHAT: "top_logprobs",
    kinds.GENERATE: "top_logprobs",
    kinds.V1_CHAT: "top_logprobs",
    kinds.V1_COMPLETIONS: "logprobs",
}
_MAX_TOP_LOGPROBS = 20
_INPUT_ITEMS = ("", "message", "function_call", "function_call_output", "reasoning")


def check_request(kind: BodyKind, seen: Peek) -> None:
    """Check what Ollama checks before it looks for the model, in its order.

    Args:
        kind: the route's kind of body.
        seen: what was read of the body.

    Raises:
        InvalidBody: refused while the body was decoded or, on ``/v1``, translated.
        InvalidRequest: refused by the route's handler.
        ModelNotFound: no model is named, on a route that answers this with 404.
    """
    check_fields(kind, seen)
    _check_name(kind, seen.model)
    if kind in (kinds.EMBED, kinds.V1_EMBEDDINGS):
        embed_inputs(seen)


def check_fields(kind: BodyKind, seen: Peek) -> None:
    """Check what can be wrong whatever the model is, and whether or not there is one.

    Args:
        kind: the route's kind of body.
        seen: what was read of the body.

    Raises:
        InvalidBody: refused while the body was decoded or, on ``/v1``, translated.
        InvalidRequest: refused by the route's handler.
    """
    message = decode_error(kind.struct_name, kind.struct, seen.fields.pairs())
    if message:
        raise InvalidBody(message)
    translate = _TRANSLATIONS.get(kind)
    if translate:
        translate(seen)
    _check_top_logprobs(kind, seen)


def embed_inputs(seen: Peek) -> list[str]:
    """Return the texts to embed; there are none when a request only loads the model.

    Raises:
        InvalidRequest: ``input`` is neither a string nor a list of strings.
    """
    value = seen.fields.value("input")
    if value is None or value == "":
        return []
    inputs = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in inputs):
        raise InvalidRequest("invalid input type")
    return inputs


def model_not_found(kind: BodyKind, name: str) -> ModelNotFound:
    """Return the error for a model that no node has.

    Args:
        kind: the route's kind of body.
        name: the model as the caller wrote it.
    """
    if kind in _TRY_PULLING:
        return ModelNotFound(f"model {quote(name)} not found, try pulling it first")
    if kind is kinds.SHOW:
        return ModelNotFound(f"model '{display_name(name)}' not found")
    return ModelNotFound(f"model '{name}' not found")


def _check_name(kind: BodyKind, name: str) -> None:
    if not name.strip(SPACE):
        if kind in _MODEL_REQUIRED:
            raise InvalidRequest("model is required")
        raise ModelNotFound(f"model '{name}' not found")
    try:
        parse_name(parse_ref(name).base)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _check_top_logprobs(kind: BodyKind, seen: Peek) -> None:
    name = _TOP_LOGPROBS.get(kind)
    raw = None if name is None else seen.fields.last_set(name)
    count = 0 if raw is None else decode(raw)
    if kind is kinds.V1_COMPLETIONS:
        count = max(count, 0)
    if not 0 <= count <= _MAX_TOP_LOGPROBS:
        raise InvalidRequest("top_logprobs must be between 0 and 20")


def _translate_chat(seen: Peek) -> None:
    if not seen.fields.value("messages"):
        raise InvalidBody("[] is too short - 'messages'")
    reasoning = seen.fields.value("reasoning")
    effort = seen.fields.value("reasoning_effort") if reasoning is None else reasoning.get("effort")
    if isinstance(effort, str) and effort not in ("", *_EFFORTS):
        raise InvalidBody(f"invalid reasoning value: {quote(effort)} (must be {_EFFORT_CHOICES})")


def _translate_responses(seen: Peek) -> None:
    items = seen.fields.value("input")
    for number, item in enumerate(items if isinstance(items, list) else ()):
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind not in _INPUT_ITEMS:
            raise InvalidBody(f"input[{number}]: unknown input item type: {quote(str(kind))}")


def _translate_anthropic(seen: Peek) -> None:
    if not seen.model:
        raise InvalidBody("model is required")
    if (seen.fields.value("max_tokens") or 0) <= 0:
        raise InvalidBody("max_tokens is required and must be positive")
    if not seen.fields.value("messages"):
        raise InvalidBody("messages is required")


def _translate_embeddings(seen: Peek) -> None:
    encoding = seen.fields.value("encoding_format") or "float"
    if encoding.lower() not in ("float", "base64"):
        raise InvalidBody(
            f"Invalid value for 'encoding_format' = {encoding}."
            " Supported values: ['float', 'base64']."
        )
    if seen.fields.value("input") in (None, []):
        raise InvalidBody("invalid input")


_TRANSLATIONS: dict[BodyKind, Callable[[Peek], None]] = {
    kinds.V1_CHAT: _translate_chat,
    kinds.V1_EMBEDDINGS: _translate_embeddings,
    kinds.V1_RESPONSES: _translate_responses,
    kinds.V1_ANTHROPIC_MESSAGES: _translate_anthropic,
}
"""What the ``/v1`` routes check before they hand the request to the handler of ``/api``."""
