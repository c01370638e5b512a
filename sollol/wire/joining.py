"""The stream of a second leg as the rest of the first one's: one answer for the client.

1. What the client has already is left out: a repeated beginning, a first event without text, the
   reason of the end where it was told.
2. OpenAI's events have the id, the time and the model of the first ones.
3. The figures at the end are those of the whole answer. A node that was cut off tells none, so

       tokens of the prompt   those of the second leg, without what was said before
       tokens of the answer   what was said before, and those of the second leg
       ``eval_duration``      the first leg's by our clock, and that of the second
       ``total_duration``     by our clock, since the request was first sent

   All others are those of the second leg.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from sollol.errors import CannotContinue, ProtocolViolation
from sollol.wire.continuation import Delivered, SecondLeg
from sollol.wire.kinds import GENERATE, V1_CHAT, BodyKind
from sollol.wire.ollama import encode

_NANOSECONDS = 1e9
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class FirstLeg(NamedTuple):
    """What the first leg took, in seconds; ``elapsed_s`` returns those since it was sent."""

    output_s: float
    elapsed_s: Callable[[], float]


class Joiner:
    """Turns the lines of a second leg into those for the client.

    Attributes:
        is_whole: the last record has come.
        has_failed: the node ended the stream in an error.
    """

    def __init__(self, delivered: Delivered, leg: SecondLeg) -> None:
        self._delivered = delivered
        self._is_over = leg.is_over
        self._repeated = ""
        self.is_whole = False
        self.has_failed = False

    def expect_repetition(self) -> None:
        """The node begins with what it was given of the answer."""
        self._repeated = self._delivered.text

    def feed(self, lines: bytes) -> bytes:
        """Take whole lines; return what the client is to be sent for them, possibly nothing.

        Raises:
            CannotContinue: there is more in them than text.
            ProtocolViolation: they cannot be read.
        """
        return b"".join([self._joined(line) for line in lines.splitlines() if line.strip()])

    def _joined(self, line: bytes) -> bytes:
        raise NotImplementedError

    def _new(self, said: object) -> str:
        """Return what of a text the client does not have."""
        text = said if isinstance(said, str) else ""
        if self._repeated and text:
            length = min(len(text), len(self._repeated))
            if text[:length] != self._repeated[:length]:
                raise CannotContinue("the node began another answer")
            self._repeated = self._repeated[length:]
            text = text[length:]
        return "" if self._is_over else text

    def _tokens(self, prompt: int, output: int) -> tuple[int, int]:
        """Return the tokens of the prompt and of the answer, as the client is to be told."""
        said = self._delivered.tokens
        return max(0, prompt - said), said + (0 if self._is_over else output)


class RecordJoiner(Joiner):
    """Joins records of Ollama's ``/api/chat`` and ``/api/generate``."""

    def __init__(
        self, kind: BodyKind, delivered: Delivered, leg: SecondLeg, first: FirstLeg
    ) -> None:
        super().__init__(delivered, leg)
        self._is_chat = kind is not GENERATE
        self._first = first

    def _joined(self, line: bytes) -> bytes:
        record = _read(line)
        if record.get("error") is not None:
            self.is_whole = self.has_failed = True
            return line + b"\n"
        message = record.get("message")
        said = message if isinstance(message, dict) else record
        _check(said, "thinking", "tool_calls")
        is_last = record.get("done") is True
        before = said.get("content", said.get("response"))
        text = self._new(before)
        if is_last:
            self.is_whole = True
            record |= self._figures(record)
        elif not text:
            return b""
        elif text == before and (said is message) == self._is_chat:
            return line + b"\n"
        return encode(self._with_text(record, text)) + b"\n"

    def _with_text(self, record: dict[str, Any], text: str) -> dict[str, Any]:
        """Return the record with another text, in the form that the client asked for."""
        joined: dict[str, Any] = {}
        for name, value in record.items():
            if name not in ("message", "response"):
                joined[name] = value
            elif self._is_chat:
                said = value if isinstance(value, dict) else {"role": "assistant"}
                joined["message"] = {**said, "content": text}
            else:
                joined["response"] = text
        return joined

    def _figures(self, record: dict[str, Any]) -> dict[str, Any]:
        prompt, output = self._tokens(
            _count(record, "prompt_eval_count"), _count(record, "eval_count")
        )
        figures: dict[str, Any] = {
            "total_duration": int(self._first.elapsed_s() * _NANOSECONDS),
            "prompt_eval_count": prompt,
            "eval_count": output,
            "eval_duration": _count(record, "eval_duration")
            + int(self._first.output_s * _NANOSECONDS),
        }
        if "prompt_eval_cached_count" in record:
            cached = min(_count(record, "prompt_eval_cached_count"), prompt)
            figures["prompt_eval_cached_count"] = cached
        if self._is_over:
            figures["done_reason"] = "length"
        return figures


class EventJoiner(Joiner):
    """Joins events of ``/v1/chat/completions``."""

    def __init__(self, delivered: Delivered, leg: SecondLeg) -> None:
        super().__init__(delivered, leg)
        self._opening = b"\n" if delivered.in_event else b""
        self._is_first = True

    def _joined(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return b""  # a comment, or a field that this API does not use
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            self.is_whole = True
            return self._event(data)
        event = _read(data)
        if event.get("error") is not None:
            self.is_whole = self.has_failed = True
            return self._event(data)
        event |= {name: value for name, value in self._delivered.head.items() if name in event}
        is_told = self._join_choice(event) | self._join_usage(event)
        return self._event(encode(event)) if is_told else b""

    def _event(self, data: bytes) -> bytes:
        opening, self._opening = self._opening, b""
        return opening + b"data: " + data + b"\n\n"

    def _join_choice(self, event: dict[str, Any]) -> bool:
        """Leave out of an event what the client has; return whether the rest tells anything."""
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return False
        choice = choices[0] if isinstance(choices[0], dict) else {}
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        _check(delta, "reasoning", "reasoning_content", "tool_calls")
        text = self._new(delta.get("content"))
        if delta.get("content") is not None:
            delta["content"] = text
        if self._is_first:
            self._is_first = False
            delta.pop("role", None)
        if not choice.get("finish_reason"):
            return bool(text)
        if self._is_over:
            choice["finish_reason"] = "length"
        return not self._delivered.is_finished

    def _join_usage(self, event: dict[str, Any]) -> bool:
        """Add to the counts those of the first leg; return whether there are any to be told."""
        usage = event.get("usage")
        if not isinstance(usage, dict):
            return False
        prompt, output = self._tokens(
            _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        )
        usage |= {"prompt_tokens": prompt, "completion_tokens": output}
        usage["total_tokens"] = prompt + output
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and "cached_tokens" in details:
            details["cached_tokens"] = min(_count(details, "cached_tokens"), prompt)
        return not self._delivered.has_usage


def joiner(kind: BodyKind, delivered: Delivered, leg: SecondLeg, first: FirstLeg) -> Joiner:
    """Return what joins the second leg to the first for a caller that sent a body of ``kind``."""
    if kind is V1_CHAT:
        return EventJoiner(delivered, leg)
    return RecordJoiner(kind, delivered, leg, first)


def _read(text: bytes) -> dict[str, Any]:
    try:
        return _decode(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("the node sent a record that is no JSON object") from error


def _check(said: dict[str, Any], *names: str) -> None:
    for name in names:
        if said.get(name):
            raise CannotContinue(f"the node went on with {name} instead of text")


def _count(record: dict[str, Any], name: str) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else 0
