"""Request bodies that came compressed, as Codex sends them to ``/v1``."""

import sys

from sollol.errors import InvalidBody, RequestTooLarge

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

MAX_DECOMPRESSED_BYTES = 20 * 1024 * 1024
"""Ollama's own limit."""


def decompress(body: bytes) -> bytes:
    """Return a body that came with ``Content-Encoding: zstd`` as it was before.

    Raises:
        InvalidBody: it is not zstd, or not all of it.
        RequestTooLarge: it is longer than ``MAX_DECOMPRESSED_BYTES``.
    """
    decompressor = ZstdDecompressor()
    try:
        plain = decompressor.decompress(body, MAX_DECOMPRESSED_BYTES + 1)
    except ZstdError as error:
        raise InvalidBody(f"failed to decompress zstd request body: {error}") from None
    if len(plain) > MAX_DECOMPRESSED_BYTES:
        raise RequestTooLarge(
            f"request body too large: over {MAX_DECOMPRESSED_BYTES} bytes when decompressed"
        )
    if not decompressor.eof:
        raise InvalidBody("failed to decompress zstd request body: it ends too early")
    return plain
