"""What a caller sees of each fault, with its reason: the fault matrix as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sollol.bench.faults.kinds import TcpFault
from sollol.bench.sim.faults import Fault

MIB = 1 << 20


class Seen(StrEnum):
    """What came of a request whose first node has a fault."""

    RETRIED = "retried"
    """200 from the other node, and not a byte of the first."""
    ERROR_RECORD = "error record"
    """A part of the answer, then a well-formed error of the dialect, which ends the stream."""
    UNHARMED = "unharmed"
    """200 from the node with the fault, whole and right."""
    AS_IT_CAME = "as it came"
    """A record that is no JSON among whole ones that are passed on."""
    CUT_OFF = "cut off"
    """The connection is closed before the promised end of the body, so that the client notices."""


class Route(StrEnum):
    """The routes of the matrix."""

    CHAT = "/api/chat"
    GENERATE = "/api/generate"
    EMBED = "/api/embed"
    V1_CHAT = "/v1/chat/completions"

    @property
    def shown(self) -> str:
        """A short name of it."""
        return "v1" if self is Route.V1_CHAT else self.rpartition("/")[2]


@dataclass(frozen=True)
class Case:
    """A fault, and what a caller sees of it; ``/api/embed`` never streams, whatever is asked."""

    name: str
    fault: Fault | TcpFault | None
    """None: the node's name stops to resolve."""
    stream: Seen
    whole: Seen
    reason: str
    other: Mapping[Route, Seen] = field(default_factory=dict)
    """Routes whose streams end otherwise."""
    is_cold: bool = False
    """The first node has to load the model."""
    before: int = 0
    """Good requests before the one that meets the fault."""

    def seen(self, route: Route, *, stream: bool) -> Seen:
        """Return what is expected of a route."""
        if not stream or route is Route.EMBED:
            return self.whole
        return self.other.get(route, self.stream)


_R, _E, _U = Seen.RETRIED, Seen.ERROR_RECORD, Seen.UNHARMED
_NOTHING_SENT = "the request never reached the node"
_NO_ANSWER = "inference has no effects: what was not answered may be asked elsewhere"
_NONE = "not the answer of any model: something stands in front of the node, or in its place"
_WORDS = "no engine refuses a request so"
_NO_RECORD = "a first record that is none"
_COMPLETE = "its last record came"
_HELD = "after its first record a stream has gone to the caller; other bodies are held until whole"

_JSON, _NDJSON, _SSE = "application/json", "application/x-ndjson", "text/event-stream"


def _said(status: int, body: str, content_type: str = "text/html") -> Fault:
    return Fault("answer", status=status, body=body, content_type=content_type)


CASES = (
    # The connection cannot be made.
    Case("refused", Fault("refuse"), _R, _R, _NOTHING_SENT),
    Case("name does not resolve", None, _R, _R, _NOTHING_SENT),
    Case("backlog full", TcpFault("backlog_full"), _R, _R, "no connection within its time"),
    # No answer begins.
    Case("accepts, never answers", Fault("black_hole"), _R, _R, _NO_ANSWER),
    Case("reset on accept", Fault("reset_on_accept"), _R, _R, _NO_ANSWER),
    Case("closed on accept", TcpFault("close_on_accept"), _R, _R, _NO_ANSWER),
    Case("closed before the head", Fault("close_before_head"), _R, _R, _NO_ANSWER),
    Case("reset before the head", TcpFault("reset_before_head"), _R, _R, _NO_ANSWER),
    Case(
        "closed when used again",
        TcpFault("close_on_reuse"),
        _R,
        _R,
        "the node had it: what closed an idle connection before is asked again at once",
        before=1,
    ),
    Case("hangs before the head", Fault("hang_before_head"), _R, _R, _NO_ANSWER),
    Case("hangs in a load", Fault("hang_in_load"), _R, _R, _NO_ANSWER, is_cold=True),
    # The head is wrong.
    Case("half a head, silence", TcpFault("half_head"), _R, _R, _NO_ANSWER),
    Case("half a head, closed", TcpFault("cut_in_head"), _R, _R, _NO_ANSWER),
    Case("not HTTP", Fault("garbage"), _R, _R, _NO_ANSWER),
    Case("header of 1 MB", TcpFault("huge_head"), _R, _R, "over the bound of a head"),
    Case("1xx heads first", TcpFault("interim_heads"), _U, _U, "HTTP allows them"),
    # The node says that it failed.
    Case("429", Fault("status", status=429), _R, _R, "another node has another limit"),
    Case("500, runner crashed", Fault("status", status=500), _R, _R, "the runner of one node"),
    Case("502", Fault("status", status=502), _R, _R, "a proxy in front of one node"),
    Case("503, queue full", Fault("status", status=503), _R, _R, "full, not broken"),
    Case(
        "error as first record",
        Fault("error_record_first"),
        _R,
        _R,
        "nothing went to the caller; on /v1 Ollama writes an empty chunk, which did",
        other={Route.V1_CHAT: _E},
    ),
    Case("error after a record", Fault("error_record_after_n", records=2), _E, _R, _HELD),
    # What it says at once is no answer.
    Case("page of HTML", _said(200, "<html>come back later</html>"), _R, _R, _NONE),
    Case("redirection", _said(302, ""), _R, _R, _NONE),
    Case("no content", _said(204, ""), _R, _R, _NONE),
    Case("empty object", _said(200, "{}", _JSON), _R, _R, _NONE),
    Case("empty list", _said(200, "[]", _JSON), _R, _R, _NONE),
    Case("words of another API", _said(200, '{"status":"ok"}', _JSON), _R, _R, _NONE),
    Case("error as 200", _said(200, '{"error":"boom"}', _JSON), _R, _R, "an error all the same"),
    Case("401", _said(401, '{"error":{"message":"Invalid API Key"}}', _JSON), _R, _R, "our key"),
    Case("403", _said(403, ""), _R, _R, "our key, or our name"),
    Case("405", _said(405, "405 method not allowed", "text/plain"), _R, _R, _NONE),
    Case("408", _said(408, '{"error":"timeout"}', _JSON), _R, _R, "too late there, not elsewhere"),
    Case("404 as a page", _said(404, "<html>no such backend</html>"), _R, _R, _WORDS),
    Case("400 as a page", _said(400, "<html>bad request</html>"), _R, _R, _WORDS),
    Case("413 as a page", _said(413, "<html>too large</html>"), _R, _R, _WORDS),
    Case("records of another dialect", _said(200, '{"x":1}\n', _NDJSON), _R, _R, _NO_RECORD),
    Case("null as first record", _said(200, "null\n", _NDJSON), _R, _R, _NO_RECORD),
    Case("page as first record", _said(200, "<html>\n", _NDJSON), _R, _R, _NO_RECORD),
    Case("blank line, then the end", _said(200, "\n", _NDJSON), _R, _R, _NO_RECORD),
    Case("event that is no JSON", _said(200, "data: {nope\n\n", _SSE), _R, _R, _NO_RECORD),
    Case("events that are none", _said(200, "<html>\n\n", _SSE), _R, _R, _NO_RECORD),
    # The answer is complete, but its body does not end.
    Case("closed after the last record", Fault("cut_at_end"), _U, _U, _COMPLETE),
    Case("reset after the last record", Fault("reset_at_end"), _U, _U, _COMPLETE),
    Case("hangs after the last record", Fault("hang_at_end"), _U, _U, _COMPLETE),
    # The answer breaks off.
    Case("closed after the head", Fault("cut_after_n_records", records=0), _R, _R, _HELD),
    Case("closed after 2 records", Fault("cut_after_n_records", records=2), _E, _R, _HELD),
    Case("closed in a chunk", TcpFault("cut_in_piece"), _E, _R, _HELD),
    Case("reset after 2 records", Fault("reset_after_n_records", records=2), _E, _R, _HELD),
    Case("reset in a chunk", TcpFault("reset_in_piece"), _E, _R, _HELD),
    Case("half-closed in a chunk", TcpFault("half_close"), _E, _R, _HELD),
    Case("half-closed at the end", Fault("half_close"), _U, _U, "the answer is whole"),
    Case("no done, clean end", Fault("end_without_done_after_n", records=2), _E, _U, _HELD),
    # The answer stops or is slow.
    Case("hangs after 2 records", Fault("hang_after_n_records", records=2), _E, _R, _HELD),
    Case("stalls in a chunk", TcpFault("stall_in_piece"), _E, _R, _HELD),
    Case("a byte at a time", Fault("slow_drip"), _U, _U, "slow is not silent"),
    Case("latency", TcpFault("latency", delay_s=0.1), _U, _U, "slow is not silent"),
    # The bytes are wrong.
    Case("bad chunk size or length", TcpFault("bad_framing"), _E, _R, _HELD),
    Case(
        "length too long",
        Fault("wrong_content_length", delta_bytes=10),
        _U,
        _R,
        "a body that is not whole; a stream has no length",
    ),
    Case(
        "length too short",
        Fault("wrong_content_length", delta_bytes=-10),
        _U,
        _R,
        "a body that is no JSON; a stream has no length",
    ),
    Case("answered twice", TcpFault("answer_twice"), _U, _U, "the first answer is right"),
    Case(
        "corrupt record",
        TcpFault("corrupt_piece"),
        Seen.AS_IT_CAME,
        _R,
        "records are not parsed on their way; a held body is looked at once",
    ),
    Case(
        "line of 1 GiB",
        TcpFault("endless_line"),
        _E,
        Seen.CUT_OFF,
        "over 8 MiB no line is a record; a body over 1 MiB is no longer held",
    ),
)
