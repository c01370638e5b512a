"""The arithmetic of the soak benchmark."""

from collections import Counter
from dataclasses import replace

import pytest

from sollol.bench.endurance.soak_figures import (
    GROWTH_BYTES,
    Figures,
    Moment,
    bytes_per_request,
    describe,
    growth_bytes,
    judge,
    slope,
)
from sollol.bench.endurance.soak_load import cuts, judge_answer
from sollol.bench.live.client import Received

IDLE = Moment(200, 1000, 30, 10, 0, 0)


def moments(bytes_each: int, warm_up: int = 0) -> list[Moment]:
    """Return a run of 1,000 requests that grows steadily, beside a jump of its first tenth."""
    return [
        Moment(n, 5000 + n * bytes_each + (warm_up if n >= 100 else 0), 90, 20, 64, 1)
        for n in range(0, 1001, 100)
    ]


def figures(**changes: object) -> Figures:
    outcomes = Counter(right=980, aborted=20)
    values = {"outcomes": outcomes, "moments": moments(3), "duration_s": 1.0} | changes
    return Figures(**({"before": IDLE, "after": IDLE} | values))  # type: ignore[arg-type]


def failed(sut: Figures) -> list[str]:
    return [verdict.text for verdict in judge(sut) if not verdict.holds]


def test_a_line_is_fitted_and_needs_two_places() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 0), (1, 3), (2, 0)]) == pytest.approx(0)
    assert slope([(1, 1), (1, 2)]) == slope([]) == 0


def test_growth_counts_after_the_warm_up() -> None:
    assert bytes_per_request(moments(3, warm_up=10**6)) == pytest.approx(3)
    assert growth_bytes(moments(3, warm_up=10**6)) == pytest.approx(3 * 800)
    assert bytes_per_request([*moments(3)[:6], *moments(0)[6:]], 0.6) == pytest.approx(0)
    assert growth_bytes([]) == bytes_per_request([]) == 0


def test_a_quiet_run_holds_every_limit() -> None:
    sut = figures(
        outcomes=Counter(right=970, cut=10, aborted=20), faults=Counter(cut_after_n_records=10)
    )
    assert failed(sut) == []
    assert "97.000%" not in describe(sut)
    assert f"{970 / 980:.3%}" in describe(sut)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"moments": moments(GROWTH_BYTES // 800 + 1)}, "Memory after warm-up grows by"),
        (
            {"after": replace(IDLE, files=35)},
            "Open files at idle, beside connections to nodes, change by",
        ),
        ({"after": replace(IDLE, waiting=1)}, "In flight or in the queue at the end"),
        ({"after": replace(IDLE, in_flight=1)}, "In flight or in the queue at the end"),
        ({"outcomes": Counter({"status 500": 1})}, "Failed before the first byte"),
        (
            {"outcomes": Counter(cut=2), "faults": Counter(cut_after_n_records=1)},
            "Cut after the first byte",
        ),
    ],
)
def test_each_limit_fails_alone(changes: dict[str, object], text: str) -> None:
    assert failed(figures(**changes)) == [text]


def test_a_hung_request_is_told_as_such() -> None:
    assert "Hung requests" in failed(figures(outcomes=Counter(hung=1)))


def test_figures_without_a_sample_can_be_described() -> None:
    assert "idle, after" in describe(figures(moments=[]))


def test_faults_after_the_first_byte_are_counted() -> None:
    assert cuts({"status 500": 4, "cut_after_n_records": 2, "error_record_after_n": 1}) == 3


@pytest.mark.parametrize(
    ("head", "tail", "outcome"),
    [
        (b"HTTP/1.1 200 OK", b'{"done":true}\n', "right"),
        (b"HTTP/1.1 200 OK", b'{"done":false}\n', "cut"),
        (b"HTTP/1.1 500 Internal Server Error", b"", "status 500"),
        (b"", b"", "closed without an answer"),
    ],
)
def test_answers_are_judged(head: bytes, tail: bytes, outcome: str) -> None:
    assert judge_answer(Received(0.0, head=head, tail=tail), b'"done":true') == outcome
