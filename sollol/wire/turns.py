"""The turns of a conversation as far as their size, their media and its opening go.

One form reads the messages of all three dialects and the items of ``/v1/responses``: what a dialect
does not have is absent there. What has another type than expected counts as absent.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw

from sollol.errors import InvalidBody
from sollol.wire.gojson import decode_repaired
from sollol.wire.turn_fields import Part, Turn

_SAMPLE_BYTES = 128
_IMAGE_TYPES = frozenset({"image_url", "input_image", "image"})

Value = TypeVar("Value")


class Prompt:
    """Adds up what a model is given to read.

    Attributes:
        text_bytes: of all texts, as UTF-8.
        images: how many there are.
        opening: what the conversation is known by: its texts, and samples of its images, up to the
            first turn of the user.
    """

    __slots__ = ("_is_opening", "images", "opening", "text_bytes")

    def __init__(self) -> None:
        self.text_bytes = 0
        self.images = 0
        self.opening: list[bytes] = []
        self._is_opening = True

    def add_turns(self, turns: Iterable[Turn]) -> None:
        """Take turns, in order."""
        for turn in turns:
            content = turn.content
            if content:
                self.add_content(content)
            if turn.images:
                self.add_images(turn.images)
            if turn.tool_calls:
                self.text_bytes += raw_bytes(turn.tool_calls)
            if turn.thinking is not None:
                self.text_bytes += utf8_bytes(turn.thinking)
            if turn.arguments is not None:
                self.text_bytes += utf8_bytes(turn.arguments)
            if turn.output is not None:
                self.add_content(turn.output)
            if turn.role == "user":
                self._is_opening = False

    def add_content(self, content: str | list[Part] | None) -> None:
        """Take a text, or parts."""
        if type(content) is str:
            self.add_text(content)
            return
        for part in content or ():
            self._add_part(part)  # type: ignore[arg-type]  # mypy does not see that it is a list

    def add_text(self, text: str) -> None:
        """Take a text."""
        if self._is_opening:
            encoded = text.encode()
            self.opening.append(encoded)
            self.text_bytes += len(encoded)
        else:
            self.text_bytes += utf8_bytes(text)

    def add_images(self, images: Iterable[Raw]) -> None:
        """Take images, as JSON texts of any form."""
        for image in images:
            self.images += 1
            if self._is_opening:
                self.opening.append(_sample(image))

    def _add_part(self, part: Part) -> None:
        if part.text is not None:
            self.add_text(part.text)
        if part.content is not None:
            self.add_content(part.content)
        if part.input:
            self.text_bytes += raw_bytes(part.input)
        if part.type in _IMAGE_TYPES:
            self.add_images([part.image_url or part.source])


def read_turns(raw: Raw | None) -> list[Turn]:
    """Return the turns in a JSON list, without those that cannot be read."""
    if raw is None:
        return []
    turns = read(raw, _decode_turns)
    if turns is not None:
        return turns
    each = (read(item, _decode_turn) for item in read(raw, _decode_list) or ())
    return [turn for turn in each if turn is not None]


def read_content(raw: Raw | None) -> str | list[Part] | None:
    """Return a JSON text that is a string or a list of parts; None when it is neither."""
    return None if raw is None else read(raw, _decode_content)


def read_list(raw: Raw | None) -> list[Raw]:
    """Return the elements of a JSON list as JSON texts; none of anything else."""
    return [] if raw is None else read(raw, _decode_list) or []


def read(raw: Raw | bytes, decoder: Callable[[Raw | bytes | str], Value]) -> Value | None:
    """Return a JSON text as ``decoder`` gives it, with broken Unicode replaced; None if it fails."""
    try:
        return decoder(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return decode_repaired(raw, decoder)
    except InvalidBody:
        return None


def utf8_bytes(text: str) -> int:
    """Return how long a text is as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def raw_bytes(raw: Raw) -> int:
    """Return how long a JSON text is."""
    return memoryview(raw).nbytes


def _sample(image: Raw) -> bytes:
    """Return what tells an image from others: its length and its end, as their heads are alike."""
    view = memoryview(image)
    return b"%d:%b" % (view.nbytes, bytes(view[-_SAMPLE_BYTES:]))


_decode_turns = msgspec.json.Decoder(list[Turn]).decode
_decode_turn = msgspec.json.Decoder(Turn).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_content = msgspec.json.Decoder(str | list[Part] | None).decode
