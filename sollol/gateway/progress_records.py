"""Keeps a streaming caller company while its model is loaded over several machines.

A load can take minutes, and a client that sees nothing for so long gives up. So the head goes out
after some seconds, and then records that clients pass over (``wire/load_records.py``). Nothing of
the answer is sent by that: until it begins, the request may still be asked again.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sollol.errors import ProtocolViolation
from sollol.gateway.refusals import Headers, content_type_of
from sollol.gateway.relay import AnswerWriter, Downstream
from sollol.gateway.shard import Shard, ShardState
from sollol.wire.kinds import BodyKind
from sollol.wire.llama_chunks import read_error
from sollol.wire.load_records import load_record, load_text, stream_framing, stream_headers
from sollol.wire.streams import StreamFraming

Telling = Callable[[Shard], AbstractContextManager[object]]
"""Gives a block in which a model is waited for, and the caller told of that."""

_OK = 200


class ProgressRecords:
    """Tells one caller that its model is being loaded; only streams can be told.

    Args:
        model: as the answer will name it.
        interval_s: seconds of a wait before the first record, and between two.
    """

    def __init__(
        self, kind: BodyKind, model: str, downstream: Downstream, interval_s: float
    ) -> None:
        self._kind = kind
        self._model = model
        self._downstream = downstream
        self._interval_s = interval_s

    @contextmanager
    def telling_of(self, shard: Shard) -> Iterator[None]:
        """Tell of a model for the length of a block."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def tell() -> None:
            nonlocal timer
            self._tell(_text(shard))
            timer = loop.call_later(self._interval_s, tell)

        timer = loop.call_later(self._interval_s, tell)
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, text: str) -> None:
        downstream = self._downstream
        if not downstream.has_early_head:
            late = LateWriter(self._kind, downstream.writer)
            downstream.start_early(stream_headers(self._kind), late)
        downstream.writer.write(load_record(self._kind, self._model, text))


def _text(shard: Shard) -> str:
    if shard.state is not ShardState.LOADING:
        return shard.state.value
    return load_text(shard.progress.share, shard.progress.eta_s)


class LateWriter:
    """Writes an answer below a head that has gone out already, with 200.

    What a head would have said of an error is said in the stream.
    """

    def __init__(self, kind: BodyKind, writer: AnswerWriter) -> None:
        self._error_record = kind.error_record
        self._framing = stream_framing(kind)
        self._writer = writer
        self.write = writer.write
        self.end = writer.end
        self.wait_room = writer.wait_room

    @property
    def is_slow(self) -> bool:
        """Whether the client has not read what was written for it."""
        return self._writer.is_slow

    def start(self, status: int, headers: Headers) -> None:
        """Leave the head out.

        Raises:
            ProtocolViolation: what follows cannot be a part of the stream.
        """
        if status != _OK or not self._is_of_stream(headers):
            raise ProtocolViolation(
                f"the node answered {status}, and not with the stream it was asked for"
            )

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write what was to be told without a stream as its last record, which is an error.

        A node that began its stream with an error has given it the form of the stream.
        """
        if not self._is_of_stream(headers):
            body = self._error_record(read_error(status, body))
        elif self._framing is StreamFraming.SSE:
            body += b"\n"  # which ends the event, should the empty line not have come yet
        self._writer.end(body)

    def _is_of_stream(self, headers: Headers) -> bool:
        return StreamFraming.of(content_type_of(headers)) is self._framing
