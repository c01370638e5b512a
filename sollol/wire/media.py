"""Ollama's ``images`` as the content parts of an OpenAI message."""

import base64
from collections.abc import Sequence
from typing import Any

_SNIFFED_CHARS = 32  # 24 bytes: enough for every signature below; a multiple of 4


Image = str | list[int | None] | None
"""What Go decodes into bytes: base64 without a ``data:`` prefix, or the bytes as numbers."""


def media_parts(images: Sequence[Image]) -> list[dict[str, Any]]:
    """Return one content part for each image; audio travels in the same field."""
    return [_media_part(_base64(image)) for image in images]


def _media_part(text: str) -> dict[str, Any]:
    start = base64.b64decode(text[:_SNIFFED_CHARS])
    if audio := _audio_format(start):
        return {"type": "input_audio", "input_audio": {"data": text, "format": audio}}
    return {"type": "image_url", "image_url": {"url": f"data:{_image_type(start)};base64,{text}"}}


def _base64(image: Image) -> str:
    if isinstance(image, str):
        return image.replace("\r", "").replace("\n", "")  # Go skips line ends
    return base64.b64encode(bytes(byte or 0 for byte in image or ())).decode()


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
