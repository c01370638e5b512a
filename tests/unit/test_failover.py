"""What follows which failure: the table, and how an error is told to be one of its rows."""

import errno
import socket

import pytest

from sollol.errors import (
    ClientDisconnected,
    ConnectFailed,
    DeadlineExceeded,
    InvalidRequest,
    MissingOnNode,
    NodeDown,
    ProtocolViolation,
    SollolError,
    UpstreamCut,
    UpstreamStatus,
    UpstreamTimeout,
    WrongAnswer,
)
from sollol.gateway.failover import (
    MAX_BACK_OFF_S,
    RULES,
    Failure,
    Retry,
    Tally,
    back_off_s,
    classify,
)
from sollol.nodes.health import Blame


def connect_failed(cause: OSError | None) -> ConnectFailed:
    error = ConnectFailed("no connection")
    error.__cause__ = cause
    return error


def answered(status: int, text: str = "") -> UpstreamStatus:
    return UpstreamStatus(text, status, b"application/json", text.encode())


CRASH = "model runner has unexpectedly stopped, this may be due to resource limitations"
BUSY = "server busy, please try again.  maximum pending requests exceeded"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (connect_failed(None), Failure.REFUSED),
        (connect_failed(OSError(errno.ECONNREFUSED, "")), Failure.REFUSED),
        (connect_failed(OSError(errno.EHOSTUNREACH, "")), Failure.REFUSED),
        (connect_failed(TimeoutError()), Failure.CONNECT_TIMEOUT),
        (connect_failed(socket.gaierror(socket.EAI_NONAME, "")), Failure.NO_SUCH_HOST),
        (connect_failed(OSError(errno.EMFILE, "")), Failure.OURS),
        (UpstreamCut("x", in_body=False), Failure.CLOSED),
        (UpstreamCut("x"), Failure.CUT),
        (NodeDown("x"), Failure.DOWN),
        (UpstreamTimeout("x"), Failure.SILENT),
        (UpstreamTimeout("x", in_body=True), Failure.STALLED),
        (ProtocolViolation("x"), Failure.GARBAGE),
        (WrongAnswer("x"), Failure.WRONG_ANSWER),
        (WrongAnswer("x", may_be_request=True), Failure.FOREIGN_REFUSAL),
        (MissingOnNode("x", b"", b"", lacks_route=True), Failure.MISSING),
        (UpstreamStatus("came back", 508, b"", b""), Failure.LOOP),
        (answered(429, "too many requests"), Failure.LIMITED),
        (answered(429, BUSY), Failure.LIMITED),
        (answered(503, BUSY), Failure.FULL),
        (answered(503, '{"error":{"message":"Loading model","code":503}}'), Failure.LOADING),
        (answered(500, CRASH), Failure.CRASHED),
        (answered(500, "CUDA error: out of memory"), Failure.CRASHED),
        (answered(500, "llama runner process has terminated: exit status 2"), Failure.CRASHED),
        (answered(200, "an error was encountered while running the model"), Failure.CRASHED),
        (answered(502, "bad gateway"), Failure.GATEWAY_ERROR),
        (answered(503), Failure.GATEWAY_ERROR),
        (answered(504), Failure.GATEWAY_ERROR),
        (answered(500, "failed to process inputs: image: unknown format"), Failure.SERVER_ERROR),
        (answered(501), Failure.SERVER_ERROR),
        (answered(200, '{"error":"something"}'), Failure.SERVER_ERROR),
        (DeadlineExceeded("x"), Failure.TOO_LATE),
        (ClientDisconnected("x"), Failure.CLIENT_LEFT),
        (InvalidRequest("x"), Failure.REFUSES),
    ],
)
def test_an_error_is_told_to_be_a_failure(error: SollolError, kind: Failure) -> None:
    assert classify(error) is kind


NEVER, FREE, BUDGET = Retry.NEVER, Retry.FREE, Retry.BUDGET


@pytest.mark.parametrize(
    ("kind", "blame", "retry"),
    [
        (Failure.REFUSED, Blame.AT_ONCE, FREE),
        (Failure.CONNECT_TIMEOUT, Blame.NODE, FREE),
        (Failure.NO_SUCH_HOST, Blame.AT_ONCE, FREE),
        (Failure.OURS, Blame.NOBODY, FREE),
        (Failure.CLOSED, Blame.NODE, FREE),
        (Failure.CUT, Blame.NODE, BUDGET),
        (Failure.SILENT, Blame.HALF, BUDGET),
        (Failure.STALLED, Blame.NODE, BUDGET),
        (Failure.GARBAGE, Blame.NODE, BUDGET),
        (Failure.WRONG_ANSWER, Blame.NODE, FREE),
        (Failure.FOREIGN_REFUSAL, Blame.NODE, FREE),
        (Failure.FULL, Blame.NOBODY, FREE),
        (Failure.LOADING, Blame.NOBODY, FREE),
        (Failure.LIMITED, Blame.NOBODY, BUDGET),
        (Failure.CRASHED, Blame.MODEL, BUDGET),
        (Failure.GATEWAY_ERROR, Blame.NODE, BUDGET),
        (Failure.SERVER_ERROR, Blame.MODEL, BUDGET),
        (Failure.MISSING, Blame.NOBODY, FREE),
        (Failure.REFUSES, Blame.NOBODY, NEVER),
        (Failure.TOO_LATE, Blame.NOBODY, NEVER),
        (Failure.CLIENT_LEFT, Blame.NOBODY, NEVER),
    ],
)
def test_what_follows_a_failure(kind: Failure, blame: Blame, retry: Retry) -> None:
    assert (RULES[kind].blame, RULES[kind].retry) == (blame, retry)


def test_every_failure_has_a_rule() -> None:
    assert set(RULES) == set(Failure)


def having(trait: str) -> set[Failure]:
    return {kind for kind, rule in RULES.items() if getattr(rule, trait)}


def test_what_may_have_been_killed_by_the_request() -> None:
    assert having("is_crash") == {Failure.CLOSED, Failure.CUT, Failure.CRASHED}


def test_what_is_only_blamed_when_another_node_can_do_it() -> None:
    assert having("needs_proof") == {Failure.SERVER_ERROR, Failure.FOREIGN_REFUSAL}
    assert not having("needs_proof") & having("is_crash")


def test_what_costs_no_attempt() -> None:
    free = {Failure.MISSING, Failure.FULL, Failure.LOADING, Failure.LOOP}
    assert having("is_free_of_count") == free


def test_what_is_not_asked_of_the_same_node_again() -> None:
    final = {Failure.NO_SUCH_HOST, Failure.SILENT, Failure.STALLED, Failure.LIMITED}
    final |= {Failure.SERVER_ERROR, Failure.MISSING, Failure.LOOP}
    final |= {Failure.WRONG_ANSWER, Failure.FOREIGN_REFUSAL}
    assert set(RULES) - having("may_repeat") == final


def counted(*kinds: Failure) -> Tally:
    tally = Tally()
    for kind in kinds:
        tally.count(RULES[kind])
    return tally


def test_attempts_are_bounded() -> None:
    refused = RULES[Failure.REFUSED]
    assert counted(Failure.REFUSED, Failure.REFUSED).can_retry(refused, 3)
    assert not counted(*[Failure.REFUSED] * 3).can_retry(refused, 3)


def test_a_request_kills_two_at_most() -> None:
    closed = RULES[Failure.CLOSED]
    assert counted(Failure.CLOSED).can_retry(closed, 9)
    assert not counted(Failure.CLOSED, Failure.CRASHED).can_retry(closed, 9)


def test_what_costs_no_attempt_may_go_on() -> None:
    assert counted(*[Failure.MISSING] * 20).can_retry(RULES[Failure.MISSING], 1)


def test_nothing_follows_what_is_the_requests_own_fault() -> None:
    assert not counted(Failure.REFUSES).can_retry(RULES[Failure.REFUSES], 3)


@pytest.mark.parametrize(
    ("repeats", "part", "seconds"),
    [
        (0, 0.0, 0.0),
        (0, 1.0, 0.25),
        (1, 1.0, 0.5),
        (2, 0.5, 0.5),
        (9, 1.0, MAX_BACK_OFF_S),
        (10**6, 1.0, MAX_BACK_OFF_S),
    ],
)
def test_the_wait_before_the_same_node_grows(repeats: int, part: float, seconds: float) -> None:
    assert back_off_s(repeats, part) == seconds
