"""The arithmetic and the page of the data plane benchmark; nothing is measured here."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sollol.bench.common.numbers import Spread, percentile
from sollol.bench.common.verdicts import MIB, table
from sollol.bench.data_plane.bodies import CHAT_ANSWER, CONTROL_ANSWERS, chat_request, http_post
from sollol.bench.data_plane.limits import MANY_STREAMS, SLOW_STREAMS, judge
from sollol.bench.data_plane.nginx import node_command, proxy_command
from sollol.bench.data_plane.report import render
from sollol.bench.data_plane.results import (
    DIRECT,
    HTTPX,
    NGINX,
    SOLLOL,
    BlobRun,
    LatencyRun,
    Leaving,
    Results,
    ShortRun,
    StreamLoad,
    StreamRun,
)


def short_runs(*rates: float) -> list[ShortRun]:
    return [ShortRun(rate, p50_s=0.001, p99_s=0.002, cpu_s=1 / rate) for rate in rates]


def latency_runs(*p50s: float) -> list[LatencyRun]:
    return [LatencyRun(p50_s, p50_s + 0.001, lateness_p99_s=0.0001) for p50_s in p50s]


def stream_run(**changes: float) -> StreamRun:
    values: dict[str, float] = {
        "finished_ratio": 1.0,
        "first_p50_s": 0.001,
        "first_p99_s": 0.01,
        "delay_p50_s": 0.0002,
        "delay_p99_s": 0.002,
        "cpu_s": 30e-6,
        "load_ratio": 0.5,
        "peak_rss_bytes": 150 * MIB,
    }
    return StreamRun(**(values | changes))  # type: ignore[arg-type]


def blob_run(duration_s: float, grown_bytes: int = 2 * MIB) -> BlobRun:
    return BlobRun(4096 * MIB, duration_s, cpu_s=6.5, grown_bytes=grown_bytes)


def full_results() -> Results:
    return Results(
        machine=[("CPU", "one of two cores"), ("nginx", "1.22.1")],
        layout="1 for the proxy, 0 for all else",
        foreign_ratio=0.08,
        short={
            DIRECT: short_runs(100_000, 110_000, 90_000),
            NGINX: short_runs(40_000, 50_000, 40_000),
            HTTPX: short_runs(200, 250, 200),
            SOLLOL: short_runs(8_000, 12_500, 10_000),
        },
        latency={
            DIRECT: latency_runs(0.0002, 0.0004, 0.0002),
            SOLLOL: latency_runs(0.0005, 0.0008, 0.0005),
        },
        streams={
            (NGINX, MANY_STREAMS): [stream_run(cpu_s=20e-6)],
            (SOLLOL, MANY_STREAMS): [stream_run(cpu_s=30e-6)],
            (DIRECT, SLOW_STREAMS): [stream_run()],
            (SOLLOL, SLOW_STREAMS): [stream_run()],
        },
        blob={DIRECT: [blob_run(4.0)], SOLLOL: [blob_run(5.0)]},
        idle_rss_bytes=70 * MIB,
        leaving=Leaving(streams=500, in_flight_zero_s=0.025, node_zero_s=0.031),
    )


def holds(results: Results) -> dict[str, bool]:
    return {verdict.text: verdict.holds for verdict in judge(results)}


def test_percentile_is_the_nearest_rank() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0) == 1
    assert percentile(values, 0.5) == 3
    assert percentile(values, 0.99) == 5
    assert percentile(range(1, 101), 0.99) == 99


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.floats(min_value=0, max_value=1),
)
def test_percentile_is_a_value_that_enough_values_do_not_exceed(
    values: list[float], ratio: float
) -> None:
    found = percentile(values, ratio)
    assert found in values
    assert sum(value <= found for value in values) >= ratio * len(values) * (1 - 1e-12)


@pytest.mark.parametrize(("values", "ratio"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_percentile_refuses_what_has_none(values: list[float], ratio: float) -> None:
    with pytest.raises(ValueError, match=r"no values|not between"):
        percentile(values, ratio)


def test_ratios_are_taken_within_a_round() -> None:
    # The second round ran on a machine half as fast; the ratio does not see it.
    assert Spread.of_ratios([10, 5, 12], [40, 20, 40]) == Spread(0.25, 0.25, 0.3)
    assert Spread.of_differences([3, 9, 4], [1, 6, 3]) == Spread(2, 1, 3)


def test_rounds_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1, 2], [1])


def test_limits_that_hold() -> None:
    assert set(holds(full_results()).values()) == {True}


def test_each_limit_can_be_broken() -> None:
    slow = stream_run(finished_ratio=0.999, first_p99_s=0.2, delay_p99_s=0.006, cpu_s=41e-6)
    results = full_results()
    results.short = {**results.short, SOLLOL: short_runs(1_000, 1_000, 1_000)}
    results.latency = {**results.latency, SOLLOL: latency_runs(0.005, 0.005, 0.005)}
    results.streams = {
        **results.streams,
        (SOLLOL, MANY_STREAMS): [slow],
        (SOLLOL, SLOW_STREAMS): [slow],
    }
    results.blob = {**results.blob, SOLLOL: [blob_run(8.1, grown_bytes=33 * MIB)]}
    results.idle_rss_bytes = 121 * MIB
    assert holds(results) == dict.fromkeys(holds(full_results()), False)


def test_the_page_has_limits_first_and_says_how_it_was_measured() -> None:
    page = render(full_results())
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# Data plane",
        "## Limits",
        "## Short requests, as many as fit",
        "## Short requests, 500 a second",
        "## Streams",
        "## A large blob",
        "## Memory, and clients that leave",
        "## How it was measured",
    ]
    assert "| Requests/s against nginx | >= 0.15x | 0.25x (0.20 to 0.25) | yes |" in page
    assert "| SOLLOL | 0.25 (0.20 to 0.25) | 10,000 | 100 | 1.00 | 2.00 |" in page
    assert "| SOLLOL | 0.30 | 0.30 | 0.50 | 1.50 | 0.10 |" in page
    assert "| SOLLOL | 1,000 x 30 | 1.50 (1.50 to 1.50) | 30 | 100% | 1.00 | 10.00 |" in page
    assert "| SOLLOL | 0.80 (0.80 to 0.80) | 859 | 6.5 | 2.0 |" in page
    assert "Memory of each of 1,000 streams: 82 KiB" in page
    assert "no request in flight after 25 ms, no stream left on the node after 31 ms" in page
    assert "| Other work on the machine | 8% of all CPU time in the meantime |" in page
    assert page.count("3 rounds.") == 2
    assert page.count("1 round.") == 2


def test_a_busy_machine_is_told_of_beside_the_limits() -> None:
    results = full_results()
    assert "**Others used" not in render(results)
    results.foreign_ratio = 0.42
    assert "**Others used 42% of the machine meanwhile" in render(results)


def test_a_broken_limit_stands_out() -> None:
    results = full_results()
    results.idle_rss_bytes = 500 * MIB
    assert "| Memory when idle | <= 120 MiB | 500 MiB | **no** |" in render(results)


def test_parts_that_were_not_measured_are_left_out_and_explained() -> None:
    results = Results(
        streams={(SOLLOL, StreamLoad(100, 30)): [stream_run()]}, missing=["Not measured: wrk."]
    )
    page = render(results)
    assert "Not measured: wrk." in page
    assert "requests, as many" not in page
    assert "| SOLLOL | 100 x 30 | - | 30 | 100% |" in page


def test_every_line_of_a_table_has_the_same_columns() -> None:
    lines = table(("a", "b"), [("1", "2"), ("3", "4")]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| 1 | 2 |", "| 3 | 4 |"]


def test_bodies_are_of_the_sizes_the_page_tells() -> None:
    body = chat_request(stream=False)
    assert 900 <= len(body) <= 1100
    assert 450 <= len(CHAT_ANSWER) <= 600
    assert http_post("/api/chat", body).endswith(
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    # They stand in quotes in nginx's configuration and in a Lua script.
    for answer in (CHAT_ANSWER, *CONTROL_ANSWERS.values(), body):
        assert not set(b"'$\\") & set(answer)
        assert b"]==]" not in answer


def test_nginx_gets_its_own_configuration(tmp_path: Path) -> None:

    folder = tmp_path
    node = node_command("/usr/sbin/nginx", folder / "node", 1001, {"/api/ps": b"{}"})
    proxy_command("/usr/sbin/nginx", folder / "proxy", 1002, 1001)
    assert node[-1] == str(folder / "node" / "nginx.conf")
    config = (folder / "node" / "nginx.conf").read_text()
    assert "location = /api/ps { return 200 '{}'; }" in config
    assert "listen 127.0.0.1:1001" in config
    assert "server 127.0.0.1:1001;" in (folder / "proxy" / "nginx.conf").read_text()
    assert config.count("{") == config.count("}")
