"""Fields of answers, of any engine and API: the numbers in them, and what they are known by.

Not beside what reads them, as mypyc would not keep their types: docs/decisions/0008.
"""

from typing import Annotated

import msgspec
from msgspec import Raw

from sollol.wire.llama_chunks import PromptDetails, Timings, Usage

_ABSENT = Raw()
_MAX = 2**53
_Count = Annotated[int, msgspec.Meta(ge=0, lt=_MAX)] | None
_Duration = Annotated[int, msgspec.Meta(ge=0, lt=2**62)] | None


class Ending(msgspec.Struct):
    """What of a record or an event tells how a stream ends."""

    done: bool = False
    type: str = ""
    error: object = None


class Record(Ending):
    """What matters of a record, an event or a whole answer, of any API."""

    load_duration: _Duration = None
    prompt_eval_count: _Count = None
    prompt_eval_duration: _Duration = None
    prompt_eval_cached_count: _Count = None
    eval_count: _Count = None
    eval_duration: _Duration = None
    total_duration: _Duration = None
    timings: Raw = _ABSENT
    usage: Raw = _ABSENT
    response: Raw = _ABSENT
    message: Raw = _ABSENT


DONE = Record(done=True)
"""What ``data: [DONE]`` is read as."""


class AnyUsage(Usage):
    """The counts of any API."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: PromptDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class Inner(msgspec.Struct):
    """What an event has its counts in."""

    usage: Raw = _ABSENT


class AnswerFields(msgspec.Struct):
    """The fields of which every answer has one."""

    done: Raw = _ABSENT
    message: Raw = _ABSENT
    response: Raw = _ABSENT
    debug_info: Raw = msgspec.field(default=_ABSENT, name="_debug_info")
    choices: Raw = _ABSENT
    content: Raw = _ABSENT
    output: Raw = _ABSENT
    embeddings: Raw = _ABSENT
    embedding: Raw = _ABSENT
    data: Raw = _ABSENT


class RefusalFields(msgspec.Struct):
    """The fields of which every refusal has one."""

    error: Raw = _ABSENT
    detail: Raw = _ABSENT
    """FastAPI's, of OpenAI-compatible servers."""
    object: Raw = _ABSENT
    """``"error"`` in an older vLLM, which has the words beside it."""


class FirstRecord(msgspec.Struct):
    """What matters of the first record of a stream."""

    error: object = None


record_decoder = msgspec.json.Decoder(Record)
ending_decoder = msgspec.json.Decoder(Ending)
timings_decoder = msgspec.json.Decoder(Timings | None)
usage_decoder = msgspec.json.Decoder(AnyUsage | None)
inner_decoder = msgspec.json.Decoder(Inner)
answer_decoder = msgspec.json.Decoder(AnswerFields)
refusal_decoder = msgspec.json.Decoder(RefusalFields)
first_decoder = msgspec.json.Decoder(FirstRecord)
