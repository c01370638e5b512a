"""Ollama's ``images`` as the content parts of an OpenAI message."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from sollol.errors import InvalidRequest
from sollol.wire.request_fields import wrong_type

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]")
_SNIFFED_CHARS = 32  # 24 bytes: enough for every signature below; a multiple of 4


def media_parts(images: Sequence[object], struct: str) -> list[dict[str, Any]]:
    """Return one content part for each image; audio travels in the same field.

    Args:
        images: base64 strings without a ``data:`` prefix.
        struct: the Go struct that holds them, for the error's text.

    Raises:
        InvalidRequest: an item is no base64 string, in Go's words.
    """
    return [_media_part(image, struct) for image in images]


def _media_part(image: object, struct: str) -> dict[str, Any]:
    if not isinstance(image, str):
        raise wrong_type(image, f"{struct}.images", "api.ImageData")
    text = _checked_base64(image)
    start = base64.b64decode(text[:_SNIFFED_CHARS])
    if audio := _audio_format(start):
        return {"type": "input_audio", "input_audio": {"data": text, "format": audio}}
    return {"type": "image_url", "image_url": {"url": f"data:{_image_type(start)};base64,{text}"}}


def _checked_base64(text: str) -> str:
    plain = text.replace("\r", "").replace("\n", "")  # Go skips line ends
    try:
        binascii.a2b_base64(plain.encode("ascii", "replace"), strict_mode=True)
    except binascii.Error:
        wrong = _NOT_BASE64.search(text.rstrip("="))
        position = wrong.start() if wrong else len(text) // 4 * 4
        raise InvalidRequest(f"illegal base64 data at input byte {position}") from None
    return plain


def _audio_format(start: bytes) -> str:
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        return "wav"
    is_mp3 = start[:3] == b"ID3" or start[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
    return "mp3" if is_mp3 else ""


def _image_type(start: bytes) -> str:
    if start.startswith(b"\x89PNG"):
        return "image/png"
    if start.startswith(b"GIF8"):
        return "image/gif"
    if start.startswith(b"BM"):
        return "image/bmp"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return "image/jpeg"  # also for the unknown: the engine looks at the bytes itself
