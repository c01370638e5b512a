"""Answers of a node, parsed without a socket."""

import re
import socket
import ssl

import pytest
from hypothesis import given, strategies as st

from sollol.errors import ProtocolViolation, UpstreamCut
from sollol.upstream import failures
from sollol.upstream.answer import MAX_HEAD_BYTES, MAX_HEADERS, AnswerParser

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Type: text/plain \r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    OK + b"Content-Type: text/plain\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN
UNTIL_EOF = OK + b"Content-Type: text/plain\r\n\r\nhello"


def parsed(*parts: bytes, method: str = "POST") -> AnswerParser:
    answer = AnswerParser("node:1")
    answer.expect(method)
    for part in parts:
        answer.feed(part)
    return answer


@pytest.mark.parametrize("wire", [PLAIN, CHUNKED, INTERIM])
def test_an_answer_may_be_split_anywhere(wire: bytes) -> None:
    for position in range(len(wire)):
        answer = parsed(wire[:position], wire[position:])
        assert (answer.status, answer.content_type) == (200, b"text/plain")
        assert answer.take() == b"hello"
        assert answer.complete
        assert answer.keep_alive


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    st.integers(1, 60),
    st.sampled_from(["length", "chunked", "eof"]),
)
def test_any_body_in_any_framing_in_any_parts(chunks: list[bytes], step: int, how: str) -> None:
    body = b"".join(chunks)
    wire = {
        "length": OK + b"content-length: %d\r\n\r\n" % len(body) + body,
        "chunked": OK
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"".join(b"%X\r\n%b\r\n" % (len(c), c) for c in chunks)
        + b"0\r\n\r\n",
        "eof": OK + b"\r\n" + body,
    }[how]
    answer = parsed(*[wire[at : at + step] for at in range(0, len(wire), step)])
    assert answer.complete == (how != "eof")
    answer.end(None)
    assert answer.complete
    assert answer.buffered_bytes == len(body)
    assert answer.take() == body
    assert answer.buffered_bytes == 0


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(noise: bytes) -> None:
    for wire in (noise, OK + noise, CHUNKED[:70] + noise, PLAIN[:-2] + noise):
        answer = AnswerParser("node:1")
        try:
            answer.feed(wire)
            answer.end(None)
        except (ProtocolViolation, UpstreamCut):
            continue
        assert answer.complete


def test_header_names_are_in_lower_case_and_trailers_are_dropped() -> None:
    assert parsed(CHUNKED).headers == [
        (b"content-type", b"text/plain"),
        (b"transfer-encoding", b"Chunked"),
    ]
    assert parsed(INTERIM).headers == [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    assert parsed(INTERIM).content_length == 5
    assert parsed(CHUNKED).content_length is None


@pytest.mark.parametrize(
    ("wire", "method"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", "HEAD"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "POST"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"),
        (OK + b"Content-Length: 0\r\n\r\n", "GET"),
    ],
)
def test_answers_without_a_body_are_complete_with_their_head(wire: bytes, method: str) -> None:
    answer = parsed(wire, method=method)
    assert answer.complete
    assert answer.keep_alive
    assert not answer.pieces
    answer.expect("GET")  # and the next answer is read from its start
    answer.feed(PLAIN)
    assert answer.take() == b"hello"
    assert answer.keep_alive


@pytest.mark.parametrize(
    "wire",
    [
        PLAIN + b"x",
        PLAIN + PLAIN,
        CHUNKED + CHUNKED[:10],
        PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") + b"x",
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        PLAIN.replace(b"/1.1", b"/1.0"),
        PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
    ],
)
def test_what_follows_an_answer_ends_the_connection(wire: bytes) -> None:
    for parts in ([wire], [wire[:-1], wire[-1:]]):
        answer = parsed(*parts)
        assert answer.complete
        assert not answer.keep_alive
        assert answer.take() in (b"hello", b"")


def test_a_body_after_a_head_request_ends_the_connection() -> None:
    answer = parsed(PLAIN, method="HEAD")
    assert answer.complete
    assert not answer.keep_alive
    assert not answer.pieces


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02P",
        b"HTTP/1.1 2x0 OK\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 700 No\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        OK + b"a b: c\r\n\r\n",
        OK + b"a: b\r\n folded\r\n\r\n",
        OK + b"a: \0\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: +1\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ],
)
def test_garbage_is_a_violation_that_names_the_node(wire: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=r"^node:1 did not answer in proper HTTP/1.1: "):
        parsed(wire)


def test_the_head_is_bounded() -> None:
    header = b"a: b\r\n"
    answer = parsed(OK + header * MAX_HEADERS + b"\r\n")
    assert len(answer.headers) == MAX_HEADERS
    with pytest.raises(ProtocolViolation, match="over 200 headers"):
        parsed(OK + header * (MAX_HEADERS + 1) + b"\r\n")
    value = b"x" * (MAX_HEAD_BYTES // 2)
    with pytest.raises(ProtocolViolation, match="over 65536 bytes of headers"):
        parsed(OK + b"a: %b\r\nb: %b\r\n\r\n" % (value, value))
    with pytest.raises(ProtocolViolation, match="over 65536 bytes of headers"):
        parsed(OK + b"a: ", *[value[:5000]] * 14)
    with pytest.raises(ProtocolViolation, match="over 65536 bytes of headers"):
        parsed(*[b"HTTP/1.1 103 E\r\nLink: %b\r\n\r\n" % value[:5000]] * 14)


def test_a_big_body_in_one_part_with_the_head_is_no_big_head() -> None:
    body = b"x" * (2 * MAX_HEAD_BYTES)
    assert parsed(OK + b"content-length: %d\r\n\r\n" % len(body) + body).take() == body


def test_trailers_are_bounded() -> None:
    with pytest.raises(ProtocolViolation, match="over 65536 bytes of headers"):
        parsed(CHUNKED[:-4], *[b"x" * 5000] * 14)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"", "node:1 closed the connection without an answer; check the node's log"),
        (OK, "node:1 closed the connection without an answer; check the node's log"),
        (PLAIN[:-1], "node:1 closed the connection in the middle of its answer"),
        (CHUNKED[:-2], "node:1 closed the connection in the middle of its answer"),
        (PLAIN[:-5], "node:1 closed the connection in the middle of its answer"),
    ],
)
def test_an_early_end_is_a_cut(wire: bytes, text: str) -> None:
    with pytest.raises(UpstreamCut, match=text):
        parsed(wire).end(None)
    with pytest.raises(UpstreamCut, match=r"\(connection reset by peer\)"):
        parsed(wire).end(ConnectionResetError(104, "Connection reset by peer"))


def test_a_body_without_a_length_ends_with_the_connection_and_not_with_a_reset() -> None:
    answer = parsed(UNTIL_EOF)
    before = answer.complete
    answer.end(None)
    assert (before, answer.complete) == (False, True)
    assert not answer.keep_alive
    with pytest.raises(UpstreamCut, match="connection reset"):
        parsed(UNTIL_EOF).end(ConnectionResetError(104, "Connection reset by peer"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "x"), "connection refused; check that the node runs"),
        (OSError(113, "x"), "no route to host; check that the node runs"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions: a, b; check"),
        (TimeoutError(), "no answer within 2 s; check the address"),
        (TimeoutError(110, "x"), "connection timed out; check that"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known; check the"),
        (ssl.SSLError(1, "wrong version"), "TLS failed: .*wrong version.*; check the certificate"),
    ],
)
def test_a_failed_connection_says_what_to_check(error: OSError, text: str) -> None:
    failure = failures.connect_failed("gpu1:11434", error, 2.0)
    assert re.match(f"cannot connect to gpu1:11434: {text}", str(failure))
