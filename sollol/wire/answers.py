"""What is an answer of a model, and what only looks like one. Pure.

What stands in front of a node, or in its place, may answer at once and well by HTTP: a page, a
redirection, an empty object. Every answer of an engine has a field that says what it is.
"""

from http import HTTPStatus

from msgspec import Raw

from sollol.types import Task
from sollol.wire.records import FirstRecord, Record, answer_decoder, first_decoder, refusal_decoder
from sollol.wire.streams import StreamFraming

_ABSENT = Raw()
_NULL, _TRUE = b"null", b"true"
_OF_NOBODY = frozenset(
    {
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
    }
)
"""What no engine answers to a request that SOLLOL passes on, whatever it says with it."""
OF_KEYS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
"""What is said of the key that SOLLOL sends, or of the address that it asks."""
NEVER_OF_REQUESTS = OF_KEYS | _OF_NOBODY | {HTTPStatus.NOT_FOUND}
"""Statuses that are the node's fault, whatever was asked, where no engine says what is wrong."""
_CLOUD_WORDS = (b"cloud", b"signin_url", b"ollama.com")
_RECORD_NAMES = (b'"done"', b'"message"', b'"response"', b'"completed"')
_EMBED = Task.EMBED
_EVENT_LINES = (b"data:", b"event:", b":", b"id:", b"retry:")


def is_answer(body: bytes, record: Record | None, task: Task) -> bool:
    """Whether a whole body is an answer to a chat, a completion or a request for embeddings.

    Args:
        record: what was read of it. Nobody counts tokens who has not answered, so most need no
            second look.
    """
    is_embedding = task is _EMBED
    if record is not None and (record.usage or record.total_duration is not None):
        return is_embedding or record.done or bool(record.usage)
    try:
        answer = answer_decoder.decode(body)
    except (ValueError, RecursionError):
        return False
    if is_embedding:
        return bool(answer.embeddings or answer.embedding or answer.data)
    is_done = bytes(answer.done) == _TRUE or bool(answer.debug_info)
    is_text = bool(
        answer.message or answer.response
    )  # what imitates an Ollama may leave out the rest
    return is_done or is_text or bool(answer.choices or answer.content or answer.output)


def is_refusal(status: int, body: bytes, *, is_cloud: bool = False) -> bool:
    """Whether an answer with a status of 300 to 499 is what an engine says of the request itself.

    Ollama asks for no key: 401 and 403 are of ollama.com, for models that run there.

    Args:
        is_cloud: by its name, the model runs there.
    """
    if status < HTTPStatus.BAD_REQUEST or status in _OF_NOBODY:
        return False
    try:
        said = refusal_decoder.decode(body)
    except (ValueError, RecursionError):
        return False
    has_error = bool(said.error) and bytes(said.error) != _NULL
    if status in OF_KEYS:
        return has_error and (is_cloud or any(word in body.lower() for word in _CLOUD_WORDS))
    return has_error or bool(said.detail) or bytes(said.object) == b'"error"'


def first_record(lines: bytes, framing: StreamFraming) -> FirstRecord | None:
    """Return the first record in the whole lines that a stream begins with; None if it is none.

    Events may begin with lines that have no data; then nothing is known of the record yet.
    """
    lines = lines.lstrip()
    if framing is StreamFraming.NDJSON:
        line = lines.partition(b"\n")[0]
        record = _first(line)
        if record is None or record.error is not None:
            return record
        return record if any(name in line for name in _RECORD_NAMES) else None
    if not lines.startswith(_EVENT_LINES):
        return None
    at = (b"\n" + lines).find(b"\ndata:")
    if at < 0:
        return FirstRecord()
    event = lines[at + len(b"data:") :].partition(b"\n")[0].strip()
    return FirstRecord() if event == b"[DONE]" else _first(event)


def _first(text: bytes) -> FirstRecord | None:
    """Return what a JSON object says that is not empty."""
    try:
        return first_decoder.decode(text) if b":" in text else None
    except (ValueError, RecursionError):
        return None
