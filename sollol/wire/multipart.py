"""The one field of a form that routing needs: the model of an audio transcription."""

import re
from email.message import Message

from sollol.errors import InvalidBody
from sollol.wire.gojson import Fields
from sollol.wire.peek import Peek

MAX_PARTS = 100
MAX_HEAD_BYTES = 8192
MAX_VALUE_BYTES = 1024

_named_model = re.compile(rb'content-disposition:[^\r\n]*;[ \t]*name="?model"?', re.I).search


def peek_form(body: bytes, content_type: bytes) -> Peek:
    """Return what routing needs from a ``multipart/form-data`` body.

    Args:
        body: the whole body.
        content_type: the header, which names the boundary between the parts.

    Raises:
        InvalidBody: it is no form; the text is that of a real Ollama.
    """
    start, stop = _place(body, b"--" + _boundary(content_type))
    model = body[start : min(stop, start + MAX_VALUE_BYTES)].decode("utf-8", "replace")
    return Peek(model, False, False, False, Fields(b"{}", {}))


def with_model(body: bytes, content_type: bytes, model: str) -> bytes:
    """Return a form that :func:`peek_form` found a model in, with another one in its place."""
    start, stop = _place(body, b"--" + _boundary(content_type))
    return b"".join((body[:start], model.encode(), body[stop:]))


def _boundary(content_type: bytes) -> bytes:
    header = Message()
    header["content-type"] = content_type.decode("latin-1")
    if header.get_content_type() != "multipart/form-data":
        raise _unfit("request Content-Type isn't multipart/form-data")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise _unfit("no multipart boundary param in Content-Type")
    return boundary.encode("latin-1")


def _place(body: bytes, delimiter: bytes) -> tuple[int, int]:
    """Return where the value of the field begins and ends; (0, 0) when it is not among the first parts."""
    at = body.find(delimiter)
    for _ in range(MAX_PARTS):
        if at < 0:
            break
        head_at = at + len(delimiter)
        end = body.find(b"\r\n" + delimiter, head_at)
        value_at = body.find(b"\r\n\r\n", head_at, head_at + MAX_HEAD_BYTES) + 4
        if value_at >= 4 and _named_model(body, head_at, value_at):
            return value_at, end if end >= 0 else len(body)
        at = end + 2 if end >= 0 else -1
    return 0, 0


def _unfit(reason: str) -> InvalidBody:
    return InvalidBody(f"failed to parse multipart form: {reason}")
