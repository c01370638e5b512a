"""Request bodies in memory and in files."""

import pytest

from sollol.gateway.body import Body
from sollol.gateway.body_store import BodyStore, Incoming
from sollol.gateway.body_writer import SPOOL_BYTES
from sollol.gateway.pieces import PIECE_BYTES
from sollol.types import Comer


@pytest.mark.parametrize("length", [0, 1, SPOOL_BYTES, SPOOL_BYTES + 1, 3 * SPOOL_BYTES + 7])
async def test_what_was_written_is_sent_for_every_attempt(length: int) -> None:
    content = bytes(n % 251 for n in range(1000)) * (length // 1000 + 1)
    content = content[:length]
    writer = Incoming(BodyStore(), lambda: Comer("me", 1))
    for start in range(0, length, 70_000):
        writer.write(content[start : start + 70_000])
    with writer.finish() as body:
        assert len(body) == length
        assert body.view() == content
        for _ in range(2):
            sent = body.upstream()
            if not isinstance(sent, bytes):
                pieces = [piece async for piece in sent]
                assert max(map(len, pieces)) <= PIECE_BYTES
                sent = b"".join(pieces)
            assert sent == content


def test_a_short_body_is_not_copied() -> None:
    content = b"x" * 100
    assert Body(content).view() is content


def test_a_long_body_that_is_done_leaves_no_mapping_though_somebody_refers_to_it() -> None:
    writer = Incoming(BodyStore(), lambda: Comer("me", 1))
    writer.write(bytes(SPOOL_BYTES + 1))
    with writer.finish() as body:
        pass
    with pytest.raises(ValueError, match="closed"):
        body.view()
