"""Whatever nodes say of their answers, what is learned of them stays such as machines can be."""

import json
from math import inf, isfinite, nan
from random import Random
from typing import Any

from hypothesis import given, settings, strategies as st

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Ask, Measured, Task
from tests.scheduling import asks, assert_clean, leases, view

DAY_S = 86_400.0
GREATEST = 1e10
"""More than anything that is kept: no number of tokens, seconds or bytes here is as large."""

odd_seconds = st.sampled_from((5e-324, 1e-300, 1e-12, 0.0, -1.0, DAY_S, 1e9, 1e299, inf, nan))
seconds = st.none() | st.floats(0.0, 100.0) | odd_seconds
tokens = st.none() | st.integers(0, 10_000) | st.sampled_from((-5, 10**8, 10**9, 2**53, 10**40))
own_seconds = st.floats(0.01, 100.0)
"""By the gateway's own clock, of which each answer has a time."""

measured = st.builds(
    Measured,
    load_s=seconds,
    prompt_tokens=tokens,
    cached_tokens=tokens,
    prompt_s=seconds,
    output_tokens=tokens,
    output_s=seconds,
    node_total_s=seconds,
    first_byte_s=own_seconds,
    total_s=own_seconds,
    pieces=st.integers(0, 3000),
)
some_asks = st.builds(
    Ask,
    task=st.sampled_from((Task.CHAT, Task.EMBED)),
    prompt_bytes=st.sampled_from((40, 4000)),
    conversation=st.sampled_from((0, 7)),
)


def numbers_in(kept: Any) -> list[float]:
    """Return all numbers in what is kept."""
    if isinstance(kept, dict):
        kept = list(kept.values())
    if isinstance(kept, list):
        return [number for inner in kept for number in numbers_in(inner)]
    return [kept] if isinstance(kept, int | float) else []


def new_scheduler() -> Scheduler:
    scheduler = Scheduler(SchedulerLimits(queue_max_length=10), Random(0))
    for name in ("a", "b"):
        scheduler.node_changed(view(name, ("m", "n"), slots=2, resident=("m",)), 0.0)
    return scheduler


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(some_asks, st.sampled_from("mn"), measured), min_size=1, max_size=6))
def test_what_is_learned_is_sane_kept_and_foretells_something(
    answers: list[tuple[Ask, str, Measured]],
) -> None:
    scheduler = new_scheduler()
    now = 0.0
    for number, (ask, model, told) in enumerate(answers):
        (lease,) = leases(scheduler.submit(asks(f"r{number}", model, now, ask=ask), now))
        scheduler.release(lease, now + (told.total_s or 0.0), told)
        now += 200.0
        scheduler.tick(now)
    kept = json.loads(json.dumps(scheduler.learned()))
    assert all(isfinite(number) and abs(number) < GREATEST for number in numbers_in(kept))
    assert new_scheduler().take_learned(kept) == 0
    for model in "mn":
        terms = [one.terms for one in scheduler.preview(asks("p", model, now), now).options]
        assert all(one and 0.0 < one.total_s < inf for one in terms)
    for estimate in scheduler.estimates():
        for one in estimate.models:
            rates = (one.decode_tokens_per_s, one.prefill_tokens_per_s, one.load_s)
            assert all(0.0 < rate < inf for rate in rates)
    assert_clean(scheduler, now)
