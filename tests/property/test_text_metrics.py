"""Whatever a llama-server says of an answer, it becomes metrics that a client of Ollama can read."""

import msgspec
from hypothesis import given, strategies as st

from sollol.wire.llama_chunks import PromptDetails, Timings, Usage
from sollol.wire.ollama import Clock
from sollol.wire.text_metrics import Stopwatch, text_metrics

CLOCK = Clock(utc_ns=lambda: 0, monotonic_ns=lambda: 5_000)
INT64 = 2**63
counts = st.one_of(st.integers(0, 10**6), st.integers())
durations = st.one_of(st.floats(0, 1e6), st.floats(allow_nan=False))
timings = st.builds(Timings, st.none() | counts, counts, durations, counts, durations)
usages = st.builds(
    Usage, st.none() | counts, st.none() | counts, st.none() | st.builds(PromptDetails, counts)
)


@given(st.none() | timings, st.none() | usages)
def test_metrics_fit_into_what_clients_read(told: Timings | None, usage: Usage | None) -> None:
    stopwatch = Stopwatch(CLOCK, 1_000)
    metrics = text_metrics(told, usage, stopwatch)
    assert all(0 <= value < INT64 for value in metrics.values())
    assert msgspec.json.decode(msgspec.json.encode(metrics)) == metrics


@given(st.floats(0.001, 1e9))
def test_durations_are_told_to_the_nanosecond(milliseconds: float) -> None:
    told = Timings(prompt_ms=milliseconds, predicted_ms=milliseconds)
    metrics = text_metrics(told, None, Stopwatch(CLOCK, 1_000))
    assert metrics["prompt_eval_duration"] == metrics["eval_duration"] == round(milliseconds * 1e6)
