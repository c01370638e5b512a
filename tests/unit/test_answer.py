"""The bytes of an answer."""

from collections.abc import Callable

import pytest

from sollol.api.answer import Answer


class Connection:
    """Keeps what is written, as the caller would see it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_aborted = False
        self.is_slow = False

    @property
    def write(self) -> Callable[[bytes], None]:
        return self.pieces.append

    async def wait_room(self) -> None:
        """Return at once: nothing is slow here."""

    def abort(self) -> None:
        self.is_aborted = True

    def common_headers(self) -> bytes:
        return b"date: today\r\n"


def answer_on(
    connection: Connection, *, is_head: bool = False, speaks_chunks: bool = True
) -> Answer:
    return Answer(connection, is_head=is_head, speaks_chunks=speaks_chunks, keep_alive=True)


def test_a_whole_answer_is_one_piece() -> None:
    connection = Connection()
    answer = answer_on(connection)
    answer.extra_headers = [(b"vary", b"Origin")]
    answer.whole(404, [(b"content-type", b"text/plain")], b"no")
    assert connection.pieces == [
        b"HTTP/1.1 404 Not Found\r\ndate: today\r\ncontent-type: text/plain\r\nvary: Origin\r\n"
        b"content-length: 2\r\n\r\nno"
    ]
    assert answer.is_complete


def test_a_stream_goes_out_with_its_head_and_in_chunks() -> None:
    connection = Connection()
    answer = answer_on(connection)
    answer.start(200, [])
    assert connection.pieces == []
    assert answer.write(b"") is False
    assert answer.write(b"0123456789abcdef") is False
    answer.end(b"x")
    first, last = connection.pieces
    assert first.endswith(b"transfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n")
    assert last == b"1\r\nx\r\n0\r\n\r\n"


def test_a_stream_to_an_old_caller_ends_with_the_connection() -> None:
    connection = Connection()
    answer = answer_on(connection, speaks_chunks=False)
    answer.start(200, [])
    answer.write(b"a")
    answer.end()
    assert b"".join(connection.pieces).endswith(b"connection: close\r\n\r\na")
    assert not answer.keep_alive


@pytest.mark.parametrize("body", [b"abc", b"abcde"])
def test_a_broken_promise_of_length_is_a_cut(body: bytes) -> None:
    connection = Connection()
    answer = answer_on(connection)
    answer.start(200, [(b"content-length", b"4")])
    answer.write(body[:2])
    answer.end(body[2:])
    assert connection.is_aborted
    assert not answer.is_complete


@pytest.mark.parametrize("status", [200, 204, 304])
def test_what_has_no_body_sends_none(status: int) -> None:
    connection = Connection()
    answer = answer_on(connection, is_head=status == 200)
    answer.start(status, [])
    answer.end(b"ignored")
    (head,) = connection.pieces
    assert head.endswith(b"date: today\r\n\r\n")
    assert answer.is_complete
