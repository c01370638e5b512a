"""What is sent to a node, without a socket."""

from collections.abc import AsyncIterator

import pytest

from sollol.upstream.request import Origin, UpstreamRequest, encode_head

ORIGIN = Origin("http", "gpu1", 11434)


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("http://gpu1:11434", Origin("http", "gpu1", 11434), "gpu1:11434"),
        ("http://GPU1:11434/", Origin("http", "gpu1", 11434), "gpu1:11434"),
        ("http://gpu1", Origin("http", "gpu1", 80), "gpu1"),
        ("https://gpu1", Origin("https", "gpu1", 443), "gpu1"),
        ("https://gpu1:80", Origin("https", "gpu1", 80), "gpu1:80"),
        ("http://10.0.0.1:1/a/b/", Origin("http", "10.0.0.1", 1, "/a/b"), "10.0.0.1:1"),
        ("http://[fd00::1]:8080", Origin("http", "fd00::1", 8080), "[fd00::1]:8080"),
        ("https://[::1]", Origin("https", "::1", 443), "[::1]"),
    ],
)
def test_a_url_says_where_a_node_is(url: str, origin: Origin, authority: str) -> None:
    assert Origin.parse(url) == origin
    assert Origin.parse(url).authority == authority


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gpu1:11434", "must start with http"),
        ("ftp://gpu1", "must start with http"),
        ("", "must start with http"),
        ("http://", "needs a host"),
        ("http://:80", "needs a host"),
        ("http://gpu1:0", "port above 0"),
        ("http://gpu1:65536", "65535"),
        ("http://gpu1:x", "integer"),
        ("http://gpu1/a?b", "no query"),
        ("http://gpu1/#b", "no fragment"),
        ("http://gpu 1", "no spaces"),
        ("http://gpu1\r\nx: y", "no spaces"),
        (" http://gpu1", "no spaces"),
        ("http://gpü1", "ASCII"),
        ("http://a..b", "not a host name"),
        ("http://" + "a" * 64, "not a host name"),
        ("http://[::1", "Invalid IPv6"),
    ],
)
def test_a_url_that_is_not_a_nodes_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Origin.parse(url)


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ValueError, match="must not contain a user name") as caught:
        Origin.parse("http://me:hunter2@gpu1")
    assert "hunter2" not in str(caught.value)


async def _pieces() -> AsyncIterator[bytes]:
    yield b"x"


def test_a_head_is_written_with_host_and_framing() -> None:
    request = UpstreamRequest("POST", "/api/chat?a=1", [(b"Accept", b"*/*"), (b"x-a", b"")], b"hi")
    assert encode_head(request, Origin("http", "gpu1", 11434, "/base")) == (
        b"POST /base/api/chat?a=1 HTTP/1.1\r\nhost: gpu1:11434\r\n"
        b"Accept: */*\r\nx-a: \r\ncontent-length: 2\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("request_", "framing"),
    [
        (UpstreamRequest("GET", "/", []), b""),
        (UpstreamRequest("DELETE", "/", [], b"ab"), b"content-length: 2\r\n"),
        (UpstreamRequest("POST", "/", []), b"content-length: 0\r\n"),
        (UpstreamRequest("POST", "/", [], b"abc", 3), b"content-length: 3\r\n"),
        (UpstreamRequest("POST", "/", [], _pieces()), b"transfer-encoding: chunked\r\n"),
        (UpstreamRequest("POST", "/", [], _pieces(), 1), b"content-length: 1\r\n"),
        (UpstreamRequest("POST", "/", [], _pieces(), 0), b"content-length: 0\r\n"),
    ],
)
def test_the_framing_follows_the_body(request_: UpstreamRequest, framing: bytes) -> None:
    head = encode_head(request_, ORIGIN)
    assert head.endswith(b" HTTP/1.1\r\nhost: gpu1:11434\r\n" + framing + b"\r\n")


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\r\nx: y", b"a\r\n b"])
def test_no_header_value_can_end_its_line(bad: bytes) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        encode_head(UpstreamRequest("GET", "/", [(b"x-a", b"1" + bad)]), ORIGIN)


@pytest.mark.parametrize("bad", [b"", b"a b", b"a:", b"a\r\n", b"a\n", b"a\0", b"\xe4"])
def test_a_header_name_is_a_token(bad: bytes) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        encode_head(UpstreamRequest("GET", "/", [(bad, b"1")]), ORIGIN)


@pytest.mark.parametrize(
    "name", [b"Host", b"Content-Length", b"transfer-encoding", b"Connection", b"Expect", b"TE"]
)
def test_headers_of_the_connection_are_not_the_callers(name: bytes) -> None:
    with pytest.raises(ValueError, match="by the client itself"):
        encode_head(UpstreamRequest("GET", "/", [(name, b"1")]), ORIGIN)


@pytest.mark.parametrize("target", ["", "api", "/a b", "/a\r\n", "/a\0", "/ä", "http://x/", "*"])
def test_a_target_is_an_absolute_path(target: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        encode_head(UpstreamRequest("GET", target, []), ORIGIN)


@pytest.mark.parametrize("method", ["", "get", "GET /", "G\r\n"])
def test_a_method_is_a_word(method: str) -> None:
    with pytest.raises(ValueError, match="not an HTTP method"):
        encode_head(UpstreamRequest(method, "/", []), ORIGIN)


def test_a_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="content_length is 4, the body has 3"):
        encode_head(UpstreamRequest("POST", "/", [], b"abc", 4), ORIGIN)
