"""Request bodies read by Go's rules, with Ollama's own words for what is wrong with them."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from math import isinf
from typing import Any

import msgspec

_GO_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "model": (str, "string"),
    "name": (str, "string"),
    "prompt": (str, "string"),
    "system": (str, "string"),
    "stream": (bool, "bool"),
    "raw": (bool, "bool"),
    "messages": (list, "[]api.Message"),
    "options": (dict, "map[string]interface {}"),
    "tools": (list, "api.Tools"),
    "max_tokens": (int, "int"),
    "max_output_tokens": (int, "int"),
    "instructions": (str, "string"),
}
_JSON_TYPES = {str: "string", bool: "bool", int: "number", float: "number", list: "array"}
_THINK_WORDS = ("high", "medium", "low", "max")
_THINK_CHOICES = '"high", "medium", "low", "max", true, or false'
_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_FOREVER_S = 2**63 / 1e9  # what a negative keep_alive becomes
Body = dict[str, Any]


class ApiError(Exception):
    """An error answer: a status and a message for the body.

    ``is_gin`` marks errors that Ollama answers before the ``/v1`` translation takes part: with a
    charset in the content type and without a newline at the end. ``is_plain`` marks those that
    keep the ``/api`` form even under ``/v1``.
    """

    def __init__(
        self, status: int, message: str, *, is_gin: bool = False, is_plain: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_gin = is_gin
        self.is_plain = is_plain


def read_body(
    raw: bytes,
    go_type: str,
    empty: str = "missing request body",
    untyped: Collection[str] = (),
) -> Body:
    """Return the fields of a body.

    Args:
        raw: the bytes as they came.
        go_type: what Ollama's source calls the type, as ``ChatRequest``.
        empty: the message for an empty body.
        untyped: fields that may be of any type here.

    Raises:
        ApiError: the body is empty, not JSON, or a field has the wrong type (400).
    """
    if not raw:
        raise ApiError(400, empty, is_gin=True)
    try:
        value = _decode(raw)
    except _OutOfRange as error:
        where = f"Go struct field {go_type}.options of type float64"
        raise ApiError(
            400, f"json: cannot unmarshal number {error} into {where}", is_gin=True
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        where = f"Go value of type api.{go_type}"
        raise ApiError(400, f"json: cannot unmarshal {_json_type(value)} into {where}", is_gin=True)
    body = value if all(map(str.islower, value)) else {k.lower(): v for k, v in value.items()}
    for name, (python_type, go_name) in _GO_TYPES.items():
        field = body.get(name)
        if field is not None and name not in untyped and not isinstance(field, python_type):
            where = f"Go struct field {go_type}.{name} of type {go_name}"
            message = f"json: cannot unmarshal {_json_type(field)} into {where}"
            raise ApiError(400, message, is_gin=True)
    return body


class _OutOfRange(Exception):
    """A number is too large for a float64; of any form it is taken for one of the options."""


def _float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise _OutOfRange(text)
    return number


_DECODER = json.JSONDecoder(parse_float=_float)


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "object")


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_first_value(raw)


def _decode_first_value(raw: bytes) -> Any:
    """Decode like Go's Decoder: what follows the first value is not looked at."""
    text = raw.decode(errors="replace").lstrip()
    try:
        return _DECODER.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            raise ApiError(400, "unexpected EOF", is_gin=True) from error
        place = "object key string" if "property name" in error.msg else "value"
        message = f"invalid character '{text[error.pos]}' looking for beginning of {place}"
        raise ApiError(400, message, is_gin=True) from error


def read_keep_alive(value: object) -> float | None:
    """Return ``keep_alive`` in seconds: infinite if negative, ``None`` if it is not given.

    Raises:
        ApiError: it is neither a number nor a Go duration (400).
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float("inf") if value < 0 else float(value)
    if isinstance(value, str):
        seconds = _read_duration(value)
        return float("inf") if seconds < 0 or seconds >= _FOREVER_S else seconds
    go_type = "map[string]interface {}" if isinstance(value, dict) else type(value).__name__
    raise ApiError(400, f"Unsupported type: '{go_type}'", is_gin=True)


def _read_duration(text: str) -> float:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    parts = list(_DURATION_PART.finditer(digits))
    if not parts or "".join(part[0] for part in parts) != digits:
        is_number = re.fullmatch(r"[\d.]*\d[\d.]*", digits)
        problem = "missing unit in duration" if is_number else "invalid duration"
        raise ApiError(400, f'time: {problem} "{text}"', is_gin=True)
    return sign * sum(float(part[1]) * _UNIT_S[part[2]] for part in parts)


def read_think(value: object) -> bool | None:
    """Return whether the model is to think; ``None`` if the request does not say.

    Raises:
        ApiError: it is neither a boolean nor one of the levels (400).
    """
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        message = f"think must be a boolean or string ({_THINK_CHOICES})"
        raise ApiError(400, message, is_gin=True)
    if value not in _THINK_WORDS:
        message = f'invalid think value: "{value}" (must be {_THINK_CHOICES})'
        raise ApiError(400, message, is_gin=True)
    return True


def check_details(body: Body) -> None:
    """Check fields that the simulation makes no use of.

    Raises:
        ApiError: ``top_logprobs`` is out of range, an image is not base64, or the arguments of a
            tool call are a string (400).
    """
    logprobs = body.get("top_logprobs")
    if isinstance(logprobs, int) and not 0 <= logprobs <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20", is_gin=True)
    messages = [item for item in body.get("messages") or [] if isinstance(item, dict)]
    for holder in (body, *messages):
        for image in holder.get("images") or []:
            check_base64(image)
    for message in messages:
        for call in message.get("tool_calls") or []:
            if isinstance(call.get("function", {}).get("arguments"), str):
                text = "Value looks like object, but can't find closing '}' symbol"
                raise ApiError(400, text, is_gin=True)


def check_openai_messages(messages: Sequence[Any]) -> None:
    """Check what OpenAI's messages hold.

    Raises:
        ApiError: a message has no content, or an image that is not part of the body (400).
    """
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            check_parts(content)
        elif not isinstance(content, str) and not (message or {}).get("tool_calls"):
            raise ApiError(400, "invalid message content type: <nil>", is_gin=True)


def check_parts(parts: Sequence[Any]) -> None:
    """Check the parts of a message of OpenAI's.

    Raises:
        ApiError: an image is not part of the body (400).
    """
    for part in parts:
        image = part.get("image_url") if isinstance(part, dict) else None
        url = image.get("url", "") if isinstance(image, dict) else image or ""
        if url.startswith(("http://", "https://")):
            text = "image URLs are not currently supported, please use base64 encoded data instead"
            raise ApiError(400, text, is_gin=True)


def check_base64(text: str, prefix: str = "") -> None:
    """Check that a text is base64.

    Raises:
        ApiError: it is not (400); ``prefix`` goes before the reason.
    """
    found = _NOT_BASE64.search(text)
    if found is not None:
        message = f"{prefix}illegal base64 data at input byte {found.start()}"
        raise ApiError(400, message, is_gin=True)


def read_effort(value: object) -> bool | None:
    """Return whether ``reasoning_effort`` asks to think; ``None`` if it is not given.

    Raises:
        ApiError: it is not one of the levels (400).
    """
    if value is None:
        return None
    if value not in _EFFORTS:
        shown = '", "'.join(_EFFORTS[:-1])
        message = f'invalid reasoning value: "{value}" (must be "{shown}", or "none")'
        raise ApiError(400, message, is_gin=True)
    return value != "none"


def read_inputs(value: object) -> list[str]:
    """Return the texts of an embedding request.

    Raises:
        ApiError: they are neither a string nor a list of strings (400).
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ApiError(400, "invalid input type")


def token_limit(options: Mapping[str, Any]) -> int:
    """Return how many tokens to generate; 0 if nothing limits them."""
    limit = options.get("num_predict")
    return int(limit) if isinstance(limit, int | float) and limit > 0 else 0
